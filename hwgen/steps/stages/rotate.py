"""Stage: pairs of neighbouring channels are turned by a constant angle of each token: rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Operand
from ..format import INT8, WIDE, Format
from ..tensor import Memory, View
from .base import Interval, Run, Stage, need
from .multiply import MAX_SHIFT

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Rotate(Stage):
    """``y[2j] = x[2j] c - x[2j+1] s``, ``y[2j+1] = x[2j+1] c + x[2j] s`` with c and s in channels 2j and 2j + 1 of ``view``, which serve again for
    every so many channels; then ``saturate(round(y / 2**shift))``."""

    view: View
    shift: int

    name: ClassVar[str] = "rotate"
    hls: ClassVar[str] = "linear_rotated"

    @property
    def operand(self) -> View:
        return self.view

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        table = run.read(self.view)
        table = table[..., np.arange(x.shape[-1]) % table.shape[-1]]
        cos, sin = table[..., 0::2], table[..., 1::2]
        a, b = x[..., 0::2], x[..., 1::2]
        turned = np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
        return numerics.sat(numerics.round_shift(turned, self.shift), INT8.bits)

    def format(self, before: Format, step: Step) -> Format:
        need(before, WIDE, "a rotation")
        return INT8

    def interval(self, x: Interval, step: Step) -> Interval:
        return INT8.lo, INT8.hi

    def fields(self, step: Step) -> dict[str, int]:
        return {"operand": Operand.ROTATE, "shift2": self.shift}

    def wrong(self, step: Step) -> str | None:
        channels = self.view.channels.count
        if self.view.tensor.memory is not Memory.OPERAND or not self.view.whole:
            return f"{self.view} is no operand of the drain, or a part of one"
        if channels % 2 or step.columns % 2 or self.view.tokens.count != step.sink.tokens.count or step.heads > 1:
            return f"{[self.view.tokens.count, channels]} cosines and sines do not fit {[step.sink.tokens.count, step.columns]} words"
        return None if self.shift in range(2, MAX_SHIFT + 1, 2) else f"the shift behind a rotation is {self.shift}, not an even one in 2..{MAX_SHIFT}"

    @property
    def brief(self) -> str:
        return f"{self.name}({self.view})"

    def __str__(self) -> str:
        return f"rotate({self.view}, >>{self.shift})"
