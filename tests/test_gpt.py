"""A causal decoder's prefill as a file of transformers has it: taken as it is, and the same words in RTL and C++ as in the integer model."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import gpt_nets
import hwgen
from onnx_nets import result


@pytest.fixture(params=[True, False], ids=["logits of the last token", "logits of all"])
def path(request, tmp_path):
    shape = [1, gpt_nets.VOCABULARY] if request.param else [1, gpt_nets.COUNT, gpt_nets.VOCABULARY]
    net = gpt_nets.gpt2(last=request.param)
    return net.save(tmp_path / "gpt.onnx", {"logits": result(net)}, shape)


def ids(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, gpt_nets.VOCABULARY, (count, gpt_nets.COUNT))


def test_a_gpt_from_ids_to_logits(path, tmp_path):
    acc = hwgen.compile(path, calib={"input_ids": ids(32, 0)}, target="zcu104", array=(8, 8), backend="both", out=tmp_path / "build")
    given = ids(4, 1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = np.concatenate([session.run(["logits"], {"input_ids": row[None]})[0] for row in given])
    found = {}
    for engine in ("golden", "csim", "verilator"):
        done = acc.simulate({"input_ids": given}, engine=engine)
        assert engine == "golden" or done.bit_exact
        found[engine] = done.outputs["logits"]
    np.testing.assert_array_equal(found["csim"], found["golden"])
    np.testing.assert_array_equal(found["verilator"], found["golden"])
    a, b = found["golden"].ravel().astype(float), right.ravel().astype(float)
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.99
