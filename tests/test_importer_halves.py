"""Networks in 16-bit floating point: read as the float32 network with rounded weights, whatever writes their Casts, and in whatever order."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import pytest

from hwgen.frontend import Options, plan
from hwgen.importer import import_model
from hwgen.judge import judge
from hwgen.steps import golden
from onnx_nets import Net, result, vit

HALF = {"float16": (TensorProto.FLOAT16, np.float16), "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16)}
CONSTANTS = 1                       # elements up to which a number belongs to a formula


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def model(**spelling) -> onnx.ModelProto:
    net = vit(**spelling)
    return net.model({"y": result(net)})


def rounded(proto: onnx.ModelProto, kind) -> onnx.ModelProto:
    """The float32 network with rounded weights; numbers of formulas stay."""
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > CONSTANTS:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(kind).astype(np.float32), tensor.name))
    return proto


def in_halves(proto: onnx.ModelProto, name: str, *, float_ends: bool = False, unsorted: bool = False) -> onnx.ModelProto:
    """The network as a converter makes it. float_ends: Casts at input and output; unsorted: written behind the nodes that read them."""
    kind, dtype = HALF[name]
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
    (given,), (gives,) = proto.graph.input, proto.graph.output
    if not float_ends:
        given.type.tensor_type.elem_type = gives.type.tensor_type.elem_type = kind
        return proto
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [{given.name: "x16", gives.name: "y16"}.get(value, value) for value in names]
    casts = [helper.make_node("Cast", [given.name], ["x16"], to=kind, name="in"), helper.make_node("Cast", ["y16"], [gives.name], to=1, name="out")]
    nodes = [*proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *casts] if unsorted else [casts[0], *nodes, casts[1]])
    return proto


def words(proto: onnx.ModelProto, path) -> np.ndarray:
    onnx.save(proto, path)
    imported = import_model(path)
    (shape,) = imported.model.tasks[0].inputs.values()
    images = np.random.default_rng(3).normal(size=(12, *shape)).astype(np.float32)
    planned = plan(imported, Options(calib={"x": images[:8]}), lambda stage: None)
    return golden.run(planned.quantized.tasks[0], images[8:])["y"]


@pytest.mark.parametrize("spelling", [{}, {"act": "erf", "norm": True}, {"act": "tanh mul", "scale": "halves"}, {"layer_scale": True, "pool": "mean"}],
                         ids=str)
@pytest.mark.parametrize("name", HALF)
def test_a_network_in_halves_gives_the_words_of_the_float32_one_with_rounded_weights(path, name, spelling):
    assert np.array_equal(words(in_halves(model(**spelling), name), path), words(rounded(model(**spelling), HALF[name][1]), path))


@pytest.mark.parametrize("unsorted", [False, True])
def test_casts_at_the_ends_change_nothing(path, unsorted):
    assert np.array_equal(words(in_halves(model(), "float16", float_ends=True, unsorted=unsorted), path), words(in_halves(model(), "float16"), path))


def test_the_float32_network_is_judged_as_strictly_as_any(path):
    onnx.save(in_halves(model(), "float16"), path)
    found = judge(import_model(path), None)
    assert found.onnx_cosine > 1 - 1e-9
    assert found.note.startswith("the file is of 16-bit floating point and was compared as the float32 network with its weights; as it is, its ")
    assert 0.999 < float(found.note.split()[-1]) < 1 - 1e-9


def test_a_file_that_nothing_runs_is_judged_as_well(path):
    onnx.save(in_halves(model(), "bfloat16"), path)
    found = judge(import_model(path), None)
    assert found.onnx_cosine > 1 - 1e-9 and found.note.endswith("nothing here runs it as it is")


def test_a_float32_file_is_judged_itself(path):
    onnx.save(model(), path)
    assert import_model(path).float_file is None


def test_nodes_in_any_order(path):
    proto = model()
    nodes = [*proto.graph.node][::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert np.array_equal(words(proto, path), words(model(), path))


def test_one_weight_in_halves_is_refused_as_onnxruntime_does(path):
    net = Net()
    net.op("Add", net.input("x", [1, 4, 4]), net.const(np.ones(4), np.float16))
    net.save(path, {"y": result(net)}, [1, 4, 4])
    with pytest.raises(Exception, match="type"):
        import_model(path)
