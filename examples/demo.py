"""What `make demo` runs: the bundled M3ViT for a ZCU104, from ONNX to the generated RTL, on real handwritten digits; memory: one port of it.

    python examples/demo.py [--images 100] [--target zcu104] [--output build/demo]

Prints one table, and where the page of its report is. Exit codes as of the hwgen command: 1 when one output word of the RTL differs from the integer model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

import hwgen
from hwgen.arrays import accuracy
from hwgen.errors import HwgenError
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.output import write_file
from hwgen.progress import Bars

MODEL = Path(__file__).resolve().parent / "m3vit_digits"


def float_outputs(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of the float model, all tasks: {ONNX output: [images, ...]}."""
    outputs = {}
    for graph in import_model(MODEL / "model.onnx").model.tasks:
        outputs |= evaluate.run(graph, inputs)
    return outputs


def rows(build: Path, labels: dict, floats: dict, golden, rtl, waves: Path, all_ports: dict):
    """(name, value) lines of the table. A frame is one image for one task."""
    yield "images", f"{rtl.images}, each for {len(labels)} tasks"
    yield "RTL = integer model", f"{rtl.words - rtl.mismatches:,} of {rtl.words:,} output words bit-exact"
    scores = [accuracy(outputs, labels) for outputs in (floats, golden.outputs, rtl.outputs)]
    for task in labels:
        yield f"accuracy of {task}: float / integer / RTL", "  /  ".join(f"{100 * score[task]:.1f} %" for score in scores)
    yield "cycles per image (RTL simulation)", f"{rtl.cycles_per_image:,.0f}"
    yield "memory of that simulation", (f"{rtl.memory['bytes_per_cycle']:.3g} bytes a cycle (one port of the board), "
                                        f"latency {rtl.memory['latency']} cycles")
    yield "utilisation of the array", f"{100 * rtl.utilization:.1f} % of {rtl.array_macs_per_cycle:,} MACs per cycle"
    yield "latency of one image", f"{1000 * rtl.latency_ms:.1f} µs at {rtl.clock_mhz:g} MHz (clock assumed, not synthesized)"
    if all_ports["built"] == "not built":
        yield f"the same through {all_ports['memory']['ports']} ports ({all_ports['built']}; estimate)", (
            f"{all_ports['cycles_per_image']:,.0f} cycles, {1000 * all_ports['latency_ms']:.1f} µs, "
            f"{all_ports['memory']['bytes_per_cycle']:.3g} bytes a cycle")
    yield "simulation speed", (f"{rtl.simulated_cycles_per_second:,.0f} cycles, {rtl.simulated_macs_per_second:,.0f} useful MACs "
                               "per second")
    yield "artifacts", str(build)
    yield "waveform of one image", str(waves)


def run(images: int, target: str, build: Path) -> int:
    """Compiles, simulates and prints; returns the exit code."""
    with np.load(MODEL / "test.npz") as file:
        data = {name: file[name][:images] for name in file.files}
    inputs, labels = {"x": data.pop("x")}, data
    waves = build / "waves.fst"
    with Bars(Console(stderr=True)) as bars:
        acc = hwgen.compile(MODEL / "model.onnx", target=target, calib=MODEL / "calib.npz", out=build, progress=bars)
        bars("float model")
        floats = float_outputs(inputs)
        golden = acc.simulate(inputs, engine="golden", progress=bars)
        rtl = acc.simulate(inputs, progress=bars)
        acc.simulate({"x": inputs["x"][:1]}, waves=waves, progress=bars)
    title = f"M³ViT on handwritten digits, generated RTL for {target}, simulated by Verilator"
    table = Table("", "", title=title, show_header=False)
    for row in rows(build, labels, floats, golden, rtl, waves, acc.build.report["all_ports"]):
        table.add_row(*row)
    Console().print(table)
    acc.keep(rtl)
    page = build / "report.html"
    write_file(page, acc.page())
    Console().print(f"a page with charts, timeline and tables: {page.resolve()}", soft_wrap=True, highlight=False)
    return 0 if rtl.bit_exact else 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the bundled model and run digits through its RTL.")
    parser.add_argument("--images", type=int, default=100, help="how many of the 500 test images")
    parser.add_argument("--target", default="zcu104")
    parser.add_argument("--output", type=Path, default=Path("build") / "demo")
    options = parser.parse_args()
    try:
        sys.exit(run(options.images, options.target, options.output))
    except HwgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
