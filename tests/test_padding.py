"""Masks of the tokens that are there, in the spellings of exporters: runs of their lengths, as onnxruntime computes them; what is none is named."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
import onnxruntime
import pytest

import bert_nets
import hwgen
from hwgen.errors import InputError, ModelError
from hwgen.padding import Padding
from onnx_nets import Net, result

SIZES = bert_nets.Sizes()
SHAPES = {"mean": [1, SIZES.dim], "first": [1, SIZES.dim], "all": [1, SIZES.tokens, SIZES.dim]}
LENGTHS = (12, 1, 5, 11)


def saved(tmp_path, **options):
    net = bert_nets.bert(**options)
    return net.save(tmp_path / "bert.onnx", {"y": result(net)}, SHAPES[options.get("end", "mean")])


def given(count: int, dtype, shown: int, lengths, seed: int = 0) -> dict[str, np.ndarray]:
    """Sentences of these lengths, each with anything behind it."""
    rng = np.random.default_rng(seed)
    lengths = np.resize(lengths, count)
    mask = np.where(np.arange(SIZES.tokens) < lengths[:, None], shown, 1 - shown).astype(dtype)
    return {"input_ids": rng.integers(0, SIZES.vocabulary, (count, SIZES.tokens)), "attention_mask": mask,
            "token_type_ids": rng.integers(0, 2, (count, SIZES.tokens))}


def right(path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["y"], {name: array[i:i + 1] for name, array in inputs.items()})[0] for i in range(len(inputs["input_ids"]))])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("end, spelling, kind, dtype, shown", [
    ("mean", "transformers", TensorProto.INT64, np.int64, 1), ("all", "filled", TensorProto.INT64, np.int64, 1),
    ("first", "key padding", TensorProto.BOOL, np.bool_, 0), ("all", "transformers", TensorProto.FLOAT, np.float32, 1)])
def test_a_mask_is_a_length(end, spelling, kind, dtype, shown, tmp_path):
    path = saved(tmp_path, end=end, spelling=spelling, kind=kind)
    acc = hwgen.compile(path, calib=given(24, dtype, shown, [12, 7, 3], 1), target="zcu104", array=(8, 8), backend="both", out=tmp_path / "build")
    assert acc.build.padding == Padding("attention_mask", np.dtype(dtype).name, SIZES.tokens, shown)
    assert acc.inputs.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert acc.report()["lengths"] == {"longest": SIZES.tokens, "input": "attention_mask"}
    inputs = given(8, dtype, shown, LENGTHS)
    wanted, found = right(path, inputs), {}
    for engine in ("golden", "csim", "verilator"):
        done = acc.simulate(inputs, engine=engine)
        assert engine == "golden" or done.bit_exact
        found[engine] = done.outputs["y"]
    np.testing.assert_array_equal(found["csim"], found["golden"])
    np.testing.assert_array_equal(found["verilator"], found["golden"])
    for image, length in enumerate(np.resize(LENGTHS, 8)):
        a, b = (array[image, :length] if end == "all" else array[image] for array in (found["golden"], wanted))
        assert cosine(a, b) > 0.98, length
    assert acc.first_differences(inputs) == []


def test_a_mask_that_is_no_sequence_is_refused(tmp_path):
    acc = hwgen.compile(saved(tmp_path), target="zcu104", array=(8, 8), out=tmp_path / "build")
    inputs = given(3, np.int64, 1, [12, 5])
    for change, text, where in ((lambda mask: mask.__setitem__((1, 2), 0), "hides token 2 and shows a later one", "image 1, token 2"),
                                (lambda mask: mask.__setitem__((2, 3), 7), "holds 7", "image 2, token 3"),
                                (lambda mask: mask.__setitem__(0, 0), "shows no token", "image 0")):
        changed = {name: array.copy() for name, array in inputs.items()}
        change(changed["attention_mask"])
        with pytest.raises(InputError) as caught:
            acc.simulate(changed, engine="golden")
        assert text in caught.value.message and caught.value.where == where and "give [images, 12]" in caught.value.hint
    with pytest.raises(InputError, match="lengths of the sequences are given, and the input 'attention_mask' says them"):
        acc.simulate(inputs, engine="golden", lengths=[3])
    without = {name: array for name, array in inputs.items() if name != "attention_mask"}
    assert acc.simulate(without, engine="golden", lengths=[12, 5]).outputs["y"].tobytes() == acc.simulate(inputs, engine="golden").outputs["y"].tobytes()


def test_an_input_that_is_no_mask_is_named(tmp_path):
    checked = hwgen.check(saved(tmp_path, spelling="a number", end="all"))
    assert not checked.ok and "does more than to leave out the tokens behind a sequence" in checked.error.message
    assert "input 'attention_mask'" in checked.error.where


def test_masks_of_fused_operators(tmp_path):
    """As onnxruntime's optimizer leaves them: the mask goes into Attention as whole numbers."""
    net = Net(17)
    x, mask = net.input("x", [1, 9, 16]), net.input("mask", [1, 9], TensorProto.INT32)
    for _ in range(2):
        x = net.op("Add", x, net.op("Attention", x, net.random(16, 48), net.random(48), mask, domain="com.microsoft", num_heads=2))
        x = net.op("LayerNormalization", x, net.random(16, offset=1.0), net.random(16), axis=-1)
    path = net.save(tmp_path / "fused.onnx", {"y": x}, [1, 9, 16])
    acc = hwgen.compile(path, target="zcu104", array=(8, 8), out=tmp_path / "build")
    assert acc.build.padding == Padding("mask", "int32", 9, 1)
    tokens, session = np.random.default_rng(0).normal(0, 1, (3, 9, 16)).astype(np.float32), onnxruntime.InferenceSession(path)
    masks = acc.build.padding.masks([9, 4, 1])
    found = acc.simulate({"x": tokens, "mask": masks}, engine="golden").outputs["y"]
    for image, length in enumerate((9, 4, 1)):
        wanted = session.run(None, {"x": tokens[image:image + 1], "mask": masks[image:image + 1]})[0][0]
        assert cosine(found[image, :length], wanted[:length]) > 0.99


@pytest.mark.parametrize("shape, text", [((2, 5), "has shape (2, 5)"), ((2, 12), None)])
def test_masks_and_lengths(shape, text):
    padding = Padding("m", "int64", 12)
    if text:
        with pytest.raises(ModelError, match="has shape"):
            padding.lengths(np.ones(shape), "input", ModelError)
        return
    assert padding.lengths(padding.masks([3, 12]), "input", ModelError) == (3, 12)
    assert padding.tried() == (1, 4, 6, 9, 11)
    filled = padding.filled(np.arange(24).reshape(2, 12), [5, 12])
    assert filled[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1] and filled[1].tolist() == [*range(12, 24)]
