"""Feed: a constant of the weight image (position embedding and class tokens, learned queries). Not multiplied; what is stored, or added to what
is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...isa import Op, Src
from ..format import INT8, WIDE, Format
from ..param import Param
from ..tensor import Memory
from .base import Feed, Run
from .tile import Identity

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Constant(Feed):
    """Tokens that are the same for every input. table: [T, D], int16 for the residual stream and for operands of the
    drain, int8 for the activation memory."""

    table: Param

    name: ClassVar[str] = "constant"
    brings: ClassVar[bool] = True
    hls: ClassVar[str] = "residual_init"

    @property
    def constant(self) -> np.ndarray:
        return self.table.array

    def evaluate(self, run: Run) -> np.ndarray:
        return np.repeat(self.table.array.astype(np.int64)[None], len(run.inputs), axis=0)

    def format(self, step: Step) -> Format:
        return INT8 if step.sink.tensor.memory is Memory.ACT else WIDE

    def fields(self, step: Step) -> dict[str, int]:
        return {"op": Op.STREAM, "src": Src.ACT if self.format(step) == INT8 else Src.NORM}

    def wrong(self, step: Step) -> str | None:
        sink, table, form = step.sink, self.table.array, self.format(step)
        if not isinstance(step.tile, Identity):
            return "a constant is multiplied"
        if table.shape != (sink.tokens.count, sink.channels.count):
            return f"the constant has shape {table.shape}, its place {(sink.tokens.count, sink.channels.count)}"
        if table.dtype != form.dtype or not form.holds(table):
            return f"the constant is {table.dtype} in {table.min()}..{table.max()}, not {form}"
        return None

    def __str__(self) -> str:
        return f"constant({self.table.name})"
