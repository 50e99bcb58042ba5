"""Select: one token of a sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..graph import Array, Inner, Shape
from ..steps.tensor import Span
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class Select(Operator):
    """Takes one token: ``[T, D] -> [D]``."""

    x: str
    index: int

    CHOOSES: ClassVar[bool] = True
    COMMUTES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or not 0 <= self.index < x[0]:
            raise self.fail(f"token {self.index} of {x}")
        return x[1:]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        return operands[0][:, self.index]

    def shorter(self, tokens: int, longest: int) -> Select:
        return replace(self, index=tokens - 1) if self.index == longest - 1 else self

    def lower(self, to: Lowering) -> None:
        to.choose(self, self.x, Span(self.index, 1))

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings()                       # made where a rule reads one token: `operands.operand`
