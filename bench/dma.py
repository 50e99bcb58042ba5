"""The read DMA alone before a memory with latency: the share of the memory's bandwidth that it gets.

    python bench/dma.py                              64 bytes a cycle, latency 100 to 300, 8 and 32 bursts in flight
    python bench/dma.py --kilobytes 1024 --json dma.json

RTL simulation (cocotb bench sim/tb/dma_rate.py) of `StreamDma` as the 64x64 engine has it: 512 bits, bursts of 16 beats. The stream is
taken as fast as it comes; the share is bytes over cycles from start to the last vector, the first latency included. Exit code 1 when
32 bursts get less than 0.92 of the bandwidth at a latency of 250.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "sim")]      # works in a checkout without installing

from hwgen.engine import READ_BURSTS
from hwgen_sim.designs import dma_rate
from hwgen_sim.runner import Simulator, run

AXI_BITS, FIFO_BEATS = 512, 1024
RATE = 64.0
LATENCIES = (100, 150, 200, 250, 300)
FIGURE_LATENCY, MUST = 250, 0.92


def share(read_bursts: int, latency: int, num_bytes: int, simulator: Simulator = Simulator.VERILATOR) -> float:
    """Share of 64 bytes a cycle that the DMA gets. Raises ToolError."""
    design = dma_rate(AXI_BITS, AXI_BITS // 8, FIFO_BEATS, latency, RATE, num_bytes, read_bursts)
    with tempfile.TemporaryDirectory(prefix="hwgen_dma_") as folder:
        run(design.design(), design.module, simulator, Path(folder), **design.parameters)
        return json.loads((Path(folder) / "rate.json").read_text())["share"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kilobytes", type=int, default=256, help="read in each run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = {bursts: {latency: share(bursts, latency, 1024 * args.kilobytes) for latency in LATENCIES} for bursts in (8, READ_BURSTS)}
    print(f"share of {RATE:g} bytes a cycle, {args.kilobytes} KB; RTL simulation")
    print("latency".ljust(20), *(f"{latency:>6}" for latency in LATENCIES))
    for bursts, shares in rows.items():
        print(f"{bursts} bursts in flight".ljust(20), *(f"{value:6.3f}" for value in shares.values()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    found = rows[READ_BURSTS][FIGURE_LATENCY]
    verdict = "reached" if found >= MUST else "MISSED"
    print(f"{READ_BURSTS} bursts, latency {FIGURE_LATENCY}: {found:.3f}, must be at least {MUST}: {verdict}")
    return 0 if found >= MUST else 1


if __name__ == "__main__":
    sys.exit(main())
