"""Networks that look like what a rule takes, and are not: refused, or read right."""

from __future__ import annotations

import os

import numpy as np
from onnx import TensorProto, helper
import onnxruntime
import pytest

import hwgen
from hwgen.errors import HwgenError, ModelError, TargetError
from hwgen.graph import evaluate
from hwgen.importer import check_model, import_model
from hwgen.paths import data_dir
from onnx_nets import CLASSES, DIM, EXPERTS, TOKENS, Net, result, vit
from rule_checks import K, accepted, declined, tokens


def right_or_refused(net: Net, path, shape) -> bool:
    """Whether the net is accepted; if it is, its float graph computes what onnxruntime does."""
    net.save(path, {"y": result(net)}, shape)
    try:
        (graph,) = import_model(path).model.tasks
    except HwgenError:
        return False
    (name, size), = graph.inputs.items()
    x = np.random.default_rng(3).normal(size=(4, *size)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    want = np.concatenate([session.run(None, {name: x[i:i + 1]})[0] for i in range(4)])
    np.testing.assert_allclose(evaluate.run(graph, {name: x})["y"].reshape(want.shape), want, atol=1e-4)
    return True


def moe(net: Net, *, tokens: int = TOKENS, softmax_axis: int = -1, topk_axis: int = -1, total_axis: int | None = None, keepdims: int = 1,
        unsqueeze: bool = False, swap: bool = False) -> str:
    """A mixture of experts on [1, T, E] whose router may work along the tokens, or take its choice in another order."""
    x = net.input("x", [1, tokens, DIM])
    logits = net.op("MatMul", x, net.random(DIM, EXPERTS, scale=1.0))
    top, index = net.op("TopK", net.op("Softmax", logits, axis=softmax_axis), net.ints(2), outputs=2, axis=topk_axis)
    if total_axis is not None:
        total = net.op("ReduceSum", top, net.ints(total_axis), keepdims=keepdims)
        top = net.op("Div", top, net.op("Unsqueeze", total, net.ints(-1)) if unsqueeze else total)
    if swap:
        top, index = (net.op("Reshape", net.op("Reshape", v, net.ints(tokens // 2, 4)), net.ints(tokens, 2)) for v in (top, index))
    flat = [net.op("Reshape", v, net.ints(tokens, -1)) for v in (index, top)]
    scores = net.op("ScatterElements", net.const(np.zeros((tokens, EXPERTS))), *flat, axis=1)
    w1, b1, w2, b2 = net.experts()
    rows = net.op("Reshape", x, net.ints(1, tokens, DIM))
    hidden = net.act(net.op("Add", net.op("MatMul", rows, w1), b1), "Gelu")
    y = net.op("Add", net.op("MatMul", hidden, w2), b2)
    scores = net.op("Unsqueeze", net.op("Transpose", scores, perm=[1, 0]), net.ints(-1))
    y = net.op("ReduceSum", net.op("Mul", y, scores), net.ints(0), keepdims=0)
    return net.op("Reshape", y, net.ints(1, tokens, DIM))


@pytest.mark.parametrize("options, taken", [
    ({}, True), ({"total_axis": -1}, True), ({"total_axis": -1, "keepdims": 0, "unsqueeze": True}, True), ({"softmax_axis": 1}, False),
    ({"total_axis": 1}, False), ({"tokens": 2, "total_axis": -1, "keepdims": 0}, False), ({"tokens": 4, "softmax_axis": 1}, False),
], ids=["plain", "renormalized", "renormalized, unsqueezed", "softmax over tokens", "sum over tokens", "sum of the other axis",
        "softmax over as many tokens as experts"])
def test_a_router_works_over_the_experts(tmp_path, options, taken):
    net = Net()
    moe(net, **options)
    assert right_or_refused(net, tmp_path / "net.onnx", [1, options.get("tokens", TOKENS), DIM]) is taken


def test_top_k_over_the_tokens(tmp_path):
    net = Net()
    x = net.input("x", [1, EXPERTS, DIM])
    logits = net.op("MatMul", x, net.random(DIM, EXPERTS, scale=1.0))
    top, index = net.op("TopK", net.op("Softmax", logits, axis=-1), net.ints(EXPERTS), outputs=2, axis=1)
    flat = [net.op("Reshape", v, net.ints(EXPERTS, EXPERTS)) for v in (index, top)]
    scores = net.op("ScatterElements", net.const(np.zeros((EXPERTS, EXPERTS))), *flat, axis=1)
    w1, b1, w2, b2 = net.experts()
    y = net.op("Add", net.op("MatMul", net.act(net.op("Add", net.op("MatMul", x, w1), b1)), w2), b2)
    y = net.op("ReduceSum", net.op("Mul", y, net.op("Unsqueeze", net.op("Transpose", scores, perm=[1, 0]), net.ints(-1))), net.ints(0), keepdims=0)
    net.op("Unsqueeze", y, net.ints(0))
    assert not right_or_refused(net, tmp_path / "net.onnx", [1, EXPERTS, DIM])


def test_two_factors_of_one_linear(tmp_path):
    """Two temperatures of one head: each reader has its own factor."""
    net = vit()
    logits = result(net)
    outputs = {"cold": net.op("Mul", logits, net.const(0.5)), "hot": net.op("Mul", logits, net.const(2.0))}
    checked = hwgen.check(net.save(tmp_path / "net.onnx", outputs, [1, CLASSES]))
    assert checked.ok and checked.onnx["onnx_max_abs_error"] < 1e-5


@pytest.mark.parametrize("name", ["linear.token1", "linear * 0.5"])
def test_a_value_with_a_name_of_ours(tmp_path, name):
    """The file has a value that is called as hwgen would call a token, or a multiple, of another one."""
    net = Net()
    x = tokens(net)
    net.nodes.append(helper.make_node("MatMul", [x, net.random(K, K)], ["linear"], name="first"))
    net.nodes.append(helper.make_node("MatMul", [x, net.random(K, K)], [name], name="second"))
    part = net.op("Mul", "linear", net.const(0.5)) if "*" in name else net.op("Gather", "linear", net.ints(1), axis=1)
    other = name if "*" in name else net.op("Gather", name, net.ints(1), axis=1)
    net.op("Add", part, other)
    assert right_or_refused(net, tmp_path / "net.onnx", ["a", "b", "c"])


def test_values_with_the_names_of_the_integer_network(tmp_path):
    net = vit()
    first, second, *_ = (node.output[0] for node in net.nodes if node.op_type == "LayerNormalization")
    names = {first: "x.int8", second: f"{net.nodes[0].output[0]}.start"}
    for node in net.nodes:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in list(values)]
    net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES])
    acc = hwgen.compile(tmp_path / "net.onnx", out=tmp_path / "build", backend="hls")
    x = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    other = vit()
    other.save(tmp_path / "other.onnx", {"y": result(other)}, [1, CLASSES])
    same = hwgen.compile(tmp_path / "other.onnx", out=tmp_path / "same", backend="hls")
    np.testing.assert_array_equal(acc.simulate({"x": x}, engine="golden").outputs["y"], same.simulate({"x": x}, engine="golden").outputs["y"])


def test_an_exponent_for_each_channel_is_no_square(tmp_path):
    net = Net()
    x = tokens(net)
    centered = net.op("Sub", x, net.mean(x))
    power = net.op("Pow", centered, net.const([2.0, 4.0] * (K // 2)))
    net.op("Div", centered, net.op("Sqrt", net.op("Add", net.mean(power), net.const(1e-5))))
    assert not right_or_refused(net, tmp_path / "net.onnx", ["a", "b", "c"])


def test_attention_with_lengths_scale_zero_and_a_short_mask(tmp_path):
    def net(opset, *more, **attrs):
        net = Net(opset)
        x = tokens(net)
        heads = [net.op("Unsqueeze", net.op("MatMul", x, net.random(K, K)), net.ints(1)) for _ in range(3)]
        net.op("Squeeze", net.op("Attention", *heads, *more(net) if callable(more := (more[0] if more else None)) else (), **attrs), net.ints(1))
        return net
    path = tmp_path / "net.onnx"
    lengths = net(24, lambda net: ("", "", "", net.const([3], np.int64)))
    assert "lengths of the sequences" in str(declined(lengths, path))
    assert "multiplies the scores by 0" in str(declined(net(23, scale=0.0), path))
    short = net(24, lambda net: (net.const(np.ones((5, 4)), bool),))
    assert "an attention mask" in str(declined(short, path))
    whole = net(24, lambda net: (net.const(np.ones((5, 5)), bool),))
    assert accepted(whole, path)


def test_a_result_nobody_wants(tmp_path):
    """An output left out has the empty name, as an operand left out has: the one is not the other."""
    net = Net()
    x = tokens(net)
    net.nodes.append(helper.make_node("Dropout", [x], ["dropped", ""], name="drop"))
    net.op("LayerNormalization", net.linear("dropped", K, K), net.random(K), "", axis=-1)
    assert right_or_refused(net, tmp_path / "net.onnx", ["a", "b", "c"])


@pytest.mark.parametrize("dead", ["loop", "expand", "unknown shape"])
def test_what_no_output_needs_costs_nothing(tmp_path, dead):
    net = vit()
    y = result(net)
    if dead == "loop":
        def value(name, kind):
            return helper.make_tensor_value_info(name, kind, [])
        body = helper.make_graph([helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Add", ["v", "v"], ["w"])], "body",
                                 [value("i", TensorProto.INT64), value("c", TensorProto.BOOL), value("v", TensorProto.FLOAT)],
                                 [value("go", TensorProto.BOOL), value("w", TensorProto.FLOAT)])
        net.nodes.append(helper.make_node("Loop", [net.const(10**15, np.int64), "", net.const(1.0)], ["end"], body=body, name="dead"))
    elif dead == "expand":
        net.op("Expand", net.const([1.0]), net.ints(1 << 20, 1 << 20), name="dead")
    else:
        net.op("NonZero", net.op("Softplus", net.nodes[0].output[0]), name="dead")
    checked = check_model(net.save(tmp_path / "net.onnx", {"y": y}, [1, CLASSES]))
    assert checked.ok and {v.node: v.reason for v in checked.verdicts}["dead"] == "its result is not used"


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="the model is a pipe or a device"):
        import_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "lut: " + "9" * 5000, "- 1"])
def test_a_board_file_that_is_none(tmp_path, text):
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(TargetError):
        hwgen.check(vit_file(tmp_path), target=tmp_path / "b.yaml")


def vit_file(folder):
    net = vit()
    return net.save(folder / "net.onnx", {"y": result(net)}, [1, CLASSES])


def test_numbers_of_a_board_are_bounded(tmp_path):
    text = (data_dir("boards") / "zcu104.yaml").read_text().replace("clock_mhz: 300\n", "clock_mhz: 1.0e+308\n", 1)
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(TargetError, match="clock_mhz"):
        hwgen.check(vit_file(tmp_path), target=tmp_path / "b.yaml")
