"""Where values enter the engine and leave it: what the host sends, and the outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..graph import Node
from ..ops import Activation, PatchEmbed
from ..ops.operator import SUPPORTED
from ..steps.format import ACCUMULATOR
from ..steps.stages import Add, Host, Identity, Mean
from ..steps.step import Keep, Output, Step
from ..steps.tensor import Memory, Tensor
from . import residuals
from .lowered import Lowered
from .structure import Stream, base
from .weights import identity

if TYPE_CHECKING:
    from .lowering import Lowering


def receive(to: Lowering) -> None:
    """What the host sends: an operand, or the start of a residual stream."""
    ((source, shape),) = to.graph.inputs.items()
    readers = to.readers[source]
    cuts = {reader.window for reader in readers if isinstance(reader, PatchEmbed)}
    if len(cuts) > 1 or cuts and len(shape) not in (2, 3) or not cuts and len(shape) != 2:
        raise ModelError(f"input {source!r} {list(shape)} is read by {[type(reader).__name__ for reader in readers]}: it is either an image "
                         "that is cut into patches of one size, or a sequence of tokens", where=f"graph {to.graph.name!r}",
                         hint=SUPPORTED).about(readers[0].name)
    found = next((item for item in to.residuals.values() if item[0].source == source), None)
    if found is not None:
        _host_start(to, readers[0], source, *found)
        return
    to.narrow(readers[0], source, "the input")
    window = cuts.pop() if cuts else None
    tokens, channels = shape if window is None else (
        math.prod(window.places(1 if len(shape) == 2 else shape[1], shape[-1])), shape[0] * window.words)
    words = to.activations(to.fresh(f"{source}.int8"), tokens, channels, to.scale(source))
    to.emit(Step(words.name, readers[0].name, Host(source, window), Identity(), (words.view(),), about=f"input {source}"))
    to.define(source, words)


def _host_start(to: Lowering, node: Node, source: str, stream: Stream, residual: Tensor) -> None:
    """A residual stream starts with the words of the host, without an embedding: int16 in the last rows, zeros before; then its constant
    is added."""
    place, (_, rows), *more = residual.view(), *stream.runs
    if more or rows.stop != residual.tokens:
        raise node.fail(f"puts constant tokens between those of the input {source!r}, or behind them: supported is in front of them",
                        hint="let a Linear follow the input, or put the constants in on the host")
    to.emit(Step(to.fresh(f"{source}.int16"), node.name, Host(source, None, rows.start), Identity(), (place,),
                 keeps=(Keep.MOMENTS,), about=f"input {source}"))
    if source in to.raw:
        residuals.as_it_is(to, node, source, residual, rows)
    if stream.table.any():
        residuals.start(to, stream, residual, node, source, Add(place))
    to.states[stream.start] = Lowered(residual)


def _worth(to: Lowering, value: str, where: str) -> None:
    """Raises ModelError for a function that is applied to an output alone: the host has it without the rounding to 8 bits."""
    node = to.producers.get(base(value, to.producers))
    if isinstance(node, Activation) and node.output not in to.multiplied and not any(reader.ABSORBS for reader in to.readers[node.output]):
        raise ModelError(f"value {node.output!r} is a function of what leaves the engine, which would round it to 8 bits: the host applies it",
                         where=where, hint=f"end the network in front of node {node.name!r}").about(node.name)


def leave(to: Lowering, onnx_name: str, value: str) -> None:
    """An output: a linear map, or the words of a value as they are, of some tokens or their mean."""
    where = f"output {onnx_name!r} of graph {to.graph.name!r}"
    x, producer = to.result(value), to.producers.get(value)
    if x is None or x.linear is None:
        raise ModelError(f"value {value!r} of {type(producer).__name__} cannot leave the engine: it is inside another step",
                         where=where, hint=SUPPORTED)
    _worth(to, value, where)
    node = x.linear
    repeat, rows = (x.rows, 1) if x.mean else (1, x.rows)
    if value not in to.results and x.gamma is None and x.taken is None:
        w = identity(to.pool, x.tensor.channels, x.tensor.units)
    else:
        w = to.weights(node, "head", x, node.weight, node.bias, None, repeat=repeat, name=onnx_name)
    channels = node.weight.shape[1]
    shape = tuple(to.graph.output_shapes.get(onnx_name, (1, channels) if rows == 1 else (1, rows, channels)))
    if math.prod(shape[1:]) != rows * channels:
        raise ModelError(f"output shape {shape} does not hold {rows} times {channels} channels", where=where)
    out = Tensor(onnx_name, ACCUMULATOR, rows, channels, memory=Memory.OUT)
    to.product(onnx_name, node, x, w, (Mean(),) if rows == 1 else (), out.view(), about=f"output {onnx_name}")
    order = to.graph.output_orders.get(onnx_name)
    to.outputs[onnx_name] = Output(onnx_name, out, w.tile.scale, repeat, shape,
                                   None if order is None else to.pool.add(f"{onnx_name}.order", order))
