"""Error by layer: signal to noise of what is stored, and what one rounding alone does to the outputs."""

from __future__ import annotations

import numpy as np
import pytest

import hwgen
from hwgen import layers, quantizer
from hwgen.errors import InputError
from hwgen.graph import evaluate
from hwgen.quantizer import Recipe, Rule
from hwgen.steps import golden, host
from onnx_nets import CLASSES, result, vit
from qgraphs import random_images, random_model

MODEL = random_model(3)
IMAGES = {"x": random_images(MODEL, 8)}


def errors(**rules) -> dict[str, layers.LayerError]:
    quantized = quantizer.quantize(MODEL, IMAGES, recipe=Recipe(**rules))
    return {error.value: error for error in layers.layer_errors(quantizer.rotated(MODEL).tasks, quantized.tasks, IMAGES)}


def test_what_is_listed():
    found, graph = errors(), MODEL.tasks[0]
    nodes = {node.output: node.name for node in graph.nodes}
    assert all(error.node == nodes[name] for name, error in found.items() if error.format != "output")
    assert set(graph.outputs) == {name for name, error in found.items() if error.format == "output"}
    assert {"block0.norm1", "block0.attention"} <= found.keys()
    for error in found.values():
        assert 10 < error.snr_db < 90 and (error.alone_db is None) == (error.format in ("s16", "output"))


def test_the_outputs_are_the_network_s():
    quantized, graph = quantizer.quantize(MODEL, IMAGES).tasks[0], MODEL.tasks[0]
    right, found = evaluate.run(graph, IMAGES), host.dequantize(quantized, golden.run(quantized, IMAGES["x"]))
    for name, value in right.items():
        ratio = 10 * np.log10((value.astype(np.float64) ** 2).sum() / ((found[name].astype(np.float64) - value) ** 2).sum())
        assert errors()[name].snr_db == pytest.approx(ratio, abs=1e-3)


def test_a_layer_that_is_made_worse_is_the_worst():
    """Eight times the unit of one value: it clips nothing and loses 18 dB alone; a unit of a quarter clips."""
    before = errors()
    unit = before["block0.attention"].unit
    coarse, clipped = errors(values={"block0.attention": Rule(scale=8 * unit)}), errors(values={"block0.attention": Rule(scale=unit / 8)})
    assert before["block0.attention"].alone_db - coarse["block0.attention"].alone_db == pytest.approx(18, abs=4)
    assert layers.worst(list(coarse.values())).value == "block0.attention" == layers.worst(list(clipped.values())).value
    assert clipped["block0.attention"].clipped > 0.1 > before["block0.attention"].clipped and coarse["block0.attention"].clipped == 0
    assert coarse["block0.norm1"] == before["block0.norm1"]                          # what comes before is as it was


def test_alone_is_the_float_network_with_one_value_rounded():
    graph, values = MODEL.tasks[0], evaluate.trace(MODEL.tasks[0], IMAGES)
    found = errors()["block0.attention"]
    rounded = np.clip(np.rint(values["block0.attention"] / found.unit), -127, 127) * found.unit
    new = dict(values, **{"block0.attention": rounded.astype(np.float32)})
    after = graph.nodes[[node.output for node in graph.nodes].index("block0.attention") + 1:]
    for node in after:
        new[node.output] = node.evaluate(*(new[value] for value in node.inputs))
    ratios = [10 * np.log10((values[value].astype(np.float64) ** 2).sum() / ((new[value].astype(np.float64) - values[value]) ** 2).sum())
              for value in graph.outputs.values()]
    assert found.alone_db == pytest.approx(min(ratios), abs=0.01)


def test_of_a_build(tmp_path):
    net = vit()
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES])
    images = {"x": np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)}
    built = hwgen.compile(path, calib=images, out=tmp_path / "build")
    reported, found = built.report()["quantization"]["layers"], built.layer_errors({name: array[:2] for name, array in images.items()})
    assert reported[:-1] == [error.to_dict() for error in found[:-1]] and reported[-1]["value"] == "y" and reported[-1]["unit"] is None
    quantization = built.report()["quantization"]                            # one figure for an output, on as many images
    assert reported[-1]["snr_db"] == pytest.approx(-20 * np.log10(quantization["output_error"]["y"])) and quantization["layer_images"] == 2
    moved = path.rename(tmp_path / "moved.onnx")
    with pytest.raises(InputError, match="the ONNX file of the build is not at"):
        built.layer_errors(images)
    assert built.layer_errors(images, model=moved)
    other = vit(act="Relu")
    with pytest.raises(InputError, match="is not the file that the build was made from"):
        built.layer_errors(images, model=other.save(tmp_path / "other.onnx", {"y": result(other)}, [1, CLASSES]))


def test_a_warning_names_the_worst_layer(tmp_path):
    net = vit()
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES])
    images = {"x": np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)}
    checked = hwgen.check(path, calib=images, quant={"gelu*": {"scale": 0.5}})
    (line,) = [line for line in checked.warnings if "of the integer model is" in line]
    assert "the layer that costs most is node 'gelu_" in line and "--quant" in line
