"""Stage: the division of a softmax, once for each output row: accumulators times the reciprocal of the row's sum of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ..format import ACCUMULATOR, INT8, OPERANDS, PROBABILITY, Format
from ..param import Factor
from .base import Interval, Run, Stage, need
from .exp2 import Exp2
from .normalize import run_time_shift

if TYPE_CHECKING:
    from ..step import Step

RECIPROCAL_FRAC = 31                # of `numerics.reciprocal`


@dataclass(frozen=True, slots=True)
class RowFactor(Stage):
    """Each row times its own factor, `numerics.softmax_factor` of its sum. factor: scale of the values over that of the result."""

    factor: Factor
    to: Format = INT8

    name: ClassVar[str] = "row_factor"
    hls: ClassVar[str] = ""

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        mult, shift = numerics.softmax_factor(run.row_sum, self.factor.mult, self.factor.shift)
        return numerics.requantize(x, mult[..., None], shift[..., None], self.to.bits)

    def format(self, before: Format, step: Step) -> Format:
        need(before, ACCUMULATOR, "a row factor")
        return self.to

    def interval(self, x: Interval, step: Step) -> Interval:
        return self.to.lo, self.to.hi

    def fields(self, step: Step) -> dict[str, int]:
        return {"row_scale": 1, "mult": self.factor.mult, "shift": self.factor.shift, "to16": int(self.to.bits > INT8.bits)}

    def wrong(self, step: Step) -> str | None:
        if not isinstance(step.feed, Exp2):
            return "divides by the sum of a row that has none"
        if self.to not in OPERANDS:
            return f"the result of a division is {' or '.join(map(str, OPERANDS))}, not {self.to}"
        keys = step.source.channels.count // step.heads
        exponents = numerics.reciprocal(np.array([PROBABILITY.hi, PROBABILITY.hi * keys]))[1]
        return self.factor.wrong("output") or run_time_shift(
            "attention output", *(int(e) + RECIPROCAL_FRAC + self.factor.shift - numerics.MULT_BITS for e in exponents))

    @property
    def brief(self) -> str:
        return f"{self.name} {self.to}"

    def __str__(self) -> str:
        return f"row_factor({self.factor}, {self.to})"
