"""The recipe: what overrides calibration for one value or for the weights of one node, and what of it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.errors import ModelError
from hwgen.quantizer import Recipe, Rule
from qgraphs import random_images, random_model

MODEL = random_model(3)
IMAGES = {"x": random_images(MODEL, 8)}


def network(**rules):
    return quantizer.quantize(MODEL, IMAGES, recipe=Recipe(**rules)).tasks[0]


def scales(found) -> dict[str, float]:
    return {tensor.name: tensor.scale for tensor in found.tensors()}


def tiles(found) -> dict:
    return {step.note: step.weights for step in found.steps if step.weights is not None}


def test_a_scale_of_a_value():
    before = scales(network(values={"block0.norm1": Rule(scale=0.04)}))             # given scales of the stream keep it from being turned
    after = scales(network(values={"block0.norm1": Rule(scale=0.03), "block1.mlp": Rule(scale=0.02)}))
    assert after["block0.norm1"] == 0.03 and {after[name] for name in after if ".out.hidden" in name} == {0.02}
    assert {name for name in before if before[name] != after[name]} == {"block0.norm1", *(name for name in before if ".out.hidden" in name)}


def test_a_method_of_a_value():
    mse = scales(quantizer.quantize(MODEL, IMAGES, method="mse").tasks[0])
    before, after = scales(network()), scales(network(values={"block0.attention": Rule(method="mse")}))
    assert mse["block0.attention"] == after["block0.attention"] != before["block0.attention"]
    assert {name for name in before if before[name] != after[name]} == {"block0.attention"}


def test_bits_and_scales_of_weights():
    narrow = Rule(bits=4, scale=np.full(32, 0.1))
    before, after = tiles(network()), tiles(network(weights={"block0.proj": narrow, "block1.moe": Rule(bits=4),
                                                             "block1.moe: expert 1, layer 2": Rule(bits=8)}))
    assert {note for note in after if after[note].format.bits == 4} == {
        note for note in after if note == "block0.proj" or note.startswith("block1.moe")} - {"block1.moe: expert 1, layer 2"}
    weight = next(node for node in MODEL.tasks[0].nodes if node.name == "block0.proj").weight
    assert (after["block0.proj"].weight.array == np.clip(np.rint(weight / 0.1), -7, 7)).all() and before.keys() == after.keys()
    assert tiles(network(weights={"block0.proj": Rule(scale=0.01)}))["block0.proj"].weight.array.max() > 7


def test_precision_gives_way():
    found = quantizer.quantize(MODEL, IMAGES, precision="w4a8", recipe=Recipe(weights={"block0.proj": Rule(bits=8)})).tasks[0]
    assert tiles(found)["block0.proj"].format.bits == 8 and tiles(found)["block0.fc1"].format.bits == 4


@pytest.mark.parametrize("rules, message", [
    ({"values": {"block0.nrm1": Rule(bits=8)}}, "a rule is for the value 'block0.nrm1', which the network does not have"),
    ({"weights": {"proj": Rule(bits=8)}}, "a rule is for the weights of node 'proj', which"),
    ({"values": {"block0.norm1": Rule(bits=4)}}, "value 'block0.norm1' cannot be followed: there are no 4 bits; there are 8 and 16"),
    ({"values": {"block0.norm1": Rule(method="best")}}, "there is no method 'best'; there are minmax, percentile, mse"),
    ({"values": {"block0.norm1": Rule(scale=-1.0)}}, "a scale is -1, not a positive number"),
    ({"values": {"block0.norm1": Rule(scale=float("nan"))}}, "a scale is nan, not a positive number"),
    ({"values": {"x": Rule(bits=16)}}, "the input 'x' cannot have 16 bits"),
    ({"values": {"block0.norm1": Rule(scale=np.ones(2))}}, "value 'block0.norm1' is given [2] scales; it has one"),
    ({"values": {"block0.hidden": Rule(scale=np.ones(2))}}, "value 'block0.hidden' is given [2] scales; it has [64]"),
    ({"values": {"block1.mlp": Rule(scale=np.ones((3, 64)))}}, "value 'block1.mlp' is given [3, 64] scales; it has [4, 64]"),
    ({"values": {"block0.q": Rule(scale=np.linspace(0.1, 0.2, 32))}}, "the scales of the channels of q and k do not cancel"),
    ({"values": {"block0.hidden": Rule(scale=np.geomspace(1e-9, 1e9, 64))}}, "are outside the range of a column's multiplier"),
    ({"weights": {"block0.proj": Rule(scale=np.array([1.0, 0.0]))}}, "a scale is 0, not a positive number"),
    ({"weights": {"block0.proj": Rule(scale=np.ones(3))}}, "3 weight scales are given for 32 output channels"),
    ({"weights": {"block0.proj": Rule(scale=1e-12)}}, "output channel 0: with a weight scale of 1e-12 the accumulator of 32 bits can overflow"),
])
def test_rules_that_cannot_be_followed(rules, message):
    with pytest.raises(ModelError) as error:
        network(**rules)
    assert message in str(error.value)
