"""Networks that pool by attention with learned queries, as exporters spell it."""

from __future__ import annotations

import math

import numpy as np

from onnx_nets import DIM, HEADS, TOKENS, Net

HEAD = DIM // HEADS


def stacked(net: Net, x: str) -> list[str]:
    """k and v as [1, HEADS, T, HEAD] of one Linear, as timm makes them."""
    both = net.op("Reshape", net.linear(x, DIM, 2 * DIM), net.ints(1, -1, 2, HEADS, HEAD))
    both = net.op("Transpose", both, perm=[2, 0, 3, 1, 4])
    return [net.op("Gather", both, net.const(i, np.int64), axis=0) for i in range(2)]


def timm(net: Net, x: str, queries: int) -> str:
    """AttentionPoolLatent: the latent is expanded to the batch, sqrt(scale) on q and on k; [1, queries, DIM]"""
    batch = net.op("Concat", net.op("Shape", x, start=0, end=1), net.ints(1), net.ints(1), axis=0)
    latent = net.op("Expand", net.random(1, queries, DIM, scale=1.0), batch)
    q = net.op("Transpose", net.op("Reshape", net.linear(latent, DIM, DIM), net.ints(1, queries, HEADS, HEAD)), perm=[0, 2, 1, 3])
    k, v = stacked(net, x)
    root = net.op("Sqrt", net.op("Div", net.const(1.0), net.const(math.sqrt(HEAD))))
    scores = net.op("MatMul", net.op("Mul", q, root), net.op("Mul", net.op("Transpose", k, perm=[0, 1, 3, 2]), root))
    return net.linear(net.op("Reshape", net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3]),
                             net.ints(1, queries, DIM)), DIM, DIM)


def torch_heads(net: Net, x: str, count: int) -> str:
    """[T, 1, DIM] -> [HEADS, T, HEAD], as torch's multi_head_attention_forward makes them."""
    return net.op("Transpose", net.op("Reshape", x, net.ints(count, HEADS, HEAD)), perm=[1, 0, 2])


def torch(net: Net, x: str, queries: int) -> str:
    """nn.MultiheadAttention(probe, x, x): sequence first, heads as a batch; the probe is repeated for the batch."""
    probe = net.op("Transpose", net.op("Tile", net.random(1, queries, DIM, scale=1.0), net.ints(1, 1, 1)), perm=[1, 0, 2])
    tokens = net.op("Transpose", x, perm=[1, 0, 2])
    q = torch_heads(net, net.linear(probe, DIM, DIM), queries)
    k, v = (torch_heads(net, net.op("Squeeze", part, net.ints(0)), TOKENS) for part in net.op(
        "Split", net.op("Transpose", net.op("Reshape", net.linear(tokens, DIM, 2 * DIM), net.ints(TOKENS, 1, 2, DIM)), perm=[2, 0, 1, 3]),
        net.ints(1, 1), outputs=2, axis=0))
    scores = net.op("MatMul", net.op("Mul", q, net.const(HEAD ** -0.5)), net.op("Transpose", k, perm=[0, 2, 1]))
    y = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[1, 0, 2])
    y = net.op("Gemm", net.op("Reshape", y, net.ints(queries, DIM)), net.random(DIM, DIM), net.random(DIM), transB=1)
    return net.op("Transpose", net.op("Reshape", y, net.ints(queries, 1, DIM)), perm=[1, 0, 2])


def operator(net: Net, x: str, queries: int) -> str:
    """The Attention operator on packed heads."""
    q = net.linear(net.random(1, queries, DIM, scale=1.0), DIM, DIM)
    y = net.op("Attention", q, net.linear(x, DIM, DIM), net.linear(x, DIM, DIM), q_num_heads=HEADS, kv_num_heads=HEADS)
    return net.linear(y, DIM, DIM)


def einsum(net: Net, x: str, queries: int) -> str:
    """Written by hand; the query is one for all images and has no projection."""
    q = net.random(HEADS, queries, HEAD, scale=1.0)
    k, v = (net.op("Reshape", net.linear(x, DIM, DIM), net.ints(1, TOKENS, HEADS, HEAD)) for _ in range(2))
    weights = net.op("Softmax", net.op("Mul", net.op("Einsum", q, k, equation="hqd,bkhd->bhqk"), net.const(-0.3)), axis=-1)
    return net.linear(net.op("Reshape", net.op("Einsum", weights, v, equation="bhqk,bkhd->bqhd"), net.ints(1, queries, DIM)), DIM, DIM)


def seqpool(net: Net, x: str, queries: int) -> str:
    """A Linear weighs the tokens themselves: softmax(Linear(x), dim=1).transpose(-1, -2) @ x"""
    weights = net.op("Softmax", net.linear(x, DIM, queries), axis=1)
    return net.linear(net.op("MatMul", net.op("Transpose", weights, perm=[0, 2, 1]), x), DIM, DIM)


def seqpool_last(net: Net, x: str, queries: int) -> str:
    """The same without a bias, the scores transposed before the softmax; values of their own."""
    scores = net.op("Transpose", net.op("MatMul", x, net.random(DIM, queries, scale=1.0)), perm=[0, 2, 1])
    return net.linear(net.op("MatMul", net.op("Softmax", scores, axis=-1), net.linear(x, DIM, DIM)), DIM, DIM)


def weighted_sum(net: Net, x: str, queries: int) -> str:
    """(softmax(Linear(x).squeeze(-1)).unsqueeze(-1) * x).sum(1), of one query."""
    scores = net.op("Squeeze", net.linear(x, DIM, 1), net.ints(-1))
    weights = net.op("Unsqueeze", net.op("Softmax", scores, axis=-1), net.ints(-1))
    return net.linear(net.op("ReduceSum", net.op("Mul", weights, x), net.ints(1), keepdims=1), DIM, DIM)


SPELLINGS = {"timm": timm, "torch": torch, "operator": operator, "einsum": einsum}
OF_TOKENS = {"SeqPool": (seqpool, 1), "several weights a token": (seqpool, 3), "scores transposed": (seqpool_last, 2), "a weighted sum": (weighted_sum, 1)}
"""Spellings without keys, and their number of queries."""


def pooled(net: Net, spelling, queries: int, behind: str = "mlp") -> Net:
    """A block of an encoder, the pooling, and behind it: "rows", nothing; "head", a head on the first of the pooled rows; "mlp", the residual MLP of
    the rows before that; "mean", a head on the mean of the rows."""
    t = net.embed(net.image())
    t = net.norm(net.add(t, net.attention(net.norm(t))))
    p = spelling(net, t, queries)
    if behind == "rows":
        return net
    if behind == "mlp":
        p = net.add(p, net.mlp(net.norm(p)))
    net.head(p, pool="mean" if behind == "mean" else "class token")
    return net


def opset(spelling) -> int:
    """The lowest that has its operators."""
    return 23 if spelling is operator else 20
