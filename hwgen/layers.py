"""Error by layer: what the integer network stores of each value against the float network, and what each rounding alone does to the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
import math
from typing import Any

import numpy as np

from .foreign import REPR, visible
from .graph import Array, Graph, Role, evaluate
from .judge import macs_of
from .ops import LayerNorm
from .steps import golden, host
from .steps.step import Network, Step
from .steps.tensor import Memory, Tensor

CHUNK = 2                   # images worked on at a time
ALONE_MACS = 6e10           # multiply-accumulates that `alone_db` may cost where nobody asked for it
STORED = (Memory.ACT, Memory.KV, Memory.RES)
NO_ERROR = 200.0            # dB of a value without any error


@dataclass(frozen=True, repr=False)
class LayerError:
    """What the integer network stores of one value.

    node, value: ONNX names. format: as `steps.format.Format` is written. unit: the real value of one unit, the largest of its channels.
    range: largest magnitude on these images; limit: largest the format holds; clipped: share of the values beyond that. snr_db: signal to
    noise ratio of the integer network here, all that came before included. alone_db: of the worst output, if this value alone were rounded
    and clipped and all else were float; None where that was not computed, or no output depends on it. Outputs are real values: unit, range and
    limit are None.
    """

    node: str
    value: str
    format: str
    unit: float | None
    range: float | None
    limit: float | None
    clipped: float
    snr_db: float
    alone_db: float | None

    def __repr__(self) -> str:
        return visible(f"<LayerError {self.format}, {self.snr_db:.1f} dB, of {self.value}>", limit=REPR)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass
class _Sums:
    """Over the images: of squares of the signal, of the error, and of what leaves for each output."""

    signal: float = 0.0
    error: float = 0.0
    top: float = 0.0
    beyond: int = 0
    count: int = 0
    alone: dict[str, float] = field(default_factory=dict)


def layer_errors(graphs: Sequence[Graph], networks: Sequence[Network], images: dict[str, Array], *, alone: bool = True) -> list[LayerError]:
    """One entry a stored value, in the order of the network, of the first task that has it, then the outputs.

    graphs: as they were quantized into ``networks``. images: float [images, ...] per input. alone: compute `LayerError.alone_db`.
    """
    found: dict[str, LayerError] = {}
    for graph, network in zip(graphs, networks, strict=True):
        found |= {error.value: error for error in _errors(graph, network, images, alone) if error.value not in found}
    return list(found.values())


def cost(graphs: Sequence[Graph], networks: Sequence[Network]) -> float:
    """Multiply-accumulates of `LayerError.alone_db` for one image."""
    return sum(macs_of(graph) * len(_stored(network)) / 2 for graph, network in zip(graphs, networks, strict=True))


def worst(errors: Sequence[LayerError]) -> LayerError | None:
    """The value whose rounding alone costs the outputs most; where that is not known, where the signal to noise ratio falls most."""
    known = [error for error in errors if error.alone_db is not None]
    if known:
        return min(known, key=lambda error: error.alone_db or 0.0)
    falls = [(before.snr_db - after.snr_db, after) for before, after in pairwise(errors)]
    return max(falls, key=lambda fall: fall[0])[1] if falls else None


def _errors(graph: Graph, network: Network, images: dict[str, Array], alone: bool) -> Iterator[LayerError]:
    stored, count = _stored(network), len(next(iter(images.values())))
    nodes = {node.output: node for node in graph.nodes}
    sums: dict[str, _Sums] = {}
    out_signal = dict.fromkeys(graph.outputs, 0.0)
    out_error = dict.fromkeys(graph.outputs, 0.0)
    for start in range(0, count, CHUNK):
        some = {name: array[start:start + CHUNK] for name, array in images.items()}
        values: dict[str, Array] = {}
        kept = {node.output: dict(inner) for node, inner in evaluate.steps(graph, some, values, inner=True)}
        words = golden.trace(network, next(iter(some.values())))
        for name, step in stored.items():
            if name not in nodes:                       # the input, the start of the residual stream
                continue
            node, tensor = nodes[name], step.sink.tensor
            right = kept[name].get(Role.NORM, values[name])
            if words[name].shape != right.shape:
                continue
            units, total = tensor.units, sums.setdefault(name, _Sums())
            real = words[name] * units
            total.signal += float((np.asarray(right, np.float64) ** 2).sum())
            total.error += float(((real - right) ** 2).sum())
            total.top = max(total.top, float(np.abs(right).max(initial=0)))
            total.beyond += int((np.abs(right) > (tensor.format.hi + 0.5) * units).sum())
            total.count += right.size
            if not alone or tensor.memory is Memory.RES:
                continue
            rounded = _rounded(right, tensor)
            changed = rounded * node.gamma + node.beta if isinstance(node, LayerNorm) else rounded
            for output, found in _resumed(graph, values, name, changed.astype(np.float32)).items():
                error = float(((found - values[graph.outputs[output]]).astype(np.float64) ** 2).sum())
                total.alone[output] = total.alone.get(output, 0.0) + error
        real_outputs = host.dequantize(network, {output.name: words[output.name] for output in network.outputs})
        for output, source in graph.outputs.items():
            right = values[source].reshape(real_outputs[output].shape).astype(np.float64)
            out_signal[output] += float((right ** 2).sum())
            out_error[output] += float(((real_outputs[output] - right) ** 2).sum())
    for name, total in sums.items():
        tensor = stored[name].sink.tensor
        ratios = [decibel(out_signal[output], error) for output, error in total.alone.items()]
        unit = float(tensor.units.max())
        yield LayerError(nodes[name].name, name, str(tensor.format), unit, total.top, tensor.format.hi * unit, total.beyond / max(total.count, 1),
                         decibel(total.signal, total.error), min(ratios) if ratios else None)
    for output, source in graph.outputs.items():
        yield LayerError(nodes[source].name if source in nodes else source, output, "output", None, None, None, 0.0,
                         decibel(out_signal[output], out_error[output]), None)


def decibel(signal: float, error: float) -> float:
    """Signal to noise ratio of two sums of squares; `NO_ERROR` for none."""
    return min(NO_ERROR, 10 * math.log10(max(signal, 1e-300) / error)) if error else NO_ERROR


def _stored(network: Network) -> dict[str, Step]:
    """Float value -> the step that completes what is stored of it."""
    return {step.value: step for step in network.steps if not step.part and step.sink.tensor.memory in STORED and step.node}


def _rounded(x: Array, tensor: Tensor) -> Array:
    """What the tensor holds of real values, as real values."""
    units, form = tensor.units, tensor.format
    return np.clip(np.rint(x / units), form.lo, form.hi) * units


def _resumed(graph: Graph, values: dict[str, Array], name: str, changed: Array) -> dict[str, Array]:
    """Outputs that depend on the value ``name``, if it were ``changed``; all else as in ``values``."""
    new = {name: changed}
    for node in graph.nodes:
        if node.output != name and any(value in new for value in node.inputs):
            new[node.output] = node.evaluate(*(new.get(value, values[value]) for value in node.inputs)).astype(np.float32, copy=False)
    return {output: new[value] for output, value in graph.outputs.items() if value in new}
