"""The RTL engine: steps -> instructions, memory map, weight image; and the Verilog, the driver and what they cost.

    engine.py     the engine behind the protocol            choose.py   which array a board gets
    plan.py       passes, merge, memory map -> `Program`     cost.py     resources, by counts that were synthesized
    encode.py     a step with addresses -> an instruction    cycles.py   cycle model
    hazards.py    what may overlap                           program.py  what the hardware runs
    verify.py     independent check of a program, by replay  touched.py  the words an instruction reads and writes
    verilog.py, rtlil.py   Amaranth -> Verilog               driver.py   registers and C driver
    text.py       a program as text
"""
