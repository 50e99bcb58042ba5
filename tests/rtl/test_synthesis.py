"""The SystemVerilog arrays in Yosys: all of them are read, and the products land in DSP slices as intended."""

import json
from pathlib import Path

import pytest

from hwgen.errors import ToolError
from hwgen.tools import yosys

SV = Path(__file__).parents[2] / "rtl" / "sv"


@pytest.fixture(autouse=True)
def needs_yosys():
    try:
        yosys.find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.mark.parametrize("path", sorted(SV.glob("*.sv")), ids=lambda path: path.stem)
def test_yosys_reads_it(path):
    commands = (f"read_verilog -sv {path.name}", f"hierarchy -check -top {path.stem}", "proc", "check -assert", "write_verilog out.v")
    outputs, _ = yosys.script(commands, {path.name: path.read_text()}, ("out.v",))
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
