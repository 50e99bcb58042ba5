"""The method `auto`: the range of each value that costs least where the value is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hwgen
from hwgen import api, quantizer
from hwgen.errors import HwgenError
from hwgen.frontend import Options, recipe
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.quantizer import Recipe, Rule, calibration, control
from hwgen.quantizer.selection import IMAGES, nearest
from hwgen.steps import golden, host, text
from onnx_nets import CLASSES, result, vit
from qgraphs import random_images, random_model

SIZES = {"tokens": 17, "dim": 32, "heads": 2, "hidden": 128}
METHODS = ("minmax", "percentile", "mse", "entropy")


def prepared(seed: int, **sizes):
    model = quantizer.rotated(random_model(seed, **{**SIZES, **sizes}))
    images = {"x": random_images(model, 12)}
    return model, images, calibration.collect(model, images)


@pytest.mark.parametrize("seed", range(3))
def test_the_least_error_where_a_value_is_read(seed):
    """Of attention results, the inputs and the values of attentions, computed here once more."""
    model, images, ranges = prepared(seed, blocks="dm")
    (graph,), (known,) = model.tasks, calibration.sites(model)
    found = nearest(model, ranges, images, "auto", Recipe())
    right = evaluate.trace(graph, {"x": images["x"][:IMAGES]})
    nodes = {node.name: node for node in graph.nodes}
    chosen = set()
    for value, reader in (("x", "embed"), ("block0.attention", "block0.proj"), ("block1.attention", "block1.proj"), ("block0.v", "block0.attention"),
                          ("block1.q", "block1.attention")):
        errors = {}
        for method in METHODS:
            unit = ranges[known[value], calibration.Role.OUT].scale(method)
            changed = {**right, value: (np.clip(np.rint(right[value] / unit), -127, 127) * unit).astype(np.float32)}
            node = nodes[reader]
            results = node.evaluate(*(changed[name] for name in node.inputs)) - right[node.output]
            errors[method] = sum((part.astype(np.float64) ** 2).sum() / (whole.astype(np.float64) ** 2).sum()
                                 for part, whole in zip(results, right[node.output], strict=True))
        method = found.value(value).method
        assert errors[method] <= min(errors.values()) * (1 + 1e-3), (value, method, errors)
        chosen.add(method)
    assert chosen - {"minmax"}
    assert {found.value(value).method for value in ("block0.norm1", "block0.hidden", "block1.mlp")} <= set(METHODS)


def test_never_further_from_the_float_network_than_by_the_largest_value():
    """On the images that are looked at; and nearer for some networks."""
    better = 0
    for seed in range(3):
        model = random_model(seed, blocks="dm", **SIZES)
        images = random_images(model, IMAGES)
        wanted = evaluate.run(model.tasks[0], {"x": images})
        errors = {}
        for method in ("minmax", "auto"):
            network = quantizer.quantize(model, {"x": images}, method=method).tasks[0]
            found = host.dequantize(network, golden.run(network, images))
            errors[method] = sum(((found[name] - value) ** 2).sum() / (value ** 2).sum() for name, value in wanted.items())
        assert errors["auto"] <= errors["minmax"] * (1 + 1e-6)
        better += errors["auto"] < 0.9 * errors["minmax"]
    assert better


def test_a_worse_choice_is_not_taken(monkeypatch):
    """Where all the choices together are worse than the largest value, that it is."""
    model, images, ranges = prepared(0, blocks="d")
    names = ("x", "block0.norm1", "block0.hidden")
    bad = Recipe({name: Rule(method="entropy") for name in names})
    spoiled = {site: replace(found) for site, found in ranges.items()}
    monkeypatch.setattr(quantizer, "nearest", lambda *_: bad)
    monkeypatch.setitem(calibration.CLIPS, "entropy", lambda found: found.maximum / 50)
    found = quantizer.chosen(model, spoiled, images, "auto", "w8a8", Recipe())
    assert {found.value(name).method for name in names} == {"minmax"}


def test_what_is_given_stays():
    """Methods, scales and 16 bits that are given are no choice; without `auto` nothing is."""
    model, images, ranges = prepared(1, blocks="d")
    given = Recipe({"x": Rule(method="entropy"), "block0.norm1": Rule(scale=0.03), "block0.attention": Rule(bits=16)})
    found = nearest(model, ranges, images, "auto", given)
    assert all(found.values[name] is rule for name, rule in given.values.items()) and found.value("block0.q").method in METHODS
    assert nearest(model, ranges, images, "minmax", given) is given
    one = nearest(model, ranges, images, "minmax", Recipe({"block0.q": Rule(method="auto")}))
    assert one.values.keys() == {"block0.q"} and one.value("block0.q").method in METHODS


def test_tasks_have_one_method_at_one_place():
    model, images, ranges = prepared(2, blocks="dm", classes=(10, 2))
    found, known = nearest(model, ranges, images, "auto", Recipe()), calibration.sites(model)
    shared = [(value, other) for value, site in known[0].items() for other, place in known[1].items() if site == place and value in found.values]
    assert len(shared) > 5 and all(found.value(value).method == found.value(other).method for value, other in shared)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    net = vit()
    path = net.save(tmp_path_factory.mktemp("selection") / "net.onnx", {"y": result(net)}, [1, CLASSES])
    return path, import_model(path)


def test_what_was_chosen_is_shown_and_can_be_given_back(network, tmp_path):
    path, imported = network
    images = {"x": np.random.default_rng(1).standard_t(5, (8, 1, 8, 8)).astype(np.float32)}
    shown = api.show(path, "quant", calib=images, method="auto")
    assert shown.text.count(", the method by auto") > 5 and len({line["method"] for line in shown.lines if "method" in line} - {"auto"}) > 1
    assert api.show(path, "quant", calib=images, quant={"*": {"method": "auto"}}).text == shown.text
    (tmp_path / "quant.yaml").write_text(shown.text)
    auto, again = (quantizer.quantize(imported.model, images, **options) for options in (
        {"method": "auto"}, {"recipe": recipe(imported, Options(quant=tmp_path / "quant.yaml"))}))
    assert [list(text.lines(one)) for one in auto.tasks] == [list(text.lines(one)) for one in again.tasks]
    assert ", the method by auto" not in api.show(path, "quant", calib=images).text


def test_methods_of_experts_are_shown():
    model = random_model(0, blocks="m")
    images = {"x": random_images(model, 4)}
    quantized, findings = quantizer.with_findings(model, images, method="auto")
    rules = control.effective(model, quantized, Recipe(), "auto", quantizer.Precision.W8A8, findings.methods)
    assert next(rule for rule in rules if rule.name == "block0.moe").value["method"] == findings.methods["block0.mlp"]


@pytest.mark.parametrize("options, near", [({"method": "autom"}, "did you mean auto"), ({"quant": {"*": {"method": "percentil"}}}, "did you mean percentile"),
                                           ({"quant": {"*": {"method": "xyz"}}}, "there are minmax, percentile, mse, entropy, auto")])
def test_methods_that_are_none(network, options, near):
    path, _ = network
    with pytest.raises(HwgenError) as error:
        checked = hwgen.check(path, **options)
        raise checked.error
    assert near in error.value.hint
