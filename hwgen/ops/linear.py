"""Linear: a matrix on the channels of every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op
from ..matching.trial import Match, Mismatch, Trial, in_order, row
from ..steps.format import PRE_ACT_UNIT, PRE_ACTIVATION
from ..steps.stages import Requant, Table
from .operands import operand
from .operator import SUPPORTED, Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering
    from .activation import Activation


@dataclass(frozen=True, eq=False, repr=False)
class Linear(Operator):
    """``y = x @ weight + bias`` on the last dimension."""

    x: str
    weight: Array            # [K, N]
    bias: Array              # [N]

    BY_TOKEN: ClassVar[bool] = True
    TAKES: ClassVar[bool] = True
    GIVES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if x[-1] != self.weight.shape[0]:
            raise self.fail(f"input has {x[-1]} channels, weight expects {self.weight.shape[0]}")
        return *x[:-1], self.weight.shape[1]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        y: Array = x @ self.weight + self.bias
        return y

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array]:
        return {"weight": self.weight * scale, "bias": self.bias * scale + shift}

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        return {"weight": self.weight @ matrix, "bias": self.bias @ matrix}

    def reading(self, matrix: Array, offset: Array) -> Mapping[str, Array]:
        return {"weight": matrix @ self.weight, "bias": self.bias + offset @ self.weight}

    def as_matrix(self) -> tuple[tuple[int, int], Array]:
        """(no patches, weight float [K, N]): as `embed.PatchEmbed` has it, for an input that is tokens already."""
        return (0, 0), self.weight

    def lower(self, to: Lowering) -> None:
        """A step of its own, unless the step of its only reader does it: of an activation, of the residual addition, of an output."""
        if self.output in to.branches:
            return
        x, readers = to.operand(self, self.x), to.readers[self.output]
        if x.tokens is not None or self.output in to.graph.outputs.values() or (readers and all(reader.CHOOSES for reader in readers)):
            to.head(self, x)
        elif not any(reader.ABSORBS for reader in readers):
            self.lower_with(to, self.output, None)
        elif len(readers) > 1:
            raise self.fail(f"its result {self.output!r} is read by an activation and by something else", hint=SUPPORTED)

    def lower_with(self, to: Lowering, output: str, function: Activation | None) -> None:
        """The step, with an activation function or without one, that gives ``output``."""
        x, form, channels = to.operand(self, self.x), to.form(output), self.weight.shape[1]
        table: list[Table] = []
        units = to.units(output, (channels,))
        if function is not None:
            table, (units,) = to.tables(function, function.kind.value, units[None], output, form)
        w = to.weights(self, "linear", x, self.weight, self.bias, PRE_ACT_UNIT if table else units, narrow=to.precision.narrow_linear)
        out = to.activations(output, x.tensor.tokens, channels, units, form)
        to.product(output, self, x.tensor.view(), w, (Requant(w.factor, PRE_ACTIVATION if table else form), *table), out.view())
        to.define(output, out)

    def lower_update(self, to: Lowering, output: str) -> None:
        """The step that adds its result to the residual stream, which is then ``output``."""
        x = to.operand(self, self.x)
        w = to.weights(self, "linear", x, self.weight, self.bias, to.residual_scale, narrow=to.precision.narrow_linear)
        to.update(output, self, x.tensor, w, to.residual.view())

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"MatMul": (linear,), "Gemm": (linear,)}, {"MatMul": "a Linear", "Einsum": "a Linear", "Add": "a Linear"}, rank=2)


def linear(op: Op, trial: Trial) -> Match | None:
    """MatMul or Gemm with a constant weight [K, N] -> Linear; factors and offsets of its input go into the weight and the bias."""
    if op.kind == "MatMul":
        weight, bias = op.constant(1), None
        left = op.constant(0)
        if left is not None:
            raise Mismatch(f"multiplies a constant {list(left.shape)} from the left, which mixes tokens; only x @ W is "
                           "supported", op.name)
        if weight is None or weight.ndim > 2:
            return None                                             # attention, or a stack of experts
    else:
        weight, bias = op.constant(1), op.constant(2)
        if weight is None or op.attrs.get("transA", 0) or (op.operand(2) is not None and bias is None):
            raise Mismatch("has a transposed input, or a weight or bias that is no constant", op.name)
        weight = (weight.T if op.attrs.get("transB", 0) else weight) * np.float32(op.number("alpha", 1.0))
    if weight.ndim != 2:
        raise Mismatch(f"has a weight of shape {list(weight.shape)}, not [K, N]", op.name)
    x = operand(trial, op.operand(0), affine=True)
    if x is None:
        return None
    n = weight.shape[1]
    bias = np.zeros(n) if bias is None else row(op, "bias", bias, n) * np.float32(op.number("beta", 1.0))
    if x.affine is None:
        weight = weight * np.float32(x.factor)
    else:
        weight, bias = weight * x.affine.scale[:, None], bias + x.affine.offset @ weight.astype(np.float64)
    node = Linear(op.name, op.outputs[0], x.value, trial.array(weight), trial.array(bias))
    return Match((node,), in_order(*x.shape[:-1], n))
