"""A causal decoder's prefill as a file of transformers has it: taken as it is, and the same words in RTL and C++ as in the integer model."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import gpt_nets
import hwgen
from hwgen.errors import InputError
from onnx_nets import result


@pytest.fixture(params=["of the last token", "of all", "of the last token, keys and values"])
def path(request, tmp_path):
    last = request.param != "of all"
    net, cache = gpt_nets.gpt2_with_cache(last=last)
    cache = cache if "keys" in request.param else {}
    shapes = {key: [1, gpt_nets.HEADS, gpt_nets.COUNT, gpt_nets.HEAD] for key in cache}
    shapes["logits"] = [1, gpt_nets.VOCABULARY] if last else [1, gpt_nets.COUNT, gpt_nets.VOCABULARY]
    return net.save(tmp_path / "gpt.onnx", {"logits": result(net), **cache}, shapes)


def ids(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, gpt_nets.VOCABULARY, (count, gpt_nets.COUNT))


def test_a_gpt_from_ids_to_logits(path, tmp_path):
    acc = hwgen.compile(path, calib={"input_ids": ids(32, 0)}, target="zcu104", array=(8, 8), backend="both", out=tmp_path / "build")
    given = ids(4, 1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    right = [np.concatenate(rows) for rows in zip(*(session.run(names, {"input_ids": row[None]}) for row in given), strict=True)]
    found = {}
    for engine in ("golden", "csim", "verilator"):
        done = acc.simulate({"input_ids": given}, engine=engine)
        assert engine == "golden" or done.bit_exact
        found[engine] = done.outputs
    assert found["golden"].keys() == set(names)
    for name, value in zip(names, right, strict=True):
        np.testing.assert_array_equal(found["csim"][name], found["golden"][name])
        np.testing.assert_array_equal(found["verilator"][name], found["golden"][name])
        assert found["golden"][name].shape == value.shape
        assert cosine(found["golden"][name], value) > 0.99, name


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_prompts_of_several_lengths(tmp_path):
    """Logits of the last token of each prompt, on one build: those that the file gives for this token of a longer one."""
    sizes = [1, gpt_nets.COUNT, gpt_nets.VOCABULARY]
    every, (last, cache) = gpt_nets.gpt2(last=False), gpt_nets.gpt2_with_cache()
    whole = every.save(tmp_path / "every.onnx", {"logits": result(every)}, sizes)
    keys = {"present.1.key": cache["present.1.key"]}
    path = last.save(tmp_path / "gpt.onnx", {"logits": result(last), **keys}, {
        "logits": [1, gpt_nets.VOCABULARY], "present.1.key": [1, gpt_nets.HEADS, gpt_nets.COUNT, gpt_nets.HEAD]})
    acc = hwgen.compile(path, calib={"input_ids": ids(32, 0)}, target="zcu104", array=(8, 8), backend="both", lengths=True, out=tmp_path / "build")
    given, lengths = ids(6, 1), [5, gpt_nets.COUNT, 1, 2]
    session = onnxruntime.InferenceSession(whole, providers=["CPUExecutionProvider"])
    right = [session.run(["logits"], {"input_ids": row[None]})[0][0, lengths[i % len(lengths)] - 1] for i, row in enumerate(given)]
    found = {}
    for engine in ("golden", "csim", "verilator"):
        done = acc.simulate({"input_ids": given}, engine=engine, lengths=lengths)
        assert engine == "golden" or done.bit_exact
        found[engine] = done.outputs
    for name, value in found["golden"].items():
        np.testing.assert_array_equal(found["csim"][name], value)
        np.testing.assert_array_equal(found["verilator"][name], value)
    assert all(cosine(a, b) > 0.98 for a, b in zip(found["golden"]["logits"], right, strict=True))
    keys = found["golden"]["present.1.key"]
    assert all(keys[i, :, :lengths[i % len(lengths)]].all() and not keys[i, :, lengths[i % len(lengths)]:].any() for i in range(len(given)))
    assert acc.first_differences({"input_ids": given}, lengths=lengths) == []
    assert acc.some_lengths({}) == (gpt_nets.COUNT, 1, 7, 11)
    with pytest.raises(InputError, match=f"a sequence of {gpt_nets.COUNT + 1} tokens, the build takes 1 to {gpt_nets.COUNT}"):
        acc.simulate({"input_ids": given}, engine="golden", lengths=[3, gpt_nets.COUNT + 1])


def test_what_is_wrong_behind_token_ids_is_what_is_said(tmp_path):
    """The ids are no reason: the host looks them up."""
    net = gpt_nets.gpt2(blocks=4)
    second = next(node for node in net.nodes if node.op_type == "Add" and node.output[0] == "add_5.out")
    turned = net.op("Sin", second.output[0], name="turn")
    for node in net.nodes[:-1]:
        if node.op_type == "LayerNormalization" and second.output[0] in node.input:
            node.input[0] = turned
    net.nodes.insert(net.nodes.index(second) + 1, net.nodes.pop())
    path = net.save(tmp_path / "gpt.onnx", {"logits": result(net)}, [1, gpt_nets.VOCABULARY])
    checked = hwgen.check(path)
    assert not checked.ok and "'turn'" in str(checked.error) and "input_ids" not in str(checked.error)
