"""Masks of attention are what they compute: a causal one is read in any spelling, every other one is named."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.errors import ModelError
from hwgen.importer import import_model
from hwgen.ops.masks import LEAST
from hwgen.steps import golden
from masked_nets import CAUSAL, COUNT, HEAD, LOWER, additive, attention
from onnx_nets import DIM, HEADS, Net, result
from rule_checks import accepted, declined, kinds, tokens

MICROSOFT = "com.microsoft"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_mask(path, name):
    net = Net()
    attention(net, CAUSAL[name])
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear"] * 3 + ["Attention"] and graph.nodes[-1].causal
    assert graph.nodes[-1].scale == pytest.approx(HEAD ** -0.5 * (0.5 if name == "scaled behind" else 1))


def test_the_integer_network_sees_no_later_token(path):
    """Other tokens behind the third change nothing of the words of the first three, and the words of all others."""
    net = Net()
    attention(net, CAUSAL["added"])
    net.save(path, {"y": result(net)})
    images = np.random.default_rng(3).normal(size=(8, COUNT, DIM)).astype(np.float32)
    quantized = quantizer.quantize(import_model(path).model, {"x": images})
    other = images.copy()
    other[:, 3:] = np.random.default_rng(4).normal(size=other[:, 3:].shape)
    found, changed = (golden.run(quantized.tasks[0], x)["y"].reshape(8, COUNT, DIM) for x in (images, other))
    np.testing.assert_array_equal(found[:, :3], changed[:, :3])
    assert (found[:, 3:] != changed[:, 3:]).any(-1).all()


def operator(net: Net, *mask: str, **attributes) -> None:
    x = tokens(net, COUNT, DIM)
    net.op("Attention", *(net.linear(x, DIM, DIM) for _ in range(3)), *mask, name="attention", q_num_heads=HEADS, kv_num_heads=HEADS, **attributes)


@pytest.mark.parametrize("build", [
    lambda net: operator(net, is_causal=1), lambda net: operator(net, net.const(LOWER, np.bool_)),
    lambda net: operator(net, net.const(additive(LOWER)[None, None])), lambda net: operator(net, net.const(np.zeros((COUNT, COUNT))), is_causal=1),
], ids=["attribute", "mask of truths", "mask of numbers", "attribute and a mask of zeros"])
def test_the_operator(path, build):
    net = Net(23)
    build(net)
    assert accepted(net, path).nodes[-1].causal


@pytest.mark.parametrize("opset", [14, 20])
def test_operators_of_onnxruntime(path, opset):
    net = Net(opset)
    x = tokens(net, COUNT, DIM)
    y = net.op("Attention", x, net.random(DIM, 3 * DIM), net.random(3 * DIM), domain=MICROSOFT, num_heads=HEADS, unidirectional=1)
    net.op("MultiHeadAttention", y, y, y, domain=MICROSOFT, num_heads=HEADS, unidirectional=1)
    assert [node.causal for node in accepted(net, path).nodes if hasattr(node, "causal")] == [True, True]


def band(width: int) -> np.ndarray:
    return LOWER & ~np.tri(COUNT, k=-width, dtype=bool)


@pytest.mark.parametrize("shown", [
    ~np.tri(COUNT, k=-1, dtype=bool), band(3), LOWER | (np.arange(COUNT) < 2), np.broadcast_to(np.arange(COUNT) < 5, (COUNT, COUNT)),
    np.stack([LOWER, LOWER.T])[None]], ids=["backwards", "window", "prefix", "padding", "one for each head"])
def test_other_masks_are_a_constant_that_is_added(path, shown):
    net = Net()
    attention(net, lambda net, s: net.op("Add", s, net.const(additive(shown, -1e9)), name="mask"))
    node = accepted(net, path).nodes[-1]
    assert np.array_equal(node.bias <= LEAST, ~shown.reshape(-1, COUNT, COUNT)) and node.bias.max() == 0


def test_a_query_that_sees_nothing_is_named(path):
    net = Net()
    attention(net, lambda net, s: net.op("Add", s, net.const(additive(np.tri(COUNT, k=-1, dtype=bool), -1e9)), name="mask"))
    assert declined(net, path)["attention"] == "masks the scores in 'mask', which hides all keys from query 0; each has to see one at least"


BIASES = {
    "a position bias": (lambda net, s: net.op("Add", s, net.const(net.rng.normal(size=(1, HEADS, COUNT, COUNT)))), False, HEADS),
    "of all heads": (lambda net, s: net.op("Sub", net.const(net.rng.normal(size=(COUNT, COUNT))), net.op("Neg", s)), False, 1),
    "a weak mask": (lambda net, s: net.op("Add", s, net.const(additive(LOWER, -100.0))), False, 1),
    "behind a causal mask": (lambda net, s: net.op("Add", s, net.const(additive(LOWER) - 0.1 * np.arange(COUNT))), True, 1),
    "ALiBi": (lambda net, s: net.op("Add", net.op("Add", s, net.const(-np.array([0.5, 0.25])[:, None, None] * np.abs(np.subtract.outer(
        np.arange(COUNT), np.arange(COUNT))))), net.const(additive(LOWER))), True, HEADS),
    "scaled": (lambda net, s: net.op("Mul", net.op("Add", s, net.const(net.rng.normal(size=(COUNT, COUNT)))), net.const(0.5)), False, 1)}


@pytest.mark.parametrize("name", BIASES)
def test_a_constant_is_added_to_the_scores(path, name):
    change, causal, heads = BIASES[name]
    net = Net()
    attention(net, change)
    node = accepted(net, path).nodes[-1]
    assert (type(node).__name__, node.causal, len(node.bias)) == ("BiasedAttention", causal, heads)


def test_the_operators_mask_of_numbers_is_added(path):
    net = Net(23)
    operator(net, net.random(1, HEADS, COUNT, COUNT))
    assert accepted(net, path).nodes[-1].bias.shape == (HEADS, COUNT, COUNT)


def test_the_integer_network_sees_no_hidden_token(path):
    """Whatever the hidden tokens are, the words of those that do not see them stay, to the bit."""
    net, shown = Net(), np.arange(COUNT) < 5
    attention(net, lambda net, s: net.op("Add", s, net.const(additive(np.broadcast_to(shown, (COUNT, COUNT)), -1e4))))
    net.save(path, {"y": result(net)})
    images = np.random.default_rng(3).normal(size=(8, COUNT, DIM)).astype(np.float32)
    quantized = quantizer.quantize(import_model(path).model, {"x": images})
    other = images.copy()
    other[:, 5:] = 3 * np.random.default_rng(4).normal(size=other[:, 5:].shape)
    found, changed = (golden.run(quantized.tasks[0], x)["y"].reshape(8, COUNT, DIM) for x in (images, other))
    np.testing.assert_array_equal(found[:, :5], changed[:, :5])
    assert (found[:, 5:] != changed[:, 5:]).any()


def test_scores_too_large_beside_a_mask_are_named(path):
    net = Net()
    attention(net, lambda net, s: net.op("Add", s, net.const(additive(band(3), -1e9))), scale=4e4)
    net.save(path, {"y": result(net)})
    images = np.random.default_rng(3).normal(size=(8, COUNT, DIM)).astype(np.float32)
    with pytest.raises(ModelError) as caught:
        quantizer.quantize(import_model(path).model, {"x": images})
    assert "and a mask: the engine holds scores up to 706.3 beside one" in caught.value.message and "attention" in caught.value.where


@pytest.mark.parametrize("change, reason", [
    (lambda net, s: net.op("Mul", s, net.const(LOWER), name="mask"), "masks the scores in Mul node 'mask' and does more than that"),
    (lambda net, s: net.op("Clip", net.op("Add", s, net.const(additive(LOWER)), name="mask"), net.const(-1e9), net.const(30.0)),
     "masks the scores in Add node 'mask' and does more than that"),
    (lambda net, s: net.op("Add", s, net.op("Mul", s, s), name="mask"), "masks the scores in Add node 'mask' by something that is computed"),
], ids=["zeros", "clipped", "computed"])
def test_what_is_no_mask_is_named(path, change, reason):
    net = Net()
    attention(net, change)
    assert reason in declined(net, path)["attention"]


def test_constant_queries_see_all(path):
    net = Net()
    x = tokens(net, COUNT, DIM)
    k, v = (net.heads_of(net.linear(x, DIM, DIM)) for _ in range(2))
    scores = net.op("MatMul", net.random(1, HEADS, COUNT, HEAD), net.op("Transpose", k, perm=[0, 1, 3, 2]))
    net.op("MatMul", net.op("Softmax", net.op("Add", scores, net.const(additive(LOWER)))), v, name="attention")
    assert declined(net, path, rank=4)["attention"] == "is causal, with constant queries; they see all tokens"


def test_keys_times_queries_turned(path):
    net = Net()
    x = tokens(net, COUNT, DIM)
    q, k, v = (net.heads_of(net.linear(x, DIM, DIM)) for _ in range(3))
    scores = net.op("Transpose", net.op("MatMul", k, net.op("Transpose", q, perm=[0, 1, 3, 2])), perm=[0, 1, 3, 2])
    y = net.op("MatMul", net.op("Softmax", net.op("Add", scores, net.const(additive(LOWER))), axis=-1), v)
    net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
    assert accepted(net, path).nodes[-1].causal
