"""A matrix of weights times tokens, with a bias and a factor for each column.

    x      int8 [tokens, inputs]    -127 .. 127
    w      int8 [inputs, outputs]   -127 .. 127
    bias   int32 [1, outputs]       the sums must fit 32 bits
    mult, shift   [1, outputs]      factor of a column, mult / 2**shift: 0 .. 65535, 1 .. 47
    y      int [tokens, outputs]    (x w + bias) * mult / 2**shift, rounded half up, 8 or 16 bits

A word has ``lanes`` channels of one token. Words come in chunks of channels: the first chunk of every token, then the second. s_w has the
weights of a frame: for every ``lanes`` columns 8 words of bias, mult and shift (`columns`), then a word for each ``lanes`` rows of a column.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ... import numerics as nx
from .words import Words, chunks, pack


def golden(p: SimpleNamespace, x: np.ndarray, w: np.ndarray, bias: np.ndarray, mult: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """y, bit for bit what the hardware computes; one frame or several, [frames * tokens, inputs]."""
    return nx.requantize(nx.matmul(x, w) + bias, mult, shift, p.out_bits)


def reference(p: SimpleNamespace, x: np.ndarray, w: np.ndarray, bias: np.ndarray, mult: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """In floating point."""
    return np.asarray((x.astype(float) @ w + bias) * (mult / 2.0 ** shift))


def real(p: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """y as `reference` has it."""
    return np.asarray(y, float)


def cases(p: SimpleNamespace, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, ...]]:
    """Frames, by what is special about them."""
    def some(high: int, spread: int) -> tuple[np.ndarray, ...]:
        x, w = rng.integers(-high, high + 1, (p.tokens, p.inputs)), rng.integers(-high, high + 1, (p.inputs, p.outputs))
        deviation = max(1.0, high * high * np.sqrt(p.inputs) / 3)
        ratios = 2.0 ** (p.out_bits - 3) / deviation * rng.uniform(0.3, 3, p.outputs) ** spread
        factors = np.array([nx.quantize_multiplier(ratio) for ratio in ratios])
        return x, w, rng.integers(-high, high + 1, (1, p.outputs)) * high, factors[:, 0][None], factors[:, 1][None]
    x, w, bias, mult, shift = some(127, 1)
    return {"any values": some(127, 1), "small values": some(5, 1), "results that saturate": (x, w, bias, 0 * mult + 65535, 0 * shift + 8)}


def columns(p: SimpleNamespace, bias: np.ndarray, mult: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What stands before the weights of each ``lanes`` columns, as bytes [outputs / lanes, 8 * lanes]."""
    records = np.zeros((p.outputs // p.lanes, p.lanes), np.dtype([("bias", "<i4"), ("mult", "<u2"), ("shift", "<u2")]))
    for name, values in (("bias", bias), ("mult", mult), ("shift", shift)):
        records[name] = values.reshape(records.shape)
    return records.view(np.uint8).reshape(len(records), -1)


def streams(p: SimpleNamespace, x: np.ndarray, w: np.ndarray, bias: np.ndarray, mult: np.ndarray, shift: np.ndarray) -> dict[str, Words]:
    """A frame on its ports."""
    tiles = w.reshape(p.inputs // p.lanes, p.lanes, p.outputs // p.lanes, p.lanes).transpose(2, 0, 3, 1).reshape(p.outputs // p.lanes, -1)
    weights = np.concatenate([columns(p, bias, mult, shift), tiles.astype(np.int8).view(np.uint8)], axis=1)
    return {"s_x": chunks(x, p.lanes, 8), "s_w": pack(weights.reshape(1, -1), p.lanes, 8)}


def results(p: SimpleNamespace, y: np.ndarray) -> Words:
    """y on m_axis."""
    return chunks(y, p.lanes, p.out_bits)
