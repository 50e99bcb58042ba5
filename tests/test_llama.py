"""Prefill of a decoder of Llama's form, as transformers exports it: RMSNorm, RoPE, shared key heads, SwiGLU, a causal mask, a tied head."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest

import hwgen
from hwgen.steps import golden
from hwgen.steps.passes.norms import fuse_norms
from hwgen.steps.passes.roles import copies
from hwgen.steps.passes.rotations import tile_rotations
from hwgen.steps.stages import Diagonal, Rotate, Stationary
from hwgen.steps.verify import verify
from llama_nets import Sizes, llama

SIZE = Sizes()


def ids(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SIZE.vocabulary, (count, SIZE.count))


@pytest.mark.parametrize("last, cached", [(True, True), (False, False)], ids=["last token, keys and values", "all tokens"])
def test_a_llama_from_ids_to_logits(last, cached, tmp_path):
    net, outputs, shapes = llama(SIZE, last, cached)
    path = net.save(tmp_path / "llama.onnx", outputs, shapes)
    acc = hwgen.compile(path, calib={"input_ids": ids(32, 0)}, target="zcu104", array=(8, 8), backend="both", out=tmp_path / "build")
    given = ids(3, 1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = [np.concatenate(rows) for rows in zip(*(session.run(list(outputs), {"input_ids": row[None]}) for row in given), strict=True)]
    found = {}
    for engine in ("golden", "csim", "verilator"):
        done = acc.simulate({"input_ids": given}, engine=engine)
        assert engine == "golden" or done.bit_exact
        found[engine] = done.outputs
    assert found["golden"].keys() == outputs.keys()
    for name, value in zip(outputs, right, strict=True):
        np.testing.assert_array_equal(found["csim"][name], found["golden"][name])
        np.testing.assert_array_equal(found["verilator"][name], found["golden"][name])
        a, b = found["golden"][name].ravel().astype(float), value.ravel().astype(float)
        assert a.shape == b.shape and a @ b / np.sqrt((a @ a) * (b @ b)) > 0.995, name


@pytest.mark.parametrize("normed", ["before", "behind", "operator"])
def test_a_qwen3_normalises_heads_before_it_turns_them(normed, tmp_path):
    """RMSNorm of each head, in front of the transposition or behind it, then RoPE, of query heads that share key heads: right, and no step more than
    a norm of heads has, whose words past the array are turned as they leave."""
    size = Sizes(heads=4, key_heads=2, width=8, normed=normed)
    net, outputs, shapes = llama(size)
    path = net.save(tmp_path / "qwen.onnx", outputs, shapes)
    acc = hwgen.compile(path, calib={"input_ids": ids(32, 0)}, target="zcu104", array=(8, 8), backend="rtl", out=tmp_path / "build")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = np.concatenate([session.run(None, {"input_ids": row[None]})[0] for row in ids(16, 1)])
    found = acc.simulate({"input_ids": ids(16, 1)}, engine="golden").outputs["logits"]
    assert np.corrcoef(found.ravel(), right.ravel())[0, 1] > 0.998
    (steps,) = acc.build.model.tasks
    turned = [step for step in steps.steps if isinstance(step.drain[-1] if step.drain else None, Rotate)]
    assert len(turned) == size.blocks * 2 * size.heads and all(isinstance(step.tile, Diagonal) for step in turned)
    if normed == "before":
        assert acc.simulate({"input_ids": ids(2, 1)}, engine="verilator").bit_exact


@pytest.mark.parametrize("heads, key_heads, width, ti, to, kinds", [
    (2, 2, 24, 64, 32, {Diagonal}), (2, 2, 24, 64, 48, {Stationary}), (3, 1, 8, 16, 16, {Diagonal, Stationary})],
    ids=["past the array", "more than what goes past the array at a time", "one key head is normalised as a whole"])
def test_turned_heads_on_other_arrays(heads, key_heads, width, ti, to, kinds, tmp_path):
    """Heads start at a group of lanes on both sides, and so do their cosines and sines: the program computes what the steps do."""
    size = Sizes(heads=heads, key_heads=key_heads, width=width, normed="before", blocks=1)
    net, outputs, shapes = llama(size)
    acc = hwgen.compile(net.save(tmp_path / "qwen.onnx", outputs, shapes), calib={"input_ids": ids(16, 0)}, target="zcu104", array=(ti, to),
                        backend="rtl", out=tmp_path / "build")
    (steps,) = acc.build.model.tasks
    ready = tile_rotations(copies(fuse_norms(steps), 16), to, math.gcd(ti, to))
    turned = [step for step in ready.steps if isinstance(step.drain[-1] if step.drain else None, Rotate)]
    assert {type(step.tile) for step in turned} == kinds and all(step.sink.width == step.columns for step in turned)
    verify(ready)
    tokens = np.random.default_rng(0).standard_normal((2, size.count, size.dim))
    np.testing.assert_array_equal(golden.run(ready, tokens)["logits"], golden.run(steps, tokens)["logits"])
