"""Import of a small net and comparison with onnxruntime: what every test of a rewrite rule does."""

from __future__ import annotations

import numpy as np
import onnxruntime

from hwgen import quantizer
from hwgen.graph import Graph, evaluate
from hwgen.importer import Status, check_model, import_model
from hwgen.steps import golden
from onnx_nets import Net, result

MAX_ERROR = 1e-4
K = 6                                              # channels of the token input


def tokens(net: Net, count: int = 5, channels: int = K) -> str:
    return net.input("x", [1, count, channels])


def accepted(net: Net, path, *, rank: int = 3) -> Graph:
    """Imports the net, compares its last value with onnxruntime, returns the graph."""
    net.save(path, {"y": result(net)}, [f"d{i}" for i in range(rank)])
    (graph,) = import_model(path).model.tasks
    (name, shape), = graph.inputs.items()
    x = np.random.default_rng(7).normal(size=(3, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    want = np.concatenate([session.run(["y"], {name: x[i:i + 1]})[0] for i in range(3)])
    assert np.abs(evaluate.run(graph, {name: x})["y"].reshape(want.shape) - want).max() <= MAX_ERROR
    return graph


def kinds(graph: Graph) -> list[str]:
    return [type(node).__name__ for node in graph.nodes]


def declined(net: Net, path, *, rank: int = 3) -> dict[str, str]:
    """ONNX node -> reason of every node that is not supported."""
    net.save(path, {"y": result(net)}, [f"d{i}" for i in range(rank)])
    checked = check_model(path)
    assert not checked.ok
    return {verdict.node: verdict.reason for verdict in checked.verdicts if verdict.status is Status.UNSUPPORTED}


def words(net: Net, path, **shapes) -> np.ndarray:
    """What the integer network gives for some images, after calibration on others."""
    net.save(path, {"y": result(net)})
    model = import_model(path, shapes or None).model
    (shape,) = model.tasks[0].inputs.values()
    images = np.random.default_rng(3).normal(size=(12, *shape)).astype(np.float32)
    quantized, _ = quantizer.with_findings(model, {name: images[:8] for name in model.tasks[0].inputs})
    return golden.run(quantized.tasks[0], images[8:])["y"]
