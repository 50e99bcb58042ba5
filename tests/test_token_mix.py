"""Tokens mixed by a constant matrix (MLP-Mixer): read in every spelling, and a matrix that streams past tokens on the engine."""

from __future__ import annotations

import numpy as np
import pytest

import hwgen
from hwgen import quantizer
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.verify import verify as verify_program
from hwgen.errors import ModelError
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.steps import golden
from hwgen.steps.passes.batch import batch
from hwgen.steps.passes.lengths import sequenced
from hwgen.steps.stages import Values
from hwgen.steps.stages.tile import FULL, with_bias
from hwgen.steps.verify import verify
from mixer_nets import MIXINGS, mixer, mlps, norm
from onnx_nets import CLASSES, DIM, TOKENS, Net
from qgraphs import random_images, random_model, random_qgraph
from rule_checks import accepted, declined, kinds

KINDS = ["LayerNorm", "TokenMix", "Activation", "TokenMix", "Add", "LayerNorm", "Linear", "Activation", "Linear", "Add"]
IMAGES = np.random.default_rng(4).normal(size=(24, TOKENS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Of the integer network, by spelling."""
    found = {}
    for name, mixing in MIXINGS.items():
        net, outputs = mixer(mixing)
        model = import_model(net.save(tmp_path_factory.mktemp("mixer") / "net.onnx", outputs, [1, CLASSES])).model
        found[name] = model, golden.run(quantizer.quantize(model, {"x": IMAGES}).tasks[0], IMAGES)["y"]
    return found


@pytest.mark.parametrize("name", MIXINGS)
def test_every_spelling_is_one_mixer(name, words):
    model, found = words[name]
    assert [type(node).__name__ for node in model.tasks[0].nodes] == ["Linear", *KINDS, *KINDS, "LayerNorm", "Mean", "Linear"]
    np.testing.assert_array_equal(found, words["transposed"][1])


@pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS)
def test_what_onnxruntime_computes(mixing, tmp_path):
    """Also of the tokens in another order, and of a matrix that is not square."""
    net, weight, bias = Net(), np.random.default_rng(1).normal(size=(3, TOKENS)).astype(np.float32), np.arange(3, dtype=np.float32)
    mixing(net, net.op("Gather", net.input("x", [1, TOKENS, 6]), net.ints(4, 2, 0, 1, 3), axis=1), weight, bias)
    graph = accepted(net, tmp_path / "net.onnx")
    assert kinds(graph) == ["TokenMix"] and graph.nodes[0].weight.shape == (3, TOKENS)


@pytest.mark.parametrize("kind, constant, left", [("Mul", [0.5, 2, -1], False), ("Div", [0.5, 2, -1], False), ("Sub", [1, 2, 3], True)])
def test_constants_of_tokens_go_into_the_matrix(kind, constant, left, tmp_path):
    net = Net()
    mixed = MIXINGS["from the left"](net, net.input("x", [1, TOKENS, 6]), net.rng.normal(size=(3, TOKENS)).astype(np.float32), np.ones(3))
    column = net.const(np.reshape(constant, (3, 1)))
    net.op(kind, *([column, mixed] if left else [mixed, column]))
    assert kinds(accepted(net, tmp_path / "net.onnx")) == ["TokenMix"]


def test_a_factor_for_each_channel_behind_it_is_named(tmp_path):
    net = Net()
    x = norm(net, net.linear(net.input("x", [1, TOKENS, DIM]), DIM, DIM), DIM)
    mixed = net.op("Mul", MIXINGS["conv1d"](net, x, np.ones((TOKENS, TOKENS)), np.zeros(TOKENS)), net.random(DIM), name="scale")
    net.op("Add", x, mixed)
    assert "times a factor for each channel, of 'scale'" in next(iter(declined(net, tmp_path / "net.onnx").values()))


@pytest.mark.parametrize("limit", [0, 100, 20_000, 60_000])
def test_a_bias_of_tokens_is_exact(limit):
    rng = np.random.default_rng(limit)
    weight, x = rng.integers(-127, 128, (5, 9)), rng.integers(-127, 128, (9, 4))
    bias = rng.integers(-limit, limit + 1, 5)
    matrix, ones = with_bias(weight, bias)
    held = np.concatenate([x, np.repeat([[1], *[[FULL]] * ones], 4, 1)[:ones]])
    assert matrix.dtype == np.int8 and ones == (0 if not limit else 1 + -(-int(np.abs(np.rint(bias / FULL)).max()) // FULL))
    np.testing.assert_array_equal(matrix.astype(int) @ held, weight @ x + bias[:, None])


@pytest.mark.parametrize("options", [{}, {"norms": "post", "pool": "mean"}, {"norms": "sandwich", "rms": True, "tokens": 17, "dim": 20},
                                     {"norms": "respost", "classes": (3, 4)}])
def test_a_network_is_near_its_float_model(options):
    model = random_model(3, blocks="tdt", **options)
    images = random_images(model, 8)
    quantized = quantizer.quantize(model, {"x": images})
    program = schedule(quantized, ti=16, to=16, axi_data_bits=128)
    assert program.config.mixes
    verify_program(program)
    for graph, found in zip(model.tasks, quantized.tasks, strict=True):
        verify(found)
        (name,), (output,) = graph.outputs, found.outputs
        wanted = evaluate.run(graph, {"x": images})[name]
        error = golden.run(found, images)[name] * (output.scale.array / output.tokens) - wanted
        assert 10 * np.log10((wanted ** 2).sum() / (error ** 2).sum()) > 20


def test_the_norm_of_what_is_mixed_is_no_product():
    """Its gamma and beta go past the array."""
    network = random_qgraph(blocks="t").tasks[0]
    mixes = [step for step in network.steps if isinstance(step.tile, Values)]
    (norm,) = (step for step in network.steps if step.sink.tensor == mixes[0].tile.view.tensor)
    assert len(mixes) == 2 and not norm.tile.mixes and norm.macs == 0


def test_images_of_a_batch_are_mixed_apart():
    network, images = random_qgraph(blocks="t").tasks[0], random_images(random_model(blocks="t"), 3)
    wanted = golden.run(network, images)["logits"]
    words = golden.quantize_input(network, images)
    rows = np.zeros((1, batch(network, 3).input[1].tokens, words.shape[-1]), np.int64)
    front = rows.shape[1] // 3 - words.shape[1]
    for image in range(3):
        rows[0, image * (front + words.shape[1]) + front:][:words.shape[1]] = words[image]
    (found,) = golden.evaluate(batch(network, 3), rows).values()
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)


def test_a_run_time_length_is_refused(words):
    model, _ = words["transposed"]
    with pytest.raises(ModelError, match="mixes the tokens of the sequence by a matrix, which is for all of them"):
        sequenced(quantizer.quantize(model, {"x": IMAGES}).tasks[0])


def test_tokens_mixed_twice_in_the_csim(tmp_path):
    """At the start of a residual stream, behind an activation, and as what leaves."""
    net, outputs = mlps()
    acc = hwgen.compile(net.save(tmp_path / "net.onnx", outputs, None), calib={"x": IMAGES}, target="zcu104", backend="hls", out=tmp_path / "build")
    assert acc.simulate({"x": IMAGES[:2]}, engine="csim").bit_exact
