"""Stage: the result of a table, or a word of 16 bits, times the word of another value, and the shift behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Operand
from ..format import INT8, OPERANDS, TABLE, WIDE, Format
from ..tensor import View
from .base import Interval, Run, Stage, need
from .operand import beside

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Multiply(Stage):
    """``saturate(round(x * view / 2**shift))``. The unit of ``view`` makes it the unit of the result: calibration chooses it so."""

    view: View
    shift: int
    to: Format = INT8

    name: ClassVar[str] = "multiply"
    hls: ClassVar[str] = "linear_multiplied"

    @property
    def operand(self) -> View:
        return self.view

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return numerics.sat(numerics.round_shift(x * run.read(self.view), self.shift), self.to.bits)

    def format(self, before: Format, step: Step) -> Format:
        need(before, (WIDE, TABLE), "a product of two values")
        return self.to

    def interval(self, x: Interval, step: Step) -> Interval:
        return self.to.lo, self.to.hi

    def fields(self, step: Step) -> dict[str, int]:
        return {"operand": Operand.MULTIPLY, "shift2": self.shift}

    def wrong(self, step: Step) -> str | None:
        if self.to not in OPERANDS:
            return f"a product of two values is {' or '.join(map(str, OPERANDS))}, not {self.to}"
        if not 1 <= self.shift <= MAX_SHIFT:
            return f"the shift behind a product of two values is {self.shift}, not in 1..{MAX_SHIFT}"
        return beside(self.view, step)

    @property
    def brief(self) -> str:
        return f"{self.name}({self.view}) {self.to}"

    def __str__(self) -> str:
        return f"multiply({self.view}, >>{self.shift}, {self.to})"


MAX_SHIFT = 42              # of the shifter, behind products of 41 bits
