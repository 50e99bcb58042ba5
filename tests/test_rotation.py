"""The residual stream in other coordinates: the function stays, outlier channels go, and what cannot be turned stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen import ops, quantizer
from hwgen.functions import Act
from hwgen.graph import Graph, Model, Role, evaluate
from hwgen.quantizer import Recipe, Rule, calibration
from hwgen.quantizer.rotation import rotated, rotation
from qgraphs import random_images, random_model

NETWORKS = {"class token": random_model(3), "mean": random_model(4, blocks="dd", pool="mean", class_token=False),
            "tasks": random_model(5, classes=(10, 3))}


def with_outliers(model: Model) -> Model:
    """One channel is fifty times what the others have, and the norms make good for it."""
    def change(node):
        large = np.where(np.arange(32) == 5, np.float32(50), np.float32(1))
        match node:
            case ops.PatchEmbed():
                return replace(node, weight=node.weight * large[:, None, None, None])
            case ops.LayerNorm():
                return replace(node, gamma=node.gamma / large)
        return node
    return Model(tuple(replace(graph, nodes=tuple(map(change, graph.nodes))) for graph in model.tasks)).verify()


@pytest.mark.parametrize("dim", [1, 2, 3, 32, 192, 384])
def test_the_matrix(dim):
    matrix = rotation(dim)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert dim < 32 or np.abs(matrix).max() < 5 / np.sqrt(dim)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name):
    model = NETWORKS[name]
    turned, images = rotated(model).verify(), {"x": random_images(model, 4)}
    for before, after in zip(model.tasks, turned.tasks, strict=True):
        expected = evaluate.run(before, images)
        for output, value in evaluate.run(after, images).items():
            np.testing.assert_allclose(value, expected[output], atol=1e-5)
        norms = [node for node in after.nodes if isinstance(node, ops.LayerNorm)]
        assert norms and all((node.gamma == 1).all() and (node.beta == 0).all() for node in norms)
        stream = next(node.output for node in before.nodes if isinstance(node, ops.AddConst))
        np.testing.assert_allclose(evaluate.trace(after, images)[stream],
                                   evaluate.trace(before, images)[stream] @ rotation(32).astype(np.float32), atol=1e-5)


def test_tasks_share_what_they_shared():
    tasks = quantizer.quantize(NETWORKS["tasks"], {"x": random_images(NETWORKS["tasks"], 8)}).tasks
    weights = [{step.name: step.weights.weight for step in task.steps if step.weights is not None} for task in tasks]
    same = [name for name in weights[0] if name in weights[1] and weights[0][name] is weights[1][name]]
    assert "block0.q" in same and "block0.mid" in same and not any("gate" in name for name in same)


def test_outlier_channels_go():
    model = with_outliers(random_model(3))
    images = {"x": random_images(model, 16)}

    def largest(model):
        ranges, known = calibration.collect(model, images), calibration.sites(model)[0]
        return [ranges[known[node.output], Role.NORM].maximum for node in model.tasks[0].nodes if isinstance(node, ops.LayerNorm)]

    assert all(after < 0.8 * before for before, after in zip(largest(model), largest(rotated(model)), strict=True))


@pytest.mark.parametrize("recipe", [
    Recipe(values={"block0.norm1": Rule(scale=0.03)}), Recipe(values={"block0.mid": Rule(scale=0.03)}),
    Recipe(weights={"block0.proj": Rule(scale=0.03)}), Recipe(weights={"block1.moe: gate": Rule(scale=0.03)})])
def test_given_scales_hold_the_stream(recipe):
    for before, after in zip(NETWORKS["tasks"].tasks, rotated(NETWORKS["tasks"], recipe).tasks, strict=True):
        assert [*map(id, before.nodes)] == [*map(id, after.nodes)]


def test_scales_elsewhere_do_not_hold_it():
    recipe = Recipe(values={"block0.q": Rule(scale=0.03), "block0.norm1": Rule(bits=8)}, weights={"block0.proj": Rule(bits=4)})
    graph = rotated(NETWORKS["tasks"], recipe).tasks[0]
    assert all((node.gamma == 1).all() for node in graph.nodes if isinstance(node, ops.LayerNorm))


def graph_of(*nodes: ops.Linear | ops.LayerNorm | ops.Add | ops.Activation, outputs: dict[str, str]) -> Model:
    return Model((Graph("g", {"x": (4, 8)}, nodes, outputs),)).verify()


def test_what_cannot_turn_holds_the_stream():
    rng = np.random.default_rng(0)
    weight, ones = rng.standard_normal((8, 8)).astype(np.float32), np.ones(8, np.float32)
    embed, norm = ops.Linear("embed", "s", "x", weight, ones), ops.LayerNorm("norm", "n", "s", 2 * ones, ones, 1e-5)
    head = ops.Linear("head", "y", "n", weight, ones)
    models = {
        "turns": graph_of(embed, norm, head, outputs={"y": "y"}),
        "leaves": graph_of(embed, norm, head, outputs={"y": "y", "s": "s"}),
        "normalised value leaves": graph_of(embed, norm, head, outputs={"y": "y", "n": "n"}),
        "added": graph_of(embed, norm, ops.Add("add", "t", "s", "n"), replace(head, x="t"), outputs={"y": "y"}),
        "activation": graph_of(embed, norm, ops.Activation("act", "a", "n", Act.RELU), replace(head, x="a"), outputs={"y": "y"}),
        "input": graph_of(ops.LayerNorm("norm", "n", "x", ones, ones, 1e-5), head, outputs={"y": "y"})}
    images = {"x": rng.standard_normal((2, 4, 8)).astype(np.float32)}
    for name, model in models.items():
        after = rotated(model)
        assert (after.tasks[0].nodes[0] is not model.tasks[0].nodes[0]) == (name == "turns"), name
        for output, value in evaluate.run(after.tasks[0], images).items():
            np.testing.assert_allclose(value, evaluate.run(model.tasks[0], images)[output], atol=1e-5)


# ---------------------------------------------------------------- how ranges are chosen

def test_methods():
    rng = np.random.default_rng(0)
    found = calibration.Range()
    found.add(rng.standard_normal(100_000))
    found.add(np.array([30.0]))
    clips = {method: 127 * found.scale(method) for method in quantizer.METHODS}
    assert clips["minmax"] == 30.0 and 3.5 < clips["percentile"] < 4.5
    assert 4 < clips["mse"] < 25 and 2.5 < clips["entropy"] < 25 and len(set(clips.values())) == 4


@pytest.mark.parametrize("method", quantizer.METHODS)
def test_methods_of_values_without_a_tail(method):
    for values in (np.ones(100), np.zeros(100), np.linspace(-2, 2, 10_001)):
        found = calibration.Range()
        found.add(values)
        largest = float(np.abs(values).max()) or 127.0
        assert 0.9 * largest <= 127 * found.scale(method) <= largest


def test_ranges_are_those_of_the_turned_stream():
    model = NETWORKS["class token"]
    images = {"x": random_images(model, 8)}
    turned = rotated(model)
    ranges, known = calibration.collect(turned, images), calibration.sites(turned)[0]
    network = quantizer.quantize(model, images, method="minmax").tasks[0]
    top = max(ranges[known[value], Role.OUT].maximum for value in ("r0", "block0.mid", "block0.out", "block1.mid", "block1.out"))
    assert network.residual_scale == pytest.approx(top / quantizer.RESIDUAL_TOP, rel=0.2)
