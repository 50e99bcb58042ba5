"""Scales of channels behind activations, and 16 bits for what linear maps read: what the recipe gets, what it keeps, and that it helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen import ops, quantizer
from hwgen.graph import Model, evaluate
from hwgen.quantizer import EMPTY, Recipe, Rule, calibration
from hwgen.quantizer.balance import balanced, widened
from hwgen.steps import golden, host
from qgraphs import random_images, random_model

MODEL = random_model(3)
IMAGES = {"x": random_images(MODEL, 16)}


def with_large_channels(model: Model) -> Model:
    """Some channels before the activation fifty times as large, with weights behind it that make good for them."""
    def change(node):
        large = np.where(np.arange(64) % 16 == 5, np.float32(50), np.float32(1))
        if node.name.endswith(".fc1"):
            return replace(node, weight=node.weight * large, bias=node.bias * large)
        return replace(node, weight=node.weight / large[:, None]) if node.name.endswith(".fc2") else node
    return Model(tuple(replace(graph, nodes=tuple(map(change, graph.nodes))) for graph in model.tasks)).verify()


def snr(model: Model, network) -> float:
    expected = evaluate.run(model.tasks[0], IMAGES)["logits"]
    found = host.dequantize(network, golden.run(network, IMAGES["x"]))["logits"]
    return float(10 * np.log10((expected ** 2).sum() / ((found - expected) ** 2).sum()))


def made(model: Model = MODEL, recipe: Recipe = EMPTY, method: str = "minmax") -> Recipe:
    return balanced(model, calibration.collect(model, IMAGES), method, recipe)


def test_a_scale_a_channel():
    model = with_large_channels(MODEL)
    rules = made(model).values
    assert rules.keys() == {"block0.hidden"}
    values = np.abs(evaluate.trace(model.tasks[0], IMAGES)["block0.hidden"]).reshape(-1, 64).max(0)
    weights = np.abs(next(node for node in model.tasks[0].nodes if node.name == "block0.fc2").weight).max(1)
    scale = rules["block0.hidden"].scale
    ratio = scale / np.sqrt(values / weights)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert (values / scale).max() == pytest.approx(127, rel=1e-6)


def test_it_helps():
    model = with_large_channels(random_model(3, blocks="dd"))
    ranges = calibration.collect(model, IMAGES)
    plain, better = (quantizer.from_ranges(model, ranges, recipe=recipe).tasks[0] for recipe in (EMPTY, made(model)))
    assert snr(model, better) > snr(model, plain) + 3


@pytest.mark.parametrize("recipe", [Recipe(values={"block0.hidden": Rule(scale=0.1)}), Recipe(values={"block0.hidden": Rule(bits=16)}),
                                    Recipe(weights={"block0.fc2": Rule(scale=0.1)})])
def test_what_is_given_stays(recipe):
    assert made(recipe=recipe).values == recipe.values


def test_rules_of_other_kinds_stay():
    recipe = Recipe(values={"block0.hidden": Rule(method="mse", bits=8), "block0.q": Rule(scale=0.1)}, weights={"block0.fc2": Rule(bits=4)})
    found = made(recipe=recipe)
    assert found.weights == recipe.weights and found.values["block0.q"] is recipe.values["block0.q"]
    assert (found.values["block0.hidden"].method, found.values["block0.hidden"].bits) == ("mse", 8)
    assert (found.values["block0.hidden"].scale <= made().values["block0.hidden"].scale).all()


def test_tasks_share_scales():
    model = random_model(5, classes=(10, 3), blocks="d")
    first, second = quantizer.quantize(model, IMAGES).tasks
    ratios = [next(step.sink.tensor.ratio for step in task.steps if step.value == "block0.hidden") for task in (first, second)]
    assert ratios[0] is not None and ratios[0] is ratios[1]


def test_sixteen_bits():
    """All but what experts gather."""
    rules = widened(MODEL, Recipe(values={"block0.hidden": Rule(bits=8)})).values
    wide = {name for name, rule in rules.items() if rule.bits == 16}
    assert wide == {node.output for node in MODEL.tasks[0].nodes if isinstance(node, (ops.LayerNorm, ops.Attention, ops.MoE))} - {"block1.norm2"}
    assert rules["block0.hidden"].bits == 8
    network = quantizer.quantize(MODEL, IMAGES, precision="w8a16").tasks[0]
    assert {t.name: t.format.bits for t in network.tensors()}["block0.norm1"] == 16
    assert snr(MODEL, network) > snr(MODEL, quantizer.quantize(MODEL, IMAGES).tasks[0]) + 1
