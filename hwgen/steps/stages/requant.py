"""Stage: accumulator -> activation, pre-activation, score or residual update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..format import ACCUMULATOR, INT8, WIDE, Format
from ..param import Columns, Factor
from .base import Interval, Run, Stage, need

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Requant(Stage):
    """``saturate(round(acc * mult / 2**shift))``; one factor, or one a column (which lies with the weights)."""

    factor: Factor | Columns
    to: Format = INT8

    name: ClassVar[str] = "requant"
    hls: ClassVar[str] = "linear"

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        return {"mult": self.factor.mult.array, "shift": self.factor.shift.array} if isinstance(self.factor, Columns) else {}

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return self.factor.apply(x, self.to)

    def format(self, before: Format, step: Step) -> Format:
        need(before, ACCUMULATOR, "a requantizer")
        return self.to

    def interval(self, x: Interval, step: Step) -> Interval:
        return self.to.lo, self.to.hi

    def fields(self, step: Step) -> dict[str, int]:
        own = {"mult": self.factor.mult, "shift": self.factor.shift} if isinstance(self.factor, Factor) else {}
        return own | {"to16": int(self.to.bits > INT8.bits)}

    def wrong(self, step: Step) -> str | None:
        if not self.to.signed or self.to.bits not in (INT8.bits, WIDE.bits):
            return f"the requantizer saturates to {INT8} or {WIDE}, not to {self.to}"
        if isinstance(self.factor, Columns) != step.tile.by_columns:
            return "weights have a factor for each column, what else is stationary has one"
        if isinstance(self.factor, Columns) and self.factor.mult.array.shape != (step.columns,):
            return f"{self.factor.mult.array.shape} factors for {step.columns} columns"
        return self.factor.wrong("requantizer")

    @property
    def brief(self) -> str:
        return f"{self.name} {self.to}"

    def __str__(self) -> str:
        return f"requant({self.factor}, {self.to})"
