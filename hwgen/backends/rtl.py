"""RTL of one engine: Amaranth components -> Verilog text."""

from __future__ import annotations

from amaranth.back import rtlil
from amaranth.lib import wiring

from ..tools import yosys

# Full `proc`: multiplexers become continuous assignments and no ``always @*`` is left, so that Icarus and Verilator agree from
# time 0 on. Attributes (source places) are dropped: the text must not depend on where the project lies.
COMMANDS = ("read_rtlil design.il", "proc", "opt_clean -purge", "memory_collect", "write_verilog -norename -noattr -sv design.sv")


def to_verilog(component: wiring.Component, name: str) -> str:
    """Verilog of ``component`` with top module ``name``; modules of rtl/sv stay instances.

    Raises ToolError when Yosys is missing.
    """
    outputs, _ = yosys.script(COMMANDS, {"design.il": rtlil.convert(component, name=name, emit_src=False)}, ("design.sv",))
    return outputs["design.sv"]
