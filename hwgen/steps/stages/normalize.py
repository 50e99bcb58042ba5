"""Feed: the residual stream, normalised on its way into the array. gamma and beta are in the weights that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Src
from ..format import INT8, WIDE, Format
from ..param import Factor
from .base import Feed, Run, need

if TYPE_CHECKING:
    from ..step import Step

RSQRT_FRAC = 23                     # of `numerics.rsqrt`
LARGEST = 1 << 62                   # what `numerics.bit_length` can take
EPS_BITS = 48                       # of the instruction field


@dataclass(frozen=True, slots=True)
class Normalize(Feed):
    """LayerNorm of each token: `numerics.norm_coefficients` and `numerics.normalize`.

    eps: added to D**2 * variance, >= 1. mean: factor of 16 / D. out: factor of D / (16 * scale of the int8 result).
    """

    eps: int
    mean: Factor
    out: Factor

    name: ClassVar[str] = "normalize"
    hls: ClassVar[str] = "layer_norm"

    def evaluate(self, run: Run) -> np.ndarray:
        x = run.read(run.step.source)
        mean, mult, shift = numerics.norm_coefficients(x.sum(-1), (x * x).sum(-1), x.shape[-1], self.eps, self.mean.mult,
                                                       self.mean.shift, self.out.mult, self.out.shift)
        run.inner.update(mean=mean, mult=mult, shift=shift)
        return numerics.normalize(x, mean[..., None], mult[..., None], shift[..., None])

    def format(self, step: Step) -> Format:
        need(step.source.tensor.format, WIDE, "a normalising feed")
        return INT8

    def fields(self, step: Step) -> dict[str, int]:
        view = step.source
        return {"src": Src.NORM, "src_row": view.tokens.start, "norm_dim": view.channels.count, "norm_eps": self.eps,
                "inv_mult": self.mean.mult, "inv_shift": self.mean.shift, "norm_mult": self.out.mult, "norm_shift": self.out.shift}

    def wrong(self, step: Step) -> str | None:
        if not step.source.all_channels:
            return "normalises a part of the channels"
        if not 1 <= self.eps < 1 << EPS_BITS:
            return f"eps {self.eps} is not in 1..2**{EPS_BITS}-1"
        if wrong := self.mean.wrong("16 / D") or self.out.wrong("norm"):
            return wrong
        largest = step.source.channels.count ** 2 * WIDE.hi ** 2 + self.eps
        if largest >= LARGEST:
            return f"{step.source.channels.count} channels are too many for the sums of a token"
        exponents = numerics.rsqrt(np.array([self.eps, largest]))[1]
        return run_time_shift("norm", *(int(e) + RSQRT_FRAC + self.out.shift - numerics.MULT_BITS for e in exponents))

    def __str__(self) -> str:
        return f"normalize(eps {self.eps}, mean {self.mean}, {self.out})"


def run_time_shift(what: str, low: int, high: int) -> str | None:
    """What is wrong with a shift that is computed at run time: beyond the shifter's range `numerics.scale_factor` would clip it."""
    if low < 1 or high > numerics.MAX_SHIFT:
        return f"{what}: the run-time shift can lie in {low}..{high}, the shifter does 1..{numerics.MAX_SHIFT}"
    return None
