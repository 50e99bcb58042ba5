"""Entries of the RTL engine: its modules, and their ports and signals."""

from __future__ import annotations

from collections.abc import Collection, Iterator
import re

from .entry import Entry, table, told
from .hardware import TOP, Hardware, Unit
from .verilog import Instance, Signal, is_temporary

LANGUAGE = "systemverilog"
MANY = 6  # instances that are named
READ = 12  # signals that are named


def blocks(hardware: Hardware, names: Collection[str]) -> Iterator[Entry]:
    """An entry a module, the top first."""
    for unit in hardware.units.values():
        docs = unit.docs
        parameters = [
            (f"`{name}`", value, told(docs.meaning(name), names, docs.names))
            for name, value in unit.values.items()
            if unit.module.parameters[name][0] and name in unit.module.head
        ]
        ports = [
            (f"`{port.name}`", port.kind, _width(unit, port), hardware.meaning(unit, port.name) or _ends(hardware, unit, port))
            for port in unit.module.ports
        ]
        text = [_placed(unit), told(docs.function, names, docs.names)]
        if parameters:
            text += ["**Parameters**", table(("name", "in this build", "meaning"), parameters)]
        text += ["**Ports**", table(("name", "direction", "bits", "meaning"), ports)]
        if docs.timing:
            text.append(f"**Protocol and timing.** {told(docs.timing, names, docs.names)}")
        if docs.tables:
            text.append("```text\n" + "\n".join(docs.tables) + "\n```")
        if docs.cost:
            text.append(f"**Cost.** {told(docs.cost.removeprefix('Cost: ').removeprefix('Cost '), names, docs.names)}")
        inner = {one.name: one.module for one in unit.module.instances}
        if inner:
            shown = [f"`{name}` ({f'`{module}`'})" for name, module in inner.items() if module != "delay"]
            delays = sum(module == "delay" for module in inner.values())
            text.append("**Inside:** " + ", ".join(shown + [f"{delays} delay lines (`delay`)"] * bool(delays)) + ".")
        facts: dict[str, object] = {
            "file": unit.module.file,
            "parameters": dict(unit.values),
            "instances": [f"{parent}.{one.name}" for parent, one in unit.instances],
            "ports": [
                {"name": p.name, "direction": p.kind, "bits": unit.bits(p), "meaning": m[3]}
                for p, m in zip(unit.module.ports, ports, strict=True)
            ],
            "timing": docs.timing,
            "cost": docs.cost,
        }
        yield Entry("block", "module", unit.name, "\n\n".join(filter(None, text)), unit.module.text, LANGUAGE, facts)


def _placed(unit: Unit) -> str:
    """Where the module stands, and where its source is."""
    source = unit.docs.place
    source = (
        f"written in `{unit.module.file}`" if source == unit.module.file else f"generated into `{unit.module.file}` from the unit {source}"
    )
    if unit.name == TOP:
        return f"`{unit.name}` is the top of the accelerator, {source}."
    places = [f"`{one.name}` of `{parent}`" for parent, one in unit.instances]
    more = f" and {len(places) - MANY} more" if len(places) > MANY else ""
    return f"`{unit.name}` is {', '.join(places[:MANY])}{more}, {source}."


def _width(unit: Unit, signal: Signal) -> str:
    bits = unit.bits(signal)
    written = signal.range.removeprefix("signed ").strip()
    plain = re.fullmatch(r"\[\d+:\d+\]|", written)
    sign = " signed" if signal.range.startswith("signed") else ""
    return f"{bits}{sign}" if bits is not None and plain else f"{written}{f' = {bits}' if bits is not None else ''}{sign}"


def _ends(hardware: Hardware, unit: Unit, port: Signal) -> str:
    """Of a port of which no source speaks: Yosys names some after nets. What it is connected to."""
    outside = dict.fromkeys(f"`{parent}`" for parent, _ in hardware.outside(unit, port.name))
    read = unit.module.cone(port.name, {}).read if port.kind == "output" else frozenset()
    inside = _listed(sorted(read - {port.name, "clk"}))
    return f"a net {'to' if port.kind == 'output' else 'from'} {', '.join(outside) or 'outside'}" + (
        f", made of {inside}" if inside else ""
    )


def signals(hardware: Hardware) -> Iterator[Entry]:
    """An entry a port and a named signal of each module: what it is, when it changes, what it is made of, and who reads it."""
    for unit in hardware.units.values():
        drivers, into = hardware.drivers(unit.module), hardware.into(unit.module)
        told_of = (*unit.module.ports, *unit.module.named)
        cones = {signal.name: unit.module.cone(signal.name, drivers) for signal in told_of}
        readers: dict[str, list[str]] = {}
        for name, cone in cones.items():
            for other in cone.read - {name}:
                readers.setdefault(other, []).append(name)
        for signal in told_of:
            cone = cones[signal.name]
            read = sorted(cone.read - {signal.name, "clk"})
            meaning = hardware.meaning(unit, signal.name)
            text = [
                f"`{signal.name}` of `{unit.name}`: {_kind(unit, signal)}." + (f" {_sentence(meaning)}" if meaning else ""),
                _when(unit, signal, bool(read), bool(cone.ports)),
            ]
            if read:
                text.append(f"It is made of {_listed(read)}.")
            if cone.ports:
                text.append(f"It is driven by {_named([_port(*end) for end in cone.ports])}.")
            reads_it = readers.get(signal.name, [])
            used = [f"`{name}`" for name in reads_it] + [f"`{one.name}` (`{port}`)" for one, port in into.get(signal.name, ())]
            if used:
                text.append(f"Read by {_named(used)}.")
            facts: dict[str, object] = {
                "module": unit.name,
                "kind": signal.kind,
                "bits": unit.bits(signal),
                "range": signal.range,
                "reset": signal.reset,
                "meaning": meaning,
                "reads": read,
                "driven by": [f"{one.name}.{port}" for one, port in cone.ports],
                "read by": [*reads_it, *(f"{one.name}.{port}" for one, port in into.get(signal.name, ()))],
            }
            yield Entry(
                "signal",
                signal.kind,
                f"{unit.name}.{signal.name}",
                " ".join(filter(None, text)),
                "\n".join([signal.line, *cone.shown]),
                LANGUAGE,
                facts,
            )


def _port(instance: Instance, port: str) -> str:
    return f"the port `{port}` of `{instance.name}`"


def _kind(unit: Unit, signal: Signal) -> str:
    width = _width(unit, signal)
    size = f"{width} bit{'s' * (width != '1')}" if width.isdigit() else f"bits {width}" if width else "1 bit"
    named = {
        "input": "an input",
        "output": "an output",
        "register": "a register",
        "wire": "a wire",
        "memory": f"a memory of words {signal.words}",
        "variable": f"a signal{f', an array {signal.words}' if signal.words else ''}",
    }[signal.kind]
    return f"{named}, {size}"


def _when(unit: Unit, signal: Signal, reads: bool, driven: bool) -> str:
    """When its value holds."""
    if unit.module.fixed(signal.name):
        return "Its values are given at the start, and nothing changes them."
    if signal.kind == "memory" or (unit.module.clocked(signal.name) and signal.words):
        return "It is written at the rising edge of `clk`."
    if unit.module.clocked(signal.name):
        start = f"; it starts at {signal.reset}" if signal.reset else ""
        return f"It holds from one rising edge of `clk` to the next: a value is there in the cycle after that in which it was made{start}."
    if signal.kind == "input" or not unit.module.assigned.get(signal.name):
        return ""
    return "It follows what it is made of within the cycle." if reads else "" if driven else "It is constant."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) else ".")


def _listed(names: list[str]) -> str:
    return _named([f"`{name}`" for name in names if not is_temporary(name)])


def _named(names: list[str]) -> str:
    return ", ".join(names[:READ]) + (f" and {len(names) - READ} more" if len(names) > READ else "")
