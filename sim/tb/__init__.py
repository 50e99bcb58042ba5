"""cocotb benches: one file per component, run by tests/rtl or by hwgen_sim.runner.run."""
