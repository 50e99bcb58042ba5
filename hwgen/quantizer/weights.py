"""Float linear maps -> int8 `qir.Weights`, each stored once."""

from __future__ import annotations

import hashlib

import numpy as np

from .. import ir, numerics
from ..qir import Weights

SUM_LIMIT = 1 << 30      # of sum |w| * 128, all tokens a head adds up included
BIAS_LIMIT = 1 << 29     # of |bias| times those tokens; both together stay below 2**31
RATIO_FLOOR = 2.0 ** -28  # least multiplier ratio, keeps a channel of zeros representable


class Pool:
    """Hands out one object per content: equal arrays, and equal `Weights`, of two tasks become the same object."""

    def __init__(self):
        self._found: dict[tuple, object] = {}

    def array(self, array: np.ndarray) -> np.ndarray:
        data = np.ascontiguousarray(array)
        key = (str(data.dtype), data.shape, hashlib.sha256(data.tobytes()).digest())
        return self._found.setdefault(key, data)

    def weights(self, weight, bias, mult, shift, scale, bits) -> Weights:
        arrays = [self.array(a) for a in (weight, bias, mult, shift, scale)]
        return self._found.setdefault((bits, *map(id, arrays)), Weights(*arrays, bits))


def multiplier(node: ir.Node, what: str, ratio: float) -> tuple[int, int]:
    """`numerics.quantize_multiplier`, or a ModelError that names the node."""
    try:
        return numerics.quantize_multiplier(float(ratio))
    except ValueError as error:
        raise node.fail(f"{what}: {error}", hint="does the calibration set match the model's normal input range?") from error


def quantize_linear(node: ir.Node, what: str, pool: Pool, weight: np.ndarray, bias: np.ndarray, x_scale: float,
                    out_scale: float | None, *, repeat: int = 1, bits: int = 8) -> Weights:
    """``y = x @ weight + bias`` with weight float [K, N]: integers per output channel in [-127, 127] (4 bits: [-7, 7]), bias int32.

    out_scale: real value of one output unit; None when the accumulator itself leaves (head; multiplier 1).
    repeat: accumulators added up by a mean. A channel's scale is its largest weight / 127 (with 4 bits the scale of the least squared
    error), or more where the bias or the sum of the weights would otherwise let the int32 accumulator overflow.
    """
    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    top = (1 << bits - 1) - 1
    w_scale = np.maximum.reduce([
        np.abs(weight).max(0) / top if bits == 8 else _least_error_scale(weight, top),
        np.abs(weight).sum(0) * (128 * repeat / SUM_LIMIT),
        np.abs(bias) * (repeat / (x_scale * BIAS_LIMIT)),
        np.full(weight.shape[1], (out_scale or 0.0) * RATIO_FLOOR / x_scale)])
    w_scale[w_scale == 0.0] = 1.0
    acc_scale = x_scale * w_scale
    if out_scale is None:
        pairs = [(1 << 15, 15)] * len(w_scale)
    else:
        pairs = [multiplier(node, f"{what}, output channel {n}", s / out_scale) for n, s in enumerate(acc_scale)]
    mult, shift = np.array(pairs, np.int64).T
    return pool.weights(np.clip(np.rint(weight / w_scale), -top, top).astype(np.int8),
                        np.rint(bias / acc_scale).astype(np.int32), mult, shift, acc_scale, bits)


def _least_error_scale(weight: np.ndarray, top: int) -> np.ndarray:
    """Per column the scale, between half and all of the largest weight / top, that gives the least squared error."""
    largest = np.abs(weight).max(0) / top
    best, least = largest, np.full(weight.shape[1], np.inf)
    for factor in np.linspace(0.5, 1.0, 21):
        scale = np.where(largest > 0, largest * factor, 1.0)
        error = ((np.clip(np.rint(weight / scale), -top, top) * scale - weight) ** 2).sum(0)
        best, least = np.where(error < least, largest * factor, best), np.minimum(error, least)
    return best
