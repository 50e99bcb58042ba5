"""HeadNorm: LayerNorm or RMSNorm of each head of a query or a key by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..graph import Array, Inner, Role, Shape
from ..matching.opgraph import Op, View
from ..matching.trial import Match, Mismatch, Trial, row
from ..steps.format import INT8, WIDE, Format
from ..steps.stages import Requant, Stage
from ..steps.step import Step
from ..steps.tensor import Memory, Span, Tensor
from .attention import columns
from .heads import Heads
from .norm import normalized_words, over_last
from .operator import SUPPORTED, Operator, Spellings
from .rotate import Rotate
from .spelled_norm import WHOLE, near_norm, spelled_heads

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class HeadNorm(Operator):
    """Normalise ``heads`` equal parts of the last dimension, each by itself: LayerNorm, or with ``rms`` RMSNorm; then a factor and an offset a
    channel."""

    x: str
    gamma: Array             # [heads * head_dim]
    beta: Array
    eps: float
    heads: int
    rms: bool = False

    BY_TOKEN: ClassVar[bool] = True
    BY_CHANNEL: ClassVar[bool] = True
    ABSORBS: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or x[-1] != len(self.gamma) or x[-1] % self.heads:
            raise self.fail(f"{self.heads} heads of {len(self.gamma)} channels are none of {x}")
        return x

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        if inner is not None:
            inner.append((Role.NORM, self._normalized(np.asarray(x, np.float64))))
        y: Array = self._normalized(x) * self.gamma + self.beta
        return y

    def _normalized(self, x: Array) -> Array:
        return over_last(x.reshape(*x.shape[:-1], self.heads, -1), self.eps, self.rms).reshape(x.shape)

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array]:
        return {"gamma": self.gamma * scale, "beta": self.beta * scale + shift}

    @property
    def head_dim(self) -> int:
        return len(self.gamma) // self.heads

    def part(self, channels: Array) -> Mapping[str, Any] | None:
        """Whole heads, each with its channels in any order."""
        if channels.size % self.head_dim:
            return None
        heads = np.sort(channels.reshape(-1, self.head_dim))
        if (heads[:, 0] % self.head_dim).any() or (heads != heads[:, :1] + np.arange(self.head_dim)).any():
            return None
        return {"gamma": self.gamma[channels], "beta": self.beta[channels], "heads": len(heads)}

    def lower(self, to: Lowering) -> None:
        """Steps that store the norm; none yet where nothing but rotations of whole heads, alike for all, read it."""
        to.narrow(self, self.output, "the norm of heads")
        turned = all(isinstance(reader, Rotate) and self.head_dim % reader.period == 0 for reader in to.readers[self.output])
        if not turned or self.output in to.graph.outputs.values():
            words = to.activations(self.output, to.float_shapes[self.x][0], len(self.gamma), to.units(self.output, (len(self.gamma),)))
            self._lower(to, words, words.units, INT8)
            to.define(self.output, words)

    def lower_through(self, to: Lowering, out: Tensor, unit: float, form: Format, then: Stage) -> bool:
        self._lower(to, out, np.array([unit]), form, then)
        return True

    def _lower(self, to: Lowering, words: Tensor, units: Array, form: Format, *then: Stage) -> None:
        """For each head a residual stream of its own that the Linear in front starts, and its norm past the array, in ``units`` of one channel or
        of each, through the stages ``then``."""
        x = to.result(self.x)
        if x is None or x.linear is None or x.mean or not (to.producers[self.x].DEFERS or self.x in to.operands):
            raise self.fail(f"normalises heads of {self.x!r}, which no Linear gives", hint=SUPPORTED)
        tokens, dim, unit, normal = x.rows, self.head_dim, to.wide_unit(self.x), to.wide_unit(self.output, Role.NORM)
        for head in range(self.heads):
            part, name = slice(head * dim, head * dim + dim), to.fresh(f"{self.x}.head{head}")
            linear = replace(x.linear, output=name, weight=x.linear.weight[:, part], bias=x.linear.bias[part])
            stream = Tensor(name, WIDE, tokens, dim, unit, Memory.RES)
            to.update(name, linear, x, to.weights(linear, "linear", x, linear.weight, linear.bias, unit), stream.view(), fresh=True)
            feed, _ = normalized_words(self, to, stream, to.fresh(f"{name}.int16"), normal, WIDE, self.eps, self.rms)
            tile, factor = to.diagonal(self, self.gamma[part], self.beta[part], normal, units if len(units) == 1 else units[part], f"{name}.gamma")
            to.emit(Step(words.name, self.name, feed, tile, (words.view(channels=Span(head * dim, dim)),), stream.view(),
                         (Requant(factor, form), *then), part=f"head{head}", about=f"norm of head {head}"))

    @classmethod
    def spellings(cls) -> Spellings:
        """Written out in front of `LayerNorm`, which takes all channels of a token."""
        return Spellings({"LayerNormalization": (head_norm,), "RMSNormalization": (head_norm,),
                          **dict.fromkeys(("Add", "Div", "Mul", "Sub", *WHOLE), (spelled,))})


def head_norm(op: Op, trial: Trial) -> Match | None:
    """LayerNormalization or RMSNormalization over the channels of a head -> HeadNorm."""
    view, gamma, beta = op.operand(0), op.constant(1), op.constant(2)
    if not isinstance(view, View) or gamma is None or op.operand(2) is not None and beta is None \
            or op.attrs.get("axis", -1) not in (-1, len(view.shape) - 1):
        return None
    dim = view.shape[-1]
    found = _heads(trial, view)
    if found is None:
        return None
    factor = found[0].bound.factor * view.scale
    if factor <= 0:
        raise Mismatch(f"normalises its input times {factor:.6g}", op.name)
    return _match(op, trial, *found, row(op, "scale", gamma, dim), np.zeros(dim) if beta is None else row(op, "bias", beta, dim),
                  op.number("epsilon", 1e-5) / factor ** 2, op.kind == "RMSNormalization")


def spelled(op: Op, trial: Trial) -> Match | None:
    """The same, written out."""
    near = near_norm(op, trial)
    found = None if near is None else _heads(trial, near.view)
    norm = None if near is None or found is None else spelled_heads(op, trial, near, found[0].bound)
    if norm is None or found is None:
        return None
    for part in norm.parts:
        trial.absorb(part)
    return _match(op, trial, *found, norm.gamma, norm.beta, norm.eps, norm.rms)


def _heads(trial: Trial, view: View) -> tuple[Heads, Array] | None:
    """The heads of which each row of the view is one token's; where each token and head stands in it, [tokens, heads]. None for other rows."""
    found = trial.where(view)
    if found is None:
        return None
    bound, positions = found
    dim, rows = positions.shape[-1], positions.reshape(-1, positions.shape[-1])
    if len(bound.shape) != 2 or not positions.size or dim == bound.shape[1] or bound.node is None:
        return None
    tokens, width = bound.shape
    token, channels = rows // width, rows % width
    heads = len(np.unique(channels[:, 0]))
    order = np.lexsort((channels[:, 0], token[:, 0]))                # by token, then by head
    sets = channels[order].reshape(-1, heads, dim) if len(rows) == tokens * heads else channels[:0].reshape(0, 1, 1)
    if not len(sets) or (sets != sets[0]).any() or (token[order] != np.repeat(np.arange(tokens), heads)[:, None]).any():
        return None
    return Heads(bound, sets[0], tokens, bound.factor * view.scale, view), order.reshape(tokens, heads)


def _match(op: Op, trial: Trial, part: Heads, order: Array, gamma: Array, beta: Array, eps: float, rms: bool) -> Match:
    """gamma and beta of one head."""
    heads, dim = part.columns.shape
    node = HeadNorm(op.name, op.outputs[0], columns(op, trial, part, "heads"), trial.array(np.tile(gamma, heads)), trial.array(np.tile(beta, heads)),
                    eps, heads, rms)
    places = order[..., None] * dim + np.arange(dim)                 # in the result, of each token, head and channel
    return Match((node,), places.reshape(len(order), heads * dim))
