"""Convolutions inside a network: tokens of a grid side by side and a Linear; stems, spatial reduction, depthwise ones, and what is refused."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from conv_nets import GRID, conv, hybrid, image, images, norm2d, peg, stages, stem, tokens
from hwgen import convolutions, quantizer
from hwgen.engines.hls.plan import plan
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.verify import verify as verify_program
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.steps import golden
from hwgen.steps.host import quantize_input
from hwgen.steps.passes.groups import split_groups
from hwgen.steps.verify import verify
from onnx_nets import DIM, Net, result
from rule_checks import accepted, declined, kinds


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def grid(net: Net, channels: int = DIM, count: int = GRID * GRID) -> str:
    """Tokens of a Linear, as an image."""
    return image(net, net.linear(net.input("x", [1, count, DIM]), DIM, channels), channels)


def in_a_row(net: Net, **attrs) -> str:
    """A convolution of one dimension along the tokens."""
    row = net.op("Transpose", net.linear(net.input("x", [1, 9, DIM]), DIM, DIM), perm=[0, 2, 1])
    y = net.op("Conv", row, net.random(6, DIM, 3), net.random(6), kernel_shape=[3], **attrs)
    return net.op("Transpose", y, perm=[0, 2, 1])


def without_a_class_token(net: Net) -> str:
    """The class token stays out of the grid."""
    y = net.linear(net.input("x", [1, 10, DIM]), DIM, DIM)
    patches = net.op("Slice", y, net.ints(1), net.ints(10), net.ints(1))
    return tokens(net, conv(net, image(net, patches, rows=3), pads=[1] * 4))


CASES = {               # name -> the net, nodes behind the first Linear
    "3x3": (lambda net: tokens(net, conv(net, grid(net), pads=[1] * 4)), ["Take", "Linear"]),
    "without a border": (lambda net: tokens(net, conv(net, grid(net))), ["Take", "Linear"]),
    "stride and another size": (lambda net: tokens(net, conv(net, grid(net), to=5, strides=[2, 3], pads=[1, 0, 1, 2]), 5), ["Take", "Linear"]),
    "dilated": (lambda net: tokens(net, conv(net, grid(net), dilations=[2, 2], pads=[2] * 4)), ["Take", "Linear"]),
    "stride is the kernel": (lambda net: tokens(net, conv(net, grid(net), kernel=3, strides=[3, 3])), ["Take", "Linear"]),
    "one by one": (lambda net: tokens(net, conv(net, grid(net), to=7, kernel=1), 7), ["Linear"]),
    "one by one with a stride": (lambda net: tokens(net, conv(net, grid(net), kernel=1, strides=[2, 2])), ["Take", "Linear"]),
    "groups": (lambda net: tokens(net, conv(net, grid(net), group=4, pads=[1] * 4, bias=False)), ["Take", "Linear"]),
    "depthwise": (lambda net: tokens(net, conv(net, grid(net, 24), 24, 24, group=24, pads=[1] * 4), 24), ["Take", "Linear"]),
    "same": (lambda net: tokens(net, conv(net, grid(net), kernel=2, strides=[2, 2], auto_pad="SAME_UPPER")), ["Take", "Linear"]),
    "larger than the grid": (lambda net: tokens(net, conv(net, grid(net), kernel=7, pads=[3] * 4)), ["Take", "Linear"]),
    "one after the other": (lambda net: tokens(net, conv(net, net.op("Relu", conv(net, grid(net), to=9, pads=[1] * 4)), 9, 5), 5),
                            ["Take", "Linear", "Activation", "Take", "Linear"]),
    "batch norm": (lambda net: tokens(net, norm2d(net, conv(net, grid(net), to=9, pads=[1] * 4), 9), 9), ["Take", "Linear"]),
    "in a row": (in_a_row, ["Take", "Linear"]),
    "in a row with a border": (lambda net: in_a_row(net, pads=[1, 1], strides=[2]), ["Take", "Linear"]),
    "mean of windows": (lambda net: tokens(net, net.op("AveragePool", grid(net), kernel_shape=[2, 2], strides=[2, 2])), ["Take", "Linear"]),
    "mean with a border that counts": (lambda net: tokens(net, net.op("AveragePool", grid(net), kernel_shape=[3, 3], pads=[1] * 4,
                                                                      count_include_pad=1)), ["Take", "Linear"]),
    "without a class token": (without_a_class_token, ["Take", "Linear"]),
    "stem": (lambda net: tokens(net, stem(net)), ["Activation", "Take", "Linear"]),
    "stem with batch norms": (lambda net: tokens(net, stem(net, True, "HardSwish")), ["Activation", "Take", "Linear"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_convolution_is_tokens_side_by_side(name, path):
    make, found = CASES[name]
    net = Net()
    make(net)
    assert kinds(accepted(net, path))[1:] == found


REFUSED = {
    "pixels are no tokens": (lambda net: conv(net, net.op("Reshape", net.linear(net.input("x", [1, 16, DIM]), DIM, DIM), net.ints(1, DIM, 4, 4))),
                             "whose pixels are not its tokens"),
    "a border that does not count": (lambda net: net.op("AveragePool", grid(net), kernel_shape=[3, 3], pads=[1] * 4), "divided by another number"),
    "no window": (lambda net: conv(net, grid(net), kernel=7), "holds no window of 7x7"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_convolution_of_tokens(name, path):
    make, text = REFUSED[name]
    net = Net()
    make(net)
    assert any(text in reason for reason in declined(net, path, rank=4).values())


def quantized(net: Net, path, precision: str = "w8a8"):
    """(float network, integer network, images, what onnxruntime gives for these)"""
    net.save(path, {"y": result(net)})
    model = import_model(path).model
    (shape,) = model.tasks[0].inputs.values()
    images = np.random.default_rng(3).normal(size=(12, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": one[None]})[0] for one in images[8:]])
    return model, quantizer.quantize(model, {"x": images[:8]}, precision=precision), images[8:], wanted


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_hybrid_as_integers(batch_norm, path):
    """Stem, reduction of keys and values, depthwise convolution between two linear maps; a step of the array for each convolution."""
    model, network, images, wanted = quantized(hybrid(batch_norm), path)
    assert np.abs(evaluate.run(model.tasks[0], {"x": images})["y"] - wanted).max() < 1e-4
    verify(network.tasks[0])
    takes = [step for step in network.tasks[0].steps if step.taken is not None]
    assert [(step.taken.taps, step.taken.tokens) for step in takes] == [(9, 36), (4, 9), (9, 36)]
    output = network.tasks[0].outputs[0]
    found = golden.run(network.tasks[0], images)["y"] * output.scale.array / output.tokens
    assert 10 * np.log10((wanted ** 2).sum() / ((wanted - found) ** 2).sum()) > 25
    for batch in (1, 2):
        verify_program(schedule(network, ti=16, to=8, axi_data_bits=64, batch=batch))


@pytest.mark.parametrize("build", [peg, images, stages], ids=lambda build: build.__name__)
def test_networks_of_both(build, path):
    """Positions by a depthwise convolution of the residual stream; a residual stream of images; a second stage with fewer tokens."""
    net = Net()
    net.head(net.norm(build(net)), pool="mean")
    model, network, images, wanted = quantized(net, path)
    assert np.abs(evaluate.run(model.tasks[0], {"x": images})["y"] - wanted).max() < 1e-4
    output = network.tasks[0].outputs[0]
    found = golden.run(network.tasks[0], images)["y"] * output.scale.array / output.tokens
    assert 10 * np.log10((wanted ** 2).sum() / ((wanted - found) ** 2).sum()) > 25
    verify_program(schedule(network, ti=16, to=8, axi_data_bits=64))
    assert any("taken(" in call.code for call in plan(network, 8, 4).steps)


def test_what_convolutions_read_in_16_bits(path):
    """As for Linears: `w8a16` is nearer to the file."""
    errors = []
    for precision in ("w8a8", "w8a16"):
        _, network, images, wanted = quantized(hybrid(), path, precision)
        output = network.tasks[0].outputs[0]
        errors.append(np.abs(golden.run(network.tasks[0], images)["y"] * output.scale.array / output.tokens - wanted).max())
        verify_program(schedule(network, ti=16, to=8, axi_data_bits=64))
    assert errors[1] < errors[0]
    assert sum(step.taken is not None and step.source.tensor.format.bits == 16 for step in network.tasks[0].steps) == 2


def test_zeros_at_the_border_of_a_norm_are_zeros(path):
    """A norm with a beta is not 0 where its words are, so a border of zeros takes it in 8 bits of its own."""
    net = Net()
    x = net.add(net.linear(net.input("x", [1, GRID * GRID, DIM]), DIM, DIM), net.random(1, GRID * GRID, DIM))
    normed = net.op("LayerNormalization", x, net.random(DIM, offset=1), net.random(DIM, offset=2), axis=-1)
    y = tokens(net, conv(net, image(net, normed), pads=[1] * 4))
    net.head(net.norm(net.add(x, y)), pool="mean")
    _, network, images, wanted = quantized(net, path)
    output = network.tasks[0].outputs[0]
    found = golden.run(network.tasks[0], images)["y"] * output.scale.array / output.tokens
    assert 10 * np.log10((wanted ** 2).sum() / ((wanted - found) ** 2).sum()) > 25
    (take,) = (step for step in network.tasks[0].steps if step.taken is not None)
    assert take.source.name.endswith(".int8") and take.feed.name == "plain"


def test_a_depthwise_convolution_has_no_tiles_of_zeros(path):
    """Columns see the tile of their own channels: taps tiles for each of them, instead of taps times all tiles of the source."""
    net = Net()
    tokens(net, conv(net, grid(net, 40), 40, 40, group=40, pads=[1] * 4), 40)
    net.head(net.norm(net.linear(result(net), 40, DIM)), pool="mean")
    _, network, images, _ = quantized(net, path)
    (before,) = (step for step in network.tasks[0].steps if step.taken is not None)
    split = split_groups(network.tasks[0], 8)
    verify(split)
    parts = [step for step in split.steps if step.taken is not None]
    assert [(step.source.channels.start, step.source.channels.count, step.columns) for step in parts] == [(8 * i, 8, 8) for i in range(5)]
    assert sum(step.macs for step in parts) == before.macs // 5
    words = quantize_input(network.tasks[0], images)
    np.testing.assert_array_equal(*(golden.evaluate(one, words)["y"] for one in (network.tasks[0], split)))
    verify_program(schedule(network, ti=8, to=8, axi_data_bits=64))
    assert split_groups(network.tasks[0], 64).steps == network.tasks[0].steps


@pytest.mark.parametrize("group, lanes, parts", [(2, 8, 2), (5, 8, 1), (4, 16, 2), (1, 8, 1)])
def test_a_convolution_in_groups(group, lanes, parts, path):
    """Groups that lie in tiles; where neighbouring tiles are shared, columns that see the same ones stay together."""
    net = Net()
    tokens(net, conv(net, grid(net, 40 if group == 5 else 32), 40 if group == 5 else 32, 40 if group == 5 else 32, group=group, pads=[1] * 4),
           40 if group == 5 else 32)
    net.head(net.norm(net.linear(result(net), 40 if group == 5 else 32, DIM)), pool="mean")
    _, network, images, _ = quantized(net, path)
    split = split_groups(network.tasks[0], lanes)
    verify(split)
    words = quantize_input(network.tasks[0], images)
    np.testing.assert_array_equal(*(golden.evaluate(one, words)["y"] for one in (network.tasks[0], split)))
    assert sum(step.taken is not None for step in split.steps) == (5 if group == 5 else parts)


def test_a_network_of_convolutions_says_so(path):
    """Of a hybrid the multiplications of convolutions are counted without the zeros of groups; a note names a share above a half."""
    _, network, _, _ = quantized(hybrid(), path)
    steps = [step for step in network.tasks[0].steps if step.macs]
    convolved, merged = 36 * (72 * DIM) + 36 * 9 * 24, 9 * (64 * DIM)               # whose windows do not overlap: neighbours side by side
    rest = sum(step.macs for step in steps if step.taken is None) + merged
    assert convolutions.share(network.tasks[0]) == pytest.approx(convolved / (convolved + rest), rel=0.02)
    net = Net()
    net.head(net.norm(tokens(net, stem(net))), pool="mean")
    _, mostly, _, _ = quantized(net, path)
    (note,) = convolutions.notes(mostly)
    assert note.startswith("55% of the multiplications are of convolutions inside the network")
    assert convolutions.notes(network) == []
