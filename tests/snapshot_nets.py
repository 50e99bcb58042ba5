"""The networks of tests/snapshots. The files are committed; `python tests/snapshot_nets.py NAME` writes one anew, or one that joins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import sys

import numpy as np

import onnx_nets
from onnx_nets import DIM, Net

FOLDER = Path(__file__).parent / "snapshots"


def vit(**options) -> tuple[Net, dict[str, str]]:
    net = onnx_nets.vit(**options)
    return net, {"y": onnx_nets.result(net)}


def two_blocks() -> tuple[Net, dict[str, str]]:
    """An attention each, then a dense and a sparse block, as in a M3ViT."""
    net = Net()
    t = net.embed(net.image())
    t = net.add(t, net.attention(net.norm(t), "chunk"))
    t = net.add(t, net.mlp(net.norm(t)))
    t = net.add(t, net.attention(net.norm(t), "chunk"))
    t = net.add(t, net.moe(net.norm(t), "renormalized"))
    return net, {"y": net.head(net.norm(t))}


def two_tasks() -> tuple[Net, dict[str, str]]:
    """One trunk and one set of experts; a gate and a head for each task."""
    net = Net()
    t = net.embed(net.image())
    t = net.add(t, net.attention(net.norm(t)))
    n, experts = net.norm(t), net.experts()
    outputs = {name: net.head(net.norm(net.add(t, net.moe(n, experts=experts))), classes) for name, classes in (("depth", 1), ("digit", 10))}
    return net, outputs


def tokens() -> tuple[Net, dict[str, str]]:
    """No image: a sequence that a Linear embeds."""
    net = Net()
    x = net.input("tokens", [1, 6, 12])
    t = net.add(net.linear(x, 12, DIM), net.random(1, 6, DIM))
    t = net.add(t, net.mlp(net.norm(t), "Relu"))
    return net, {"y": net.head(net.norm(t), pool="mean")}


def two_causes() -> tuple[Net, dict[str, str]]:
    """A computed mask on the attention of one block, an activation without a table in the other."""
    net = Net()
    t = net.embed(net.image())
    n = net.norm(t)
    q, k, v = net.heads(n, "separate")
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net.op("Softmax", net.op("Add", scores, net.op("Mul", scores, scores)), axis=-1)
    y = net.op("Reshape", net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
    t = net.add(t, net.linear(y, DIM, DIM))
    t = net.add(t, net.mlp(net.norm(t), "Celu"))
    return net, {"y": net.head(net.norm(t))}


def causal() -> tuple[Net, dict[str, str]]:
    """Tokens see those before them, in two spellings, and the last one leaves."""
    net = Net()
    t = net.op("Add", net.linear(net.input("x", [1, 6, 8]), 8, DIM), net.random(1, 6, DIM))
    for masked in (lambda s: net.op("Add", s, net.const(np.triu(np.full((6, 6), -np.inf), 1))),
                   lambda s: net.op("Where", net.const(np.tri(6), np.bool_), s, net.const(-1e9))):
        q, k, v = net.heads(net.norm(t), "separate")
        weights = net.op("Softmax", masked(net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))), axis=-1)
        y = net.op("Reshape", net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
        t = net.add(t, net.linear(y, DIM, DIM))
    last = net.op("Gather", net.norm(t), net.const(-1, np.int64), axis=1)
    return net, {"y": net.linear(last, DIM, 5)}


def operands() -> tuple[Net, dict[str, str]]:
    """A position bias on the scores, a gated MLP."""
    net = Net()
    t = net.embed(net.image())
    q, k, v = net.heads(net.norm(t), "separate")
    scores = net.op("Add", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.random(1, 2, 5, 5))
    t = net.add(t, net.linear(net.merged(net.op("MatMul", net.op("Softmax", scores, axis=-1), v)), DIM, DIM))
    n = net.norm(t)
    t = net.add(t, net.linear(net.op("Mul", net.act(net.linear(n, DIM, 24), "silu"), net.linear(n, DIM, 24)), 24, DIM))
    return net, {"y": net.head(net.norm(t))}


def post_norm() -> tuple[Net, dict[str, str]]:
    """The norm behind each addition, twice."""
    net = Net()
    t = net.embed(net.image())
    t = net.norm(net.add(t, net.attention(t)))
    t = net.norm(net.add(t, net.mlp(t)))
    return net, {"y": net.head(t)}


NETS: dict[str, Callable[[], tuple[Net, dict[str, str]]]] = {
    "class_token": lambda: vit(), "mean_pool": lambda: vit(pool="mean of patches", act="silu", layer_scale=True, norm=True), "two_blocks": two_blocks,
    "two_tasks": two_tasks, "narrow_weights": lambda: vit(router="plain"), "batch": lambda: vit(split="chunk", act="erf"), "tokens": tokens,
    "two_causes": two_causes, "post_norm": post_norm, "causal": causal,
    "operands": operands}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        net, outputs = NETS[name]()
        net.save(FOLDER / f"{name}.onnx", outputs)
