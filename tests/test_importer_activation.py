"""Rewrite rules for activation functions: accepted ones give the numbers of onnxruntime, declined ones a reason."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from hwgen.functions import Act
from onnx_nets import HIDDEN, Net
from rule_checks import K, accepted, declined, kinds, tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("kind, act", [
    ("Relu", Act.RELU), ("Gelu", Act.GELU), ("Gelu tanh", Act.GELU_TANH),
    ("erf", Act.GELU), ("half first", Act.GELU),
    ("tanh pow", Act.GELU_TANH), ("tanh mul", Act.GELU_TANH), ("silu", Act.SILU), ("quick gelu", Act.SILU),
    ("HardSwish", Act("hard_swish")), ("hard sigmoid", Act("hard_swish")), ("clip", Act("hard_swish")),
    ("Softplus", Act("softplus")),
    ("Mish", Act("mish")), ("mish", Act("mish")),
    ("Tanh", Act("tanh")),
    ("Sigmoid", Act("sigmoid")),
    ("LeakyRelu", Act("leaky_relu", 0.01)), ("leaky", Act("leaky_relu", 0.2)),
    ("Elu", Act("elu", 1.0)), ("elu", Act("elu", 0.5))])
def test_activations(path, kind, act):
    net = Net()
    net.linear(net.act(net.linear(tokens(net), K, HIDDEN), kind), HIDDEN, 4)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear", "Activation", "Linear"] and graph.nodes[1].kind == act


def test_the_half_may_sit_in_the_gate(path):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    erf = net.op("Erf", net.op("Mul", x, net.const(math.sqrt(0.5))))
    net.op("Mul", net.op("Mul", net.const(0.5), net.op("Add", erf, net.const(1.0))), x)
    assert kinds(accepted(net, path)) == ["Linear", "Activation"]


def test_twice_a_gelu_needs_a_linear_behind(path):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    net.op("Mul", x, net.op("Add", net.op("Erf", net.op("Mul", x, net.const(math.sqrt(0.5)))), net.const(1.0)), name="gelu")
    reason = declined(net, path)["out_y"]
    assert reason == "is the output 'y': it reads 'gelu.out' times 2; only weights in front of it can take a factor in"


def test_another_constant_in_erf_gelu_is_declined(path):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    net.op("Mul", x, net.op("Add", net.op("Erf", x), net.const(0.9), name="one"), name="gelu")
    found = declined(net, path)
    assert found["gelu"].startswith("looks like a GELU, but 'one' adds [0.89999997")
    assert found["gelu"].endswith("] to 1 * erf, not 1")
    assert found["erf_0"] == f"belongs to 'gelu', which {found['gelu']}"


def test_another_cubic_term_in_tanh_gelu_is_declined(path):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    inner = net.op("Add", x, net.op("Mul", net.const(0.05), net.op("Pow", x, net.const(3.0))))
    tanh = net.op("Tanh", net.op("Mul", net.const(math.sqrt(2 / math.pi)), inner))
    net.op("Mul", x, net.op("Add", tanh, net.const(1.0)), name="gelu")
    assert declined(net, path)["gelu"] == "looks like a tanh GELU, but the third power has the factor 0.05, not 0.044715"


def test_a_cube_of_products(path):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    cube = net.op("Mul", net.op("Pow", x, net.const(2.0)), x)
    inner = net.op("Add", net.op("Mul", cube, net.const(0.044715)), x)
    tanh = net.op("Tanh", net.op("Mul", inner, net.const(math.sqrt(2 / math.pi))))
    net.op("Mul", net.op("Add", tanh, net.const(1.0)), net.op("Mul", x, net.const(0.5)))
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear", "Activation"] and graph.nodes[1].kind is Act.GELU_TANH


@pytest.mark.parametrize("kind", ["tanh pow", "tanh mul", "erf", "silu"])
def test_a_factor_in_front_of_an_activation_goes_into_the_linear(path, kind):
    net = Net()
    net.act(net.op("Mul", net.linear(tokens(net), K, 4), net.const(1.7)), kind)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear", "Activation"]
    np.testing.assert_allclose(graph.nodes[0].weight, 1.7 * onnx.numpy_helper.to_array(net.weights[0]), rtol=1e-6)


@pytest.mark.parametrize("gate, reason", [
    (lambda net, x: net.op("HardSigmoid", x, beta=0.4, name="gate"),
     "looks like a HardSwish, but 'gate' has alpha 0.2 and beta 0.4, not 0.5 behind a positive alpha"),
    (lambda net, x: net.op("HardSigmoid", x, alpha=0.0, name="gate"),
     "looks like a HardSwish, but 'gate' has alpha 0 and beta 0.5, not 0.5 behind a positive alpha"),
    (lambda net, x: net.op("Clip", net.op("Add", x, net.const(-3.0), name="three"), net.const(0.0), net.const(-6.0), name="gate"),
     "looks like a HardSwish, but 'gate' does not cut 'three' at 0 and at twice what it adds"),
    (lambda net, x: net.op("Clip", net.op("Add", x, net.const(3.0), name="three"), net.const(0.0), net.const(5.0), name="gate"),
     "looks like a HardSwish, but 'gate' does not cut 'three' at 0 and at twice what it adds")], ids=["beta", "alpha", "negative", "limit"])
def test_another_gate_than_that_of_hard_swish_is_declined(path, gate, reason):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    net.op("Mul", x, gate(net, x), name="swish")
    assert declined(net, path)["swish"] == reason


def test_swish_with_another_slope_is_declined(path):
    net = Net(24)
    net.op("Swish", net.linear(tokens(net), K, 4), alpha=2.0, name="swish")
    assert declined(net, path) == {"swish": "alpha is 2.0, not 1"}


@pytest.mark.parametrize("kind, whole", [("Erf", "a GELU"), ("Sqrt", "a LayerNorm"),
                                         ("Softmax", "an attention or a router")])
def test_parts_alone_are_declined(path, kind, whole):
    net = Net()
    net.op(kind, net.linear(tokens(net), K, 4), name="lone")
    assert declined(net, path) == {"lone": f"is only supported as part of {whole}"}


def test_a_gate_that_is_another_value_is_a_product(path):
    net = Net()
    x = tokens(net)
    net.op("Mul", net.linear(x, K, 4), net.op("Sigmoid", net.linear(x, K, 4)), name="glu")
    assert kinds(accepted(net, path)) == ["Linear", "Linear", "Activation", "Multiply"]


def gelu_fast(net: Net, x: str) -> str:
    """Hugging Face's: 0.5 * x * (1 + tanh(x * 0.79788456 * (1 + 0.044715 * x * x)))"""
    square = net.op("Mul", net.op("Mul", net.const(0.044715), x), x)
    inner = net.op("Mul", net.op("Mul", x, net.const(0.79788456)), net.op("Add", square, net.const(1.0)))
    return net.op("Mul", net.op("Mul", x, net.const(0.5)), net.op("Add", net.op("Tanh", inner), net.const(1.0)))


WRITTEN_OUT = {
    "gelu_fast": (gelu_fast, Act.GELU_TANH),
    "half a gate": (lambda net, x: net.op("Mul", x, net.op("Add", net.op("Mul", net.op("Erf", net.op("Div", x, net.const(math.sqrt(2)))), net.const(0.5)),
                                                           net.const(0.5))), Act.GELU),
    "gate less": (lambda net, x: net.op("Mul", x, net.op("Sub", net.const(0.5), net.op("Mul", net.op("Erf", net.op("Mul", x, net.const(-math.sqrt(0.5)))),
                                                                                     net.const(0.5)))), Act.GELU),
    "by Exp": (lambda net, x: net.op("Div", x, net.op("Add", net.op("Exp", net.op("Neg", x)), net.const(1.0))), Act.SILU),
    "by Reciprocal": (lambda net, x: net.op("Mul", x, net.op("Reciprocal", net.op("Add", net.const(1.0), net.op("Exp", net.op("Neg", x))))), Act.SILU),
    "by Tanh": (lambda net, x: net.op("Mul", x, net.op("Add", net.op("Mul", net.op("Tanh", net.op("Mul", x, net.const(0.5))), net.const(0.5)),
                                                       net.const(0.5))), Act.SILU),
    "Max": (lambda net, x: net.op("Max", x, net.const(0.0)), Act.RELU),
    "Clip": (lambda net, x: net.op("Clip", x, net.const(0.0)), Act.RELU),
    "Log": (lambda net, x: net.op("Log", net.op("Add", net.op("Exp", x), net.const(1.0))), Act("softplus")),
    "relu6": (lambda net, x: net.op("Div", net.op("Mul", x, net.op("Min", net.op("Relu", net.op("Add", x, net.const(3.0))), net.const(6.0))),
                                    net.const(6.0)), Act("hard_swish")),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_function_is_recognised_by_what_it_computes(path, name):
    spelling, kind = WRITTEN_OUT[name]
    net = Net()
    net.linear(spelling(net, net.linear(tokens(net), K, HIDDEN)), HIDDEN, 4)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear", "Activation", "Linear"] and graph.nodes[1].kind == kind
