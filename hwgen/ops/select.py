"""Select: one token of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Array, Inner, Shape
from .operator import Operator, Spellings


@dataclass(frozen=True, eq=False, repr=False)
class Select(Operator):
    """Takes one token: ``[T, D] -> [D]``."""

    x: str
    index: int

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or not 0 <= self.index < x[0]:
            raise self.fail(f"token {self.index} of {x}")
        return x[1:]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        return operands[0][:, self.index]

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings()                       # made where a rule reads one token: `operands.operand`
