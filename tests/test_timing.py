"""Static timing: netlists of which every path is known."""

import json

import pytest

from hwgen.errors import ToolError
from hwgen.timing.delays import ULTRASCALE_PLUS as D
from hwgen.timing.netlist import read
from hwgen.timing.paths import longest
from hwgen.tools import yosys


def cell(kind, inputs, outputs):
    return {"type": kind, "connections": inputs | outputs, "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")}


def lut(inputs, output):
    return cell(f"LUT{len(inputs)}", {f"I{n}": [bit] for n, bit in enumerate(inputs)}, {"O": [output]})


def register(bit, output, enable="1"):
    return cell("FDRE", {"C": [1], "D": [bit], "CE": [enable], "R": ["0"]}, {"Q": [output]})


def paths(ports, cells, names=None, modules=()):
    netnames = {name: {"bits": bits} for name, bits in (names or {}).items()}
    top = {"ports": {name: {"direction": way, "bits": bits} for name, (way, bits) in ports.items()},
           "cells": {f"c{n}": one for n, one in enumerate(cells)}, "netnames": netnames}
    return {(path.end, path.pin): path for path in longest(read({"modules": {"top": top} | {name: {} for name in modules}}, "top", D), D)}


def test_look_up_tables_nets_and_setup_add_up():
    found = paths({"x": ("input", [2])}, [register(2, 3), lut([3], 4), lut([4, 2], 5), register(5, 6)], {"a": [3], "b": [6]})
    path = found["b", "D"]
    assert (path.start, path.luts, path.most_luts, path.carries, path.products) == ("a", 2, 2, 0, 0)
    assert path.ns == pytest.approx(D.launch + 2 * D.lut + 3 * D.net(1) + D.setup)


def test_an_enable_has_its_own_setup_and_a_net_its_loads():
    found = paths({"x": ("input", [2])}, [register(2, 3), *(register("0", 10 + n, 3) for n in range(20))], {"q": list(range(10, 30)), "a": [3]})
    assert found["q[0]", "CE"].ns == pytest.approx(D.launch + D.net(20) + D.enable) and D.net(20) > D.net(1)


def test_most_luts_is_not_only_on_the_longest_path():
    """Two tables in front of a register whose longest path is a product."""
    product = cell("DSP48E2", {"A": [3], "B": [2]}, {"P": [4]})
    found = paths({"x": ("input", [2])}, [register(2, 3), product, lut([3], 5), lut([5], 6), lut([6, 4], 7), register(7, 8)], {"a": [3], "q": [8]})
    path = found["q", "D"]
    assert (path.products, path.luts, path.most_luts) == (1, 1, 3)


def test_a_register_at_a_product_is_its_own():
    product = cell("DSP48E2", {"A": [3], "B": ["0"]}, {"P": [4]})
    found = paths({"x": ("input", [2])}, [register(2, 3), product, register(4, 5)], {"a": [3], "p": [5]})
    assert found["p", "D"].ns == pytest.approx(D.launch + D.product + D.setup)
    found = paths({"x": ("input", [3])}, [product, register(4, 5)], {"p": [5]})
    assert found["p", "D"].ns == pytest.approx(D.launch + D.net(1) + D.product + D.setup)


def test_a_carry_chain_is_entered_once():
    first = cell("CARRY8", {"CI": ["0"], "CI_TOP": ["0"], "S": [3] + ["0"] * 7, "DI": ["0"] * 8}, {"O": list(range(10, 18)), "CO": list(range(20, 28))})
    second = cell("CARRY8", {"CI": [27], "CI_TOP": ["0"], "S": ["0"] * 8, "DI": ["0"] * 8}, {"O": list(range(30, 38)), "CO": list(range(40, 48))})
    found = paths({"x": ("input", [2])}, [register(2, 3), first, second, register(37, 50)], {"a": [3], "q": [50]})
    path = found["q", "D"]
    assert path.carries == 1 and path.ns == pytest.approx(D.launch + D.net(1) + D.carry_in + D.carry_out + D.net(1) + D.setup)


def test_paths_end_at_modules_that_are_not_there():
    box = {"type": "array", "connections": {"clk": [1], "x": [3], "y": [4]}, "port_directions": {"clk": "input", "x": "input", "y": "output"}}
    found = paths({"x": ("input", [2])}, [register(2, 3), box, register(4, 5)], {"q": [5]}, ["array"])
    assert found["port c1", "x"].ns == pytest.approx(D.launch + D.net(1)) and found["q", "D"].start == "port c1.y"
    assert ("port c1", "clk") not in found


def test_an_unknown_cell_is_named():
    with pytest.raises(ToolError, match="does not know the cell NAND9"):
        paths({}, [cell("NAND9", {"A": [2]}, {"Y": [3]})])


def test_what_yosys_maps_is_known():
    """A memory with its register, distributed RAM, a shift register, a product and a chain in one module; one table at least behind each adder."""
    source = """module m (input clk, input [9:0] a, input [15:0] x, input [15:0] y, input we, output reg [31:0] p, output reg [15:0] r, output reg [31:0] s,
        output reg [7:0] t, output reg d);
  (* ram_style = "block" *) reg [15:0] memory [0:1023];
  (* ram_style = "distributed" *) reg [7:0] small [0:31];
  reg [15:0] x1, y1; reg [20:0] line;
  always @(posedge clk) begin
    if (we) memory[a] <= x; r <= memory[a]; if (we) small[a[4:0]] <= y[7:0]; t <= small[a[9:5]];
    x1 <= x; y1 <= y; p <= $signed(x1) * $signed(y1); s <= p + {x1, y1}; line <= {line[19:0], x[0]}; d <= line[20];
  end
endmodule
"""
    outputs, _ = yosys.script(("read_verilog -sv m.sv", "synth_xilinx -family xcup -flatten -noiopad -top m", "write_json m.json"), {"m.sv": source}, ("m.json",))
    found = longest(read(json.loads(outputs["m.json"]), "m", D), D)
    families = {path.end.split("[")[0] for path in found if path.pin == "D"}
    assert {"p", "s", "t"} <= families and all(path.ns > 0 for path in found)
    assert any(path.products for path in found) and any(path.carries for path in found) and any(path.end.startswith("memory") for path in found)
