"""Attentions with masks, in the spellings of exporters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_nets import DIM, HEADS, Net

COUNT, LOWEST = 7, float(np.finfo(np.float32).min)
HEAD = DIM // HEADS
LOWER = np.tri(COUNT, dtype=bool)


def additive(shown: np.ndarray, least: float = -np.inf) -> np.ndarray:
    return np.where(shown, 0.0, least)


def attention(net: Net, change: Callable[[Net, str], str], scale: float = HEAD ** -0.5, tokens: int = COUNT) -> str:
    """Attention of 7 tokens, or as many; ``change`` masks the scores."""
    x = net.input("x", [1, tokens, DIM])
    q, k, v = (net.heads_of(net.linear(x, DIM, DIM)) for _ in range(3))
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(scale))
    y = net.op("MatMul", net.op("Softmax", change(net, scores), axis=-1), v, name="attention")
    return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))


def ranges(net: Net) -> tuple[str, str]:
    """Places of the keys, and of the queries in a column, as exporters make them."""
    keys = net.op("Range", net.const(0, np.int64), net.const(COUNT, np.int64), net.const(1, np.int64))
    return keys, net.op("Unsqueeze", keys, net.ints(1))


def triangle(net: Net) -> str:
    return net.op("Trilu", net.const(np.ones((12, 12)), np.bool_), upper=0)


def sliced(net: Net) -> str:
    """Of a buffer for longer sequences."""
    return net.op("Slice", triangle(net), net.ints(0, 0), net.ints(COUNT, COUNT), net.ints(0, 1))


def written_by_gpt2(net: Net, s: str) -> str:
    """scores * b - 1e4 * (1 - b)"""
    b = net.op("Cast", sliced(net), to=1)
    return net.op("Sub", net.op("Mul", s, b), net.op("Mul", net.op("Sub", net.const(1.0), b), net.const(1e4)))


def filled(net: Net, s: str) -> str:
    return net.op("Where", net.op("Not", sliced(net)), net.const(-1e9), s)


def by_places(net: Net, s: str) -> str:
    keys, queries = ranges(net)
    return net.op("Add", s, net.op("Where", net.op("LessOrEqual", keys, queries), net.const(0.0), net.const(LOWEST)))


def with_zeros_of_padding(net: Net, s: str) -> str:
    """A mask of the keys that lets all pass, on top."""
    padding = net.op("Mul", net.op("Sub", net.const(1.0), net.const(np.ones((1, 1, 1, COUNT)))), net.const(LOWEST))
    return net.op("Add", net.op("Where", sliced(net), s, net.const(LOWEST)), padding)


def not_below_the_least(net: Net, s: str) -> str:
    return net.op("Max", net.op("Add", s, net.const(additive(LOWER, LOWEST)[None, None])), net.const(LOWEST))


def scaled_behind(net: Net, s: str) -> str:
    return net.op("Mul", net.op("Add", s, net.const(additive(LOWER, -1e9))), net.const(0.5))


CAUSAL = {
    "added": lambda net, s: net.op("Add", s, net.const(additive(LOWER))),
    "added, the least number": lambda net, s: net.op("Add", net.const(additive(LOWER, LOWEST)[None]), s),
    "added, for each head": lambda net, s: net.op("Add", s, net.const(np.repeat(additive(LOWER, -1e4)[None, None], HEADS, 1))),
    "and a number for each query": lambda net, s: net.op("Add", s, net.const(additive(LOWER) + np.arange(COUNT)[:, None])),
    "filled": filled, "by places": by_places, "GPT-2": written_by_gpt2, "with padding of nothing": with_zeros_of_padding,
    "maximum": not_below_the_least, "scaled behind": scaled_behind}


def _normal(net: Net, *shape: int) -> str:
    return net.const(net.rng.normal(size=shape))


DISTANCES = np.abs(np.subtract.outer(np.arange(COUNT), np.arange(COUNT)))
ADDED = {
    "a position bias of each head (BeiT, Swin)": lambda net, s: net.op("Add", s, _normal(net, 1, HEADS, COUNT, COUNT)),
    "gathered from a table (T5)": lambda net, s: net.op("Add", s, net.op("Transpose", net.op("Gather", _normal(net, COUNT, HEADS), net.const(
        DISTANCES, np.int64), axis=0), perm=[2, 0, 1])),
    "one for all heads": lambda net, s: net.op("Add", s, _normal(net, COUNT, COUNT)),
    "ALiBi, causal": lambda net, s: net.op("Add", net.op("Add", s, net.const(-np.array([0.5, 0.25])[:, None, None] * DISTANCES)), net.const(additive(LOWER))),
    "a window": lambda net, s: net.op("Add", s, net.const(additive(DISTANCES < 3, -1e9))),
    "blocks": lambda net, s: net.op("Where", net.const(np.equal.outer(np.arange(COUNT) // 3, np.arange(COUNT) // 3), bool), s, net.const(LOWEST)),
    "keys left out": lambda net, s: net.op("Add", s, net.const(additive(np.broadcast_to(np.arange(COUNT) < 5, (COUNT, COUNT)))))}
