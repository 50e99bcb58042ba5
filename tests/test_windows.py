"""Attention within windows, shifted and not: read, its steps, and what it computes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from hwgen import api, convolutions, ops, quantizer
from hwgen.devices.memory import MemoryModel
from hwgen.importer import import_model
from hwgen.steps import golden
from hwgen.steps.verify import verify
from onnx_nets import result
import swin_nets

IMAGES = np.random.default_rng(5).normal(size=(32, swin_nets.SIDE ** 2, swin_nets.DIM)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"form": "reshaped"}, {"stages": 1}])
def test_windows_and_shifts(options, tmp_path):
    net = swin_nets.swin(**options)
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, ["batch", "tokens", 3])
    model = import_model(path).model
    attentions = [node for node in model.tasks[0].nodes if isinstance(node, ops.Attention)]
    assert [node.windows for node in attentions] == [swin_nets.COUNT] * 2
    assert [node.order.shape for node in model.tasks[0].nodes if isinstance(node, ops.Take)][:2] == [(1, 16), (1, 16)]
    if "form" not in options:
        orders = [node for node in model.tasks[0].nodes if isinstance(node, ops.Take)]
        assert len(orders) == (4 if options.get("stages") == 1 else 5)             # in front of q, k and v, and of the projection, each block; merging
    network = quantizer.quantize(model, {"x": IMAGES}).tasks[0]
    verify(network)
    assert convolutions.share(network) == 0                         # neighbours that are merged are no convolution
    session, (output,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), network.outputs
    wanted = np.concatenate([session.run(None, {"x": IMAGES[i:i + 1]})[0] for i in range(8)]).reshape(8, -1)
    found = golden.run(network, IMAGES[:8])["y"] * np.tile(output.scale.array, wanted.shape[1] // 3) / output.tokens
    assert 10 * np.log10((wanted ** 2).sum() / ((found - wanted) ** 2).sum()) > 25


def test_the_rtl_computes_it_word_by_word(tmp_path):
    """Windows, a shift, and neighbours merged in front of a norm; also two images at once."""
    net = swin_nets.swin()
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, 4, 3])
    for batch in (2, 1):
        built = api.compile(path, array=(8, 8), calib={"x": IMAGES}, out=tmp_path / f"b{batch}", batch=batch)
        run = built.simulate({"x": IMAGES[:4]})
        assert run.bit_exact and run.words >= 48
    run = built.simulate({"x": IMAGES[:1]}, memory=MemoryModel(latency=50, bytes_per_cycle=64.0))             # biases come between steps of few cycles
    assert built.build.program.estimate(64.0, 50)[-1].stop == pytest.approx(run.cycles_per_image, rel=0.01)


def test_the_c_simulation_computes_it_word_by_word(tmp_path):
    """Each window is a call of its own, some rows of every value."""
    net = swin_nets.swin()
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, 4, 3])
    built = api.compile(path, calib={"x": IMAGES}, out=tmp_path / "b", backend="hls")
    program = (tmp_path / "b" / "hls" / "hwgen_program.hpp").read_text()
    assert program.count("within(") == 2 * swin_nets.COUNT and f", {{12, {swin_nets.ROWS}}}, {{12, {swin_nets.ROWS}}})" in " ".join(program.split())
    assert built.simulate({"x": IMAGES[:4]}, engine="csim").bit_exact
