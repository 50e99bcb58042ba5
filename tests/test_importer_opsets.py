"""Operator sets 9 to 24: what was an attribute and became an operand, what was written out and became an operator."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwgen import api
from hwgen.importer import import_model
from onnx_nets import DIM, HEADS, HIDDEN, PATCH, TOKENS, Net, result
from rule_checks import accepted, declined, words

OPSETS = [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]
SIZE = DIM // HEADS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def axes(net: Net, kind: str, x: str, *which: int, since: int = 13, **attributes) -> str:
    """An operator whose axes became an operand."""
    if net.opset < since:
        return net.op(kind, x, axes=list(which), **attributes)
    return net.op(kind, x, net.ints(*which), **attributes)


def sliced(net: Net, x: str, start: int, stop: int, axis: int) -> str:
    if net.opset < 10:
        return net.op("Slice", x, starts=[start], ends=[stop], axes=[axis])
    return net.op("Slice", x, net.ints(start), net.ints(stop), net.ints(axis))


def parts(net: Net, x: str, axis: int) -> list[str]:
    if net.opset < 13:
        return net.op("Split", x, outputs=3, axis=axis, split=[1, 1, 1])
    return net.op("Split", x, net.ints(1, 1, 1), outputs=3, axis=axis)


def norm(net: Net, x: str) -> str:
    gamma, beta = net.random(DIM, offset=1.0), net.random(DIM)
    if net.opset >= 17:
        return net.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-5)
    centered = net.op("Sub", x, net.mean(x))
    variance = net.op("Add", net.mean(net.op("Pow", centered, net.const(2.0))), net.const(1e-5))
    return net.op("Add", net.op("Mul", net.op("Div", centered, net.op("Sqrt", variance)), gamma), beta)


def gelu(net: Net, x: str) -> str:
    if net.opset >= 20:
        return net.op("Gelu", x)
    gate = net.op("Add", net.op("Erf", net.op("Div", x, net.const(math.sqrt(2)))), net.const(1.0))
    return net.op("Mul", net.op("Mul", x, gate), net.const(0.5))


def padded(net: Net, x: str) -> str:
    """Pad by nothing"""
    pads = [0] * 6
    return net.op("Pad", x, net.ints(*pads)) if net.opset >= 11 else net.op("Pad", x, pads=pads, mode="constant", value=0.0)


def attention(net: Net, x: str) -> str:
    stacked = net.op("Reshape", net.linear(x, DIM, 3 * DIM), net.ints(1, -1, 3, HEADS, SIZE))
    stacked = net.op("Transpose", stacked, perm=[2, 0, 3, 1, 4])
    q, k, v = (axes(net, "Squeeze", part, 0) for part in parts(net, stacked, 0))
    if net.opset >= 23:
        y = net.op("Attention", q, k, v)
    else:
        scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(math.sqrt(SIZE)))
        weights = net.op("Softmax", scores, axis=3 if net.opset < 13 else -1)
        y = net.op("MatMul", net.op("Dropout", weights), v)
    return net.linear(net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1)), DIM, DIM)


def network(opset: int) -> Net:
    """One block whose weights are the same in every operator set, in the operators of that set."""
    net = Net(opset)
    x = net.image()
    conv = net.op("Conv", x, net.random(DIM, 1, PATCH, PATCH), net.random(DIM), kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
    patches = net.op("Transpose", net.op("Flatten", axes(net, "Squeeze", conv, 0), axis=1), perm=[1, 0])
    patches = axes(net, "Unsqueeze", patches, 0)
    t = net.op("Add", net.op("Concat", net.random(1, 1, DIM), patches, axis=1), net.random(1, TOKENS, DIM))
    t = net.op("Add", t, attention(net, padded(net, norm(net, t))))
    t = net.op("Add", t, net.linear(gelu(net, net.linear(norm(net, t), DIM, HIDDEN)), HIDDEN, DIM))
    token = axes(net, "Squeeze", sliced(net, norm(net, t), 0, 1, 1), 1)
    net.op("Gemm", token, net.random(5, DIM), net.random(5), transB=1)
    return net


@pytest.mark.parametrize("opset", OPSETS)
def test_every_operator_set_gives_the_same_words(path, opset):
    assert np.array_equal(words(network(opset), path), words(network(20), path))


def test_a_batch_norm_of_the_first_operator_sets(path):
    net = Net(9)
    conv = net.op("Conv", net.image(), net.random(DIM, 1, PATCH, PATCH), net.random(DIM), kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
    y = net.op("BatchNormalization", conv, net.random(DIM, offset=1.0), net.random(DIM), net.random(DIM), net.const(np.ones(DIM)))
    t = net.op("Transpose", net.op("Reshape", y, net.ints(1, DIM, -1)), perm=[0, 2, 1])
    t = net.op("Add", t, attention(net, norm(net, t)))
    token = axes(net, "Squeeze", sliced(net, norm(net, t), 0, 1, 1), 1)
    net.op("Gemm", token, net.random(5, DIM), net.random(5), transB=1)
    net.save(path, {"y": result(net)})
    checked = api.check(path)
    assert checked.ok, str(checked.error)


def test_the_softmax_of_old_takes_all_axes_together(path):
    """Up to operator set 12 it has axis 1 and flattens: over heads and tokens at once."""
    net = Net(12)
    x = net.linear(net.input("x", [1, 5, DIM]), DIM, DIM)
    q, k, v = (net.heads_of(net.linear(x, DIM, DIM)) for _ in range(3))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])))
    net.op("MatMul", weights, v, name="attention")
    assert declined(net, path, rank=4)["attention"] == "has a Softmax 'softmax_0' over axis 1, not the last"


@pytest.mark.parametrize("opset", [23, 24])
def test_the_rms_norm_of_operator_set_23(path, opset):
    net = Net(opset)
    net.linear(net.op("RMSNormalization", net.linear(net.input("x", [1, 5, DIM]), DIM, DIM), net.random(DIM), name="norm"), DIM, DIM)
    assert [type(node).__name__ for node in accepted(net, path).nodes] == ["Linear", "RMSNorm", "Linear"]


def test_a_sequence_whose_length_is_chosen(path):
    net = Net()
    x = net.input("x", [1, "length", DIM])
    t = net.linear(x, DIM, DIM)
    heads = net.op("Concat", net.op("Slice", net.op("Shape", t), net.ints(0), net.ints(2), net.ints(0)), net.ints(HEADS, SIZE), axis=0)
    q, k, v = (net.op("Transpose", net.op("Reshape", part, heads), perm=[0, 2, 1, 3]) for part in
               net.op("Split", net.linear(net.norm(t), DIM, 3 * DIM), outputs=3, axis=2, num_outputs=3))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = net.op("Reshape", net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), net.ints(0, 0, DIM))
    net.head(net.norm(net.op("Add", t, net.linear(y, DIM, DIM))), pool="mean")
    net.save(path, {"y": result(net)})
    for length in (4, 7):
        (graph,) = import_model(path, {"x": (1, length, DIM)}).model.tasks
        assert graph.inputs == {"x": (length, DIM)}
