"""Spoiled ONNX files: a thousand fresh ones, and each that was ever found to fail (tests/found). See `fuzz.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

import fuzz
from onnx_nets import CLASSES, result, vit

FOUND = sorted((Path(__file__).parent / "found").glob("*.onnx"))
SEED, COUNT = 9, 1000


def test_a_thousand_spoiled_files():
    """Refused with a message and a next step, or accepted and equal to onnxruntime; within 10 CPU seconds and 1 GB each."""
    outcomes = fuzz.run(COUNT, SEED)
    bad = [case for outcome, cases in outcomes.items() if outcome not in fuzz.GOOD for case in cases]
    assert not bad, "\n".join(f"{case.number} ({case.kind}): {case.outcome}\n{case.text[-600:]}" for case in bad)
    counts = {outcome: len(cases) for outcome, cases in outcomes.items()}
    assert sum(counts.values()) == COUNT
    assert counts[fuzz.EQUAL] > COUNT // 10 and counts[fuzz.REFUSED] > COUNT // 10        # the files are of both kinds


@pytest.fixture(scope="module")
def judged() -> dict[str, fuzz.Case]:
    return fuzz.judge_files(FOUND)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_stays_fixed(judged, path):
    case = judged[path.name]
    assert case.outcome in fuzz.GOOD, case.text


def test_the_judge_sees_a_difference(tmp_path):
    """The float model of another network than the file: red."""
    import onnx

    from hwgen.importer import import_model
    net = vit()
    data = net.model({"logits": result(net)}, (1, CLASSES)).SerializeToString()
    (tmp_path / "a.onnx").write_bytes(data)
    assert fuzz.judge(tmp_path / "a.onnx")[0] == fuzz.EQUAL
    model = onnx.load_model_from_string(data)
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [5, 16])
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.01, tensor.name))
    onnx.save(model, tmp_path / "b.onnx")
    assert fuzz.compare(tmp_path / "a.onnx", import_model(tmp_path / "b.onnx"))[0] == fuzz.DIFFERENT
