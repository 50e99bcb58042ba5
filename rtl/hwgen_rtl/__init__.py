"""Amaranth library of the engine: one component a file; the wide regular arrays are SystemVerilog in rtl/sv."""
