"""An element-wise function: straight lines between knots 2**-5 apart, one line on each side beyond -16 and 16.

    x   int16 [rows, length]   in unit 2**-frac; -32768 counts as -32767
    y   int   [rows, length]   f(x) in unit out_scale, 8 or 16 bits
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from ... import numerics as nx
from .words import Words, pack


def golden(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """x -> y, bit for bit what the hardware computes."""
    (left, below), (right, above) = p.ends
    table = nx.Knots(np.array(p.knots), np.array(p.slopes), ((left, below), (right, above)))
    f = nx.activation(np.maximum(np.asarray(x, np.int64), -32767), table, p.frac)
    return nx.requantize(f, p.mult, p.shift, p.out_bits)


def reference(p: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """In floating point."""
    name, alpha = p.function.partition("(")[0], float(p.function.partition("(")[2].rstrip(")") or 0)
    f = {"gelu": lambda v: v * 0.5 * math.erfc(-v * math.sqrt(0.5)),
         "gelu_tanh": lambda v: v * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v ** 3))),
         "silu": lambda v: v * 0.5 * (1 + math.tanh(0.5 * v)), "relu": lambda v: max(v, 0.0), "hard_swish": lambda v: v * min(max(v / 6 + 0.5, 0), 1),
         "softplus": lambda v: max(v, 0) + math.log1p(math.exp(-abs(v))),
         "mish": lambda v: v * math.tanh(max(v, 0) + math.log1p(math.exp(-abs(v)))), "tanh": math.tanh,
         "sigmoid": lambda v: 0.5 + 0.5 * math.tanh(0.5 * v), "leaky_relu": lambda v: v if v >= 0 else alpha * v,
         "elu": lambda v: v if v >= 0 else alpha * math.expm1(v)}[name]
    return np.asarray(np.vectorize(f, otypes=[float])(np.asarray(x) / 2.0 ** p.frac))


def real(p: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """y as `reference` has it."""
    return np.asarray(y * p.out_scale)


def cases(p: SimpleNamespace, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, ...]]:
    """Rows, by what is special about them."""
    def within(limit: float) -> np.ndarray:
        top = min(round(limit * 2 ** p.frac), 32767)
        return rng.integers(-top, top + 1, (4, 16 * p.lanes))
    corners = np.resize([-32768, -32767, 32767, 0, 1, -1, 16 << p.frac if p.frac < 11 else 32767, -1 << p.frac], (1, 8 * p.lanes))
    return {"x within -1 .. 1": (within(1),), "x within -8 .. 8": (within(8),), "any 16 bits": (rng.integers(-32768, 32768, (4, 16 * p.lanes)),),
            "ends": (corners,)}


def streams(p: SimpleNamespace, x: np.ndarray) -> dict[str, Words]:
    """x on its port."""
    return {"s_axis": pack(x, p.lanes, 16)}


def results(p: SimpleNamespace, y: np.ndarray) -> Words:
    """y on m_axis."""
    return pack(y, p.lanes, p.out_bits)
