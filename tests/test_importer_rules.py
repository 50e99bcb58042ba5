"""Each rewrite rule on its own: what it accepts gives the numbers of onnxruntime, what it declines it declines with a reason."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from hwgen import ir
from hwgen.golden import float_model
from hwgen.importer import Status, check_model, import_model
from hwgen.importer.rules import PARTS, RULES
from onnx_nets import DIM, EXPERTS, HEADS, HIDDEN, IMAGE, PATCH, TOKENS, Net, result

MAX_ERROR = 1e-4
K = 6                                              # channels of the token input


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def tokens(net: Net, count: int = 5, channels: int = K) -> str:
    return net.input("x", [1, count, channels])


def accepted(net: Net, path, *, rank: int = 3) -> ir.Graph:
    """Imports the net, compares its last value with onnxruntime, returns the graph."""
    net.save(path, {"y": result(net)}, [f"d{i}" for i in range(rank)])
    (graph,) = import_model(path).model.tasks
    (name, shape), = graph.inputs.items()
    x = np.random.default_rng(7).normal(size=(3, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    want = np.concatenate([session.run(["y"], {name: x[i:i + 1]})[0] for i in range(3)])
    assert np.abs(float_model.run(graph, {name: x})["y"].reshape(want.shape) - want).max() <= MAX_ERROR
    return graph


def kinds(graph: ir.Graph) -> list[str]:
    return [type(node).__name__ for node in graph.nodes]


def declined(net: Net, path, *, rank: int = 3) -> dict[str, str]:
    """ONNX node -> reason of every node that is not supported."""
    net.save(path, {"y": result(net)}, [f"d{i}" for i in range(rank)])
    checked = check_model(path)
    assert not checked.ok
    return {verdict.node: verdict.reason for verdict in checked.verdicts if verdict.status is Status.UNSUPPORTED}


def test_every_operator_without_rule_of_its_own_says_where_it_belongs():
    parts = {"Softmax", "TopK", "ScatterElements", "Erf", "Tanh", "Sigmoid", "Sqrt", "Pow", "IsNaN", "Where"}
    assert set(PARTS) - set(RULES) == parts


# ---------------------------------------------------------------- Linear

def test_a_weight_that_is_a_vector_is_declined(path):
    net = Net()
    net.op("MatMul", tokens(net), net.random(K), name="dot")
    assert declined(net, path, rank=2) == {"dot": "has a weight of shape [6], not [K, N]"}


def test_a_gemm_with_a_bias_for_each_token_is_declined(path):
    net = Net()
    rows = net.op("Squeeze", tokens(net), net.ints(0))
    net.op("Gemm", rows, net.random(K, 4), net.random(5, 1), name="gemm")
    assert declined(net, path, rank=2) == {"gemm": "has a bias of shape [5, 1], not [4]"}


def test_a_norm_with_a_computed_scale_is_declined(path):
    net = Net()
    x = tokens(net)
    scale = net.op("Gather", x, net.const(0, np.int64), axis=1)
    net.op("LayerNormalization", x, net.op("Reshape", scale, net.ints(K)), name="norm")
    assert declined(net, path) == {"norm": "has a scale or bias that is no constant"}


def test_a_mean_over_everything_is_declined(path):
    net = Net()
    net.op("ReduceMean", tokens(net), name="mean")
    assert declined(net, path) == {"mean": "averages axes [0, 1, 2] of [1, 5, 6], not the tokens of a sequence up to the last"}


def test_linear_of_matmul_alone(path):
    net = Net()
    net.op("MatMul", tokens(net), net.random(K, 4))
    (node,) = accepted(net, path).nodes
    assert (node.name, node.x, node.weight.shape, node.bias.tolist()) == ("matmul_0", "x", (K, 4), [0.0] * 4)


@pytest.mark.parametrize("order", ["bias first", "bias last"])
def test_linear_takes_bias_and_factors(path, order):
    net = Net()
    y = net.op("MatMul", net.op("Div", tokens(net), net.const(4.0)), net.random(K, 4))
    bias = net.random(4)
    y = net.op("Add", *((bias, y) if order == "bias first" else (y, bias)))
    net.op("Mul", net.op("Sub", net.op("Mul", net.const([2.0]), y), net.random(4)), net.random(1, 1, 4))
    assert kinds(accepted(net, path)) == ["Linear"]


def test_linear_divided_by_one_number_a_channel(path):
    net = Net()
    net.op("Div", net.op("MatMul", tokens(net), net.random(K, 4)), net.random(4, offset=3.0))
    assert kinds(accepted(net, path)) == ["Linear"]


def test_one_over_linear_is_declined(path):
    net = Net()
    net.op("Div", net.random(4), net.op("MatMul", tokens(net), net.random(K, 4)), name="div")
    assert declined(net, path) == {"div": "is only supported as part of a LayerNorm or a router"}


def test_gemm_with_all_its_attributes(path):
    net = Net()
    token = net.op("Gather", tokens(net), net.const(1, np.int64), axis=1)
    net.op("Gemm", token, net.random(4, K), net.random(4), transB=1, alpha=0.5, beta=2.0)
    assert kinds(accepted(net, path, rank=2)) == ["Select", "Linear"]


def test_gemm_transposed_is_declined(path):
    net = Net()
    token = net.op("Squeeze", net.input("x", [1, 1, K]), net.ints(0))
    net.op("Gemm", token, net.random(1, 4), transA=1, name="gemm")
    assert declined(net, path, rank=2) == {"gemm": "has a transposed input, or a weight or bias that is no constant"}


def test_a_product_from_the_left_is_declined(path):
    net = Net()
    net.op("MatMul", net.random(7, 5), tokens(net), name="mix")
    assert declined(net, path) == {
        "mix": "multiplies a constant [7, 5] from the left, which mixes tokens; only x @ W is supported"}


def test_a_linear_over_flattened_tokens_is_declined(path):
    net = Net()
    net.op("MatMul", net.op("Reshape", tokens(net), net.ints(1, 5 * K)), net.random(5 * K, 4), name="flat")
    assert declined(net, path, rank=2) == {"flat": "reads 'x' [5, 6] reshaped to [1, 30], which mixes tokens and channels"}


def test_a_part_of_the_tokens_is_declined(path):
    net = Net()
    part = net.op("Slice", tokens(net), net.ints(1), net.ints(3), net.ints(1), name="part")
    net.op("MatMul", part, net.random(K, 4), name="linear")
    assert declined(net, path) == {
        "linear": "reads 'x' [5, 6] as [1, 2, 6] in another order or in part (through 'part'); supported are the whole sequence, "
                  "one token, and the heads of an attention"}


# ---------------------------------------------------------------- patch embedding

def conv(net: Net, weight_shape=(DIM, 1, PATCH, PATCH), bias=True, x=None, **attrs) -> str:
    attrs = {"kernel_shape": list(weight_shape[2:]), "strides": list(weight_shape[2:]), **attrs}
    weights = [net.random(*weight_shape)] + ([net.random(weight_shape[0])] if bias else [])
    return net.op("Conv", x or net.image(), *weights, name="conv", **attrs)


def flatten(net: Net, y: str) -> str:
    return net.op("Transpose", net.op("Reshape", y, net.ints(0, DIM, -1)), perm=[0, 2, 1])


def test_patch_embed_of_a_scaled_image_without_bias(path):
    net = Net()
    flatten(net, conv(net, bias=False, x=net.op("Mul", net.image(), net.const(1 / 255))))
    assert kinds(accepted(net, path)) == ["PatchEmbed"]


def test_patch_embed_in_channels_last_order(path):
    net = Net()
    y = net.op("Transpose", conv(net), perm=[0, 2, 3, 1])
    net.op("Reshape", y, net.ints(1, -1, DIM))
    assert kinds(accepted(net, path)) == ["PatchEmbed"]


def test_a_position_table_added_before_the_tokens_are_made(path):
    net = Net()
    y = net.op("Add", conv(net), net.random(1, DIM, IMAGE // PATCH, IMAGE // PATCH))
    flatten(net, net.op("Relu", net.op("Add", y, y)))
    assert kinds(accepted_after_linear(net, path)) == ["PatchEmbed", "AddConst", "Add", "Linear"]


def accepted_after_linear(net: Net, path) -> ir.Graph:
    """The activation of the value made last, without its Relu: a Linear on the same moves."""
    relu = next(node for node in net.nodes if node.op_type == "Relu")
    for node in net.nodes:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    net.nodes.remove(relu)
    net.op("MatMul", result(net), net.random(DIM, 3))
    return accepted(net, path)


@pytest.mark.parametrize("attrs, reason", [
    (dict(strides=[2, 2]), "strides [2, 2], not [4, 4]"),
    (dict(pads=[1, 1, 1, 1], strides=[4, 4]), "pads [1, 1, 1, 1], not [0, 0, 0, 0]"),
    (dict(dilations=[2, 2]), "dilations [2, 2], not [1, 1]"),
    (dict(auto_pad="SAME_UPPER"), "SAME_UPPER"),
], ids=lambda value: "" if isinstance(value, str) else next(iter(value)))
def test_other_convolutions_are_declined(path, attrs, reason):
    net = Net()
    conv(net, **attrs)
    assert declined(net, path, rank=4) == {
        "conv": f"is no patch embedding, a Conv with stride = kernel [4, 4]: it has {reason}"}


def test_grouped_convolution_is_declined(path):
    net = Net()
    conv(net, (4, 1, 4, 4), x=net.input("x", [1, 2, IMAGE, IMAGE]), group=2)
    assert declined(net, path, rank=4)["conv"].endswith("it has group 2, not 1")


def test_an_image_that_leaves_a_rest_is_declined(path):
    net = Net()
    conv(net, x=net.input("x", [1, 1, 8, 10]))
    assert declined(net, path, rank=4)["conv"] == "has an image [1, 8, 10] that does not divide into patches [4, 4]"


def test_a_convolution_of_tokens_is_declined(path):
    net = Net()
    net.op("Conv", net.input("x", [1, 3, 8]), net.random(4, 3, 4), strides=[4], name="conv")
    assert declined(net, path) == {"conv": "has a weight that is no constant [D, C, h, w]"}


# ---------------------------------------------------------------- LayerNorm

def norm(net: Net, x: str, square: str = "pow", **change) -> str:
    """A decomposed LayerNorm; ``change``: axis of the means, a factor on the root."""
    centered = net.op("Sub", x, net.mean(x, change.get("axis", -1)))
    power = net.op("Pow", centered, net.const(2.0)) if square == "pow" else net.op("Mul", centered, centered)
    root = net.op("Sqrt", net.op("Add", net.const(1e-3), net.mean(power, change.get("axis", -1))))
    if "factor" in change:
        root = net.op("Mul", root, net.const(change["factor"]))
    return net.op("Div", centered, root, name="norm")


@pytest.mark.parametrize("opset", [14, 20])
@pytest.mark.parametrize("square", ["pow", "mul"])
def test_layer_norm_decomposed(path, opset, square):
    net = Net(opset)
    norm(net, tokens(net), square)
    (node,) = accepted(net, path).nodes
    assert isinstance(node, ir.LayerNorm) and node.eps == pytest.approx(1e-3)
    assert node.gamma.tolist() == [1.0] * K and node.beta.tolist() == [0.0] * K


def test_layer_norm_of_a_scaled_value(path):
    net = Net()
    x = net.op("Mul", tokens(net), net.const(0.01))
    net.op("LayerNormalization", x, net.random(K), epsilon=1e-3)
    (node,) = accepted(net, path).nodes
    assert node.eps == pytest.approx(10.0) and node.beta.tolist() == [0.0] * K


def test_layer_norm_over_other_axes_is_declined(path):
    net = Net()
    net.op("LayerNormalization", tokens(net), net.random(5, K), net.random(5, K), axis=1, name="norm")
    assert declined(net, path) == {"norm": "normalises from axis 1 on; only the last dimension is supported"}


def test_layer_norm_of_a_negated_value_is_declined(path):
    net = Net()
    net.op("LayerNormalization", net.op("Mul", tokens(net), net.const(-2.0)), net.random(K), name="norm")
    assert declined(net, path) == {"norm": "normalises its input times -2"}


def test_decomposed_norm_over_tokens_is_declined(path):
    net = Net()
    norm(net, tokens(net), axis=1)
    assert declined(net, path)["norm"] == "looks like a LayerNorm, but 'reducemean_0' averages over axes [1], not the last"


def test_decomposed_norm_with_a_factor_inside_is_declined(path):
    net = Net()
    norm(net, tokens(net), factor=2.0)
    found = declined(net, path)
    assert found["norm"] == "looks like a LayerNorm, but with factors in between"
    assert found["sqrt_0"] == "belongs to 'norm', which looks like a LayerNorm, but with factors in between"


# ---------------------------------------------------------------- activations

@pytest.mark.parametrize("kind, act", [
    ("Relu", ir.Act.RELU), ("Gelu", ir.Act.GELU), ("Gelu tanh", ir.Act.GELU_TANH),
    ("erf", ir.Act.GELU), ("half first", ir.Act.GELU),
    ("tanh pow", ir.Act.GELU_TANH), ("tanh mul", ir.Act.GELU_TANH), ("silu", ir.Act.SILU), ("quick gelu", ir.Act.SILU)])
def test_activations(path, kind, act):
    net = Net()
    net.linear(net.act(net.linear(tokens(net), K, HIDDEN), kind), HIDDEN, 4)
    graph = accepted(net, path)
    assert kinds(graph) == ["Linear", "Activation", "Linear"] and graph.nodes[1].kind is act


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
    assert reason == "is the output 'y': it reads 'gelu.out' times 2; only behind a Linear can a factor be absorbed"


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
    assert kinds(graph) == ["Linear", "Activation"] and graph.nodes[1].kind is ir.Act.GELU_TANH


def test_swish_with_another_slope_is_declined(path):
    net = Net(24)
    net.op("Swish", net.linear(tokens(net), K, 4), alpha=2.0, name="swish")
    assert declined(net, path) == {"swish": "alpha is 2.0, not 1"}


@pytest.mark.parametrize("kind, whole", [("Sigmoid", "a SiLU"), ("Tanh", "a GELU"), ("Erf", "a GELU"), ("Sqrt", "a LayerNorm"),
                                         ("Softmax", "an attention or a router")])
def test_parts_alone_are_declined(path, kind, whole):
    net = Net()
    net.op(kind, net.linear(tokens(net), K, 4), name="lone")
    assert declined(net, path) == {"lone": f"is only supported as part of {whole}"}


def test_a_gate_that_is_another_value_is_declined(path):
    net = Net()
    x = tokens(net)
    net.op("Mul", net.linear(x, K, 4), net.op("Sigmoid", net.linear(x, K, 4)), name="glu")
    assert declined(net, path)["glu"] == (
        "is only supported as part of an activation, an attention, a mixture of experts or a scale behind a Linear")


# ---------------------------------------------------------------- sums, tokens

def test_add_of_values_of_other_shapes_is_declined(path):
    net = Net()
    x = tokens(net)
    net.op("Add", net.linear(x, K, K), net.op("Gather", x, net.ints(0), axis=1), name="add")
    assert declined(net, path) == {
        "add": "adds 'add_0.out' [5, 6] and 'x.token0' [6]: broadcasting is only supported for constants"}


def test_add_absorbs_a_factor_into_a_linear_only(path):
    net = Net()
    x = tokens(net)
    net.op("Add", x, net.op("Mul", net.linear(x, K, K), net.const(0.5)))
    assert kinds(accepted(net, path)) == ["Linear", "Add"]
    net = Net()
    x = tokens(net)
    net.op("Add", net.linear(x, K, K), net.op("Mul", x, net.const(0.5)), name="add")
    assert declined(net, path) == {"add": "reads 'x' times 0.5; only behind a Linear can a factor be absorbed"}


def test_add_of_a_constant_to_a_part_is_declined(path):
    net = Net()
    part = net.op("Slice", tokens(net), net.ints(1), net.ints(3), net.ints(1))
    net.op("Add", part, net.random(1, 2, K), name="add")
    assert declined(net, path) == {"add": "adds a constant [1, 2, 6] to a part of 'x' [5, 6]"}


def test_add_of_a_constant_to_a_multiple_is_declined(path):
    net = Net()
    net.op("Add", net.op("Mul", tokens(net), net.const(3.0)), net.random(1, 5, K), name="add")
    assert declined(net, path) == {"add": "adds a constant to 'x' times 3"}


def test_two_kinds_of_tokens_in_front(path):
    net = Net()
    net.op("Concat", net.random(1, 1, K), net.random(1, 2, K), tokens(net), axis=1)
    (node,) = accepted(net, path).nodes
    assert isinstance(node, ir.ConcatTokens) and node.tokens.shape == (3, K)


@pytest.mark.parametrize("build, reason", [
    (lambda net, x: (x, net.random(1, 1, K), 1),
     "puts constant tokens behind the sequence; only tokens in front of it are supported"),
    (lambda net, x: (x, x, 1), "joins 2 computed values; only constant tokens in front of a sequence are supported"),
    (lambda net, x: (net.random(1, 5, 2), x, 2), "joins along axis 2 of [1, 5, 8], which is not the token axis"),
], ids=["behind", "two values", "channels"])
def test_other_concats_are_declined(path, build, reason):
    net = Net()
    first, second, axis = build(net, tokens(net))
    net.op("Concat", first, second, axis=axis, name="concat")
    assert declined(net, path) == {"concat": reason}


@pytest.mark.parametrize("start", [0, 2])
def test_mean_of_tokens(path, start):
    net = Net()
    part = net.op("Slice", tokens(net), net.ints(start), net.ints(5), net.ints(1))
    net.op("MatMul", net.op("Mul", net.mean(part, axis=1, keepdims=0), net.const(3.0)), net.random(K, 4))
    graph = accepted(net, path, rank=2)
    assert kinds(graph) == ["Mean", "Linear"] and graph.nodes[0].start == start


def test_mean_of_the_first_tokens_is_declined(path):
    net = Net()
    part = net.op("Slice", tokens(net), net.ints(0), net.ints(3), net.ints(1))
    net.op("ReduceMean", part, net.ints(1), keepdims=0, name="mean")
    assert declined(net, path, rank=2) == {
        "mean": "averages axes [1] of [1, 3, 6], not the tokens of a sequence up to the last"}


# ---------------------------------------------------------------- attention

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


def test_a_bias_on_the_scores_is_declined(path):
    net = Net()
    attention(net, tokens(net), scores=lambda s: net.op("Add", s, net.random(1, 1, 5, 5), name="bias"))
    found = declined(net, path)
    assert found["attention"] == (
        "adds a constant to the scores in 'bias' (an attention mask or a position bias); only attention over all tokens without a "
        "bias is supported")
    assert found["softmax"] == f"belongs to 'attention', which {found['attention']}"
    assert set(found) == {"attention", "softmax", "bias", "matmul_3"}


def test_a_mask_on_the_scores_is_declined(path):
    net = Net()
    causal = net.const(np.tril(np.ones((5, 5))), np.bool_)
    attention(net, tokens(net), scores=lambda s: net.op("Where", causal, s, net.const(-1e9), name="mask"))
    assert declined(net, path)["attention"] == "masks the scores in 'mask'; only attention over all tokens is supported"


@pytest.mark.parametrize("change, reason", [
    (lambda net: dict(axis=2), "has a Softmax 'softmax' over axis 2, not the last"),
    (lambda net: dict(scale=-1.0), "multiplies the scores by -1"),
    (lambda net: dict(weights=lambda w: net.op("Mul", w, net.const(0.5))),
     "multiplies the attention weights by 0.5 after the softmax"),
    (lambda net: dict(v=lambda v: net.op("Mul", v, net.const(2.0))), "multiplies v by 2"),
    (lambda net: dict(scores=lambda s: net.op("Relu", s, name="relu")),
     "has a softmax that reads Relu node 'relu', not a product of q and k"),
    (lambda net: dict(k=lambda k: net.op("Gather", k, net.ints(1, 2, 3, 4, 0), axis=1)),
     "has k that does not take the tokens of 'add_1.out' [5, 6] whole and in order (windows, shifts and sequences of another "
     "length are not supported)"),
], ids=["axis", "negative", "weights", "v", "relu", "shift"])
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


@pytest.mark.parametrize("build, reason", [
    (lambda net: attention_operator(net, net.random(TOKENS, TOKENS)),
     "has an attention mask; only attention over all tokens is supported"),
    (lambda net: attention_operator(net, is_causal=1), "is causal, caps its scores or returns more than the result; only plain "
     "attention is supported"),
    (lambda net: attention_operator(net, softcap=3.0), "is causal, caps its scores or returns more than the result; only plain "
     "attention is supported"),
], ids=["mask", "causal", "softcap"])
def test_other_attention_operators_are_declined(path, build, reason):
    net = Net(23)
    build(net)
    assert declined(net, path) == {"attention": reason}


def test_grouped_heads_of_the_operator_are_declined(path):
    net = Net(23)
    x = net.input("x", [1, TOKENS, DIM])
    net.op("Attention", net.linear(x, DIM, DIM), net.linear(x, DIM, 8), net.linear(x, DIM, 8), q_num_heads=2, kv_num_heads=1,
           name="attention")
    assert declined(net, path) == {"attention": "has 2 query heads and 1 key heads; equal numbers are supported"}


def test_q_and_k_of_other_sizes_are_declined(path):
    net = Net()
    x = tokens(net)
    q, k, v = net.linear(x, K, 4), net.linear(x, K, 4), net.linear(x, K, K)
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    net.op("MatMul", weights, v, name="attention")
    assert declined(net, path)["attention"] == (
        "has q, k and v with [heads, channels] [1, 4], [1, 4], [1, 6]; equal ones are supported")


def test_attention_over_a_vector_is_declined(path):
    net = Net()
    x = net.input("x", [1, K])
    q, k, v = (net.op("Reshape", net.linear(x, K, K), net.ints(1, 1, 1, K)) for _ in range(3))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    net.op("MatMul", weights, v, name="attention")
    assert declined(net, path, rank=4)["attention"] == (
        "has q [1, 1, 1, 6] of 'add_0.out' [6]; expected are [1, heads, tokens, channels] of one token sequence")


# ---------------------------------------------------------------- mixture of experts

def moe(net: Net, **change) -> str:
    """A mixture of experts on [1, TOKENS, DIM]; ``change`` holds functions that replace a part."""
    same = lambda value: value                                                                              # noqa: E731
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
    scores = net.op("Unsqueeze", net.op("Transpose", scores, perm=[1, 0]), net.ints(-1))
    y = net.op("ReduceSum", net.op("Mul", scores, y), net.ints(0), keepdims=0, name="moe")
    return net.op("Unsqueeze", y, net.ints(0))


@pytest.mark.parametrize("change", [
    lambda net: {},
    lambda net: dict(logits=lambda v: net.op("Mul", net.op("Add", v, net.random(EXPERTS)), net.const(0.5))),
    lambda net: dict(read=lambda rows: net.op("Expand", rows, net.ints(EXPERTS, TOKENS, DIM))),
    lambda net: dict(y=lambda y: net.op("Mul", y, net.const(0.25))),
    lambda net: dict(top=lambda top: net.op("Mul", top, net.const(1.0))),
], ids=["plain", "gate with bias and temperature", "repeated tokens", "scaled", "times one"])
def test_moe(path, change):
    net = Net()
    moe(net, **change(net))
    assert kinds(accepted(net, path)) == ["MoE"]


@pytest.mark.parametrize("change, reason", [
    (lambda net: dict(axis=0), "has a router Softmax 'softmax' over axis 0, not over the experts"),
    (lambda net: dict(largest=0), "has a router whose 'topk' is not a constant top-k of the largest over the experts"),
    (lambda net: dict(zero=1.0), "has a router whose 'scatter' does not put scores into zeros along the experts"),
    (lambda net: dict(top=lambda top: net.op("Sqrt", top, name="root")),
     "changes the top-k scores in 'root.out'; supported are the scores themselves, and the scores divided by their sum"),
    (lambda net: dict(top=lambda top: net.op("Div", top, net.op("Add", net.op("ReduceSum", top, net.ints(-1)), net.const(1e-3)),
                                             name="div")),
     "changes the top-k scores in 'div'; supported are the scores themselves, and the scores divided by their sum"),
    (lambda net: dict(logits=lambda v: net.op("Mul", v, net.const(-1.0))), "multiplies the logits of its router by -1"),
    (lambda net: dict(logits=lambda v: net.op("Relu", v)), "has a router that reads 'relu_0.out', which is no Linear"),
    (lambda net: dict(act=lambda h: net.op("Tanh", h, name="tanh")),
     "has Tanh node 'tanh' between the layers of its experts; supported are GELU, SiLU and ReLU"),
    (lambda net: dict(y=lambda y: net.op("Relu", y, name="relu")),
     "has Relu node 'relu' as the second layer of its experts; supported is MatMul with a constant stack [experts, K, N]"),
    (lambda net: dict(b2=lambda b2: net.random(EXPERTS, TOKENS, DIM)),
     f"has a bias [{EXPERTS}, {TOKENS}, {DIM}] in the second layer of its experts, not [experts, 1, {DIM}]"),
    (lambda net: dict(read=lambda rows: net.op("Unsqueeze", net.op("Relu", rows), net.ints(0))),
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


# ---------------------------------------------------------------- what does nothing

def test_moves_that_do_nothing(path):
    net = Net()
    x = net.op("Cast", net.op("Pad", tokens(net), net.ints(0, 0, 0, 0, 0, 0)), to=1)
    y, _ = net.op("Dropout", x, net.const(0.5), outputs=2)
    net.linear(net.op("Where", net.const(np.zeros((5, K)), np.bool_), net.const(1.0), y), K, 4)
    assert kinds(accepted(net, path)) == ["Linear"]


def test_an_output_may_be_one_token(path):
    net = Net()
    net.op("Gather", net.linear(tokens(net), K, 4), net.const(3, np.int64), axis=1)
    graph = accepted(net, path, rank=2)
    assert kinds(graph) == ["Linear", "Select"] and graph.nodes[1].index == 3


def test_functions_are_inlined(path):
    net = Net()
    x = tokens(net)
    net.nodes.append(helper.make_node("Twice", [x], ["twice"], name="call", domain="local"))
    net.op("MatMul", "twice", net.random(K, 4))
    model = net.model({"y": result(net)}, ("a", "b", "c"))
    body = [helper.make_node("Constant", [], ["two"], value_float=2.0), helper.make_node("Mul", ["a", "two"], ["b"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    onnx.save(model, path)
    (graph,) = import_model(path).model.tasks
    (node,) = graph.nodes
    np.testing.assert_array_equal(node.weight, 2 * onnx.numpy_helper.to_array(net.weights[0]))


def test_what_the_reference_cannot_evaluate_is_declined(path):
    net = Net()
    index = net.op("Gather", net.const([1.0, 2.0]), net.ints(5), name="beyond")
    net.op("Mul", tokens(net), net.op("Reshape", index, net.ints(1, 1)), name="mul")
    assert declined(net, path)["beyond"] == "operator Gather is not supported"


def test_old_softmax_works_on_the_last_axis_only_when_told_so(path):
    net = Net(12)
    x = tokens(net)
    q, k, v = (net.linear(x, K, K) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    net.op("MatMul", net.op("Softmax", scores, name="softmax"), v, name="attention")
    assert declined(net, path)["attention"] == "has a Softmax 'softmax' over axis 1, not the last"

def test_training_dropout_is_declined(path):
    net = Net()
    net.op("Dropout", tokens(net), net.const(0.5), net.const(True, np.bool_), name="dropout")
    assert declined(net, path) == {"dropout": "operator Dropout is not supported"}


def test_a_nan_guard_of_something_else_is_declined(path):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    net.op("Where", net.op("IsNaN", x, name="isnan"), net.const(0.0), x, name="guard")
    assert declined(net, path) == {"isnan": "is only supported as part of an attention",
                                   "guard": "is only supported as part of an attention"}
