"""Factors and offsets for each channel, head or head channel, at every place of a block, of q, k and v in one matrix or in three."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwgen import api
from onnx_nets import DIM, HEADS, HIDDEN, Net, result
from rule_checks import K, accepted, declined, kinds, tokens

SIZE = DIM // HEADS
Change = Callable[[Net, str], str]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def vector(net: Net, *shape: int) -> str:
    return net.random(*shape, offset=1.0)


def block(net: Net, packed: bool = True, total: Callable[[Net, str, str], str] = Net.add, **changes: Change) -> None:
    """changes: of a part, q, k, v, the attention weights, the heads, the branch that is added, what is between the layers of the MLP."""
    def changed(name: str, value: str) -> str:
        return changes[name](net, value) if name in changes else value
    x = net.input("x", [1, 5, DIM])
    t = net.linear(x, DIM, DIM)
    n = net.norm(t)
    if packed:
        parts = net.op("Split", net.linear(n, DIM, 3 * DIM), net.ints(DIM, DIM, DIM), outputs=3, axis=2)
    else:
        parts = [net.linear(n, DIM, DIM) for _ in range(3)]
    q, k, v = (changed(name, net.heads_of(changed("part", part))) for name, part in zip("qkv", parts, strict=True))
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(SIZE ** -0.5))
    weights = changed("weights", net.op("Softmax", scores, axis=-1))
    heads = changed("heads", net.op("MatMul", weights, v))
    joined = net.op("Reshape", net.op("Transpose", heads, perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
    t = total(net, t, changed("branch", net.linear(joined, DIM, DIM)))
    hidden = changed("hidden", net.act(net.linear(net.norm(t), DIM, HIDDEN)))
    net.head(net.norm(net.add(t, net.linear(hidden, HIDDEN, DIM))))


def number(value: float) -> Change:
    return lambda net, x: net.op("Mul", x, net.const(value))


def times(*shape: int) -> Change:
    return lambda net, x: net.op("Mul", x, vector(net, *shape))


def plus(*shape: int) -> Change:
    return lambda net, x: net.op("Add", x, vector(net, *shape))


def negative(net: Net, x: str) -> str:
    return net.op("Neg", x)


def batch_norm(net: Net, x: str) -> str:
    y = net.op("BatchNormalization", net.op("Transpose", x, perm=[0, 2, 1]), vector(net, HIDDEN), vector(net, HIDDEN), vector(net, HIDDEN),
               net.const(np.ones(HIDDEN)))
    return net.op("Transpose", y, perm=[0, 2, 1])


IN_HEADS = {
    "q by head channel": {"q": times(SIZE)}, "q by head": {"q": times(HEADS, 1, 1)}, "q plus": {"q": plus(HEADS, 1, SIZE)}, "q negative": {"q": negative},
    "k plus": {"k": plus(HEADS, 1, SIZE)}, "k by a number": {"k": number(0.3)},
    "v by a number": {"v": number(0.5)}, "v by head channel": {"v": times(SIZE)}, "v negative": {"v": negative},
    "weights by a number": {"weights": number(0.5)}, "weights by head": {"weights": times(HEADS, 1, 1)},
    "heads by head": {"heads": times(HEADS, 1, 1)}, "heads by a number": {"heads": number(-2.0)},
    "parts": {"part": times(DIM)}, "parts by a number": {"part": number(0.7)},
}
BEHIND = {
    "layer scale": {"branch": times(DIM)}, "number": {"branch": number(0.1)}, "negative": {"branch": negative},
    "divided": {"branch": lambda net, x: net.op("Div", x, vector(net, DIM))},
    "one less": {"branch": lambda net, x: net.op("Sub", net.const(1.0), x)}, "vector less": {"branch": lambda net, x: net.op("Sub", vector(net, DIM), x)},
    "difference": {"total": lambda net, t, y: net.op("Sub", t, y)}, "difference of the negative": {"total": lambda net, t, y: net.op("Sub", t, net.op("Neg", y))},
    "sum": {"total": lambda net, t, y: net.op("Sum", t, y)}, "sum of three": {"total": lambda net, t, y: net.op("Sum", t, y, net.random(DIM))},
    "mean": {"total": lambda net, t, y: net.op("Mean", t, y)},
    "negative of a difference": {"total": lambda net, t, y: net.op("Neg", net.op("Sub", net.op("Neg", t), y))},
    "stream times a number": {"total": lambda net, t, y: net.op("Add", net.op("Mul", t, net.const(0.5)), y)},
    "batch norm": {"hidden": batch_norm},
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", IN_HEADS)
def test_a_factor_in_the_heads_goes_into_the_weights(path, name, packed):
    net = Net()
    block(net, packed, **IN_HEADS[name])
    net.save(path, {"y": result(net)})
    checked = api.check(path)
    assert checked.ok and checked.onnx["onnx_cosine"] > 1 - 1e-9, str(checked.error)


@pytest.mark.parametrize("name", BEHIND)
def test_a_factor_behind_them_goes_into_the_weights(path, name):
    net = Net()
    block(net, **BEHIND[name])
    net.save(path, {"y": result(net)})
    checked = api.check(path)
    assert checked.ok and checked.onnx["onnx_cosine"] > 1 - 1e-9, str(checked.error)


NEAR = {
    "another for each token": ({"q": times(HEADS, 5, 1)}, "only supported as part of"),
    "another for each pair": ({"weights": times(1, 5, 5)}, "only supported as part of"),
    "zero": ({"q": number(0.0)}, "multiplies the scores by 0"),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_no_weights_can_take_in_is_refused(path, name):
    changes, reason = NEAR[name]
    net = Net()
    block(net, **changes)
    assert any(reason in found for found in declined(net, path, rank=2).values())


def test_a_linear_that_is_read_in_parts_becomes_several(path):
    """As parallel blocks have it: one matrix for q, k, v and the MLP."""
    net = Net()
    left, right = net.op("Split", net.linear(tokens(net), K, 10), net.ints(4, 6), outputs=2, axis=2)
    net.op("Add", net.linear(net.op("Relu", left), 4, K), right)
    assert sorted(kinds(accepted(net, path))) == ["Activation", "Add", "Linear", "Linear", "Linear"]
