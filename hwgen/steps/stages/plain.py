"""Feed: words as they are, of 8 bits or of 16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...isa import Src
from ..format import OPERANDS, Format
from ..tensor import Memory
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
        need(step.source.tensor.format, OPERANDS, "a plain feed")
        return step.source.tensor.format

    def fields(self, step: Step) -> dict[str, int]:
        return {"src": Src.ACT}

    def wrong(self, step: Step) -> str | None:
        return f"streams {step.source} as it is, which another feed does" if step.source.tensor.memory is Memory.RES else None

    @property
    def brief(self) -> str:
        return ""
