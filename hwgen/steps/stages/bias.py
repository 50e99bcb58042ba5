"""Stage: a word of a constant is added to each score: a position bias, or a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Operand
from ..format import SCORES, WIDE, Format
from ..tensor import View
from .base import Interval, Run, Stage, need
from .operand import beside

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Bias(Stage):
    """``saturate(score + view)``, before the row maximum is taken."""

    view: View

    name: ClassVar[str] = "bias"
    hls: ClassVar[str] = ""

    @property
    def operand(self) -> View:
        return self.view

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return numerics.sat(x + run.read(self.view), WIDE.bits)

    def format(self, before: Format, step: Step) -> Format:
        need(before, SCORES, "a bias of scores")
        return before

    def interval(self, x: Interval, step: Step) -> Interval:
        return WIDE.lo, WIDE.hi

    def fields(self, step: Step) -> dict[str, int]:
        return {"operand": Operand.ADD}

    def wrong(self, step: Step) -> str | None:
        return beside(self.view, step)

    def __str__(self) -> str:
        return f"bias({self.view})"
