"""Commands: what they pass to the API, what they print, the JSON keys, exit codes, and that every error is one message."""

from __future__ import annotations

from dataclasses import asdict
import json
from pathlib import Path
import re

import numpy as np
import pytest

from fake_api import REPORT, Fake
from hwgen import cli, errors
from hwgen.commands import terminal
from hwgen.devices.memory import MemoryModel
from hwgen.errors import HwgenError, OutputError

UNSAID = {"quant": None, "target_snr": None, "target_accuracy": None, "allow_host": False, "lengths": False}
DOCS = Path(__file__).resolve().parent.parent / "docs" / "reference"


@pytest.fixture
def api(monkeypatch):
    fake = Fake()
    monkeypatch.setattr(terminal, "api", lambda: fake)
    return fake


@pytest.fixture
def run(capsys, monkeypatch):
    """run("check", ...) -> (exit code, stdout, stderr), at a terminal 200 columns wide."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(terminal, "out", terminal.Terminal(width=200))

    def call(*args):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return stop.value.code or 0, captured.out, captured.err
    return call


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((6, 1, 8, 8), np.float32), digit=np.array([0, 1, 2, 3, 4, 9]), stray=np.zeros(3))
    return path


def documented(heading: str) -> set[str]:
    """Keys that docs/reference/json.md lists in the tables under ``heading``."""
    text = (DOCS / "json.md").read_text()
    part = re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `([\w.\[\]]+)` \|", part, flags=re.MULTILINE))


# ---------------------------------------------------------------- the command line as a whole

def test_help_lists_all_commands_and_each_has_an_example(run):
    code, text, _ = run("--help")
    commands = {"check", "compile", "simulate", "verify", "report", "compare", "estimate", "show", "describe", "synth", "core", "targets"}
    assert code == 0 and all(name in text for name in commands) and "Exit codes" in text
    for name in commands:
        code, text, _ = run(name, "--help")
        assert code == 0 and "Example" in text and "--json" in text, name
    assert commands == {re.match(r"## hwgen (\w+)", line)[1] for line in (DOCS / "cli.md").read_text().splitlines()
                        if line.startswith("## hwgen ")}


def test_cli_reference_names_every_option(run):
    sections = dict(re.findall(r"^## hwgen (\w+)\n(.*?)(?=^## |\Z)", (DOCS / "cli.md").read_text(), flags=re.MULTILINE | re.DOTALL))
    for command in cli.typer.main.get_command(cli.app).commands.values():
        options = {option for p in command.params for option in p.opts if option.startswith("--")} - {"--help"}
        assert options == set(re.findall(r"^\| `(--[a-z-]+)", sections[command.name], flags=re.MULTILINE)), command.name


def test_version(run):
    assert run("--version")[:2] == (0, "hwgen 0.1.0\n")


@pytest.mark.parametrize("args", [("compile",), ("simulate", "b"), ("nonsense",), ("targets", "--json"),
                                  ("simulate", "b", "--input", "x", "--engine", "vcs"),
                                  ("simulate", "b", "--input", "x", "--stall", "1")])
def test_usage_errors_are_2(run, api, args):
    assert run(*args)[0] == 2
    assert api.calls == []


@pytest.mark.parametrize("kind", [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, HwgenError)])
def test_every_error_is_one_message_with_its_exit_code(run, api, tmp_path, kind):
    api.error = kind("it is [bad]", where="node 'a[0]'", hint="do [this]")
    code, text, message = run("compile", "m.onnx", "--json", tmp_path / "r.json")
    assert (code, text) == (kind.exit_code, "")
    assert message.endswith("error: it is [bad]\n  at:   node 'a[0]'\n  next: do [this]\n")
    assert code == {"MismatchError": 1, "ToolError": 3}.get(kind.__name__, 2)
    assert list(tmp_path.iterdir()) == []


def test_json_into_a_missing_directory(run, api, tmp_path):
    code, _, message = run("report", "b", "--json", tmp_path / "no" / "r.json")
    assert code == 2 and "cannot write: No such file or directory" in message and str(tmp_path / "no") in message


# ---------------------------------------------------------------- check, compile, report

def test_check_lists_nodes(run, api, tmp_path):
    code, text, _ = run("check", "m.onnx", "--shape", "x=1x3x224x224", "--target", "zcu102", "--array", "8x8", "--batch", "2",
                        "--json", tmp_path / "c.json")
    assert code == 0
    assert api.calls == [(Path("m.onnx"), {"x": (1, 3, 224, 224)}, {
        "target": "zcu102", "calib": None, "array": (8, 8), "method": "minmax", "backend": "rtl", "precision": "w8a8", "batch": 2, **UNSAID})]
    assert "/a/Gelu [0]" in text and "m.onnx: supported  (1 supported)" in text
    assert "equal to the ONNX file (onnxruntime 1, 8 images, 1 with a router tie set apart): cosine 0.9999999, largest error 1.5e-06" in text
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["ok"] is True and data["error"] is None and data["counts"] == {"supported": 1}
    assert data["nodes"] == [{"node": "/a/Gelu [0]", "op": "Gelu", "status": "supported", "into": "mlp", "reason": ""}]
    assert documented("hwgen check") == {*data, *(f"nodes[].{key}" for key in data["nodes"][0])}
    assert data["onnx_cosine"] == 0.9999999 and data["onnx_max_abs_error"] == 1.5e-6


def test_check_of_an_unsupported_model_still_writes_json(run, api, tmp_path):
    api.error = errors.ModelError("Foo is not supported", where="node '/b/Foo'", hint="remove it")
    code, text, message = run("check", "m.onnx", "--json", tmp_path / "c.json")
    assert code == 2 and "no such operator" in text and "not supported  (1 supported, 1 unsupported)" in text
    assert message.endswith("error: Foo is not supported\n  at:   node '/b/Foo'\n  next: remove it\n")
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["ok"] is False
    assert data["error"] == {"message": "Foo is not supported", "where": "node '/b/Foo'", "hint": "remove it", "behind": 0, "others": []}


@pytest.mark.parametrize("item", ["x", "x=", "=1x2", "x=1x-2", "x=1x0", "x=1,2", "x=1xN"])
def test_bad_shape(run, api, item):
    code, _, message = run("check", "m.onnx", "--shape", item)
    assert code == 2 and f"{item!r} is not a shape" in message and "--shape x=1x3x224x224" in message and api.calls == []


def test_compile_passes_everything_on(run, api, tmp_path):
    code, text, message = run("compile", "m.onnx", "--target", "zcu104", "--calib", "c.npz", "-o", tmp_path / "b",
                              "--array", "16x8", "--method", "mse", "--shape", "x=1x2", "--allow-host", "--json", tmp_path / "r.json")
    assert code == 0 and re.fullmatch(r"quantize … \d+\.\d s\n", message)
    assert api.calls == [(Path("m.onnx"), {"target": "zcu104", "calib": "c.npz", "out": tmp_path / "b", "shapes": {"x": (1, 2)},
                                           "array": (16, 8), "method": "mse", "backend": "rtl", "precision": "w8a8", "batch": 1,
                                           **UNSAID, "allow_host": True})]
    assert "weight [bytes]" in text and "resources (estimate)" in text and "25.0 %" in text and "patch" not in text
    assert json.loads((tmp_path / "r.json").read_text()) == REPORT


@pytest.mark.parametrize("calib", [None, "random"])
def test_compile_without_calibration_images(run, api, monkeypatch, calib):
    monkeypatch.setattr(api, "report", lambda: REPORT | {"calibration": "random"})
    code, _, message = run("compile", "m.onnx", *(("--calib", calib) if calib else ()))
    assert code == 0 and "calibrated with seeded noise, so accuracy is unknown" in message
    assert api.calls[0][1] == {"target": "sim", "calib": calib, "out": Path("build"), "shapes": None, "array": None,
                               "method": "minmax", "backend": "rtl", "precision": "w8a8", "batch": 1, **UNSAID}


@pytest.mark.parametrize("size", ["16", "16x", "ax16", "16x16x16"])
def test_bad_array(run, api, size):
    code, _, message = run("compile", "m.onnx", "--array", size)
    assert code == 2 and f"{size!r} is not an array size" in message and api.calls == []


def test_report_as_text_html_and_json(run, api, tmp_path):
    code, text, _ = run("report", "b", "--html", tmp_path / "r.html", "--json", tmp_path / "r.json")
    assert code == 0 and api.calls == [Path("b")]
    assert "patch [embed]" in text and "<qkv>" in text and "253,952" not in text and len(text.splitlines()) <= 25
    page = (tmp_path / "r.html").read_text()
    assert page.startswith("<!doctype html>") and "&lt;qkv&gt;" in page and "http" not in page
    assert json.loads((tmp_path / "r.json").read_text()) == REPORT


def test_sections_of_a_report(run, api):
    assert "253,952" in run("report", "b", "--section", "all")[1]
    code, text, _ = run("report", "b", "--section", "Resources")
    assert code == 0 and text.startswith("resources (estimate)\n") and "lut   1,000  4,000" in text
    code, text, message = run("report", "b", "--section", "resource")
    assert code == 2 and text == "" and "no section 'resource'" in message and "nearest: 'resources'" in message and "instructions" in message


def test_a_report_that_hwgen_did_not_write(run, api, monkeypatch):
    monkeypatch.setattr(api, "report", lambda: REPORT | {"estimate": {"cycles_per_image": "many"}})
    code, _, message = run("report", "b")
    assert code == 2 and "the report holds something else than this hwgen writes" in message and "compile the model again" in message


# ---------------------------------------------------------------- synth, trace

def test_synth(run, api, tmp_path):
    code, text, _ = run("synth", "b", "--target", "zcu104", "--json", tmp_path / "s.json")
    assert code == 0 and api.calls == [Path("b"), ("yosys", "zcu104")]
    assert "array" in text and "1,000" in text and "note: [a] note" in text and "module" not in text
    assert json.loads((tmp_path / "s.json").read_text())["modules"] == [{"module": "m"}]


def test_a_build_that_is_read_only_is_simulated(run, api, images, monkeypatch):
    def keep(result):
        raise OutputError("cannot write: Read-only file system", where="b")
    monkeypatch.setattr(api, "keep", keep)
    code, text, message = run("simulate", "b", "--input", images)
    assert code == 0 and "bit exact" in text and "note: cannot write: Read-only file system; hwgen report will not show this simulation" in message


def test_a_timeline_needs_cycles(run, api, images, tmp_path):
    code, _, message = run("simulate", "b", "--input", images, "--engine", "golden", "--trace", tmp_path / "t.json")
    assert code == 2 and "option --trace" in message and api.calls == []
    code, _, _ = run("simulate", "b", "--input", images, "--trace", tmp_path / "t.json")
    assert code == 0 and json.loads((tmp_path / "t.json").read_text()) == {"traceEvents": []}


# ---------------------------------------------------------------- simulate, verify

def test_simulate_passes_everything_on(run, api, tmp_path, images):
    code, text, message = run("simulate", tmp_path / "b", "--input", images, "--task", "1", "--engine", "verilator", "--images", "5",
                              "--waves", "--latency", "7", "--bytes-per-cycle", "64", "--stall", "0.3", "--seed", "9",
                              "--lengths", "5,12", "--output", tmp_path / "y.npz", "--json", tmp_path / "r.json")
    assert code == 0
    assert api.calls[0] == tmp_path / "b"
    inputs, options = api.calls[1]
    assert inputs.keys() == {"x"} and inputs["x"].shape == (5, 1, 8, 8)
    assert options == {"task": 1, "engine": "verilator", "waves": tmp_path / "b" / "waves.fst",
                       "memory": {"latency": 7, "bytes_per_cycle": 64, "stall": 0.3, "seed": 9}, "lengths": (5, 12)}
    data = json.loads((tmp_path / "r.json").read_text())
    assert (data["images"], data["bit_exact"], data["accuracy"]) == (5, True, {"digit": 1.0})
    assert "simulation (verilator)" in text and text.index("bit exact") < text.index("utilization")
    assert re.fullmatch(r"note: ignoring 'stray': neither an input nor an output of the network\nsimulate … \d+\.\d s\n", message)
    with np.load(tmp_path / "y.npz") as y:
        assert y["digit"].shape == (5, 10) and y["parity"].dtype == np.float32


def test_simulate_defaults(run, api, images):
    code, text, _ = run("simulate", "b", "--input", images)
    assert code == 0 and "83.3 %" in text
    assert api.calls[1][1] == {"task": None, "engine": "verilator", "waves": None, "memory": {}, "lengths": ()}
    assert asdict(MemoryModel()) == {"latency": 200, "bytes_per_cycle": None, "stall": 0.0, "seed": 0}


@pytest.mark.parametrize("engine, option, value", [(engine, option, value) for engine in ("icarus", "csim", "golden") for option, value in
                         (("--latency", "100"), ("--bytes-per-cycle", "8"), ("--stall", "0.1"), ("--seed", "0"))
                         if engine != "icarus" or option in ("--latency", "--bytes-per-cycle")])
def test_what_an_engine_cannot_honour_is_refused(run, api, images, engine, option, value):
    code, _, message = run("simulate", "b", "--input", images, "--engine", engine, option, value)
    assert code == 2 and api.calls == []
    assert f"the engine {engine} knows no {option[2:].replace('-', ' ')} of the memory\n  at:   option {option}\n" in message


def test_verify_shows_only_memories_that_differ(run, api):
    code, text, _ = run("verify", "b", "--engine", "icarus")
    assert code == 0 and "latency 100" not in text and "ideal" in text and "random stalls" in text
    assert [options["memory"] for _, options in api.calls[1:]] == [MemoryModel(), MemoryModel(stall=0.3)]


def test_a_mismatch_is_exit_1_and_still_writes_the_results(run, api, tmp_path, images):
    api.mismatches = 1234
    code, _, message = run("simulate", "b", "--input", images, "--json", tmp_path / "r.json", "--output", tmp_path / "y.npz")
    assert code == 1 and "error: 1,234 output words differ from the integer model" in message
    assert json.loads((tmp_path / "r.json").read_text())["bit_exact"] is False and (tmp_path / "y.npz").exists()


def test_inputs_are_found_by_name(run, api, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.zeros((2, 1, 8, 8)))
    code, _, message = run("simulate", "b", "--input", tmp_path / "x.npz")
    assert code == 2 and "the file holds 'image', the network takes 'x'" in message and len(api.calls) == 1


@pytest.mark.parametrize("count", [0, -1, 7])
def test_number_of_images(run, api, images, count):
    code, _, message = run("simulate", "b", "--input", images, "--images", count)
    assert code == 2 and (f"{count} images are asked for, the file holds 6" if count > 0 else "Invalid value for '--images'") in message
    if count < 1:
        assert run("verify", "b", "--images", count)[0] == 2 and api.calls == []


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04half", None])
def test_input_file_that_is_no_npz(run, api, tmp_path, content):
    if content is not None:
        (tmp_path / "x.npz").write_bytes(content)
    code, _, message = run("simulate", "b", "--input", tmp_path / "x.npz")
    assert code == 2 and "the input cannot be read as .npz" in message and "next: write it with numpy.savez" in message


def test_input_file_with_one_array_or_with_pickles(run, api, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert "one array, not an .npz" in run("simulate", "b", "--input", tmp_path / "x.npy")[2]
    np.savez(tmp_path / "o.npz", x=np.array([{}], dtype=object))
    assert "cannot be read as .npz: Object arrays" in run("simulate", "b", "--input", tmp_path / "o.npz")[2]


def test_truncated_npz(run, api, tmp_path, images):
    (tmp_path / "t.npz").write_bytes(images.read_bytes()[:-60])
    assert run("simulate", "b", "--input", tmp_path / "t.npz")[0] == 2


def test_verify_uses_three_memories(run, api, tmp_path, images):
    code, text, _ = run("verify", "b", "--input", images, "--images", "2", "--json", tmp_path / "v.json")
    assert code == 0 and "random stalls" in text
    memories = [options["memory"] for _, options in api.calls[1:]]
    assert [(m.latency, m.bytes_per_cycle, m.stall) for m in memories] == [(0, 64, 0.0), (100, None, 0.0), (20, None, 0.3)]      # None: one port
    data = json.loads((tmp_path / "v.json").read_text())
    assert data["bit_exact"] is True and len(data["runs"]) == 3 and data["differences"] is None
    always = {key for key in documented("hwgen verify") if not key.startswith("differences[]")}
    assert always == {*data, *(f"runs[].{key}" for key in data["runs"][0])}


def test_verify_makes_its_own_images_and_fails_on_a_mismatch(run, api):
    api.mismatches = 3
    code, _, message = run("verify", "b")
    assert code == 1 and "differs from the integer model with memory: ideal, latency 100, random stalls" in message
    assert api.calls[1][0]["x"].shape == (4, 1, 8, 8) and api.calls[1][0]["x"].dtype == np.float32
    assert run("verify", "b", "--engine", "golden")[0] == 2


def test_targets_lists_the_boards(run, tmp_path):
    code, text, _ = run("targets", "--json", tmp_path / "t.json")
    data = json.loads((tmp_path / "t.json").read_text())["targets"]
    names = {"zcu104", "zcu102", "kv260", "ulx3s-85f", "sim", "pynq-z2", "zedboard", "de10-nano"}
    assert code == 0 and {board["name"] for board in data} == names and all(name in text for name in names)
    zcu104 = next(board for board in data if board["name"] == "zcu104")
    assert f"{zcu104['dsp']:,}" in text and zcu104["clock_mhz"] > 0 and zcu104["sources"]
    assert zcu104["ports"] == {"number": 4, "bits": 128, "clock_mhz": 300}
    assert "port of 128 bits: 16 bytes a cycle; all 4: 42.7, not built" in " ".join(text.split())


@pytest.mark.parametrize("args", [("-q", "targets"), ("targets", "-q"), ("targets", "--quiet")])
def test_quiet_leaves_out_what_people_read(run, args, tmp_path):
    code, text, message = run(*args, "--json", tmp_path / "t.json")
    assert (code, text, message) == (0, "", "") and json.loads((tmp_path / "t.json").read_text())["targets"]
    assert run("targets")[1]                                            # and only that time
    assert json.loads(run(*args, "--json", "-")[1])["targets"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_the_shell(run, monkeypatch, shell):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    code, text, _ = run("--show-completion")
    assert code == 0 and "_COMPLETE" in text
