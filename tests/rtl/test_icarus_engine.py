"""``--engine icarus`` through the command line, nothing replaced. tests/test_packaging.py does the same from the wheel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwgen import api, cli
from hwgen.devices.memory import MemoryModel
from hwgen.errors import InputError, ToolError
from hwgen.tools import icarus
import onnx_nets


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """x.npz with one image and build, a small network on an 8x8 array."""
    try:
        icarus.find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    folder = tmp_path_factory.mktemp("icarus")
    net = onnx_nets.vit(router="plain")
    net.save(folder / "m.onnx", {"y": onnx_nets.result(net)})
    np.savez(folder / "x.npz", x=np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32))
    api.compile(folder / "m.onnx", calib=str(folder / "x.npz"), array=(8, 8), out=folder / "build")
    return folder


def run(*args) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    return stop.value.code or 0


def test_simulate_and_verify(folder, capsys):
    cycles = {}
    for stall in ("0", "0.8"):
        assert run("simulate", folder / "build", "--input", folder / "x.npz", "--engine", "icarus", "--stall", stall,
                   "--json", folder / "r.json") == 0
        result = json.loads((folder / "r.json").read_text())
        assert result["bit_exact"] is True and result["words"] == onnx_nets.CLASSES and result["frames"] == []
        cycles[stall] = result["cycles_per_image"]
    assert cycles["0"] < cycles["0.8"]                      # the probability is honoured
    assert run("verify", folder / "build", "--input", folder / "x.npz", "--engine", "icarus", "--json", folder / "v.json") == 0
    runs = json.loads((folder / "v.json").read_text())["runs"]
    assert [row["memory"] for row in runs] == ["ideal", "random stalls"] and runs[0]["cycles_per_image"] == cycles["0"]
    assert "latency 100" not in capsys.readouterr().out


@pytest.mark.parametrize("engine, memory", [("icarus", MemoryModel(latency=7)), ("icarus", MemoryModel(bytes_per_cycle=8)),
                                            ("golden", MemoryModel(stall=0.1)), ("csim", MemoryModel(seed=3))])
def test_a_memory_that_an_engine_cannot_honour_is_refused(folder, engine, memory):
    acc = api.load(folder / "build")
    with pytest.raises(InputError, match=f"the engine {engine} knows no .* of the memory"):
        acc.simulate({"x": np.zeros((1, 1, 8, 8), np.float32)}, engine=engine, memory=memory)
