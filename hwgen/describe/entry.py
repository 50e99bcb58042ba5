"""What a description is made of, and the check of every name in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
import json
import re

from ..foreign import REPR, visible
from ..paths import PACKAGE

TICKED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Entry:
    """A description and the text that it describes. kind: network, module, signal, step, ...; language: of ``code``, as in a fence; facts: for
    programs, JSON-able."""

    grain: str
    kind: str
    name: str
    description: str
    code: str
    language: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """Of a build at one grain. names: what the texts of the build name."""

    title: str
    grain: str
    entries: tuple[Entry, ...]
    names: frozenset[str] = field(repr=False)

    def __repr__(self) -> str:
        return visible(f"<Description {self.title}, {self.grain}: {len(self.entries)} entries>", limit=REPR)

    def __str__(self) -> str:
        return self.to_markdown()

    @property
    def unknown(self) -> tuple[tuple[str, str], ...]:
        """(entry, name) of every name in backticks that is not in the build: a comment that is older than the code beside it."""
        return tuple((entry.name, name) for entry in self.entries for name in TICKED.findall(entry.description) if name not in self.names)

    def to_markdown(self) -> str:
        """Headings, text, code."""
        parts = [f"# {self.title}: {self.grain}\n"]
        for entry in self.entries:
            fence = "````" if "```" in entry.code else "```"
            code = f"\n{fence}{entry.language}\n{entry.code.rstrip()}\n{fence}\n" if entry.code else ""
            parts.append(f"## {entry.kind} {entry.name}\n\n{entry.description.rstrip()}\n{code}")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {"build": self.title, "grain": self.grain, "entries": [asdict(entry) for entry in self.entries]}

    def to_jsonl(self) -> str:
        """A line an entry: grain, kind, name, description, code, language, facts."""
        return "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in self.entries)


def told(text: str, names: Collection[str], own: Collection[str] = ()) -> str:
    """The text of a comment as Markdown: names of the build stay in backticks, those that only its generator knows (``own``) lose them, as formulas
    do. Any other name keeps them, and is found by `Description.unknown`."""

    def one(match: re.Match[str]) -> str:
        name = match[1]
        if name in names:
            return f"`{name}`"
        if not re.fullmatch(r"[\w./*]+", name) or not re.search(r"[A-Za-z_]", name):
            return name  # a formula
        parts = re.findall(r"[A-Za-z_]\w*", name)
        if name.endswith("*"):
            good = any(known.startswith(name[:-1]) for known in names)
        elif parts[0] in ("hwgen", "numerics") and len(parts) > 1:
            good = _is_ours(parts)
        else:
            good = re.fullmatch(r"[\w/]+\.(py|sv|md|hpp|json)", name) is not None or all(part in own or part in names for part in parts)
        return name if good else f"`{name}`"

    return TICKED.sub(one, text.replace("``", "`"))


def _is_ours(parts: Sequence[str]) -> bool:
    """Whether a dotted name leads to a file of hwgen, or to a name in it."""
    place = PACKAGE
    for number, part in enumerate(parts[parts[0] == "hwgen" :]):
        if (place / part).is_dir():
            place /= part
        elif (file := place / f"{part}.py").is_file():
            rest = parts[(parts[0] == "hwgen") + number + 1 :]
            return all(re.search(rf"\b{name}\b", file.read_text()) for name in rest)
        else:
            return False
    return True


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    lines = [list(columns), *map(list, rows)]
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(lines[0]), *shown[1:]])
