"""Feed: int8 words as they are."""

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
class Plain(Feed):
    """The stream itself."""

    name: ClassVar[str] = "plain"
    hls: ClassVar[str] = ""

    def evaluate(self, run: Run) -> np.ndarray:
        return run.read(run.step.source)

    def format(self, step: Step) -> Format:
        need(step.source.tensor.format, INT8, "a plain feed")
        return INT8

    def fields(self, step: Step) -> dict[str, int]:
        return {"src": Src.ACT}

    @property
    def brief(self) -> str:
        return ""
