"""Stage: scores of experts -> the queue of each expert and the shares of the tokens in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ..format import RATING, SHARE, WIDE, Format
from ..param import Param
from .base import need
from .route import Route

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Choose(Route):
    """`numerics.route_scores`: the ``top_k`` with the largest score plus ``bias`` (int16 [1, experts], in the unit of scores); with
    ``renormalize`` their scores are divided by their sum."""

    bias: Param | None = None

    name: ClassVar[str] = "choose"
    hls: ClassVar[str] = "choose"

    def table_of(self, experts: int) -> np.ndarray:
        """The bias, int16 [1, experts]: zeros where there is none."""
        return np.zeros((1, experts), WIDE.dtype) if self.bias is None else self.bias.array

    def routed(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return numerics.route_scores(x, self.table_of(x.shape[-1])[0], self.top_k, self.renormalize)

    def format(self, before: Format, step: Step) -> Format:
        need(before, RATING, "a choice by scores")
        return SHARE

    def fields(self, step: Step) -> dict[str, int]:
        return {"top_k": self.top_k, "num_experts": step.columns, "renorm": int(self.renormalize), "biased": int(self.bias is not None)}

    def wrong(self, step: Step) -> str | None:
        if self.bias is not None and (self.bias.array.shape != (1, step.columns) or self.bias.array.dtype != WIDE.dtype
                                      or not WIDE.holds(self.bias.array)):
            return f"the bias of a choice among {step.columns} experts is {self.bias.array.dtype} {list(self.bias.array.shape)}"
        return None if 1 <= self.top_k <= step.columns else f"top-{self.top_k} of {step.columns} experts"

    def __str__(self) -> str:
        given = "" if self.bias is None else f", bias {self.bias.name}"
        return f"choose(top {self.top_k}{given}{', renormalize' if self.renormalize else ''})"
