"""Bias correction: the mean error of a column is gone afterwards, in linear maps and experts, shared between tasks."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.graph import Role, evaluate
from hwgen.quantizer import Recipe, Rule, bias
from hwgen.quantizer.weights import BIAS_LIMIT
from hwgen.steps import golden, host
from hwgen.steps.verify import verify
from qgraphs import random_images, random_model

SIZES = {"tokens": 17, "dim": 32, "heads": 2, "hidden": 128}
ON, OFF = Recipe(bias_correction=True), Recipe(bias_correction=False)


def seen(network, images) -> dict[str, tuple]:
    """Step -> (tile, accumulators [rows, N])"""
    found = {}

    def tile(run):
        accumulators = run.step.tile.evaluate(run.seen, run)
        if run.step.weights is not None:
            found[run.step.name] = run.step.tile, accumulators.reshape(-1, accumulators.shape[-1])
        return run.step.tile

    golden.evaluate(network, host.quantize_input(network, images), tile=tile)
    return found


def decibel(network, graph, images) -> float:
    wanted, found = evaluate.run(graph, {"x": images}), host.dequantize(network, golden.run(network, images))
    return min(float(10 * np.log10((value ** 2).mean() / ((found[name] - value) ** 2).mean())) for name, value in wanted.items())


@pytest.mark.parametrize("precision", ["w8a8", "w4a8"])
def test_the_mean_error_of_every_column_is_gone(precision):
    """Of linear maps and experts alike, on one calibration image, for which there is no chance to allow for: what is left is rounding."""
    model = random_model(3, blocks="dm", **SIZES)
    images = random_images(model, 1)
    graph = model = quantizer.rotated(model)
    (graph,) = model.tasks
    off, on = (quantizer.quantize(model, {"x": images}, precision=precision, recipe=recipe).tasks[0] for recipe in (OFF, ON))
    values: dict[str, np.ndarray] = {}
    inner = {node.output: found for node, found in evaluate.steps(quantizer.rotated(model).tasks[0], {"x": images}, values, inner=True)}
    linear = {node.output: node.name for node in graph.nodes if type(node).__name__ in ("Linear", "PatchEmbed")}
    before, after = seen(off, images), seen(on, images)
    checked = 0
    for step in on.steps:
        if step.name not in after or step.expert is not None or step.routes:
            continue
        value = next(output for output, name in linear.items() if name == step.node)
        errors = [np.abs(found[step.name][1].mean(0) - values[value].reshape(-1, values[value].shape[-1]).mean(0) / found[step.name][0].scale.array)
                  for found in (before, after)]
        assert errors[1].max() <= 0.51 < errors[0].max(), step.name
        checked += 1
    moe = next(node for node in graph.nodes if type(node).__name__ == "MoE")
    for role, layer in ((Role.PRE, "layer1"), (Role.EXPERT, "layer2")):
        for expert, found in enumerate(array for other, array in inner[moe.output] if other is role):
            name = next(name for name in after if name.endswith(f"expert{expert}.{layer}"))
            tile, accumulators = after[name]
            if len(found) and len(accumulators):
                assert np.abs(accumulators.mean(0) - found.mean(0) / tile.scale.array).max() <= 0.51
                checked += 1
    assert checked > 12


@pytest.mark.parametrize("blocks", ["dd", "dm"])
def test_four_bits_of_weights_gain(blocks):
    """Median of six networks, on images that did not calibrate."""
    gains = []
    for seed in range(6):
        model = random_model(seed, blocks=blocks, **SIZES)
        images = random_images(model, 24)
        off, on = (decibel(quantizer.quantize(model, {"x": images[:16]}, precision="w4a8", recipe=recipe).tasks[0], model.tasks[0], images[16:])
                   for recipe in (OFF, Recipe()))
        gains.append(on - off)
    assert np.median(gains) > 1.0, gains


def test_tasks_share_what_they_shared():
    model = random_model(3, classes=(10, 2), blocks="dm")
    images = random_images(model, 4)
    counts = []
    for recipe in (OFF, ON):
        first, second = quantizer.quantize(model, {"x": images}, recipe=recipe).tasks
        counts.append(sum(step.weights == other.weights for step, other in zip(first.steps, second.steps, strict=True) if step.weights is not None))
    assert counts[0] == counts[1] > 5


def test_what_differs_from_image_to_image_is_no_mean():
    """Of many images whose errors have no mean in common, as little is taken as is there."""
    model = random_model(3, blocks="d", **SIZES)
    many, few = (quantizer.quantize(model, {"x": random_images(model, count)}, recipe=ON).tasks[0] for count in (16, 1))
    off = quantizer.quantize(model, {"x": random_images(model, 16)}, recipe=OFF).tasks[0]

    def head(network):
        return next(step.weights for step in network.steps if step.about.startswith("output")).bias.array.astype(np.int64)

    assert (head(many) != head(off)).any() and np.abs(head(many) - head(off)).mean() < np.abs(head(few) - head(off)).mean()


def test_noise_corrects_nothing_by_itself():
    model = random_model(3, blocks="d")
    plain, asked = (quantizer.quantize(model, None, random=True, precision="w4a8", recipe=recipe).tasks[0] for recipe in (Recipe(), ON))
    off = quantizer.quantize(model, None, random=True, precision="w4a8", recipe=OFF).tasks[0]
    pairs = [(a.weights, b.weights, c.weights) for a, b, c in zip(plain.steps, asked.steps, off.steps, strict=True) if a.weights is not None]
    assert all((a.bias.array == c.bias.array).all() for a, _, c in pairs) and any((b.bias.array != c.bias.array).any() for _, b, c in pairs)


def test_a_bias_that_would_not_fit_stays(monkeypatch):
    """What the accumulator has no room for is not added: the network verifies all the same."""
    model = random_model(3, blocks="d")
    images = random_images(model, 2)
    monkeypatch.setattr(bias, "BIAS_LIMIT", 0)
    on, off = (quantizer.quantize(model, {"x": images}, recipe=recipe).tasks[0] for recipe in (ON, OFF))
    assert all((a.weights.bias.array == b.weights.bias.array).all() for a, b in zip(on.steps, off.steps, strict=True) if a.weights is not None)
    monkeypatch.undo()
    on = quantizer.quantize(model, {"x": images}, recipe=ON).tasks[0]
    assert verify(on) and all(np.abs(step.weights.bias.array).max() <= BIAS_LIMIT for step in on.steps if step.weights is not None)


def test_a_part_of_a_mixture():
    """Rules of parts go before the rule of the node."""
    model = random_model(3, blocks="m")
    images = random_images(model, 4)
    rules = Recipe(weights={"block0.moe": Rule(bias_correction=True), "block0.moe: gate": Rule(bias_correction=False)})
    on, off = (quantizer.quantize(model, {"x": images}, recipe=recipe).tasks[0] for recipe in (rules, OFF))
    changed = {step.note for step, other in zip(on.steps, off.steps, strict=True)
               if step.weights is not None and (step.weights.bias.array != other.weights.bias.array).any()}
    assert changed and all("expert" in note for note in changed)
