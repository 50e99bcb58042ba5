"""AddConst: a constant a token and channel, as a position embedding is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op
from ..matching.trial import Match, Mismatch, Trial, close, inverse, split_operands
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class AddConst(Operator):
    """Adds a constant of the shape of x (position embedding)."""

    x: str
    value: Array             # [T, D]

    COMMUTES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if self.value.shape != x:
            raise self.fail(f"constant {self.value.shape} does not fit {x}")
        return x

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        y: Array = x + self.value
        return y

    def shorter(self, tokens: int, longest: int) -> AddConst:
        return replace(self, value=self.value[:tokens]) if len(self.value) == longest else self

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        return {"value": self.value @ matrix}

    def lower(self, to: Lowering) -> None:
        """None of its own: it is in the constant that a residual stream starts with."""

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Add": (add_const,)})


def add_const(op: Op, trial: Trial) -> Match | None:
    """Add of a constant to a whole value -> AddConst."""
    split = split_operands(op)
    if split is None:
        return None
    view, const = split
    found = trial.where(view)
    if found is None:
        return None
    bound, positions = found
    order = inverse(positions)
    if order is None or order.size != math.prod(bound.shape) or op.shapes[0] != view.shape:
        raise Mismatch(f"adds a constant {list(const.shape)} to a part of {bound.value!r} {list(bound.shape)}", op.name)
    if not close(bound.factor * view.scale, 1.0):
        raise Mismatch(f"adds a constant to {bound.value!r} times {bound.factor * view.scale:.6g}", op.name)
    value = np.broadcast_to(const.array, view.shape).ravel()[order].reshape(bound.shape)
    return Match((AddConst(op.name, op.outputs[0], bound.value, trial.array(value)),), order.reshape(bound.shape))
