"""LayerNorm: each token with mean 0 and deviation 1, then a factor and an offset a channel. RMSNorm: the same without the mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Role, Shape
from ..matching.opgraph import Op, View
from ..matching.trial import Match, Mismatch, Trial, in_order, row
from ..steps.format import INT8, WIDE, Format
from ..steps.stages import Identity, Normalize
from ..steps.stages.normalize import EPS_BITS, least_eps
from ..steps.step import Step
from ..steps.tensor import Tensor
from .mean import Mean
from .operands import operand
from .operator import SUPPORTED, Operator, Spellings
from .spelled_norm import WHOLE, spelled_norm

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


FLAT = 64               # D**2 / FLAT is D**2 times the variance of a token whose channels deviate by an eighth of a unit: noise of rounding


@dataclass(frozen=True)
class Past:
    """How a norm becomes a value of its own: ``feed`` gives its words, in ``unit``, as long as the state it reads is the ``version``-th of its
    stream; words: the same in the activation memory."""

    feed: Normalize
    unit: float
    version: int
    words: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class LayerNorm(Operator):
    """Normalise over the last dimension: ``(x - mean) / sqrt(var + eps) * gamma + beta``."""

    x: str
    gamma: Array             # [D]
    beta: Array              # [D]
    eps: float

    BY_TOKEN: ClassVar[bool] = True
    RMS: ClassVar[bool] = False
    """Whether the mean counts as 0."""

    def shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        if inner is not None:
            inner.append((Role.NORM, self._normalized(np.asarray(x, np.float64))))
        y: Array = self._normalized(x) * self.gamma + self.beta
        return y

    def _normalized(self, x: Array) -> Array:
        return over_last(x, self.eps, self.RMS)

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array]:
        return {"gamma": self.gamma * scale, "beta": self.beta * scale + shift}

    def lower(self, to: Lowering) -> None:
        """A step that normalises the residual stream; gamma and beta go into the linear maps that read it. Where its result is added to a stream, or
        starts one, it also goes past the array."""
        state = to.states.get(self.x)
        if state is None or state.mean:
            raise self.fail("normalises the mean of tokens, the engine normalises each token" if isinstance(to.producers.get(self.x), Mean)
                            else f"normalises {self.x!r}, which is not the residual stream", hint=SUPPORTED)
        gamma, beta = np.asarray(self.gamma, np.float64), np.asarray(self.beta, np.float64)
        kept, read = to.uses[self.output]
        if read:
            unit, form = to.scale(self.output, Role.NORM), to.form(self.output)
            _, words = normalized_words(self, to, state.tensor, self.output, unit, form, self.eps, self.RMS)
            to.define(self.output, words, gamma=gamma, beta=beta, tokens=state.tokens)
        if kept:
            unit = to.wide_unit(self.output, Role.NORM)
            feed, words = normalized_words(self, to, state.tensor, to.fresh(f"{self.output}.int16"), unit, WIDE, self.eps, self.RMS)
            to.norms[self.output] = replace(state, gamma=gamma, beta=beta, past=Past(feed, unit, to.versions[state.tensor.name], words))

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"LayerNormalization": (layer_norm,), **dict.fromkeys(("Add", "Div", "Mul", "Sub", *WHOLE), (spelled,))},
                         dict.fromkeys(("Div", "Pow", "Reciprocal", "ReduceMean", "ReduceSumSquare", "Sqrt", "Sub"), "a LayerNorm"), rank=1)


def over_last(x: Array, eps: float, rms: bool) -> Array:
    """x over its root mean square along the last dimension, ``eps`` inside the root; its mean taken off before, unless ``rms``."""
    centered = x if rms else x - x.mean(-1, keepdims=True)
    normalized: Array = centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + eps)
    return normalized


def normalized_words(node: Operator, to: Lowering, residual: Tensor, value: str, unit: float, form: Format, eps: float,
                     rms: bool) -> tuple[Normalize, Tensor]:
    """The step that gives the normalised words of a residual stream, in ``unit``; its feed and what it gives."""
    dim = residual.channels
    units = eps * (dim / residual.scale) ** 2
    if not units < (1 << EPS_BITS) - 1:                       # nor infinite, nor NaN
        raise node.fail(f"eps = {eps:.6g} is too large for a residual scale of {residual.scale:.3g}",
                        hint="a LayerNorm's epsilon keeps it from dividing by zero; usual are 1e-5 and 1e-6")
    half = 1 if form == INT8 else 1 << INT8.bits                  # of 16 bits the unit of the high one
    out = to.factor(node, "normalise", dim / (16 * unit * half))
    least = least_eps(out, form)                                  # counts for tokens whose channels are all but alike
    feed = Normalize(max(least, round(units)), to.factor(node, "16 / D", 16 / dim), out, form, rms)
    words = to.activations(value, residual.tokens, dim, unit, form)
    step = Step(value, node.name, feed, Identity(), (words.view(),), residual.view())
    if (wrong := feed.wrong(step)) or least > max(1, dim * dim // FLAT):
        raise node.fail(f"has a result in units of {unit:.3g}, which does not fit what it normalises, in units of {residual.scale:.3g}: "
                        f"{wrong or f'eps would grow to {least:,} units'}",
                        hint="give its result another scale or method by --quant, or calibrate with other images")
    to.emit(step)
    return feed, words


@dataclass(frozen=True, eq=False, repr=False)
class RMSNorm(LayerNorm):
    """``x / sqrt(mean(x * x) + eps) * gamma + beta``, of the last dimension."""

    RMS: ClassVar[bool] = True

    @classmethod
    def spellings(cls) -> Spellings:
        """Written out it is found where a LayerNorm is."""
        return Spellings({"RMSNormalization": (layer_norm,)})


def layer_norm(op: Op, trial: Trial) -> Match | None:
    """The operators LayerNormalization and RMSNormalization over the last dimension."""
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
    kind = RMSNorm if op.kind == "RMSNormalization" else LayerNorm
    node = kind(op.name, op.outputs[0], x.value, trial.array(gamma), trial.array(beta), eps / x.factor ** 2)
    return Match((node,), in_order(*x.shape))


def spelled(op: Op, trial: Trial) -> Match | None:
    """A norm written out -> LayerNorm or RMSNorm."""
    found = spelled_norm(op, trial)
    if found is None:
        return None
    for part in found.parts:
        trial.absorb(part)
    kind = RMSNorm if found.rms else LayerNorm
    node = kind(op.name, op.outputs[0], found.bound.value, trial.array(found.gamma), trial.array(found.beta), found.eps)
    return Match((node,), found.positions)
