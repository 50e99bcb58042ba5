"""A scale a channel: multipliers of columns behind a table, and everything that reads such values."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
import re

from hypothesis import given, strategies as st
import numpy as np
import pytest

from hwgen import numerics as nx, quantizer
from hwgen.build import store
from hwgen.errors import ModelError
from hwgen.graph import evaluate
from hwgen.layout import image
from hwgen.quantizer import Recipe, Rule
from hwgen.steps import golden
from hwgen.steps.param import UNIT, Param, ShortColumns
from hwgen.steps.stages import Table
from hwgen.steps.step import Quantized
from hwgen.steps.verify import verify
from hwgen.steps.walk import with_tensors
from qgraphs import random_images, random_model

MODEL = random_model(3)
IMAGES = random_images(MODEL, 40)
FLOATS = evaluate.trace(MODEL.tasks[0], {"x": IMAGES})
SHORT = [(64 + m) << (9 - r) for r in range(10) for m in range(64)]


def scales() -> dict[str, np.ndarray]:
    """Of every value that can have one a channel, by the largest values; of the attention, of the channel with the largest one."""
    top = {name: np.abs(FLOATS[name]).max((0, 1)).astype(float) / 127 for name in ("block0.q", "block0.k", "block0.v", "block0.attention", "block0.hidden")}
    ratio = np.sqrt(top["block0.q"] / top["block0.k"])
    top["block0.q"], top["block0.k"] = (ratio * (top["block0.q"] / ratio).max(), (top["block0.k"] * ratio).max() / ratio)
    top["block0.attention"] = (top["block0.attention"] / top["block0.v"]).max() * top["block0.v"].max()
    return top | {"block1.mlp": 4.0 * np.random.default_rng(5).uniform(0.8, 1.2, (4, 64)) / 127}


RECIPE = Recipe(values={name: Rule(scale=scale) for name, scale in scales().items()})


@pytest.fixture(scope="module")
def network():
    return quantizer.quantize(MODEL, {"x": IMAGES}, recipe=RECIPE).tasks[0]


def test_short_multipliers():
    codes = np.arange(640)
    assert nx.short_multiplier(codes).tolist() == SHORT and nx.short_code(SHORT).tolist() == codes.tolist()
    others = np.setdiff1d(np.arange(-5, 1 << 17), SHORT)
    assert (nx.short_code(others) == -1).all()


@given(st.lists(st.floats(2.0 ** -30, 2.0 ** 8), min_size=1, max_size=8))
def test_the_largest_short_multiplier_that_is_not_above(ratios):
    low, high = min(ratios), max(ratios)
    if high / low > 2.0 ** 20:
        return
    mults, shift = nx.short_multipliers(np.array(ratios))
    assert shift % 2 == 1 and 1 <= shift <= 47
    for mult, ratio in zip(mults.tolist(), ratios, strict=True):
        wanted = Fraction(ratio) * (1 << shift)
        assert mult in SHORT and mult <= wanted
        assert mult == max(SHORT) or min(m for m in SHORT if m > mult) > wanted
    if high / low < 2.0 ** 8:
        assert max(mults) >= 1 << 14                    # nothing of the range is given away


@pytest.mark.parametrize("ratios", [[0.0, 1.0], [-1.0], [np.nan], [np.inf], [2.0 ** 20], [2.0 ** -60], [2.0 ** -43, 2.0 ** 20]])
def test_ratios_no_column_has(ratios):
    with pytest.raises(ValueError, match="ratio"):
        nx.short_multipliers(np.array(ratios))


def test_values_have_the_scales_of_the_recipe(network):
    found, wanted = {tensor.name: tensor for tensor in network.tensors()}, scales()
    for name in ("block0.q", "block0.k", "block0.v"):
        np.testing.assert_allclose(found[name].units, wanted[name], rtol=1e-12)
    hidden = np.stack([found[f"block1.out.hidden{e}"].units for e in range(4)])
    for units, given_ones in ((found["block0.hidden"].units, wanted["block0.hidden"]), (hidden, wanted["block1.mlp"])):
        assert (units >= given_ones).all() and (units < given_ones * 65 / 64).all()
    np.testing.assert_allclose(found["block0.attention"].units * wanted["block0.v"].max(), wanted["block0.v"] * wanted["block0.attention"], rtol=1e-12)
    tables = [stage for step in network.steps for stage in step.drain if isinstance(stage, Table)]
    assert len(tables) == 5 and len({table.factor.shift for table in tables[1:]}) == 1      # of all experts


def test_values_times_their_scales_are_those_of_the_float_model(network):
    seen = golden.trace(network, IMAGES)
    one = quantizer.quantize(MODEL, {"x": IMAGES}).tasks[0]
    errors = [{name: relative(golden.trace(net, IMAGES)[name] * {tensor.name: tensor for tensor in net.tensors()}[name].units, FLOATS[name])
               for name in scales() if name != "block1.mlp"} for net in (network, one)]
    assert all(errors[0][name] < 1.1 * errors[1][name] for name in errors[0]) and errors[0]["block0.hidden"] < errors[1]["block0.hidden"], errors
    for net in (network, one):
        (output,) = net.outputs
        assert relative(golden.run(net, IMAGES)[output.name] * output.scale.array, FLOATS["head"]) < 0.1
    assert seen["block0.hidden"].max() == 127


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted.reshape(found.shape)) ** 2) / np.mean(wanted ** 2)))


def test_a_model_file_keeps_them(network):
    content = store.encode(Quantized((network,)))
    assert store.encode(store.decode(content)) == content
    again = store.decode(content).tasks[0]
    assert all((a.units == b.units).all() for a, b in zip(network.tensors(), again.tensors(), strict=True))


def test_columns_in_the_weight_image(network):
    """Bits 63 .. 54 of a column; none where one factor is for all."""
    step = next(step for step in network.steps if step.value == "block0.hidden")
    table = step.drain[1]
    for shape in (image.Shape(8, 8, 8), image.Shape(16, 8, 32)):
        plain = replace(step, drain=(step.drain[0], replace(table, factor=UNIT)))
        for some, codes in ((step, nx.short_code(table.factor.mult.array)), (plain, np.zeros(64, np.int64))):
            data = np.frombuffer(image.product(some, shape), np.uint8).reshape(8, -1)[:, :64].copy().view("<u8").reshape(-1)
            assert (data >> np.uint64(54)).tolist() == codes.tolist()
            assert (data >> np.uint64(48) & np.uint64(63)).tolist() == step.drain[0].factor.shift.array.tolist()


@pytest.mark.parametrize("change, message", [
    (lambda mult: ShortColumns(Param("m", mult + 1), 31), "is no short one"),
    (lambda mult: ShortColumns(Param("m", mult), 30), "the shift behind multipliers of columns is odd, not 30"),
    (lambda mult: ShortColumns(Param("m", mult), 49), "shift 49 is not in 1..47"),
    (lambda mult: ShortColumns(Param("m", mult[1:]), 31), "(63,) factors for 64 columns"),
    (lambda mult: ShortColumns(Param("m", mult * 1.0), 31), "are no row of integers")])
def test_factors_of_columns_that_are_none(network, change, message):
    index, step = next((i, step) for i, step in enumerate(network.steps) if step.value == "block0.hidden")
    table = replace(step.drain[1], factor=change(step.drain[1].factor.mult.array))
    steps = (*network.steps[:index], replace(step, drain=(step.drain[0], table)), *network.steps[index + 1:])
    with pytest.raises(ModelError, match=re.escape(message)):
        verify(replace(network, steps=steps))


@pytest.mark.parametrize("ratio", [np.ones(3), np.zeros(32), np.full(32, np.nan), np.ones(32, np.float32)])
def test_ratios_that_are_none(network, ratio):
    with pytest.raises(ModelError, match="which are not 32 positive numbers"):
        verify(with_tensors(network, lambda tensor: replace(tensor, ratio=Param("r", ratio)) if tensor.name == "block0.v" else tensor))
