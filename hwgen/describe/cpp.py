"""The C++ of a build -> functions with their comments, arguments and bodies; entries of the HLS engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
import re

from .comments import sentences
from .entry import Entry, table, told
from .verilog import split, without_comments

LANGUAGE = "cpp"
START = re.compile(r"^(template\b|inline\b|constexpr\b|extern \"C\"|static\b|[A-Za-z_][\w:<>, ]*\s[*&]?\w+\()")
NO_FUNCTION = re.compile(r"\b(struct|enum|class|namespace|using|static_assert)\b")
PRAGMA = re.compile(r"^\s*#pragma HLS (.*)$", re.MULTILINE)
ARGUMENT = re.compile(r"^(.*?[\s*&])([A-Za-z_]\w*)((?:\[[^]]*\])*)(?:\s*=.*)?$", re.DOTALL)
LOCAL = re.compile(
    r"^\s+(?:static\s+|const\s+)?((?:hls::stream<[^;]*?>|[A-Z]\w*(?:<[^;>]*>)?))\s+(\w+)((?:\[[^]]*\])+|\(\"[^\"]*\"\))"
    r"\s*(?:=[^;]*)?;(?:\s*//+<?\s*(.*))?$",
    re.MULTILINE,
)
TOP = "hwgen_top"


@dataclass(frozen=True)
class Function:
    """comment: in front of it; arguments: (type, name, dimensions)."""

    name: str
    file: str
    comment: str
    head: str
    body: str
    arguments: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        return f"{self.head}{self.body}"

    @property
    def streams(self) -> list[tuple[str, str, str, str]]:
        """(type, name, dimensions, comment) of the streams and arrays inside."""
        return [(m[1], m[2], m[3] if m[3].startswith("[") else "", m[4] or "") for m in LOCAL.finditer(self.body)]


def functions(files: Mapping[str, str]) -> dict[str, Function]:
    """{name: function} of {file: text}; of overloads the first."""
    found: dict[str, Function] = {}
    for file, text in files.items():
        lines = text.splitlines(keepends=True)
        place = 0
        while place < len(lines):
            if not START.match(lines[place]) or NO_FUNCTION.search(without_comments(lines[place])):
                place += 1
                continue
            stop = place
            while stop < len(lines) and not re.search(r"[{;]\s*$", without_comments(lines[stop])):
                stop += 1
            head = "".join(lines[place : stop + 1])
            if "(" not in head or not without_comments(head).rstrip().endswith("{") or NO_FUNCTION.search(without_comments(head)):
                place += 1
                continue
            end, depth = stop, without_comments(head).count("{") - without_comments(head).count("}")
            while depth > 0 and end + 1 < len(lines):
                end += 1
                depth += without_comments(lines[end]).count("{") - without_comments(lines[end]).count("}")
            function = _function(file, _comment(lines, place), head, "".join(lines[stop + 1 : end + 1]))
            if function and function.name not in found:
                found[function.name] = function
            place = end + 1
    return found


def _comment(lines: list[str], place: int) -> str:
    """The lines of a comment in front of a line."""
    rows: list[str] = []
    while place and lines[place - 1].startswith("//"):
        place -= 1
        rows.insert(0, lines[place].lstrip("/").strip())
    return " ".join(rows)


def _function(file: str, comment: str, head: str, body: str) -> Function | None:
    plain = re.sub(r"^template\s*<[^>]*>\s*", "", without_comments(head))
    name = re.search(r"([A-Za-z_]\w*)\s*\(", plain)
    if name is None:
        return None
    inner = plain[plain.index("(") + 1 : plain.rindex(")")]
    arguments = [match for piece in split(re.sub(r"\s+", " ", inner)) if (match := ARGUMENT.match(piece))]
    return Function(name[1], file, comment, head, body, tuple((m[1].strip(), m[2], m[3]) for m in arguments))


def used(found: Mapping[str, Function], start: Collection[str]) -> list[Function]:
    """Those that are called from some, in the order in which they are met."""
    order: dict[str, Function] = {}
    waiting = [name for name in start if name in found]
    while waiting:
        name = waiting.pop(0)
        if name not in order:
            order[name] = found[name]
            waiting += [
                other
                for other in re.findall(r"([A-Za-z_]\w*)\s*(?:<[^;(){}]*>)?\s*\(", without_comments(found[name].body))
                if other in found
            ]
    return list(order.values())


def blocks(files: Mapping[str, str], names: Collection[str]) -> Iterator[Entry]:
    """An entry a function that the top function reaches, then one a row of the table of steps."""
    found = functions(files)
    for function in used(found, [TOP]):
        own = _own(function)
        rows = [(f"`{name}`", _type(kind, size), _meaning(function, name, names, own)) for kind, name, size in function.arguments]
        text = [f"`{function.name}` is a function of `{function.file}`.", told(function.comment, names, own)]
        if rows:
            text += ["**Arguments**", table(("name", "type", "meaning"), rows)]
        pragmas = dict.fromkeys(PRAGMA.findall(function.text))
        if pragmas:
            text += ["**How it becomes hardware**", "\n".join(f"- {pragma}" for pragma in pragmas)]
        calls = [
            other.name for other in used(found, [function.name])[1:] if re.search(rf"\b{other.name}\b", without_comments(function.body))
        ]
        if calls:
            text.append("**Calls:** " + ", ".join(f"`{name}`" for name in calls) + ".")
        facts: dict[str, object] = {
            "file": function.file,
            "arguments": [{"name": name, "type": kind, "dimensions": size} for kind, name, size in function.arguments],
            "pragmas": list(pragmas),
            "calls": calls,
        }
        yield Entry("block", "function", function.name, "\n\n".join(filter(None, text)), function.text, LANGUAGE, facts)


def rows(files: Mapping[str, str], names: Collection[str]) -> Iterator[Entry]:
    """An entry a row of the table of steps: its comment, and what the function that makes it says."""
    found = functions(files)
    program = next((text for name, text in files.items() if name.endswith("hwgen_program.hpp")), "")
    table_of = re.search(r"PROGRAM\[\] = \{\n(.*?)\n\};", program, re.DOTALL)
    for number, row in enumerate(re.findall(r"((?:    // .*\n)+)((?:    (?!//).*\n?)+)", table_of[1] + "\n" if table_of else "")):
        about = " ".join(line.strip().removeprefix("//").strip() for line in row[0].splitlines())
        maker = next((name for name in re.findall(r"hwgen::(\w+)\(", row[1]) if name in found), "")
        doc = told(found[maker].comment, names, _own(found[maker])) if maker else ""
        made = f" It is made by `{maker}`" + (f": {doc}" if doc else ".") if maker else ""
        yield Entry(
            "block",
            "row",
            f"{number} {about.partition(':')[0]}",
            f"Row {number} of the table of steps: {told(about, names)}.{made}",
            row[1].rstrip(),
            LANGUAGE,
            {"made by": maker},
        )


def signals(files: Mapping[str, str], names: Collection[str]) -> Iterator[Entry]:
    """An entry an argument, a stream and an array of each function."""
    for function in used(functions(files), [TOP]):
        own = _own(function)
        inner = [(kind, name, size, note, "array" if size else "stream") for kind, name, size, note in function.streams]
        for kind, name, size, note, what in [*((*a, "", "argument") for a in function.arguments), *inner]:
            said = _meaning(function, name, names, own) or told(note, names, own)
            written = "const" not in kind and ("&" in kind or "*" in kind or size or what != "argument")
            text = [f"`{name}` is {'an' if what[0] == 'a' else 'a'} {what} of `{function.name}`, {_type(kind, size)}."]
            text += [f"{said[:1].upper()}{said[1:]}{'' if said.endswith('.') else '.'}"] if said else []
            text += ["It is read and may be written." if written else "It is only read."] if what == "argument" else []
            code = [line.strip("\n") for line in function.text.splitlines() if re.search(rf"\b{name}\b", without_comments(line) or line)]
            yield Entry(
                "signal",
                what,
                f"{function.name}.{name}",
                " ".join(text),
                "\n".join(code),
                LANGUAGE,
                {"function": function.name, "type": kind, "dimensions": size, "meaning": said},
            )


def _type(kind: str, size: str) -> str:
    return re.sub(r"\s+", " ", f"{kind}{f' of {size}' if size else ''}")


def _meaning(function: Function, name: str, names: Collection[str], own: Collection[str]) -> str:
    """The part of the function's comment that has the argument in it."""
    for sentence in sentences(function.comment):
        for part in re.split(r";\s+", sentence):
            if re.search(rf"\b{name}\b", part):
                return told(re.sub(rf"^`*{name}`*:\s*", "", part), names, own)
    return ""


def _own(function: Function) -> set[str]:
    return set(re.findall(r"\w+", function.text)) | {"numerics"}
