"""The SystemVerilog arrays in Yosys: all of them are read, and the products land in DSP slices as intended."""

from collections import Counter
from dataclasses import replace
import json
from pathlib import Path
import re

import pytest

from hwgen import numerics
from hwgen.engine import EngineConfig
from hwgen.engines.rtl import cost as resources, verilog as rtl
from hwgen.errors import ToolError
from hwgen.tools import yosys
from hwgen_rtl.arrays import packed_table

SV = Path(__file__).parents[2] / "rtl" / "sv"


@pytest.fixture(autouse=True)
def needs_yosys():
    try:
        yosys.find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.mark.parametrize("path", sorted(SV.glob("*.sv")), ids=lambda path: path.stem)
def test_yosys_reads_it(path):
    text = path.read_text() + ((SV / "delay.sv").read_text() if path.stem == "router_scores" else "")
    commands = (f"read_verilog -sv {path.name}", f"hierarchy -check -top {path.stem}", "proc", "check -assert", "write_verilog out.v")
    outputs, _ = yosys.script(commands, {path.name: text}, ("out.v",))
    assert f"module {path.stem}(" in outputs["out.v"]


def num_dsp(module: str, ti: int, to: int) -> int:
    """DSP48E2 of an array of UltraScale+."""
    commands = (f"read_verilog -sv {module}.sv", f"chparam -set TI {ti} -set TO {to} -set SEG {ti} {module}",
                f"synth_xilinx -family xcup -flatten -top {module}", "tee -q -o stat.json stat -json")
    outputs, _ = yosys.script(commands, {f"{module}.sv": (SV / f"{module}.sv").read_text()}, ("stat.json",))
    return json.loads(outputs["stat.json"])["design"]["num_cells_by_type"]["DSP48E2"]


def test_one_dsp_per_product_and_one_per_pair_when_packed():
    assert num_dsp("pe_array", 4, 4) == 16
    assert num_dsp("pe_array_packed", 4, 4) == 8


ENGINE = EngineConfig(ti=8, to=8, max_tokens=16, act_words=32, kv_words=32, score_words=32, res_words=32, program_words=16, max_experts=8,
                      max_top_k=2, axi_data_bits=64, fifo_beats=32)
PRODUCTS = {             # unit of the estimate -> module of rtl/sv, parameters
    "drain": ("drain_lanes", "-set TO 8 -set VB 8 -set FINE 1"), "feed": ("feed_lanes", "-set TI 8"),
    "router": ("router_chain", "-set E 8 -set K 2")}


def products(module: str, text: str, parameters: str = "") -> Counter:
    """(signed, wider operand, narrower operand) of every product that Yosys finds, and how many there are."""
    change = [f"chparam {parameters} {module}"] if parameters else []
    commands = (f"read_verilog -sv {module}.sv", *change, f"hierarchy -top {module}", "proc", "flatten", "opt_expr", "opt_clean", "wreduce",
                "opt_clean", "tee -q -o found.txt dump t:$mul")
    outputs, _ = yosys.script(commands, {f"{module}.sv": text}, ("found.txt",))
    found: Counter = Counter()
    for cell in outputs["found.txt"].split("cell $mul")[1:]:
        value = {name: int(number) for name, number in re.findall(r"parameter \\(\w+) (\d+)", cell)}
        wide, narrow = sorted((value["A_WIDTH"], value["B_WIDTH"]), reverse=True)
        found[bool(value["A_SIGNED"]), wide, narrow] += 1
    return found


def expected(*units: str) -> Counter:
    found: Counter = Counter()
    for product in resources._products(ENGINE):
        if product.unit in units:
            found[product.signed, max(product.bits), min(product.bits)] += product.count
    return found


@pytest.mark.parametrize("unit", PRODUCTS)
def test_the_estimate_lists_the_products_of_the_arrays(unit):
    module, parameters = PRODUCTS[unit]
    assert products(module, (SV / f"{module}.sv").read_text(), parameters) == expected(unit)


def test_the_estimate_lists_the_products_of_a_router_of_scores():
    texts = "".join((SV / name).read_text() for name in ("delay.sv", "router_scores.sv"))
    chain = products("router_chain", (SV / "router_chain.sv").read_text(), "-set E 8 -set K 2")
    with_scores = Counter()
    for product in resources._products(replace(ENGINE, scores=True)):
        if product.unit == "router":
            with_scores[product.signed, max(product.bits), min(product.bits)] += product.count
    assert products("router_scores", texts, "-set E 8 -set K 2") == with_scores - chain


def test_the_estimate_lists_the_products_of_the_control():
    assert products(rtl.TOP, rtl.files(ENGINE)[f"rtl/{rtl.TOP}.sv"]) == expected("coefficients", "sequencer")


TABLES = {               # module -> parameters
    "drain_lanes": "-set TO 1 -set VB 8", "feed_lanes": f"-set TI 1 -set EXP_TABLE {16 * len(numerics.EXP_P8)}'h{packed_table(numerics.EXP_P8):x}",
    "router_chain": "-set E 2 -set K 1", "router_scores": "-set E 8 -set K 1"}
LONG = re.compile(r"    for \(genvar h = 0; h < 16 \* FUNCTIONS.*?\n    end\n", re.DOTALL)       # Yosys takes a minute to cut the knots out of it


@pytest.mark.parametrize("module", TABLES)
def test_tables_are_read_as_block_memories_are(module):
    """Every read port of a memory that is meant for block RAM has a register, in front or behind: there is no block RAM without."""
    text = LONG.sub("    initial for (int unsigned i = 0; i < KNOT_WORDS; i++) knots[i] = 36'(i * 12345);\n", (SV / f"{module}.sv").read_text())
    text += (SV / "delay.sv").read_text() if module == "router_scores" else ""
    commands = (f"read_verilog -sv {module}.sv", f"chparam {TABLES[module]} {module}", f"hierarchy -top {module}", "proc", "flatten",
                "opt -nodffe -nosdff", "opt", "memory_dff", "memory_collect", "tee -q -o found.txt dump t:$mem_v2")
    outputs, _ = yosys.script(commands, {f"{module}.sv": text}, ("found.txt",))
    cells = outputs["found.txt"].split("end\n")
    blocks = [cell for cell in cells if '_style "block"' in cell]
    assert blocks
    for cell in blocks:
        ((name, clocked),) = re.findall(r'parameter \\MEMID "(.*)".*parameter \\RD_CLK_ENABLE \d+\'([01]+)', cell, re.DOTALL)
        assert "0" not in clocked, name
