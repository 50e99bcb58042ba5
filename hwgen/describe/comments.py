"""Comments and docstrings of the hardware -> what a unit is for, what its ports mean, its timing and its cost.

The source is the only place where these things are written: the comment in front of a SystemVerilog module, the docstring of an Amaranth unit
(read as text; Amaranth is not loaded), comments behind the lines that make signals.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
import io
from pathlib import Path
import re
import tokenize

KEY = re.compile(r"^([A-Za-z_]\w*\*?)(?:\s+([\d][\w.]*|signed \d+))?$")
CYCLE = re.compile(r"^(cycle \d+)\s+(\S.*?)\s{2,}(\S.*)$")
INLINE = re.compile(r"^`*([A-Za-z_][\w ,*]*?)`*:\s+(\S.*)$")
LINE = re.compile(r"^(\S.*?)(?:\s{2,}|\s*:\s+)(\S.*)$")
CHANNEL = ("valid", "ready", "addr", "len", "size", "burst", "data", "strb", "last", "resp", "id")
CONTINUED = 6  # columns that a line is indented by which goes on with a port
TIMING = re.compile(r"\b(cycles?|latency|interval|[Rr]eset|combinational|stall|bubble)\b|\bonce\b", re.IGNORECASE)


@dataclass(frozen=True)
class Docs:
    """What a source says of a unit. function: what it does; ports: {name, which may end in ``*``: meaning}; timing, cost: sentences; tables: lines
    that stand as they are; names: every name in the source, for what its text speaks of; lines: {signal: comment beside it}; groups: {port:
    ports that have its meaning together}."""

    place: str
    function: str = ""
    ports: dict[str, str] = field(default_factory=dict)
    timing: str = ""
    cost: str = ""
    tables: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    lines: dict[str, str] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def meaning(self, name: str) -> str:
        """What is said of a port or signal by its name, or beside it; "" where nothing is."""
        for known in dict.fromkeys((name, re.sub(r"__?\d+$", "", name))):
            if known in self.ports or known in self.lines:
                together = f"{', '.join(self.groups[known])} together: " if known in self.groups else ""
                return together + (self.ports.get(known) or self.lines[known])
        return ""

    def family(self, name: str) -> str:
        """What is said of all signals that begin alike; a short beginning, as ``w*``, is that of a channel of AXI."""
        return next(
            (f"{key[:-1]}… together: {text}" for key, text in self.ports.items() if key.endswith("*") and _begins(name, key[:-1])), ""
        )


def parsed(
    place_of: str, text: Sequence[str], known: Collection[str], names: Collection[str] = (), lines: dict[str, str] | None = None
) -> Docs:
    """The lines of a comment or docstring. known: names of ports and parameters, which may stand in front of their meaning."""
    groups: dict[str, tuple[str, ...]] = {}
    ports: dict[str, list[tuple[str, list[str]]]] = {}  # {name: (value of it that is spoken of, lines)}
    prose: list[list[str]] = [[]]
    tables: list[str] = []
    last: list[str] | None = None  # what an indented line goes on with
    for line in text:
        found = LINE.match(line)
        keys = _keys(found[1], known) if found else []
        if row := CYCLE.match(line):  # of a table of what happens when
            tables.append(line)
            last = [f"{row[1]}: {row[3]}"]
            keys = _keys(row[2], known)
            groups |= _together(keys)
            for name, value in keys:
                ports.setdefault(name, []).append((value, last))
        elif found and keys:
            last = [found[2]]
            groups |= _together(keys)
            for name, value in keys:
                ports.setdefault(name, []).append((value, last))
        elif not line.strip():
            prose.append([])
            last = None
        elif len(line) - len(line.lstrip()) >= CONTINUED and last is not None:
            last.append(line.strip())
            tables += [line] if tables and last[0].startswith("cycle ") else []
        elif re.search(r"\S\s{3,}\S", line) or (tables and len(line) - len(line.lstrip()) >= CONTINUED):
            tables.append(line)
        else:
            last = None
            prose[-1].append(line.strip())
    meanings: dict[str, list[str]] = {}
    for name, told in ports.items():
        for value, rows in told:
            whole, others = _taken_apart(re.sub(r"\s+", " ", " ".join(rows)), known)
            meanings.setdefault(name, []).append((f"{value}: " if len(told) > 1 and value else "") + whole)
            for other, its in others:
                meanings.setdefault(other, [])
                meanings[other] += [its] if its not in meanings[other] else []
    paragraphs = [" ".join(rows) for rows in prose if rows]
    for place, paragraph in enumerate(paragraphs):
        kept = []
        for sentence in sentences(paragraph):
            found = INLINE.match(sentence)
            keys = _keys(found[1], known) if found and sentence[0].islower() else []
            if found and keys:
                for name, _ in keys:
                    meanings.setdefault(name, []).append(found[2])
            else:
                kept.append(sentence)
        paragraphs[place] = " ".join(kept)
    function, timing, cost = _sorted(paragraphs)
    return Docs(
        place_of,
        function,
        {name: "; ".join(told) for name, told in meanings.items()},
        timing,
        cost,
        tuple(tables),
        frozenset(names),
        lines or {},
        groups,
    )


def _together(keys: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """{name: all names} of several in front of one meaning."""
    every = tuple(name for name, _ in keys)
    return dict.fromkeys(every, every) if len(every) > 1 else {}


def _begins(name: str, key: str) -> bool:
    return name.startswith(key) and (key.endswith("_") or name.removeprefix(key) in CHANNEL)


def _taken_apart(text: str, known: Collection[str]) -> tuple[str, list[tuple[str, str]]]:
    """A meaning without its widths and what it says of other ports; (port, meaning) of these."""
    text = re.sub(r"^(\d+|signed \d+),\s+", "", text)
    wide = re.match(r"^\d+((?:,\s+\w+\s\d+)*):\s+(.*)$", text)
    others: list[tuple[str, str]] = []
    if wide:
        text = wide[2]
        others = [(piece.split()[0], text) for piece in wide[1].split(",") if piece.strip()]
    kept: list[str] = []
    into: list[str] | None = None
    for clause in re.split(r";\s+|,\s+(?=\w+\*\s)", text):
        found = INLINE.match(clause) or re.match(r"^(\w+\*)\s+(.*)$", clause)
        keys = _keys(found[1], known) if found else []
        if found and keys and kept:
            into = [(f"{', '.join(name for name, _ in keys)} together: " if len(keys) > 1 else "") + found[2]]
            others += [(name, into) for name, _ in keys]  # type: ignore[misc]
        elif into is not None:
            into.append(clause)
        else:
            kept.append(clause)
    return "; ".join(kept), [(name, its if isinstance(its, str) else "; ".join(its)) for name, its in others]


def _keys(text: str, known: Collection[str]) -> list[tuple[str, str]]:
    """(name, value or width behind it) of names in front of a meaning; nothing where one is none of the module."""
    found = [KEY.match(piece.strip()) for piece in re.split(r"[,/]", text)]
    if not all(found):
        return []
    keys = [(match[1], match[2] or "") for match in found if match]
    there = [any(name.startswith(key[:-1]) for name in known) if key.endswith("*") else key in known for key, _ in keys]
    return keys if any(there) else []


def sentences(text: str) -> list[str]:
    return [piece for piece in re.split(r"(?<=[.;])\s+(?=[A-Z])", text) if piece]


def _sorted(paragraphs: list[str]) -> tuple[str, str, str]:
    """(function, timing, cost) of paragraphs."""
    function, timing, cost = [], [], []
    for number, paragraph in enumerate(paragraphs):
        into_cost = False
        for place, sentence in enumerate(sentences(paragraph)):
            into_cost = into_cost or sentence.startswith("Cost")
            if into_cost:
                cost.append(sentence)
            elif TIMING.search(sentence) and (number or place):
                timing.append(sentence)
            else:
                function.append(sentence)
    return " ".join(function), " ".join(timing), " ".join(cost)


@cache
def amaranth_units() -> dict[str, tuple[str, ast.ClassDef, str]]:
    """{class: (file, its syntax, its source file as text)} of every unit of `hwgen_rtl`."""
    found = {}
    folder = Path(str(resources.files("hwgen_rtl")))
    for path in sorted(folder.glob("*.py")):
        source = path.read_text()
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = (f"rtl/hwgen_rtl/{path.name}", node, source)
    return found


def of_unit(name: str, ports: Collection[str]) -> Docs:
    """Of an Amaranth unit by its class. ports: of its module in the build."""
    file, node, _ = amaranth_units()[name]
    beside = _beside(name)
    options = {arg.arg for item in node.body if isinstance(item, ast.FunctionDef) for arg in item.args.args}
    known = set(ports) | options | {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}
    return parsed(f"{name} in {file}", (ast.get_docstring(node) or "").splitlines(), known, python_names(file), beside)


@cache
def python_names(file: str) -> frozenset[str]:
    """Every name and short text in the source of a unit, and modules it may speak of."""
    source = next(text for place, _, text in amaranth_units().values() if place == file)
    found = set(amaranth_units())
    for leaf in ast.walk(ast.parse(source)):
        match leaf:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name):
                found |= set(name.split("."))
            case ast.Constant(value=str(text)) if len(text) < 40:
                found |= set(re.findall(r"\w+", text))
    return frozenset(found)


def submodules(unit: str) -> dict[str, tuple[str, str]]:
    """{name of a submodule of a unit: (class of ours or "", comment beside the line that makes it)}."""
    _, node, source = amaranth_units()[unit]
    comments = _comments(source)
    made: dict[str, str] = {}  # {variable or attribute: class}
    found: dict[str, tuple[str, str]] = {}
    for item in [leaf for leaf in ast.walk(node) if isinstance(leaf, ast.Assign)]:
        kind = next((leaf.id for leaf in ast.walk(item.value) if isinstance(leaf, ast.Name) and leaf.id in amaranth_units()), "")
        kind = kind or next((made[name] for name in map(_name, ast.walk(item.value)) if name in made), "")
        targets = [leaf for target in item.targets for leaf in (target.elts if isinstance(target, ast.Tuple) else [target])]
        for target in targets:
            if kind:
                made[_name(target)] = kind
            if isinstance(target, ast.Attribute) and _name(target.value) == "submodules":
                found[target.attr] = kind, comments.get(item.lineno, "")
    return found


def _name(node: ast.AST) -> str:
    """Of a variable or an attribute."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@cache
def _comments(source: str) -> dict[int, str]:
    """{line: comment on it}."""
    return {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }


@cache
def _beside(unit: str) -> dict[str, str]:
    """{signal: comment beside the line that makes it, or on the line before}, of lines that make one, and names that are made once."""
    _, node, source = amaranth_units()[unit]
    comments, lines = _comments(source), source.splitlines()
    made = [
        (item, [leaf.id for target in item.targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)])
        for item in ast.walk(node)
        if isinstance(item, ast.Assign)
    ]
    times = Counter(name for _, names in made for name in names)
    found: dict[str, str] = {}
    for item, names in made:
        before = item.lineno - 1
        text = comments.get(item.lineno, "") or (
            comments[before] if before in comments and lines[before - 1].lstrip().startswith("#") else ""
        )
        if text and not text.startswith("-----") and len(names) == 1 and times[names[0]] == 1:
            found[names[0]] = text
    return found
