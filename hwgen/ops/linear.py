"""Linear: a matrix on the channels of every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Role, Shape, Unit
from ..matching.opgraph import Op, Ref, View as Onnx
from ..matching.trial import Match, Mismatch, Trial, in_order, row
from ..steps.stages import Requant, Table
from .joined import joined
from .operands import narrow, operand
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowered import Lowered
    from ..quantizer.lowering import Lowering
    from ..steps.tensor import View
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
    MULTIPLIES: ClassVar[bool] = True
    DEFERS: ClassVar[bool] = True

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

    def part(self, channels: Array) -> Mapping[str, Array]:
        return {"weight": self.weight[:, channels], "bias": self.bias[channels]}

    def lower(self, to: Lowering) -> None:
        """A step of its own where its result is multiplied; those that add it, look it up or let it leave do it themselves."""
        x = to.operand(self, self.x, taken=True)
        to.put_off(self.output, x, self)
        if self.output in to.multiplied:
            self.lower_with(to, x, self.output)

    def lower_with(self, to: Lowering, x: Lowered, output: str, function: Activation | None = None) -> None:
        """The step, with an activation function or without one, that gives ``output``."""
        if x.mean:
            raise to.no_mean(function or self, self.x)
        value = self.output if function is None else output
        form, channels, table = to.form(value), self.weight.shape[1], list[Table]()
        units = to.units(value, (channels,))
        drained, unit = form, units
        if function is not None:
            drained = to.point(self.output, Role.OUT, Unit.PRE_ACT, output)
            table, (units,) = to.tables(function, function.kind.value, units[None], output, form, drained)
            unit = np.array([drained.unit])
        w = to.weights(self, "linear", x, self.weight, self.bias, unit, narrow=to.precision.narrow_linear)
        out = to.activations(output, x.rows, channels, units, form)
        to.product(output, self, x, w, (Requant(w.factor, drained), *table), out.view())
        to.define(output, out)

    def lower_update(self, to: Lowering, x: Lowered, output: str, place: View, start: bool, fresh: bool = False) -> None:
        """The step that adds its result to a residual stream, which is then ``output``. start: it is the embedding the stream starts with;
        fresh: without a constant."""
        w = to.weights(self, "embedding" if start else "linear", x, self.weight, self.bias, place.tensor.scale,
                       narrow=to.precision.narrow_linear and not start)
        to.update(output, self, x, w, place, fresh)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"MatMul": (linear,), "Gemm": (linear,)}, dict.fromkeys(("MatMul", "Einsum", "Add", "Concat"), "a Linear"), rank=2)


def linear(op: Op, trial: Trial) -> Match | None:
    """MatMul or Gemm with a constant weight [K, N] -> Linear; factors and offsets of its input go into the weight and the bias."""
    if op.kind == "MatMul":
        weight, bias = op.constant(1), None
        left = op.constant(0)
        if left is not None and any(reader.kind == "Softmax" for reader in trial.graph.readers.get(op.outputs[0], ())):
            return None                                             # the scores of learned queries
        if left is not None:
            return _from_the_left(op, trial, left)
        if weight is None or weight.ndim > 2:
            return None                                             # attention, or a stack of experts
    else:
        weight, bias = op.constant(1), op.constant(2)
        if weight is None or op.attrs.get("transA", 0) or (op.operand(2) is not None and bias is None):
            raise Mismatch("has a transposed input, or a weight or bias that is no constant", op.name)
        weight = (weight.T if op.attrs.get("transB", 0) else weight) * np.float32(op.number("alpha", 1.0))
    if weight.ndim != 2:
        raise Mismatch(f"has a weight of shape {list(weight.shape)}, not [K, N]", op.name)
    n = weight.shape[1]
    bias = np.zeros(n) if bias is None else row(op, "bias", bias, n) * np.float32(op.number("beta", 1.0))
    beside = joined(trial, op.operand(0))
    if beside is not None:
        trial.absorb(trial.graph.producers[op.view(0).base], op.view(0))
        weight, bias = beside.weights(weight, bias, op.view(0).scale)
        node = Linear(op.name, op.outputs[0], beside.value, trial.array(weight), trial.array(bias))
        return Match((node,), in_order(*beside.shape[:-1], n))
    return _linear(op, trial, op.operand(0), weight, bias)


def _from_the_left(op: Op, trial: Trial, weight: Array) -> Match | None:
    """``W @ x`` where x [K, T] has its tokens last, and so the result: a Linear with the transposed weight."""
    view = op.operand(1)
    if not isinstance(view, Onnx) or trial.where(view, affine=True) is None:
        return None
    if weight.ndim != 2 or len(view.shape) < 2:
        raise Mismatch(f"multiplies a constant {list(weight.shape)} from the left; supported are x @ W, and W @ x for a matrix W", op.name)
    index = view.positions().swapaxes(-1, -2)
    found = _linear(op, trial, replace(view, shape=index.shape, index=index), weight.T, np.zeros(len(weight)))
    return found and replace(found, positions=in_order(len(weight), found.positions.size // len(weight)).T)


def _linear(op: Op, trial: Trial, view: Ref | None, weight: Array, bias: Array) -> Match | None:
    n = weight.shape[1]
    if (part := narrow(trial, view)) is not None:
        x, channels = part
        wide = np.zeros((x.shape[-1], n))
        np.add.at(wide, channels, weight * np.float32(x.factor))
        node = Linear(op.name, op.outputs[0], x.value, trial.array(wide), trial.array(bias))
        return Match((node,), in_order(*x.shape[:-1], n))
    read = operand(trial, view, affine=True)
    if read is None:
        return None
    x = read
    if x.affine is None:
        weight = weight * np.float32(x.factor)
    else:
        weight, bias = weight * x.affine.scale[:, None], bias + x.affine.offset @ weight.astype(np.float64)
    node = Linear(op.name, op.outputs[0], x.value, trial.array(weight), trial.array(bias))
    return Match((node,), in_order(*x.shape[:-1], n))
