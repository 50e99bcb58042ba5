"""Rewrite rules for attention: accepted ones give the numbers of onnxruntime, declined ones a reason."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_nets import DIM, HEADS, TOKENS, Net
from rule_checks import K, accepted, declined, kinds, tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def attention(net: Net, x: str, **change) -> str:
    """Attention of a token sequence [1, 5, K] with two heads of three channels; ``change`` says what is done otherwise."""
    def heads(value):
        return net.op("Transpose", net.op("Reshape", value, net.ints(1, -1, 2, 3)), perm=[0, 2, 1, 3])
    q, k, v = (net.linear(x, K, K) for _ in range(3))
    q, k, v = heads(q), heads(change.get("k", lambda k: k)(k)), heads(change.get("v", lambda v: v)(v))
    if "repeat" in change:
        first = [net.op("Slice", part, net.ints(0), net.ints(1), net.ints(1)) for part in (k, v)]
        k, v = (net.op("Expand", part, net.ints(1, 2, 5, 3)) for part in first)
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(change.get("scale", 0.6)))
    scores = change.get("scores", lambda s: s)(scores)
    weights = change.get("weights", lambda w: w)(net.op("Softmax", scores, axis=change.get("axis", -1), name="softmax"))
    y = net.op("MatMul", weights, v, name="attention")
    return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, -1, K))


def test_attention_with_one_key_head_for_all(path):
    net = Net()
    attention(net, tokens(net), repeat=True)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear"] * 3 + ["Attention"]
    np.testing.assert_array_equal(graph.nodes[1].weight[:, :3], graph.nodes[1].weight[:, 3:])


def test_attention_with_one_head(path):
    net = Net()
    x = tokens(net)
    q, k, v = (net.linear(x, K, K) for _ in range(3))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    net.op("MatMul", weights, v)
    graph = accepted(net, path)
    assert graph.nodes[-1].num_heads == 1 and graph.nodes[-1].scale == 1.0


def test_a_mask_that_lets_all_pass_does_nothing(path):
    net = Net()
    zeros = net.const(np.zeros((5, 5)))
    attention(net, tokens(net), scores=lambda s: net.op("Where", net.const(np.ones((5, 5)), np.bool_), net.op("Add", s, zeros),
                                                        net.const(-1e9)))
    assert kinds(accepted(net, path)) == ["Linear"] * 3 + ["Attention"]


def test_a_nan_guard_by_another_softmax_is_declined(path):
    net = Net()
    x = tokens(net)
    other = net.op("Softmax", net.linear(x, K, 5), axis=-1, name="other")
    guard = net.op("IsNaN", net.op("Expand", net.op("Unsqueeze", other, net.ints(1)), net.ints(1, 2, 5, 5)), name="isnan")
    attention(net, x, weights=lambda w: net.op("Where", guard, net.const(0.0), w, name="where"))
    assert {"other", "isnan", "where"} <= set(declined(net, path))


def test_a_computed_bias_on_the_scores_is_declined(path):
    net = Net()
    attention(net, tokens(net), scores=lambda s: net.op("Add", s, net.op("Mul", s, s), name="bias"))
    found = declined(net, path)
    assert found["attention"] == (
        "masks the scores in Add node 'bias' by something that is computed; only attention over all tokens, or over those up to its own (causal), or "
        "with a constant added to the scores, is supported")
    assert found["softmax"] == f"belongs to 'attention', which {found['attention']}"
    assert set(found) >= {"attention", "softmax", "bias"}


@pytest.mark.parametrize("change, reason", [
    (lambda net: {"axis": 2}, "has a Softmax 'softmax' over axis 2, not the last"),
    (lambda net: {"scale": 0.0}, "multiplies the scores by 0"),
    (lambda net: {"scores": lambda s: net.op("Relu", s, name="relu")},
     "has a softmax that reads Relu node 'relu', not a product of q and k"),
    (lambda net: {"k": lambda k: net.op("Gather", k, net.ints(1, 2, 3, 4, 0), axis=1)},
     ("has k that does not take the tokens of 'add_1.out' [5, 6] whole and in order (supported are windows of whole tokens, put in order "
      "in front of the Linear that gives q, k and v)")),
], ids=["axis", "zero", "relu", "shift"])
def test_other_attentions_are_declined(path, change, reason):
    net = Net()
    x = tokens(net)
    attention(net, x, **change(net))
    assert declined(net, path)["attention"] == reason


def test_heads_that_are_no_linear(path):
    net = Net()
    x = net.op("Relu", net.linear(tokens(net), K, 3 * K))
    q, k, v = net.op("Split", x, net.ints(K, K, K), outputs=3, axis=2)
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    net.op("MatMul", weights, v, name="attention")
    assert declined(net, path)["attention"] == "makes q of some channels of 'relu_0.out', which is no Linear"


def attention_operator(net: Net, *extra, heads=(HEADS, HEADS), packed=True, **attrs) -> str:
    x = net.input("x", [1, TOKENS, DIM])
    q, k, v = (net.linear(x, DIM, DIM) for _ in range(3))
    return net.op("Attention", q, k, v, *extra, name="attention", q_num_heads=heads[0], kv_num_heads=heads[1], **attrs)


def test_attention_operator_on_packed_heads(path):
    net = Net(23)
    attention_operator(net, net.const(np.zeros((TOKENS, TOKENS))), scale=0.3)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear"] * 3 + ["Attention"] and graph.nodes[-1].scale == pytest.approx(0.3)


PLAIN_ONLY = "caps its scores or returns more than the result; only plain attention is supported"


@pytest.mark.parametrize("build, reason", [
    (lambda net: attention_operator(net, softcap=3.0), PLAIN_ONLY),
], ids=["softcap"])
def test_other_attention_operators_are_declined(path, build, reason):
    net = Net(23)
    build(net)
    assert declined(net, path) == {"attention": reason}


@pytest.mark.parametrize("heads, shared, packed", [(2, 1, True), (4, 2, True), (4, 2, False), (4, 1, False)])
def test_keys_and_values_that_query_heads_share(path, heads, shared, packed):
    """Query heads that follow each other see one head of keys."""
    net = Net(23)
    x, size = net.input("x", [1, TOKENS, DIM]), DIM // heads
    q, k, v = net.linear(x, DIM, DIM), net.linear(x, DIM, shared * size), net.linear(x, DIM, shared * size)
    if packed:
        net.op("Attention", q, k, v, q_num_heads=heads, kv_num_heads=shared, is_causal=1)
    else:
        q, k, v = (net.op("Transpose", net.op("Reshape", part, net.ints(1, TOKENS, -1, size)), perm=[0, 2, 1, 3]) for part in (q, k, v))
        y = net.op("Attention", q, k, v)
        net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, TOKENS, DIM))
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear"] * 3 + ["Attention"] and graph.nodes[-1].num_heads == heads
    columns = graph.nodes[1].weight.reshape(DIM, shared, heads // shared, size)
    assert columns.shape[2] > 1 and (columns == columns[:, :, :1]).all()


def test_attention_over_a_vector_is_declined(path):
    net = Net()
    x = net.input("x", [1, K])
    q, k, v = (net.op("Reshape", net.linear(x, K, K), net.ints(1, 1, 1, K)) for _ in range(3))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    net.op("MatMul", weights, v, name="attention")
    assert declined(net, path, rank=4)["attention"] == (
        "has q [1, 1, 1, 6] of 'add_0.out' [6]; expected are [1, heads, tokens, channels] of one token sequence")
