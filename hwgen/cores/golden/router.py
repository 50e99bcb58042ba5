"""Router of a mixture of experts: softmax of a token's logits in one pass, the top_k largest, the lowest number first where two are equal.

    x   int16 [tokens, experts]   logits times log2(e), for they count in the log2 domain, unit 2**-8; -32768 counts as -32767
    y   int   [tokens, top_k]     expert + 65536 * score, the best first; scores in unit 2**-16, 1.0 saturated; with renormalize shares of the chosen

A word has all logits of a token, a result all experts chosen for it.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ... import numerics as nx
from .words import Words, pack


def golden(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """x -> y, bit for bit what the hardware computes."""
    experts, scores = nx.route(np.maximum(x, -32767), p.top_k, p.renormalize)
    return np.asarray(experts + (scores << 16))


def reference(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """Scores in floating point, [tokens, top_k]."""
    weights = np.exp2((x - x.max(-1, keepdims=True)) / 256)
    weights /= weights.sum(-1, keepdims=True)
    best = -np.sort(-weights, axis=-1, kind="stable")[:, :p.top_k]
    return np.asarray(best / best.sum(-1, keepdims=True) if p.renormalize else best)


def real(p: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """The scores of y, as `reference` has them."""
    return (y >> 16) / 65536


def cases(p: SimpleNamespace, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, ...]]:
    """Tokens, by what is special about them."""
    def normal(octaves: float) -> np.ndarray:
        return np.clip(np.round(rng.normal(0, octaves * 256, (12, p.experts))), -32767, 32767).astype(np.int64)
    steps = np.sort(rng.integers(-3000, 3000, (4, p.experts)), axis=-1)
    return {"logits with a standard deviation of 1 octave": (normal(1),), "of 4 octaves": (normal(4),), "rising": (steps,),
            "falling": (steps[:, ::-1],), "ties": (rng.integers(0, 2, (4, p.experts)) * 256,),
            "any 16 bits": (rng.integers(-32768, 32768, (8, p.experts)),)}


def streams(p: SimpleNamespace, x: np.ndarray) -> dict[str, Words]:
    """x on its port: a token a word."""
    return {"s_axis": pack(x, p.experts, 16)}


def results(p: SimpleNamespace, y: np.ndarray) -> Words:
    """y on m_axis: a token a word."""
    return pack(y, p.top_k, 32)
