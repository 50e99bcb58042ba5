"""One head of attention: softmax of q k^T / sqrt(head_dim), times v. Exponentials have 8 bits; the one division of a row comes last.

    q, k, v   int8 [tokens, head_dim]   -127 .. 127, in units q_scale, k_scale, v_scale
    y         int8 [tokens, head_dim]   in unit out_scale; with causal a token sees itself and those before it

A word has ``lanes`` channels of one token. Words come in chunks of channels: the first chunk of every token, then the second.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ... import numerics as nx
from .words import Words, chunks


def golden(p: SimpleNamespace, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """y, bit for bit what the hardware computes."""
    scores = nx.requantize(nx.matmul(q, k.T), p.score_mult, p.score_shift, 16)
    seen = np.tri(p.tokens, dtype=bool) if p.causal else np.ones((p.tokens, p.tokens), bool)
    distance = np.where(seen, scores, -32767).max(-1, keepdims=True) - scores
    shares = np.where(seen, nx.exp2_p8(np.maximum(distance, 0), p.frac), 0)
    return nx.requantize(nx.matmul(shares, v), *nx.softmax_factor(shares.sum(-1, keepdims=True), p.mult, p.shift), 8)


def reference(p: SimpleNamespace, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """In floating point."""
    scores = (q * p.q_scale) @ (k * p.k_scale).T / np.sqrt(p.head_dim)
    scores = np.where(np.tri(p.tokens, dtype=bool), scores, -np.inf) if p.causal else scores
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True) @ (v * p.v_scale))


def real(p: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """y as `reference` has it."""
    return np.asarray(y * p.out_scale)


def cases(p: SimpleNamespace, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, ...]]:
    """Frames, by what is special about them."""
    shape = p.tokens, p.head_dim

    def normal(deviation: float, scale: float) -> np.ndarray:
        return np.clip(np.round(rng.normal(0, deviation / scale, shape)), -127, 127).astype(np.int64)
    q, k, v = (rng.integers(-127, 128, shape) for _ in range(3))
    return {"standard deviation of 1": (normal(1, p.q_scale), normal(1, p.k_scale), normal(1, p.v_scale)),
            "of 0.2": (normal(0.2, p.q_scale), normal(0.2, p.k_scale), normal(0.2, p.v_scale)),
            "all scores equal": (0 * q, k, v), "any 8 bits": (q, k, v)}


def streams(p: SimpleNamespace, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> dict[str, Words]:
    """A frame on its ports."""
    return {name: chunks(x, p.lanes, 8) for name, x in (("s_q", q), ("s_k", k), ("s_v", v))}


def results(p: SimpleNamespace, y: np.ndarray) -> Words:
    """y on m_axis."""
    return chunks(y, p.lanes, 8)
