"""RTL of one engine: Amaranth components -> Verilog text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import gc

from amaranth.back import rtlil
from amaranth.lib import wiring

from hwgen_rtl.top import Top

from ..engine import EngineConfig
from ..paths import data_dir
from ..tools import yosys
from .rtlil import explicit_widths

TOP = "hwgen_top"
WAIVERS = "waivers.vlt"
ARRAYS = ("accumulator.sv", "delay.sv", "drain_lanes.sv", "feed_lanes.sv", "lane_memory.sv", "lane_window.sv",
          "router_chain.sv", "stream_fifo.sv")

# Full `proc` and `pmuxtree`: multiplexers become continuous assignments and no ``always @*`` is left, so that Icarus and Verilator
# agree from time 0 on. `wreduce` drops carry bits nobody reads. Attributes (source places) are dropped: the text must not depend on
# where the project lies.
LOWER = ("read_rtlil design.il", "proc", "pmuxtree", "opt_clean -purge", "memory_collect", "wreduce", "opt_clean -purge",
         "write_rtlil lower.il")
WRITE = ("read_rtlil lower.il", "write_verilog -norename -noattr -sv design.sv")


def to_verilog(component: wiring.Component, name: str) -> str:
    """Verilog of ``component`` with top module ``name``; modules of rtl/sv stay instances. Operators have explicit widths.

    Raises ToolError when Yosys is missing.
    """
    with _uncollected():
        text = rtlil.convert(component, name=name, emit_src=False)
    lowered, _ = yosys.script(LOWER, {"design.il": text}, ("lower.il",))
    outputs, _ = yosys.script(WRITE, {"lower.il": explicit_widths(lowered["lower.il"])}, ("design.sv",))
    return outputs["design.sv"]


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside: Amaranth makes a million objects that all stay alive, and looking through them took 40 % of its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def files(config: EngineConfig) -> dict[str, str]:
    """Every source file of the engine: {relative path: text}; ``rtl/filelist.f`` lists them for a tool, top module `TOP` last.

    ``rtl/waivers.vlt``, for Verilator's lint, is not in the list.
    """
    names = (*ARRAYS, "pe_array_packed.sv" if config.packed else "pe_array.sv")
    result = {f"rtl/{name}": (data_dir("rtl/sv") / name).read_text() for name in sorted(names)}
    result[f"rtl/{TOP}.sv"] = to_verilog(Top(config), TOP)
    result["rtl/filelist.f"] = "".join(f"{name.removeprefix('rtl/')}\n" for name in result)
    result[f"rtl/{WAIVERS}"] = (data_dir("rtl/sv") / WAIVERS).read_text()
    return result
