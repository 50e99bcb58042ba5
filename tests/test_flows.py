"""Synthesis flow: a small engine-like design through the real tool, the linear continuation, refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
import os
from pathlib import Path

import pytest

from hwgen import flows
from hwgen.devices.board import load_board
from hwgen.devices.family import bundled_families
from hwgen.errors import InputError, ToolError
from hwgen.tools import cache, yosys
from test_cli import documented
from test_cli_example import keys

SV = Path(__file__).resolve().parent.parent / "rtl" / "sv"
DESIGN = """
module hwgen_top (input clk, input rst, input signed [15:0] a, input signed [15:0] b, output reg signed [31:0] y, output [7:0] z,
                  input [8*{lanes}-1:0] acc, output [8*{lanes}-1:0] late);
  always @(posedge clk) y <= a * b;
  delay #(.N(32'd3), .W(32'd8)) line (.clk(clk), .rst(rst), .d(a[7:0]), .q(z));
  \\hwgen_top.words store (.clk(clk), .d(acc), .q(late));
endmodule
module \\hwgen_top.words (input clk, input [8*{lanes}-1:0] d, output reg [8*{lanes}-1:0] q);
  reg [8*{lanes}-1:0] memory [0:511];
  reg [8:0] at = 0;
  initial begin
    memory[0] = {bits}'h0;
    memory[1] = {bits}'h00;
  end
  always @(posedge clk) begin at <= at + 1; memory[at] <= d; q <= memory[at + 9'd1]; end
endmodule
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """RTL of a multiplier, a delay line and a queue of one block RAM; results are not kept outside."""
    monkeypatch.setenv("YOWASP_CACHE_DIR", os.environ.get("YOWASP_CACHE_DIR") or str(cache.wanted().parent / "YoWASP"))   # a minute each time
    monkeypatch.setattr(cache, "wanted", lambda: tmp_path / "cache")
    try:
        yosys.find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    return {"delay.sv": (SV / "delay.sv").read_text(), "hwgen_top.sv": DESIGN.format(lanes=8, bits=64)}


def test_counts_of_a_small_design(build):
    stages = []
    found = flows.synthesize(build, load_board("zcu104"), say=lambda stage, done=0, total=0: stages.append(stage), estimate={"lut": 5})
    assert (found.total["dsp"], found.total["bram36"], found.units["DMA"]["bram36"]) == (1, 1, 1)
    assert found.units["control"]["dsp"] == 1 and found.units["delay lines"]["dsp"] == 0
    assert found.total == {kind: sum(unit[kind] for unit in found.units.values()) for kind in flows.KINDS}
    assert found.available["lut"] == load_board("zcu104").lut
    assert stages == ["read the design", "synthesize the control", "synthesize delay"]
    [line] = [kind for kind in found.modules if kind.module == "delay"]
    assert (line.instances, line.parameters, line.scaled) == (1, {"N": 3, "W": 8}, False) and line.each["ff"] + line.each["lut"] >= 8
    assert keys(found.to_dict(), {"estimate", "in_dsp"}) == documented("hwgen synth")


def test_results_are_kept(build, monkeypatch):
    first = flows.synthesize(build, load_board("zcu104"))

    def script(*_):
        raise ToolError("Yosys was called again")
    monkeypatch.setattr(yosys, "script", script)
    assert flows.synthesize(build, load_board("zcu104")) == first
    with pytest.raises(ToolError, match="called again"):
        flows.synthesize(build | {"delay.sv": build["delay.sv"] + "// changed\n"}, load_board("zcu104"))


@pytest.mark.parametrize("content", ['{"stat', "[]", "{}", '{"design.json": 3}', "\udcff"])
def test_a_damaged_result_is_made_again(build, tmp_path, content):
    """An interrupted write, or an editor's mistake, costs a run of Yosys and nothing else."""
    first = flows.synthesize(build, load_board("zcu104"))
    kept = sorted((tmp_path / "cache" / "synth").glob("*/text"))
    assert kept
    kept[0].write_bytes(content.encode(errors="surrogateescape"))
    assert flows.synthesize(build, load_board("zcu104")) == first


@pytest.mark.parametrize("board", ["ulx3s-85f", "pynq-z2", "de10-nano"])
def test_the_other_families(build, board):
    """Every cell that comes out is known. 512 words of 64 bits are four M10K of 512 x 20, or two halves of a RAMB36."""
    found = flows.synthesize(build, load_board(board))
    assert found.total["dsp"] == 1 and found.total["bram36"] in (1, 2) and set(found.in_dsp.values()) == {0}
    assert found.total["ff"] > 8


def test_every_family_that_can_be_synthesized_is_tried():
    tried = {load_board(name).family.name for name in ("zcu104", "ulx3s-85f", "pynq-z2", "de10-nano")}
    assert tried == {family.name for family in bundled_families() if family.yosys}


def test_a_cell_the_family_does_not_know_is_an_error(build):
    board = load_board("zcu104")
    cells = {cell: counts for cell, counts in board.family.yosys.cells.items() if cell != "DSP48E2"}
    family = replace(board.family, yosys=replace(board.family.yosys, cells=cells))
    with pytest.raises(ToolError, match="does not count: DSP48E2") as caught:
        flows.synthesize(build, replace(board, family=family))
    assert "yosys.cells" in caught.value.hint


def test_refusals():
    with pytest.raises(InputError, match="no flow 'vivid'") as caught:
        flows.synthesize({}, load_board("zcu104"), "vivid")
    assert "yosys" in caught.value.hint
    with pytest.raises(InputError, match="does not know the family of the board sim"):
        flows.synthesize({}, load_board("sim"))
    with pytest.raises(InputError) as caught:
        flows.synthesize({}, load_board("sim"))
    assert caught.value.hint == f"compile for a board of {', '.join(f.name for f in bundled_families() if f.name != 'sim')}"


def test_a_missing_tool(build, monkeypatch):
    def find():
        raise ToolError("Yosys not found", hint=yosys.INSTALL)
    monkeypatch.setattr(yosys, "find", find)
    with pytest.raises(ToolError, match="Yosys not found"):
        flows.synthesize(build, load_board("zcu104"))


def test_continuation_is_exact_for_what_is_linear_in_each_size():
    def cells(rows, columns):
        return 7 + 3 * rows + 11 * columns + 5 * rows * columns
    corners = {(r, c): cells(r, c) for r, c in product((16, 32), (4, 8))}
    assert flows._continued([[16, 32], [4, 8]], [64, 48], corners) == cells(64, 48)
    assert flows._continued([], [], {(): 42.0}) == 42.0
