"""Attention whose mask hides what is far away: blocks of queries, each with the keys that one of its own sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hwgen import api, quantizer
from hwgen.importer import import_model
from hwgen.ops import parts
from hwgen.ops.masks import HIDDEN
from hwgen.steps import golden
from hwgen.steps.stages import Bias, Keys
from hwgen.steps.verify import verify
import masked_nets
from onnx_nets import DIM, Net, result
from qgraphs import random_images, random_model, small_blocks

TOKENS, NEAR = 192, 32
PLACES = np.subtract.outer(np.arange(TOKENS), np.arange(TOKENS))


def near(causal: bool) -> np.ndarray:
    """bool [queries, keys]: which ones each query sees."""
    return (np.abs(PLACES) < NEAR) & (PLACES >= 0 if causal else True)


def saved(folder: Path, shown: np.ndarray) -> Path:
    net = Net()
    y = masked_nets.attention(net, lambda net, s: net.op("Add", s, net.const(masked_nets.additive(shown, -1e9))), tokens=TOKENS)
    net.linear(y, DIM, 3)
    return net.save(folder / "net.onnx", {"y": result(net)}, [1, TOKENS, 3])


def blocks(network) -> list[tuple[str, str, int, bool]]:
    """Queries and keys of each block, what its first row sees, whether a bias is added."""
    return [(str(step.source.tokens), str(step.tile.view.tokens), step.tile.limit, any(isinstance(stage, Bias) for stage in step.drain))
            for step in network.steps if isinstance(step.tile, Keys)]


@pytest.mark.parametrize("causal", [True, False])
def test_what_no_query_of_a_block_sees_is_left_out(causal, tmp_path, monkeypatch):
    path, rng = saved(tmp_path, near(causal)), np.random.default_rng(3)
    images = rng.normal(size=(8, TOKENS, DIM)).astype(np.float32)
    model = import_model(path).model
    network = quantizer.quantize(model, {"x": images}).tasks[0]
    verify(network)
    assert blocks(network) == ([("0:64", "0:64", 1, True), ("64:128", "33:128", 32, True), ("128:192", "97:192", 32, True)] if causal else
                               [("0:64", "0:95", 0, True), ("64:128", "33:159", 0, True), ("128:192", "97:192", 0, True)])
    constants = {step.sink.name for step in network.steps if step.feed.constant is not None and step.about == "bias of the scores"}
    assert len(constants) == (2 if causal else 3)                                  # equal ones come once
    monkeypatch.setattr(parts, "BLOCK", TOKENS)
    whole = quantizer.quantize(model, {"x": images}).tasks[0]
    assert len(blocks(whole)) == 1 and whole.useful_macs > network.useful_macs
    np.testing.assert_array_equal(golden.run(network, images)["y"], golden.run(whole, images)["y"])
    session, (output,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), network.outputs
    wanted = session.run(None, {"x": images[:1]})[0].ravel()
    found = golden.run(network, images[:1])["y"].ravel() * np.tile(output.scale.array, TOKENS)
    assert 10 * np.log10((wanted ** 2).sum() / ((found - wanted) ** 2).sum()) > 25


def test_rtl_and_c_simulation_compute_it_word_by_word(tmp_path):
    images = np.random.default_rng(3).normal(size=(4, TOKENS, DIM)).astype(np.float32)
    built = api.compile(saved(tmp_path, near(True)), array=(8, 8), calib={"x": images}, out=tmp_path / "b", backend="both")
    assert all(built.simulate({"x": images[:1]}, engine=engine).bit_exact for engine in ("verilator", "csim"))


def test_what_a_mask_must_be_for_it():
    bias = np.where(near(False), 0, HIDDEN)[None].astype(np.float32)
    assert [len(parts.blocks(TOKENS, TOKENS, 0, some)) for some in (bias, None, np.zeros_like(bias), np.roll(bias, TOKENS // 2, -1))] == [3, 1, 1, 3]
    assert len(parts.blocks(TOKENS, TOKENS, 1, np.zeros_like(bias))) == 1             # a causal limit alone: engines leave out what is behind it
    apart = np.where(np.arange(TOKENS)[:, None] // 64 == np.arange(TOKENS) // 64, 0, HIDDEN)[None].astype(np.float32)
    assert [(part.queries, part.keys, part.bias) for part in parts.blocks(TOKENS, TOKENS, 0, apart)] == [
        (span, span, None) for span in (parts.Span(start, 64) for start in (0, 64, 128))]
    assert parts.blocks(TOKENS, TOKENS, 0, np.concatenate([bias, 0 * bias]))[0].queries.count == TOKENS       # one of the heads sees all


def test_random_networks_have_blocks():
    options = {"seed": 4, "tokens": 12, "blocks": "d", "near": 3, "causal": True}
    with small_blocks():
        network = quantizer.quantize(random_model(**options), None, random=True).tasks[0]
    assert [block[:3] for block in blocks(network)] == [("0:4", "0:4", 1), ("4:8", "2:8", 3), ("8:12", "6:12", 3)]
    images = random_images(random_model(**options), 2)
    np.testing.assert_array_equal(golden.run(network, images)["logits"],
                                  golden.run(quantizer.quantize(random_model(**options), None, random=True).tasks[0], images)["logits"])
