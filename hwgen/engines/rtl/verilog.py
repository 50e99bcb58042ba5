"""RTL of one engine: Amaranth components -> Verilog text."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata, resources
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine import EngineConfig
from ...paths import PACKAGE, data_dir
from ...tools import cache, yosys
from ...uncollected import uncollected

if TYPE_CHECKING:
    from amaranth.lib import wiring

TOP = "hwgen_top"
WAIVERS = "waivers.vlt"
ARRAYS = ("accumulator.sv", "delay.sv", "drain_lanes.sv", "feed_lanes.sv", "lane_memory.sv", "lane_window.sv",
          "router_chain.sv", "stream_fifo.sv")
SOURCES = ("engine.py", "errors.py", "numerics.py", "paths.py", "isa.py", "registers.py",
           "engines/rtl/verilog.py", "engines/rtl/rtlil.py", "functions.py", "knots.py", "tools/yosys.py", "uncollected.py", "foreign.py",
           "output.py")
"""What of hwgen the generated text is made by, besides all of hwgen_rtl (tests/test_rtl_backend.py looks at the imports)."""

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
    from amaranth.back import rtlil

    from .rtlil import explicit_widths, without_zeros
    with uncollected():                                            # Amaranth makes a million objects
        text = rtlil.convert(component, name=name, emit_src=False)
    lowered, _ = yosys.script(LOWER, {"design.il": text}, ("lower.il",))
    outputs, _ = yosys.script(WRITE, {"lower.il": explicit_widths(without_zeros(lowered["lower.il"]))}, ("design.sv",))
    return outputs["design.sv"]


def files(config: EngineConfig) -> dict[str, str]:
    """Every source file of the engine: {relative path: text}; ``rtl/filelist.f`` lists them for a tool, top module `TOP` last.

    ``rtl/waivers.vlt``, for Verilator's lint, is not in the list. What is generated is kept in the cache, under a digest of ``config``,
    of the sources that generate it and of the versions of Amaranth and Yosys; Amaranth is loaded only when it is not there.
    """
    names = (*ARRAYS, *(("router_scores.sv",) if config.scores else ()), "pe_array_packed.sv" if config.packed else "pe_array.sv")
    result = {f"rtl/{name}": (data_dir("rtl/sv") / name).read_text() for name in sorted(names)}
    result[f"rtl/{TOP}.sv"] = cache.text("rtl", _key(config), lambda: _top(config), lambda text: f"module {TOP}" in text)
    result |= file_list(result)
    result[f"rtl/{WAIVERS}"] = (data_dir("rtl/sv") / WAIVERS).read_text()
    return result


def file_list(files: Iterable[str]) -> dict[str, str]:
    """``rtl/filelist.f`` for files of the folder ``rtl``, in this order."""
    return {"rtl/filelist.f": "".join(f"{name.removeprefix('rtl/')}\n" for name in files)}


def _top(config: EngineConfig) -> str:
    from hwgen_rtl.top import Top
    return to_verilog(Top(config), TOP)


def _key(config: EngineConfig) -> str:
    generator = Path(str(resources.files("hwgen_rtl")))
    sources = [(name, (PACKAGE / name).read_bytes()) for name in SOURCES]
    sources += [(path.name, path.read_bytes()) for path in sorted(generator.glob("*.py"))]
    return cache.key(json.dumps(config.to_dict(), sort_keys=True), metadata.version("amaranth"), yosys.version(), sources)
