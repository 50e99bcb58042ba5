"""Mixed precision: the values that are kept in 16 bits for a target."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hwgen
from hwgen.errors import InputError
from onnx_nets import CLASSES, result, vit


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    net = vit()
    path = net.save(tmp_path_factory.mktemp("mixed") / "net.onnx", {"y": result(net)}, [1, CLASSES])
    return path, {"x": np.random.default_rng(0).standard_normal((16, 1, 8, 8)).astype(np.float32)}


def snr(built) -> float:
    return -20 * np.log10(built.report()["quantization"]["output_error"]["y"])


@pytest.fixture(scope="module")
def plain(network, tmp_path_factory):
    path, images = network
    return hwgen.compile(path, calib=images, method="mse", out=tmp_path_factory.mktemp("plain") / "build")


def test_a_target_is_reached_with_as_few_as_it_needs(network, plain, tmp_path):
    path, images = network
    target = snr(plain) + 1
    built = hwgen.compile(path, calib=images, method="mse", precision="mixed", target_snr=target, out=tmp_path / "build")
    mixed = built.report()["mixed"]
    curve = {point["values"]: point for point in mixed["curve"]}
    count = len(mixed["widened"])
    assert snr(built) >= target and curve[count]["figure"] == pytest.approx(snr(built)) and count > 0
    assert count - 1 in curve and curve[count - 1]["figure"] < target              # one less would not do
    assert curve[0]["figure"] == pytest.approx(snr(plain)) and curve[0]["cycles"] == plain.report()["estimate"]["cycles_per_image"]
    assert curve[count]["cycles"] > curve[0]["cycles"] and built.report()["estimate"]["cycles_per_image"] == curve[count]["cycles"]
    assert sum(row["format"] == "s16" for row in built.report()["quantization"]["layers"]) > \
        sum(row["format"] == "s16" for row in plain.report()["quantization"]["layers"])
    assert built.simulate({"x": images["x"][:1]}).bit_exact


def test_nothing_is_widened_for_a_low_target(network, plain, tmp_path):
    path, images = network
    built = hwgen.compile(path, calib=images, method="mse", precision="mixed", target_snr=snr(plain) - 1, out=tmp_path / "build")
    assert built.report()["mixed"]["widened"] == [] and built.report()["mixed"]["curve"] == [
        {"values": 0, "figure": pytest.approx(snr(plain)), "cycles": plain.report()["estimate"]["cycles_per_image"]}]


def test_a_target_that_no_set_reaches(network):
    path, images = network
    error = hwgen.check(path, calib=images, precision="mixed", target_snr=90).error
    assert isinstance(error, InputError) and "no set of layers reaches 90 dB: with" in error.message and "8 bits stay at" in error.hint
    reached = [float(part.split()[0].rstrip(",")) for part in (error.message.split("network reaches ")[1], error.message.split("with none ")[1])]
    assert f"ask for {max(reached):.4g} or less" in error.hint


def test_an_accuracy_is_a_target_too(network, plain, tmp_path):
    path, images = network
    labels = plain.simulate(images, engine="golden").outputs["y"].argmax(1)
    built = hwgen.compile(path, calib={**images, "y": labels}, method="mse", precision="mixed", target_accuracy=1.0, out=tmp_path / "build")
    assert built.report()["mixed"]["what"] == "accuracy" and built.report()["mixed"]["widened"] == []
    labels = (labels + 1) % CLASSES
    error = hwgen.check(path, calib={**images, "y": labels}, precision="mixed", target_accuracy=0.9).error
    assert "no set of layers reaches an accuracy of 0.9" in error.message


@pytest.mark.parametrize("options, message", [
    ({"precision": "mixed"}, "no target is given with the precision 'mixed'"),
    ({"precision": "mixed", "target_snr": 20, "target_accuracy": 0.9}, "two targets are given"),
    ({"target_snr": 20}, "a target is given with the precision 'w8a8'"),
    ({"precision": "mixed", "target_accuracy": 98.0},
     "an accuracy of 98 is not a share above 0, up to 1\n  at:   option --target-accuracy\n  next: "),
    ({"precision": "mixed", "target_snr": math.nan}, "a ratio of nan dB is none that is reached\n  at:   option --target-snr\n  next: "),
    ({"precision": "mixed", "target_accuracy": 0.9}, "the calibration set holds no labels"),
])
def test_what_does_not_go_together(network, options, message):
    path, images = network
    try:
        error = hwgen.check(path, calib=images, **options).error
    except InputError as raised:
        error = raised
    assert message in str(error)


def test_noise_says_nothing_of_accuracy(network):
    with pytest.raises(InputError, match="mixed precision needs calibration images"):
        hwgen.check(network[0], precision="mixed", target_snr=20)
