"""Outside programs: Verilator, Icarus Verilog, Yosys and C++ compilers. Nothing else in hwgen starts a process.

`find` of each module says where the tool is or raises a `ToolError` with the line that installs it.
"""
