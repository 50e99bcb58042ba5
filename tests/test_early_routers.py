"""Mixtures whose router reads other tokens than the experts: read, and what they compute in numpy and RTL."""

from __future__ import annotations

import numpy as np
import pytest

from early_nets import EARLY, network, start
from hwgen import api, ops
from hwgen.graph import evaluate
from hwgen.quantizer import quantize
from hwgen.steps import golden
from hwgen.steps.verify import verify
from moe_sigmoids import dense
from moe_spellings import Mix
from onnx_nets import CLASSES, DIM, TOKENS, Net, result
from test_importer_mixtures import IMAGES, imported


@pytest.mark.parametrize("build", EARLY.values(), ids=EARLY)
def test_the_router_reads_another_value(build, tmp_path):
    """As onnxruntime computes it, and in integers."""
    model = imported(network(build), tmp_path / "net.onnx")
    graph = model.tasks[0]
    found = [node for node in graph.nodes if isinstance(node, ops.EarlyMoE)]
    assert found and all(node.early != node.x for node in found)
    quantized = quantize(model, {"x": IMAGES}).tasks[0]
    verify(quantized)
    wanted = evaluate.run(graph, {"x": IMAGES})["y"]
    error = golden.run(quantized, IMAGES)["y"] * quantized.outputs[0].scale.array - wanted
    assert 10 * np.log10((wanted ** 2).sum() / (error ** 2).sum()) > 20


def test_the_rtl_computes_two_routers_that_read_ahead(tmp_path):
    """The second one has read before the queues of the first have served; the norms of both are kept past the array."""
    net = network(EARLY["two at a time"])
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES])
    run = api.compile(path, array=(8, 8), calib={"x": IMAGES}, out=tmp_path / "b").simulate({"x": IMAGES[:2]})
    assert run.bit_exact and run.words == 2 * CLASSES


def test_the_gate_of_a_shared_expert_reads_another_value(tmp_path):
    net = Net()
    t, x = start(net)
    mix = Mix(net, x, False)
    other = net.op("Reshape", net.linear(x, DIM, DIM), net.ints(-1, DIM))
    shared = net.op("Mul", net.op("Sigmoid", net.linear(other, DIM, 1)), dense(mix))
    net.head(net.norm(net.add(t, net.op("Reshape", shared, net.ints(1, TOKENS, DIM)))))
    model = imported(net, tmp_path / "net.onnx")
    (node,) = (node for node in model.tasks[0].nodes if isinstance(node, ops.MoE))
    assert isinstance(node, ops.EarlyMoE) and node.num_experts == 1
