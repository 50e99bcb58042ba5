"""Mixtures of gated experts (Mixtral, Llama-MoE, Qwen-MoE) in the spellings of exporters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_loops import pairs, places, zeros
from moe_spellings import Mix
from onnx_nets import DIM, EXPERTS, HIDDEN

W3 = np.random.default_rng(11).normal(0, 0.3, (EXPERTS, DIM, HIDDEN)).astype(np.float32)
B3 = np.random.default_rng(12).normal(0, 0.1, (EXPERTS, HIDDEN)).astype(np.float32)


def expert(m: Mix, e: int, x: str, act: str = "silu", swapped: bool = False) -> str:
    """With biases, two products."""
    gate, up = (m.op("Add", m.op("MatMul", x, m.net.const(w[e])), m.net.const(b[e])) for w, b in ((m.w1, m.b1), (W3, B3)))
    factors = (up, m.net.act(gate, act)) if swapped else (m.net.act(gate, act), up)
    return m.op("Add", m.op("MatMul", m.op("Mul", *factors), m.net.const(m.w2[e])), m.net.const(m.b2[e]))


def summed(m: Mix, expert: Callable[[int, str], str]) -> str:
    scores, rows = m.scores(), m.rows
    parts = [m.op("Mul", m.column(scores, e), expert(e, rows)) for e in range(EXPERTS)]
    return m.op("Sum", *parts)


def stack(m: Mix, fused: str = "") -> str:
    """Weights of all experts in one constant; fused: gate and up in one, side by side (Llama 4) or in turn (gpt-oss)."""
    net, x = m.net, m.op("Unsqueeze", m.rows, m.net.ints(0))
    if fused:
        turn = np.stack if fused == "in turn" else lambda parts, axis: np.concatenate(parts, -1)
        w, b = (turn(parts, axis=-1).reshape(EXPERTS, -1, 2 * HIDDEN) for parts in ((m.w1, W3), (m.b1[:, None], B3[:, None])))
        both = m.op("Add", m.op("MatMul", x, net.const(w)), net.const(b))
        first, step = ([0, 1], [2, 2]) if fused == "in turn" else ([0, HIDDEN], [1, 1])
        gate, up = (m.op("Slice", both, net.ints(start), net.ints(2 * HIDDEN if by == 2 else start + HIDDEN), net.ints(-1), net.ints(by))
                    for start, by in zip(first, step, strict=True))
    else:
        gate, up = (m.op("Add", m.op("MatMul", x, net.const(w)), net.const(b[:, None])) for w, b in ((m.w1, m.b1), (W3, B3)))
    y = m.op("Add", m.op("MatMul", m.op("Mul", net.act(gate, "silu"), up), net.const(m.w2)), net.const(m.b2[:, None]))
    scores = m.op("Unsqueeze", m.op("Transpose", m.scores(), perm=[1, 0]), net.ints(-1))
    return m.op("ReduceSum", m.op("Mul", y, scores), net.ints(0), keepdims=0)


def halves(m: Mix) -> str:
    """One product of each expert, that is split."""
    def one(e: int, x: str) -> str:
        both = m.op("Add", m.op("MatMul", x, m.net.const(np.concatenate([m.w1[e], W3[e]], -1))), m.net.const(np.concatenate([m.b1[e], B3[e]])))
        gate, up = m.op("Split", both, m.net.ints(HIDDEN, HIDDEN), outputs=2, axis=-1)
        return m.op("Add", m.op("MatMul", m.op("Mul", m.net.act(gate, "silu"), up), m.net.const(m.w2[e])), m.net.const(m.b2[e]))
    return summed(m, one)


def loop(m: Mix) -> str:
    """Each expert sees the tokens that chose it (Mixtral)."""
    (top, index), y, net = m.top(), zeros(m), m.net
    for e in range(EXPERTS):
        token, place = places(m, m.op("Equal", index, net.const(e, np.int64)), 2)
        share = m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), net.ints(-1))
        part = m.op("Mul", expert(m, e, m.op("Gather", m.rows, token, axis=0)), share)
        y = m.op("ScatterND", y, m.op("Unsqueeze", token, net.ints(-1)), part, reduction="add")
    return y


def shared(m: Mix) -> str:
    """An expert every token takes by a share of its own, gated too (Qwen-MoE)."""
    logit = m.op("MatMul", m.rows, m.net.random(DIM, 1))
    gate, up = (m.net.linear(m.rows, DIM, HIDDEN) for _ in range(2))
    y = m.net.linear(m.op("Mul", m.net.act(gate, "silu"), up), HIDDEN, DIM)
    return m.op("Add", loop(m), m.op("Mul", m.op("Sigmoid", logit), y))


GATED: dict[str, Callable[[Mix], str]] = {
    "SwiGLU, modules": lambda m: summed(m, lambda e, x: expert(m, e, x)),
    "SwiGLU, modules, the product the other way round": lambda m: summed(m, lambda e, x: expert(m, e, x, swapped=True)),
    "SwiGLU, stacked weights": stack,
    "SwiGLU, gate and up in one stack, side by side (Llama 4)": lambda m: stack(m, "side by side"),
    "SwiGLU, gate and up in one stack, in turn": lambda m: stack(m, "in turn"),
    "SwiGLU, one product that is split": halves,
    "SwiGLU, a loop in which an expert sees its own tokens (Mixtral)": loop}
OTHERS: dict[str, Callable[[Mix], str]] = {
    "GEGLU": lambda m: summed(m, lambda e, x: expert(m, e, x, "Gelu")),
    "ReGLU": lambda m: summed(m, lambda e, x: expert(m, e, x, "Relu"))}
