"""Calls of the linear unit with tokens in place of weights: a constant matrix streams past them."""

from __future__ import annotations

from typing import ClassVar

from ...steps.stages import Add, Plain, Requant, Table, Values
from ...steps.step import Step
from ...steps.tensor import View
from .call import part
from .products import Linear, LinearActivated, LinearFresh, LinearResidual, Product
from .value import Value, braces, words


class Mixed(Product):
    """What products with tokens have in common."""

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        return super().find(steps) | {"values": Value.of(part(steps[0], Values).view.tensor)}

    @property
    def held(self) -> View:
        """The tokens."""
        return part(self.steps[0], Values).view

    @property
    def ones(self) -> int:
        """Rows of constants behind them."""
        return part(self.steps[0], Values).ones

    @property
    def rows(self) -> tuple[View, ...]:
        return *super().rows, self.held

    @property
    def code(self) -> str:
        factor = part(self.steps[0], Requant).factor
        return f"mixed(hwgen::{super().code}, {self.operands['values'].code}, {self.held.tokens.start}, {self.ones}, {braces(factor)})"

    def about(self) -> str:
        return f"tokens {self.operands['values']} mixed by {self.src}"

    def cycles(self, lanes: int, queries: int) -> int:
        return super().cycles(lanes, queries) + words(self.src.channels, lanes) * words(self.channels, lanes) * lanes

    def weight_words(self, lanes: int) -> int:
        return 0


class MixedLinear(Mixed, Linear):
    """Tokens mixed -> dst."""

    asked = "linear"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Values, Requant),)


class MixedActivated(Mixed, LinearActivated):
    """The same with the activation function and its output factor."""

    asked = "linear_activated"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Values, Requant, Table),)


class MixedResidual(Mixed, LinearResidual):
    """Residual stream += tokens mixed."""

    asked = "linear_residual"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Values, Requant, Add),)


class MixedFresh(Mixed, LinearFresh):
    """A residual stream starts with them."""

    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Values, Requant),)
