"""What a cut must carry along, and what cannot be one: files that fuzzing found."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

import hwgen
from moe_loops import loop_that_collects
from onnx_nets import CLASSES, TOKENS, Net, result
import quantized_nets
from test_host_parts import built, by_onnxruntime, hosted, noise, plain, saved
from test_importer_mixtures import network


def test_a_part_keeps_the_functions_of_the_file(tmp_path):
    """One of another operator set is not written out; onnxruntime runs it."""
    path = saved(tmp_path, lambda net: {"y": net.op("F", plain(net)["y"], domain="local")}, shape=(1, CLASSES))
    model = onnx.load(path)
    function = helper.make_function("local", "F", ["x"], ["y"], [helper.make_node("Softmax", ["x"], ["y"], axis=-1)], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    onnx.save(model, path)
    assert hosted(hwgen.check(path)) == {"host/suffix.onnx": ["f_0", "out_y"]}
    given = {"x": noise(1, 8, 8)}
    found = built(path, tmp_path / "build", given).simulate(given, engine="golden").outputs["y"]
    assert abs(found - by_onnxruntime(path, given)["y"]).max() < 0.1 and found.sum(-1) == pytest.approx(1, abs=1e-5)


def test_an_output_whose_shape_depends_on_values_is_named(tmp_path):
    """Declared with a fixed shape, which it has for some images only."""
    net = Net()
    y = plain(net)["y"]
    places = net.op("NonZero", net.op("Greater", y, net.const(0.0)))
    path = net.save(tmp_path / "net.onnx", {"y": y, "places": places})
    model = onnx.load(path)
    model.graph.output[1].CopyFrom(helper.make_tensor_value_info("places", TensorProto.INT64, [2, 2]))
    onnx.save(model, path)
    error = hwgen.check(path).error
    assert error.hint and error.exit_code == 2 and "output 'places' in a shape that differs from image to image" in str(error)


def test_a_cut_through_whole_numbers(tmp_path):
    """Where a quantized file is cut it has integers, the network in it the numbers they stand for."""
    path = quantized_nets.static(tmp_path, "uint8 operators")
    model = onnx.load(path)
    (softmax,) = (node for node in model.graph.node if node.op_type == "QLinearSoftmax")
    next(attribute for attribute in softmax.attribute if attribute.name == "axis").i = 1         # over the heads: no attention
    onnx.save(model, path)
    checked = hwgen.check(path, calib={"x": quantized_nets.images()}, allow_host=True)
    assert checked.ok and softmax.name in hosted(checked)["host/suffix.onnx"], str(checked.error)
    assert any("quantized" in read for part in checked.host["parts"] for read in part["reads"])


def test_shapes_that_a_file_says_of_values_inside_may_be_stale(tmp_path):
    """onnxruntime runs the file whatever they are; a part of it, too."""
    def build(net: Net) -> dict[str, str]:
        return {"y": net.op("Softmax", net.op("Mul", plain(net)["y"], net.const(2.0), name="twice"), axis=-1)}
    path = saved(tmp_path, build, shape=(1, CLASSES))
    model = onnx.load(path)
    model.graph.value_info.extend(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [1, 3]) for node in model.graph.node[-3:-1])
    onnx.save(model, path)
    given = {"x": noise(1, 8, 8)}
    build = built(path, tmp_path / "build", given)
    part = onnx.load_model_from_string(build.build.host.suffix.content)
    assert all(value.type.tensor_type.shape.dim[1].dim_value == CLASSES for value in part.graph.value_info)
    assert abs(build.simulate(given, engine="golden").outputs["y"] - by_onnxruntime(path, given)["y"]).max() < 0.1


def test_a_quantized_file_with_a_loop_may_be_cut_inside_of_it(tmp_path):
    """What is written out of a loop has names that the file has not."""
    net = network(loop_that_collects, True, 2)
    y = net.op("Relu", result(net), name="last")
    given = [net.const(0.02), net.const(0, np.int8)]
    pair = net.op("DequantizeLinear", net.op("QuantizeLinear", y, *given), *given)
    path = net.save(tmp_path / "net.onnx", {"y": pair}, (1, CLASSES))
    model = onnx.load(path)
    (place,) = (place for place, node in enumerate(model.graph.node) if node.op_type == "TopK")
    shares = model.graph.node[place].input[0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.linspace(0, 0.5, TOKENS, dtype=np.float32).reshape(-1, 1), "least"))
    model.graph.node.insert(place, helper.make_node("Max", [shares, "least"], ["shares"], name="no_router"))
    model.graph.node[place + 1].input[0] = "shares"
    onnx.save(model, path)
    checked = hwgen.check(path, allow_host=True)
    assert checked.ok and any("loop_0/" in read for part in checked.host["parts"] for read in part["reads"]), str(checked.error)
