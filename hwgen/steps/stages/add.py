"""Stage: the residual addition. What is added to is updated in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Dst
from ..format import WIDE, Format
from ..tensor import View
from .base import Interval, Run, Stage, need

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Add(Stage):
    """``saturate(view + x)``; of an expert, for the tokens of its queue."""

    view: View

    name: ClassVar[str] = "add"
    hls: ClassVar[str] = "linear_residual"

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        before = run.read(self.view) if run.rows is None else run.values[self.view.name][run.rows]
        return numerics.sat(before + x, WIDE.bits)

    def format(self, before: Format, step: Step) -> Format:
        need(before, WIDE, "an addition")
        need(self.view.tensor.format, WIDE, "an addition")
        return WIDE

    def interval(self, x: Interval, step: Step) -> Interval:
        return WIDE.lo, WIDE.hi

    def fields(self, step: Step) -> dict[str, int]:
        return {"dst": Dst.RES_ADD}

    def wrong(self, step: Step) -> str | None:
        return None if step.sinks[0] == self.view else f"adds to {self.view} and stores in {step.sinks[0]}"

    def __str__(self) -> str:
        return f"add({self.view})"
