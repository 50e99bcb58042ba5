"""The hardware of a build: its modules with what their sources say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
import re

from ..paths import data_dir
from . import comments
from .comments import Docs
from .dataflow import read_of, targets_of
from .entry import told
from .verilog import Instance, Module, Signal, identifiers, modules

TOP = "hwgen_top"
CHANNELS = {"aw": "write address", "w": "write data", "b": "write response", "ar": "read address", "r": "read data"}
SIGNALS = {
    "valid": "the sender has something to say",
    "ready": "the receiver takes it in this cycle",
    "addr": "byte address",
    "len": "beats less one",
    "size": "log2 of the bytes of a beat",
    "burst": "1: rising addresses",
    "data": "a beat",
    "strb": "which bytes are meant",
    "last": "the last beat of a burst",
    "resp": "0: good",
    "id": "of the transaction",
}
PLAIN = {
    "clk": "clock; everything happens at its rising edge",
    "rst": "synchronous reset, active high",
    "clear": "high for a cycle: state is forgotten, beside the reset",
    "w_en": "a word is written in this cycle",
    "w_data": "the word",
    "w_rdy": "there is room",
    "r_en": "the oldest word is taken in this cycle",
    "r_data": "the oldest word",
    "r_rdy": "there is one",
}


@dataclass(frozen=True)
class Unit:
    """A module as it is used. docs: of its source; instances: (module it stands in, instance)."""

    module: Module
    docs: Docs
    instances: tuple[tuple[str, Instance], ...]

    @property
    def name(self) -> str:
        return self.module.name

    @cached_property
    def values(self) -> dict[str, str]:
        """{parameter: its values in this build, or how it is computed}."""
        given = {
            name: ", ".join(dict.fromkeys(_number(one.parameters[name]) for _, one in self.instances if name in one.parameters))
            for name in self.module.parameters
        }
        return {name: given[name] or value for name, (value, _) in self.module.parameters.items()}

    def bits(self, signal: Signal) -> int | None:
        """Of a word, where all instances agree on it."""
        numbers = {name: value for name in self.values if (value := evaluated(self.values[name], {})) is not None}
        for name, written in self.values.items():
            if name not in numbers and (known := evaluated(written, numbers)) is not None:
                numbers[name] = known
        total = 1
        for high, low in re.findall(r"\[([^:\]]+):([^\]]+)\]", signal.range):
            ends = evaluated(high, numbers), evaluated(low, numbers)
            if ends[0] is None or ends[1] is None:
                return None
            total *= ends[0] - ends[1] + 1
        return None if signal.range and "[" not in signal.range and signal.range != "signed " else total


class Hardware:
    """Every module of a build. files: {name in the build: text} of its sources; names: all that are in the build."""

    def __init__(self, files: Mapping[str, str], names: Collection[str]):
        self.names = names
        self.modules = modules(files)
        used: dict[str, list[tuple[str, Instance]]] = {}
        for module in self.modules.values():
            for instance in module.instances:
                used.setdefault(instance.module, []).append((module.name, instance))
        docs = self._amaranth()
        self.units = {
            name: Unit(module, docs.get(name) or self._plain(module), tuple(used.get(name, ())))
            for name, module in sorted(self.modules.items(), key=lambda item: (not item[0].startswith(TOP), item[0]))
            if name == TOP or name in used
        }

    def _plain(self, module: Module) -> Docs:
        """Of a SystemVerilog module: the comment in front of it, and those behind its lines."""
        known = {*module.signals, *module.parameters}
        alone = Counter(signal.line for signal in module.signals.values())
        beside = {signal.name: signal.note for signal in module.signals.values() if signal.note and alone[signal.line] == 1}
        beside |= {name: note for name, (_, note) in module.parameters.items() if note}
        own = comments.parsed(module.file, module.header, known, identifiers(module.text), beside)
        other = re.search(r"\bports\b[^.]* of (\w+)\.sv", own.function)
        if other is None:
            return own
        twin = modules({other[1]: (data_dir("rtl/sv") / f"{other[1]}.sv").read_text()})[other[1]]
        like = comments.parsed(twin.file, twin.header, known, identifiers(twin.text))
        return replace(
            own,
            ports=like.ports | own.ports,
            groups=like.groups | own.groups,
            timing=own.timing or like.timing,
            lines=own.lines,
            names=own.names | like.names,
        )

    def _amaranth(self) -> dict[str, Docs]:
        """{module: docs of its unit}, along the tree of instances from the top."""
        found: dict[str, Docs] = {}
        waiting = [(TOP, "Top")] if TOP in self.modules else []
        while waiting:
            name, unit = waiting.pop()
            module = self.modules[name]
            found[name] = comments.of_unit(unit, module.signals)
            below = comments.submodules(unit)
            for instance in module.instances:
                kind, beside = below.get(instance.name, ("", ""))
                if not instance.module.startswith(TOP):
                    continue  # its comment is in its own file
                if kind:
                    waiting.append((instance.module, kind))
                else:
                    found[instance.module] = Docs(found[name].place, beside, names=found[name].names)
        return found

    def drivers(self, module: Module) -> dict[str, list[tuple[Instance, str]]]:
        """{signal of a module: instances that drive it or a part of it, each with its port}."""
        found: dict[str, list[tuple[Instance, str]]] = {}
        for instance, port, expression in self._connections(module, "output"):
            for name in sorted(targets_of(expression) & module.signals.keys()):
                found.setdefault(name, []).append((instance, port))
        return found

    def into(self, module: Module) -> dict[str, list[tuple[Instance, str]]]:
        """{signal of a module: instances that read it, or what is made of it without another name, each with its port}."""
        found: dict[str, list[tuple[Instance, str]]] = {}
        for instance, port, expression in self._connections(module, "input"):
            for name in sorted(module.through(read_of(expression))[1]):
                found.setdefault(name, []).append((instance, port))
        return found

    def _connections(self, module: Module, kind: str) -> Iterator[tuple[Instance, str, str]]:
        """(instance, port, expression) of one direction."""
        for instance in module.instances:
            inner = self.modules.get(instance.module)
            for port in inner.ports if inner else ():
                if port.kind == kind and instance.ports.get(port.name):
                    yield instance, port.name, instance.ports[port.name]

    def outside(self, unit: Unit, port: str) -> list[tuple[str, str]]:
        """(module, expression) that a port is connected to."""
        return [(parent, one.ports[port].strip()) for parent, one in unit.instances if one.ports.get(port)]

    def meaning(self, unit: Unit, name: str) -> str:
        """What the sources say of a signal, as Markdown: those of its unit, or, of a net that goes on, those of the units at its other ends; ""
        for nothing."""
        if name in PLAIN and not unit.docs.ports.get(name):
            return PLAIN[name]
        if name in ("clk", "rst"):
            return PLAIN[name]
        family = unit.docs.family(name) if name in {port.name for port in unit.module.ports} else ""
        for docs, said in (
            (unit.docs, unit.docs.meaning(name)),
            (unit.docs, _axi(name) if family else ""),
            (unit.docs, family),
            *self._elsewhere(unit, name),
        ):
            if said:
                return told(said, self.names, docs.names)
        return ""

    def _elsewhere(self, unit: Unit, name: str, ways: int = 3) -> Iterator[tuple[Docs, str]]:
        """(docs, what they say) of the net at its other ends."""
        port = unit.module.signals.get(name)
        if port is not None and port.kind in ("input", "output") and ways:
            for parent, expression in self.outside(unit, name):
                net = expression.removeprefix("\\").strip()
                if parent in self.units and net in self.modules[parent].signals:
                    above = self.units[parent]
                    yield above.docs, _quoted(above, net)
                    yield from self._elsewhere(above, net, ways - 1)
        for instance in unit.module.instances:
            inner = self.units.get(instance.module)
            if inner is not None and len(inner.instances) == 1:
                yield from (
                    (inner.docs, _quoted(inner, port))
                    for port, expression in instance.ports.items()
                    if expression.removeprefix("\\").strip() == name
                )


def _quoted(unit: Unit, name: str) -> str:
    """What the source of another unit says of the net that has this name there, and of it alone."""
    said = "" if name in unit.docs.groups else unit.docs.meaning(name)
    return said and f"{said} (`{name}` of `{unit.name}`)"


def _axi(name: str) -> str:
    """Of the signals of AXI, which all designs have."""
    match = re.fullmatch(r"(?:[sm]_axil?_)?(aw|ar|w|b|r)(" + "|".join(SIGNALS) + ")", name)
    return f"AXI {CHANNELS[match[1]]} channel: {SIGNALS[match[2]]}" if match else ""


def _number(text: str) -> str:
    """``32'd64`` -> ``64``; a wide constant only by its bits."""
    match = re.fullmatch(r"(\d+)'([dh])([0-9a-fx]+)", text)
    if not match:
        return text
    return str(int(match[3], 10 if match[2] == "d" else 16)) if int(match[1]) <= 64 else f"a constant of {match[1]} bits"


def evaluated(text: str, numbers: Mapping[str, int]) -> int | None:
    """A size in SystemVerilog: numbers, parameters, ``+ - * / << > ?:`` and ``$clog2``; None for anything else."""
    text = _number(text.strip())
    if re.fullmatch(r"\d+", text):
        return int(text)
    if text in numbers:
        return numbers[text]
    if text.startswith("(") and _closing(text) == len(text) - 1:
        return evaluated(text[1:-1], numbers)
    if text.startswith("$clog2(") and _closing(text[6:]) == len(text) - 7:
        inner = evaluated(text[7:-1], numbers)
        return None if inner is None or inner < 1 else (inner - 1).bit_length()
    for operators in (("?",), (">",), ("<<",), ("+", "-"), ("*", "/")):
        place = _outer(text, operators)
        if place is not None:
            operator = next(o for o in operators if text.startswith(o, place))
            left, right = text[:place], text[place + len(operator) :]
            if operator == "?":
                there, other = (right[: _outer(right, (":",))], right[(_outer(right, (":",)) or 0) + 1 :])
                chosen = evaluated(left, numbers)
                return None if chosen is None else evaluated(there if chosen else other, numbers)
            a, b = evaluated(left, numbers), evaluated(right, numbers)
            if a is None or b is None or (operator == "/" and not b):
                return None
            return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0, "<<": a << min(b, 64), ">": int(a > b)}[operator]
    return None


def _closing(text: str) -> int:
    """Place of the bracket that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    return -1


def _outer(text: str, operators: tuple[str, ...]) -> int | None:
    """Place of the last of these operators outside of brackets (of ``?`` and ``:`` the first)."""
    depth, found = 0, None
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and place and any(text.startswith(o, place) for o in operators):
            found = place
            if operators[0] in "?:":
                break
    return found
