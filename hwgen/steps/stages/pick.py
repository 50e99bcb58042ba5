"""Stage: scores of tokens -> the numbers of those with the largest scores, a list by which a later step takes its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ..format import WIDE, Format
from .base import Interval, Run, Stage, need

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Pick(Stage):
    """`numerics.best`: the numbers of the ``keep`` tokens with the largest scores, of which the first has the number ``first``. A score is the one
    column of a token, or a column of the one token. ranked: the largest first, else the lowest number."""

    keep: int
    first: int
    ranked: bool

    name: ClassVar[str] = "pick"
    hls: ClassVar[str] = "pick"

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        """Scores [B, tokens, 1] or [B, 1, tokens] -> [B, 1, keep]"""
        scores = x.reshape(len(x), -1)
        kept = numerics.best(scores, self.keep, self.ranked)
        chosen = np.zeros((*scores.shape, 1), np.int64)
        np.put_along_axis(chosen[..., 0], kept, 1, axis=-1)
        run.inner.update(scores=scores, experts=chosen)              # of two: those that are kept
        return self.first + kept[:, None]

    def shape(self, tokens: int, channels: int) -> tuple[int, int]:
        return 1, self.keep

    def format(self, before: Format, step: Step) -> Format:
        need(before, WIDE, "a choice of tokens")
        return WIDE

    def interval(self, x: Interval, step: Step) -> Interval:
        return self.first, self.first + self.scores(step) - 1

    def scores(self, step: Step) -> int:
        """How many there are."""
        return step.tokens * step.columns

    def fields(self, step: Step) -> dict[str, int]:
        return {"pick": 1, "ranked": int(self.ranked), "stat_count": self.keep, "stat_base": self.first}

    def wrong(self, step: Step) -> str | None:
        fits = step.columns == 1 if step.tile.mixes else step.tokens == 1
        if not fits or not step.tile.by_columns or step.expert is not None or step.heads != 1 or step.taken is not None:
            return f"chooses by scores [{step.tokens}, {step.columns}] of {step.tile.brief or 'no product'}, no column of weights and no row"
        count = self.scores(step)
        if not 1 <= self.keep <= count or self.first < 0 or self.first + count > WIDE.hi:
            return f"keeps {self.keep} of {count} tokens from number {self.first} on"
        return None

    @property
    def brief(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"pick({self.keep} tokens from {self.first} on{', ranked' if self.ranked else ''})"
