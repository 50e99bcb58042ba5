"""Networks that go on with the tokens of the largest scores, in the spellings of exporters."""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
from onnx import TensorProto

from onnx_nets import DIM, HEADS, HIDDEN, INDEX_END, PATCH, Net

SIDE = 12                           # of the image
COUNT = (SIDE // PATCH) ** 2       # patches
KEEP = 5
PRUNED: dict[str, Callable[[Net, str, str], str]] = {}
Spelling = Callable[[Net, str, str], str]


def spelling(function: Spelling) -> Spelling:
    """Notes one: the tokens [1, 1 + COUNT, DIM] and what scores are made of -> [1, 1 + KEEP, DIM]."""
    PRUNED[function.__name__.replace("_", " ")] = function
    return function


def patches(net: Net, t: str) -> str:
    """All tokens but the first."""
    return net.op("Slice", t, net.ints(1), net.ints(INDEX_END), net.ints(1))


def top(net: Net, scores: str, k: int = KEEP, **attrs) -> str:
    """Indices [1, k] of the largest of [1, COUNT]."""
    return net.op("TopK", scores, net.ints(k), outputs=2, axis=-1, **attrs)[1]


def flat(net: Net, score: str) -> str:
    """[1, COUNT, 1] -> [1, COUNT]"""
    return net.op("Reshape", score, net.ints(1, -1))


def gathered(net: Net, t: str, index: str, k: int = KEEP) -> str:
    """torch.gather(t[:, 1:], 1, index[..., None].expand(-1, -1, D)), behind the first token."""
    wide = net.op("Expand", net.op("Unsqueeze", index, net.ints(-1)), net.ints(1, k, DIM))
    first = net.op("Slice", t, net.ints(0), net.ints(1), net.ints(1))
    return net.op("Concat", first, net.op("GatherElements", patches(net, t), wide, axis=1), axis=1)


@spelling
def gather_elements(net: Net, t: str, x: str) -> str:
    """A Linear with one result."""
    return gathered(net, t, top(net, flat(net, net.linear(patches(net, x), DIM, 1))))


@spelling
def log_softmax_of_two(net: Net, t: str, x: str) -> str:
    """DynamicViT: a small MLP, the logarithm of the probability that a token is kept; its first result."""
    hidden = net.op("Gelu", net.linear(patches(net, x), DIM, HIDDEN))
    scores = net.op("LogSoftmax", net.linear(hidden, HIDDEN, 2), axis=-1)
    return gathered(net, t, top(net, net.op("Gather", scores, net.const(0, np.int64), axis=2)))


@spelling
def sorted_as_they_stand(net: Net, t: str, x: str) -> str:
    """torch.sort of the indices: a second TopK, the smallest first."""
    index = net.op("Cast", top(net, flat(net, net.op("Sigmoid", net.linear(patches(net, x), DIM, 1)))), to=TensorProto.FLOAT)
    rising = net.op("TopK", index, net.ints(KEEP), outputs=2, axis=-1, largest=0)[0]
    return gathered(net, t, net.op("Cast", rising, to=TensorProto.INT64))


@spelling
def all_sorted_then_cut(net: Net, t: str, x: str) -> str:
    """argsort(descending)[:, :keep], then batch_index_select of all tokens with the first one: rows of a reshaped value."""
    order = top(net, flat(net, net.linear(patches(net, x), DIM, 1)), COUNT)
    some = net.op("Slice", order, net.ints(0), net.ints(KEEP), net.ints(1))
    index = net.op("Concat", net.ints(0), net.op("Reshape", net.op("Add", some, net.ints(1)), net.ints(-1)), axis=0)
    return net.op("Gather", t, index, axis=1)


@spelling
def the_smallest(net: Net, t: str, x: str) -> str:
    """Of scores that say which tokens go, GatherND."""
    index = top(net, flat(net, net.linear(patches(net, x), DIM, 1)), largest=0)
    pairs = net.op("Concat", net.const(np.zeros((1, KEEP, 1)), np.int64), net.op("Unsqueeze", index, net.ints(-1)), axis=-1)
    first = net.op("Slice", t, net.ints(0), net.ints(1), net.ints(1))
    return net.op("Concat", first, net.op("GatherND", patches(net, t), pairs), axis=1)


def embed(net: Net) -> str:
    """[1, 1 + COUNT, DIM]"""
    image = net.input("x", [1, 1, SIDE, SIDE])
    conv = net.op("Conv", image, net.random(DIM, 1, PATCH, PATCH), net.random(DIM), kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
    tokens = net.op("Transpose", net.op("Reshape", conv, net.ints(0, DIM, -1)), perm=[0, 2, 1])
    return net.op("Add", net.op("Concat", net.random(1, 1, DIM), tokens, axis=1), net.random(1, 1 + COUNT, DIM, scale=0.5))


def network(pruned: Spelling, pool: str = "class token") -> Net:
    """A block, the choice, a block of what is kept, a head."""
    net = Net()
    t = embed(net)
    t = net.add(t, net.attention(net.norm(t)))
    t = pruned(net, t, net.norm(t))
    t = net.add(t, net.attention(net.norm(t)))
    t = net.add(t, net.mlp(net.norm(t)))
    net.head(net.norm(t), pool=pool)
    return net


def by_class_attention(net: Net) -> Net:
    """EViT: the class token's attention, the mean of the heads, keeps tokens behind the attention it is of."""
    t = embed(net)
    x = net.norm(t)
    d = DIM // HEADS
    q, k, v = net.heads(x, "slice")
    scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(math.sqrt(d)))
    weights = net.op("Softmax", scores, axis=-1)
    t = net.add(t, net.linear(net.merged(net.op("MatMul", weights, v)), DIM, DIM))
    seen = net.op("Slice", weights, net.ints(0, 1), net.ints(1, INDEX_END), net.ints(2, 3))          # [1, heads, 1, COUNT]
    t = gathered(net, t, top(net, flat(net, net.mean(seen, axis=1, keepdims=0))))
    t = net.add(t, net.mlp(net.norm(t)))
    net.head(net.norm(net.add(t, net.attention(net.norm(t)))))
    return net
