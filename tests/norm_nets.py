"""Small encoders whose norms stand where others' do not: behind the sum, behind a branch, on both sides of it, on heads of q and k."""

from __future__ import annotations

from functools import partial
import math

import numpy as np

from onnx_nets import DIM, HEADS, HIDDEN, TOKENS, Net

CLASSES = 5


def rms(net: Net, x: str, width: int = DIM, spelling: str = "operator", axis: int = -1) -> str:
    """RMSNorm over the last dimension, without beta."""
    gamma, eps = net.random(width, offset=1.0), net.const(1e-5)
    match spelling:
        case "operator":                                                     # opset 23
            return net.op("RMSNormalization", x, gamma, axis=axis, epsilon=1e-5)
        case "simplified":
            return net.op("SimplifiedLayerNormalization", x, gamma, axis=axis, epsilon=1e-5)
        case "pow":
            square = net.op("Pow", x, net.const(2.0))
        case _:
            square = net.op("Mul", x, x)
    root = net.op("Sqrt", net.op("Add", net.mean(square), eps))
    normal = net.op("Mul", x, net.op("Reciprocal", root)) if spelling == "reciprocal" else net.op("Div", x, root)
    return net.op("Mul", normal, gamma)


def layer(net: Net, x: str, width: int = DIM) -> str:
    """LayerNorm over the last dimension; some of gamma are negative."""
    gamma = net.rng.normal(1.0, 0.3, width) * np.where(np.arange(width) % 5 == 2, -1, 1)
    return net.op("LayerNormalization", x, net.const(gamma), net.random(width), axis=-1, epsilon=1e-5)


NORMS = {"layer": layer, "rms": rms, "rms simplified": partial(rms, spelling="simplified"), "rms pow": partial(rms, spelling="pow"),
         "rms mul": partial(rms, spelling="mul"), "rms reciprocal": partial(rms, spelling="reciprocal")}


def attention(net: Net, x: str, heads_norm: str | None = None, split: str = "slice") -> str:
    """heads_norm: one of `NORMS` for each head of q and of k; split: as `Net.heads` has it, or "early", normalised as [1, T, HEADS, d]."""
    d = DIM // HEADS
    if split == "early":
        q, k, v = (net.op("Reshape", net.linear(x, DIM, DIM), net.ints(1, -1, HEADS, d)) for _ in range(3))
        q, k, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (*(NORMS[str(heads_norm)](net, part, d) for part in (q, k)), v))
    else:
        q, k, v = net.heads(x, split)
        q, k = (NORMS[heads_norm](net, part, d) if heads_norm else part for part in (q, k))
    scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(math.sqrt(d)))
    return net.linear(net.merged(net.op("MatMul", net.op("Softmax", scores, axis=-1), v)), DIM, DIM)


def encoder(place: str = "post", norm: str = "layer", heads_norm: str | None = None, pool: str = "token", blocks: int = 2,
            split: str = "slice", opset: int = 23, seed: int = 0) -> tuple[Net, dict[str, str]]:
    """place of the norms: post (behind the sum), respost (behind each branch), sandwich (in front of it too), pre, embedded (post, and one behind
    the embedding). pool: token, mean (of tokens, then a norm), each (all tokens leave)."""
    net = Net(opset, seed)
    x, normed = net.embed(net.image()), NORMS[norm]
    if place == "embedded":
        x = normed(net, x)
    for _ in range(blocks):
        for branch in (partial(attention, heads_norm=heads_norm, split=split), mlp):
            y = branch(net, normed(net, x) if place in ("pre", "sandwich") else x)
            y = normed(net, y) if place in ("respost", "sandwich") else y
            x = net.op("Add", x, y)
            x = normed(net, x) if place in ("post", "embedded") else x
    match pool:
        case "mean":
            x = normed(net, net.mean(x, axis=1, keepdims=0))
        case "token":
            x = net.op("Gather", x if place in ("post", "embedded") else normed(net, x), net.const(0, np.int64), axis=1)
    return net, {"y": net.op("Gemm", x, net.random(DIM, CLASSES), net.random(CLASSES)) if pool != "each" else net.linear(x, DIM, CLASSES)}


def mlp(net: Net, x: str) -> str:
    return net.linear(net.act(net.linear(x, DIM, HIDDEN)), HIDDEN, DIM)


def shape(pool: str) -> tuple[int, ...]:
    """Of the output."""
    return (1, TOKENS, CLASSES) if pool == "each" else (1, CLASSES)
