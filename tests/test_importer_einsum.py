"""Einsum in the forms that are one product: a Linear, heads of an attention, a factor."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_nets import Net
from rule_checks import K, accepted, declined, kinds, tokens

LINEAR = ["btk,kn->btn", "btk,nk->btn", "b t k , k n -> b t n", "...k,kn->...n", "...k,nk->...n", "abc,cd"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("equation", LINEAR)
@pytest.mark.parametrize("weight_first", [False, True])
def test_a_linear(path, equation, weight_first):
    net = Net()
    x = tokens(net)
    terms, _, out = equation.replace(" ", "").partition("->")
    a, b = terms.split(",")
    weight = net.random(*((4, K) if b == "nk" or b == "...nk" else (K, 4)))
    if weight_first:
        net.op("Einsum", weight, x, equation=f"{b},{a}->{out or 'abd'}")
    else:
        net.op("Einsum", x, weight, equation=equation)
    assert kinds(accepted(net, path)) == ["Linear"]


def test_heads_joined_by_the_output_projection(path):
    net = Net()
    x = net.linear(tokens(net), K, K)
    net.op("Einsum", net.op("Reshape", x, net.ints(1, -1, 2, K // 2)), net.random(2, K // 2, 4), equation="bthd,hdo->bto")
    assert kinds(accepted(net, path)) == ["Linear", "Linear"]


def test_heads_made_by_the_input_projection(path):
    """As einops and Keras write it: weights [K, heads, d]."""
    net = Net()
    x = tokens(net)
    q, k, v = (net.op("Einsum", x, net.random(K, 2, 3), equation="btk,khd->bthd") for _ in range(3))
    weights = net.op("Softmax", net.op("Mul", net.op("Einsum", q, k, equation="bthd,bshd->bhts"), net.const(3 ** -0.5)), axis=-1)
    y = net.op("Einsum", weights, v, equation="bhts,bshd->bthd")
    net.op("Einsum", y, net.random(2, 3, K), equation="bthd,hdo->bto")
    assert sorted(kinds(accepted(net, path))) == ["Attention", *["Linear"] * 4]


@pytest.mark.parametrize("scores, values", [("bhid,bhjd->bhij", "bhij,bhjd->bhid"), ("...id,...jd->...ij", "...ij,...jd->...id"),
                                            ("bhjd,bhid->bhij", "bhij,bhjd->bhid"), ("bhid,bhjd->bhij", "bhij,bhjd->bihd")])
def test_an_attention(path, scores, values):
    net = Net()
    x = tokens(net)
    q, k, v = (net.op("Transpose", net.op("Reshape", net.linear(x, K, K), net.ints(1, -1, 2, K // 2)), perm=[0, 2, 1, 3]) for _ in range(3))
    pair = (k, q) if scores == "bhjd,bhid->bhij" else (q, k)
    y = net.op("Einsum", net.op("Softmax", net.op("Einsum", *pair, equation=scores), axis=-1), v, equation=values)
    if not values.endswith("ihd"):
        y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    net.op("Reshape", y, net.ints(1, -1, K))
    assert sorted(kinds(accepted(net, path))) == ["Attention", *["Linear"] * 3]


@pytest.mark.parametrize("equation", ["btk,k->btk", "...k,k->...k", "k,btk->btk"])
def test_a_factor_for_each_channel(path, equation):
    net = Net()
    x, factor = net.linear(tokens(net), K, K), net.random(K)
    net.op("Einsum", *((factor, x) if equation.startswith("k") else (x, factor)), equation=equation)
    assert "Add" not in kinds(accepted(net, path))


@pytest.mark.parametrize("equation, shapes", [("btk,kn,nm->btm", [(K, 4), (4, 3)]), ("btk,kn->bn", [(K, 4)]), ("btk,kn->b", [(K, 4)])])
def test_more_than_one_product_is_refused_by_name(path, equation, shapes):
    net = Net()
    net.op("Einsum", net.linear(tokens(net), K, K), *(net.random(*shape) for shape in shapes), equation=equation)
    reasons = declined(net, path, rank=len(equation.partition("->")[2]))
    assert any("more than one product" in reason for reason in reasons.values())


def test_constants_are_folded(path):
    net = Net()
    weight = net.op("Einsum", net.random(K, 3), net.random(3, 4), equation="ab,bc->ac")
    net.op("MatMul", tokens(net), weight)
    assert np.shape(accepted(net, path).nodes[0].weight) == (K, 4)
