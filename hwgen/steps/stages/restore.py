"""Stage: gives back what `Exp2` took from the attention weights: 128 times the sum of each column of the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..format import ACCUMULATOR, INT8, PROBABILITY, Format
from .base import Interval, Run, Stage, need
from .exp2 import OFFSET, Exp2
from .tile import Values

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Restore(Stage):
    """``acc + 128 * sum over keys of V``: exact. The RTL engine counts the sum while it loads V, and does this of itself."""

    name: ClassVar[str] = "restore"
    hls: ClassVar[str] = ""

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        tile = run.step.tile
        if not isinstance(tile, Values):
            raise TypeError(f"step {run.step.name!r} has no values")
        return np.asarray(x + OFFSET * run.read(tile.view).sum(-2, keepdims=True))

    def format(self, before: Format, step: Step) -> Format:
        need(before, ACCUMULATOR, "what is restored")
        return ACCUMULATOR

    def interval(self, x: Interval, step: Step) -> Interval:
        bound = step.source.channels.count // step.heads * PROBABILITY.hi * INT8.hi
        return -bound, bound

    def fields(self, step: Step) -> dict[str, int]:
        return {}

    def wrong(self, step: Step) -> str | None:
        return None if isinstance(step.feed, Exp2) else "restores what no exponential feed took away"
