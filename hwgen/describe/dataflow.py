"""Statements of SystemVerilog -> which names each assignment drives, and which it reads: on its right side, as an index, as a condition around it.

What `initial` says is a value at the start and reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import re

TOKEN = re.compile(r"\\\S+|\$?[A-Za-z_][\w$]*|\d*'[sS]?[bdhoBDHO][0-9a-fA-FxzXZ_?]+|'[01](?!\w)|\d[\w.]*|[-+*/%&|^]=|<<|>>|[<>=!]=+|\S")
BLOCK = re.compile(r"\bg_\w+(?:\[[^]]*\])?\.")
NAMED = re.compile(r"\\|[A-Za-z_]")
ASSIGN = frozenset({"=", "<=", "+=", "-=", "*=", "|=", "&=", "^="})
TYPES = frozenset({"wire", "reg", "logic", "input", "output", "int", "integer", "genvar"})
WORDS = TYPES | {"unsigned", "signed", "posedge", "negedge", "or", "default", "automatic"}
CLOSED_BY = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Assignment:
    """targets: names that are driven; reads: names that decide their value."""

    targets: tuple[str, ...]
    reads: frozenset[str]


def assignments(text: str) -> list[Assignment]:
    """Of a statement without comments; none of an instance."""
    plain = re.sub(r"\(\*.*?\*\)", " ", re.sub(r"(@\s*)\(\*\)", r"\1*", text))
    reader = _Reader(_tokens(plain))
    found = []
    while reader.now:
        found += reader.statement(frozenset())
    return found


def targets_of(expression: str) -> set[str]:
    """The names that a connection of an output drives, indices left out."""
    return set(_Reader(_tokens(expression)).targets()[0])


def read_of(expression: str) -> set[str]:
    """The names in an expression; members of structures are not names."""
    return set(_names(_tokens(expression)))


def _tokens(text: str) -> list[str]:
    """A name in a generate block is like one of the module."""
    return TOKEN.findall(BLOCK.sub("", text))


def _names(tokens: list[str]) -> Iterator[str]:
    before = ""
    for token in tokens:
        if NAMED.match(token) and before != "." and token not in WORDS:
            yield token.removeprefix("\\")
        before = token


class _Reader:
    def __init__(self, tokens: list[str]):
        self.tokens, self.place = tokens, 0

    @property
    def now(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1] if self.place <= len(self.tokens) else ""

    def until(self, *ends: str) -> list[str]:
        """Tokens up to one of these outside of brackets, which is taken too."""
        start, open_ones = self.place, 0
        while self.now and (open_ones or self.now not in ends):
            open_ones += (self.now in CLOSED_BY) - (self.now in CLOSED_BY.values())
            self.place += 1
        self.place += 1
        return self.tokens[start : self.place - 1]

    def bracket(self) -> list[str]:
        """What stands in the bracket that opens here."""
        return self.until(CLOSED_BY[self.take()])

    def targets(self) -> tuple[list[str], set[str]]:
        """(names of a left side, names in its indices)."""
        if self.now == "{":
            inner = _Reader(self.bracket())
            names: list[str] = []
            indices: set[str] = set()
            while inner.now:
                more, its = inner.targets()
                names, indices = names + more, indices | its
                inner.until(",")
            return names, indices
        name, indices = self.take(), set()
        while self.now in ("[", "."):
            if self.now == ".":
                self.place += 2
            else:
                indices |= set(_names(self.bracket()))
        return ([name.removeprefix("\\")] if NAMED.match(name) else []), indices

    def statement(self, around: frozenset[str]) -> list[Assignment]:
        """One statement. around: what is read by the conditions it stands under."""
        word = self.now
        if word == "begin":
            self.take()
            self.label()
            found = []
            while self.now and self.now != "end":
                found += self.statement(around)
            self.take()
            self.label()
            return found
        if word == "initial":
            self.take()
            return [Assignment(one.targets, frozenset()) for one in self.statement(around)]
        if word.startswith("always"):
            self.take()
            if self.now == "@":
                self.take()
                around |= set(_names(self.bracket() if self.now == "(" else [self.take()]))
            return self.statement(around)
        if word in ("if", "for"):
            self.take()
            inside = around | set(_names(self.bracket()))
            found = self.statement(inside)
            if word == "if" and self.now == "else":
                self.take()
                found += self.statement(inside)
            return found
        if word in ("case", "casez", "casex", "unique"):
            return self.case(around)
        if word == "function":
            return self.function()
        if word in TYPES or word.endswith("_t"):
            return self.declared()
        if word == "assign":
            self.take()
        return self.assignment(around)

    def label(self) -> None:
        if self.now == ":":
            self.place += 2

    def case(self, around: frozenset[str]) -> list[Assignment]:
        while self.now != "(":
            self.take()
        inside = around | set(_names(self.bracket()))
        found = []
        while self.now and self.now != "endcase":
            choice = self.until(":") if self.now != "default" else [self.take()]
            if self.now == ":":
                self.take()
            found += self.statement(inside | set(_names(choice)))
        self.take()
        return found

    def function(self) -> list[Assignment]:
        """As one assignment to its name."""
        head = self.until("(", ";")
        rest = []
        while self.now and self.now != "endfunction":
            rest.append(self.take())
        self.take()
        self.label()
        name = [word for word in _names(head)][-1]
        return [Assignment((name,), frozenset(_names(rest)) - {name})]

    def declared(self) -> list[Assignment]:
        """Names with a value beside their declaration."""
        found = []
        for piece in _pieces(self.until(";")):
            inner = _Reader(piece)
            left = inner.until("=")
            right = inner.tokens[inner.place :]
            if right and (names := list(_names(left))):
                found.append(Assignment((names[-1],), frozenset(_names(right))))
        return found

    def assignment(self, around: frozenset[str]) -> list[Assignment]:
        names, indices = self.targets() if self.now != ";" else ([], set())
        operator = self.now
        right = set(_names(self.until(";")[1:]))
        if operator not in ASSIGN or not names:
            return []
        return [Assignment(tuple(names), frozenset(around | indices | right | (set() if operator in ("=", "<=") else set(names))))]


def _pieces(tokens: list[str]) -> list[list[str]]:
    """At commas outside of brackets."""
    reader, found = _Reader(tokens), []
    while reader.now:
        found.append(reader.until(","))
    return found
