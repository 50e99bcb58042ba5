"""Calibration: sets and weights that make no sense are refused or warned of, and what leaves a number format is counted."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.errors import CalibrationError, HwgenError, ModelError
from hwgen.functions import Act, activate
from hwgen.graph import Model, evaluate
from hwgen.quantizer import findings
from hwgen.quantizer.calibration import Range
from hwgen.steps import golden, host
from qgraphs import random_images, random_model

MODEL = random_model(3)
IMAGES = random_images(MODEL, 8)
SCORE = 32767 / 64 * math.log(2)
LOGIT = 32767 / 256 * math.log(2)


def changed(model: Model, name: str, **arrays) -> Model:
    """The model with ``arrays`` of the node ``name``: functions of the old array."""
    def change(node):
        return replace(node, **{key: made(getattr(node, key)) for key, made in arrays.items()}) if node.name == name else node
    return Model(tuple(replace(graph, nodes=tuple(map(change, graph.nodes))) for graph in model.tasks)).verify()


def set_to(value):
    """The array with its first element set."""
    return lambda array: np.concatenate([[value], array.ravel()[1:]]).astype(np.float32).reshape(array.shape)


def times(factor):
    return lambda array: array * np.float32(factor)


def warnings(images, model=MODEL) -> tuple[str, ...]:
    return quantizer.with_findings(model, {"x": np.asarray(images, np.float32)})[1].warnings


def damaged(*places, value=1e6):
    images = IMAGES.copy()
    for place in places:
        images[place] = value
    return images


# ---------------------------------------------------------------- the set

def test_a_good_set_has_no_warning():
    assert warnings(IMAGES) == () and warnings(IMAGES[:1]) == ()
    assert quantizer.with_findings(MODEL, None, random=True)[1].warnings == ()


@pytest.mark.parametrize("value", [0.0, 0.5, 1e-30, 1e30])
def test_a_set_of_one_value_is_refused(value):
    with pytest.raises(CalibrationError) as error:
        quantizer.quantize(MODEL, {"x": np.full_like(IMAGES, value)})
    assert f"'x' holds nothing but the value {value:g}" in error.value.message and "images like those" in error.value.hint


@pytest.mark.parametrize("images, words", [
    (damaged((2, 0, 0, 0)), "image 2 reaches 1e+06 where"),
    (damaged(5), "image 5 reaches 1e+06 where"),
    (damaged((slice(1), 0, 0, 0))[:1], "image 0 reaches 1e+06 where"),
    (damaged(5, value=0.25), "1 of 8 images hold a single value, the first is image 5 (0.25)"),
    (damaged(5, 7, value=0), "2 of 8 images hold a single value, the first is image 5 (0)"),
    (IMAGES / 1000, "standard deviation of its values is 0.000911;"),
    (IMAGES * 1000, "standard deviation of its values is 911;"),
    (IMAGES * 255, "standard deviation of its values is 232;"),
    (IMAGES * 1e-30, "standard deviation of its values is 9.11e-31;"),
    (np.abs(np.rint(IMAGES * 60)).clip(0, 255), "whole numbers from 0 to"),
    (np.abs(np.rint(IMAGES * 2)), "whole numbers from 0 to"),
])
def test_a_set_that_looks_wrong(images, words):
    found = warnings(images)
    assert any(words in line and line.startswith("calibration input 'x'") for line in found), found


def test_a_constant_channel():
    model = random_model(3, channels=3)
    images = random_images(model, 4)
    images[:, 1] = -0.5
    assert warnings(images, model) == ("calibration input 'x': channel 1 is -0.5 in every image",)


def test_binary_images_are_no_pixels():
    assert warnings(IMAGES > 0) == ()


def test_values_near_the_end_of_float32():
    found = warnings(IMAGES * 1e17)
    assert any(line.startswith("values of PatchEmbed node 'embed' reach ") and "e+1" in line for line in found), found


def test_values_float32_does_not_hold_are_refused():
    with pytest.raises(CalibrationError, match="infinite values in image 0"):
        quantizer.quantize(MODEL, {"x": IMAGES.astype(np.float64) * 1e300})


# ---------------------------------------------------------------- weights

@pytest.mark.parametrize("node, key, value, words", [
    ("embed", "weight", 2.36e38, "2.36e+38, of PatchEmbed node 'embed'"),
    ("block0.fc1", "weight", 3e38, "3e+38, of Linear node 'block0.fc1'"),
    ("block0.q", "weight", 1e38, "1e+38, of Linear node 'block0.q'"),
    ("norm", "gamma", 3e38, "3e+38, of LayerNorm node 'norm'"),
    ("block1.moe", "w1", 3e38, "3e+38, of MoE node 'block1.moe'"),
    ("block1.moe", "gate", 3e38, "3e+38, of MoE node 'block1.moe'"),
])
def test_weights_that_overflow(node, key, value, words):
    """Refused with the weight's node and value, and no endless search for a range; before an activation as behind it."""
    model = changed(MODEL, node, **{key: lambda array: np.full_like(array, value)})
    with pytest.raises(ModelError) as error:
        quantizer.quantize(model, {"x": IMAGES})
    assert words in error.value.message and error.value.where and "export the model again" in error.value.hint


def test_one_weight_that_overflows_before_an_activation():
    """What was an endless loop: infinity is the range of a pre-activation."""
    with pytest.raises(ModelError, match="gives infinity for calibration image [0-9]"):
        quantizer.quantize(changed(MODEL, "block0.fc1", weight=set_to(3.4e38)), {"x": np.concatenate([IMAGES] * 8)})


def test_images_that_overflow():
    with pytest.raises(CalibrationError, match="gives (NaN|infinity) for calibration image 6: .* the images 3e[+]38") as error:
        quantizer.quantize(MODEL, {"x": damaged((6, 0, 0), value=3e38)})
    assert error.value.where and error.value.hint == "scale the images as in training"


def test_a_network_without_a_finite_result_for_an_image():
    """Without eps the LayerNorm of a token that is one value is 0 / 0."""
    model = changed(MODEL, "block0.norm1", eps=lambda eps: 0.0)
    model = changed(changed(changed(changed(model, "embed", weight=times(0), bias=times(0)), "pos", value=times(0)),
                            "concat", tokens=times(0)), "block0.proj", bias=times(1))
    with pytest.raises(CalibrationError, match="gives NaN for calibration image 0") as error:
        quantizer.quantize(model, {"x": IMAGES})
    assert "LayerNorm node 'block0.norm1'" in error.value.where and "remove it" in error.value.hint


@pytest.mark.parametrize("factor", [1e6, 1e12, 1e18, 1e25, 1e30, 1e37])
@pytest.mark.parametrize("node, key", [("embed", "weight"), ("block0.fc1", "weight"), ("block0.v", "bias"), ("block1.moe", "w2")])
def test_large_weights_end_in_a_message_or_a_result(node, key, factor):
    try:
        model, found = quantizer.with_findings(changed(MODEL, node, **{key: times(factor)}), {"x": IMAGES})
    except HwgenError as error:
        assert error.where and error.hint
        return
    assert factor < 1e18 or any("float32" in line for line in found.warnings)
    assert all(np.isfinite(value).all() for value in golden.run(model.tasks[0], IMAGES).values())


# ---------------------------------------------------------------- what leaves its format

def rows(model, images=IMAGES) -> dict[tuple[str, str], quantizer.Clip]:
    return {(clip.node, clip.what): clip for clip in quantizer.with_findings(model, {"x": images})[1].clipping}


def test_every_fixed_format_has_a_row():
    found = rows(MODEL)
    blocks = [(f"block{b}.{node}", what) for b in (0, 1) for node, what in (
        ("attention", "attention score"), ("proj", "residual update"), ("add1", "residual"), ("add2", "residual"))]
    assert set(found) == {("embed", "residual update"), *blocks, ("block0.fc1", "pre-activation"), ("block0.fc2", "residual update"),
                          ("block1.moe", "router logit"), ("block1.moe", "pre-activation"), ("block1.moe", "expert result")}
    assert not any(clip.clipped for clip in found.values()) and all(0 < clip.range < clip.limit for clip in found.values())
    limits = {"attention score": SCORE, "pre-activation": 32767 / 256, "router logit": LOGIT}
    assert all(clip.limit == pytest.approx(limits[what]) for (_, what), clip in found.items() if what in limits)


@pytest.mark.parametrize("node, key, factor, what, value", [
    ("block0.fc1", "weight", 100, "pre-activation", "block0.fc1"),
    ("block0.q", "weight", 200, "attention score", None), ("block1.moe", "gate", 50, "router logit", None),
    ("block1.moe", "w1", 150, "pre-activation", None), ("block1.moe", "w2", 200, "expert result", None)])
def test_the_share_is_counted(node, key, factor, what, value):
    even = {"gate": times(0.01)} if key == "w2" else {}                  # equal shares: the sum of two results is smaller than one alone
    model = changed(MODEL, node, **{key: times(factor), **even})
    place = node.replace(".q", ".attention")
    clip = rows(model)[place, what]
    assert clip.range > clip.limit and 0 < clip.clipped < 0.9
    turned = quantizer.rotated(model).tasks[0]                          # in its coordinates
    values = evaluate.trace(turned, {"x": IMAGES})
    if value:
        real = values[value]
    elif what == "attention score":
        q, k = (values[f"block0.{n}"].reshape(8, 9, 2, 16).transpose(0, 2, 1, 3) for n in "qk")
        real = q @ k.transpose(0, 1, 3, 2) / 4
    else:
        moe = next(n for n in turned.nodes if n.name == "block1.moe")
        x = values["block1.norm2"]
        real = x @ moe.gate + moe.gate_bias
        if what != "router logit":
            chosen = np.argsort(-real, axis=-1, kind="stable")[..., :2]
            real = [(x @ moe.w1[e] + moe.b1[e])[(chosen == e).any(-1)] for e in range(4)]
            if what == "expert result":
                real = [activate(pre, moe.act) @ moe.w2[e] + moe.b2[e] for e, pre in enumerate(real)]
            real = np.concatenate(real)
    assert clip.range == pytest.approx(np.abs(real).max(), rel=1e-5)
    assert clip.clipped == pytest.approx((np.abs(real) > clip.limit).mean(), rel=0.1)
    line, = [w for w in quantizer.with_findings(model, {"x": IMAGES})[1].warnings if repr(place) in w and what in w]
    assert f"{clip.range:.4g}" in line and f"{100 * clip.clipped:.2g} %" in line


def test_a_share_below_a_thousandth_is_no_warning():
    clips = [quantizer.Clip("a", "residual", 2.0, 1.0, 0.001), quantizer.Clip("b", "residual", 2.0, 1.0, 0.0011)]
    assert findings.clip_warnings(clips) == ["0.11 % of the calibration values are clipped in node 'b': its residuals reach 2, int16 holds 1"]


def test_the_integer_model_clips_what_is_counted():
    """Saturated integers and the share counted on floats are two views of one thing."""
    model = changed(MODEL, "block0.q", weight=times(200))
    integers, found = quantizer.with_findings(model, {"x": IMAGES})
    scores = golden.trace(integers.tasks[0], IMAGES, detail=True)["block0.attention.scores"]
    share = next(clip.clipped for clip in found.clipping if (clip.node, clip.what) == ("block0.attention", "attention score"))
    assert (np.abs(scores) == 32767).mean() == pytest.approx(share, rel=0.1)


def test_tasks_share_a_row():
    model = random_model(3, classes=(10, 2), blocks="d")
    assert rows(model).keys() == rows(random_model(3, blocks="d")).keys()
    assert len(quantizer.with_findings(model, {"x": IMAGES})[1].clipping) == len(rows(model))


@pytest.mark.parametrize("limit", [0.0, 0.5, 1.0, 2.0, 3.0, 10.0])
def test_share_beyond(limit):
    x, found = np.random.default_rng(0).standard_normal((10, 10_000)), Range()
    for part in x:
        found.add(part)
    assert found.share_beyond(limit) == pytest.approx((np.abs(x) > limit).mean(), abs=2e-3)


# ---------------------------------------------------------------- outputs and run-time inputs

def test_outputs_that_are_off():
    assert findings.output_warnings({"a": 0.1, "b": 0.11, "c": math.nan}) == [
        f"output {name!r} of the integer model is {error} off on calibration images (root mean square, relative to the float model); "
        "up to 0.1 is usual" for name, error in (("b", "0.11"), ("c", "nan"))]


def test_inputs_beyond_the_calibrated_range_are_counted():
    graph = quantizer.quantize(MODEL, {"x": IMAGES}).tasks[0]
    scale = graph.input[1].scale
    inside = np.linspace(-127.49, 127.49, IMAGES.size).reshape(IMAGES.shape) * scale
    assert host.input_clipped(graph, inside) == 0.0
    inside[0, 0, 0, :3] = [128 * scale, -1e30, 127.6 * scale]
    assert host.input_clipped(graph, inside) == 3 / inside.size
    assert (np.abs(host.quantize_input(graph, inside)) <= 127).all()


def test_equal_functions_have_equal_errors():
    """ReLU is homogeneous: thirty times the first layer, a thirtieth of the second is one function; both had to fit ±16 before."""
    from bench import snr
    plain = random_model(5, tokens=17, hidden=128, blocks="dd", act=Act.RELU)
    same = snr.scaled(plain, ".fc1", 30, ".fc2")
    x = {"x": random_images(plain, 4)}
    for name, value in evaluate.run(plain.tasks[0], x).items():
        np.testing.assert_allclose(evaluate.run(same.tasks[0], x)[name], value, rtol=1e-3, atol=1e-4)
    first, second = (snr.measure("", snr.always(model), seeds=3) for model in (plain, same))
    assert min(first.median_db, second.median_db) > 27 and abs(first.median_db - second.median_db) < 1.5
    assert not first.clipping and not second.clipping
