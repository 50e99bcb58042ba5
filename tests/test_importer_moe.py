"""Rewrite rules for the mixture of experts: accepted ones give the numbers of onnxruntime, declined ones a reason."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.functions import titles
from onnx_nets import DIM, EXPERTS, TOKENS, Net
from rule_checks import accepted, declined, kinds, tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def moe(net: Net, **change) -> str:
    """A mixture of experts on [1, TOKENS, DIM]; ``change`` holds functions that replace a part."""
    same = lambda value: value
    x = net.input("x", [1, TOKENS, DIM])
    rows = net.op("Reshape", x, net.ints(-1, DIM))
    logits = change.get("logits", same)(net.op("MatMul", rows, net.random(DIM, EXPERTS, scale=1.0)))
    probs = net.op("Softmax", logits, axis=change.get("axis", -1), name="softmax")
    top, index = net.op("TopK", probs, net.ints(2), outputs=2, axis=-1, name="topk", largest=change.get("largest", 1))
    zeros = net.const(np.full((TOKENS, EXPERTS), change.get("zero", 0.0)))
    scores = net.op("ScatterElements", zeros, index, change.get("top", same)(top), axis=1, name="scatter")
    w1, b1, w2, b2 = net.experts()
    read = change.get("read", lambda rows: net.op("Unsqueeze", rows, net.ints(0)))(rows)
    hidden = change.get("act", lambda h: net.op("Gelu", h))(net.op("Add", net.op("MatMul", read, w1), b1))
    y = change.get("y", same)(net.op("Add", net.op("MatMul", hidden, w2), change.get("b2", same)(b2)))
    scores = net.op("Unsqueeze", net.op("Transpose", change.get("scores", same)(scores), perm=[1, 0]), net.ints(-1))
    y = net.op("ReduceSum", net.op("Mul", scores, y), net.ints(0), keepdims=0, name="moe")
    return net.op("Unsqueeze", y, net.ints(0))


@pytest.mark.parametrize("change", [
    lambda net: {},
    lambda net: {"logits": lambda v: net.op("Mul", net.op("Add", v, net.random(EXPERTS)), net.const(0.5))},
    lambda net: {"read": lambda rows: net.op("Expand", rows, net.ints(EXPERTS, TOKENS, DIM))},
    lambda net: {"y": lambda y: net.op("Mul", y, net.const(0.25))},
    lambda net: {"top": lambda top: net.op("Mul", top, net.const(1.0))},
    lambda net: {"scores": lambda s: net.op("Mul", s, net.const(2.5))},
], ids=["plain", "gate with bias and temperature", "repeated tokens", "scaled", "times one", "scaled scores"])
def test_moe(path, change):
    net = Net()
    moe(net, **change(net))
    assert kinds(accepted(net, path)) == ["MoE"]


@pytest.mark.parametrize("change, reason", [
    (lambda net: {"axis": 0}, "has a router Softmax 'softmax' over axis 0, not over the experts"),
    (lambda net: {"largest": 0}, "has a router whose 'topk' is not a constant top-k of the largest over the experts"),
    (lambda net: {"zero": 1.0}, "has a router whose 'scatter' does not put scores into zeros along the experts"),
    (lambda net: {"top": lambda top: net.op("Sqrt", top, name="root")},
     "changes the top-k scores in 'root.out'; supported are the scores themselves, and the scores divided by their sum"),
    (lambda net: {"top": lambda top: net.op("Div", top, net.op("Add", net.op("ReduceSum", top, net.ints(-1)), net.const(1e-3)),
                                             name="div")},
     "changes the top-k scores in 'div'; supported are the scores themselves, and the scores divided by their sum"),
    (lambda net: {"logits": lambda v: net.op("Mul", v, net.const(-1.0))}, "multiplies the logits of its router by -1"),
    (lambda net: {"logits": lambda v: net.op("Relu", v)}, "has a router that reads 'relu_0.out', which is no Linear"),
    (lambda net: {"act": lambda h: net.op("Erf", h, name="erf")},
     f"has Erf node 'erf' between the layers of its experts; supported are {titles('and')}"),
    (lambda net: {"y": lambda y: net.op("Relu", y, name="relu")},
     "has Relu node 'relu' as the second layer of its experts; supported is MatMul with a constant stack [experts, K, N]"),
    (lambda net: {"b2": lambda b2: net.random(EXPERTS, TOKENS, DIM)},
     f"has a bias [{EXPERTS}, {TOKENS}, {DIM}] in the second layer of its experts, not [experts, 1, {DIM}]"),
    (lambda net: {"read": lambda rows: net.op("Unsqueeze", net.op("Relu", rows), net.ints(0))},
     "has a router that reads 'x' and experts that read 'relu_0.out'; both must read one value"),
], ids=["softmax", "smallest", "ones", "root", "eps", "negative", "relu", "tanh", "behind", "bias", "other input"])
def test_other_mixtures_are_declined(path, change, reason):
    net = Net()
    moe(net, **change(net))
    found = declined(net, path)
    assert found["moe"] == reason
    assert all(why.startswith("belongs to 'moe', which ") for node, why in found.items() if node != "moe")


def test_a_sum_that_is_no_mixture_is_declined(path):
    net = Net()
    net.op("ReduceSum", tokens(net), net.ints(1), keepdims=0, name="sum")
    assert declined(net, path, rank=2) == {"sum": "is only supported as part of a mixture of experts"}


def test_moe_sums_over_the_axis_of_the_experts_only(path):
    net = Net()
    moe(net)
    total = next(node for node in net.nodes if node.name == "moe")
    total.input[1] = net.ints(1)                    # the tokens
    assert declined(net, path)["moe"].startswith(f"sums over axis 1 of [{EXPERTS}, {TOKENS}, {DIM}], but the scores of 'scatter' "
                                                 f"[{TOKENS}, {EXPERTS}] do not stand as [tokens, experts] along it")


@pytest.mark.parametrize("axis, count", [(0, TOKENS), (1, EXPERTS)], ids=["tokens", "experts"])
def test_scores_in_another_order_are_declined(path, axis, count):
    net = Net()
    moe(net, scores=lambda s: net.op("Gather", s, net.ints(*range(1, count), 0), axis=axis))
    assert declined(net, path)["moe"].endswith("do not stand as [tokens, experts] along it")


def test_moe_without_biases(path):
    net = Net()
    moe(net)
    for node in list(net.nodes):
        if node.op_type == "Add":
            net.nodes.remove(node)
            for reader in net.nodes:
                reader.input[:] = [node.input[0] if name == node.output[0] else name for name in reader.input]
    graph = accepted(net, path)
    assert kinds(graph) == ["MoE"] and not graph.nodes[0].b1.any() and not graph.nodes[0].b2.any()


def test_a_router_with_indices_from_elsewhere_is_declined(path):
    net = Net()
    moe(net)
    scatter = next(node for node in net.nodes if node.name == "scatter")
    scatter.input[1] = net.const(np.zeros((TOKENS, 2)), np.int64)
    assert declined(net, path)["moe"] == "has a router whose 'scatter' does not take its indices from a TopK"


def test_a_router_without_softmax_is_declined(path):
    net = Net()
    moe(net)
    topk = next(node for node in net.nodes if node.name == "topk")
    softmax = next(node for node in net.nodes if node.name == "softmax")
    topk.input[0] = softmax.input[0]
    assert declined(net, path)["moe"] == "has a router whose scores 'topk' do not come from a Softmax"


def test_experts_that_read_other_tokens_are_declined(path):
    net = Net()
    shift = net.ints(*range(1, TOKENS), 0)
    moe(net, read=lambda rows: net.op("Unsqueeze", net.op("Gather", rows, shift, axis=0), net.ints(0)))
    assert declined(net, path)["moe"] == (
        f"has experts that read 'x' [{TOKENS}, {DIM}] as [1, {TOKENS}, {DIM}], in another order or in part")
