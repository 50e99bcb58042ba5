"""Softmax of rows: exponentials 255 * 2**(s - max) in 8 bits, their sum, one division a row.

    x   int16 [rows, length]   scores times log2(e), for they count in the log2 domain, in unit 2**-frac; -32768 counts as -32767
    y   int   [rows, length]   2**s / sum of 2**s, in unit 2**-7 (out_bits 8) or 2**-15 (out_bits 16), 1.0 saturated
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ... import numerics as nx
from .words import Words, pack


def golden(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """x -> y, bit for bit what the hardware computes."""
    x = np.maximum(np.asarray(x, np.int64), -32767)
    shares = nx.exp2_p8(x.max(-1, keepdims=True) - x, p.frac)
    mult, shift = nx.softmax_factor(shares.sum(-1, keepdims=True), p.mult, p.shift)
    return nx.requantize(shares, mult, shift, p.out_bits)


def reference(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """In floating point."""
    weights = np.exp2((x - x.max(-1, keepdims=True)) / 2 ** p.frac)
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def real(p: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """y as `reference` has it."""
    return np.asarray(y * 2.0 ** (1 - p.out_bits))


def cases(p: SimpleNamespace, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, ...]]:
    """Rows, by what is special about them."""
    one = 1 << p.frac

    def normal(octaves: float) -> np.ndarray:
        return np.clip(np.round(rng.normal(0, octaves * one, (8, p.length))), -32767, 32767).astype(np.int64)
    single = rng.integers(-one, one, (4, p.length))
    single[np.arange(4), rng.integers(0, p.length, 4)] += min(24 * one, 32767 - one)
    return {"scores with a standard deviation of 1 octave": (normal(1),), "of 4 octaves": (normal(4),), "one large score": (single,),
            "all equal": (np.full((2, p.length), -one),), "any 16 bits": (rng.integers(-32768, 32768, (8, p.length)),)}


def streams(p: SimpleNamespace, x: np.ndarray) -> dict[str, Words]:
    """x on its port."""
    return {"s_axis": pack(x, p.lanes, 16)}


def results(p: SimpleNamespace, y: np.ndarray) -> Words:
    """y on m_axis."""
    return pack(y, p.lanes, p.out_bits)
