"""What the importer says about files it cannot use: one message with the file, the place and the next step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

from hwgen.errors import ModelError, ShapeError
from hwgen.importer import Status, check_model, import_model
from onnx_nets import CLASSES, DIM, EXPERTS, IMAGE, Net, result, vit


def refused(kind: type, path: Path, shapes=None) -> list[str]:
    """The lines of the message, with the directory of the file cut off; `check_model` must raise the same."""
    with pytest.raises(kind) as error:
        import_model(path, shapes)
    assert error.value.exit_code == 2
    assert error.value.where and str(path) in error.value.where
    return str(error.value).replace(f"{path.parent}/", "").split("\n")


def both_refuse(kind: type, path: Path, shapes=None) -> list[str]:
    lines = refused(kind, path, shapes)
    with pytest.raises(kind) as error:
        check_model(path, shapes)
    assert str(error.value).replace(f"{path.parent}/", "").split("\n") == lines
    return lines


def only_imports_refuse(path: Path, shapes=None, kind: type = ModelError) -> list[str]:
    """For a file that can be read: `check_model` returns the error instead."""
    lines = refused(kind, path, shapes)
    checked = check_model(path, shapes)
    assert not checked.ok and checked.model is None
    assert str(checked.error).replace(f"{path.parent}/", "").split("\n") == lines
    return lines


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.onnx"


def good(**options) -> tuple[Net, dict[str, str]]:
    net = vit(**options)
    return net, {"y": result(net)}


# ---------------------------------------------------------------- the file

def test_missing_file(path):
    assert both_refuse(ModelError, path) == [
        "cannot read the model: No such file or directory", "  at:   net.onnx", "  next: check the path"]


def test_a_directory(tmp_path):
    (tmp_path / "net.onnx").mkdir()
    assert both_refuse(ModelError, tmp_path / "net.onnx")[0] == "cannot read the model: Is a directory"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n and so on", b"hello, this is no model"], ids=["png", "text"])
def test_not_onnx(path, content):
    path.write_bytes(content)
    assert both_refuse(ModelError, path) == [
        "the file is no ONNX model, or it is truncated", "  at:   net.onnx",
        "  next: compare its size with the original, or export the model again"]


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated(path, part):
    net, outputs = good()
    data = net.model(outputs).SerializeToString()
    path.write_bytes(data[:int(len(data) * part)])
    assert both_refuse(ModelError, path)[0] == "the file is no ONNX model, or it is truncated"


def test_empty(path):
    path.write_bytes(b"")
    assert both_refuse(ModelError, path) == [
        "the file holds no ONNX network: it has no outputs or names no operator set", "  at:   net.onnx",
        "  next: give a file written by torch.onnx.export or onnx.save"]


def external(path: Path) -> Path:
    net, outputs = good()
    onnx.save(net.model(outputs), path, save_as_external_data=True, location="net.data", size_threshold=0)
    return path.parent / "net.data"


def test_missing_external_data(path):
    external(path).unlink()
    assert both_refuse(ModelError, path) == [
        "weight 'w0' is kept in the file 'net.data', which does not exist beside net.onnx", "  at:   net.onnx",
        "  next: copy the data file that was exported with the model into the same directory"]


def test_truncated_external_data(path):
    data = external(path)
    data.write_bytes(data.read_bytes()[:100])
    assert both_refuse(ModelError, path)[0] == (
        "weight 'w0' is kept in the file 'net.data', which holds 100 bytes where 1024 are needed")


def test_external_data_outside_of_the_directory(path):
    data = external(path)
    model = onnx.load(path, load_external_data=False)
    inside = path.parent / "sub"
    inside.mkdir()
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"../{data.name}"
    onnx.save(model, inside / "net.onnx")
    assert both_refuse(ModelError, inside / "net.onnx")[0].startswith("cannot read the weights kept in '../net.data': ")


def test_invalid_network(path):
    net, outputs = good()
    net.nodes[3].input[0] = "nowhere"
    net.save(path, outputs)
    lines = both_refuse(ModelError, path)
    assert lines[0].startswith("the ONNX checker refuses the model: Nodes in a graph must be topologically sorted")
    assert lines[-1] == "  next: export the model again with a current exporter"


# ---------------------------------------------------------------- inputs and shapes

def test_symbolic_batch(path):
    net, outputs = good(batch="batch")
    net.save(path, outputs)
    assert both_refuse(ShapeError, path) == [
        "dimension 0 ('batch') of the input 'x' is not fixed: its shape is [batch, 1, 8, 8]", "  at:   net.onnx",
        "  next: give it: --shape x=1x1x8x8"]


def test_symbolic_sequence(path):
    net = Net()
    t = net.linear(net.input("tokens", [1, "T", 12]), 12, DIM)
    net.save(path, {"y": t}, ("b", "t", "d"))
    assert both_refuse(ShapeError, path) == [
        "dimension 1 ('T') of the input 'tokens' is not fixed: its shape is [1, T, 12]", "  at:   net.onnx",
        "  next: give it: --shape tokens=1x<T>x12"]


def test_a_dimension_without_name(path):
    net, outputs = good(batch=None)
    net.save(path, outputs)
    assert both_refuse(ShapeError, path)[0] == "dimension 0 ('?') of the input 'x' is not fixed: its shape is [?, 1, 8, 8]"


def test_input_without_shape(path):
    net, outputs = good()
    net.inputs[0].type.tensor_type.ClearField("shape")
    net.save(path, outputs)
    assert both_refuse(ShapeError, path) == [
        "input 'x' has no shape", "  at:   net.onnx", "  next: give it: --shape x=1x3x224x224"]


@pytest.mark.parametrize("given", [(1, 1, 8), (1, 3, 8, 8), (0, 1, 8, 8)], ids=str)
def test_a_given_shape_that_does_not_fit(path, given):
    net, outputs = good(batch="batch")
    net.save(path, outputs)
    assert both_refuse(ShapeError, path, {"x": given}) == [
        f"--shape x={'x'.join(map(str, given))} does not fit the input 'x' of shape [batch, 1, 8, 8]", "  at:   net.onnx",
        "  next: only symbolic dimensions can be chosen"]


def test_a_shape_for_an_unknown_input(path):
    net, outputs = good()
    net.save(path, outputs)
    assert both_refuse(ShapeError, path, {"image": (1, 1, 8, 8)}) == [
        "--shape names the input 'image'; the model has 'x'", "  at:   net.onnx", "  next: use one of these names"]


@pytest.mark.parametrize("batch, shapes", [(4, None), ("batch", {"x": (4, 1, 8, 8)})], ids=["in the file", "given"])
def test_a_batch_that_is_not_one(path, batch, shapes):
    net = Net()
    net.save(path, {"y": net.op("Relu", net.image(batch))}, ("b", 1, 8, 8))
    assert both_refuse(ShapeError, path, shapes) == [
        "input 'x' has the shape [4, 1, 8, 8]; the first dimension is the batch and must be 1", "  at:   net.onnx",
        "  next: export with a batch of 1; hwgen streams any number of images"]


def test_shapes_that_contradict(path):
    net = Net()
    x = net.input("x", [1, "T", 12])
    net.save(path, {"y": net.op("Add", net.linear(x, 12, DIM), net.random(1, 5, DIM), name="position")}, ("b", "t", "d"))
    lines = only_imports_refuse(path, {"x": (1, 7, 12)}, ShapeError)
    assert lines[0].startswith("the shapes of Add node 'position' do not fit: add_0.out [1, 7, 16], w2 [1, 5, 16] (")
    assert lines[1:] == ["  at:   net.onnx: Add node 'position'",
                         "  next: is a shape given by --shape one the model was made for?"]


@pytest.mark.parametrize("kind, shown, hint", [
    (TensorProto.INT64, "int64", "token ids: cut the network behind the embedding look-up, and give the embeddings as a float32 input"),
    (TensorProto.DOUBLE, "double", "export the model in float32"),
    (TensorProto.UINT8, "uint8",
     "give float32 values, prepared as for training; a conversion from whole numbers belongs in front of the network")])
def test_an_input_of_another_type(path, kind, shown, hint):
    net = Net()
    net.save(path, {"y": net.op("Cast", net.input("ids", [1, 16], kind), to=TensorProto.FLOAT)})
    assert both_refuse(ModelError, path) == [
        f"input 'ids' is {shown} [1, 16]; an input is float32, or one integer that selects the task", "  at:   net.onnx",
        f"  next: {hint}"]


def test_two_task_inputs(path):
    net = Net()
    for name in ("task", "mode"):
        net.op("Cast", net.input(name, [], TensorProto.INT64), to=TensorProto.FLOAT)
    net.save(path, {"y": net.op("Relu", net.image())}, ("b", 1, 8, 8))
    assert both_refuse(ModelError, path)[0] == "the model has 2 integer inputs: ['task', 'mode']"


def test_no_float_input(path):
    net = Net()
    net.save(path, {"y": net.op("Cast", net.input("task", [1], TensorProto.INT64), to=TensorProto.FLOAT)}, ("b",))
    assert both_refuse(ModelError, path)[0] == "the model has no float32 input"


# ---------------------------------------------------------------- the network

@pytest.mark.parametrize("bad, shown", [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_a_weight_that_is_not_finite(path, bad, shown):
    net, outputs = good()
    place = next(i for i, t in enumerate(net.weights) if list(t.dims) == [DIM, 3 * DIM])
    array = onnx.numpy_helper.to_array(net.weights[place]).copy()
    array[2, 5] = bad
    net.weights[place].CopyFrom(onnx.numpy_helper.from_array(array, net.weights[place].name))
    net.save(path, outputs)
    assert only_imports_refuse(path) == [
        f"weight holds {shown} at flat index 37", "  at:   net.onnx: Linear node 'add_1'",
        "  next: export the model again; a quantizer needs finite weights"]


def test_an_unsupported_operator_does_not_hide_the_rest(path):
    net = Net()
    t = net.embed(net.image())
    n = net.op("Selu", net.norm(t), name="selu")
    t = net.add(t, net.linear(n, DIM, DIM))
    net.head(net.norm(t))
    net.save(path, {"y": result(net)})
    assert only_imports_refuse(path) == [
        "Selu node 'selu' is not supported: operator Selu is not supported", "  at:   net.onnx: Selu node 'selu'",
        "  next: `hwgen check net.onnx` lists every node; cut the network there, or change it before export"]
    verdicts = check_model(path).verdicts
    assert [verdict.node for verdict in verdicts if verdict.status is Status.UNSUPPORTED] == ["selu"]
    found = {verdict.node: verdict.status for verdict in verdicts}
    assert found["layernormalization_0"] == found["gemm_0"] == Status.SUPPORTED and found["matmul_0"] == Status.FUSED


@pytest.mark.parametrize("domain, shown", [("", "Frobnicate"), ("com.acme", "com.acme.Frobnicate")])
def test_an_operator_nobody_knows(path, domain, shown):
    net = Net()
    t = net.embed(net.image())
    n = net.op("Frobnicate", t, name="frob", domain=domain)
    net.head(net.norm(n))
    model = net.model({"y": result(net)})
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    onnx.save(model, path)
    count = sum(verdict.status is Status.UNSUPPORTED for verdict in check_model(path).verdicts)
    assert only_imports_refuse(path)[0] == (
        f"{shown} node 'frob' is not supported (and {count - 1} other nodes of it or behind it): the shape of its result is not known: operator {shown} "
        "is not supported")


def test_several_unsupported_nodes_are_counted(path):
    net = Net()
    t = net.embed(net.image())
    t = net.op("Selu", net.op("Softsign", t, name="first"), name="second")
    net.head(net.norm(t))
    net.save(path, {"y": result(net)})
    assert only_imports_refuse(path)[0] == (
        "Softsign node 'first' is not supported (and 1 other node of it or behind it): operator Softsign is not supported")


def test_a_shape_that_depends_on_the_data(path):
    net = Net()
    t = net.embed(net.image())
    net.op("NonZero", t, name="nonzero")
    net.save(path, {"y": net.op("Cast", result(net), to=TensorProto.FLOAT, name="cast")})
    assert only_imports_refuse(path)[0] == (
        "NonZero node 'nonzero' is not supported (and 2 other nodes of it or behind it): the shape of its result is not known: operator NonZero is not "
        "supported")
    reasons = {verdict.node: verdict.reason for verdict in check_model(path).verdicts if verdict.status is Status.UNSUPPORTED}
    assert reasons["cast"] == "the shape of its result is not known, because that of NonZero node 'nonzero' is not"
    assert reasons["out_y"] == "the shape of its result is not known, because that of Cast node 'cast' is not"


def test_an_if(path):
    net = Net()
    x = net.image()
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value_float=1.0)], "branch", [],
                               [helper.make_tensor_value_info("c", TensorProto.FLOAT, [])])
    net.op("If", net.const(True, np.bool_), name="if", then_branch=branch, else_branch=branch)
    net.save(path, {"y": net.op("Add", x, result(net))}, (1, 1, IMAGE, IMAGE))
    assert only_imports_refuse(path)[0].startswith("If node 'if' is not supported (and 2 other nodes of it or behind it): ")


def test_a_task_input_that_does_not_gather(path):
    net = Net()
    t = net.embed(net.image())
    factor = net.op("Cast", net.input("task", [], TensorProto.INT64), to=TensorProto.FLOAT, name="cast")
    net.head(net.norm(net.op("Mul", t, factor)))
    net.save(path, {"y": result(net)})
    assert only_imports_refuse(path) == [
        "the integer input 'task' goes into Cast node 'cast'", "  at:   net.onnx",
        "  next: a task may only select constants: torch.index_select(gates, 0, task)"]


def test_a_task_input_without_use(path):
    net = Net()
    net.input("task", [], TensorProto.INT64)
    t = net.embed(net.image())
    net.head(net.norm(net.add(t, net.mlp(net.norm(t)))))
    net.save(path, {"y": result(net)})
    assert only_imports_refuse(path)[0] == "the integer input 'task' selects nothing"


def test_a_task_input_into_axes_of_different_sizes(path):
    net = Net()
    task = net.input("task", [], TensorProto.INT64)
    t = net.embed(net.image())
    for size in (2, 3):
        gate = net.op("Gather", net.random(size, DIM, EXPERTS), task, axis=0)
        t = net.add(t, net.moe(net.norm(t), gate=gate))
    net.head(net.norm(t))
    net.save(path, {"y": result(net)})
    assert only_imports_refuse(path)[0] == (
        "the integer input 'task' selects among different numbers of constants: {'gather_0': 2, 'gather_1': 3}")


def test_a_constant_output(path):
    net = Net()
    net.image()
    net.save(path, {"y": net.op("Identity", net.random(1, CLASSES))}, (1, CLASSES))
    assert only_imports_refuse(path) == [
        "output 'y' is a constant: it does not depend on an input", "  at:   net.onnx",
        "  next: was the right part of the network exported?"]


def test_an_output_without_batch(path):
    net = Net()
    t = net.embed(net.image())
    net.op("Reshape", net.head(net.norm(net.add(t, net.mlp(net.norm(t))))), net.ints(CLASSES))
    net.save(path, {"y": result(net)}, (CLASSES,))
    assert only_imports_refuse(path, kind=ShapeError) == [
        "output 'y' has the shape [5]; the first dimension is the batch and must be 1", "  at:   net.onnx",
        "  next: keep the batch dimension in the outputs of the exported network"]
    assert all(verdict.status is not Status.UNSUPPORTED for verdict in check_model(path).verdicts)


def test_an_output_of_a_part_of_some_tokens(path):
    """Any order of all tokens of some channels leaves; this are the first channels of the first tokens alone."""
    net = Net()
    t = net.embed(net.image())
    t = net.op("Slice", net.linear(net.norm(t), DIM, CLASSES), net.ints(0, 0), net.ints(2, 3), net.ints(1, 2), name="corner")
    net.save(path, {"y": t}, (1, 2, 3))
    lines = only_imports_refuse(path)
    assert lines[0].startswith(
        "Identity node 'out_y' is not supported: is the output 'y': it reads 'add_1.out' [5, 5] as [1, 2, 3] in another order or "
        "in part (through 'corner', 'out_y'); ")


def test_a_split_into_fewer_parts_than_it_has_outputs(tmp_path):
    """Shape inference of the onnx package ends the process there."""
    net = Net(opset=20)
    a, b, c = net.op("Split", net.image(), outputs=3, axis=2, num_outputs=2)
    net.save(tmp_path / "net.onnx", {"y": net.op("Concat", a, b, c, axis=2)})
    with pytest.raises(ModelError, match="Split node 'split_0' has num_outputs 2 and 3 outputs\n.*\n.*export the model again"):
        import_model(tmp_path / "net.onnx")
