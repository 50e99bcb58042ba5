"""Rewrite rules for the mixture of experts: accepted ones give the numbers of onnxruntime, declined ones a reason."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.functions import titles
from onnx_nets import DIM, EXPERTS, TOKENS, Net
from rule_checks import accepted, declined, kinds, tokens

NO_TOP_K = ("the factors of its experts are those of no top-k of a softmax or of sigmoids: on random logits no k and no division by the sum of the "
            "chosen gives its result")
NO_SUM = "gives no sum of what its experts make of the same token: tokens change places, or something is done before the experts, to their " \
         "results, or to the sum"


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
    lambda net: {"scores": lambda s: net.op("Gather", s, net.ints(*range(1, EXPERTS), 0), axis=1)},
    lambda net: {"logits": lambda v: net.op("Mul", v, net.const(-1.0))},
    lambda net: {"act": lambda h: net.act(h, "quick gelu")},
    lambda net: {"act": lambda h: net.act(h, "leaky")},
], ids=["plain", "gate with bias and temperature", "repeated tokens", "scaled", "times one", "scaled scores", "experts in another order",
        "smallest", "quick GELU", "LeakyReLU"])
def test_moe(path, change):
    net = Net()
    moe(net, **change(net))
    assert kinds(accepted(net, path)) == ["MoE"]


@pytest.mark.parametrize("change, reason", [
    (lambda net: {"axis": 0}, NO_TOP_K),
    (lambda net: {"largest": 0}, NO_TOP_K),
    (lambda net: {"zero": 1.0}, NO_TOP_K),
    (lambda net: {"scores": lambda s: net.op("Gather", s, net.ints(*range(1, TOKENS), 0), axis=0)}, NO_TOP_K),
    (lambda net: {"top": lambda top: net.op("Sqrt", top, name="root")}, NO_TOP_K),
    (lambda net: {"top": lambda top: net.op("Div", top, net.op("Add", net.op("ReduceSum", top, net.ints(-1)), net.const(1e-3)),
                                             name="div")}, NO_TOP_K),
    (lambda net: {"act": lambda h: net.op("Erf", h, name="erf")},
     f"has experts that compute no known function between 'add_0.out' and 'erf.out'; supported are {titles('and')}"),
    (lambda net: {"y": lambda y: net.op("Relu", y, name="relu")}, NO_SUM),
    (lambda net: {"b2": lambda b2: net.random(EXPERTS, TOKENS, DIM)}, NO_SUM),
    (lambda net: {"read": lambda rows: net.op("Unsqueeze", net.op("Gather", rows, net.ints(*range(1, TOKENS), 0), axis=0), net.ints(0))}, NO_SUM),
    (lambda net: {"read": lambda rows: net.op("Unsqueeze", net.op("Relu", rows), net.ints(0))},
     "has experts that read what Relu node 'relu_0' makes of 'x'; they must read whole tokens, as the router does"),
], ids=["softmax", "smallest", "ones", "other token's score", "root", "eps", "tanh", "behind", "bias", "other token", "other input"])
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
    assert declined(net, path)["moe"] == "is only supported as part of a mixture of experts"


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
    assert declined(net, path)["moe"] == NO_TOP_K


@pytest.mark.parametrize("act, reason", [
    ("Relu", "has a router that takes ReLU of its logits before it chooses; supported is a softmax of what a Linear gives"),
    ("Sigmoid", "the factors of its experts are those of no top-k of a softmax or of sigmoids: on random logits no k, no division by the sum of the ")])
def test_a_router_with_another_function_is_named(path, act, reason):
    net = Net()
    moe(net, logits=lambda v: net.op(act, v))
    assert declined(net, path)["moe"].startswith(reason)


def test_a_router_without_softmax_is_declined(path):
    net = Net()
    moe(net)
    topk = next(node for node in net.nodes if node.name == "topk")
    softmax = next(node for node in net.nodes if node.name == "softmax")
    topk.input[0] = softmax.input[0]
    assert declined(net, path)["moe"] == "the factors of its experts are those of no top-k of a softmax or of sigmoids: it has no softmax and no sigmoid"
