"""Single cores: units of the engine (rtl/sv, `hwgen_rtl`) between AXI4-Stream ports. `streams` is what they are put together from."""
