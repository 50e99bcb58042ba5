"""Soft mixtures of experts: read in every spelling, and two attentions around the experts on the engine."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen import ops, quantizer
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.verify import verify as verify_program
from hwgen.graph import evaluate
from hwgen.importer import check_model
from hwgen.steps import golden
from hwgen.steps.verify import verify
from moe_gated import B3, W3
from onnx_nets import CLASSES, result
from qgraphs import random_images, random_model
from soft_nets import SOFT, fused, gated, shares_of_one_softmax, with_a_bias
from test_importer_mixtures import imported, integers, network


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    model = imported(network(SOFT["stacked"], False, 1), tmp_path_factory.mktemp("soft") / "net.onnx")
    return soft_of(model), integers(model)


def soft_of(model) -> ops.SoftMoE:
    (node,) = (node for node in model.tasks[0].nodes if isinstance(node, ops.SoftMoE))
    return node


@pytest.mark.parametrize("name", SOFT)
def test_every_spelling_is_one_mixture(name, tmp_path, first):
    model = imported(network(SOFT[name], False, 1), tmp_path / "net.onnx")
    node, (want, words) = soft_of(model), first
    for key, array in want.params().items():
        np.testing.assert_array_equal(getattr(node, key), array, err_msg=key)
    np.testing.assert_array_equal(integers(model), words)


@pytest.mark.parametrize("spelling", [*map(gated, SOFT.values()), fused], ids=[*SOFT, "fused"])
def test_experts_may_be_gated(spelling, tmp_path, first):
    node = soft_of(imported(network(spelling, False, 1), tmp_path / "net.onnx"))
    for key, array in {**first[0].params(), "w3": W3, "b3": B3}.items():
        np.testing.assert_array_equal(getattr(node, key), array, err_msg=key)


@pytest.mark.parametrize("spelling, reason", [
    (with_a_bias, "has slots with a bias"), (shares_of_one_softmax, "over axis 1, not the last")])
def test_what_is_none_is_named(spelling, reason, tmp_path):
    net = network(spelling, False, 1)
    checked = check_model(net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES]))
    assert not checked.ok and reason in str(checked.error), checked.error


@pytest.mark.parametrize("options", [{}, {"tokens": 17, "experts": 3, "dim": 48, "classes": (3, 4), "blocks": "y"}])
def test_a_network_is_near_its_float_model(options):
    model = random_model(3, **{"blocks": "dsy"} | options)
    images = random_images(model, 8)
    quantized = quantizer.quantize(model, {"x": images})
    verify_program(schedule(quantized, ti=16, to=16, axi_data_bits=128))
    for graph, found in zip(model.tasks, quantized.tasks, strict=True):
        verify(found)
        (name,) = graph.outputs
        wanted, scale = evaluate.run(graph, {"x": images})[name], found.outputs[0].scale.array
        error = golden.run(found, images)[name] * scale - wanted
        assert 10 * np.log10((wanted ** 2).sum() / (error ** 2).sum()) > 20
