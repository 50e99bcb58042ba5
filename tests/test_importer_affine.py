"""Factors and offsets of one constant a channel, wherever exporters put them: in front of a Linear or behind it, alone or as a BatchNormalization."""

from __future__ import annotations

import pytest

from hwgen.functions import Act
from hwgen.importer import Status, check_model
from onnx_nets import DIM, Net
from rule_checks import K, accepted, declined, kinds, tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def vector(net: Net, size: int = K) -> str:
    return net.random(size, offset=1.0)


SPELLINGS = {
    "scale": lambda net, x: net.op("Mul", x, vector(net)),
    "scale first": lambda net, x: net.op("Mul", vector(net), x),
    "divided": lambda net, x: net.op("Div", x, vector(net)),
    "scale and offset": lambda net, x: net.op("Add", net.op("Mul", x, vector(net)), vector(net)),
    "offset taken away": lambda net, x: net.op("Sub", net.op("Mul", x, vector(net)), vector(net)),
    "twice": lambda net, x: net.op("Div", net.op("Add", net.op("Mul", net.op("Mul", x, net.const(0.5)), vector(net)), vector(net)), vector(net)),
    "a number behind": lambda net, x: net.op("Mul", net.op("Add", net.op("Mul", x, vector(net)), vector(net)), net.const(-3.0)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("last", ["MatMul", "Gemm"])
def test_a_factor_between_an_activation_and_a_linear_goes_into_the_linear(path, spelling, last):
    net = Net()
    x = SPELLINGS[spelling](net, net.op("Relu", tokens(net)))
    if last == "MatMul":
        net.op("Add", net.op("MatMul", x, net.random(K, 4)), net.random(4))
        assert kinds(accepted(net, path)) == ["Activation", "Linear"]
    else:
        y = net.op("Gemm", net.op("Reshape", x, net.ints(-1, K)), net.random(4, K), net.random(4), transB=1, alpha=0.5)
        net.op("Reshape", y, net.ints(1, -1, 4))
        assert kinds(accepted(net, path)) == ["Activation", "Linear"]
    assert {v.status for v in check_model(path).verdicts if v.op in ("Mul", "Div", "Sub")} == {Status.FUSED}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("first", ["Linear", "LayerNorm"])
def test_a_factor_behind_weights_goes_into_them(path, spelling, first):
    net = Net()
    x = tokens(net)
    x = net.linear(x, K, K) if first == "Linear" else net.op("LayerNormalization", x, net.random(K), net.random(K))
    net.op("Relu", SPELLINGS[spelling](net, x))
    assert kinds(accepted(net, path)) == [first, "Activation"]


def test_a_factor_for_each_channel_of_an_attention(path):
    """As head scales are: behind the heads, in front of the projection."""
    net = Net()
    x = net.input("x", [1, 5, DIM])
    q, k, v = net.heads(x, "separate")
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = net.op("Mul", net.op("MatMul", weights, v), net.random(2, 1, DIM // 2, offset=1.0))
    net.linear(net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, -1, DIM)), DIM, DIM)
    assert kinds(accepted(net, path)) == ["Linear", "Linear", "Linear", "Attention", "Linear"]


def test_a_factor_of_a_pooled_value(path):
    net = Net()
    pooled = net.op("ReduceMean", net.op("Relu", tokens(net)), net.ints(1), keepdims=0)
    net.op("Gemm", SPELLINGS["scale and offset"](net, pooled), net.random(K, 3), net.random(3))
    assert kinds(accepted(net, path, rank=2)) == ["Activation", "Mean", "Linear"]


def test_experts_take_a_factor_in(path):
    """In front of experts and their router, and behind them as LayerScale is."""
    net = Net()
    x = net.op("Add", net.norm(net.input("x", [1, 5, DIM])), net.norm("x"))
    x = net.op("Add", net.op("Mul", x, vector(net, DIM)), vector(net, DIM))
    net.op("Mul", net.moe(x, "renormalized", act="Relu"), vector(net, DIM))
    graph = accepted(net, path)
    assert kinds(graph) == ["LayerNorm", "LayerNorm", "Add", "MoE"] and graph.nodes[-1].act == Act.RELU


@pytest.mark.parametrize("router, found", [("renormalized", ["LayerNorm", "MoE"]), ("plain", ["LayerNorm", "MoE", "AddConst"])])
def test_an_offset_behind_experts_is_theirs_where_the_scores_add_up_to_one(path, router, found):
    net = Net()
    net.op("Add", net.moe(net.norm(net.input("x", [1, 5, DIM])), router), vector(net, DIM))
    assert kinds(accepted(net, path)) == found


def norm(net: Net, x: str, size: int = DIM, **attributes) -> str:
    variance = net.const(net.rng.uniform(0.5, 2, size))
    return net.op("BatchNormalization", x, vector(net, size), net.random(size), net.random(size), variance, **attributes)


def test_batch_normalization_behind_a_patch_embedding(path):
    net = Net()
    x = norm(net, net.op("Conv", net.image(), net.random(DIM, 1, 4, 4), net.random(DIM), kernel_shape=[4, 4], strides=[4, 4]), epsilon=1e-3)
    net.op("Transpose", net.op("Reshape", x, net.ints(0, DIM, -1)), perm=[0, 2, 1])
    assert kinds(accepted(net, path)) == ["PatchEmbed"]


@pytest.mark.parametrize("between", [None, "Relu"])
def test_batch_normalization_of_tokens(path, between):
    """Their channels are on axis 1 for it: [1, D, T]"""
    net = Net()
    x = net.linear(tokens(net), K, DIM)
    x = net.op(between, x) if between else x
    x = net.op("Transpose", norm(net, net.op("Transpose", x, perm=[0, 2, 1])), perm=[0, 2, 1])
    net.linear(x, DIM, 4)
    assert kinds(accepted(net, path)) == (["Linear", "Activation", "Linear"] if between else ["Linear", "Linear"])


def test_batch_normalization_of_a_pooled_value(path):
    net = Net()
    pooled = net.op("ReduceMean", net.op("Relu", net.input("x", [1, 5, DIM])), net.ints(1), keepdims=0)
    net.op("Gemm", norm(net, pooled), net.random(DIM, 3))
    assert kinds(accepted(net, path, rank=2)) == ["Activation", "Mean", "Linear"]


def test_batch_normalization_in_training_is_declined(path):
    net = Net(opset=15)
    x = net.linear(tokens(net), K, DIM)
    constants = [vector(net, DIM) for _ in range(4)]
    y, _, _ = net.op("BatchNormalization", net.op("Reshape", x, net.ints(5, DIM)), *constants, training_mode=1, outputs=3)
    net.op("Reshape", y, net.ints(1, 5, DIM))
    assert declined(net, path)["batchnormalization_0"] == "takes its mean and variance from the batch: export the model in eval mode (model.eval())"


def test_what_nothing_takes_in_is_declined(path):
    net = Net()
    x = tokens(net)
    y = net.op("Mul", net.op("Relu", x), vector(net), name="factor")
    net.op("Add", x, y, name="sum")
    assert declined(net, path) == {
        "sum": "reads 'relu_0.out' times a factor for each channel, of 'factor'; only a Linear or experts behind it, or a Linear, a LayerNorm, an "
               "embedding or experts in front of it take that in"}
    verdicts = {verdict.node: verdict for verdict in check_model(path).verdicts}
    assert verdicts["factor"].status is Status.FUSED and verdicts["factor"].into == "relu_0"


def test_an_input_of_the_network_is_given_as_it_is(path):
    """A factor on the input itself is a step of preprocessing, which is the host's."""
    net = Net()
    net.linear(net.op("Mul", tokens(net), vector(net), name="factor"), K, 4)
    assert "factor" in declined(net, path)


def test_a_division_by_zero_is_declined(path):
    net = Net()
    net.linear(net.op("Div", net.op("Relu", tokens(net)), net.const([1, 2, 0, 1, 1, 1]), name="division"), K, 4)
    assert declined(net, path)["division"] == "is only supported as part of a LayerNorm or a router"


def test_a_factor_for_each_token_is_declined(path):
    net = Net()
    net.linear(net.op("Mul", net.op("Relu", tokens(net)), net.random(5, 1), name="factor"), K, 4)
    assert "factor" in declined(net, path)
