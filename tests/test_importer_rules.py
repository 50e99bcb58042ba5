"""Rewrite rules for layers, sums and tokens: accepted ones give the numbers of onnxruntime, declined ones a reason."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
import pytest

from hwgen import ops
from hwgen.graph import Graph
from hwgen.importer import import_model
from hwgen.ops import PatchEmbed
from hwgen.ops.registry import parts, rules
from onnx_nets import DIM, IMAGE, PATCH, Net, result
from rule_checks import K, accepted, declined, kinds, tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def test_every_operator_without_rule_of_its_own_says_where_it_belongs():
    parts_only = {"Softmax", "TopK", "Erf", "HardSigmoid", "Exp", "Sqrt", "Pow", "IsNaN", "Neg", "Reciprocal", "ReduceSumSquare"}
    assert set(parts()) - set(rules()) == parts_only


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


def test_gemm_transposed(path):
    """It sums over the tokens; with a bias for each channel it is declined."""
    for bias in (), (4,):
        net = Net()
        rows = net.op("Squeeze", tokens(net), net.ints(0))
        net.op("Unsqueeze", net.op("Gemm", rows, net.random(5, 4), *(net.random(*shape) for shape in [bias][:len(bias)]), transA=1), net.ints(0))
        assert kinds(accepted(net, path)) == ["TokenMix"]
    net = Net()
    net.op("Gemm", net.op("Squeeze", tokens(net), net.ints(0)), net.random(5, 4), net.random(K, 1), transA=1, name="gemm")
    net.op("Unsqueeze", "gemm.out", net.ints(0))
    assert declined(net, path)["gemm"] == "has a transposed input, or a weight or bias that is no constant"


def test_products_from_the_left(path):
    """With the channels of the tokens it is a Linear, with the tokens a mix of them, with a part of either it is declined."""
    for weight, turned, kind in ((7, 5), False, "TokenMix"), ((7, K), True, "Linear"):
        net = Net()
        x = net.op("Transpose", tokens(net), perm=[0, 2, 1]) if turned else tokens(net)
        net.op("MatMul", net.random(*weight), x)
        assert kinds(accepted(net, path)) == [kind]
    net = Net()
    net.op("MatMul", net.random(2, 3, 5), net.op("Reshape", tokens(net), net.ints(1, 5, K)), name="stack")
    assert declined(net, path) == {"stack": "multiplies a constant [2, 3, 5] from the left; supported are x @ W, and W @ x for a matrix W"}


def test_a_linear_over_flattened_tokens_is_declined(path):
    net = Net()
    net.op("MatMul", net.op("Reshape", tokens(net), net.ints(1, 5 * K)), net.random(5 * K, 4), name="flat")
    assert declined(net, path, rank=2) == {"flat": "reads 'x' [5, 6] reshaped to [1, 30], which mixes tokens and channels"}


def test_a_part_of_the_tokens_is_declined(path):
    """Not equally far apart."""
    net = Net()
    part = net.op("Gather", tokens(net), net.ints(0, 1, 4), axis=1, name="part")
    net.op("MatMul", part, net.random(K, 4), name="linear")
    assert declined(net, path) == {
        "linear": "reads 'x' [5, 6] as [1, 3, 6] in another order or in part (through 'part'); supported are the whole sequence, "
                  "tokens equally far apart, and the heads of an attention"}


@pytest.mark.parametrize(("first", "last", "step"), [(1, 3, 1), (0, 5, 2), (2, 5, 1), (3, 4, 1)])
def test_some_tokens(path, first, last, step):
    net = Net()
    part = net.op("Slice", tokens(net), net.ints(first), net.ints(last), net.ints(1), net.ints(step))
    net.op("MatMul", part, net.random(K, 4))
    chosen, linear = accepted(net, path).nodes
    count = len(range(first, last, step))
    assert linear.x == chosen.output and chosen.x == "x" and chosen.name == "slice_0"
    wanted = {"start": first, "count": count, "step": step} if count > 1 else {"index": first}
    assert chosen.attributes() == wanted


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


def accepted_after_linear(net: Net, path) -> Graph:
    """The activation of the value made last, without its Relu: a Linear on the same moves."""
    relu = next(node for node in net.nodes if node.op_type == "Relu")
    for node in net.nodes:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    net.nodes.remove(relu)
    net.op("MatMul", result(net), net.random(DIM, 3))
    return accepted(net, path)


@pytest.mark.parametrize("attrs, places", [
    ({"strides": [2, 2]}, 9), ({"strides": [3, 1]}, 10), ({"pads": [1, 2, 1, 0], "strides": [4, 4]}, 4), ({"dilations": [2, 1], "strides": [1, 1]}, 10),
    ({"auto_pad": "SAME_UPPER", "strides": [3, 3]}, 9), ({"auto_pad": "SAME_LOWER", "strides": [1, 2]}, 32), ({"auto_pad": "VALID"}, 4),
    ({"pads": [2, 2, 2, 2], "strides": [2, 2], "dilations": [2, 2]}, 9)], ids=str)
def test_windows_may_overlap_leave_gaps_and_reach_over_the_border(path, attrs, places):
    net = Net()
    flatten(net, conv(net, **attrs))
    (node,) = accepted(net, path).nodes
    assert (type(node), node.shape((1, IMAGE, IMAGE))) == (PatchEmbed, (places, DIM))


def test_groups_of_channels_are_zeros_elsewhere(path):
    net = Net()
    flatten(net, conv(net, (DIM, 2, 4, 4), x=net.input("x", [1, 4, IMAGE, IMAGE]), group=2))
    (node,) = accepted(net, path).nodes
    assert node.weight.shape == (DIM, 4, 4, 4) and not node.weight[:DIM // 2, 2:].any() and not node.weight[DIM // 2:, :2].any()


def test_a_rest_that_no_window_reaches_is_not_read(path):
    net = Net()
    flatten(net, conv(net, x=net.input("x", [1, 1, 8, 10])))
    assert accepted(net, path).nodes[0].shape((1, 8, 10)) == (4, DIM)


@pytest.mark.parametrize("attrs, places", [({"strides": [4]}, 2), ({"strides": [2], "pads": [1, 1]}, 4), ({"auto_pad": "SAME_UPPER"}, 8)], ids=str)
def test_a_signal_is_an_image_of_one_row(path, attrs, places):
    net = Net()
    y = net.op("Conv", net.input("x", [1, 3, 8]), net.random(DIM, 3, 4), net.random(DIM), **attrs)
    net.op("Transpose", y, perm=[0, 2, 1])
    assert accepted(net, path).nodes[0].shape((3, 8)) == (places, DIM)


@pytest.mark.parametrize("attrs, size, reason", [
    ({"strides": [4, 4]}, [1, 1, 8, 3], "has an image [1, 8, 3] that holds no window of 4x4")], ids=["too small"])
def test_other_convolutions_are_declined(path, attrs, size, reason):
    net = Net()
    conv(net, x=net.input("x", size), **attrs)
    assert declined(net, path, rank=4) == {"conv": reason}


# ---------------------------------------------------------------- LayerNorm

def norm(net: Net, x: str, square: str = "pow", **change) -> str:
    """A decomposed LayerNorm; ``change``: axis of the means."""
    centered = net.op("Sub", x, net.mean(x, change.get("axis", -1)))
    power = net.op("Pow", centered, net.const(2.0)) if square == "pow" else net.op("Mul", centered, centered)
    root = net.op("Sqrt", net.op("Add", net.const(1e-3), net.mean(power, change.get("axis", -1))))
    return net.op("Div", centered, root, name="norm")


@pytest.mark.parametrize("opset", [14, 20])
@pytest.mark.parametrize("square", ["pow", "mul"])
def test_layer_norm_decomposed(path, opset, square):
    net = Net(opset)
    norm(net, tokens(net), square)
    (node,) = accepted(net, path).nodes
    assert isinstance(node, ops.LayerNorm) and node.eps == pytest.approx(1e-3)
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


# ---------------------------------------------------------------- sums, tokens

def test_add_of_values_of_other_shapes_is_declined(path):
    net = Net()
    x = tokens(net)
    net.op("Add", net.linear(x, K, K), net.op("Gather", x, net.ints(0), axis=1), name="add")
    assert declined(net, path) == {
        "add": "adds values of [1, 5, 6] and [1, 1, 6]: broadcasting is only supported for constants"}


def test_add_absorbs_a_factor_into_a_linear_only(path):
    net = Net()
    x = tokens(net)
    net.op("Add", x, net.op("Mul", net.linear(x, K, K), net.const(0.5)))
    assert kinds(accepted(net, path)) == ["Linear", "Add"]
    net = Net()
    x = tokens(net)
    net.op("Add", net.linear(x, K, K), net.op("Mul", x, net.const(0.5)), name="add")
    assert declined(net, path) == {"out_y": "is the output 'y': it reads 'add.out' times 0.5; only weights in front of it can take a factor in"}


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
    assert isinstance(node, ops.ConcatTokens) and node.tokens.shape == (3, K)


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
    assert declined(net, path) == {"dropout": "gives another result in every run: export the model in eval mode (model.eval())"}


def test_a_nan_guard_of_something_else_is_declined(path):
    net = Net()
    x = net.linear(tokens(net), K, 4)
    net.op("Where", net.op("IsNaN", x, name="isnan"), net.const(0.0), x, name="guard")
    assert declined(net, path) == {"isnan": "is only supported as part of an attention",
                                   "guard": "is only supported as part of an attention"}
