"""Pass: the cosines and sines of a rotation fill whole words of an engine, which serve again after a few output tiles."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np

from ...errors import CapacityError, ModelError
from ..param import Param
from ..stages import Constant, Diagonal, Rotate
from ..step import Network, Step
from ..tensor import Span, Tensor
from ..walk import with_tensors
from .products import parts

MAX_PERIOD = 15             # output tiles, 4 bits of an instruction


def tile_rotations(network: Network, lanes: int, past: int = 0) -> Network:
    """Those of one head are repeated until they fill words of ``lanes`` lanes; for all columns where that takes more than `MAX_PERIOD` words.

    past: lanes of a tile that goes past the array, if they are fewer: a rotated norm of more channels becomes a product then."""
    steps = (_multiplied(step) if past and past % lanes and step.columns > past else step for step in network.steps)
    network = replace(network, steps=tuple(part for step in steps for part in _by_heads(step)))
    columns: dict[Tensor, int] = {}
    for step in network.steps:
        for stage in step.drain:
            if isinstance(stage, Rotate):
                columns[stage.view.tensor] = max(columns.get(stage.view.tensor, 0), step.columns)
    widths = {tensor: _width(tensor.channels, most, lanes) for tensor, most in columns.items()}

    def wider(tensor: Tensor) -> Tensor:
        return replace(tensor, channels=widths[tensor]) if tensor in widths else tensor

    return replace(network, steps=tuple(_step(step, with_tensors(step, wider), widths) for step in network.steps))


def period(step: Step, lanes: int) -> int:
    """Output tiles after which the words of the step's operand serve again; 0: never."""
    stage = next((stage for stage in step.drain if isinstance(stage, Rotate)), None)
    return 0 if stage is None or stage.view.channels.count >= step.columns else stage.view.channels.count // lanes


def _multiplied(step: Step) -> Step:
    if isinstance(step.tile, Diagonal) and any(isinstance(stage, Rotate) for stage in step.drain):
        return replace(step, tile=step.tile.as_matrix(), macs=step.source.tokens.count * step.columns ** 2)
    return step


def _by_heads(step: Step) -> list[Step]:
    """A rotated product whose heads lie apart, head by head: in words of one head its cosines and sines lie side by side."""
    stage, heads = next((stage for stage in step.drain if isinstance(stage, Rotate)), None), step.sink.tensor.heads
    if stage is None or step.weights is None or heads is None or step.sink.width == step.columns:
        return [step]
    if heads.dim % stage.view.channels.count:
        raise ModelError("turns each head by angles of its own, beside queries or keys that are normalised head by head",
                         where=f"node {step.node!r}", hint="turn all heads alike, or normalise both")
    return parts(step, [Span(head * heads.dim, heads.dim) for head in range(heads.heads)])


def check_lengths(network: Network, lanes: int) -> None:
    """Cosines and sines are one word a token where a sequence may be shorter: further words would lie as far behind as the longest sequence has
    tokens. Raises CapacityError, with the node."""
    for step in network.steps:
        stage = next((stage for stage in step.drain if isinstance(stage, Rotate)), None)
        if stage is not None and stage.view.tensor.sequence and step.columns > lanes and period(step, lanes) != 1:
            raise CapacityError(f"turns heads by cosines and sines of {stage.view.channels.count} channels, more than the {lanes} lanes of a word: "
                                "of sequences of several lengths they are one word a token", where=f"node {step.node!r}",
                                hint="choose an array with as many columns as a head has channels, or compile without run-time lengths")


def _width(channels: int, columns: int, lanes: int) -> int:
    whole = math.lcm(channels, lanes)
    return columns if whole >= columns or whole // lanes > MAX_PERIOD else whole


def _step(step: Step, changed: Step, widths: dict[Tensor, int]) -> Step:
    """A step with the wider tensor."""
    if isinstance(step.feed, Constant) and step.sink.tensor in widths:
        table, width = step.feed.table, widths[step.sink.tensor]
        wide = np.tile(table.array, (1, width // table.array.shape[1]))
        return replace(changed, feed=Constant(Param(f"{table.name} x{width}", wide)), sinks=(changed.sink.tensor.view(),))
    drain = tuple(replace(stage, view=replace(stage.view, channels=Span(0, stage.view.tensor.channels))) if isinstance(stage, Rotate) else stage
                  for stage in changed.drain)
    return replace(changed, drain=drain)
