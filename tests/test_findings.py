"""What calibration finds reaches the user: warnings and counts of `compile`, `report` and `simulate`, and bench/snr.py."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import numpy as np
from onnx import numpy_helper
import pytest

from bench import snr
import hwgen
from hwgen import cli
from hwgen.commands import terminal
from onnx_nets import DIM, HIDDEN, result, vit


def small_vit(folder: Path, hidden: float = 1.0) -> Path:
    """model.onnx: a ViT of one block; ``hidden`` times the first layer of its MLP."""
    net = vit()
    for tensor in net.weights:
        if list(tensor.dims) == [DIM, HIDDEN]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(hidden), tensor.name))
    return net.save(folder / "model.onnx", {"y": result(net)})


@pytest.fixture
def run(capsys, monkeypatch):
    """run("check", ...) -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(terminal, "out", terminal.Terminal(width=200))

    def call(*args):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err
    return call


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """A build of a small ViT (C++ only: nothing is synthesized), and x.npz, its calibration images."""
    folder = tmp_path_factory.mktemp("findings")
    path = small_vit(folder)
    np.savez(folder / "x.npz", x=np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32))
    hwgen.compile(path, calib=folder / "x.npz", out=folder / "build", backend="hls")
    return folder / "build"


def said(message: str) -> list[str]:
    """Lines of standard error without those of stages ("quantize … 0.3 s")."""
    return [line for line in message.splitlines() if " … " not in line]


def test_compile_prints_warnings_and_keeps_them(build, run, tmp_path):
    with np.load(build.parent / "x.npz") as file:
        images = file["x"].copy()
    images[3, 0, 0, 0] = 1e6
    np.savez(tmp_path / "c.npz", x=images)
    code, text, message = run("compile", build.parent / "model.onnx", "--calib", tmp_path / "c.npz", "-o", tmp_path / "b",
                              "--backend", "hls", "--json", tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and said(message) == [f"warning: {line}" for line in data["warnings"]]
    assert "image 3 reaches 1e+06" in message and "the integer model is" in message and "image 3" not in text
    assert "image 3 reaches 1e+06" in run("report", tmp_path / "b", "--html", tmp_path / "r.html")[1]
    assert "image 3 reaches 1e+06" in (tmp_path / "r.html").read_text()


def test_without_a_finding(build):
    report = hwgen.load(build).report()
    assert report["warnings"] == []
    rows = report["quantization"]["clipping"]
    assert rows and {tuple(row) for row in rows} == {("node", "what", "range", "limit", "clipped")}
    assert all(row["clipped"] == 0.0 and row["range"] < row["limit"] for row in rows)


def test_a_layer_that_clips(run, tmp_path):
    """Named in compile's table with its share, and in a warning."""
    path = small_vit(tmp_path, hidden=200.0)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32))
    code, text, message = run("compile", path, "--calib", tmp_path / "x.npz", "-o", tmp_path / "b", "--backend", "hls", "--json", tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    clipped = [row for row in data["quantization"]["clipping"] if row["clipped"] > 0]
    assert code == 0 and clipped and {row["what"] for row in clipped} == {"pre-activation"}
    for row in clipped:
        assert f"{100 * row['clipped']:.3g} %" in text and row["node"] in text and repr(row["node"]) in message
    assert "attention score" not in text


def test_clipped_inputs_are_noted(build, run, tmp_path):
    with np.load(build.parent / "x.npz") as file:
        images = file["x"]
    np.savez(tmp_path / "inside.npz", x=images / 4)
    code, text, message = run("simulate", build, "--input", tmp_path / "inside.npz", "--engine", "golden", "--json", tmp_path / "s.json")
    assert (code, said(message)) == (0, []) and "input clipped" in text and json.loads((tmp_path / "s.json").read_text())["input_clipped"] == 0.0
    np.savez(tmp_path / "beyond.npz", x=images * 3)
    code, text, message = run("simulate", build, "--input", tmp_path / "beyond.npz", "--engine", "golden", "--json", tmp_path / "s.json")
    share = json.loads((tmp_path / "s.json").read_text())["input_clipped"]
    limit = 127.5 * hwgen.load(build).build.model.tasks[0].input[1].scale
    assert share == (np.abs(3 * images) > limit).mean() > 0
    assert said(message) == [f"note: {100 * share:.3g} % of the input values lie beyond the calibrated range and are clipped"] and f"{100 * share:.3g} %" in text
    assert hwgen.load(build).simulate({"x": images * 3}, engine="golden").input_clipped == share


def test_snr_command(build, tmp_path):
    done = subprocess.run([sys.executable, snr.__file__, build.parent / "model.onnx", "--seeds", "2", "--json", tmp_path / "snr.json"],
                          capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    row, = json.loads((tmp_path / "snr.json").read_text())
    assert len(row["all_db"]) == 2 and row["median_db"] == pytest.approx(np.mean(row["all_db"])) and row["median_db"] > 20
    assert row["clipping"] == [] and row["nearest"]["range"] < row["nearest"]["limit"]
    assert f"{row['median_db']:.1f}" in done.stdout and "0 % clipped" in done.stdout and row["limit_db"] is None


@pytest.mark.parametrize("limit, code", [(0.0, 0), (20.0, 0), (90.0, 1)])
def test_snr_of_a_file_with_a_limit(build, monkeypatch, capsys, tmp_path, limit, code):
    words = [str(build.parent / "model.onnx"), "--seeds", "1", "--limit", str(limit), "--json", str(tmp_path / "snr.json")]
    monkeypatch.setattr(sys, "argv", ["snr.py", *words])
    assert snr.main() == code and f" {limit:>6}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "snr.json").read_text())[0]["limit_db"] == limit


def test_snr_has_its_own_limits_for_its_own_networks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["snr.py", "--limit", "20"])
    with pytest.raises(SystemExit) as stop:
        snr.main()
    assert stop.value.code == 2 and "--limit is for files" in capsys.readouterr().err


def test_snr_of_its_own_networks(monkeypatch, capsys):
    """All reach their limits; exit code 1 when one does not."""
    monkeypatch.setattr(sys, "argv", ["snr.py", "--seeds", "6"])
    assert snr.main() == 0
    assert "router logit of block0.moe: up to" in capsys.readouterr().out
    given = [(name, model, 99.0) for name, model, _ in list(snr.networks())[:1]]
    monkeypatch.setattr(snr, "networks", lambda: given)
    assert snr.main() == 1
