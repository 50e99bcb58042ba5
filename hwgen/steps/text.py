"""Steps as text: one line a step, for `hwgen show`, messages and snapshots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..listing import Line, Part, short, text as listing
from .param import Columns, Param, ShortColumns
from .step import Network, Step
from .tensor import Tensor, View
from .walk import with_tensors

SHOWN = 8       # factors of columns that are written out


def line(step: Step) -> str:
    """``sinks = source | feed x tile | stages``, and what else the step says of itself."""
    source = "" if step.source_view is None else f"{_described(step.source_view)} "
    source += "" if step.taken is None else f"by {step.taken} "
    chain = " | ".join([f"{source}{step.feed} x {step.tile}", *map(str, step.drain)])
    extras = [f"heads={step.heads}"] if step.heads > 1 else []
    extras += [f"expert={step.expert}"] if step.expert is not None else []
    extras += [f"keeps={keep}" for keep in step.keeps]
    extras += [f"half={step.half}"] if step.half else []
    extras += [f"plane={step.plane}"] if step.plane is not None else []
    return f"{', '.join(map(_described, step.sinks))} = {chain}" + (f"  ({', '.join(extras)})" if extras else "")


def lines(network: Network) -> Iterator[str]:
    """The whole network, every number of it: the steps with their numbers and ONNX nodes, then the outputs."""
    yield f"network {network.name}"
    for index, step in enumerate(network.steps):
        yield f"{index:4} {line(step)}    ; {step.note}"
    yield from _outputs(network)


def text(network: Network, *, everything: bool = False) -> str:
    """The network in aligned lines that fit a screen: formats and sizes, no numbers that calibration chose. ``%n`` is the tensor that the
    step of line n writes, where no other step writes it."""
    return listing([part(network)], everything=everything)


def part(network: Network) -> Part:
    """The same as a part of a listing."""
    writers = Counter(sink.name for step in network.steps for sink in step.sinks)
    numbers = {step.sink.name: f"%{number}" for number, step in enumerate(network.steps) if writers[step.sink.name] == 1}

    def rows(length: int) -> list[Line]:
        return [_row(step, numbers, length) for step in network.steps]
    host, tensor = network.input
    return Part(f"steps of network {network.name}: {len(network.steps)} steps, input {host.input} as {tensor.format} "
                f"[{tensor.tokens}, {tensor.channels}]", rows, tuple(_outputs(network)))


def _row(step: Step, numbers: dict[str, str], length: int) -> Line:
    brief = with_tensors(step, lambda tensor: replace(tensor, name=numbers.get(tensor.name) or short(tensor.name, length)))
    heads = f"  ({step.heads} heads)" if step.heads > 1 else ""
    source = [str(brief.source_view)] if brief.source_view is not None else []
    source += [] if step.taken is None else [f"by {step.taken.taps}x{step.taken.tokens} tokens"]
    stream = " ".join([*source, *filter(None, [step.feed.brief])])
    chain = [f"{stream} x {brief.tile.brief}" if brief.tile.brief else stream, *(stage.brief for stage in brief.drain)]
    sinks = (_described(sink).removeprefix(f"{numbers.get(whole.name)} ") for sink, whole in zip(brief.sinks, step.sinks, strict=True))
    cells = (", ".join(sinks), "= " + " | ".join(chain) + heads,
             "; " + short(step.node, length) + (f": {step.about}" if step.node and step.about else step.about))
    kind = (tuple(map(_size, step.sinks)), step.source_view and _size(step.source_view), step.feed.brief, type(step.tile), step.tile.shape(step),
            tuple(stage.brief for stage in step.drain), step.heads, step.expert is not None and step.expert.of,
            step.taken and (step.taken.taps, step.taken.tokens))
    return Line(cells, step.node, kind, line(step), lambda: _detail(step))


def _size(view: View) -> tuple[object, ...]:
    return view.tensor.format, view.tensor.memory, view.tokens, view.channels


def _detail(step: Step) -> dict[str, str]:
    """Every field of a step, and of its records."""
    plain = {"value": step.value, "part": step.part, "node": step.node, "about": step.about, "heads": str(step.heads),
             "half": str(step.half), "plane": step.plane or "", "macs": f"{step.macs:,}", "keeps": ", ".join(step.keeps),
             "expert": "" if step.expert is None else f"{step.expert}, expected tokens {step.expert.expected}"}
    found = {key: value for key, value in plain.items() if value not in ("", "0") and (key, value) != ("heads", "1")}
    views = ([] if step.source_view is None else [("source", step.source_view)]) + [("sink", sink) for sink in step.sinks]
    found |= {key: f"{_described(view)}, in {view.tensor.memory}" + _unit(view.tensor)
              for key, view in views}
    taken = [] if step.taken is None else [("taken", step.taken)]
    records: list[tuple[str, Any]] = [*taken, ("feed", step.feed), ("tile", step.tile)]
    records += [*((f"stage {n}", stage) for n, stage in enumerate(step.drain))]
    for key, record in records:
        found[key] = str(record)
        found |= {f"{key}.{entry.name}": _value(getattr(record, entry.name)) for entry in fields(record)}
    return found


def _unit(tensor: Tensor) -> str:
    """Of its words, where calibration chose it."""
    ratio = "" if tensor.ratio is None else f" times {tensor.ratio.name}{_range(tensor.ratio.array)}"
    return f", unit {tensor.scale:.6g}{ratio}" if tensor.scale else ""


def _value(value: Any) -> str:
    match value:
        case ShortColumns():
            return f"{value}: {value.mult.array.dtype} {list(value.mult.array.shape)}{_range(value.mult.array)}"
        case Columns():
            pairs = list(zip(value.mult.array.tolist(), value.shift.array.tolist(), strict=True))
            rest = f", … {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
            return f"{value.mult.name}, {value.shift.name}: " + " ".join(f"*{mult}>>{shift}" for mult, shift in pairs[:SHOWN]) + rest
        case Param():
            return f"{value.name}: {value.array.dtype} {list(value.array.shape)}{_range(value.array)}"
    return str(value)


def _range(array: np.ndarray) -> str:
    return f", {array.min():.6g} to {array.max():.6g}" if array.size else ""


def _outputs(network: Network) -> Iterator[str]:
    for output in network.outputs:
        yield f"     output {output.name} = {output.tensor} * {output.scale.name} / {output.tokens}, shape {list(output.shape)}" + (
            ", in another order" if output.order is not None else "")


def _described(view: View) -> str:
    """A view with the format and the size of what it shows."""
    return f"{view} {view.tensor.format} [{view.tokens.count}, {view.channels.count}]"
