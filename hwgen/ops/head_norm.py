"""HeadNorm: LayerNorm or RMSNorm of each head of a query or a key by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Role, Shape
from ..matching.opgraph import Op, View
from ..matching.trial import Match, Mismatch, Trial, row
from ..steps.format import INT8, WIDE
from ..steps.stages import Requant
from ..steps.step import Step
from ..steps.tensor import Memory, Span, Tensor
from .attention import Heads, columns
from .norm import normalized_words, over_last
from .operator import SUPPORTED, Operator, Spellings

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

    def lower(self, to: Lowering) -> None:
        """For each head a residual stream of its own that the Linear in front starts, and its norm past the array."""
        x = to.result(self.x)
        if x is None or x.linear is None or x.mean or not (to.producers[self.x].DEFERS or self.x in to.operands):
            raise self.fail(f"normalises heads of {self.x!r}, which no Linear gives", hint=SUPPORTED)
        tokens, dim, unit = x.rows, len(self.gamma) // self.heads, to.wide_unit(self.x)
        to.narrow(self, self.output, "the norm of heads")
        words = to.activations(self.output, tokens, len(self.gamma), to.units(self.output, (len(self.gamma),)))
        normal = to.wide_unit(self.output, Role.NORM)
        for head in range(self.heads):
            part, name = slice(head * dim, head * dim + dim), to.fresh(f"{self.x}.head{head}")
            linear = replace(x.linear, output=name, weight=x.linear.weight[:, part], bias=x.linear.bias[part])
            stream = Tensor(name, WIDE, tokens, dim, unit, Memory.RES)
            to.update(name, linear, x, to.weights(linear, "linear", x, linear.weight, linear.bias, unit), stream.view(), fresh=True)
            feed, _ = normalized_words(self, to, stream, to.fresh(f"{name}.int16"), normal, WIDE, self.eps, self.rms)
            tile, factor = to.diagonal(self, self.gamma[part], self.beta[part], normal,
                                       words.units if words.ratio is None else words.units[part], f"{name}.gamma")
            to.emit(Step(self.output, self.name, feed, tile, (words.view(channels=Span(head * dim, dim)),), stream.view(), (Requant(factor, INT8),),
                         part=f"head{head}", about=f"norm of head {head}"))
        to.define(self.output, words)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"LayerNormalization": (head_norm,), "RMSNormalization": (head_norm,)})


def head_norm(op: Op, trial: Trial) -> Match | None:
    """LayerNormalization or RMSNormalization over the channels of a head -> HeadNorm."""
    view, gamma, beta = op.operand(0), op.constant(1), op.constant(2)
    found = trial.where(view) if isinstance(view, View) else None
    if found is None or not isinstance(view, View) or gamma is None or op.operand(2) is not None and beta is None \
            or op.attrs.get("axis", -1) not in (-1, len(view.shape) - 1):
        return None
    bound, positions = found
    dim, rows = positions.shape[-1], positions.reshape(-1, positions.shape[-1])
    if len(bound.shape) != 2 or not positions.size or dim == bound.shape[1] or bound.node is None:
        return None
    tokens, width = bound.shape
    token, channels = rows // width, rows % width
    firsts = np.unique(channels[:, 0])
    heads = len(firsts)
    order = np.lexsort((channels[:, 0], token[:, 0]))                # by token, then by head
    sets = channels[order].reshape(-1, heads, dim) if len(rows) == tokens * heads else channels[:0].reshape(0, 1, 1)
    if heads < 2 or not len(sets) or (sets != sets[0]).any() or (token[order] != np.repeat(np.arange(tokens), heads)[:, None]).any():
        return None
    factor = bound.factor * view.scale
    if factor <= 0:
        raise Mismatch(f"normalises its input times {factor:.6g}", op.name)
    x = columns(op, trial, Heads(bound, sets[0], tokens, factor, view), "heads")
    node = HeadNorm(op.name, op.outputs[0], x, trial.array(np.tile(row(op, "scale", gamma, dim), heads)),
                    trial.array(np.tile(np.zeros(dim) if beta is None else row(op, "bias", beta, dim), heads)),
                    op.number("epsilon", 1e-5) / factor ** 2, heads, op.kind == "RMSNormalization")
    places = order.reshape(tokens, heads, 1) * dim + np.arange(dim)  # in the result, of each token, head and channel
    return Match((node,), places.reshape(tokens, heads * dim))
