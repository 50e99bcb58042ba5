"""Pass: the product of two values is computed in blocks of columns, so that an engine keeps few words of the operand at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..param import Columns, Param, ShortColumns
from ..stages import Add, Multiply, Requant, Stage, Stationary, Table
from ..step import Network, Step
from ..tensor import Memory, Span, Tensor, View


def split_products(network: Network, words: int, lanes: int) -> Network:
    """Every operand that a step makes and the one that multiplies by it are cut at the same columns: at most ``words`` words of ``lanes`` lanes
    are kept of it, in equal blocks of whole words."""
    blocks = {step.sink.tensor: _blocks(step, words, lanes) for step in network.steps
              if step.sink.tensor.memory is Memory.OPERAND and step.weights is not None}
    steps: list[Step] = []
    made: dict[Tensor, list[Step]] = {}
    for step in network.steps:
        if step.sink.tensor in blocks:
            made[step.sink.tensor] = parts(step, blocks[step.sink.tensor])
            continue
        operand = next((stage.operand.tensor for stage in step.drain if stage.operand is not None), None)
        if operand is None or operand not in made:
            steps.append(step)
            continue
        for first, second, span in zip(made[operand], parts(step, blocks[operand]), blocks[operand], strict=True):
            place = operand if len(blocks[operand]) == 1 else replace(
                operand, name=f"{operand.name}.{span.start // lanes}", channels=span.count, ratio=operand.ratio and _cut(operand.ratio, span))
            drain = tuple(replace(stage, view=place.view()) if isinstance(stage, Multiply) else stage for stage in second.drain)
            steps += [replace(first, sinks=(place.view(),)), replace(second, drain=drain)]
    return replace(network, steps=tuple(steps))


def _blocks(step: Step, words: int, lanes: int) -> list[Span]:
    """Columns of each block."""
    tiles, tokens = -(-step.columns // lanes), step.tokens
    count = -(-tiles // max(1, words // tokens))
    width = -(-tiles // count) * lanes
    return [Span(first, min(width, step.columns - first)) for first in range(0, step.columns, width)]


def parts(step: Step, blocks: list[Span]) -> list[Step]:
    """The step for each block of its columns."""
    if len(blocks) == 1:
        return [step]
    return [of_columns(step, span) for span in blocks]


def of_columns(step: Step, span: Span) -> Step:
    """The product for some of its columns. Raises ValueError where it has no weights."""
    tile = step.weights
    if tile is None:
        raise ValueError(f"step {step.name!r} has no weights")
    sink = replace(step.sink, channels=Span(step.sink.channels.start + span.start, span.count))
    return replace(step, tile=_columns(tile, span), drain=tuple(_some(stage, span, sink) for stage in step.drain), sinks=(sink,),
                   part=f"{step.part}.columns{span.start}".lstrip("."), macs=step.macs * span.count // step.columns,
                   about=f"{step.about}, columns {span.start}..".lstrip(", "))


def _columns(tile: Stationary, span: Span) -> Stationary:
    return replace(tile, weight=_cut(tile.weight, span), bias=_cut(tile.bias, span), scale=_cut(tile.scale, span))


def _some(stage: Stage, span: Span, sink: View) -> Stage:
    match stage:
        case Requant(factor=Columns() as factor):
            return replace(stage, factor=Columns(_cut(factor.mult, span), _cut(factor.shift, span)))
        case Table(factor=ShortColumns() as short):
            return replace(stage, factor=replace(short, mult=_cut(short.mult, span)))
        case Add():
            return Add(sink)
    return stage


def _cut(param: Param, span: Span) -> Param:
    return Param(f"{param.name}[{span}]", np.ascontiguousarray(param.array[..., span.slice]))
