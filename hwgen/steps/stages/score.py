"""Stage: an expert's result times the share the router gave the expert."""

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
class Score(Stage):
    """`numerics.weigh` by the share in the queue of the step's ``expert``."""

    name: ClassVar[str] = "score"
    hls: ClassVar[str] = ""

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return numerics.weigh(x, run.shares[:, None])

    def format(self, before: Format, step: Step) -> Format:
        need(before, WIDE, "a score")
        return WIDE

    def interval(self, x: Interval, step: Step) -> Interval:
        return x

    def fields(self, step: Step) -> dict[str, int]:
        return {"scatter": 1}

    def wrong(self, step: Step) -> str | None:
        return "weighs the result of no expert" if step.expert is None else None
