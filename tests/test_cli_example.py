"""The commands on the bundled example, nothing replaced: results, documented JSON keys, and every kind of bad input."""

from __future__ import annotations

from itertools import pairwise
import json
from pathlib import Path
import re
import shutil

import numpy as np
import onnx
import pytest

from hwgen import cli
from hwgen.commands import terminal
from test_cli import documented

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


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A build of the example on an 8x8 array."""
    build = tmp_path_factory.mktemp("example") / "build"
    with pytest.raises(SystemExit) as stop:
        cli.main(["compile", str(MODEL), "--target", "sim", "--array", "8x8", "--calib", str(CALIB), "-o", str(build),
                  "--json", str(build.parent / "report.json")])
    assert not stop.value.code
    return build


def keys(data: dict, open_records=()) -> set[str]:
    """Keys of a JSON record as docs/reference/json.md writes them: a, a.b, a[].b."""
    found = set()
    for key, value in data.items():
        found.add(key)
        if isinstance(value, dict) and key not in open_records:
            found |= {f"{key}.{inner}" for inner in value}
            found |= {f"{key}.{inner}[].{name}" for inner, rows in value.items() if isinstance(rows, list)
                      for row in rows if isinstance(row, dict) for name in row}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found |= {f"{key}[].{inner}" for row in value for inner in row}
    return found


ONLY_WHEN_ASKED = {"accuracy", "quantization.scales_given", "lengths", "lengths.input", "lengths.longest"}
"""Labels; scales of --quant or of a quantized file; --lengths."""


def test_check(run, tmp_path):
    code, text, _ = run("check", MODEL, "--json", tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    assert code == 0 and data["ok"] is True and "model.onnx: supported" in text
    names = [node.name for node in onnx.load(MODEL).graph.node]
    assert [node["node"] for node in data["nodes"]] == names
    assert set(data["counts"]) <= {"supported", "fused", "folded", "host"}


def test_compile_report_and_its_documented_keys(compiled, run, tmp_path):
    data = json.loads((compiled.parent / "report.json").read_text())
    assert keys(data, {"memory"}) == documented("hwgen compile") - ONLY_WHEN_ASKED
    assert (data["array"]["ti"], data["array"]["to"], data["calibration"]) == (8, 8, "data")
    assert data["weight_bytes"] == (compiled / "weights.bin").stat().st_size
    code, text, _ = run("report", compiled, "--json", tmp_path / "r.json", "--html", tmp_path / "r.html")
    assert code == 0
    assert json.loads((tmp_path / "r.json").read_text()) == data == json.loads((compiled / "report.json").read_text())
    assert "RTL" in text and len(text.splitlines()) <= 25 and "expert 0" in (tmp_path / "r.html").read_text()


def test_simulate_with_verilator_both_tasks(compiled, run, tmp_path):
    code, _, _ = run("simulate", compiled, "--input", TEST, "--images", "4", "--json", tmp_path / "s.json",
                     "--output", tmp_path / "y.npz")
    data = json.loads((tmp_path / "s.json").read_text())
    assert code == 0 and (data["bit_exact"], data["mismatches"], data["words"]) == (True, 0, 4 * 12)
    assert keys(data, {"accuracy"}) == documented("hwgen simulate")
    assert data["utilization"] == pytest.approx(
        data["useful_macs_per_image"] / (data["array_macs_per_cycle"] * data["cycles_per_image"]))
    assert data["latency_ms"] == pytest.approx(data["cycles_per_image"] / data["clock_mhz"] / 1000)
    assert data["useful_macs_per_image"] == json.loads((compiled / "report.json").read_text())["network"]["useful_macs_per_image"]
    assert data["accuracy"].keys() == {"digit", "parity"} and len(data["frames"]) == 8
    code, _, _ = run("simulate", compiled, "--input", TEST, "--images", "4", "--engine", "golden", "--output", tmp_path / "g.npz")
    with np.load(tmp_path / "y.npz") as y, np.load(tmp_path / "g.npz") as g:
        assert code == 0 and set(y.files) == {"digit", "parity"}
        assert y["digit"].shape == (4, 10) and y["digit"].dtype == np.float32
        assert all((y[name] == g[name]).all() for name in y.files)


def test_timeline_and_report_of_a_simulation(compiled, run, tmp_path):
    code, _, _ = run("simulate", compiled, "--input", TEST, "--images", "2", "--trace", tmp_path / "t.json", "--json", tmp_path / "s.json")
    result, timeline = (json.loads((tmp_path / name).read_text()) for name in ("s.json", "t.json"))
    assert code == 0
    times = [event["ts"] for event in timeline["traceEvents"]]
    assert times == sorted(times)
    slices = [event for event in timeline["traceEvents"] if event["ph"] == "X"]
    assert {event["pid"] for event in slices} == {1, 2, 3, 4}                        # two images, two tasks
    for number, frame in enumerate(result["frames"], 1):
        feed = [e for e in slices if (e["pid"], e["tid"]) == (number, 1)]
        assert feed[0]["args"]["start"] == frame["start"] and feed[-1]["args"]["retire"] == frame["stop"]
    feed = sorted((e for e in slices if e["tid"] == 1), key=lambda e: e["args"]["start"])
    assert all(a["args"]["start"] + a["args"]["cycles"] == b["args"]["start"] for a, b in pairwise(feed))       # no gap
    assert sum(e["args"]["cycles"] for e in feed) == timeline["otherData"]["cycles"] <= 4 * result["cycles_per_image"]
    stalls = sum(e["args"]["cycles"] for e in slices if e["tid"] == 2)
    counted = sum(e["args"][cause] for e in feed for cause in ("wait_tile", "wait_hazard", "wait_output"))
    assert 0 < stalls <= counted
    code, text, _ = run("report", compiled, "--json", tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and "[rtl simulation]" in text and "waiting for weights" in text
    assert keys(data, {"memory"}) == documented("hwgen compile") - ONLY_WHEN_ASKED | documented("hwgen report")
    assert data["simulation"]["cycles_over_limit"] > 1
    assert sum(row["cycles"] for row in data["layers"]) == pytest.approx(data["stalls"]["cycles"])
    assert data["stalls"]["issue"] + data["stalls"]["wait_tile"] < data["stalls"]["cycles"]


def test_nothing_in_the_build_is_executed_but_what_was_compiled_from_it(compiled, run, tmp_path):
    """Executables where earlier versions put them, newer than everything; and the folder's name is one make could not take."""
    build = Path(shutil.copytree(compiled, tmp_path / "a b=c"))
    mark = tmp_path / "PWNED"
    for name in ("bench/fast/sim", "bench/waves/sim", "hls/csim/bin-0123456789abcdef/csim", "sim"):
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (build / name).chmod(0o755)
    before = sorted(path.relative_to(build) for path in build.rglob("*"))
    code, text, _ = run("simulate", build, "--input", TEST, "--images", "2")
    assert code == 0 and "yes" in text and not mark.exists()
    after = {path.relative_to(build) for path in build.rglob("*")}
    assert after - {Path("simulation.json")} == {*before} - {Path("simulation.json")}


def test_a_simulation_of_another_build_is_not_reported(compiled, run, tmp_path):
    shutil.copytree(compiled, tmp_path / "b")
    kept = {"build": "0" * 64, "simulation": {}}
    (tmp_path / "b" / "simulation.json").write_text(json.dumps(kept))
    code, text, _ = run("report", tmp_path / "b")
    assert code == 0 and "rtl simulation" not in text


def test_simulate_golden_one_task(compiled, run, tmp_path):
    code, _, _ = run("simulate", compiled, "--input", TEST, "--engine", "golden", "--task", "1", "--json", tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    assert code == 0 and data["bit_exact"] is None and data["accuracy"].keys() == {"parity"} and data["accuracy"]["parity"] > 0.97


def test_random_calibration_is_marked(run, tmp_path):
    code, _, message = run("compile", MODEL, "--array", "8x8", "--calib", "random", "-o", tmp_path / "b",
                           "--json", tmp_path / "r.json")
    assert code == 0 and "accuracy is unknown" in message
    assert json.loads((tmp_path / "r.json").read_text())["calibration"] == "random"


# ---------------------------------------------------------------- bad input: one message, exit code 2, nothing written

def bad_compile(run, tmp_path, *args, code=2, model=MODEL):
    """Runs compile with a fresh output directory; returns stderr, after seeing that it failed and left nothing."""
    before = set(tmp_path.rglob("*"))
    got, text, message = run("compile", model, "-o", tmp_path / "out", *args)
    assert got == code and re.match(r"(.+ …( \d+\.\d s)?\n)*error: ", message) and text == ""
    assert set(tmp_path.rglob("*")) == before
    return message


def test_no_calibration(run, tmp_path):
    """Works on noise, and says in the output, the report and the JSON that accuracy is unknown."""
    code, _, message = run("compile", MODEL, "--array", "8x8", "-o", tmp_path / "b", "--json", tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and "accuracy is unknown" in message and data["accuracy"].startswith("unknown") and data["calibration"] == "random"
    assert "unknown: calibrated with seeded noise" in run("report", tmp_path / "b")[1] and "output_error" not in data["quantization"]


def test_calibration_of_the_wrong_shape(run, tmp_path):
    np.savez(tmp_path / "c.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    message = bad_compile(run, tmp_path, "--calib", tmp_path / "c.npz")
    assert "'x'" in message and "3, 8, 8" in message and "1, 8, 8" in message


@pytest.mark.parametrize("content", [None, b"not an npz"])
def test_calibration_that_cannot_be_read(run, tmp_path, content):
    if content:
        (tmp_path / "c.npz").write_bytes(content)
    assert "cannot be read as .npz" in bad_compile(run, tmp_path, "--calib", tmp_path / "c.npz")


def test_unknown_target_suggests_the_nearest(run, tmp_path):
    message = bad_compile(run, tmp_path, "--target", "zcu140", "--calib", CALIB)
    assert "unknown target 'zcu140', did you mean 'zcu104'?" in message


def test_a_board_that_is_too_small_names_both_numbers(run, tmp_path):
    message = bad_compile(run, tmp_path, "--target", "ulx3s-85f", "--array", "32x32", "--calib", CALIB)
    assert "156" in message and "ulx3s" in message.lower()


@pytest.mark.parametrize("content", [b"", b"plain text", "half"])
def test_files_that_are_no_onnx(run, tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(MODEL.read_bytes()[:5000] if content == "half" else content)
    message = bad_compile(run, tmp_path, "--calib", CALIB, model=path)
    assert "m.onnx" in message


def test_a_missing_model(run, tmp_path):
    assert "m.onnx" in bad_compile(run, tmp_path, "--calib", CALIB, model=tmp_path / "m.onnx")


def test_a_weight_that_is_not_finite(run, tmp_path):
    model = onnx.load(MODEL)
    weight = next(t for t in model.graph.initializer if t.name.endswith("weight"))
    array = onnx.numpy_helper.to_array(weight).copy()
    array.flat[7] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "m.onnx")
    message = bad_compile(run, tmp_path, "--calib", CALIB, model=tmp_path / "m.onnx")
    assert "nan" in message.lower()


def test_a_dynamic_batch_is_named_and_can_be_given(run, tmp_path):
    model = onnx.load(MODEL)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "m.onnx")
    message = bad_compile(run, tmp_path, "--calib", CALIB, model=tmp_path / "m.onnx")
    assert "batch" in message and "--shape" in message
    assert run("check", tmp_path / "m.onnx", "--shape", "x=1x1x8x8")[0] == 0


def test_an_unsupported_operator(run, tmp_path):
    """In the first block, behind its attention: too much is in front of it and behind it for the host."""
    model = onnx.load(MODEL)
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    middle = norms[1]                                                   # of the first block
    name, middle.output[0] = middle.output[0], "before"
    at = list(model.graph.node).index(middle) + 1
    model.graph.node.insert(at, onnx.helper.make_node("Softsign", ["before"], [name], name="strange"))
    onnx.save(model, tmp_path / "m.onnx")
    message = bad_compile(run, tmp_path, "--calib", CALIB, model=tmp_path / "m.onnx")
    assert "Softsign" in message and "strange" in message
    assert run("check", tmp_path / "m.onnx")[0] == 2


def test_an_output_directory_with_something_else(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "already holds something that is not a hwgen build" in bad_compile(run, tmp_path, "--array", "8x8", "--calib", CALIB)


@pytest.mark.parametrize("array, words", [
    (np.zeros((2, 1, 9, 8), np.float32), "(2, 1, 9, 8)"), (np.zeros((2, 8, 8), np.float32), "(2, 8, 8)"),
    (np.zeros((0, 1, 8, 8), np.float32), "no image"), (np.zeros((2, 1, 8, 8), np.int64), "int64"),
    (np.full((2, 1, 8, 8), np.nan, np.float32), "NaN")])
def test_images_of_the_wrong_kind(compiled, run, tmp_path, array, words):
    np.savez(tmp_path / "x.npz", x=array)
    code, _, message = run("simulate", compiled, "--input", tmp_path / "x.npz", "--engine", "golden",
                           "--output", tmp_path / "y.npz")
    assert code == 2 and words in message and "next:" in message and not (tmp_path / "y.npz").exists()


def test_a_task_that_is_not_there(compiled, run):
    code, _, message = run("simulate", compiled, "--input", TEST, "--engine", "golden", "--task", "2")
    assert code == 2 and "there is no task 2" in message


def test_a_missing_compiler_is_exit_3(compiled, run, tmp_path, monkeypatch):
    shutil.copytree(compiled, tmp_path / "b", ignore=shutil.ignore_patterns("fast", "waves"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    code, _, message = run("simulate", tmp_path / "b", "--input", TEST, "--images", "1")
    assert code == 3 and "compiler" in message and "apt-get install" in message


def test_builds_that_cannot_be_used(compiled, run, tmp_path):
    shutil.copytree(compiled, tmp_path / "b", ignore=shutil.ignore_patterns("fast", "waves"))
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest | {"version": "0.0.1"}))
    code, _, message = run("simulate", tmp_path / "b", "--input", TEST)
    assert code == 2 and "made by hwgen 0.0.1" in message and "compile again" in message
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "b/weights.bin").write_bytes(b"0")
    code, _, message = run("report", tmp_path / "b")
    assert code == 2 and "weights.bin is not what hwgen wrote" in message
    assert run("report", tmp_path)[0] == 2 and run("simulate", tmp_path / "none", "--input", TEST)[0] == 2
