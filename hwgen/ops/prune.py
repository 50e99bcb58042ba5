"""Prune: of a sequence the tokens with the largest scores, and some in front that are always kept (EViT, DynamicViT)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op
from ..matching.region import Unprovable
from ..matching.trial import Match, Mismatch, Trial, in_order
from ..steps.format import WIDE
from ..steps.stages import Add, Pick, Requant, Rescale
from ..steps.stages.rescale import EXACT
from ..steps.step import Keep, Step
from ..steps.taken import Kept
from ..steps.tensor import Memory, Span, Tensor
from .linear import Linear
from .operator import SUPPORTED, Operator, Spellings
from .spelled_prune import KINDS, choice, class_score, linear_score

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering
    from ..steps.tensor import View as Words


@dataclass(frozen=True, eq=False, repr=False)
class Prune(Operator):
    """``[T, D] -> [front + keep, D]``: the first ``front`` tokens of x, then of the others the ``keep`` with the largest scores, the one in front
    among equals. score: [tokens, 1], of those behind the first ones, or of more in front of them; or [1, tokens]. ranked: in falling order of
    score, else as they stand in x."""

    x: str
    score: str
    front: int
    keep: int
    ranked: bool

    VALUES: ClassVar[tuple[str, ...]] = ("x", "score")
    TRUNK: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        x, score = shapes
        count = x[0] - self.front
        fits = len(score) == 2 and (score[1] == 1 and count <= score[0] <= x[0] or score == (1, count))
        if len(x) != 2 or self.front < 0 or not 1 <= self.keep <= count or not fits:
            raise self.fail(f"keeps {self.front} and {self.keep} tokens of {list(x)} by scores {list(score)}")
        return self.front + self.keep, x[1]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        x = operands[0]
        return np.concatenate([x[:, :self.front], np.take_along_axis(x, self.front + self.kept(*operands)[..., None], axis=1)], axis=1)

    def kept(self, *operands: Array) -> Array:
        """Which tokens behind the first ones, in their order in the result, int64 [B, keep]."""
        x, score = operands[0], operands[1].reshape(len(operands[1]), -1)
        order = np.argsort(-score[:, score.shape[1] - (x.shape[1] - self.front):], axis=-1, kind="stable")[:, :self.keep]
        return order if self.ranked else np.sort(order, axis=-1)

    def chosen(self, *operands: Array) -> Array:
        """1 for the tokens with scores that are kept, 0 for others, [B, tokens, 1]."""
        kept = self.kept(*operands)
        found = np.zeros((len(kept), operands[0].shape[1] - self.front, 1), np.int64)
        np.put_along_axis(found[..., 0], kept, 1, axis=-1)
        return found

    def lower(self, to: Lowering) -> None:
        """Its steps come with the residual stream that starts with it."""

    def lower_update(self, to: Lowering, output: str, place: Words, fresh: bool) -> None:
        """The tokens that are kept anyway, the list of the others, then these by the list: each goes past the array into the new stream."""
        source = self._source(to)
        if not place.whole:
            raise self.fail("starts a residual stream with constants beside it", hint=SUPPORTED)
        tile, factor = to.diagonal(self, np.ones(source.channels), np.zeros(source.channels), source.scale, place.tensor.scale, f"{output}.unit")

        def move(part: str, rows: Words, tokens: Span, taken: Kept | None, about: str) -> None:
            drain = (Requant(factor, WIDE),) if fresh else (Requant(factor, WIDE), Add(rows))
            to.emit(Step(output, self.name, Rescale(EXACT), tile, (rows,), source.view(tokens), drain, (Keep.MOMENTS,), part, taken=taken,
                         about=about))
        if self.front:
            move("front", place.tensor.view(Span(0, self.front)), Span(0, self.front), None, "tokens that are always kept")
        kept = self._pick(to, output, source.tokens - self.front)
        move("", place.tensor.view(Span(self.front, self.keep)), Span(0, source.tokens), Kept(kept.view()), "tokens with the largest scores")

    def _source(self, to: Lowering) -> Tensor:
        """The residual stream whose newest state x is."""
        state = to.states.get(self.x)
        if state is None or state.tokens is not None or state.mean or self.x not in to.residuals:
            raise self.fail(f"takes tokens of {self.x!r}, which is not the residual stream", hint=SUPPORTED)
        if [value for value in to.residuals[self.x][0].values if value in to.states][-1] != self.x:
            raise self.fail(f"takes tokens of {self.x!r} when something has been added to it: its scores are made of that", hint=SUPPORTED)
        if state.tensor.sequence:
            raise self.fail("keeps a number of tokens of a sequence of any length", hint="compile for one length: leave the mask out")
        return state.tensor

    def _pick(self, to: Lowering, output: str, count: int) -> Tensor:
        """The list, from the scores of the last ``count`` tokens."""
        kept = Tensor(to.fresh(f"{output}.kept"), WIDE, 1, self.keep, memory=Memory.LIST)
        pick = Pick(self.keep, self.front, self.ranked)
        row = to.operands.get(self.score)
        if row is not None and row.tensor.memory is Memory.RES:
            tile, factor = to.diagonal(self, np.ones(count), np.zeros(count), row.tensor.scale, row.tensor.scale, f"{output}.score")
            to.emit(Step(kept.name, self.name, Rescale(EXACT), tile, (kept.view(),), row.view, (Requant(factor, WIDE), pick),
                         about="scores of tokens"))
            return kept
        x = to.result(self.score)
        if x is None or not isinstance(x.linear, Linear) or x.mean or x.taken is not None or x.function is not None:
            raise self.fail(f"chooses by {self.score!r}, which no Linear gives", hint="let a Linear with one result give the score of each token")
        linear, rows = x.linear, x.of(Span(x.rows - count, count)) if x.rows > count else x
        w = to.weights(linear, "linear", rows, linear.weight, linear.bias, to.fine_unit(self.score), name=f"{output}.score")
        to.product(kept.name, self, rows, w, (Requant(w.factor, WIDE), pick), kept.view(), about="scores of tokens")
        return kept

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings(dict.fromkeys(KINDS, (pruned,)), {"TopK": "a choice of tokens by their scores"}, rank=-3, opens=frozenset({"TopK"}))


def pruned(op: Op, trial: Trial) -> Match | None:
    """Some tokens in front, and by a TopK those with the largest scores of the others -> Prune."""
    found = choice(op, trial)
    if found is None:
        return None
    try:
        seen = class_score(op, trial, found)
        score, column = linear_score(trial, found) if seen is None else (seen.output, None)
    except Unprovable:
        raise Mismatch(f"keeps tokens by scores of {found.top.name!r}, which has an operator that cannot be evaluated here", op.name) from None
    nodes: list[Operator] = [] if seen is None else [seen]
    linear = trial.made.get(score)
    if column is not None and isinstance(linear, Linear) and (column.tolist() != [1.0] or linear.bias.any()):      # what all tokens have orders none
        nodes.append(replace(linear, output=trial.fresh(f"{score}.for {op.name}"), weight=trial.array((linear.weight @ column)[:, None]),
                             bias=trial.array(np.zeros(1))))
        score = nodes[-1].output
    for part in found.ops[:-1]:
        trial.absorb(part)
    trial.absorb(op)
    nodes.append(Prune(op.name, op.outputs[0], found.bound.value, score, found.front, found.keep, found.ranked))
    return Match(tuple(nodes), in_order(found.front + found.keep, found.bound.shape[1]), factor=found.bound.factor, proved=True)
