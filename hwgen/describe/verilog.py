"""SystemVerilog of a build -> modules: ports, parameters, named signals, instances, and the text that drives each of them.

It reads the two styles that a build holds, and no other: the modules of ``rtl/sv``, and what Yosys writes of the Amaranth units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
import re

from .dataflow import Assignment, assignments

NAME = r"(?:\\\S+|[A-Za-z_]\w*)"
MODULE = re.compile(rf"^module\s+({NAME})(.*?)^endmodule", re.MULTILINE | re.DOTALL)
DIRECTION = re.compile(r"^(?:input|output)\b")
SIGNAL = re.compile(r"^(?:(input|output)\s+)?(wire|reg|logic|[a-z]+_t)\b\s*(signed\b)?\s*((?:\[[^]]*\]\s*)*)(.*)$")
DECLARED = re.compile(rf"^({NAME})\s*((?:\[[^]]*\]\s*)*)(?:=\s*(.*))?$")
PARAMETER = re.compile(r"\b(parameter|localparam)\b\s*(?:\[[^]]*\]\s*)?(.*)", re.DOTALL)
TARGETS = re.compile(
    rf"(?:^|;|\)|\bbegin\b(?:\s*:\s*\w+)?|\belse\b|\bassign\b|:)\s*(\{{[^}}=]*\}}|{NAME}\s*(?:\[[^=;]*?\]|\.\w+)*)\s*(?:<=|[-+^|]?=)(?!=)"
)
INSTANCE = re.compile(rf"^({NAME})\s+(?:#\s*\((.*?)\)\s*)?({NAME})\s*\(\s*(\..*)\)\s*;$", re.DOTALL)
CONNECTION = re.compile(rf"\.({NAME})\s*\(((?:[^()]|\([^()]*\))*)\)")
KEYWORDS = frozenset(
    {"assign", "always", "always_ff", "begin", "case", "else", "end", "for", "function", "if", "initial", "localparam", "typedef"}
)
MOST = 24  # statements of a cone that are shown


def bare(name: str) -> str:
    r"""``\name `` -> ``name``."""
    return name.strip().removeprefix("\\")


def without_comments(text: str) -> str:
    """Comments are blanks; lines stay."""
    text = re.sub(r"/\*.*?\*/", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", lambda found: " " * len(found[0]), text)


def identifiers(text: str) -> set[str]:
    """Every name in a source, comments left out."""
    return {bare(found) for found in re.findall(r"\\\S+|[A-Za-z_$][\w$]*", without_comments(text))}


def is_temporary(name: str) -> bool:
    """Whether a name was made by Yosys or Amaranth, and says nothing."""
    return name.startswith(("$", "port$")) or re.fullmatch(r"_\d+_", name) is not None


@dataclass(frozen=True)
class Signal:
    """kind: input, output, register, wire or memory, or variable of a module whose text does not say. range: as written, without what counts words;
    reset: value at the start; words: of a memory or an array, as written; note: the comment behind it."""

    name: str
    kind: str
    range: str
    reset: str = ""
    words: str = ""
    note: str = ""
    line: str = ""


@dataclass(frozen=True)
class Instance:
    """``module`` is instantiated as ``name``. ports: {port: expression}."""

    module: str
    name: str
    parameters: Mapping[str, str]
    ports: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Module:
    """One module of a build. header: the comment in front of it, a line each without its slashes; text: all of it."""

    name: str
    file: str
    header: tuple[str, ...]
    text: str

    @cached_property
    def head(self) -> str:
        """Up to the semicolon behind the ports."""
        return self.text[: without_comments(self.text).index(");") + 2]

    @cached_property
    def statements(self) -> tuple[str, ...]:
        """Of the body: declarations, assignments, blocks and instances, each as it is written."""
        return tuple(_statements(self.text[len(self.head) :].removesuffix("endmodule").splitlines()))

    @cached_property
    def parameters(self) -> dict[str, tuple[str, str]]:
        """{name: (value as written, comment)}; those that can be set from outside, then local ones."""
        found = {}
        for line in (*self.head.splitlines(), *(s for s in self.statements if s.lstrip().startswith("localparam"))):
            match = PARAMETER.search(without_comments(line))
            for piece in split(re.sub(r"\)\s*\(\s*$", "", match[2]).replace("parameter", "").rstrip(" ,;")) if match else ():
                name, _, value = re.sub(r"^\s*(?:\[[^]]*\]\s*)?", "", piece).partition("=")
                found[name.strip()] = (value.strip(), comment(line))
        return found

    @cached_property
    def signals(self) -> dict[str, Signal]:
        """Every port and declared signal by name, the ports first."""
        ports = [line for line in self.head.splitlines() if DIRECTION.match(line.strip())]
        found: dict[str, Signal] = {}
        inside = (s for s in self.statements if not re.match(r"\s*(typedef|function)\b", without_comments(s).lstrip()))
        for line in (*ports, *(line for s in inside for line in s.splitlines())):
            for signal in _declared(line):
                known = found.get(signal.name)
                if known is None:
                    found[signal.name] = signal
                elif known.kind in ("input", "output"):  # Yosys says the type of a port in a line of its own
                    found[signal.name] = Signal(
                        known.name, known.kind, known.range, signal.reset, known.words, known.note, f"{known.line}\n{signal.line}"
                    )
        return found

    @property
    def ports(self) -> list[Signal]:
        return [s for s in self.signals.values() if s.kind in ("input", "output")]

    @property
    def named(self) -> list[Signal]:
        """Inner signals with a name that people gave."""
        return [s for s in self.signals.values() if s.kind not in ("input", "output") and not is_temporary(s.name)]

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        found = []
        for statement in self.statements:
            match = INSTANCE.match(without_comments(statement).strip())
            if match and bare(match[1]) not in KEYWORDS:
                found.append(
                    Instance(
                        bare(match[1]),
                        bare(match[3]),
                        dict(connections(match[2] or "")),
                        dict(connections(match[4])),
                        statement.strip("\n"),
                    )
                )
        return tuple(found)

    @cached_property
    def _flow(self) -> tuple[tuple[Assignment, ...], ...]:
        """What the statements assign."""
        return tuple(() if INSTANCE.match(plain.strip()) else tuple(assignments(plain)) for plain in map(without_comments, self.statements))

    @cached_property
    def assigned(self) -> dict[str, list[int]]:
        """{signal: numbers of the statements that assign to it}."""
        found: dict[str, list[int]] = {}
        for number, made in enumerate(self._flow):
            for target in dict.fromkeys(target for one in made for target in one.targets):
                found.setdefault(target, []).append(number)
        return found

    @cached_property
    def _reads(self) -> dict[str, frozenset[str]]:
        """{signal or function: what its assignments read}."""
        found: dict[str, frozenset[str]] = {}
        for one in (one for made in self._flow for one in made):
            for target in one.targets:
                found[target] = found.get(target, frozenset()) | one.reads
        return found

    def clocked(self, name: str) -> bool:
        """Whether the signal changes at clock edges."""
        return any("posedge" in self.statements[number] for number in self.assigned.get(name, ()))

    def fixed(self, name: str) -> bool:
        """Whether it has values at the start, and nothing changes them."""
        texts = [self.statements[number].lstrip() for number in self.assigned.get(name, ())]
        return bool(texts) and all(text.startswith("initial") for text in texts)

    def has_name(self, name: str) -> bool:
        """Whether it is a port, or a signal with a name that people gave."""
        return name in self.signals and (self.signals[name].kind in ("input", "output") or not is_temporary(name))

    def through(self, names: Iterable[str]) -> tuple[list[str], set[str]]:
        """(signals and functions without a name of their own, signals that have one) of what is read, to where names begin."""
        inner: dict[str, None] = {}
        read: set[str] = set()
        waiting = sorted(names)
        while waiting:
            now = waiting.pop(0)
            if self.has_name(now):
                read.add(now)
            elif now not in inner and (now in self.signals or now in self._reads):
                inner[now] = None
                waiting += sorted(self._reads.get(now, ()))
        return list(inner), read

    def cone(self, name: str, outputs: Mapping[str, Sequence[tuple[Instance, str]]]) -> Cone:
        """What drives a signal. outputs: (instance, port) by the signals that they drive. Of a long block only the lines that assign are shown."""
        inner, read = self.through(self._reads.get(name, ()))
        shown: list[str] = []
        left = 0
        for now in (name, *inner):
            texts = [_connected(*end) for end in outputs.get(now, ())]
            texts += [_lines_of(self.statements[number], now) for number in self.assigned.get(now, ())]
            left += len(shown) >= MOST
            shown += [text for text in dict.fromkeys(texts) if text not in shown and len(shown) < MOST]
        if left:
            shown.append(f"  // and {left} more signals without names")
        ports = [end for now in (name, *inner) for end in outputs.get(now, ())]
        return Cone(tuple(shown), frozenset(read), tuple(ports))


@dataclass(frozen=True)
class Cone:
    """Of a signal. shown: statements that drive it, through signals without a name of their own; read: named signals they read, itself too where
    it is kept; ports: outputs of instances that come in."""

    shown: tuple[str, ...]
    read: frozenset[str]
    ports: tuple[tuple[Instance, str], ...]


def modules(files: Mapping[str, str]) -> dict[str, Module]:
    """{name: module} of {file: text}."""
    found = {}
    for file, text in files.items():
        for match in MODULE.finditer(text):
            before = text[: match.start()].splitlines()
            header: list[str] = []
            while before and before[-1].startswith("//"):
                header.insert(0, before.pop()[2:].removeprefix(" "))
            found[bare(match[1])] = Module(bare(match[1]), file, tuple(header), match[0])
    return found


def split(text: str) -> list[str]:
    """At commas outside of brackets."""
    pieces, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            pieces.append(text[start:place].strip())
            start = place + 1
    return [*pieces, text[start:].strip()]


def connections(text: str) -> Iterator[tuple[str, str]]:
    """(port or parameter, expression) of ``.name(expression), ...``."""
    return ((bare(match[1]), match[2].strip()) for match in CONNECTION.finditer(text))


def comment(line: str) -> str:
    """Behind the code of a line."""
    return line.partition("//")[2].strip()


def _declared(line: str) -> Iterator[Signal]:
    code = re.sub(r"^\s*\(\*.*?\*\)\s*", "", without_comments(line)).strip().rstrip(",;")
    match = SIGNAL.match(code) or (re.match(r"^(input|output)\s+()()((?:\[[^]]*\]\s*)*)(.*)$", code))
    if not match or match[5].startswith("="):
        return
    direction, kind, sign, span, names = match.groups()
    for piece in split(names):
        declared = DECLARED.match(piece.strip())
        if declared:
            kind_of = direction or (
                "memory" if declared[2] and kind == "reg" else {"reg": "register", "wire": "wire"}.get(kind, "variable")
            )
            yield Signal(
                bare(declared[1]),
                kind_of,
                f"{'signed ' if sign else ''}{span.strip() or ('' if kind in ('wire', 'reg', 'logic', '') else kind)}",
                (declared[3] or "").strip(),
                declared[2].strip(),
                comment(line),
                line.rstrip().rstrip(",") if direction else line.rstrip(),
            )


def _targets(line: str) -> Iterator[str]:
    for match in TARGETS.finditer(line):
        if match[1].startswith("{"):
            yield from (bare(re.split(r"[\[.]", piece)[0]) for piece in split(match[1].strip("{}")) if piece)
        else:
            yield bare(match[1].split()[0].split("[")[0] if match[1].startswith("\\") else re.split(r"[\[.]", match[1])[0])


def _statements(lines: Iterable[str]) -> Iterator[str]:
    """Cut where brackets and blocks are closed."""
    waiting: list[str] = []
    depth = 0
    rows = list(lines)
    for place, line in enumerate(rows):
        code = without_comments(line)
        words = re.findall(r"\\\S+|\w+", code)
        depth += sum(word in ("begin", "case", "function") for word in words) - sum(
            word in ("end", "endcase", "endfunction") for word in words
        )
        depth += sum(code.count(letter) for letter in "([{") - sum(code.count(letter) for letter in ")]}")
        if not waiting and not code.strip():
            continue
        waiting.append(line)
        following = next((row.strip() for row in map(without_comments, rows[place + 1 : place + 3]) if row.strip()), "")
        if depth == 0 and re.search(r"(;|\bend(case|function)?)\s*(:\s*\w+)?\s*$", code) and not following.startswith("else"):
            yield "\n".join(waiting)
            waiting = []
    if waiting:
        yield "\n".join(waiting)


def _lines_of(statement: str, name: str) -> str:
    """A short statement as it is; of a long block its first line and those that assign the signal."""
    lines = statement.splitlines()
    if len(lines) <= 6:
        return statement
    kept = [number for number, line in enumerate(lines) if number == 0 or name in _targets(without_comments(line))]
    shown = [lines[0]]
    for before, number in pairwise(kept):
        shown += ["    // ..."] * (number > before + 1) + [lines[number]]
    return "\n".join([*shown, "    // ..."])


def _connected(instance: Instance, port: str) -> str:
    """The line of an instance by which a port of it drives a signal."""
    line = next((row for row in instance.text.splitlines() if re.match(rf"\s*\.\\?{re.escape(port)}\s*\(", row)), "")
    return f"  {instance.module} {instance.name} (... {line.strip().rstrip(',')} ...);"
