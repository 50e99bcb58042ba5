"""Bench parts for cocotb: runner, drivers, monitors, checker, stall patterns. The benches themselves are in sim/tb."""
