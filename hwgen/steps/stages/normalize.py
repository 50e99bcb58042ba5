"""Feed: the residual stream, normalised on its way into the array. gamma and beta are in the weights that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Src
from ..format import INT8, OPERANDS, WIDE, Format
from ..param import Factor
from .base import Feed, Run, need

if TYPE_CHECKING:
    from ..step import Step

RSQRT_FRAC = 23                     # of `numerics.rsqrt`
LARGEST = 1 << 62                   # what `numerics.bit_length` can take
EPS_BITS = 48                       # of the instruction field
SHIFTS = {INT8: (1, numerics.MAX_SHIFT), WIDE: (9, 36)}      # what a feed does; of 16 bits that of the high half


@dataclass(frozen=True, slots=True)
class Normalize(Feed):
    """LayerNorm of each token, or RMSNorm: `numerics.norm_coefficients` and `numerics.normalize`.

    eps: added to D**2 * variance, >= 1. mean: factor of 16 / D. out: factor of D / (16 * scale of the result), of 16 bits
    D / (16 * 256 * scale), that of the high half. to: of the result. rms: the mean counts as 0.
    """

    eps: int
    mean: Factor
    out: Factor
    to: Format = INT8
    rms: bool = False

    name: ClassVar[str] = "normalize"
    hls: ClassVar[str] = "layer_norm"

    def evaluate(self, run: Run) -> np.ndarray:
        x = run.read(run.step.source)
        total = np.zeros(x.shape[:-1], np.int64) if self.rms else x.sum(-1)
        mean, mult, shift = numerics.norm_coefficients(total, (x * x).sum(-1), x.shape[-1], self.eps, self.mean.mult, self.mean.shift,
                                                       self.out.mult, self.out.shift)
        run.inner.update(mean=mean, mult=mult, shift=shift)
        return result(self.to)(x, mean[..., None], mult[..., None], shift[..., None])

    def format(self, step: Step) -> Format:
        need(step.source.tensor.format, WIDE, "a normalising feed")
        return self.to

    def fields(self, step: Step) -> dict[str, int]:
        view = step.source
        return {"src": Src.NORM, "norm_dim": view.channels.count, "norm_eps": self.eps,
                "inv_mult": self.mean.mult, "inv_shift": self.mean.shift, "norm_mult": self.out.mult, "norm_shift": self.out.shift,
                "rms": int(self.rms)}

    def wrong(self, step: Step) -> str | None:
        if not step.source.all_channels:
            return "normalises a part of the channels"
        if not 1 <= self.eps < 1 << EPS_BITS:
            return f"eps {self.eps} is not in 1..2**{EPS_BITS}-1"
        if wrong := self.mean.wrong("16 / D") or self.out.wrong("norm") or no_operand(self.to):
            return wrong
        largest = step.source.channels.count ** 2 * WIDE.hi ** 2 + self.eps
        if largest >= LARGEST:
            return f"{step.source.channels.count} channels are too many for the sums of a token"
        exponents = numerics.rsqrt(np.array([self.eps, largest]))[1]
        low, high = (int(e) + RSQRT_FRAC + self.out.shift - numerics.MULT_BITS for e in exponents)
        return run_time_shift("norm", low, high, *SHIFTS[self.to])

    @property
    def brief(self) -> str:
        return self.name + (" rms" if self.rms else "") + ("" if self.to == INT8 else f" {self.to}")

    def __str__(self) -> str:
        return f"normalize(eps {self.eps}, mean {self.mean}, {self.out}{'' if self.to == INT8 else f', {self.to}'}{', rms' if self.rms else ''})"


def least_eps(out: Factor, to: Format) -> int:
    """The smallest eps with which the shift of a token without any variance is one that the feed does."""
    missing = SHIFTS[to][0] - int(numerics.rsqrt(1)[1]) - RSQRT_FRAC - out.shift + numerics.MULT_BITS
    return 1 << 2 * max(0, missing)                     # four times the eps is one more of the shift


def result(to: Format) -> Callable[..., np.ndarray]:
    """The function that gives such words of the residual stream, mean and factor."""
    return numerics.normalize if to == INT8 else numerics.normalize_wide


def no_operand(to: Format) -> str | None:
    """What is wrong with a format of what streams, or None."""
    return None if to in OPERANDS else f"the feed gives {' or '.join(map(str, OPERANDS))}, not {to}"


def run_time_shift(what: str, low: int, high: int, least: int = 1, most: int = numerics.MAX_SHIFT) -> str | None:
    """What is wrong with a shift that is computed at run time: beyond the shifter's range `numerics.scale_factor` would clip it."""
    if low < least or high > most:
        return f"{what}: the run-time shift can lie in {low}..{high}, the shifter does {least}..{most}"
    return None
