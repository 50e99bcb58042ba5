"""Feed: attention weights out of scores, un-normalised, ``255 * 2**(score - row maximum)``, less 128 for the signed array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Src
from ..format import INT8, PROBABILITY, SCORES, WIDE, Format
from .base import Feed, Run, need
from .tile import Stationary, Values, limited, seen

if TYPE_CHECKING:
    from ..step import Step

OFFSET = 1 << INT8.bits - 1          # the array multiplies signed words
WEIGHTS = {form: numerics.exp2_p8(np.arange((PROBABILITY.bits + 1 << form.frac) + 1), form.frac) for form in SCORES if form.frac}
"""Of every distance of scores of a format; beyond them it is 0."""
HIDDEN = 3 * WIDE.lo                 # stands for a score that a row does not see: farther from every other than any score


@dataclass(frozen=True, slots=True)
class Exp2(Feed):
    """By the row maxima that were kept with the scores; the step's ``half`` says where. limit: as of the `Keys` that gave them; what a row does
    not see weighs 0."""

    limit: int = 0

    name: ClassVar[str] = "exp2"
    hls: ClassVar[str] = "attention"

    def evaluate(self, run: Run) -> np.ndarray:
        scores = run.read(run.step.source)
        counted = np.where(seen(self.limit, *scores.shape[-2:]), scores, HIDDEN) if self.limit else scores
        row_max = counted.max(-1)
        weights: np.ndarray = WEIGHTS[run.step.source.tensor.format].take(row_max[..., None] - counted, mode="clip")
        run.row_sum = weights.sum(-1)
        shown = {"scores": scores, "row_max": row_max, "row_sum": run.row_sum}          # [B, heads, ...], of one head too
        run.inner.update({name: array if run.step.heads > 1 else array[:, None] for name, array in shown.items()})
        return np.asarray(weights - OFFSET)

    def format(self, step: Step) -> Format:
        need(step.source.tensor.format, SCORES, "an exponential feed")
        return INT8

    def fields(self, step: Step) -> dict[str, int]:
        return {"src": Src.EXP, "score_frac": SCORES.index(step.source.tensor.format), "limit": self.limit}

    def wrong(self, step: Step) -> str | None:
        if isinstance(step.tile, Values):
            return None
        each = isinstance(step.tile, Stationary) and not self.limit and not step.tile.bias.array.any() and step.heads == 1
        return None if each else "attention weights are multiplied with something else than values"

    @property
    def brief(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"exp2({limited(self.limit).removeprefix(', ')})" if self.limit else self.name
