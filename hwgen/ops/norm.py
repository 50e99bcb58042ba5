"""LayerNorm: each token with mean 0 and deviation 1, then a factor and an offset a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Role, Shape
from ..matching.opgraph import Op, View
from ..matching.trial import Match, Mismatch, Trial, in_order, reduced_axes, row, split_operands
from ..steps.stages import Identity, Normalize
from ..steps.stages.normalize import EPS_BITS
from ..steps.step import Step
from .mean import Mean
from .operands import operand
from .operator import SUPPORTED, Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class LayerNorm(Operator):
    """Normalise over the last dimension: ``(x - mean) / sqrt(var + eps) * gamma + beta``."""

    x: str
    gamma: Array             # [D]
    beta: Array              # [D]
    eps: float

    BY_TOKEN: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        if inner is not None:
            inner.append((Role.NORM, self._normalized(np.asarray(x, np.float64))))
        y: Array = self._normalized(x) * self.gamma + self.beta
        return y

    def _normalized(self, x: Array) -> Array:
        centered = x - x.mean(-1, keepdims=True)
        normalized: Array = centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + self.eps)
        return normalized

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array]:
        return {"gamma": self.gamma * scale, "beta": self.beta * scale + shift}

    def lower(self, to: Lowering) -> None:
        """A step; gamma and beta go into the linear maps that read it."""
        state = to.states.get(self.x)
        if state is None or state.mean:
            raise self.fail("normalises the mean of tokens, the engine normalises each token" if isinstance(to.producers.get(self.x), Mean)
                            else f"normalises {self.x!r}, which is not the residual stream", hint=SUPPORTED)
        residual, scale, form = state.tensor, to.scale(self.output, Role.NORM), to.form(self.output)
        dim = residual.channels
        units = self.eps * (dim / residual.scale) ** 2
        if not units < (1 << EPS_BITS) - 1:                       # nor infinite, nor NaN
            raise self.fail(f"eps = {self.eps:.6g} is too large for a residual scale of {residual.scale:.3g}",
                            hint="a LayerNorm's epsilon keeps it from dividing by zero; usual are 1e-5 and 1e-6")
        feed = Normalize(max(1, round(units)), to.factor(self, "16 / D", 16 / dim), to.factor(self, "normalise", dim / (16 * scale)), form)
        out = to.activations(self.output, residual.tokens, dim, scale, form)
        to.emit(Step(self.output, self.name, feed, Identity(), (out.view(),), residual.view()))
        to.define(self.output, out, gamma=np.asarray(self.gamma, np.float64), beta=np.asarray(self.beta, np.float64), tokens=state.tokens)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"LayerNormalization": (layer_norm,), "Div": (decomposed_layer_norm,)},
                         dict.fromkeys(("Div", "Pow", "ReduceMean", "Sqrt", "Sub"), "a LayerNorm"), rank=1)


def layer_norm(op: Op, trial: Trial) -> Match | None:
    """The LayerNormalization operator over the last dimension."""
    view, gamma, beta = op.operand(0), op.constant(1), op.constant(2)
    axis = op.attrs.get("axis", -1)
    if not isinstance(view, View) or axis not in (-1, len(view.shape) - 1):
        raise Mismatch(f"normalises from axis {axis} on; only the last dimension is supported", op.name)
    if gamma is None or (op.operand(2) is not None and beta is None):
        raise Mismatch("has a scale or bias that is no constant", op.name)
    dim = view.shape[-1]
    return _norm(op, trial, view, row(op, "scale", gamma, dim), np.zeros(dim) if beta is None else row(op, "bias", beta, dim),
                 op.number("epsilon", 1e-5))


def _norm(op: Op, trial: Trial, view: View, gamma: Array, beta: Array, eps: float) -> Match | None:
    x = operand(trial, view)
    if x is None:
        return None
    if x.factor <= 0:
        raise Mismatch(f"normalises its input times {x.factor:.6g}", op.name)
    node = LayerNorm(op.name, op.outputs[0], x.value, trial.array(gamma), trial.array(beta), eps / x.factor ** 2)
    return Match((node,), in_order(*x.shape))


def decomposed_layer_norm(op: Op, trial: Trial) -> Match | None:
    """``(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + eps)`` -> LayerNorm; gamma and beta follow as Mul and Add."""
    centered, root = trial.producer(op.operand(0), "Sub"), trial.producer(op.operand(1), "Sqrt")
    if centered is None or root is None:
        return None
    view, mean = centered.operand(0), trial.producer(centered.operand(1), "ReduceMean")
    total = trial.producer(root.operand(0), "Add")
    found = split_operands(total) if total is not None else None
    square = trial.producer(found[0], "ReduceMean") if found is not None else None
    power = trial.producer(square.operand(0), "Pow", "Mul") if square is not None else None
    if not isinstance(view, View) or mean is None or total is None or found is None or square is None or power is None:
        return None
    averaged, exponent = mean.operand(0), power.constant(1)
    same = (isinstance(averaged, View) and averaged.key() == view.key()
            and trial.producer(power.operand(0)) is centered
            and (exponent.size == 1 and float(exponent.ravel()[0]) == 2.0 if exponent is not None else
                 power.kind == "Mul" and trial.producer(power.operand(1)) is centered))
    if not same:
        return None
    for reduce in (mean, square):
        if reduced_axes(reduce) != [len(reduce.view(0).shape) - 1] or not reduce.attrs.get("keepdims", 1):
            raise Mismatch(f"looks like a LayerNorm, but {reduce.name!r} averages over axes {reduced_axes(reduce)}, not the last",
                           op.name)
    scales = [ref.scale for ref in (op.view(0), op.view(1), centered.view(1), mean.view(0), root.view(0), found[0],
                                    square.view(0), power.view(0), view)]
    if found[1].array.size != 1 or any(scale != 1.0 for scale in scales):
        raise Mismatch("looks like a LayerNorm, but with factors in between", op.name)
    for part in (centered, root, mean, total, square, power):
        trial.absorb(part)
    dim = view.shape[-1]
    return _norm(op, trial, view, np.ones(dim), np.zeros(dim), float(found[1].array.ravel()[0]))
