"""Float linear maps -> integer weights, biases and factors, each content stored once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import Node
from ..steps.format import ACCUMULATOR, INT8, WIDE, Format
from ..steps.param import UNIT, Columns, Factor, Params
from ..steps.stages import Diagonal, Stationary
from ..steps.stages.tile import largest

SUM_LIMITS = {INT8: 1 << 30, WIDE: (3 << 29) - (1 << 26)}   # of sum |w| times the largest operand, all tokens a head adds up included
BIAS_LIMIT = 1 << 29     # of |bias| times those tokens; both together, what rounding of the weights adds included, stay below 2**31
RATIO_FLOOR = 2.0 ** -28  # least multiplier ratio, keeps a channel of zeros representable


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized linear map: ``tile`` gives accumulators, ``factor`` brings them to the unit of the result."""

    tile: Stationary
    factor: Columns


def factor(node: Node, what: str, ratio: float) -> Factor:
    """`Factor.of`, or a ModelError that names the node."""
    try:
        return Factor.of(float(ratio))
    except ValueError as error:
        raise node.fail(f"{what}: {error}", hint="does the calibration set match the model's normal input range, and a scale given by --quant "
                        "its values?") from error


def quantize_linear(node: Node, what: str, pool: Params, weight: np.ndarray, bias: np.ndarray, x_scale: float,
                    out_scale: float | np.ndarray | None, *, repeat: int = 1, form: Format = INT8, name: str = "",
                    scale: float | np.ndarray | None = None, x_form: Format = INT8,
                    steps: np.ndarray | None = None) -> Quantized:
    """``y = x @ weight + bias`` with weight float [K, N]: integers of ``form`` per output channel, bias int32. name: of the params.

    out_scale: real value of one output unit, a number, [1] or [N]; None when the accumulator itself leaves (head; multiplier 1).
    x_form: of the operand. repeat: accumulators added up by a mean. A channel's scale is its largest weight / 127 (with 4 bits the scale of
    the least squared error), or more where the bias or the sum of the weights would otherwise let the int32 accumulator overflow. scale: of
    the weights, a number or [N], instead of these; refused where the accumulator could overflow. steps: [N] of
    weights that are whole multiples of them, NaN where they are none; taken where the accumulator holds that.
    """
    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    top = form.hi
    least = np.maximum.reduce([
        np.abs(weight).sum(0) * (largest(x_form) * repeat / SUM_LIMITS[x_form]),
        np.abs(bias) * (repeat / (x_scale * BIAS_LIMIT)),
        np.broadcast_to((0.0 if out_scale is None else out_scale) * np.float64(RATIO_FLOOR) / x_scale, weight.shape[1])])
    if scale is None:
        w_scale = np.maximum(least, np.abs(weight).max(0) / top if form == INT8 else _least_error_scale(weight, top))
        w_scale[w_scale == 0.0] = 1.0
        if steps is not None:
            w_scale = np.where(steps >= least, steps, w_scale)       # not for NaN
    else:
        w_scale = _given(node, what, scale, least)
    acc_scale = x_scale * w_scale
    if out_scale is None:
        pairs = [UNIT] * len(w_scale)
    else:
        pairs = [factor(node, f"{what}, output channel {n}", ratio) for n, ratio in enumerate(acc_scale / out_scale)]
    integers = np.clip(np.rint(weight / w_scale), -top, top).astype(form.dtype)
    tile = Stationary(pool.add(f"{name}.weight", integers), pool.add(f"{name}.bias", np.rint(bias / acc_scale).astype(ACCUMULATOR.dtype)),
                      pool.add(f"{name}.scale", acc_scale), form)
    return Quantized(tile, _columns(pool, name, pairs))


def quantize_diagonal(node: Node, what: str, pool: Params, gamma: np.ndarray, beta: np.ndarray, x_scale: float, out_scale: float | np.ndarray, *,
                      name: str) -> tuple[Diagonal, Columns]:
    """``y = gamma * x + beta`` for each channel, gamma and beta float [N]: a factor of 16 bits and a bias of 32 for each. out_scale: real value
    of one output unit, a number, [1] or [N]. A gamma that is so small that the bias would overflow counts as a little larger."""
    gamma, beta = np.asarray(gamma, np.float64), np.asarray(beta, np.float64)
    least = np.broadcast_to(out_scale * np.float64(RATIO_FLOOR) / x_scale, gamma.shape)
    size = np.maximum.reduce([np.abs(gamma), np.abs(beta) / (x_scale * SUM_LIMITS[INT8]), least])
    pairs = [factor(node, f"{what}, channel {n}", ratio) for n, ratio in enumerate(size * x_scale / out_scale)]
    tile = Diagonal(pool.add(f"{name}.sign", np.where(gamma < 0, -1, 1).astype(INT8.dtype)),
                    pool.add(f"{name}.bias", np.rint(beta / (size * x_scale)).astype(ACCUMULATOR.dtype)))
    return tile, _columns(pool, name, pairs)


def identity(pool: Params, channels: int, scale: float | np.ndarray) -> Quantized:
    """``y = x``, for words of this scale, a number or [1] or [channels]: a column for each channel, times one."""
    name = f"identity{channels}"
    tile = Stationary(pool.add(f"{name}.weight", np.eye(channels, dtype=INT8.dtype)),
                      pool.add(f"{name}.bias", np.zeros(channels, ACCUMULATOR.dtype)), pool.add(f"{name}.scale", np.full(channels, scale)))
    return Quantized(tile, _columns(pool, name, [UNIT] * channels))


def _columns(pool: Params, name: str, pairs: list[Factor]) -> Columns:
    mult, shift = (pool.add(f"{name}.{key}", np.array([getattr(pair, key) for pair in pairs], np.int64)) for key in ("mult", "shift"))
    return Columns(mult, shift)


def _given(node: Node, what: str, scale: float | np.ndarray, least: np.ndarray) -> np.ndarray:
    """Scales from outside, [N], none of them below ``least``."""
    if np.size(scale) not in (1, len(least)):
        raise node.fail(f"{what}: {np.size(scale)} weight scales are given for {len(least)} output channels", hint="give one, or one a channel")
    given = np.broadcast_to(np.ravel(np.asarray(scale, np.float64)), least.shape)
    if (given < least).any():
        n = int(np.argmax(given < least))
        raise node.fail(f"{what}, output channel {n}: with a weight scale of {given[n]:.6g} the accumulator of 32 bits can overflow",
                        hint=f"a scale of {least[n]:.6g} or more fits; leave it out to have one chosen")
    return given


def _least_error_scale(weight: np.ndarray, top: int) -> np.ndarray:
    """Per column the scale, between half and all of the largest weight / top, that gives the least squared error."""
    largest = np.abs(weight).max(0) / top
    best: np.ndarray = largest
    least = np.full(weight.shape[1], np.inf)
    for factor in np.linspace(0.5, 1.0, 21):
        scale = np.where(largest > 0, largest * factor, 1.0)
        error = ((np.clip(np.rint(weight / scale), -top, top) * scale - weight) ** 2).sum(0)
        best, least = np.where(error < least, largest * factor, best), np.minimum(error, least)
    return best
