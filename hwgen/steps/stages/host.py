"""Feed: what the host sends with each frame. Not multiplied; the words go through the drain to where the step stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...isa import Op, Src
from ..format import INT8, WIDE, Format
from ..tensor import Memory
from ..window import Window
from .base import Feed, Run
from .tile import Identity

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Host(Feed):
    """[T, K] of the network's input ``input``, int8 for the activation memory, int16 for the residual stream; ``window``: the
    host cuts images [C, H, W], or signals [C, W], into tokens (`Window.cut`); None: the input is tokens already. front: tokens of zeros before
    those of the input."""

    input: str
    window: Window | None
    front: int = 0

    name: ClassVar[str] = "host"
    from_host: ClassVar[bool] = True
    brings: ClassVar[bool] = True
    hls: ClassVar[str] = "patches"

    def evaluate(self, run: Run) -> np.ndarray:
        return run.inputs.astype(np.int64)

    def format(self, step: Step) -> Format:
        return INT8 if step.sink.tensor.memory is Memory.ACT else WIDE

    def fields(self, step: Step) -> dict[str, int]:
        return {"op": Op.STREAM, "src": Src.ACT if self.format(step) == INT8 else Src.NORM}

    def wrong(self, step: Step) -> str | None:
        if not isinstance(step.tile, Identity) or not step.sink.whole:
            return f"the host's words are multiplied, or are a part of {step.sink.tensor}"
        if not 0 <= self.front < step.sink.tokens.count:
            return f"{self.front} of the {step.sink.tokens.count} tokens are none of the input"
        wrong = self.window.wrong() if self.window is not None else None
        return f"windows of {wrong}" if wrong else None

    @property
    def brief(self) -> str:
        return str(self)

    def __str__(self) -> str:
        cut = f", patches of {self.window}" if self.window is not None else ""
        return f"host({self.input}{cut}{f', behind {self.front} tokens of zeros' if self.front else ''})"
