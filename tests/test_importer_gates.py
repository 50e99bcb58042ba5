"""A task embedding that enters a gate is part of the gate's bias, one for each task."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from gate_nets import CONDITIONED, TASKS, Gated, task_gate
from hwgen import ops
from hwgen.graph import evaluate
from hwgen.importer import check_model, import_model
from onnx_nets import CLASSES, DIM, IMAGE, TOKENS

IMAGES = np.random.default_rng(7).normal(size=(6, 1, IMAGE, IMAGE)).astype(np.float32)


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_task_embedding_is_a_bias_of_the_gate(name, tmp_path):
    net, outputs = task_gate(CONDITIONED[name])
    path = net.save(tmp_path / "net.onnx", outputs, [1, CLASSES])
    graphs = import_model(path).model.tasks
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = []
    assert len(graphs) == TASKS
    for task, graph in enumerate(graphs):
        want = np.concatenate([session.run(None, {"x": image[None], "task": np.array([task])})[0] for image in IMAGES])
        np.testing.assert_allclose(evaluate.run(graph, {"x": IMAGES})["y"], want, atol=2e-5)
        (moe,) = (node for node in graph.nodes if isinstance(node, ops.MoE))
        found.append(moe)
        assert sum(isinstance(node, ops.LayerNorm) for node in graph.nodes) == 3          # the gate's input is no value of its own
    for key, array in found[0].params().items():
        assert all((getattr(moe, key) is array) != (key == "gate_bias") for moe in found[1:]), key


def one_for_each_token(m: Gated) -> str:
    return m.gate_of(m.op("Concat", m.rows, m.net.random(TOKENS, 6), axis=-1))


def tokens_in_another_order(m: Gated) -> str:
    turned = m.op("Gather", m.rows, m.net.ints(*reversed(range(TOKENS))), axis=0)
    return m.gate_of(m.op("Concat", turned, m.wide(m.embedding()), axis=-1))


def factors_that_differ(m: Gated) -> str:
    return m.gate_of(m.op("Concat", m.rows, m.op("Mul", m.rows, m.net.const(2.0)), m.wide(m.embedding()), axis=-1), 2 * DIM + 6)


@pytest.mark.parametrize("spelling, reason", [
    (one_for_each_token, "that differ between tokens; a Linear takes in those that are the same for all"),
    (tokens_in_another_order, "side by side in another order of tokens"),
    (factors_that_differ, "joins parts of 'layernormalization_1.out' times different factors")])
def test_what_a_linear_cannot_take_in_is_named(spelling, reason, tmp_path):
    net, outputs = task_gate(lambda m: m.op("Add", spelling(m), m.op("MatMul", m.embedding(), m.net.random(6, 4))))
    checked = check_model(net.save(tmp_path / "net.onnx", outputs, [1, CLASSES]))
    assert not checked.ok and reason in str(checked.error), checked.error
