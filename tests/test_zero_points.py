"""Values that a quantized file rounds with a zero point: what is taken as it is, and what the others are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

from hwgen import frontend
from hwgen.importer import import_model
from hwgen.steps import golden
import onnx_nets as nets
from test_quantized import session


def zero_point_net(folder: Path, scale=0.02, zero=20) -> Path:
    """An MLP on tokens whose activations are rounded to uint8 with a zero point, as a file."""
    net = nets.Net()
    x = net.op("Mul", net.input("x", [1, 6, nets.DIM]), net.const(np.ones(1)))
    hidden = net.act(net.linear(x, nets.DIM, nets.HIDDEN))
    names = net.const(scale), net.const(zero, np.uint8)
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", hidden, *names, name="rounded"), *names)
    return net.save(folder / "net.onnx", {"logits": net.linear(y, nets.HIDDEN, nets.CLASSES)}, ["a", "b", "c"])


def zero_point_plan(path, images, **options):
    plan = frontend.plan(import_model(path), frontend.Options(calib={"x": images}, **options), lambda stage: None)
    graph = plan.imported.model.tasks[0]
    value = next(node.output for node in graph.nodes if type(node).__name__ == "Activation")
    (tensor,) = (tensor for tensor in plan.quantized.tasks[0].tensors() if tensor.name == value)
    return plan, value, tensor


@pytest.mark.parametrize("options", [{"precision": "w8a16"}, {"quant": {"gelu_0": {"bits": 16}}}], ids=["precision", "rule"])
def test_16_bits_hold_a_grid_with_a_zero_point(tmp_path, options):
    """The words are q less the zero point, beyond 127 too; where the file clips they go on."""
    path = zero_point_net(tmp_path)
    images = np.random.default_rng(2).normal(0, 2, (12, 6, nets.DIM)).astype(np.float32)
    plan, value, tensor = zero_point_plan(path, images, **options)
    assert (tensor.format.bits, tensor.scale) == (16, pytest.approx(0.02, rel=1e-6))
    assert not any("not symmetric" in text for text in plan.warnings)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("rounded.out", TensorProto.UINT8, None))
    right = np.stack([session(model.SerializeToString()).run(["rounded.out"], {"x": image[None]})[0][0] for image in images]).astype(int) - 20
    found = golden.trace(plan.quantized.tasks[0], images)[value]
    assert found.max() > right.max() == 235
    found = np.minimum(found, 235)
    assert np.abs(found - right).max() <= 3 and np.abs(found - right).mean() < 0.5


def test_what_keeps_within_127_units_keeps_the_scale(tmp_path):
    path = zero_point_net(tmp_path)
    images = np.random.default_rng(2).normal(0, 1, (12, 6, nets.DIM)).astype(np.float32)
    for factor, kept in ((0.5, True), (4.0, False)):
        plan, _, tensor = zero_point_plan(path, images * np.float32(factor))
        text = " ".join(plan.warnings)
        assert tensor.format.bits == 8 and (tensor.scale == pytest.approx(0.02, rel=1e-6)) == kept
        if kept:
            assert "no calibration image leaves 127 units around zero: they keep the scale of the file" in text
        else:
            assert tensor.scale == pytest.approx(0.02 * 235 / 127, rel=1e-6) and "1.85 times the file's scale" in text
            assert 'with --precision w8a16 1 of them have 16 bits at the file\'s scale, which is exact, or one by one with --quant: "gelu_0": {bits: 16}' \
                in text


def test_rules_of_the_user_go_before_the_file_entry_by_entry(tmp_path):
    """8 bits are what the file has; a method asks for calibration; a scale is the user's."""
    path = zero_point_net(tmp_path, zero=128)
    images = np.random.default_rng(2).normal(0, 0.4, (12, 6, nets.DIM)).astype(np.float32)
    scales = [zero_point_plan(path, images, quant={"gelu_0": rule})[2].scale for rule in ({"bits": 8}, {"scale": 0.03}, {"method": "minmax"})]
    assert scales[:2] == pytest.approx([0.02, 0.03], rel=1e-6) and scales[2] < 0.015
