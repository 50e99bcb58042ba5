"""Facts of host parts in a manifest: the record that is written, and the checked way back. ValueError says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

from ..hostparts import PREFIX, SUFFIX, HostParts, Part, Value
from ..steps.step import Quantized
from .facts import MAX_MACS, items, number, section, text

MAX_SIDE, MAX_VALUES, MAX_NODES = 1 << 20, 256, 1 << 20
DTYPES = ("float16", "float32", "float64", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
KEYS = {PREFIX: "prefix", SUFFIX: "suffix"}


def record(host: HostParts) -> dict:
    """What the manifest says."""
    parts = {KEYS[name]: {"inputs": [_value(v) for v in part.inputs], "outputs": [_value(v) for v in part.outputs], "nodes": list(part.nodes),
                          "macs": part.macs, "size": part.size} for name, part in host.parts.items()}
    return {"inputs": [_value(v) for v in host.inputs], "outputs": [_value(v) | {"needs": list(host.needs[v.name])} for v in host.outputs],
            "macs": host.macs, **parts}


def _value(value: Value) -> dict:
    return {"name": value.name, "dtype": value.dtype, "shape": list(value.shape), "limit": value.limit}


def read(facts, parts: Mapping[str, bytes], inputs: dict[str, tuple[int, ...]], model: Quantized) -> HostParts:
    """Host parts of a manifest that may hold anything. parts: content of their files; inputs: of the engine."""
    facts = section(facts, "host", ("inputs", "outputs", "macs", *(KEYS[name] for name in parts)))
    if not parts or any(key in facts for name, key in KEYS.items() if name not in parts):
        raise ValueError("host and the list of files do not agree")
    given, outputs = _values(facts["inputs"], "host.inputs"), _values(facts["outputs"], "host.outputs")
    needs = {value.name: tuple(text(name, "host.outputs.needs") for name in items(row.get("needs"), "host.outputs.needs", 0, MAX_VALUES))
             for value, row in zip(outputs, facts["outputs"], strict=True)}
    known = {key: _part(section(facts[KEYS[key]], KEYS[key], ("inputs", "outputs", "nodes", "macs", "size")), KEYS[key], content)
             for key, content in parts.items()}
    host = HostParts(given, outputs, needs, known.get(PREFIX), known.get(SUFFIX), number(facts["macs"], "host.macs", 0, MAX_MACS))
    _agree(host, inputs, {o.name for network in model.tasks for o in network.outputs})
    return host


def _values(value, name: str) -> tuple[Value, ...]:
    found = []
    for row in items(value, name, 1, MAX_VALUES):
        fields = section(row, name, ("name", "dtype", "shape", "limit"))
        if fields["dtype"] not in DTYPES:
            raise ValueError(f"{name}.dtype is none of {', '.join(DTYPES)}")
        shape = tuple(number(size, f"{name}.shape", 1, MAX_SIDE) for size in items(fields["shape"], f"{name}.shape", 0, 8))
        found.append(Value(text(fields["name"], f"{name}.name"), fields["dtype"], shape, number(fields["limit"], f"{name}.limit", 0, MAX_MACS)))
    if len({value.name for value in found}) != len(found):
        raise ValueError(f"{name} has a name twice")
    return tuple(found)


def _part(facts: dict, name: str, content: bytes) -> Part:
    nodes = tuple(text(node, f"host.{name}.nodes") for node in items(facts["nodes"], f"host.{name}.nodes", 1, MAX_NODES))
    macs, size = (number(facts[key], f"host.{name}.{key}", 0, MAX_MACS) for key in ("macs", "size"))
    return Part(content, _values(facts["inputs"], f"host.{name}.inputs"), _values(facts["outputs"], f"host.{name}.outputs"), nodes, macs, size)


def _agree(host: HostParts, inputs: dict[str, tuple[int, ...]], outputs: set[str]) -> None:
    """The parts stand between the file and the engine: what each reads is there."""
    if host.prefix:
        if {value.name: value.shape for value in host.prefix.outputs} != inputs or not set(host.prefix.inputs) <= set(host.inputs):
            raise ValueError("host.prefix does not give the input of the network")
    elif {value.name: value.shape for value in host.inputs} != inputs:
        raise ValueError("host.inputs are not those of the network")
    made = outputs | {value.name for value in host.suffix.outputs} if host.suffix else outputs
    if host.suffix and not {value.name for value in host.suffix.inputs} <= outputs:
        raise ValueError("host.suffix reads what is no output of the network")
    if any(value.name not in made or not outputs.issuperset(host.needs[value.name]) for value in host.outputs):
        raise ValueError("host.outputs are not made by the network and host.suffix")
