"""A small Llama as transformers writes it: RMSNorm, rotary positions by halves, key heads shared by expanding them, SwiGLU, the head tied to the table.

With `Sizes.normed` it is a Qwen3: an RMSNorm of each head of q and k in front of the rotation."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from onnx import TensorProto

from onnx_nets import Net


@dataclass(frozen=True)
class Sizes:
    vocabulary: int = 60
    count: int = 12
    dim: int = 24
    heads: int = 3
    key_heads: int = 1
    hidden: int = 40
    blocks: int = 2
    width: int = 0                   # of a head, 0: dim / heads
    normed: str = ""                 # heads of q and k, "before" they are in front of the tokens or "behind" that, or by the "operator"

    @property
    def head(self) -> int:
        return self.width or self.dim // self.heads


def llama(size: Sizes = Sizes(), last: bool = True, cached: bool = False) -> tuple[Net, dict[str, str], dict[str, list[int]]]:
    """(net, outputs, their shapes): logits of the last token [1, vocabulary] or of all; ``cached``: keys, after their rotation, and values of each
    block as well, [1, key heads, count, head]."""
    net = Net(17)
    net.rng = np.random.default_rng(4)
    table = net.random(size.vocabulary, size.dim, scale=0.5)
    t = net.op("Gather", table, net.input("input_ids", [1, size.count], TensorProto.INT64))
    cos, sin = _turns(net, size)
    hidden = net.const(np.triu(np.full((size.count, size.count), np.finfo(np.float32).min), 1)[None, None])
    outputs: dict[str, str] = {}
    for block in range(size.blocks):
        y, keys, values = _attention(net, size, _norm(net, size, t), cos, sin, hidden)
        if cached:
            outputs |= {f"present.{block}.key": keys, f"present.{block}.value": values}
        t = net.op("Add", t, y)
        x = _norm(net, size, t)
        gate = _linear(net, x, size.dim, size.hidden)
        gated = net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), _linear(net, x, size.dim, size.hidden))
        t = net.op("Add", t, _linear(net, gated, size.hidden, size.dim))
    t = _norm(net, size, t)
    if last:
        t = net.op("Gather", t, net.const(-1, np.int64), axis=1)
    logits = net.op("MatMul", t, net.op("Transpose", table, perm=[1, 0]))
    shapes = {name: [1, size.key_heads, size.count, size.head] for name in outputs}
    return net, {"logits": logits, **outputs}, {"logits": [1, size.vocabulary] if last else [1, size.count, size.vocabulary], **shapes}


def _linear(net: Net, x: str, k: int, n: int) -> str:
    return net.op("MatMul", x, net.random(k, n, scale=1 / math.sqrt(k)))


def _norm(net: Net, size: Sizes, x: str, width: int = 0) -> str:
    mean = net.op("ReduceMean", net.op("Pow", x, net.const(2.0)), axes=[-1], keepdims=1)
    root = net.op("Sqrt", net.op("Add", mean, net.const(1e-5)))
    return net.op("Mul", net.random(width or size.dim, offset=1.0, scale=0.2), net.op("Mul", x, net.op("Div", net.const(1.0), root)))


def _head_norm(net: Net, size: Sizes, x: str) -> str:
    if size.normed == "operator":
        return net.op("SimplifiedLayerNormalization", x, net.random(size.head, offset=1.0, scale=0.2), axis=-1, epsilon=1e-6)
    return _norm(net, size, x, size.head)


def _turns(net: Net, size: Sizes) -> tuple[str, str]:
    """cos and sin of each place, [1, 1, count, head]: from place numbers, as a graph computes them."""
    numbers = net.op("Range", *(net.const(value, np.int64) for value in (0, size.count, 1)))
    places = net.op("Cast", net.op("Reshape", numbers, net.ints(1, 1, size.count)), to=TensorProto.FLOAT)
    rates = net.const((10000.0 ** (-np.arange(0, size.head, 2) / size.head))[None, :, None])
    angles = net.op("Transpose", net.op("MatMul", rates, places), perm=[0, 2, 1])
    both = net.op("Concat", angles, angles, axis=-1)
    return net.op("Unsqueeze", net.op("Cos", both), net.ints(1)), net.op("Unsqueeze", net.op("Sin", both), net.ints(1))


def _turned(net: Net, size: Sizes, x: str, cos: str, sin: str) -> str:
    first = net.op("Slice", x, net.ints(0), net.ints(size.head // 2), net.ints(3))
    second = net.op("Slice", x, net.ints(size.head // 2), net.ints(np.iinfo(np.int64).max), net.ints(3))
    half = net.op("Concat", net.op("Neg", second), first, axis=-1)
    return net.op("Add", net.op("Mul", x, cos), net.op("Mul", half, sin))


def _attention(net: Net, size: Sizes, x: str, cos: str, sin: str, hidden: str) -> tuple[str, str, str]:
    """(result, keys, values)."""
    def heads(count: int, normed: str = "") -> str:
        y = net.op("Reshape", _linear(net, x, size.dim, count * size.head), net.ints(1, size.count, count, size.head))
        y = net.op("Transpose", _head_norm(net, size, y) if normed == "before" else y, perm=[0, 2, 1, 3])
        return y if normed in ("", "before") else _head_norm(net, size, y)

    def shared(value: str) -> str:
        shape = net.ints(1, size.key_heads, size.heads // size.key_heads, size.count, size.head)
        return net.op("Reshape", net.op("Expand", net.op("Unsqueeze", value, net.ints(2)), shape), net.ints(1, size.heads, size.count, size.head))
    q, k = (_turned(net, size, heads(count, size.normed), cos, sin) for count in (size.heads, size.key_heads))
    v = heads(size.key_heads)
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", shared(k), perm=[0, 1, 3, 2])), net.const(1 / math.sqrt(size.head)))
    weights = net.op("Softmax", net.op("Add", scores, hidden), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", weights, shared(v)), perm=[0, 2, 1, 3])
    return _linear(net, net.op("Reshape", mixed, net.ints(1, size.count, size.heads * size.head)), size.heads * size.head, size.dim), k, v
