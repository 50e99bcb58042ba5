"""LayerNorm of rows, or RMSNorm (rms): sums and sums of squares, one reciprocal square root a row. Gain and bias are left to the layer that reads y.

    x   int16 [rows, length]   in unit in_scale; -32768 counts as -32767
    y   int   [rows, length]   (x - mean) / sqrt(variance + eps), or x / sqrt(mean square + eps), in unit out_scale, 8 or 16 bits
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ... import numerics as nx
from .words import Words, pack


def golden(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """x -> y, bit for bit what the hardware computes."""
    x = np.maximum(np.asarray(x, np.int64), -32767)
    total = 0 * x[:, :1] if p.rms else x.sum(-1, keepdims=True)
    squares = (x * x).sum(-1, keepdims=True)
    coefficients = nx.norm_coefficients(total, squares, p.length, p.eps_int, p.inv_mult, p.inv_shift, p.mult, p.shift)
    return nx.normalize(x, *coefficients) if p.out_bits == 8 else nx.normalize_wide(x, *coefficients)


def reference(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """In floating point."""
    x = x * p.in_scale
    centred = x if p.rms else x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + p.eps))


def real(p: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """y as `reference` has it."""
    return np.asarray(y * p.out_scale)


def cases(p: SimpleNamespace, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, ...]]:
    """Rows, by what is special about them."""
    def normal(mean: float, deviation: float) -> np.ndarray:
        return np.clip(np.round(rng.normal(mean, deviation, (8, p.length))), -32767, 32767).astype(np.int64)
    few = np.zeros((2, p.length), np.int64)
    few[:, -1] = 1, -32768
    return {"standard deviation of 1000 units": (normal(0, 1000),), "of 1000, mean 4000": (normal(4000, 1000),), "of 20": (normal(0, 20),),
            "one element that is not 0": (few,), "constant": (np.full((2, p.length), 77),),
            "any 16 bits": (rng.integers(-32768, 32768, (8, p.length)),)}


def streams(p: SimpleNamespace, x: np.ndarray) -> dict[str, Words]:
    """x on its port."""
    return {"s_axis": pack(x, p.lanes, 16)}


def results(p: SimpleNamespace, y: np.ndarray) -> Words:
    """y on m_axis."""
    return pack(y, p.lanes, p.out_bits)
