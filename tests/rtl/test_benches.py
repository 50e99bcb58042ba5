"""Every hardware component against its golden model, on Verilator and on Icarus Verilog."""

import pytest

from hwgen.errors import ToolError

cocotb_tools = pytest.importorskip("cocotb_tools")

from hwgen_sim.designs import DESIGNS
from hwgen_sim.runner import Simulator, run


@pytest.mark.parametrize("simulator", Simulator, ids=lambda s: s.value)
@pytest.mark.parametrize("bench", DESIGNS, ids=lambda d: d.name)
def test_bench(bench, simulator, tmp_path):
    try:
        simulator.version()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    assert run(bench.design(), bench.module, simulator, tmp_path, **bench.parameters) > 0
