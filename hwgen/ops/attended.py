"""Attended: how much one token looks at others, the mean over the heads of an attention: the score by which EViT keeps tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..functions import softmax
from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..steps.format import INT8, OCTAVE, WIDE
from ..steps.stages import Add, Exp2, Keys, Plain, Requant, RowFactor, Stationary
from ..steps.step import Keep, Step
from ..steps.tensor import Memory, Span, Tensor
from .attention import words
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering

TOP = 28000              # of the sum over the heads, at most, in calibration


@dataclass(frozen=True, eq=False, repr=False)
class Attended(Operator):
    """The weights of token ``query`` on the tokens from ``first`` on, the mean of all heads: q ``[Q, heads * d]``, k ``[T, heads * d]`` ->
    ``[1, T - first]``. Only their order is told: the integers are less by one number for all of them."""

    q: str
    k: str
    num_heads: int
    scale: float             # multiplies q @ k.T
    query: int
    first: int

    VALUES: ClassVar[tuple[str, ...]] = ("q", "k")
    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        q, k = shapes
        if q[-1] != k[-1] or q[-1] % self.num_heads or not 0 <= self.query < q[0] or not 0 <= self.first < k[0]:
            raise self.fail(f"q {q} and k {k} do not form {self.num_heads} heads with a token {self.query} that looks at those from {self.first} on")
        return 1, k[0] - self.first

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        q, k = (x.reshape(*x.shape[:2], self.num_heads, -1).transpose(0, 2, 1, 3) for x in operands)
        scores = q[:, :, self.query:self.query + 1] @ k.swapaxes(-1, -2) * np.float32(self.scale)
        weights = softmax(scores)
        if inner is not None:
            inner += [(Role.SCORE, scores), (Role.HIDDEN, weights)]
        mean: Array = weights.mean(1)[:, :, self.first:]
        return mean

    def formats(self) -> tuple[FixedFormat, ...]:
        return (FixedFormat("attention score", Unit.SCORE, Role.SCORE),)

    def lower(self, to: Lowering) -> None:
        """For each head the scores of the token, then their exponentials, each by itself, divided by the sum of the row, and added up."""
        q, k = words(to, self, {"the query": self.q, "the key": self.k})
        scored = to.point(self.output, Role.SCORE, Unit.SCORE, self.output)
        both = q.tensor.units * k.tensor.units
        product = to.factor(self, "scores", float(both[0]) * self.scale / (scored.unit * OCTAVE))
        keys, dim = k.tokens.count, k.channels.count // self.num_heads
        unit = self.num_heads * (to.largest(self.output, Role.HIDDEN) or 1.0) / TOP
        total = Tensor(to.fresh(f"{self.output}.sum"), WIDE, 1, keys - self.first, unit, Memory.RES)
        each = np.zeros((keys, keys - self.first), INT8.dtype)
        each[self.first + np.arange(keys - self.first), np.arange(keys - self.first)] = INT8.hi
        columns = keys - self.first
        tile = Stationary(to.pool.add(f"each{keys}.{self.first}", each), to.pool.add(f"each{keys}.{self.first}.bias", np.zeros(columns, np.int32)),
                          to.pool.add(f"each{keys}.{self.first}.scale", np.ones(columns)))
        share = RowFactor(to.factor(self, "attention weights", 1 / (INT8.hi * unit)), WIDE)
        for head in range(self.num_heads):
            channels, half = Span(head * dim, dim), head % 2
            scores = Tensor(to.fresh(f"{self.output}.scores{head}"), scored, 1, keys, memory=Memory.SCORE)
            to.emit(Step(self.output, self.name, Plain(), Keys(k.tensor.view(k.tokens, channels)), (scores.view(),),
                         q.tensor.view(Span(q.tokens.start + self.query, 1), channels), (Requant(product, scored),), (Keep.ROW_MAX,),
                         part=f"scores{head}", half=half, macs=keys * dim, about=f"Q K of one token, head {head}"))
            to.emit(Step(self.output, self.name, Exp2(), tile, (total.view(),), scores.view(), (share, Add(total.view())) if head else (share,),
                         (Keep.MOMENTS,), part=f"head{head}", half=half, about=f"P of one token, head {head}"))
        to.define(self.output, total)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings()                       # made where a rule keeps tokens by it: `prune`
