"""Stage: the accumulators of all tokens are added up; the host divides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..format import ACCUMULATOR, Format
from ..tensor import Memory
from .base import Interval, Run, Stage, need

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Mean(Stage):
    """[..., tokens, channels] -> [..., 1, channels]. The bias counts once a token."""

    name: ClassVar[str] = "mean"
    hls: ClassVar[str] = "head"

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return np.asarray(x.sum(-2, keepdims=True))

    def shape(self, tokens: int, channels: int) -> tuple[int, int]:
        return 1, channels

    def format(self, before: Format, step: Step) -> Format:
        need(before, ACCUMULATOR, "a mean")
        return ACCUMULATOR

    def interval(self, x: Interval, step: Step) -> Interval:
        tokens = step.tokens
        return x[0] * tokens, x[1] * tokens

    def fields(self, step: Step) -> dict[str, int]:
        return {"mean": 1}

    def wrong(self, step: Step) -> str | None:
        return None if step.sink.tensor.memory is Memory.OUT else f"a mean is stored in {step.sink}, it can only leave"
