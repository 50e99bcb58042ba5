"""Slice: several tokens of a sequence, equally far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..graph import Array, Inner, Shape
from ..steps.tensor import Span
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class Slice(Operator):
    """Takes ``count`` tokens from ``start`` on, ``step`` apart: ``[T, D] -> [count, D]``."""

    x: str
    start: int
    count: int
    step: int = 1

    CHOOSES: ClassVar[bool] = True
    COMMUTES: ClassVar[bool] = True

    @property
    def span(self) -> Span:
        return Span(self.start, self.count, self.step)

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or min(self.start, self.count - 1, self.step - 1) < 0 or self.span.stop > x[0]:
            raise self.fail(f"tokens {self.span} of {x}")
        return self.count, x[1]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        return operands[0][:, self.span.slice]

    def lower(self, to: Lowering) -> None:
        to.choose(self, self.x, self.span)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings()                       # made where a rule reads several tokens: `operands.operand`
