"""Take: for each token of the result, tokens of a sequence side by side, or zeros: windows, shifts, neighbours merged, the taps of a convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op, View
from ..matching.trial import Bound, Match, Trial, in_order
from ..steps.taken import NOTHING
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class Take(Operator):
    """``[T, D] -> [tokens, taps * D]``: token t of the result is the tokens ``order[:, t]`` of x side by side, zeros where that is -1."""

    x: str
    order: Array             # int32 [taps, tokens]

    MULTIPLIES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or self.order.ndim != 2 or not self.order.size or self.order.min() < NOTHING or self.order.max() >= x[0]:
            raise self.fail(f"takes tokens {self.order.min(initial=0)} to {self.order.max(initial=0)}, {list(self.order.shape)}, of {list(x)}")
        return self.order.shape[1], len(self.order) * x[1]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        taken = np.where(self.order.T[..., None] == NOTHING, np.float32(0), x[:, self.order.T])
        return taken.reshape(len(x), self.order.shape[1], -1)

    def lower(self, to: Lowering) -> None:
        """None of its own: whoever multiplies the result takes the tokens by the order."""
        to.take(self, self.x, self.order)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Concat": (side_by_side,)}, rank=-1)


def side_by_side(op: Op, trial: Trial) -> Match | None:
    """Concat of tokens of one value: a cyclic shift, or neighbours side by side."""
    refs = [ref for ref in op.inputs if isinstance(ref, View)]
    if len(refs) != len(op.inputs) or len({(ref.base, ref.scale) for ref in refs}) != 1:
        return None
    found = trial.where(refs[0])
    if found is None or found[0].node is None or len(found[0].shape) != 2:
        return None
    bound = found[0]
    positions = np.concatenate([ref.positions() if bound.order is None else bound.order[ref.positions()] for ref in refs], axis=op.integer("axis", 0))
    node = of_tokens(op.name, op.outputs[0], bound, positions, trial)
    if node is None:
        return None
    trial.moved += [ref.trail for ref in refs]
    return Match((node,), in_order(*node.shape(bound.shape)), factor=bound.factor * refs[0].scale)


def of_tokens(name: str, output: str, bound: Bound, positions: Array, trial: Trial) -> Take | None:
    """The node that takes whole tokens of a value in this order, or several of them side by side; None when they are not whole."""
    width, channels = positions.shape[-1], bound.shape[-1]
    if len(bound.shape) != 2 or width % channels or not positions.size:
        return None
    rows = positions.reshape(-1, width // channels, channels)
    tokens = rows[..., 0] // channels
    if not np.array_equal(rows, tokens[..., None] * channels + np.arange(channels)):
        return None
    value, order, before = bound.value, tokens.T.astype(np.int32), bound.node
    if isinstance(before, Take) and len(before.order) == 1:            # one order instead of two
        value, order = before.x, np.where(order == NOTHING, np.int32(NOTHING), before.order[0][order])
    return Take(name, output, value, trial.pool.array(order))
