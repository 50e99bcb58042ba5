"""RTL backend: widths made explicit in RTLIL, one rule at a time and proved by SAT; which files an engine has."""

import json
import os
from pathlib import Path
from random import Random
import subprocess
import sys

from hypothesis import given, strategies as st
import pytest

from hwgen.engine import EngineConfig
from hwgen.engines.rtl import rtlil, verilog as rtl
from hwgen.engines.rtl.rtlil import Cell, explicit, explicit_widths, format_signal, parse_signal, resized
from hwgen.errors import ToolError
from hwgen.paths import data_dir
from hwgen.tools import cache, verilator, yosys

SMALL = EngineConfig(ti=8, to=8, max_tokens=16, act_words=32, kv_words=32, score_words=32, res_words=32, program_words=16,
                     max_experts=0, max_top_k=0, axi_data_bits=64, fifo_beats=32)
UNARY = ("$not", "$neg", "$pos", "$logic_not", *sorted(rtlil.REDUCE))
BINARY = (*sorted(rtlil.ARITHMETIC - set(UNARY)), *sorted(rtlil.COMPARE), "$logic_and", "$logic_or")
SHIFTS = (*sorted(rtlil.LEFT), *sorted(rtlil.RIGHT))
WIRES = {"\\a": 4, "\\b[0]": 2, "$1": 1, "\\y": 6}


def installed(find):
    try:
        return find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


def wire(name, width):
    return tuple((name, i) for i in range(width))


def cell(kind, a, b, y, signed=0):
    """An operator on the wires a, b (0 bits: none) and y of these widths."""
    ports = {"A": wire("\\a", a), **({"B": wire("\\b", b)} if b else {}), "Y": wire("\\y", y)}
    signs = {f"{p}_SIGNED": signed for p in ports if p != "Y"}
    return Cell(kind, "$c", signs | {f"{p}_WIDTH": len(s) for p, s in ports.items()}, ports)


# signals

@pytest.mark.parametrize("text, lowest_first", (
    ("4'10x0", "0x01"), ("1'1", "1"), ("5", "101" + "0" * 29), ("-1", "1" * 32), ("3'1-z", "zx1"),
    ("\\a", wire("\\a", 4)), ("\\a [2]", (("\\a", 2),)), ("\\a [3:2]", (("\\a", 2), ("\\a", 3))),
    ("\\b[0] [1]", (("\\b[0]", 1),)), ("$1", (("$1", 0),)),
    ("{ 2'10 \\a [1:0] $1 }", (("$1", 0), ("\\a", 0), ("\\a", 1), "0", "1")),
    ("{ 1'0 { \\b[0] 1'1 } [1:0] }", ("1", ("\\b[0]", 0), "0"))))
def test_signals_are_read(text, lowest_first):
    assert parse_signal(text, WIRES) == tuple(lowest_first)


@given(st.lists(st.sampled_from(["0", "1", "x", "z", *wire("\\a", 4), *wire("\\b[0]", 2), *wire("$1", 1)]), min_size=1))
def test_signals_are_written_as_they_are_read(bits):
    assert parse_signal(format_signal(tuple(bits)), WIRES) == tuple(bits)


def test_neighbouring_bits_are_joined():
    assert format_signal(("0", "1", *wire("\\a", 4), ("\\a", 3), ("\\a", 3))) == "{ \\a [3:3] \\a [3:3] \\a [3:0] 2'10 }"


def test_resized():
    a = wire("\\a", 3)
    assert resized(a, 2, True) == a[:2] and resized(a, 5, False) == (*a, "0", "0") and resized(a, 5, True) == (*a, a[2], a[2])


# one rule at a time

@pytest.mark.parametrize("kind", sorted(rtlil.ARITHMETIC - set(UNARY)))
def test_operands_of_arithmetic_get_the_width_of_the_result(kind):
    (narrow,) = explicit(cell(kind, 2, 1, 3))
    assert narrow.ports["A"] == (*wire("\\a", 2), "0") and narrow.ports["B"] == (("\\b", 0), "0", "0")
    (signed,) = explicit(cell(kind, 2, 5, 3, signed=1))
    assert signed.ports["A"] == (*wire("\\a", 2), ("\\a", 1)) and signed.ports["B"] == wire("\\b", 3)
    assert signed.parameters == {"A_SIGNED": 1, "B_SIGNED": 1, "A_WIDTH": 3, "B_WIDTH": 3, "Y_WIDTH": 3}


@pytest.mark.parametrize("kind", sorted(rtlil.COMPARE))
def test_compared_operands_get_the_wider_width(kind):
    found, (target, source) = explicit(cell(kind, 2, 3, 2))
    assert found.ports["A"] == (*wire("\\a", 2), "0") and found.ports["B"] == wire("\\b", 3)
    assert len(found.ports["Y"]) == found.parameters["Y_WIDTH"] == 1
    assert target == wire("\\y", 2) and source == (*found.ports["Y"], "0")


def test_logic_not_of_several_bits_compares_with_zero():
    (found,) = explicit(cell("$logic_not", 3, 0, 1))
    assert (found.type, found.ports["B"], found.parameters["B_WIDTH"]) == ("$eq", ("0", "0", "0"), 3)
    (same,) = explicit(cell("$logic_not", 1, 0, 1))
    assert same.type == "$logic_not"


def test_logic_of_several_bits_reduces_them_first():
    reduce, found = explicit(cell("$logic_and", 3, 1, 1))
    assert (reduce.type, reduce.ports["A"]) == ("$reduce_bool", wire("\\a", 3))
    assert found.ports["A"] == reduce.ports["Y"] and found.ports["B"] == wire("\\b", 1)


def test_shift_right_to_fewer_bits_is_wide_and_cut():
    found, (target, source) = explicit(cell("$sshr", 5, 2, 3, signed=1))
    assert found.ports["A"] == wire("\\a", 5) and len(found.ports["Y"]) == 5
    assert target == wire("\\y", 3) and source == found.ports["Y"][:3]
    (left,) = explicit(cell("$shl", 5, 2, 3))
    assert left.ports["A"] == wire("\\a", 3) and left.ports["B"] == wire("\\b", 2)
    assert explicit(cell("$shift", 3, 2, 5))[0].type == "$shr"


@pytest.mark.parametrize("wrong, message", (
    (cell("$div", 2, 2, 2), "no rule for the widths of the cell type \\$div"),
    (cell("$shift", 2, 2, 2, signed=1), "of a signed \\$shift")))
def test_cells_without_a_rule_are_refused(wrong, message):
    with pytest.raises(ToolError, match=message):
        explicit(wrong)


@pytest.mark.parametrize("line, message", (
    ("  wire width 2 upto \\w\n", "does not count its bits from 0 up"),
    ("  cell $not $c\n    connect \\A %\n  end\n", "signal not understood: '%'"),
    ("  cell $not $c\n    wait\n  end\n", "of cell \\$c not understood: 'wait'")))
def test_unknown_text_is_refused(line, message):
    with pytest.raises(ToolError, match=message):
        explicit_widths(f"module \\m\n{line}end\n")


def test_the_rest_of_the_text_stays():
    text = "module \\m\n  wire width 4 signed input 1 \\i\n  memory width 4 size 2 \\x\n" \
           "  cell \\m $c\n    connect \\i 4'0000\n  end\nend\n"
    assert explicit_widths(text) == text.replace("signed ", "")


# the same function, proved

def random_module(seed: int) -> str:
    """RTLIL with every operator several times, small random widths and signs."""
    random = Random(seed)
    ports, cells = [], []
    for number, kind in enumerate((*UNARY, *BINARY, *SHIFTS) * 3):
        names = "A" if kind in UNARY else "AB"
        sign = int(kind != "$shift" and random.random() < 0.6)          # the same for both operands, of a shift for A only
        signed = {p: sign if p == "A" or kind not in SHIFTS else 0 for p in names}
        widths = {p: random.randint(1, 5) for p in (*names, "Y")}
        if kind in SHIFTS:
            widths["B"] = random.randint(1, 3)
        lines = [f"    parameter \\{p}_SIGNED {s}\n" for p, s in signed.items()]
        for p, width in widths.items():
            ports.append(f"  wire width {width} {'output' if p == 'Y' else 'input'} {len(ports) + 1} \\{p.lower()}{number}\n")
            lines.append(f"    parameter \\{p}_WIDTH {width}\n    connect \\{p} \\{p.lower()}{number}\n")
        cells.append(f"  cell {kind} $c{number}\n{''.join(lines)}  end\n")
    return f"module \\top\n{''.join(ports + cells)}end\n"


def verilog(text: str) -> str:
    return yosys.script(("read_rtlil m.il", "write_verilog -norename -noattr -sv m.sv"), {"m.il": text}, ("m.sv",))[0]["m.sv"]


def prove_equal(text: str, gate: str) -> None:
    """Raises ToolError when the RTLIL and the Verilog differ for some input."""
    yosys.script(("read_rtlil gold.il", "rename top gold", "design -stash gold", "read_verilog -sv gate.sv", "proc", "rename top gate",
                  "design -stash gate", "design -copy-from gold gold", "design -copy-from gate gate",
                  "miter -equiv -flatten -make_outputs gold gate miter", "sat -verify -prove trigger 0 miter"),
                 {"gold.il": text, "gate.sv": gate}, ())


@pytest.mark.parametrize("seed", range(3))
def test_verilog_with_explicit_widths_is_equal_and_lint_clean(seed, tmp_path):
    installed(yosys.find)
    installed(verilator.find)
    text = random_module(seed)
    gate = verilog(explicit_widths(text))
    prove_equal(text, gate)
    (tmp_path / "top.sv").write_text(gate)
    verilator.lint([tmp_path / "top.sv"], "top", ["UNUSEDSIGNAL"])
    (tmp_path / "top.sv").write_text(verilog(text))
    with pytest.raises(ToolError, match="WIDTH"):
        verilator.lint([tmp_path / "top.sv"], "top", ["UNUSEDSIGNAL"])


def test_the_proof_sees_a_wrong_extension(monkeypatch):
    installed(yosys.find)
    text = random_module(0)
    monkeypatch.setattr(rtlil, "resized", lambda signal, width, signed: resized(signal, width, False))
    wrong = verilog(explicit_widths(text))
    with pytest.raises(ToolError, match="proof did fail"):
        prove_equal(text, wrong)


# files

def test_files_of_an_engine():
    installed(yosys.find)
    files = rtl.files(SMALL)
    listed = files["rtl/filelist.f"].split()
    assert listed[-1] == "hwgen_top.sv" and "pe_array.sv" in listed and "pe_array_packed.sv" not in listed
    assert {f"rtl/{name}" for name in listed} | {"rtl/filelist.f", "rtl/waivers.vlt"} == set(files)
    assert files == rtl.files(SMALL)


def test_what_is_generated_is_kept_and_needs_no_amaranth(tmp_path):
    """The second time neither Amaranth nor Yosys is loaded, and the text is the same; another configuration is another entry."""
    installed(yosys.find)
    code = ("import sys, hashlib\nfrom hwgen.engines.rtl import verilog as rtl\nfrom hwgen.engine import EngineConfig\n"
            "text = rtl.files(EngineConfig(8, 8, 16, int(sys.argv[1]), 16, 16, 16, 16, 0, 0, 64, 64))['rtl/hwgen_top.sv']\n"
            "print(hashlib.sha256(text.encode()).hexdigest(), 'amaranth' in sys.modules,\n"
            "      *sorted(m.removeprefix('hwgen.') for m in sys.modules if m.startswith('hwgen.')))")
    root = Path(__file__).resolve().parent.parent
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (root, root / "rtl"))), XDG_CACHE_HOME=str(tmp_path),
                       YOWASP_CACHE_DIR=os.environ.get("YOWASP_CACHE_DIR") or str(cache.wanted().parent / "YoWASP"))

    def run(words: int) -> list[str]:
        return subprocess.run([sys.executable, "-c", code, str(words)], env=environment, capture_output=True, text=True, check=True).stdout.split()
    first, again, other = run(16), run(16), run(32)
    assert first[:2] == [again[0], "True"] and again[1] == "False" and other[0] != first[0] and other[1] == "True"
    assert len(list((tmp_path / "hwgen" / "rtl").iterdir())) == 2
    sources = {name.removesuffix(".py").replace("/", ".") for name in rtl.SOURCES}
    folders = {"engines", "engines.rtl", "tools"}
    runners = {"tools.cache", "tools.process"}             # how it is kept and started, not what it is
    assert {name for name in first[2:] if name not in folders} - runners <= sources


def test_yosys_reads_a_whole_engine():
    """No port of the wrong width, no wire with two drivers or none, no loop."""
    installed(yosys.find)
    files = rtl.files(SMALL)
    sources = " ".join(f"rtl/{name}" for name in files["rtl/filelist.f"].split())
    yosys.script((f"read_verilog -sv {sources}", "hierarchy -check -top hwgen_top", "proc", "check -assert"), files, ())


@pytest.mark.parametrize("module, sizes, dsp", (("drain_lanes", {"VB": 8, "TO": 2}, 2 * 5), ("feed_lanes", {"TI": 2}, 2 * 1)))
def test_products_of_a_lane_take_as_few_dsp_slices_as_they_can(module, sizes, dsp):
    """Drain: requantize (32 bits, two slices), interpolate, scale, square; feed: normalise."""
    installed(yosys.find)
    sets = " ".join(f"-set {name} {value}" for name, value in sizes.items())
    outputs, _ = yosys.script((f"read_verilog -sv {module}.sv", f"chparam {sets} {module}",
                               f"synth_xilinx -family xcup -flatten -top {module} -run begin:map_memory",
                               "tee -q -o stat.json stat -json"),
                              {f"{module}.sv": (data_dir("rtl/sv") / f"{module}.sv").read_text()}, ("stat.json",))
    assert json.loads(outputs["stat.json"])["design"]["num_cells_by_type"]["DSP48E2"] == dsp
