"""Bad input to the commands that test_cli_example.py does not try: one message, its place, the next step, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
import re

import numpy as np
import onnx
import pytest

from hwgen import cli
from hwgen.commands import terminal

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"
MODEL, CALIB, TEST = EXAMPLE / "model.onnx", EXAMPLE / "calib.npz", EXAMPLE / "test.npz"


@pytest.fixture
def run(capsys, monkeypatch):
    """run("check", ...) -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(terminal, "out", terminal.Terminal(width=200))

    def call(*args):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return stop.value.code or 0, captured.out, captured.err
    return call


def refused(run, tmp_path, *args, model=MODEL, out="out") -> str:
    """Runs compile; it must fail with exit code 2 and one message, and leave the folder as it was. Returns the message."""
    before = {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
    code, text, message = run("compile", model, "-o", tmp_path / out, *args)
    assert code == 2 and text == "" and message.count("error: ") == 1 and re.match(r"(.+ …( \d+\.\d s)?\n)*error: ", message)
    assert {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")} == before
    return message


# ---------------------------------------------------------------- compile

@pytest.mark.parametrize("arrays, words", [
    ({"image": np.zeros((4, 1, 8, 8), np.float32)}, "'x'"), ({"x": np.zeros((0, 1, 8, 8), np.float32)}, "'x'"),
    ({"x": np.full((4, 1, 8, 8), np.nan, np.float32)}, "NaN"), ({"x": np.full((4, 1, 8, 8), np.inf, np.float32)}, "infinite"),
    ({"x": np.zeros((4, 1, 8, 8), np.int32)}, "int32")])
def test_calibration_of_the_wrong_kind(run, tmp_path, arrays, words):
    np.savez(tmp_path / "c.npz", **arrays)
    message = refused(run, tmp_path, "--calib", tmp_path / "c.npz")
    assert words in message and "next:" in message


def test_an_output_that_is_a_file(run, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert str(tmp_path / "out") in refused(run, tmp_path, "--array", "8x8", "--calib", CALIB)


def test_an_output_below_a_file(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file") in refused(run, tmp_path, "--array", "8x8", "--calib", CALIB, out="file/out")


@pytest.mark.parametrize("array, words", [("24x8", "ti = 24 is not 8, 16, 32 or 64"), ("8x16", "to = 16 does not fit ti = 8"),
                                          ("0x0", "ti = 0 is not")])
def test_an_array_that_cannot_be(run, tmp_path, array, words):
    message = refused(run, tmp_path, "--array", array, "--calib", CALIB)
    assert words in message and f"engine of {array}" in message and "next:" in message


def test_a_board_file_that_is_not_there_or_lacks_a_key(run, tmp_path):
    assert "board.yaml" in refused(run, tmp_path, "--target", tmp_path / "board.yaml", "--calib", CALIB)
    (tmp_path / "board.yaml").write_text("name: mine\n")
    message = refused(run, tmp_path, "--target", tmp_path / "board.yaml", "--calib", CALIB)
    assert "board.yaml" in message and "next:" in message


def test_a_dynamic_batch_that_is_given_too_large(run, tmp_path):
    model = onnx.load(MODEL)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "m.onnx")
    message = refused(run, tmp_path, "--calib", CALIB, "--shape", "x=4x1x8x8", model=tmp_path / "m.onnx")
    assert "batch" in message and "next:" in message


def test_a_shape_for_an_input_that_is_not_there(run, tmp_path):
    message = refused(run, tmp_path, "--calib", CALIB, "--shape", "y=1x1x8x8")
    assert "'y'" in message and "'x'" in message


def test_an_infinite_weight_is_named(run, tmp_path):
    model = onnx.load(MODEL)
    weight = next(t for t in model.graph.initializer if t.name.endswith("weight"))
    array = onnx.numpy_helper.to_array(weight).copy()
    array.flat[0] = -np.inf
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "m.onnx")
    message = refused(run, tmp_path, "--calib", CALIB, model=tmp_path / "m.onnx")
    assert "-inf at flat index 0" in message and "node_conv2d" in message


# ---------------------------------------------------------------- a finished build

@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("bad_input") / "build"
    with pytest.raises(SystemExit) as stop:
        cli.main(["compile", str(MODEL), "--target", "sim", "--array", "8x8", "--calib", str(CALIB), "-o", str(build)])
    assert not stop.value.code
    return build


def test_a_build_is_replaced_by_a_build_but_not_by_a_failed_one(compiled, run):
    before = {path: path.read_bytes() for path in compiled.rglob("*") if path.is_file()}
    code, _, message = run("compile", MODEL, "--array", "24x8", "--calib", CALIB, "-o", compiled)
    assert code == 2 and "ti = 24" in message
    assert {path: path.read_bytes() for path in compiled.rglob("*") if path.is_file()} == before


def test_images_under_another_name(compiled, run, tmp_path):
    np.savez(tmp_path / "x.npz", pixels=np.zeros((2, 1, 8, 8), np.float32))
    code, _, message = run("simulate", compiled, "--input", tmp_path / "x.npz", "--engine", "golden")
    assert code == 2 and "'pixels'" in message and "'x'" in message


def test_results_that_cannot_be_written(compiled, run, tmp_path):
    (tmp_path / "file").write_text("mine")
    for option in ("--json", "--output"):
        code, _, message = run("simulate", compiled, "--input", TEST, "--images", "1", "--engine", "golden", option, tmp_path / "file" / "r")
        assert code == 2 and str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "mine"


def test_waves_of_an_engine_that_has_none(compiled, run):
    code, _, message = run("simulate", compiled, "--input", TEST, "--images", "1", "--engine", "golden", "--waves")
    assert code == 2 and "waveforms are written by the engine verilator only" in message


@pytest.mark.parametrize("content", ["", "{", "[]", '{"generator": "another"}'])
def test_a_manifest_that_is_none(compiled, run, content):
    path = compiled / "manifest.json"
    kept = path.read_text()
    try:
        path.write_text(content)
        for command in (("report", compiled), ("simulate", compiled, "--input", TEST), ("verify", compiled)):
            code, _, message = run(*command)
            assert code == 2 and message.count("error: ") == 1 and str(compiled) in message
    finally:
        path.write_text(kept)
    assert json.loads(kept)["version"]
