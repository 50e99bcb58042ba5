"""The HLS project of the bundled example, as a user meets it: compiled, run, broken on purpose, misused."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import zlib

import numpy as np
import pytest

from hwgen import api, cli, quantizer
from hwgen.build import directory
from hwgen.devices.board import load_board
from hwgen.devices.memory import LATENCY, NEAR
from hwgen.engines import hls
from hwgen.engines.hls import csim, estimate
from hwgen.engines.hls.plan import HEADER, plan as make_plan
from hwgen.errors import BuildVersionError, CapacityError, InputError, ToolError
from hwgen.graph import Model
from hwgen.paths import data_dir
from hwgen.run import difference, simulate
from hwgen.steps import golden
from hwgen.steps.stages import Table, exp2
from hwgen.tools import cxx
import qgraphs

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "m3vit_digits"


@pytest.fixture(scope="module")
def acc(tmp_path_factory) -> api.Accelerator:
    """The example, HLS only."""
    return api.compile(EXAMPLE / "model.onnx", calib=EXAMPLE / "calib.npz", out=tmp_path_factory.mktemp("example") / "build", backend="hls")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(EXAMPLE / "test.npz") as arrays:
        return arrays["x"]


@pytest.fixture
def project(acc, tmp_path) -> Path:
    """A copy of its hls/ to work in, compiled."""
    shutil.copy2(csim.build_bench(acc.build.read(acc.build.below("hls"))), tmp_path / "csim")
    return Path(shutil.copytree(acc.build.path / "hls", tmp_path / "hls"))


def bench(project: Path, **options) -> subprocess.CompletedProcess:
    """Runs the compiled bench on its own frames."""
    executable = project.parent / "csim"
    words = {"weights": project / "weights.bin", "input": project / "csim" / "input.bin", "output": project / "output.bin", "frames": 4,
             "tasks": "0,1", "expect": project / "csim" / "expected.bin"} | options
    return subprocess.run([executable, *(str(w) for key, value in words.items() for w in (f"--{key}", value))], capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- the same words

def test_every_test_image_and_both_tasks(acc, images):
    result = acc.simulate({"x": images}, engine="csim")
    assert (result.bit_exact, result.mismatches, result.words, result.images) == (True, 0, len(images) * 12, len(images))
    with np.load(EXAMPLE / "test.npz") as labels:
        assert (result.outputs["digit"].argmax(1) == labels["digit"]).mean() > 0.97


def test_every_intermediate_value(acc, images):
    model = acc.build.model
    (run,) = simulate.run_hls(acc.build, images[:3], [1, 0], lambda *_: None, trace=True).runs
    for frame, trace in enumerate(run.traces):
        task = (1, 0)[frame % 2]
        wanted = golden.trace(model.tasks[task], images[frame // 2][None], detail=True)
        assert {step.value for step in model.tasks[task].steps} <= trace.keys()
        assert [name for name, value in trace.items() if not np.array_equal(value, wanted[name][0])] == []


def test_a_generated_network_of_odd_sizes_without_a_warning(tmp_path):
    """Tasks of different depth, heads that cross words; names that are no identifiers; -Werror."""
    graphs = [qgraphs.random_model(seed, blocks=blocks, dim=36, heads=3, tokens=11, classes=(5,), patch=1, channels=3, hidden=20).tasks[0]
              for seed, blocks in ((4, "dm"), (5, "d"))]
    model = quantizer.quantize(Model(tuple(graphs)), None, random=True)
    images = qgraphs.random_images(qgraphs.random_model(4, tokens=11, patch=1, channels=3), 2)
    plan = make_plan(model, 16, 4)
    files = hls.files(plan, model, "odd", load_board("zcu102"), images)
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    shutil.copy2(csim.build_bench(files, ["-Werror"]), tmp_path / "csim")
    assert bench(tmp_path / "hls").returncode == 0
    assert "values::block0Zdq" in (tmp_path / "hls" / "hwgen_program.hpp").read_text()


# ---------------------------------------------------------------- what is emitted

def test_the_emitted_code_is_short_and_repeats_nothing(acc):
    project = acc.build.path / "hls"
    emitted = [*project.glob("*.?pp"), project / "csim" / "main.cpp", project / "driver" / "host.cpp"]
    assert sum(len(path.read_text().splitlines()) for path in emitted) < 1000
    assert all(len(line) <= 160 for path in emitted for line in path.read_text().splitlines())
    program = (project / "hwgen_program.hpp").read_text()
    rows = [" ".join(row.split()) for row in re.split(r"^ +// .*$", program[program.index("PROGRAM[]"):], flags=re.MULTILINE)[1:]]
    assert len(rows) == len(set(rows)) == len(make_plan(acc.build.model, acc.report()["hls"]["lanes"]).steps)
    assert all(f"{step.node}:" in program for step in acc.build.model.tasks[0].steps)


def test_synthesizable_code_has_nothing_dynamic():
    """No memory from the heap, no standard containers, no virtual calls, no recursion (weight_file.hpp is for hosts only)."""
    forbidden = r"\bnew\b|\bdelete\b|malloc|\bfree\(|virtual|std::(vector|string|map|queue|function|unique_ptr|array|list)|throw|dynamic_cast"
    for path in sorted((data_dir("hls") / "include" / "hwgen").glob("*.hpp")):
        if path.name == "weight_file.hpp":
            continue
        text = re.sub(r"//.*", "", path.read_text())
        assert re.findall(forbidden, text) == [], path.name
        for name, body in re.findall(r"^(?:inline |constexpr )?(?:void|Step|Scale|[\w:]+) (\w+)\([^;{]*\)\n\{\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL):
            assert not re.search(rf"(?<![\w:.>]){name}(<Config>)?\(", body), f"{path.name}: {name} calls itself"
        assert "#pragma HLS" in text or path.name in ("types.hpp", "step.hpp", "sequence.hpp", "variants.hpp")      # records, and what makes them


def test_tcl_scripts_are_complete(acc):
    for path in (acc.build.path / "hls" / "scripts").glob("*.tcl"):
        text = path.read_text()
        assert all(text.count(a) == text.count(b) for a, b in ("{}", "[]", "()"))
        assert "xczu7ev-ffvc1156-2-e" in text and "{{" not in text.replace("{{}", "")
        if tclsh := shutil.which("tclsh"):
            check = f"set f [open {{{path}}}]; puts [info complete [read $f]]"
            assert subprocess.run([tclsh], input=check, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize("source", ["hwgen_top.cpp", "csim/main.cpp", "driver/host.cpp"])
def test_clang_tidy_where_it_is_installed(acc, source):
    """Without clang-tidy only that the file is there: the compiler's warnings are errors in the other tests."""
    project = acc.build.path / "hls"
    assert (project / source).is_file()
    if tidy := shutil.which("clang-tidy"):
        done = subprocess.run([tidy, "--checks=-*,bugprone-*,performance-*", "--header-filter=hwgen", "--warnings-as-errors=*", "--quiet", source,
                               "--", "-std=c++14", "-Wno-unknown-pragmas", "-I.", "-Iinclude", "-isystem", "stub"],
                              cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_commands_of_the_readme_work(project):
    text = (project / "README.md").read_text().replace("\\\n", " ")
    compile_csim, run_csim, compile_host = (shlex.split(line) for line in text.splitlines()
                                            if line.startswith(("    g++", "    csim/csim")))
    subprocess.run([cxx.find(), *compile_csim[1:]], cwd=project, check=True)
    assert json.loads(subprocess.run(run_csim, cwd=project, check=True, capture_output=True, text=True).stdout.splitlines()[-1])["frames"] == 4
    subprocess.run([cxx.find(), *compile_host[1:], "-Wall", "-Wextra", "-Werror", "-Wconversion"], cwd=project, check=True)
    (project / "weights.bin").write_bytes((project / "weights.bin").read_bytes()[:-1])
    done = subprocess.run(["./host", *run_csim[1:7], "--frames", "4", "--tasks", "0,1"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "bytes of weights, its header says" in done.stderr


def test_other_type_headers_are_used_when_named(acc, tmp_path, monkeypatch):
    """HWGEN_AP_TYPES: those headers come first; without hls_stream.h in them the project's own serves."""
    (tmp_path / "ap_int.h").write_text((data_dir("hls") / "stub" / "ap_int.h").read_text() + "\n#define HWGEN_OTHER_TYPES 1\n")
    (tmp_path / "t.cpp").write_text('#include "hwgen/types.hpp"\n#ifndef HWGEN_OTHER_TYPES\n#error "not these"\n#endif\nint main() {}\n')
    monkeypatch.setenv("HWGEN_AP_TYPES", str(tmp_path))
    cxx.compile([tmp_path / "t.cpp"], tmp_path / "t", csim.compiler_flags(acc.build.path / "hls"))
    monkeypatch.setenv("HWGEN_AP_TYPES", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="there is no ap_int.h"):
        csim.compiler_flags(acc.build.path / "hls")


# ---------------------------------------------------------------- where they part

@pytest.fixture(scope="module")
def both(tmp_path_factory) -> api.Accelerator:
    return api.compile(EXAMPLE / "model.onnx", calib=EXAMPLE / "calib.npz",
                       out=tmp_path_factory.mktemp("both") / "build", backend="both", array=(8, 8))


def test_verify_trace_on_the_command_line(both, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(both.build.path), "--images", "1", "--trace", "--json", str(tmp_path / "v.json")])
    assert stop.value.code in (0, None), capsys.readouterr().err
    data = json.loads((tmp_path / "v.json").read_text())
    assert data["differences"] == [] and [run["level"] for run in data["runs"]] == ["rtl"] * 3 + ["csim"]
    assert "every traced value equals the integer model's" in capsys.readouterr().out


def test_a_broken_integer_model_is_found(both, images, monkeypatch):
    """Both levels leave it: the C simulation at the value, the RTL at its outputs."""
    monkeypatch.setattr(exp2, "WEIGHTS", {form: np.roll(weights, 40) for form, weights in exp2.WEIGHTS.items()})
    found = both.first_differences({"x": images[:1]})
    assert {(d.level, d.task) for d in found} == {("csim", 0), ("csim", 1), ("rtl", 0), ("rtl", 1)}
    assert all("attention" in d.node for d in found if d.level == "csim")
    assert {d.value for d in found if d.level == "rtl"} == {network.steps[-1].value for network in both.build.model.tasks}


def test_broken_rtl_and_broken_csim_are_found(both, images):
    """After the tests above: the build stays broken. As if hwgen had written it so: with the digests of what is there."""
    faults = (("rtl/drain_lanes.sv", "frac4[j][17:0]))) >>> 8", "frac4[j][17:0]))) >>> 7"),
              ("hls/include/hwgen/function.hpp", ": f.value[index];", ": f.value[index ^ 1U];"))
    for name, right, wrong in faults:
        text = (both.build.path / name).read_text()
        assert text.count(right) == 1
        (both.build.path / name).write_text(text.replace(right, wrong))
    with pytest.raises(BuildVersionError, match="function.hpp is not what hwgen wrote"):
        both.first_differences({"x": images[:1]})
    files = both.build.files | {name: directory.digest((both.build.path / name).read_bytes()) for name, _, _ in faults}
    found = api.Accelerator(replace(both.build, files=files)).first_differences({"x": images[:1]})
    assert {(d.level, d.task) for d in found} == {("csim", 0), ("csim", 1), ("rtl", 0), ("rtl", 1)}
    first = next(step for step in both.build.model.tasks[0].steps if Table in map(type, step.drain))
    seen = next(d for d in found if (d.level, d.task) == ("csim", 0))
    assert (seen.node, seen.value) == (first.node, first.value) and seen.found != seen.expected
    assert f"node {first.node!r}" in str(seen) and f"first at {list(seen.index)}" in str(seen) and str(seen).count("\n") >= 5
    assert seen.to_dict()["count"] == seen.count > 0


def test_the_first_difference_is_the_first():
    model = qgraphs.random_qgraph(3)
    graph = model.tasks[0]
    wanted = {n: v[0] for n, v in golden.trace(graph, qgraphs.random_images(qgraphs.random_model(3), 1), detail=True).items()}
    found = {name: value.copy() for name, value in wanted.items()}
    assert difference.compare(graph, wanted, found, level="csim", task=0, image=0) is None
    found["block1.moe.logits" if "block1.moe.logits" in found else "block1.out.logits"][2, 1] += 1
    found[graph.steps[-1].value][3] += 1
    assert difference.compare(graph, wanted, found, level="csim", task=0, image=0).value.endswith(".logits")
    found["block0.k"][4, 30:32] -= 5
    seen = difference.compare(graph, wanted, found, level="csim", task=0, image=7)
    assert (seen.value, seen.index, seen.count, seen.image) == ("block0.k", (4, 30), 2, 7)
    assert seen.near[0][0] == (4, 27) and len(seen.near) == 5 and seen.expected - seen.found == 5


# ---------------------------------------------------------------- bad input

@pytest.mark.parametrize("change, message", [
    (lambda b: b[:-32], "bytes of weights, its header says"), (lambda b: b + b"x", "bytes of weights, its header says"),
    (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "is damaged, its digest does not fit"), (lambda b: b[:20], "is no weight file of hwgen"),
    (lambda b: b"HWGENRTL" + b[8:], "is no weight file of hwgen"), (lambda b: b[:8] + b"\x09" + b[9:], "has version 9"),
    (lambda b: b[:12] + b"\x10" + b[13:], "for 16 lanes, this accelerator needs")])
def test_a_wrong_weight_file(project, change, message):
    path = project / "weights.bin"
    path.write_bytes(change(path.read_bytes()))
    done = bench(project)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr and str(path) in done.stderr


def test_the_weights_of_another_compilation(project):
    path = project / "weights.bin"
    header = list(HEADER.unpack(path.read_bytes()[:64]))
    image = path.read_bytes()[64:-1] + b"\x7f"
    path.write_bytes(HEADER.pack(*header[:4], zlib.crc32(image)) + image)
    done = bench(project)
    assert done.returncode == 2 and "of another network or another compilation" in done.stderr


@pytest.mark.parametrize("options, message, code", [
    ({"frames": 5}, "5 frames need", 2), ({"tasks": "0,2"}, "there is no task 2", 2), ({"tasks": "0,x"}, "is no list of numbers", 2),
    ({"weights": "/nowhere"}, "/nowhere: cannot be read", 2), ({"tasks": "1,0"}, "error: output word 0 is", 1),
    ({"output": "/nowhere/o"}, "/nowhere/o: cannot be written", 2), ({"expect": "/nowhere"}, "does not hold", 2)])
def test_bad_options_of_the_bench(project, options, message, code):
    done = bench(project, **options)
    assert done.returncode == code and message in done.stderr


def test_without_a_compiler(acc, images, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolError, match="no C\\+\\+ compiler found") as error:
        acc.simulate({"x": images[:1]}, engine="csim")
    assert error.value.exit_code == 3 and "apt-get install g++" in error.value.hint


def test_engines_a_build_does_not_have(acc, images, tmp_path):
    for need in (lambda: acc.simulate({"x": images[:1]}), lambda: simulate.bench_files(acc.build), acc.synth):
        with pytest.raises(InputError, match="the build holds no RTL") as caught:
            need()
        assert caught.value.where == str(acc.build.path) and "--backend rtl or both" in caught.value.hint
    bare = api.Accelerator(replace(acc.build, files={}))
    with pytest.raises(InputError, match="the build holds no HLS project"):
        bare.simulate({"x": images[:1]}, engine="csim")
    assert (acc.levels, bare.levels) == (("csim",), ())
    with pytest.raises(InputError, match="there is no backend 'vhdl'"):
        api.compile(EXAMPLE / "model.onnx", calib=EXAMPLE / "calib.npz", out=tmp_path / "x", backend="vhdl")


def test_too_large_for_the_board(tmp_path):
    board = tmp_path / "small.yaml"
    text = (data_dir("boards") / "kv260.yaml").read_text()
    board.write_text(re.sub(r"(?m)^bram36: \d+", "bram36: 20", text))
    with pytest.raises(CapacityError, match=r"the HLS engine with 8 lanes needs \d+ bram36, \w+ has 20"):
        estimate.choose(qgraphs.random_qgraph(1), load_board(str(board)))
    with pytest.raises(CapacityError, match="Vitis HLS has no devices of the family ecp5"):
        estimate.choose(qgraphs.random_qgraph(1), load_board("ulx3s-85f"))


def test_the_estimate_grows_with_the_work():
    small, large = (make_plan(qgraphs.random_qgraph(1, hidden=hidden, blocks="dm"), 16, 4) for hidden in (32, 128))
    assert estimate.frame_cycles(small, 64, 200) < estimate.frame_cycles(large, 64, 200)
    assert estimate.frame_cycles(large, 64, 200) == estimate.frame_cycles(large, 16, 200)          # a word of 16 bytes a cycle at most
    assert estimate.resources(make_plan(qgraphs.random_qgraph(1), 32, 4)).dsp > 2 * estimate.resources(small).dsp


@pytest.mark.parametrize("blocks", ["d", "dm"])
def test_the_estimate_counts_the_memory(blocks):
    """Bound by memory: every byte at the rate, and the latency once a step that reads weights. Otherwise the latency once."""
    plan = make_plan(qgraphs.random_qgraph(1, blocks=blocks), 16, 4)
    words = [step.weight_words(plan.lanes) for step in plan.steps]
    reads = sum(n > 0 for n in words)
    assert sum(words) == plan.weight_words and 3 < reads < len(words)
    assert estimate.frame_cycles(plan, 0.01, 0) == round(len(plan.image) / 0.01)
    assert estimate.frame_cycles(plan, 0.01, 200) == round(len(plan.image) / 0.01) + reads * 200
    computing = sum(step.cycles(plan.lanes, plan.queries) for step in plan.steps)
    assert estimate.frame_cycles(replace(plan, steps=plan.steps[:2]), 16, 1) < computing < estimate.frame_cycles(plan, 16, 1) <= computing + 1


def test_the_choice_is_by_the_rule_of_the_rtl(acc):
    """Through one port nearly as fast as the fastest, then the fastest at the memory's best."""
    board, model = load_board("zcu104"), acc.build.model
    chosen = estimate.choose(model, board)
    one, best = (lambda plan, rate=rate: estimate.frame_cycles(plan, rate, LATENCY)
                 for rate in (board.bytes_per_cycle(), board.best_bytes_per_cycle()))
    fit = []
    for lanes in estimate.LANES:
        for queries in estimate.QUERIES:
            plan = make_plan(model, lanes, queries)
            used = estimate.resources(plan)
            if used.dsp <= board.dsp and used.bram36 <= board.bram36 and max(used.lut / board.lut, used.ff / board.ff) <= estimate.FULL:
                fit.append(plan)
    near = [plan for plan in fit if one(plan) <= NEAR * min(map(one, fit))]
    assert len(fit) > len(near) >= 1 and one(chosen) <= NEAR * min(map(one, fit))
    assert best(chosen) == min(map(best, near))


def test_no_cycles_without_their_memory(acc, images):
    """Report and README of the project: one port as it is built, all of them marked; on one port nothing is marked."""
    model = acc.build.model
    plan = make_plan(model, 32, 8)
    found = estimate.report(plan, load_board("zcu104"))
    assert found["memory"] == {"ports": 1, "bytes_per_cycle": 16, "latency": 200} and found["all_ports"]["built"] == "not built"
    assert found["cycles_per_image"] == estimate.frame_cycles(plan, 16, 200) >= found["all_ports"]["cycles_per_image"]
    assert found["all_ports"]["memory"] == {"ports": 4, "bytes_per_cycle": pytest.approx(42.675), "latency": 200}
    text = hls.files(plan, model, "digits", load_board("zcu104"), images[:1])["hls/README.md"]
    rows = [line.split("|")[1:-1] for line in text.splitlines() if "bytes a cycle" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1 port (as generated)", "16 bytes a cycle, latency 200", f"{found['cycles_per_image']:,}", f"{found['latency_ms']:.3g}"],
        ["4 ports (not built)", "42.7 bytes a cycle, latency 200", f"{found['all_ports']['cycles_per_image']:,}",
         f"{found['all_ports']['latency_ms']:.3g}"]]
    assert "MHz (assumed)" in text
    assert estimate.report(plan, load_board("sim"))["all_ports"]["built"] == "built"
    assert (acc.build.path / "hls" / "README.md").read_text().count("bytes a cycle") == 1          # the board sim has one port
