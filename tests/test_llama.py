"""Prefill of a decoder of Llama's form, as transformers exports it: RMSNorm, RoPE, shared key heads, SwiGLU, a causal mask, a tied head."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import hwgen
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
