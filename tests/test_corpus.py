"""bench/corpus.py and bench/photos.py on small files."""

from __future__ import annotations

import json
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import numpy as np
import onnx

import corpus
from onnx_nets import CLASSES, Net, result, vit
import photos
from test_importer_halves import in_halves, model


def test_taken_and_refused(tmp_path, capsys, monkeypatch):
    net = vit()
    net.save(tmp_path / "good.onnx", {"y": result(net)}, [1, CLASSES])
    other = Net()
    other.save(tmp_path / "bad.onnx", {"y": other.op("Softsign", other.image())}, [1, 1, 8, 8])
    monkeypatch.setattr(sys, "argv", ["corpus.py", str(tmp_path)])
    assert corpus.main() == 0
    text = capsys.readouterr().out
    assert "good.onnx: 0 taken, cosine 1.0000000" in text and "bad.onnx: 2 error: Softsign node" in text
    assert text.endswith("2 files, 1 taken; silently wrong 0, traceback 0, check is not compile 0\n")


def test_a_fault_is_counted(tmp_path, capsys, monkeypatch):
    """What the bench is for: a command that ends in another way than the other one."""
    results = iter([(0, ""), (4, "Traceback")])
    monkeypatch.setattr(corpus, "command", lambda *words, limit: next(results))
    (tmp_path / "net.onnx").touch()
    monkeypatch.setattr(sys, "argv", ["corpus.py", str(tmp_path)])
    assert corpus.main() == 1
    assert "traceback 1, check is not compile 1" in capsys.readouterr().out


def test_router_flips_are_counted_and_a_file_of_16_bits_is_judged(tmp_path, capsys, monkeypatch):
    net = vit(router="plain")
    net.save(tmp_path / "moe.onnx", {"y": result(net)}, [1, CLASSES])
    onnx.save(in_halves(model(), "float16"), tmp_path / "half.onnx")
    for name, spelling in (("one", {}), ("other", {"act": "erf"})):
        onnx.save(model(**spelling), tmp_path / f"{name}.onnx")
    facts = {"inputs": [{"name": "x", "shape": [1, 1, 8, 8], "kind": "noise"}]}
    (tmp_path / "inputs.json").write_text(json.dumps({"moe.onnx": facts, "one.onnx": facts, "other.onnx": facts}))
    monkeypatch.setattr(sys, "argv", ["corpus.py", str(tmp_path), "--inputs", str(tmp_path / "inputs.json"), "--json", str(tmp_path / "rows.json")])
    assert corpus.main() == 0
    half, row, *_ = json.loads((tmp_path / "rows.json").read_text())
    assert half["compile"] == 0 and half["cosine"] > corpus.MIN_COSINE          # against the float32 network with rounded weights
    assert row["decisions"] == corpus.IMAGES * 5 and 0 <= row["flips"] < row["decisions"] / 4
    text = capsys.readouterr().out
    assert f"{row['flips']} of {row['decisions']} router decisions flipped" in text
    assert "the same integer outputs, bit for bit: one.onnx, other.onnx\n" in text


def test_photos_compares_whole_files(tmp_path, capsys, monkeypatch):
    """bench/photos.py: one row for each precision, behind a Softmax that the host runs too; 16 bits are nearer and cost cycles."""
    net = vit()
    net.save(tmp_path / "net.onnx", {"y": net.op("Softmax", result(net))}, [1, CLASSES])
    np.savez(tmp_path / "images.npz", x=np.random.default_rng(3).standard_normal((16, 1, 8, 8)).astype(np.float32))
    monkeypatch.setattr(sys, "argv", ["photos.py", str(tmp_path / "net.onnx"), str(tmp_path / "images.npz"), "--target", "sim", "--precision", "w8a8", "w8a16",
                                      "--json", str(tmp_path / "rows.json")])
    assert photos.main() == 0
    assert "y: " in capsys.readouterr().out
    eight, sixteen = json.loads((tmp_path / "rows.json").read_text())
    assert eight["cycles"] < sixteen["cycles"] and 20 < eight["outputs"]["y"]["db"][0] < sixteen["outputs"]["y"]["db"][0]
    assert eight["outputs"]["y"]["correlation"][1] > 0.9
