"""Damaged and hostile ONNX files: one message that names the place, exit code 2, soon and in little memory."""

from __future__ import annotations

from itertools import pairwise
import json
from pathlib import Path
import time
import tracemalloc

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import pytest

from hwgen import cli, report
from hwgen.errors import HwgenError
from hwgen.importer import check_model
from onnx_nets import CLASSES, DIM, Net, result, vit


@pytest.fixture
def spoil(tmp_path):
    """spoil(change) -> the message for a small ViT that ``change(model)`` has been at."""
    def call(change, net: Net | None = None) -> str:
        net = net or vit()
        model = net.model({"y": result(net)}, (1, CLASSES))
        change(model)
        return message(tmp_path / "net.onnx", model)
    return call


def message(path: Path, model: onnx.ModelProto | bytes) -> str:
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    try:
        checked = check_model(path)
    except HwgenError as error:
        found = error
    else:
        found = checked.error
    assert found is not None and found.exit_code == 2 and found.hint and "net.onnx" in found.where
    return str(found)


def weight(model: onnx.ModelProto, number: int = 0) -> onnx.TensorProto:
    return model.graph.initializer[number]


# ---------------------------------------------------------------- weights

@pytest.mark.parametrize("change, words", [
    (lambda t: t.dims.__setitem__(0, 7), "has the shape [7, 1, 4, 4], which takes 448 bytes; the file holds 1024"),
    (lambda t: t.dims.__setitem__(0, -1), "a dimension is negative"),
    (lambda t: t.dims.__setitem__(slice(None), [1 << 20, 1 << 20]), "which takes 4398046511104 bytes"),
    (lambda t: setattr(t, "data_type", 99), "has the unknown element type 99"),
    (lambda t: setattr(t, "data_type", 0), "has the unknown element type 0"),
    (lambda t: setattr(t, "data_type", TensorProto.STRING), "cannot read weight 'w0'"),
    (lambda t: setattr(t, "data_type", TensorProto.DOUBLE), "which takes 2048 bytes"),
    (lambda t: setattr(t, "raw_data", t.raw_data[:-3]), "the file holds 1021 bytes"),
    (lambda t: t.ClearField("raw_data"), "weight 'w0'")])
def test_a_weight_that_contradicts_itself(spoil, change, words):
    text = spoil(lambda model: change(weight(model)))
    assert words in text and "weight 'w0'" in text


@pytest.mark.parametrize("location, offset, words", [
    ("data.bin", "x", "at the offset 'x', which is no number of bytes"), ("data.bin", "", "at the offset ''"),
    ("data.bin", "1e3", "at the offset '1e3'"), ("data.bin", "-1", "at the offset '-1'"), ("data.bin", "²", "at the offset '²'"),
    ("data.bin", str(1 << 62), "at the offset"), ("data.bin", "100", "which holds 64 bytes where 100 are needed"),
    ("a" * 5000, "0", "(5000 characters), which does not exist"), ("\0", "0", "which does not exist"), ("", "0", "which does not exist"),
    (".", "0", "which does not exist"), ("../data.bin", "0", "net.onnx"), ("/dev/zero", "0", "does not exist"), ("data.bin", "0", "64 bytes")])
def test_weights_in_another_file(spoil, tmp_path, location, offset, words):
    (tmp_path / "data.bin").write_bytes(bytes(64))

    def change(model):
        tensor = weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="offset", value=offset)
    text = spoil(change)
    assert words in text and len(text) < 1500


def test_weights_of_a_function_in_a_file_that_is_not_there(spoil):
    def change(model):
        tensor = TensorProto(name="hidden", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="nowhere.bin")
        function(model, "F", [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])])
    assert "weight 'hidden' is kept in the file 'nowhere.bin'" in spoil(change)


def test_a_sparse_weight(spoil):
    def change(model):
        sparse = model.graph.sparse_initializer.add(dims=[16])
        sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    assert "weight 's' is stored as a sparse tensor" in spoil(change)


# ---------------------------------------------------------------- names, versions, functions

@pytest.mark.parametrize("old", [b"conv_0.out", b"Conv", b"w0", b"kernel_shape", b"batch", b"logits_y"])
def test_a_name_that_is_no_text(tmp_path, old):
    net = vit()
    model = net.model({"y": result(net)}, ("batch", CLASSES))
    model.graph.name = "logits_y"
    data = model.SerializeToString()
    assert old in data
    text = message(tmp_path / "net.onnx", data.replace(old, b"\xa7" + old[1:], 1))
    assert "a name in the file is no text (UTF-8): b'\\xa7" in text


@pytest.mark.parametrize("versions, words", [
    ([("", 1 << 40)], "asks for version 1099511627776 of the ONNX operators"), ([("", 0)], "asks for version 0"), ([("", -1)], "version -1"),
    ([("", 20), ("ai.onnx", 17)], "two versions of the operator set 'ai.onnx': 20 and 17"),
    ([("", 20), ("x", 1 << 40)], "version 1099511627776 of the operator set 'x'"), ([], "names no operator set")])
def test_versions_of_operator_sets(spoil, versions, words):
    def change(model):
        del model.opset_import[:]
        for domain, version in versions:
            model.opset_import.add(domain=domain, version=version)
    assert words in spoil(change)


def test_the_long_name_of_the_standard_domain_is_the_short_one(tmp_path):
    net = vit()
    model = net.model({"y": result(net)}, (1, CLASSES))
    model.opset_import[0].domain = "ai.onnx"
    for node in list(model.graph.node)[::2]:
        node.domain = "ai.onnx"
    onnx.save(model, tmp_path / "net.onnx")
    assert check_model(tmp_path / "net.onnx").ok


def function(model, name: str, nodes, calls: str | None = None):
    """A function of the file, called in front of the network when ``calls`` is None."""
    made = model.functions.add(name=name, domain="local", input=["x"], output=["y"])
    made.opset_import.extend([helper.make_opsetid("", 20), helper.make_opsetid("local", 1)])
    made.node.extend(nodes)
    if calls is None:
        model.opset_import.append(helper.make_opsetid("local", 1))
        model.graph.node.insert(0, helper.make_node(name, ["x"], ["fx"], domain="local"))
        model.graph.node[1].input[0] = "fx"


def test_a_function_that_calls_itself(spoil):
    def through_another(model):
        function(model, "F", [helper.make_node("G", ["x"], ["y"], domain="local")])
        function(model, "G", [helper.make_node("F", ["x"], ["y"], domain="local")], calls="")
    assert "the function 'F' calls itself" in spoil(lambda m: function(m, "F", [helper.make_node("F", ["x"], ["y"], domain="local")]))
    assert "calls itself" in spoil(through_another)


def test_a_function_twice(spoil):
    body = [helper.make_node("Identity", ["x"], ["y"])]

    def change(model):
        function(model, "F", body)
        function(model, "F", body, calls="")
    assert "defines the function 'F' twice" in spoil(change)


@pytest.mark.parametrize("levels, calls, words", [(30, 2, "nodes when they are written out"), (5000, 1, "calls inside each other")])
def test_functions_that_write_out_a_huge_network(spoil, levels, calls, words):
    def change(model):
        for level in range(levels):
            values = ["x", *(f"v{i}" for i in range(calls - 1)), "y"]
            kind, domain = (f"F{level + 1}", "local") if level < levels - 1 else ("Identity", "")
            function(model, f"F{level}", [helper.make_node(kind, [a], [b], domain=domain) for a, b in pairwise(values)],
                     calls="" if level else None)
    assert words in soon(lambda: spoil(change))


def test_a_function_that_works(tmp_path):
    net = vit()
    model = net.model({"y": result(net)}, (1, CLASSES))
    function(model, "F", [helper.make_node("Identity", ["x"], ["y"])])
    onnx.save(model, tmp_path / "net.onnx")
    assert check_model(tmp_path / "net.onnx").ok


# ---------------------------------------------------------------- structure, types and shapes

def test_nodes_in_another_order_beside_a_foreign_operator(spoil):
    def change(model):
        place = next(i for i, node in enumerate(model.graph.node) if node.op_type == "LayerNormalization")
        moved = onnx.NodeProto.FromString(model.graph.node[place].SerializeToString())
        del model.graph.node[place]
        model.graph.node.append(moved)
        model.graph.node[0].domain = "x"
    text = spoil(change)
    assert "x.Conv node" in text


def test_a_circle(spoil):
    def change(model):
        model.graph.node[3].input[0] = model.graph.node[5].output[0]
    assert "topologically sorted" in spoil(change)


def test_an_output_nobody_makes(spoil):
    assert "'nobody'" in spoil(lambda model: setattr(model.graph.output[0], "name", "nobody"))


def test_many_outputs(spoil):
    def change(model):
        for number in range(1000):
            model.graph.output.append(helper.make_tensor_value_info(f"o{number}", TensorProto.FLOAT, [1]))
    assert "the network has 1,001 outputs; up to 256 are supported" in spoil(change)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL, TensorProto.INT64])
def test_an_output_of_a_type_it_has_not(spoil, kind):
    text = spoil(lambda model: setattr(model.graph.output[0].type.tensor_type, "elem_type", kind))
    assert "type" in text


def replaced(kind: str, **attributes):
    """A change: the first node of the kind gets other attributes."""
    def change(model):
        node = next(node for node in model.graph.node if node.op_type == kind)
        kept = [a for a in node.attribute if a.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in attributes.items())])
    return change


@pytest.mark.parametrize("change, words, router", [
    (replaced("Conv", kernel_shape=[4, 1]), "Conv node 'conv_0' cannot run: its kernel_shape is [4, 1], the weight has", None),
    (replaced("Gelu", approximate="SAME_UPPER"), "Gelu node 'gelu_0' cannot run: its approximate is 'SAME_UPPER'", None),
    (replaced("ScatterElements", axis=9), "ScatterElements node 'scatterelements_0' cannot run: its axis 9", "plain"),
    (replaced("Transpose", perm=[0, 7, 1]), "Transpose node 'transpose_0'", None),
    (replaced("Softmax", axis=1 << 62), "Softmax node 'softmax_0'", None)])
def test_attributes_that_cannot_be(spoil, change, words, router):
    assert words in spoil(change, vit(router=router))


def test_a_reshape_to_another_number_of_elements(spoil):
    net = Net()
    x = net.op("Relu", net.image(), name="relu")
    net.op("Reshape", x, net.ints(1, 7, 9), name="wrong")
    text = spoil(lambda model: None, net)
    assert "Reshape node 'wrong'" in text and "[1, 7, 9]" in text.replace("{", "[") or "63" in text


def test_a_split_into_nothing(spoil):
    net = Net()
    x = net.linear(net.input("x", [1, 4, 16]), 16, 16)
    net.head(net.op("Split", x, net.ints(16, 0), outputs=2, axis=2)[1], pool="class token")
    text = spoil(lambda model: None, net)
    assert "Split" in text or "Gemm" in text


# ---------------------------------------------------------------- size

def soon(run, seconds: float = 5.0, most: int = 1 << 28) -> str:
    """The message of ``run()``, which takes little CPU time and little memory."""
    begin = time.process_time()
    tracemalloc.start()
    try:
        text = run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < seconds and peak < most
    return text


@pytest.mark.parametrize("shape", [[1, 1 << 20, 1 << 20], [1, 1 << 40], [1, 0, 4], [1, -4, 4]])
def test_an_input_that_cannot_be(spoil, shape):
    net = Net()
    net.op("Relu", net.input("x", shape))
    assert "input 'x'" in soon(lambda: spoil(lambda model: None, net))


@pytest.mark.parametrize("kind", ["Expand", "Tile", "ConstantOfShape", "Pad", "Range", "products"])
def test_a_constant_that_explodes(spoil, kind):
    net = Net()
    big = 1 << 20
    match kind:
        case "Expand":
            y = net.op("Expand", net.random(1, 1), net.ints(big, big))
        case "Tile":
            y = net.op("Tile", net.random(1, 1), net.ints(big, big))
        case "ConstantOfShape":
            y = net.op("ConstantOfShape", net.ints(1 << 30, 2))
        case "Pad":
            y = net.op("Pad", net.random(1, 1), net.ints(big, big, big, big))
        case "Range":
            y = net.op("Range", *(net.const(v, np.int64) for v in (0, 1 << 40, 1)))
            y = net.op("Cast", y, to=TensorProto.FLOAT)
        case "products":
            y = net.op("ConstantOfShape", net.ints(7000, 7000))
            for _ in range(300):
                y = net.op("MatMul", y, y)
    net.op("Add", net.image(), net.op("ReduceMax", y, keepdims=0))
    assert kind in soon(lambda: spoil(lambda model: None, net)) or kind == "products"


def test_a_value_that_explodes(spoil):
    net = Net()
    net.op("Expand", net.op("Relu", net.image()), net.ints(1 << 15, 1 << 15, 8, 8), name="wide")
    assert "Expand node 'wide' makes too much" in soon(lambda: spoil(lambda model: None, net))


def test_many_tasks(spoil):
    net = Net()
    net.op("Gather", net.random(1000, DIM), net.input("task", [], TensorProto.INT64), axis=0)
    net.op("Add", net.input("x", [1, 4, DIM]), result(net))
    assert "selects among 1,000 constants; up to 256 tasks" in spoil(lambda model: None, net)


# ---------------------------------------------------------------- chance

@pytest.mark.parametrize("kind", ["Dropout", "RandomNormalLike", "old Dropout"])
def test_what_depends_on_chance(spoil, kind):
    net = Net(opset=6 if kind == "old Dropout" else 20)
    x = net.input("x", [1, 4, DIM])
    if kind == "Dropout":
        net.op("Dropout", x, net.const(0.5), net.const(True, np.bool_), name="drop")
    elif kind == "old Dropout":
        net.op("Dropout", x, ratio=0.5, is_test=0, name="drop")
    else:
        net.op("Add", x, net.op("RandomNormalLike", x, name="drop"))
    text = spoil(lambda model: None, net)
    assert "node 'drop'" in text and "eval mode" in text


def test_a_dropout_on_constants_in_training_mode_is_not_folded(spoil):
    net = Net()
    noise = net.op("Dropout", net.random(1, 4, DIM), net.const(0.5), net.const(True, np.bool_), name="drop")
    net.op("Add", net.input("x", [1, 4, DIM]), noise)
    assert "node 'drop'" in spoil(lambda model: None, net)


@pytest.mark.parametrize("opset, pads, ok", [(6, [0] * 8, True), (10, [0] * 8, True), (10, [0, 0, 1, 1, 0, 0, 1, 1], False)])
def test_the_pads_of_old_files_are_an_attribute(tmp_path, opset, pads, ok):
    net = Net(opset)
    x = net.op("Pad", net.image(), pads=pads, mode="constant")
    net.op("Conv", x, net.random(DIM, 1, 2, 2), net.random(DIM), kernel_shape=[2, 2], strides=[2, 2])
    onnx.save(net.model({"y": result(net)}, (1, DIM, 4, 4)), tmp_path / "net.onnx")
    checked = check_model(tmp_path / "net.onnx")
    unsupported = [v.op for v in checked.verdicts if v.status.value == "unsupported"]
    assert ("Pad" in unsupported) == (not ok)


# ---------------------------------------------------------------- many nodes

def chain(kind: str, count: int) -> onnx.ModelProto:
    net = Net()
    x = net.input("x", [1, 4, 4])
    turns = [net.ints(1, 2, 8), net.ints(1, 4, 4)]
    square = net.const(np.eye(4))
    nodes = []
    for number in range(count):
        source = f"v{number - 1}" if number else x
        operands = {"Reshape": [source, turns[number % 2]], "MatMul": [source, square], "Mul": [source, source]}.get(kind, [source])
        if kind == "constants":
            operands = [source if number else square, square]
        if kind == "fan":
            nodes.append(helper.make_node("Relu", [source], [f"r{number}"], name=f"r{number}"))
        nodes.append(helper.make_node({"constants": "Add", "fan": "Identity"}.get(kind, kind), operands, [f"v{number}"], name=f"n{number}"))
    net.nodes += nodes
    if kind == "constants":
        net.op("Add", x, f"v{count - 1}", name="sum")
    return net.model({"y": net.nodes[-1].output[0]}, (1, 4, 4))


@pytest.mark.parametrize("kind", ["Identity", "Reshape", "Transpose", "constants", "Elu", "Sigmoid", "Foo", "Relu", "MatMul", "Mul", "fan"])
def test_no_pass_is_worse_than_linear(tmp_path, kind):
    """Four times the nodes take about four times as long, and 150,000 of them 10 CPU seconds: 0.13 s for 2,000, twice that here."""
    def least(count: int) -> float:                 # of two: a collection of garbage of other tests is none of ours
        onnx.save(chain(kind, count), tmp_path / "net.onnx")
        spent = []
        for _ in range(2):
            begin = time.process_time()
            check_model(tmp_path / "net.onnx")
            spent.append(time.process_time() - begin)
        return min(spent)
    times = [least(count) for count in (1500, 6000)]
    assert times[1] < 8 * max(times[0], 0.05) and times[1] < 3.0


def test_a_long_table_shows_what_is_not_supported(tmp_path, monkeypatch, capsys):
    net = Net()
    x = net.input("x", [1, 4, DIM])
    for _ in range(20):
        x = net.op("Relu", x)
    net.op("Elu", x, name="elu")
    onnx.save(net.model({"y": result(net)}, (1, 4, DIM)), tmp_path / "net.onnx")
    monkeypatch.setattr(report, "MAX_ROWS", 5)
    with pytest.raises(SystemExit) as stop:
        cli.main(["check", str(tmp_path / "net.onnx"), "--json", str(tmp_path / "all.json")])
    text = capsys.readouterr().out
    assert stop.value.code == 2 and "elu" in text and "relu_7" not in text and "nodes more" in text
    assert len(json.loads((tmp_path / "all.json").read_text())["nodes"]) == 22
