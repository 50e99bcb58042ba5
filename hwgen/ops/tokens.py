"""ConcatTokens: constant tokens in front of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Const, Op, View
from ..matching.trial import Match, Mismatch, Trial, in_order
from .operands import plain
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class ConcatTokens(Operator):
    """Puts constant tokens (class token, distillation token) in front of the sequence."""

    x: str
    tokens: Array            # [P, D]

    COMMUTES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if x[-1] != self.tokens.shape[-1]:
            raise self.fail(f"tokens {self.tokens.shape} do not fit {x}")
        return x[0] + self.tokens.shape[0], x[1]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        return np.concatenate([np.broadcast_to(self.tokens, (len(x), *self.tokens.shape)), x], axis=1)

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        return {"tokens": self.tokens @ matrix}

    def lower(self, to: Lowering) -> None:
        """None of its own: it is in the constant that a residual stream starts with."""

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Concat": (concat_tokens,)})


def concat_tokens(op: Op, trial: Trial) -> Match | None:
    """Concat of constant tokens and the sequence along the token axis -> ConcatTokens."""
    views = [ref for ref in op.inputs if isinstance(ref, View)]
    if len(views) != 1:
        raise Mismatch(f"joins {len(views)} computed values; only constant tokens in front of a sequence are supported", op.name)
    x = plain(trial, views[0])
    if x is None:
        return None
    result = op.shape(0)
    rank, axis, dim = len(result), op.integer("axis", 0) % len(result), x.shape[-1]
    if rank < 2 or axis == rank - 1 or len(x.shape) != 2:
        raise Mismatch(f"joins along axis {axis} of {list(result)}, which is not the token axis", op.name)
    if op.inputs[-1] is not views[0]:
        raise Mismatch("puts constant tokens behind the sequence; only tokens in front of it are supported", op.name)
    if [size for size in result[:axis] if size != 1]:
        raise Mismatch(f"puts constant tokens in front of each of {math.prod(result[:axis])} groups of tokens; only tokens in front of the "
                       "whole sequence are supported", op.name)
    tokens = np.concatenate([ref.array.reshape(-1, dim) for ref in op.inputs if isinstance(ref, Const)])
    node = ConcatTokens(op.name, op.outputs[0], x.value, trial.array(tokens))
    return Match((node,), in_order(len(tokens) + x.shape[0], dim))
