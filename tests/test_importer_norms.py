"""LayerNorm written out: by hand, by Keras, as a norm of groups or of instances; in layouts with the channels elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen import api, ops, quantizer
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.steps import golden, host
from hwgen.steps.format import WIDE
from hwgen.steps.stages import Normalize
from onnx_nets import Net, result, vit
from rule_checks import K, accepted, declined, kinds, tokens, words

EPS = 1e-3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def mean(net: Net, x: str, kind: str = "ReduceMean", axis: int = -1) -> str:
    if net.opset < 18 and not (kind == "ReduceSum" and net.opset >= 13):
        return net.op(kind, x, axes=[axis], keepdims=1)
    return net.op(kind, x, net.ints(axis), keepdims=1)


def centered(net: Net, x: str) -> str:
    return net.op("Sub", x, mean(net, x))


def variance(net: Net, x: str) -> str:
    c = centered(net, x)
    return mean(net, net.op("Mul", c, c))


def root(net: Net, x: str) -> str:
    return net.op("Sqrt", net.op("Add", variance(net, x), net.const(EPS)))


def of_squares(net: Net, x: str) -> str:
    """E[x^2] - E[x]^2"""
    m = mean(net, x)
    return net.op("Sub", mean(net, net.op("Mul", x, x)), net.op("Mul", m, m))


def keras(net: Net, x: str) -> str:
    """x * (gamma * rsqrt) + (beta - mean * (gamma * rsqrt))"""
    inverse = net.op("Mul", net.op("Reciprocal", root(net, x)), net.random(K, offset=1.0))
    return net.op("Add", net.op("Mul", x, inverse), net.op("Sub", net.random(K), net.op("Mul", mean(net, x), inverse)))


def by_sum(net: Net, x: str) -> str:
    c = net.op("Sub", x, net.op("Div", mean(net, x, "ReduceSum"), net.const(K)))
    square = net.op("Mul", mean(net, net.op("Pow", c, net.const(2.0)), "ReduceSum"), net.const(1 / K))
    return net.op("Div", c, net.op("Sqrt", net.op("Add", square, net.const(EPS))))


def unbiased(net: Net, x: str) -> str:
    """torch.var(unbiased=True)"""
    v = net.op("Div", net.op("Mul", variance(net, x), net.const(K)), net.const(K - 1))
    return net.op("Div", centered(net, x), net.op("Sqrt", net.op("Add", v, net.const(EPS))))


def instances(net: Net, x: str) -> str:
    """[1, T, K] as T channels of one instance"""
    return net.op("InstanceNormalization", x, net.const(np.ones(5)), net.const(np.zeros(5)), epsilon=EPS)


def groups(net: Net, x: str) -> str:
    """torch's group_norm of one group, tokens as a batch"""
    y = net.op("Reshape", x, net.ints(5, 1, -1))
    y = net.op("InstanceNormalization", y, net.const(np.ones(1)), net.const(np.zeros(1)), epsilon=EPS)
    return net.op("Add", net.op("Mul", net.op("Reshape", y, net.ints(1, 5, K)), net.random(K)), net.random(K))


def transposed(net: Net, x: str) -> str:
    """Channels first, as ConvNeXt has it"""
    x = net.op("Transpose", x, perm=[0, 2, 1])
    c = net.op("Sub", x, mean(net, x, axis=1))
    v = net.op("Add", mean(net, net.op("Pow", c, net.const(2.0)), axis=1), net.const(EPS))
    y = net.op("Add", net.op("Mul", net.op("Div", c, net.op("Sqrt", v)), net.random(1, K, 1)), net.random(1, K, 1))
    return net.op("Transpose", y, perm=[0, 2, 1])


SPELLINGS = {
    "Div": lambda net, x: net.op("Div", centered(net, x), root(net, x)),
    "reciprocal": lambda net, x: net.op("Mul", centered(net, x), net.op("Reciprocal", root(net, x))),
    "one over": lambda net, x: net.op("Mul", centered(net, x), net.op("Div", net.const(1.0), root(net, x))),
    "power of a half": lambda net, x: net.op("Div", centered(net, x), net.op("Pow", net.op("Add", variance(net, x), net.const(EPS)), net.const(0.5))),
    "power of minus a half": lambda net, x: net.op("Mul", centered(net, x), net.op("Pow", net.op("Add", variance(net, x), net.const(EPS)),
                                                                                  net.const(-0.5))),
    "squares": lambda net, x: net.op("Div", centered(net, x), net.op("Sqrt", net.op("Add", of_squares(net, x), net.const(EPS)))),
    "each divided": lambda net, x: net.op("Sub", net.op("Div", x, root(net, x)), net.op("Div", mean(net, x), root(net, x))),
    "keras": keras,
    "sums": by_sum,
    "sum of squares": lambda net, x: net.op("Div", centered(net, x), net.op("Sqrt", net.op("Add", net.op(
        "Div", mean(net, centered(net, x), "ReduceSumSquare"), net.const(K)), net.const(EPS)))),
    "unbiased": unbiased,
    "factor inside": lambda net, x: net.op("Div", centered(net, x), net.op("Mul", root(net, x), net.const(2.0))),
    "instances": instances,
    "groups": groups,
    "transposed": transposed,
    "of a negative multiple": lambda net, x: SPELLINGS["Div"](net, net.op("Mul", x, net.const(-3.0))),
}


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_layer_norm(path, spelling, opset):
    net = Net(opset)
    net.linear(SPELLINGS[spelling](net, net.linear(tokens(net), K, K)), K, K)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear", "LayerNorm", "Linear"]
    norm = next(node for node in graph.nodes if isinstance(node, ops.LayerNorm))
    wanted = EPS * {"unbiased": (K - 1) / K, "of a negative multiple": 1 / 9}.get(spelling, 1.0)
    assert norm.eps == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 1e-5, 0.5])
def test_epsilon_is_that_of_the_file(path, eps):
    net = Net()
    x = net.linear(tokens(net), K, K)
    v = variance(net, x)
    net.op("Div", centered(net, x), net.op("Sqrt", net.op("Add", v, net.const(eps)) if eps else v))
    norm = next(node for node in accepted(net, path).nodes if isinstance(node, ops.LayerNorm))
    assert norm.eps == pytest.approx(eps, rel=1e-6, abs=1e-9)


def rms(net: Net, x: str) -> str:
    return net.op("Div", x, net.op("Sqrt", net.op("Add", mean(net, net.op("Mul", x, x)), net.const(EPS))))


RMS = {
    "Div": rms, "reciprocal": lambda net, x: net.op("Mul", x, net.op("Reciprocal", net.op("Sqrt", net.op(
        "Add", mean(net, net.op("Mul", x, x)), net.const(EPS))))),
    "power of two": lambda net, x: net.op("Div", x, net.op("Sqrt", net.op("Add", mean(net, net.op("Pow", x, net.const(2.0))), net.const(EPS)))),
    "power of minus a half": lambda net, x: net.op("Mul", x, net.op("Pow", net.op("Add", mean(net, net.op("Mul", x, x)), net.const(EPS)),
                                                                    net.const(-0.5))),
    "one over": lambda net, x: net.op("Mul", net.op("Div", net.const(1.0), net.op("Sqrt", net.op("Add", mean(net, net.op("Mul", x, x)), net.const(EPS)))), x),
    "sum of squares": lambda net, x: net.op("Div", x, net.op("Sqrt", net.op("Add", net.op("Div", mean(net, x, "ReduceSumSquare"), net.const(K)),
                                                                            net.const(EPS)))),
}


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("spelling", RMS)
def test_an_rms_norm(path, spelling, opset):
    """With a factor for each channel behind it, and an offset."""
    net = Net(opset)
    y = RMS[spelling](net, net.linear(tokens(net), K, K))
    net.linear(net.op("Add", net.op("Mul", y, net.random(K)), net.random(K)), K, K)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear", "RMSNorm", "Linear"]
    assert next(node.eps for node in graph.nodes if isinstance(node, ops.RMSNorm)) == pytest.approx(EPS, rel=1e-5)


def outside(net: Net, x: str) -> str:
    return net.op("Div", centered(net, x), net.op("Add", net.op("Sqrt", variance(net, x)), net.const(EPS)))


def of_tokens(net: Net, x: str) -> str:
    c = net.op("Sub", x, mean(net, x, axis=1))
    return net.op("Div", c, net.op("Sqrt", net.op("Add", mean(net, net.op("Mul", c, c), axis=1), net.const(EPS))))


NEAR = {
    "epsilon outside": (outside, "looks like a LayerNorm, but computes something else"),
    "over tokens": (of_tokens, "averages over axes [1], not the last")}


@pytest.mark.parametrize("name", NEAR)
def test_a_near_miss_is_refused_by_name(path, name):
    spelling, reason = NEAR[name]
    net = Net()
    spelling(net, net.linear(tokens(net), K, K))
    assert any(reason in found for found in declined(net, path).values())


def test_a_written_out_norm_gives_the_words_of_the_operator(path):
    assert np.array_equal(words(vit(norm=True), path), words(vit(), path))


def test_behind_an_unsupported_operator_it_is_judged_as_if_that_were_there(path):
    net = Net()
    x = net.op("CumSum", net.linear(tokens(net), K, K), net.const(1, np.int64), name="sum")
    x = net.op("Concat", net.random(1, 2, K), x, axis=1)
    net.linear(SPELLINGS["Div"](net, x), K, K)
    assert declined(net, path) == {"sum": "operator CumSum is not supported"}
    net = Net()
    x = net.op("CumSum", net.linear(tokens(net), K, K), net.const(1, np.int64), name="sum")
    net.linear(SPELLINGS["squares"](net, x), K, K)
    assert declined(net, path) == {"sum": "operator CumSum is not supported"}


@pytest.mark.parametrize("dim", [64, 192])
def test_a_tiny_epsilon_and_words_of_16_bits(path, dim):
    """Post-norm, as BERT has it: what one unit of the residual stream is, is far above the epsilon."""
    net, rng = Net(), np.random.default_rng(2)
    t = net.input("x", [1, 6, dim])
    for _ in range(2):
        t = net.op("Add", t, net.op("MatMul", t, net.random(dim, dim, scale=dim ** -0.5)))
        t = net.op("LayerNormalization", t, net.random(dim, offset=1.0), net.random(dim), axis=-1, epsilon=1e-12)
    net.linear(net.mean(t, axis=1, keepdims=0), dim, 4)
    net.save(path, {"y": result(net)}, [1, 4])
    model = import_model(path).model
    images = {"x": rng.standard_normal((24, 6, dim)).astype(np.float32)}
    images["x"][0, 0] = 0.5                                            # a token without any variance but the weights'
    (network,) = quantizer.quantize(model, images).tasks
    feeds = [step.feed for step in network.steps if isinstance(step.feed, Normalize)]
    assert any(feed.to == WIDE and 1 < feed.eps <= dim for feed in feeds)
    found, wanted = host.dequantize(network, golden.run(network, images["x"]))["y"], evaluate.run(model.tasks[0], images)["y"]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.999


def test_a_unit_that_no_epsilon_makes_possible_is_refused_with_the_node(path):
    net = Net()
    t = net.embed(net.image())
    net.head(net.norm(net.add(t, net.mlp(net.norm(t)))))
    net.save(path, {"y": result(net)}, [1, 5])
    for scale in (1e-9, 3e4):
        checked = api.check(path, quant={"layernormalization_0": {"scale": scale}})
        assert not checked.ok and "LayerNorm node 'layernormalization_0'" in str(checked.error) and "--quant" in checked.error.hint
