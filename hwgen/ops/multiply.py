"""Multiply: the product of two values, element by element, as in a gated MLP: act(x W) * (x V)."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Role, Shape, Unit
from ..matching.opgraph import Op, View
from ..matching.trial import Match, Mismatch, Trial, in_order, inverse
from ..steps.format import TABLE_UNIT, WIDE
from ..steps.stages import Multiply as Times, Requant, Table
from ..steps.stages.multiply import MAX_SHIFT
from ..steps.tensor import Memory
from .operands import operand
from .operator import SUPPORTED, Operator, Spellings
from .spelled_norm import REDUCING

if TYPE_CHECKING:
    from ..quantizer.lowered import Lowered
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class Multiply(Operator):
    """Product of two values of one shape."""

    x: str
    y: str

    VALUES: ClassVar[tuple[str, ...]] = ("x", "y")
    ABSORBS: ClassVar[bool] = True
    BY_TOKEN: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        x, y = shapes
        if x != y:
            raise self.fail(f"shapes {x} and {y} differ")
        return x

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        x, y = operands
        product: Array = x * y
        return product

    def lower(self, to: Lowering) -> None:
        """Two steps: one puts the words of one value beside the drain, the other multiplies the results of the other value by them, on their way
        out of the activation function if there is one."""
        looked, streamed = (self.x, self.y) if self._side(to, self.y).function is None else (self.y, self.x)
        if (both := self._side(to, streamed)).function is not None:
            to.store(streamed, both)
        x, y = self._side(to, looked), self._side(to, streamed)
        if x.rows != y.rows:
            raise self.fail(f"multiplies {x.rows} tokens of {looked!r} by {y.rows} of {streamed!r}", hint=SUPPORTED)
        if x.linear is None or y.linear is None:
            raise TypeError(f"operands of {self.name!r} are no linear maps")
        channels, tokens, form = x.linear.weight.shape[1], x.rows, to.form(self.output)
        if x.function is None:
            drained, table, unit, looked_up = WIDE, list[Table](), to.fine_unit(looked), to.fine_unit(looked)
        else:
            drained = to.point(x.function.x, Role.OUT, Unit.PRE_ACT, x.function.output)
            table, unit, looked_up = [to.table(x.function, x.function.kind.value, drained)], drained.unit, TABLE_UNIT
        units, shift = product_units(to.units(self.output, (channels,)), looked_up, to.fine_unit(streamed))
        up = to.weights(y.linear, "linear", y, y.linear.weight, y.linear.bias, np.broadcast_to(units, (channels,)) / (looked_up * 2.0 ** shift),
                        narrow=to.precision.narrow_linear)
        beside = to.activations(to.fresh(f"{self.output}.operand"), tokens, channels, units / (looked_up * 2.0 ** shift), WIDE)
        beside = replace(beside, memory=Memory.OPERAND)
        to.product(beside.name, y.linear, y, up, (Requant(up.factor, WIDE),), beside.view(), about="what multiplies")
        gate = to.weights(x.linear, "linear", x, x.linear.weight, x.linear.bias, np.array([unit]), narrow=to.precision.narrow_linear)
        out = to.activations(self.output, tokens, channels, units, form)
        to.product(self.output, x.linear, x, gate, (Requant(gate.factor, drained), *table, Times(beside.view(), shift, form)), out.view())
        to.define(self.output, out)

    def _side(self, to: Lowering, value: str) -> Lowered:
        """An operand as a linear map, with its activation function where that is put off to here."""
        found = to.result(value)
        if found is None:
            raise self.fail(f"multiplies {value!r} of {type(to.producers.get(value)).__name__}, which is inside another step", hint=SUPPORTED)
        if found.mean:
            raise to.no_mean(self, value)
        return found

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Mul": (multiply,)}, {"Mul": "a product of two values"}, rank=7)


def product_units(units: Array, looked_up: float, least: float) -> tuple[Array, int]:
    """(units of a product, the shift behind it), where it would have ``units``, one factor has ``looked_up`` and the other at least ``least``."""
    shift = math.floor(math.log2(float(units.min()) / (looked_up * least)))
    if shift < 1:                                                                          # the product keeps far below what its factors reach
        return np.maximum(units, 2 * looked_up * least), 1
    return units, min(shift, MAX_SHIFT)


def multiply(op: Op, trial: Trial) -> Match | None:
    """Mul of two values; factors of both stand before the product."""
    refs = [ref for ref in op.inputs if isinstance(ref, View)]
    places = [place for ref in refs if (place := trial.where(ref)) is not None]
    if len(refs) != 2 or len(places) != 2:
        return None
    if any(math.prod(ref.shape) != math.prod(op.shape(0)) for ref in refs):
        raise Mismatch(f"multiplies values of {list(refs[0].shape)} and {list(refs[1].shape)}: broadcasting is only supported for constants", op.name)
    (x, px), (y, py) = places
    if x.value == y.value and any(reader.kind in REDUCING for reader in trial.graph.readers.get(op.outputs[0], ())):
        return None                                          # the squares of a norm
    order = inverse(px)
    if order is not None and order.size == math.prod(x.shape) and x.shape == y.shape and np.array_equal(px, py):
        factor = x.factor * refs[0].scale * y.factor * refs[1].scale
        return Match((Multiply(op.name, op.outputs[0], x.value, y.value),), order.reshape(x.shape), factor=factor)
    a, b = operand(trial, refs[0]), operand(trial, refs[1])
    if a is None or b is None:
        return None
    return Match((Multiply(op.name, op.outputs[0], a.value, b.value),), in_order(*a.shape), factor=a.factor * b.factor)
