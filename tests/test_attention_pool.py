"""Attention pooling with learned queries: as exporters spell it, through the integer model, both engines and a batch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import hls_networks
from hwgen import quantizer
from hwgen.functions import Act
from hwgen.importer import import_model
from hwgen.ops import AttentionPool, Linear
from hwgen.quantizer import Recipe, Rule
from hwgen.steps import golden
from hwgen.steps.host import dequantize, quantize_input
from hwgen.steps.passes.batch import batch
from hwgen.steps.passes.norms import fuse_norms
from hwgen.steps.passes.roles import copies
from hwgen.steps.passes.starts import lengthen_starts
from hwgen.steps.stages import Constant
from hwgen.steps.step import Network, Quantized
from hwgen.steps.tensor import Memory
from hwgen.steps.verify import verify
import native_builds
from onnx_nets import DIM, HEADS, TOKENS, Net, result
from pooled_nets import HEAD, OF_TOKENS, SPELLINGS, operator, opset, pooled, seqpool, stacked, timm, torch
from qgraphs import random_images, random_model, random_qgraph
from rule_checks import accepted, declined, kinds


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_pooling_is_read(spelling, queries, tmp_path):
    graph = accepted(pooled(Net(opset(spelling)), spelling, queries), tmp_path / "net.onnx", rank=2)
    (pool,) = (node for node in graph.nodes if isinstance(node, AttentionPool))
    assert pool.query.shape == (queries, DIM) and pool.num_heads == HEADS
    behind = ["Linear", "LayerNorm", "Linear", "Activation", "Linear", "Add", *(["Select"] if queries > 1 else []), "Linear"]
    assert kinds(graph)[-len(behind):] == behind


@pytest.mark.parametrize("spelling, queries", OF_TOKENS.values(), ids=OF_TOKENS)
def test_tokens_weighed_by_a_linear(spelling, queries, tmp_path):
    graph = accepted(pooled(Net(), spelling, queries), tmp_path / "net.onnx", rank=2)
    (pool,) = (node for node in graph.nodes if isinstance(node, AttentionPool))
    assert pool.query.shape == (queries, DIM) and pool.num_heads == 1
    assert not any(isinstance(node, Linear) and node.weight.shape[1] == queries for node in graph.nodes)
    quantized, images, right = compiled(tmp_path, spelling, queries)
    verify(quantized.tasks[0])
    assert cosine(quantized.tasks[0], images, right) >= 0.98


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_rows_of_the_pooling_leave(spelling, tmp_path):
    """Three rows, each a result of the network; and one alone."""
    for queries in (1, 3):
        graph = accepted(pooled(Net(opset(spelling)), spelling, queries, "rows"), tmp_path / f"{queries}.onnx")
        assert kinds(graph)[-2:] == ["AttentionPool", "Linear"]


@pytest.mark.parametrize("change, reason", [
    (lambda net, x: net.op("MatMul", net.random(2, 3, TOKENS), x, name="pool"), "multiplies a constant [2, 3, 5] from the left; supported are x @ W"),
])
def test_other_products_of_constants_are_declined(tmp_path, change, reason):
    net = Net()
    change(net, net.norm(net.embed(net.image())))
    found = declined(net, tmp_path / "net.onnx")
    assert any(text.startswith(reason) for text in found.values()), found


def test_all_heads_of_the_query_weigh_the_same_wider_values(tmp_path):
    net = Net()
    x = net.norm(net.embed(net.image()))
    k, _ = stacked(net, x)
    scores = net.op("MatMul", net.random(1, HEADS, 1, HEAD), net.op("Transpose", k, perm=[0, 1, 3, 2]))
    net.op("MatMul", net.op("Softmax", scores, axis=-1), net.op("Unsqueeze", net.linear(x, DIM, DIM), net.ints(1)), name="pool")
    graph = accepted(net, tmp_path / "net.onnx", rank=4)
    assert graph.shapes()[graph.nodes[-1].output] == (1, HEADS * DIM)


# ---------------------------------------------------------------- integers

def compiled(tmp_path, spelling, queries: int, behind: str = "mlp", **options) -> tuple[Quantized, np.ndarray, np.ndarray]:
    """(integer network, images, what onnxruntime gives for them). options: of `quantizer.quantize`."""
    net = pooled(Net(opset(spelling)), spelling, queries, behind)
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [f"d{axis}" for axis in range(3 if behind == "rows" else 2)])
    model = import_model(path).model
    images = np.random.default_rng(3).normal(size=(24, *model.tasks[0].inputs["x"])).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = np.concatenate([session.run(["y"], {"x": image[None]})[0] for image in images[16:]])
    return quantizer.quantize(model, {"x": images[:16]}, **options), images[16:], right


@pytest.mark.parametrize("queries, behind", [(1, "mlp"), (1, "head"), (1, "rows"), (2, "mlp"), (2, "mean"), (3, "rows")])
def test_the_integers_are_close(tmp_path, queries, behind):
    quantized, images, right = compiled(tmp_path, timm, queries, behind)
    network = quantized.tasks[0]
    verify(network)
    assert cosine(network, images, right) >= 0.98


def cosine(network: Network, images: np.ndarray, right: np.ndarray) -> float:
    """Of the integer network's outputs to these."""
    a, b = dequantize(network, golden.run(network, images))["y"].ravel().astype(float), right.ravel().astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_queries_make_good_for_scales_of_the_channels_of_keys(tmp_path):
    plain, images, right = compiled(tmp_path, timm, 2)
    key = next(node.k for node in import_model(tmp_path / "net.onnx").model.tasks[0].nodes if isinstance(node, AttentionPool))
    uneven = np.random.default_rng(1).uniform(0.7, 1.4, DIM) * next(t.scale for t in plain.tasks[0].tensors() if t.name == key)
    network = compiled(tmp_path, timm, 2, recipe=Recipe(values={key: Rule(scale=uneven)}))[0].tasks[0]
    verify(network)
    (tensor,) = (tensor for tensor in network.tensors() if tensor.name == key)
    np.testing.assert_allclose(tensor.units, uneven)
    assert cosine(network, images, right) >= 0.98


def test_queries_are_a_constant_of_the_weight_image(tmp_path):
    quantized, _, _ = compiled(tmp_path, timm, 3)
    (step,) = (step for step in quantized.tasks[0].steps if isinstance(step.feed, Constant) and step.sink.tensor.memory is Memory.ACT)
    assert step.feed.table.array.shape == (3, DIM) and step.feed.table.array.dtype == np.int8
    assert np.abs(step.feed.table.array).max() == 127


# ---------------------------------------------------------------- engines

def test_a_batch_has_the_queries_of_every_image(tmp_path):
    for queries in (1, 3):
        quantized, images, _ = compiled(tmp_path, timm, queries, "rows")
        network = quantized.tasks[0]
        many = lengthen_starts(copies(fuse_norms(batch(network, 4)), 8))
        verify(many)
        words = quantize_input(network, images[:4])
        front = np.zeros((4, many.input[1].tokens // 4 - words.shape[1], words.shape[2]), words.dtype)
        found = golden.evaluate(many, np.concatenate([front, words], axis=1).reshape(1, -1, words.shape[2]))["y"]
        np.testing.assert_array_equal(found.reshape(4, -1), golden.run(network, images[:4])["y"])


def test_one_token_is_lengthened_where_a_constant_starts_it(tmp_path):
    network = compiled(tmp_path, timm, 1)[0].tasks[0]
    changed = lengthen_starts(network)
    verify(changed)
    assert [tensor.tokens for tensor in network.tensors() if tensor.memory is Memory.RES] == [TOKENS, 1]
    assert [tensor.tokens for tensor in changed.tensors() if tensor.memory is Memory.RES] == [TOKENS, 2]
    words = quantize_input(network, np.ones((1, *import_model(tmp_path / "net.onnx").model.tasks[0].inputs["x"])))
    np.testing.assert_array_equal(golden.evaluate(changed, words)["y"], golden.evaluate(network, words)["y"])


def test_the_hls_engine(tmp_path):
    executable = hls_networks.build(tmp_path / "engine", (Act.GELU,))
    for number, (spelling, queries, precision) in enumerate([(timm, 1, "w8a8"), (torch, 3, "w8a16"), (operator, 6, "w8a8"), (seqpool, 1, "w8a8")]):
        (folder := tmp_path / str(number)).mkdir()
        quantized, images, _ = compiled(folder, spelling, queries, precision=precision)
        done, tasks = hls_networks.run(executable, folder, quantized, images[:2])
        count, wrong = hls_networks.differing(quantized, images[:2], done, tasks)
        assert wrong == [] and count >= 20


def test_the_rtl_engine(tmp_path):
    """A bus as wide as it needs for a word a cycle: what a token's statistics have to wait for shows."""
    engine = native_builds.Engine(tmp_path / "rtl", 8, 8, 256, {"activation": "gelu", "wide": True}, load_columns=2)
    for number, (queries, behind, images_a_frame, precision) in enumerate([(1, "mlp", 1, "w8a16"), (3, "mean", 2, "w8a8")]):
        (folder := tmp_path / str(number)).mkdir()
        quantized, images, _ = compiled(folder, timm, queries, behind, precision=precision)
        program = engine.program(quantized, batch=images_a_frame)
        frames = images[:2 * images_a_frame]
        run = engine.run(program, quantized, frames, [0, 0], native_builds.IDEAL)
        assert native_builds.differences(run, quantized, frames, [0, 0]) == 0
    for value_dim in (20, 4):                    # the same engine: a head of values wider than one of keys, and narrower
        sizes = {"seed": value_dim, "tokens": 9, "dim": 24, "heads": 2, "hidden": 16, "blocks": "d", "value_dim": value_dim}
        quantized, images = random_qgraph(**sizes), random_images(random_model(**sizes), 2)
        run = engine.run(engine.program(quantized), quantized, images, [0, 0], native_builds.STALLED)
        assert native_builds.differences(run, quantized, images, [0, 0]) == 0
