"""Feed: the residual stream times a factor, without a normalisation: also just as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Src
from ..format import WIDE, Format
from ..param import Factor
from .base import Feed, Run, need
from .normalize import SHIFTS, no_operand, result

if TYPE_CHECKING:
    from ..step import Step

UNIT = 1 << numerics.MEAN_FRAC          # the residual stream enters in this many parts of a unit, as for `Normalize`
EXACT = Factor.of(1 / (UNIT << numerics.ACT_BITS))             # the words as they are, in 16 bits


@dataclass(frozen=True, slots=True)
class Rescale(Feed):
    """`numerics.normalize` with mean 0 and one factor for all tokens. out: unit of the stream over 16 times that of the result, of
    16 bits over 16 * 256 times, that of the high half."""

    out: Factor
    to: Format = WIDE

    name: ClassVar[str] = "rescale"
    hls: ClassVar[str] = "rescale"

    def evaluate(self, run: Run) -> np.ndarray:
        return result(self.to)(run.read(run.step.source), 0, self.out.mult, self.out.shift)

    def format(self, step: Step) -> Format:
        need(step.source.tensor.format, WIDE, "a rescaling feed")
        return self.to

    def fields(self, step: Step) -> dict[str, int]:
        return {"src": Src.RES, "norm_mult": self.out.mult, "norm_shift": self.out.shift}

    def wrong(self, step: Step) -> str | None:
        if not step.source.all_channels:
            return "rescales a part of the channels"
        if wrong := self.out.wrong("rescale") or no_operand(self.to):
            return wrong
        least, most = SHIFTS[self.to]
        return None if least <= self.out.shift <= most else f"rescale: shift {self.out.shift} is not in {least}..{most}"

    @property
    def brief(self) -> str:
        return self.name + ("" if self.to == WIDE else f" {self.to}")

    def __str__(self) -> str:
        return f"rescale({self.out}, {self.to})"
