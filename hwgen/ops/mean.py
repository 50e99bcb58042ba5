"""Mean: the average over the tokens of a sequence."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op, View
from ..matching.trial import Match, Mismatch, Trial, close, inverse, reduced_axes
from ..steps.tensor import Span
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class Mean(Operator):
    """Average over tokens ``start..T-1``: ``[T, D] -> [D]``."""

    x: str
    start: int = 0

    CHOOSES: ClassVar[bool] = True
    COMMUTES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or not 0 <= self.start < x[0]:
            raise self.fail(f"mean over tokens {self.start}.. of {x}")
        return x[1:]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        result: Array = operands[0][:, self.start:].mean(1)
        return result

    def lower(self, to: Lowering) -> None:
        to.choose(self, self.x, Span(self.start, to.float_shapes[self.x][0] - self.start), mean=True)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"ReduceMean": (mean,), "ReduceSum": (mean,)}, {"ReduceMean": "the mean of tokens"}, rank=7)


def mean(op: Op, trial: Trial) -> Match | None:
    """ReduceMean over the tokens start.. -> Mean; a ReduceSum that their number divides -> so many times that."""
    view, axes = op.ref(0), reduced_axes(op)
    found = trial.where(view)
    if found is None or not isinstance(view, View) or axes == [len(view.shape) - 1]:
        return None                                                  # over channels: part of a LayerNorm
    count = math.prod(view.shape[axis] for axis in axes) if op.kind == "ReduceSum" else 1
    if count > 1 and not any(isinstance(ref, View) and ref.base == op.outputs[0] and close(ref.scale * count, 1.0)
                             for ref in trial.graph.values.values()):
        return None
    bound, positions = found
    if not positions.size:
        raise Mismatch(f"averages {list(view.shape)}, which holds nothing", op.name)
    kept = [axis for axis in range(len(view.shape)) if axis not in axes]
    averaged = positions.transpose(*axes, *kept).reshape(math.prod(view.shape[axis] for axis in axes), -1)     # [averaged, results]
    tokens, channels = averaged // bound.shape[-1], averaged % bound.shape[-1]
    if (tokens == tokens[0]).all() and bound.shape[-1] == len(averaged):
        return None                                                  # the same in another layout
    last = bound.shape[0] - 1
    whole = len(bound.shape) == 2 and averaged.shape[1] == bound.shape[1] and (channels == channels[0]).all() \
        and (np.sort(tokens, 0) == np.arange(last + 1 - len(tokens), last + 1)[:, None]).all()
    place = inverse(channels[0]) if whole else None
    if place is None:
        raise Mismatch(f"averages axes {axes} of {list(view.shape)}, not the tokens of a sequence up to the last", op.name)
    return Match((Mean(op.name, op.outputs[0], bound.value, last + 1 - len(tokens)),), place, factor=bound.factor * view.scale * count)
