"""Outputs of a file that are values the network goes on to use."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from hwgen.graph import evaluate
from hwgen.importer import import_model
from onnx_nets import CLASSES, DIM, IMAGE, TOKENS, Net
from test_host_parts import blocks, by_onnxruntime, noise


def test_an_output_that_the_network_goes_on_to_use_has_a_name_of_its_own(tmp_path):
    """The value keeps another one, in the graph and in what ONNX values are bound to; a head that only leaves is its output."""
    net = Net()
    n = blocks(net, net.embed(net.image()), 1)
    y = net.head(n)
    model = net.model({"unused": y})
    del model.graph.node[-1], model.graph.output[:]
    for name, shape in ((n, [1, TOKENS, DIM]), (y, [1, CLASSES])):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(model, tmp_path / "net.onnx")
    imported = import_model(tmp_path / "net.onnx")
    (graph,), (origin,) = imported.model.tasks, imported.origins
    assert graph.outputs == {n: f"{n}'", y: y} and origin.bound[n].value == f"{n}'" == origin.bound[n].node.output
    given = {"x": noise(1, IMAGE, IMAGE)}
    found, wanted = evaluate.run(graph, given), by_onnxruntime(tmp_path / "net.onnx", given)
    for name in (n, y):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-4)
