"""Calls of the linear unit: a product with weights, by where its result goes."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ...layout.image import Shape
from ...steps.format import PRE_ACTIVATION, WIDE
from ...steps.param import UNIT, Factor, ShortColumns
from ...steps.stages import Add, Mean, Multiply, Plain, Requant, Rotate, Stationary, Table
from ...steps.step import Step
from ...steps.taken import NOTHING, Taken
from ...steps.tensor import Memory, View
from .call import DEPTH, Call, part
from .value import Value, braces, words


class Product(Call, ABC):
    """src times weights. Targets differ in the drain."""

    kind = "LINEAR"

    TAKES_ROWS: ClassVar[bool] = False
    """Whether the function itself takes some rows of its source."""
    INTO_ROWS: ClassVar[bool] = False
    """Whether it may write some rows of its target."""

    @property
    def channels(self) -> int:
        """Of the result."""
        return self.steps[0].columns

    @property
    def source(self) -> View:
        """What streams."""
        return self.steps[0].source

    @property
    def rows(self) -> tuple[View, ...]:
        return (self.source, self.steps[0].sink) if self.INTO_ROWS else (self.source,)

    @property
    def taps(self) -> int:
        """Tokens of the source in one of the result, by a list; 0: there is none."""
        taken = self.steps[0].taken
        return taken.taps if isinstance(taken, Taken) else 0

    @property
    def streamed(self) -> int:
        """Tokens that stream."""
        return self.steps[0].tokens

    @property
    def code(self) -> str:
        span, sink, code = self.source.tokens, self.steps[0].sink, super().code
        if self.taps:
            code = f"taken(hwgen::{code}, {self.taps}, {self.streamed})"
        elif not (self.source.whole or self.TAKES_ROWS):
            code = f"some(hwgen::{code}, {{{span.start}, {span.count}}})"
        return f"into_rows({'' if code.startswith('some(') else 'hwgen::'}{code}, {sink.tokens.start})" if self.INTO_ROWS and not sink.whole else code

    def data(self, shape: Shape) -> bytes:
        return b"".join(numbers(step, shape) for step in self.steps if step.taken is not None) + super().data(shape)

    def cycles(self, lanes: int, queries: int) -> int:
        return linear_cycles(self.streamed, self._rows(lanes), self.channels, lanes, self.src.wide) + list_words(self.taps, self.streamed, lanes)

    def weight_words(self, lanes: int) -> int:
        return linear_words(self._rows(lanes), self.channels, lanes) + list_words(self.taps, self.streamed, lanes)

    def _rows(self, lanes: int) -> int:
        """Of the weights: each tap begins with a word."""
        return max(1, self.taps) * words(self.src.channels, lanes) * lanes if self.taps else self.src.channels


class Linear(Product):
    """src -> dst."""

    INTO_ROWS = True
    function = "linear"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant),)

    def arguments(self) -> list[str]:
        return [self.dst.code, self.src.code, self.image]

    def about(self) -> str:
        return f"linear, {self.src} -> {self.dst}, scale {self.steps[0].sink.tensor.scale:.5g}"


class LinearOperand(Linear):
    """src -> dst in the operand memory."""

    function, asked, target, memory = "linear_operand", "linear", "OPERAND", Memory.OPERAND

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, *self.dst.shape


class LinearMultiplied(Linear):
    """src -> dst, times a value in the operand memory."""

    function, target = "linear_multiplied", "MULTIPLIED"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant, Multiply),)

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        (view,) = (stage.operand for stage in steps[0].drain if stage.operand is not None)
        return super().find(steps) | {"operand": Value.of(view.tensor)}

    @property
    def shift(self) -> int:
        """Behind the product."""
        return part(self.steps[0], Multiply).shift

    def arguments(self) -> list[str]:
        return [*super().arguments(), self.operands["operand"].code, str(self.shift)]

    def about(self) -> str:
        return f"linear times {self.operands['operand']}, {self.src} -> {self.dst}, scale {self.steps[0].sink.tensor.scale:.5g}"


class LinearRotated(LinearMultiplied):
    """src -> dst, pairs of channels turned by cosines and sines in the operand memory."""

    function, target = "linear_rotated", "ROTATED"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant, Rotate),)

    @property
    def shift(self) -> int:
        return part(self.steps[0], Rotate).shift

    def about(self) -> str:
        return f"linear, turned by {self.operands['operand']}, {self.src} -> {self.dst}, scale {self.steps[0].sink.tensor.scale:.5g}"


class LinearGated(LinearMultiplied):
    """The same behind an activation function."""

    asked = "linear_multiplied"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant, Table, Multiply),)

    @property
    def activation(self) -> str:
        return part(self.steps[0], Table).function

    @property
    def frac(self) -> int:
        """Fraction bits of what the function is of."""
        return part(self.steps[0], Table).x.frac or 0

    def arguments(self) -> list[str]:
        number = self.functions.index(self.activation)
        return [*super().arguments(), str(self.frac), *([str(number)] if number else [])]

    def about(self) -> str:
        return super().about().replace("linear times", f"linear, {self.activation}, times")


class LinearActivated(Product):
    """The same with the activation function and its output factor."""

    INTO_ROWS = True
    function, target = "linear_activated", "ACTIVATED"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant, Table),)

    @property
    def activation(self) -> str:
        return part(self.steps[0], Table).function

    def arguments(self) -> list[str]:
        table = part(self.steps[0], Table)
        return [self.dst.code, self.src.code, self.image, *activation(self.functions, table, behind(table))]

    def about(self) -> str:
        return f"linear, {self.activation}, {self.src} -> {self.dst}, scale {self.steps[0].sink.tensor.scale:.5g}"


def activation(functions: Sequence[str], table: Table, factor: Factor) -> list[str]:
    """Arguments that say an activation: the factor behind it, the number of the function and the fraction bits of its argument, as far as they
    are not the usual ones."""
    number, usual = functions.index(table.function), table.x == PRE_ACTIVATION
    return [braces(factor), *([str(number)] if number or not usual else []), *([] if usual else [str(table.x.frac)])]


def behind(table: Table) -> Factor:
    """The factor of an activation in the step table: multiplier 0 where columns have theirs; one where there is none."""
    return Factor(0, table.factor.shift) if isinstance(table.factor, ShortColumns) else table.factor or UNIT


class LinearResidual(Product):
    """Residual stream += src, from a row on."""

    function, target = "linear_residual", "RESIDUAL"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant, Add),)
    memory = Memory.RES

    @property
    def target_rows(self) -> View:
        """What is added to."""
        return self.steps[0].sink

    @property
    def rows(self) -> tuple[View, ...]:
        return self.source, self.target_rows

    def arguments(self) -> list[str]:
        return [f"{{{self.target_rows.tensor.tokens}, {self.channels}}}", str(self.target_rows.tokens.start), self.src.code, self.image]

    def about(self) -> str:
        return (f"linear, {self.src} -> added to int16 [{self.target_rows.tensor.tokens}, {self.channels}], "
                f"scale {self.target_rows.tensor.scale:.5g}")

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, self.target_rows.tensor.tokens, self.channels


class LinearFresh(LinearResidual):
    """A residual stream starts with the product."""

    asked = "linear"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant),)

    @property
    def fresh(self) -> bool:
        return True


class Head(Product):
    """Rows of src, added up -> int32 words of the output."""

    function, target = "head", "OUTPUT"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Mean),)
    memory = Memory.OUT
    TAKES_ROWS = True

    @property
    def output(self) -> str:
        """Of the network."""
        return self.steps[0].sink.name

    @property
    def length(self) -> int:
        """Words of the output."""
        return self.steps[0].sink.tokens.count * self.channels

    def arguments(self) -> list[str]:
        first = 0 if self.taps else self.source.tokens.start
        return [f"{{{self.place}, {self.channels}}}", self.src.code, f"{{{first}, {self.streamed}}}", self.image]

    def about(self) -> str:
        return f"linear, {self.src}, {self.streamed} of the tokens -> {self.output}: int32 [{self.channels}]"


class Features(Head):
    """Rows of src, each -> int32 words of the output."""

    function, form = "features", ((Plain, Stationary),)

    def about(self) -> str:
        return f"linear, {self.src} -> {self.output}: int32 [{self.streamed}, {self.channels}]"

    def cycles(self, lanes: int, queries: int) -> int:
        return super().cycles(lanes, queries) + words(self.channels, lanes) * self.streamed * (lanes + DEPTH)


def list_words(taps: int, rows: int, lanes: int) -> int:
    """Words of the weight stream with the numbers of so many tokens."""
    return words(taps * rows, lanes // 2)


def numbers(step: Step, shape: Shape) -> bytes:
    """The tokens that a step takes, a tap after the other: int16, those of the whole source, `NOTHING` for zeros; whole words of the stream."""
    if not isinstance(step.taken, Taken):
        return b""
    order, span = step.taken.order.array, step.source.tokens
    taken = np.where(order == NOTHING, NOTHING, span.start + span.step * order).ravel()
    padded = np.zeros(list_words(step.taken.taps, step.taken.tokens, shape.vector) * shape.vector // 2, WIDE.stored)
    padded[:taken.size] = taken
    return padded.tobytes()


def linear_words(k: int, n: int, lanes: int) -> int:
    """Words of the weight stream of one matrix, column parameters included."""
    return words(n, lanes) * (8 + words(k, lanes) * lanes)


def linear_cycles(rows: int, k: int, n: int, lanes: int, wide: bool = False) -> int:
    """Cycles of the linear unit. wide: each tile is passed twice."""
    k_tiles, n_tiles = words(k, lanes), words(n, lanes)
    first = 8 + lanes + DEPTH
    inner = n_tiles * (k_tiles - 1) * (max(rows, lanes) + DEPTH) + (n_tiles - 1) * (max(rows, lanes + 8) + DEPTH) + rows + DEPTH
    return first + inner + wide * n_tiles * k_tiles * (rows + DEPTH)
