"""A small GPT as transformers writes it: token ids, positions, Conv1D as Gemm on all tokens in a row, a causal buffer, the third power in GELU."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from onnx_nets import Net

VOCABULARY, CONTEXT, COUNT, DIM, HEADS = 50, 32, 12, 16, 2
HEAD = DIM // HEADS


def gpt2(blocks: int = 2, last: bool = True) -> Net:
    """Logits of the last token [1, 50], or of all [1, 12, 50]. The output projection is the table of the tokens."""
    return gpt2_with_cache(blocks, last)[0]


def gpt2_with_cache(blocks: int = 2, last: bool = True) -> tuple[Net, dict[str, str]]:
    """Also {name of transformers: value} of keys and values of each block, [1, heads, 12, head]: what a decode step begins with."""
    cache: dict[str, str] = {}
    net = Net(17)
    net.rng = np.random.default_rng(2)
    table = net.rng.normal(0, 0.5, (VOCABULARY, DIM))
    ids = net.op("Reshape", net.input("input_ids", [1, COUNT], TensorProto.INT64), net.ints(-1, COUNT))
    places = net.op("Unsqueeze", net.op("Range", *(net.const(value, np.int64) for value in (0, COUNT, 1))), net.ints(0))
    t = net.op("Add", net.op("Gather", net.const(table), ids), net.op("Gather", net.random(CONTEXT, DIM, scale=0.3), places))
    buffer = net.const(np.tri(CONTEXT)[None, None], np.bool_)
    for block in range(blocks):
        y, keys, values = _attention(net, _norm(net, t), buffer)
        cache |= {f"present.{block}.key": keys, f"present.{block}.value": values}
        t = net.op("Add", y, t)
        t = net.op("Add", t, _mlp(net, _norm(net, t)))
    t = _norm(net, t)
    if last:
        t = net.op("Gather", t, net.const(-1, np.int64), axis=1)
    net.op("MatMul", t, net.const(table.T))
    return net, cache


def _norm(net: Net, x: str) -> str:
    return net.op("LayerNormalization", x, net.random(DIM, offset=1.0), net.random(DIM), axis=-1, epsilon=1e-5)


def _conv1d(net: Net, x: str, k: int, n: int) -> str:
    flat = net.op("Gemm", net.op("Reshape", x, net.ints(-1, k)), net.random(k, n, scale=1 / math.sqrt(k)), net.random(n, scale=0.1))
    return net.op("Reshape", flat, net.ints(1, COUNT, n))


def _attention(net: Net, x: str, buffer: str) -> tuple[str, str, str]:
    """(result, keys, values)."""
    parts = net.op("Split", _conv1d(net, x, DIM, 3 * DIM), net.ints(DIM, DIM, DIM), outputs=3, axis=2)
    q, k, v = (net.op("Reshape", part, net.ints(1, COUNT, HEADS, HEAD)) for part in parts)
    q, k, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, k, v))
    scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(math.sqrt(HEAD)))
    shown = net.op("Slice", net.op("Slice", buffer, net.ints(0), net.ints(COUNT), net.ints(2)), net.ints(0), net.ints(COUNT), net.ints(3))
    weights = net.op("Softmax", net.op("Where", shown, scores, net.const(float(np.finfo(np.float32).min))), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    return _conv1d(net, net.op("Reshape", mixed, net.ints(1, COUNT, DIM)), DIM, DIM), k, v


def _mlp(net: Net, x: str) -> str:
    h = _conv1d(net, x, DIM, 2 * DIM)
    cubic = net.op("Add", h, net.op("Mul", net.const(0.044715), net.op("Pow", h, net.const(3.0))))
    tanh = net.op("Tanh", net.op("Mul", net.const(math.sqrt(2 / math.pi)), cubic))
    return _conv1d(net, net.op("Mul", net.op("Mul", net.const(0.5), h), net.op("Add", net.const(1.0), tanh)), 2 * DIM, DIM)
