"""Descriptions of builds: every name is in the build, every port has a meaning, the code is the build's, and what is wrong is seen."""

from __future__ import annotations

import json
from pathlib import Path
import re

import pytest

from hwgen import cli
from hwgen.api import compile as compile_model
from hwgen.choices import Grain
from hwgen.describe import Description, rtl
from hwgen.describe.comments import amaranth_units, parsed
from hwgen.describe.cpp import functions
from hwgen.describe.dataflow import assignments
from hwgen.describe.entry import TICKED, told
from hwgen.describe.hardware import Hardware, evaluated
from hwgen.describe.verilog import identifiers, modules
from hwgen.engine import CAN, EngineConfig
from hwgen.engines.rtl import verilog
from hwgen.errors import InputError
from hwgen.paths import data_dir
from hwgen.steps import text as steps_text
from test_cli import documented
from test_cli_example import keys

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"
EVERYTHING = EngineConfig(16, 8, 64, 64, 64, 64, 64, 32, 8, 2, 64, 64, "gelu relu", packed=True, fabric_columns=2, load_columns=2, operand_words=32,
                          list_words=32, **dict.fromkeys(CAN, True))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return compile_model(EXAMPLE / "model.onnx", target="sim", array=(8, 8), calib=EXAMPLE / "calib.npz", backend="both",
                         out=tmp_path_factory.mktemp("describe") / "build")


@pytest.fixture(scope="module")
def told_of(build) -> dict[str, Description]:
    """Every grain, once."""
    return {grain: build.describe(grain) for grain in Grain}


@pytest.fixture(scope="module", params=list(Grain))
def described(request, told_of) -> Description:
    return told_of[request.param]


def texts(build) -> str:
    """Everything a build says of itself, by other ways than the description took."""
    loaded = build.build
    parts = [(loaded.path / name).read_text(errors="replace") for name in loaded.files if not name.endswith((".npz", ".bin", ".onnx"))]
    parts += [line for network in loaded.model.tasks for line in steps_text.lines(network)]
    parts += [f"{step.name}\n{step.node}" for network in loaded.model.tasks for step in network.steps]
    parts += re.findall(r"HWGEN_REG_(\w+)", (loaded.path / "driver" / "registers.h").read_text())
    return "\n".join([*parts, (loaded.path / "manifest.json").read_text(), *loaded.files])


def test_every_name_is_in_the_build(described, build):
    known = texts(build)
    named = {name for entry in described.entries for name in TICKED.findall(entry.description)}
    assert described.unknown == () and len(named) > 20
    assert {name for name in named if not re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", known)} == set()


def test_the_code_is_the_builds(described, build):
    """Modules, functions and rows as they stand in a file; of signals each line that is not a mark of something left out."""
    sources = "\n".join(text.decode(errors="replace") for text in build.build.read(
        [name for name in build.build.files if name.endswith((".sv", ".hpp", ".cpp", ".h", "program.txt"))]).values())
    lines = {line.strip().rstrip(",") for line in sources.splitlines()}
    kinds = {entry.kind for entry in described.entries}
    for entry in described.entries:
        if entry.kind in ("module", "function", "row"):
            assert entry.code in sources, entry.name
        elif entry.grain == "signal":
            shown = [line.strip().rstrip(",") for line in entry.code.splitlines() if "..." not in line and "signals without names" not in line]
            assert shown and [line for line in shown if line and line not in lines] == [], entry.name
    assert kinds == {"summary": {"network", "engine", "registers", "memory map", "program", "figures"},
                     "block": {"module", "function", "step", "instruction", "row"},
                     "signal": {"input", "output", "register", "wire", "memory", "variable", "argument", "array", "stream"}}[described.grain]


def test_both_forms_hold_the_same(described):
    lines = [json.loads(line) for line in described.to_jsonl().splitlines()]
    assert [(line["name"], line["description"], line["code"]) for line in lines] == [(e.name, e.description, e.code) for e in described.entries]
    text = described.to_markdown()
    assert all(f"## {e.kind} {e.name}\n" in text and e.description.rstrip() in text and e.code.rstrip() in text for e in described.entries)
    assert len({(e.kind, e.name) for e in described.entries}) == len(described.entries)


def test_nothing_of_a_build_is_left_out(build, told_of):
    """Every module in use, every instruction, every port."""
    block, signal = told_of["block"], told_of["signal"]
    sources = {name: data.decode() for name, data in build.build.read(build.build.rtl).items()}
    found = modules(sources)
    used = {"hwgen_top"} | {one.module for module in found.values() for one in module.instances}
    assert {e.name for e in block.entries if e.kind == "module"} == used == found.keys()
    told_of = [pc for e in block.entries for pc in e.facts.get("instructions", ())]
    assert sorted(told_of) == list(range(len(build.build.program.instrs)))
    names = {e.name for e in signal.entries}
    header = re.search(r"^module hwgen_top\((.*?)\);", sources["rtl/hwgen_top.sv"], re.DOTALL | re.MULTILINE)
    assert {f"hwgen_top.{port.strip()}" for port in header[1].split(",")} <= names
    assert {"hwgen_top.engine.feeder.retired", "hwgen_top.engine.router.queue_0", "pe_array.skew", "drain_lanes.word8"} <= names


def test_what_is_said_of_known_things(told_of):
    """Against what the sources hold, seen by people."""
    block = {e.name: e for e in told_of["block"].entries}
    feeder, array = block["hwgen_top.engine.feeder"], block["pe_array"]
    assert "one token per cycle" in feeder.description and "| `issue` | output | 1 | a slot is issued |" in feeder.description
    assert array.facts["parameters"]["TI"] == "8" and {"name": "sum", "direction": "output", "bits": 256}.items() <= array.facts["ports"][-1].items()
    assert "SEG + 1 cycles after the token" in array.description
    signal = {e.name: e for e in told_of["signal"].entries}
    retired = signal["hwgen_top.engine.feeder.retired"]
    assert "an output, 8 bits. Their number modulo 256" in retired.description and "rising edge" in retired.description
    assert "always_ff @(posedge clk)\n    retired <=" in retired.code
    assert "weights" in signal["hwgen_top.task"].description or signal["hwgen_top.task"].facts["type"] == "int"


def occurrences(text: str) -> dict[str, set[str]]:
    """{name: left sides that it decides}, line by line: names behind ``=`` or ``<=``. An independent look at what ``dataflow`` finds."""
    found: dict[str, set[str]] = {}
    for line in re.sub(r"//[^\n]*|^ *(?:parameter|localparam|for)\b[^\n]*", "", text, flags=re.MULTILINE).splitlines():
        match = re.match(r"\s*(?:assign |end else |else )?([\w$]+) *(?:\[[^=]*\])? *<?= (?!=)(.*);$", line)
        for name in re.findall(r"(?<![\w$.'])[A-Za-z_$][\w$]*", match[2]) if match and "; " not in line else ():
            found.setdefault(name, set()).add(match[1])
    return found


def test_drivers_and_readers_are_true(build, told_of):
    """Against the text of the whole build: each port of an instance by the direction of its module, each name on a right side."""
    sources = {name: data.decode() for name, data in build.build.read(build.build.rtl).items()}
    bodies = {found[1]: found[0] for text in sources.values() for found in re.finditer(r"^module ([\w$.]+).*?^endmodule", text.replace("\\", ""), re.DOTALL | re.MULTILINE)}
    facts = {entry.name: entry.facts for entry in told_of["signal"].entries if "module" in entry.facts}
    directions = {(module, name): way for module, body in bodies.items()
                  for way, name in re.findall(r"^ *(input|output)\b(?: +logic| +signed| *\[[^]]*\])* *([\w$]+)", body, re.MULTILINE)}
    ends = rights = 0
    for module, body in bodies.items():
        for kind, instance, ports in re.findall(r"^ +([\w$.]+) +(?:#\((?:[^()]|\([^()]*\))*\) )?([\w$]+) \(\n((?: +\.[^\n]*\n)+) *\);", body, re.MULTILINE):
            for port, net in re.findall(r"\.([\w$]+) *\(([\w$]+) *(?:\[[\d:]+\])? *\)", ports):
                if kind in bodies and (own := facts.get(f"{module}.{net}")):
                    output = directions[kind, port] == "output"
                    assert [f"{instance}.{port}" in own[what] for what in ("driven by", "read by")] == [output, not output], (module, net)
                    ends += 1
        decides = occurrences(body)
        for name in decides:
            lefts, waiting = set(), {name}
            while waiting - lefts:  # through nets without names
                lefts |= (waiting := {left for one in waiting if one == name or f"{module}.{one}" not in facts for left in decides.get(one, ())} - lefts)
            own = facts.get(f"{module}.{name}")
            for left in lefts - {name} if own else ():
                assert f"{module}.{left}" not in facts or left in own["read by"], (module, name, left)
                rights += f"{module}.{left}" in facts
    assert ends > 300 and rights > 400
    for name, own in facts.items():
        assert not {*own["driven by"]} & {*own["read by"]}
        assert all(name.rpartition(".")[2] in facts[f"{own['module']}.{other}"]["read by"] for other in own["reads"])


def test_sources_of_known_signals(told_of):
    """A value at the start is no source; a condition and an index are."""
    facts = {entry.name: entry.facts for entry in told_of["signal"].entries}
    assert facts["feed_lanes.from2"]["reads"] == ["fine1", "mode1"]
    assert facts["drain_lanes.out_valid"]["reads"] == ["c1", "last1", "mean1", "out1"]
    assert facts["delay.q"]["reads"] == ["line", "rst"] and facts["delay.q"]["read by"] == []
    assert facts["feed_lanes.exp_rom"]["reads"] == [] and "bank_data" in facts["lane_window.q"]["read by"]
    assert "load_program" in facts["hwgen_top.engine.prog_we"]["read by"] and facts["hwgen_top.dma.input_addr"]["read by"]


def test_a_meaning_is_of_that_very_name(told_of):
    """What two signals of a module share is said of both together, of another unit's net, or of one value cycle by cycle; else nothing is said."""
    shared: dict[tuple[str, str], set[str]] = {}
    meanings = {}
    for entry in told_of["signal"].entries:
        if "module" in entry.facts and (said := entry.facts["meaning"]):
            meanings[entry.name] = said
            shared.setdefault((entry.facts["module"], said), set()).add(re.sub(r"__?\d+$", "", entry.name.rpartition(".")[2]))
    assert {key: names for key, names in shared.items()
            if len(names) > 1 and not re.search(r"… together|^[\w, ]+ together: |^AXI |\(`.*` of `", key[1])} == {} and len(meanings) > 500
    assert meanings["router_chain.token"] == "number of the token, which goes along" and meanings["delay.q"] == "d of N cycles before"
    assert meanings["lane_memory.raddr"] == "word that is read" and "never 0" in meanings["hwgen_top.registers.frames"]
    assert meanings["hwgen_top.registers.weight_addr"] == "weight_… together: the registers as they stand: to be sampled at `start`"
    assert not {"feed_lanes.over_t2", "feed_lanes.over_u2", "hwgen_top.registers.wr_before"} & meanings.keys()


@pytest.mark.parametrize(("text", "made"), [
    ("initial begin a = 0; b = c; end", {"a": set(), "b": set()}),
    ("always_ff @(posedge clk) if (en) m[at] <= d; else if (s.v) q <= 8'hd0;",
     {"m": {"clk", "en", "at", "d"}, "q": {"clk", "en", "s"}}),
    ("always_comb begin x = y <= z; case (k) 2'd1: {u, v[i]} = w; default: u = 0; endcase end",
     {"x": {"y", "z"}, "u": {"k", "w", "i"}, "v": {"k", "w", "i"}}),
    ("for (genvar g = 0; g < N; g++) begin : g_a assign o[g] = p[8*g +: 8]; end", {"o": {"g", "N", "p"}}),
    ("logic [3:0] e = f, h;", {"e": {"f"}}), ("s += t;", {"s": {"s", "t"}}), (r"assign \a.b [2] = \c$1 ;", {"a.b": {"c$1"}})])
def test_an_assignment_is_taken_apart(text, made):
    found: dict[str, set[str]] = {}
    for one in assignments(text):
        for target in one.targets:
            found.setdefault(target, set()).update(one.reads)
    assert found == made


def test_steps_are_told_as_the_program_has_them(told_of):
    """Memories are those that the instructions write; no remark of a docstring is left that is of another step."""
    entries = [entry for entry in told_of["block"].entries if entry.kind == "step"]
    with_instructions = 0
    for entry in entries:
        said = {memory for pair in re.findall(r"memory ([\w ]+)\)", entry.description) for memory in pair.split(" and ")}
        written = {word.partition("_")[0] for word in re.findall(r"^ *\d+ \w+ (\w+) *<-", entry.code, re.MULTILINE)}
        assert not entry.facts["instructions"] or said == written, entry.name
        with_instructions += bool(entry.facts["instructions"])
        assert "PRE_ACTIVATIONS" not in entry.description and "None: " not in entry.description and "limit:" not in entry.description
    assert with_instructions > 30
    found = {entry.name: entry.description for entry in entries}
    assert found["node_linear"].count("memory kv") == 2 and "no instruction of its own for it: those that stream" in found["node_layer_norm"]
    assert "function = gelu" in found["node_linear_2"]


def test_the_summary_says_things_once(told_of):
    text = told_of["summary"].to_markdown()
    assert "```json" not in text and text.count("byte address of the weight image, low half") == 1 and text.count("%3 x weights [64, 64]") < 4
    assert text.count("\n") < 330


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, str], frozenset[str]]:
    """Sources of an engine that can do everything, and their names."""
    sources = {name: text for name, text in verilog.files(EVERYTHING).items() if name.endswith(".sv")}
    return sources, frozenset(set(sources).union(*map(identifiers, sources.values())))


def test_every_port_of_every_unit_has_a_meaning(whole):
    """From the comments of the sources; a net that Yosys named has none but what it is connected to."""
    sources, names = whole
    hardware = Hardware(sources, names)
    silent = {f"{unit.name}.{port.name}" for unit in hardware.units.values() for port in unit.module.ports if not hardware.meaning(unit, port.name)}
    assert {name for name in silent if not re.search(r"\$\d+$|_\d+$|\.stage0_", name)} == set()
    assert all(unit.docs.function for unit in hardware.units.values())
    assert {unit.name for unit in hardware.units.values() if unit.name != "hwgen_top" and not (unit.docs.timing or unit.docs.tables)} <= {
        "hwgen_top.writer.addrs", "hwgen_top.writer.words", "lane_window"}
    assert Description("x", "block", tuple(rtl.blocks(hardware, names)), names).unknown == ()


def test_a_comment_with_a_wrong_name_is_seen(whole):
    """In the SystemVerilog of a build, and in the docstring of a unit."""
    sources, names = whole
    spoiled = sources | {"rtl/accumulator.sv": sources["rtl/accumulator.sv"].replace("leaves on `acc`", "leaves on `account`")}
    found = Description("x", "block", tuple(rtl.blocks(Hardware(spoiled, names), names)), names)
    assert {name for _, name in found.unknown} == {"account"} and {entry for entry, _ in found.unknown} == {"accumulator"}
    assert told("see `hwgen.engine.retire_latency`, `Feeder`, ``tile`` and `tiel`", {"tile"}, {"Feeder"}) == (
        "see hwgen.engine.retire_latency, Feeder, `tile` and `tiel`")
    assert told("see `hwgen.engine.retire_latncy` and `x + 1`", ()) == "see `hwgen.engine.retire_latncy` and x + 1"


def test_a_comment_is_taken_apart():
    docs = parsed("here", ["Adds.", "", "a, b 8   what is added;  done: pulse", "c        the sum,", "         of both", "s_*      all of these", "",
                           "cycle 2   c   is there", "From a to c: 2 cycles. Cost: an adder."], {"a", "b", "c", "done", "s_x"})
    assert docs.function == "Adds." and docs.ports["a"] == docs.ports["b"] == "what is added" and docs.ports["done"] == "pulse"
    assert docs.ports["c"] == "the sum, of both; cycle 2: is there" and docs.family("s_x") == "s_… together: all of these"
    assert docs.timing == "From a to c: 2 cycles." and docs.cost == "Cost: an adder."


@pytest.mark.parametrize(("text", "value"), [("8*TI-1", 127), ("$clog2(TI)", 4), ("(2<<FW)-1", 3), ("TI > 8 ? $clog2(TI) : 1", 4), ("32'd5", 5),
                                             ("TI/2*3", 24), ("X+1", None), ("TI/0", None), ("'0", None)])
def test_sizes_are_computed(text, value):
    assert evaluated(text, {"TI": 16, "FW": 1}) == value


def test_every_unit_of_the_engine_has_a_docstring():
    assert {name for name, (_, node, _) in amaranth_units().items() if not node.body} == set() and {"Feeder", "Top"} <= amaranth_units().keys()


def test_functions_are_found_with_comments_and_arguments():
    files = {path.name: path.read_text() for path in (data_dir("hls") / "include" / "hwgen").glob("*.hpp")}
    found = functions(files)
    assert found["exp2_p8"].comment.startswith("255 * 2**(-distance") and found["exp2_p8"].arguments == (("unsigned", "distance", ""), ("unsigned", "frac", ""))
    assert found["drain"].arguments[4][1:] == ("acc", "[Config::LANES]") and found["drain"].text.count("{") == found["drain"].text.count("}")


@pytest.fixture
def run(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return stop.value.code or 0, captured.out, captured.err
    return call


def test_the_command(run, build, told_of, tmp_path):
    path = build.build.path
    assert run("describe", path) == (0, told_of["summary"].to_markdown(), "")
    code, out, _ = run("describe", path, "--grain", "block", "--format", "jsonl", "-o", tmp_path / "pairs.jsonl")
    assert (code, out) == (0, "") and (tmp_path / "pairs.jsonl").read_text() == told_of["block"].to_jsonl()


def test_json_has_the_documented_keys(run, build, tmp_path):
    assert run("describe", build.build.path, "-o", tmp_path / "d.md", "--json", tmp_path / "d.json")[0] == 0
    data = json.loads((tmp_path / "d.json").read_text())
    assert keys(data, ("entries",)) == documented("hwgen describe") and data == build.describe().to_dict()
    assert json.loads(run("describe", build.build.path, "--json", "-")[1]) == data
    assert run("describe", build.build.path, "--json", "-", "-o", "-")[0] == 2                # two results for one place


def test_bad_input_is_one_message(run, build, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run("describe", tmp_path / "empty")[0] == 2 and run("describe", tmp_path / "none")[0] == 2
    (tmp_path / "file").write_bytes(b"\0garbage")
    for command in ("describe", "report", "simulate"):
        more = ["-o", tmp_path / "out.md"] if command == "describe" else ["--input", tmp_path / "file"] if command == "simulate" else []
        code, out, err = run(command, tmp_path / "file", *more)
        assert code == 2 and out == "" and "a file, not a build directory" in err and not (tmp_path / "out.md").exists()
    code, _, err = run("estimate", tmp_path / "empty")
    assert code == 2 and "give the ONNX file" in err
    for option, word, there in (("--grain", "bit", "summary, block, signal"), ("--format", "xml", "md, jsonl")):
        code, _, err = run("describe", build.build.path, option, word)
        assert code == 2 and f"there is no {option[2:]} '{word}'" in err and f"there are {there}" in err
    with pytest.raises(InputError, match="no grain 'bit'"):
        build.describe("bit")


def test_a_build_of_another_version(run, build, tmp_path):
    other = tmp_path / "old"
    other.mkdir()
    manifest = json.loads((build.build.path / "manifest.json").read_text()) | {"version": "0.0.1"}
    (other / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = run("describe", other)
    assert code == 2 and "made by hwgen 0.0.1" in err
