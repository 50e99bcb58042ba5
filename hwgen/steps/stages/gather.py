"""Feed: the tokens of an expert's queue, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...isa import Src
from ..format import INT8, Format
from .base import Feed, Run, need

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Gather(Feed):
    """The step's ``expert`` says whose."""

    name: ClassVar[str] = "gather"
    gathers: ClassVar[bool] = True
    hls: ClassVar[str] = "experts"

    def evaluate(self, run: Run) -> np.ndarray:
        return run.values[run.step.source.name][run.rows]

    def format(self, step: Step) -> Format:
        need(step.source.tensor.format, INT8, "a gathering feed")
        return INT8

    def fields(self, step: Step) -> dict[str, int]:
        return {"src": Src.ACT, "gather": 1}

    def wrong(self, step: Step) -> str | None:
        return "gathers tokens of no expert" if step.expert is None else None
