"""`hwgen core`: what the folders hold, that golden model, C++ and RTL agree under pauses, and what is refused. bench/cores.py tries many more sizes."""

from __future__ import annotations

import json
import os
from pathlib import Path
import re
import subprocess
import sys

import numpy as np
import pytest

from hwgen import api, cli, cores, numerics as nx
from hwgen.cores import folder
from hwgen.errors import InputError, OutputError, ToolError
from hwgen.output import check_target
from hwgen.tools import cxx, icarus, verilator, yosys
from hwgen_rtl import arrays
from hwgen_rtl.cores import matrix, rows, streams

TINY = {"softmax": {"length": 6, "lanes": 2, "out_bits": 16}, "activation": {"lanes": 2}, "layernorm": {"length": 8, "lanes": 2},
        "moe-router": {"experts": 4, "top_k": 2}, "linear": {"tokens": 3, "inputs": 16, "outputs": 16, "out_bits": 16},
        "attention": {"tokens": 5, "head_dim": 16, "causal": True}}
FEW = ("--only", "bursts/behind=often|wrong_row")          # of a bench that takes long


def run(place: Path, *options: str) -> subprocess.CompletedProcess:
    """The folder's own bench, with no hwgen of this checkout on the path."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([sys.executable, place / "run.py", *options], capture_output=True, text=True, env=environment, check=False)


def need(tool) -> None:
    try:
        tool()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made("softmax", "rtl") -> its folder, made once."""
    found = {}

    def make(name: str, backend: str) -> Path:
        if (name, backend) not in found:
            found[name, backend] = tmp_path_factory.mktemp("core") / backend
            api.core(name, backend, found[name, backend], **TINY[name])
        return found[name, backend]
    return make


def test_every_template_is_tried():
    assert set(TINY) == set(cores.TEMPLATES)


@pytest.mark.parametrize("name", TINY)
def test_the_rtl_is_bit_exact_under_pauses(name, made):
    need(icarus.find)
    done = run(made(name, "rtl"), "--sim", "icarus", *(FEW if cores.TEMPLATES[name].header == "matrix.hpp" else ()))
    assert done.returncode == 0 and "bit-exact on icarus" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    said = (made(name, "rtl") / "sim_icarus" / "build.log").read_text().splitlines()
    assert [line for line in said if "warning" in line and "to be synthesized in an always_ff process" not in line] == []


@pytest.mark.parametrize("name", TINY)
def test_the_c_code_is_bit_exact(name, made):
    need(cxx.find)
    done = run(made(name, "hls"))
    assert done.returncode == 0 and "bit-exact in C simulation" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("name", TINY)
def test_verilator_has_nothing_to_say(name, made):
    place = made(name, "rtl") / "rtl"
    top = json.loads((place.parent / "core.json").read_text())["top"]
    verilator.lint([place / file for file in (place / "filelist.f").read_text().split()], top, [place / "waivers.vlt"])


def test_yosys_reads_it(made):
    """All it has to say is that small arrays become registers."""
    place = made("moe-router", "rtl") / "rtl"
    names = (place / "filelist.f").read_text().split()
    commands = [*(f"read_verilog -sv {name}" for name in names), "hierarchy -check -top hwgen_moe_router", "proc", "check -assert"]
    log = yosys.script(commands, {name: (place / name).read_text() for name in names}, ())[1]
    assert [line for line in log.splitlines() if not re.match(r"Warning: Replacing memory .* with list of registers", line)] == []


def small_queue(depth, **ports):
    """A queue with fewer places than are counted."""
    return arrays.stream_fifo(max(2, depth // 4), **ports)


@pytest.mark.parametrize("name, owner, attribute, value", [
    ("softmax", rows, "STATISTICS", 8),                     # the maximum of a row without its last word
    ("softmax", streams, "stream_fifo", small_queue),       # words that find no place
    ("activation", rows, "DRAIN", 7),                       # tlast a word early
    ("layernorm", rows, "FEED", 4),
    ("moe-router", streams, "stream_fifo", small_queue),
    ("linear", matrix, "position", lambda m, name, words, step: streams.position(m, name, words + 1, step))])        # tlast a word late
def test_a_fault_of_the_ports_is_seen(name, owner, attribute, value, tmp_path, monkeypatch):
    need(icarus.find)
    monkeypatch.setattr(owner, attribute, value)
    api.core(name, "rtl", tmp_path / "c", **TINY[name])
    done = run(tmp_path / "c", "--sim", "icarus", *FEW)
    assert done.returncode == 1 and "tests failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_fault_of_the_c_code_is_seen(tmp_path):
    need(cxx.find)
    api.core("softmax", "hls", tmp_path / "c", **TINY["softmax"])
    source = tmp_path / "c" / "rows.hpp"
    source.write_text(source.read_text().replace("Res top = -32767;", "Res top = 0;"))
    assert "words differ" in run(tmp_path / "c").stdout


def test_golden_needs_numpy_alone(made):
    code = ("import sys, numpy as np, golden, words\np = words.parameters()\nx = np.array([[0, 64, 128, -64, 0, 0]])\n"
            "print(golden.golden(p, x).tolist(), any(name.split('.')[0] == 'hwgen' for name in sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=made("softmax", "rtl"),
                          env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, check=True)
    shares = nx.exp2_p8(np.array([128, 64, 0, 192, 128, 128]))
    want = nx.requantize(shares, *nx.softmax_factor(shares.sum(), 1 << 15, 0), 16)
    assert done.stdout == f"[{want.tolist()}] False\n", done.stderr


@pytest.mark.parametrize("name", [*cores.TEMPLATES, *cores.ALIASES])
def test_golden_is_near_the_float_function(name):
    for case, largest, mean in folder.accuracy(cores.plan(name)):
        assert mean <= largest < (0.51 if name == "linear" else 0.07), case          # its results are counted in their own unit


def test_a_name_may_fix_a_parameter():
    assert cores.plan("silu").p.function == "silu" and cores.plan("rmsnorm").p.rms
    assert cores.plan("gelu", settings={"lanes": "16"}).command == "hwgen core gelu --backend rtl --set lanes=16"


@pytest.mark.parametrize("name, settings, message, hint", [
    ("softmx", {}, "no core 'softmx', did you mean softmax?", "softmax, "),
    ("softmax", {"lane": "8"}, "no parameter 'lane', did you mean lanes?", "length, lanes, frac"),
    ("softmax", {"lanes": "16", "length": "100"}, "lanes = 16 does not divide length = 100", "1, 2, 4; or fill rows up with -32768"),
    ("layernorm", {"length": "197"}, "lanes = 8 does not divide length = 197", "1; rows cannot be filled up"),
    ("softmax", {"lanes": "16.0"}, "lanes = 16.0 is not possible", "1, 2, 4, 8"),
    ("softmax", {"lanes": 16.0}, "lanes = 16.0 is not possible", "1, 2, 4, 8"),
    ("softmax", {"lanes": True}, "lanes = True is not possible", "1, 2, 4, 8"),
    ("softmax", {"length": "1_0"}, "length = 1_0 is not possible", "1 .. 4095"),
    ("softmax", {"lanes": "3"}, "lanes = 3 is not possible", "1, 2, 4, 8"),
    ("softmax", {"length": "5000"}, "length = 5000 is not possible", "1 .. 4095"),
    ("softmax", {"length": "nan"}, "length = nan is not possible", "1 .. 4095"),
    ("activation", {"function": "gleu"}, "function = gleu is not possible, did you mean gelu?", "silu"),
    ("gelu", {"function": "silu"}, "contradicts the name gelu", "hwgen core activation"),
    ("activation", {"out_scale": "1e-9"}, "out_scale = 1e-9 is not possible", "unit of the result"),
    ("layernorm", {"eps": "1", "in_scale": "1e-6"}, "eps = 1 is too large", "2**48"),
    ("layernorm", {"rms": "maybe"}, "rms = maybe is not possible", "on, off"),
    ("layernorm", {"length": "1024", "out_bits": "16", "out_scale": "0.0001", "eps": "0"}, "out_scale = 0.0001 is too small", "eps"),
    ("moe-router", {"top_k": "9"}, "top_k = 9 exceeds experts = 8", "at most"),
    ("linear", {"inputs": "20"}, "lanes = 8 does not divide inputs = 20", "8, 16, 32, 64"),
    ("attention", {"tokens": "1024"}, "a frame of scores takes 131,072 words, at most 65,536", "more lanes"),
    ("attention", {"lanes": "4"}, "lanes = 4 is not possible", "8, 16, 32, 64"),
    ("attention", {"v_scale": "16", "out_scale": "1e-6"}, "v_scale / out_scale = 1.6e+07 is out of", "other scales"),
    ("moe-router", {"experts": "65"}, "experts = 65 is not possible", "1 .. 64")])
def test_what_is_not_possible_is_refused_with_what_is(name, settings, message, hint):
    with pytest.raises(InputError) as refused:
        cores.plan(name, "rtl", settings)
    assert message in refused.value.message and hint in (refused.value.hint or "")


@pytest.mark.parametrize("frac", [4, 6, 8, 10])
def test_rows_of_the_softmax_may_be_filled_up(frac):
    """From the largest score on that the error names; below it they may not."""
    with pytest.raises(InputError) as refused:
        cores.plan("softmax", settings={"length": 197, "lanes": 8, "frac": frac})
    border = int(re.search(r"largest score of a row is (-?\d+) or more", refused.value.hint)[1])
    row, full = (cores.plan("softmax", settings={"length": length, "lanes": 1, "frac": frac, "out_bits": 16}) for length in (197, 200))
    scores = np.random.default_rng(1).integers(-32767, border + 1, (4, 197))
    for largest, same in ((border, True), (border - (1 << frac), False)):
        x = np.minimum(scores, largest)
        x[:, 5] = largest
        filled = full.golden.golden(full.p, np.pad(x, ((0, 0), (0, 3)), constant_values=-32768))
        assert np.array_equal(filled[:, :197], row.golden.golden(row.p, x)) == same and (not same or not filled[:, 197:].any())


@pytest.mark.parametrize("name, backend", [("moe-router", "rtl"), ("softmax", "rtl"), ("softmax", "hls")])
def test_the_folder_says_what_it_is(name, backend, made):
    place = made(name, backend)
    for file in json.loads((place / "manifest.json").read_text())["files"]:
        first = (place / file).read_text().split("\n", 1)[0]
        assert "SPDX-License-Identifier: Apache-2.0" in first or file.endswith((".json", ".md", ".f", ".vlt")), file
    readme = " ".join((place / "README.md").read_text().split())
    assert "Apache-2.0" in readme and "times log2(e)" in readme
    assert ("active high: connect `!aresetn`" in readme) == (backend == "rtl") == ("| by formula, without pauses;" in readme)
    assert ("The result of a word has the `tlast` of the word" in readme) == (name == "moe-router") == ("all logits of a token" in readme)


def test_cycles_are_counted_where_they_are_wanted(tmp_path):
    need(icarus.find)
    api.core("linear", "rtl", tmp_path / "c", simulate=True, **TINY["linear"])
    assert re.search(r"to the first result \| \d\d \| measured in simulation, without pauses", (tmp_path / "c" / "README.md").read_text())


def test_nothing_is_written_over_what_is_not_a_core(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "manifest.json").write_text(json.dumps({"generator": "hwgen", "version": "0", "files": {}}))
    for place, message in (("full", "not a hwgen build"), ("build", "the build of a network")):
        with pytest.raises(OutputError, match=message):
            api.core("moe-router", "hls", tmp_path / place)
    with pytest.raises(InputError):
        api.core("moe-router", "hls", tmp_path / "new", experts=4, top_k=5)
    with pytest.raises(InputError, match="RTL only"):
        api.core("moe-router", "hls", tmp_path / "new", synth=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["build", "full"]


def test_a_changed_core_is_not_replaced(tmp_path):
    place = tmp_path / "c"
    api.core("moe-router", "hls", place, experts=4)
    (place / "mine.txt").write_text("kept")
    (place / "run.py").unlink()                                 # what is gone comes again
    api.core("moe-router", "hls", place, experts=5)             # the same with other parameters
    assert "experts=5" in (place / "README.md").read_text() and (place / "mine.txt").exists() and (place / "run.py").exists()
    with (place / "rows.hpp").open("a") as file:
        file.write("// mine")
    edited = (place / "rows.hpp").read_text()
    for name, backend, message in (("moe-router", "hls", "was changed, which would be lost: rows.hpp\n"),
                                   ("moe-router", "rtl", "another core: moe-router, backend hls"), ("gelu", "hls", "another core: moe-router")):
        with pytest.raises(OutputError, match=message):
            api.core(name, backend, place)
    assert (place / "rows.hpp").read_text() == edited and "experts=5" in (place / "README.md").read_text()


def test_files_of_others_are_not_replaced(tmp_path):
    place = tmp_path / "c"
    api.core("moe-router", "rtl", place)
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"]["words.py"], manifest["files"]["rtl/delay.sv"]
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(OutputError, match="lost: rtl/delay.sv, words.py\n"):
        api.core("moe-router", "rtl", place)


def test_networks_and_cores_do_not_replace_each_other(tmp_path, capsys):
    api.core("moe-router", "hls", tmp_path / "c")
    with pytest.raises(OutputError, match="holds a core"):
        check_target(tmp_path / "c")
    for command in (("report",), ("verify",), ("synth",), ("show",), ("describe",), ("compare", str(tmp_path / "c"))):
        with pytest.raises(SystemExit):
            cli.main([*command, str(tmp_path / "c")])
        said = capsys.readouterr().err
        assert "this is a core, not the build of a network" in said and f"{tmp_path / 'c' / 'run.py'}" in said, command


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(list(args))
        shown = capsys.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err
    code, text, _ = call("core", "--json", "list.json")
    assert code == 0 and all(name in text for name in (*cores.TEMPLATES, *cores.ALIASES))
    assert set(json.loads((tmp_path / "list.json").read_text())["cores"]) == set(cores.TEMPLATES)
    code, text, _ = call("core", "relu", "--backend", "hls", "--set", "lanes=4", "--json", "core.json")
    assert code == 0 and "written to hwgen_relu_hls" in text and "python hwgen_relu_hls/run.py" in text
    told = json.loads((tmp_path / "core.json").read_text())
    assert told["ports"] == {"s_axis": 64, "m_axis": 32} and told["parameters"]["function"] == "relu"
    readme = (tmp_path / "hwgen_relu_hls" / "README.md").read_text()
    assert "hwgen core relu --backend hls --set lanes=4" in readme and "| x within -1 .. 1 |" in readme
    code, text, _ = call("core", "relu", "--backend", "hls")
    assert code == 0 and "replaced in hwgen_relu_hls" in text
    code, text, _ = call("core", "relu")
    assert code == 0 and "written to hwgen_relu," in text and (tmp_path / "hwgen_relu" / "rtl").is_dir()
    for args, message in ((("--set", "lanes"), "'lanes' is no setting"), (("--set", "lanes=4", "--set", "lanes=8"), "lanes is set twice"),
                          (("-o", ""), "the name of the directory is empty"), (("--backend", "vhdl"), "no backend 'vhdl'")):
        code, _, text = call("core", "gelu", *args)
        assert code == 2 and message in text
