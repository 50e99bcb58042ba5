"""Convolutions inside a network, on tokens that stand on a grid or in a row: `Take` and `Linear`."""

from __future__ import annotations

import math

import numpy as np

from ..graph import Array
from ..matching.opgraph import Op, View
from ..matching.trial import Match, Mismatch, Trial, in_order
from ..steps.taken import NOTHING
from .embed import ungrouped, window_of
from .linear import Linear
from .operator import Spellings
from .take import Take


def convolution(op: Op, trial: Trial) -> Match | None:
    """Conv on tokens that stand on a grid, or in a row -> Take and Linear; without a Take where each token is a window of its own."""
    weight, ref = op.constant(1), op.operand(0)
    return _convolved(op, trial, ref, weight, op.integer("group", 1)) if isinstance(ref, View) and weight is not None else None


def average_pool(op: Op, trial: Trial) -> Match | None:
    """AveragePool of such tokens: a convolution of each channel by itself."""
    ref, kernel = op.operand(0), op.integers("kernel_shape")
    if not isinstance(ref, View) or len(ref.shape) != len(kernel) + 2:
        return None
    border = any(op.integers("pads")) or str(op.attrs.get("auto_pad", "NOTSET")).startswith("SAME")
    if op.attrs.get("ceil_mode", 0) or border and not op.attrs.get("count_include_pad", 0):
        raise Mismatch("has windows that reach over the border, which is not counted: each would be divided by another number", op.name)
    weight = np.full((ref.shape[1], 1, *kernel), 1 / math.prod(kernel), np.float32)
    return _convolved(op, trial, ref, weight, ref.shape[1])


def _convolved(op: Op, trial: Trial, ref: View, weight: Array, groups: int) -> Match | None:
    """By a weight [D, C / groups, h, w] or [D, C / groups, w], and the bias of the operator, if it has one."""
    found, bias = trial.where(ref), op.constant(2)
    if found is None:
        return None
    bound, positions = found
    if len(bound.shape) != 2 or bound.node is None:
        return None
    dim, channels = weight.shape[0], bound.shape[1]
    if positions.ndim != weight.ndim or weight.ndim not in (3, 4) or positions.shape[0] != 1 or dim % groups or channels != groups * weight.shape[1]:
        raise Mismatch(f"has an image {list(positions.shape)} of {bound.value!r} {list(bound.shape)} and a weight {list(weight.shape)} of "
                       f"{groups} groups", op.name)
    grid = positions.reshape(positions.shape[1], -1)
    if len(grid) != channels or (grid % channels != np.arange(channels)[:, None]).any() or (grid // channels != grid[0] // channels).any():
        raise Mismatch(f"reads {bound.value!r} {list(bound.shape)} as an image {list(positions.shape)} whose pixels are not its tokens, each with "
                       "all channels", op.name)
    size = (1, *positions.shape[2:])[-2:]
    window = window_of(op, list(weight.shape[2:]), (size[0], size[1]))
    if not all(window.places(*size)):
        raise Mismatch(f"has an image {list(positions.shape)} that holds no window of {window}", op.name)
    tokens = (grid[0] // channels).reshape(1, 1, *size)
    order = (window.cut(tokens + 1)[0].T - 1).astype(np.int32)                                # what lies on the border is 0 in a window
    used = (order != NOTHING).any(1)
    taps = ungrouped(weight.reshape(*weight.shape[:2], *window.kernel), groups).transpose(2, 3, 1, 0).reshape(window.words, channels, dim)[used]
    matrix = trial.array(taps.reshape(-1, dim) * np.float32(bound.factor * ref.scale))
    bias = trial.array(np.zeros(dim) if bias is None else bias)
    trial.rounds(bound.value, ref, bound.factor)
    places = in_order(dim, order.shape[1]).T
    if used.sum() == 1 and np.array_equal(order[used][0], np.arange(bound.shape[0])):
        return Match((Linear(op.name, op.outputs[0], bound.value, matrix, bias),), places)
    take = Take(op.name, trial.fresh(f"{op.outputs[0]}.windows"), bound.value, trial.pool.array(order[used]))
    return Match((take, Linear(op.name, op.outputs[0], take.output, matrix, bias)), places)


SPELLINGS = Spellings({"Conv": (convolution,), "AveragePool": (average_pool,)}, rank=-1)
