"""Routers of scores: sigmoids, with a bias for the choice; against real arithmetic, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen import numerics, ops
from hwgen.errors import ModelError, ShapeError
from hwgen.graph import evaluate
from hwgen.importer import check_model
from hwgen.quantizer import quantize
from hwgen.steps import golden
from hwgen.steps.stages import Choose
from hwgen.steps.verify import verify
from moe_sigmoids import BIASED
from onnx_nets import CLASSES, result
from qgraphs import random_images, random_model
from test_importer_mixtures import network

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("largest", [1, 30, 3000, 32767])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_shares_are_those_of_real_arithmetic(largest, top_k):
    scores, bias = RNG.integers(0, largest + 1, (500, 8)), RNG.integers(-3000, 3001, 8)
    experts, shares = numerics.route_scores(scores, bias, top_k, True)
    keys = scores + bias
    assert (experts == np.argsort(-keys, axis=-1, kind="stable")[:, :top_k]).all()
    own = np.take_along_axis(scores, experts, -1)
    np.testing.assert_allclose(shares / 65536, own / np.maximum(own.sum(-1, keepdims=True), 1), atol=2.0 ** -15)
    np.testing.assert_array_equal(numerics.route_scores(scores, bias, top_k, False)[1], 2 * own)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("gates", ["sigmoid", "biased"])
def test_a_network_is_near_its_float_model(gates, renormalize):
    model = random_model(3, gates=gates, renormalize=renormalize, experts=6, tokens=17, blocks="dmm", top_k=3)
    images = random_images(model, 16)
    (graph,), (found,) = model.tasks, quantize(model, {"x": images}).tasks
    verify(found)
    wanted, scale = evaluate.run(graph, {"x": images})["logits"], found.outputs[0].scale.array
    error = golden.run(found, images)["logits"] * scale - wanted
    assert 10 * np.log10((wanted ** 2).sum() / (error ** 2).sum()) > 20


@pytest.mark.parametrize("far, words", [(1.99, [[-32604, 32604, -32604, -32604]]), (2.1, None)])
def test_a_bias_is_centred_and_one_beyond_all_scores_is_refused(far, words):
    model = random_model(3, blocks="m", gates="biased")
    choice = np.array([3, 3 + far, 3, 3], np.float32)
    graph = replace(model.tasks[0], nodes=tuple(replace(node, choice=choice) if isinstance(node, ops.MoE) else node for node in model.tasks[0].nodes))
    changed, images = replace(model, tasks=(graph,)), {"x": random_images(model, 4)}
    if words is None:
        with pytest.raises(ModelError, match=r"biases of its choice are up to 2\.1 apart; up to 2 fit") as error:
            quantize(changed, images)
        assert error.value.where == "MoE node 'block0.moe'" and "leave it out" in error.value.hint
        return
    (stage,) = (stage for step in quantize(changed, images).tasks[0].steps for stage in step.drain if isinstance(stage, Choose))
    np.testing.assert_array_equal(stage.table_of(4), words)


def test_more_experts_chosen_than_there_are(tmp_path):
    net = network(lambda m: BIASED["bias added"](m), True, 7)
    with pytest.raises(ShapeError, match=r"TopK node 'topk_0' do not fit: .*\(k = 7\)") as error:
        check_model(net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES]))
    assert error.value.hint.startswith("choose at most as many as there are (experts of a router)")
