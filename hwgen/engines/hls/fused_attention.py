"""Reference of the one-pass attention unit (hls/include/hwgen/fused_attention.hpp); source of the idea: FuseMax, MICRO'24.

It sees keys and values once. Its integers are not those of the golden model: the running bias is a whole octave, so that a correction
is a shift. The networks the compiler emits use the exact softmax; this unit stands beside it for sequences too long to keep scores.
"""

from __future__ import annotations

import numpy as np

from ... import numerics as nx

GUARD = 4                   # more bits of the sums, in which a correction rounds


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, num_heads: int, score_factor: tuple[int, int],
              out_factor: tuple[int, int]) -> np.ndarray:
    """q, k, v int8 [T, heads * head_dim] -> int8 [T, heads * head_dim] (as int64)."""
    tokens, channels = q.shape

    def heads(x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.int64).reshape(tokens, num_heads, -1).transpose(1, 0, 2)

    scores = nx.requantize(nx.matmul(heads(q), heads(k).transpose(0, 2, 1)), *score_factor, nx.WIDE_BITS)     # [H, T, T]
    octaves = (scores + (1 << nx.SCORE_FRAC) - 1) >> nx.SCORE_FRAC
    values = heads(v)
    bias = octaves[..., 0]
    total = np.zeros((num_heads, tokens), np.int64)
    weighted = np.zeros((num_heads, tokens, channels // num_heads), np.int64)
    for key in range(tokens):
        top = np.maximum(bias, octaves[..., key])
        rise = np.minimum(top - bias, 31)
        bias = top
        p = nx.exp2_p8((top << nx.SCORE_FRAC) - scores[..., key])
        total = nx.round_shift(total, rise) + (p << GUARD)
        weighted = nx.round_shift(weighted, rise[..., None]) + ((p[..., None] * values[:, None, key]) << GUARD)
    mult, shift = nx.softmax_factor(total, *out_factor)
    out: np.ndarray = nx.requantize(weighted, mult[..., None], shift[..., None], nx.ACT_BITS)
    return out.transpose(1, 0, 2).reshape(tokens, channels)
