"""Feed: attention weights out of scores, un-normalised, ``255 * 2**(score - row maximum)``, less 128 for the signed array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Src
from ..format import INT8, PROBABILITY, SCORES, Format
from .base import Feed, Run, need
from .tile import Values

if TYPE_CHECKING:
    from ..step import Step

OFFSET = 1 << INT8.bits - 1          # the array multiplies signed words
WEIGHTS = {form: numerics.exp2_p8(np.arange((PROBABILITY.bits + 1 << form.frac) + 1), form.frac) for form in SCORES if form.frac}
"""Of every distance of scores of a format; beyond them it is 0."""


@dataclass(frozen=True, slots=True)
class Exp2(Feed):
    """By the row maxima that were kept with the scores; the step's ``half`` says where."""

    name: ClassVar[str] = "exp2"
    hls: ClassVar[str] = "attention"

    def evaluate(self, run: Run) -> np.ndarray:
        scores = run.read(run.step.source)
        row_max = scores.max(-1)
        weights: np.ndarray = WEIGHTS[run.step.source.tensor.format].take(row_max[..., None] - scores, mode="clip")
        run.row_sum = weights.sum(-1)
        shown = {"scores": scores, "row_max": row_max, "row_sum": run.row_sum}          # [B, heads, ...], of one head too
        run.inner.update({name: array if run.step.heads > 1 else array[:, None] for name, array in shown.items()})
        return np.asarray(weights - OFFSET)

    def format(self, step: Step) -> Format:
        need(step.source.tensor.format, SCORES, "an exponential feed")
        return INT8

    def fields(self, step: Step) -> dict[str, int]:
        return {"src": Src.EXP, "score_frac": SCORES.index(step.source.tensor.format)}

    def wrong(self, step: Step) -> str | None:
        return None if isinstance(step.tile, Values) else "attention weights are multiplied with something else than values"
