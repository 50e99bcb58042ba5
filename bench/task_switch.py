"""Extra cycles of switching the task between two frames: the bundled M3ViT in RTL simulation, in one command.

    python bench/task_switch.py [--json switch.json] [--array 16x16] [--build DIR]

The same image eight times: task 0 only, task 1 only, 0 1 0 1 ..., 1 0 1 0 .... The tasks differ in gates, so in routing and in cycles; what
the switch itself costs is the sum of both alternating runs less the sum of both pure runs, which hold the same frames. Exit code 1 when that
is not 0 or an output word differs from the integer model.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import sys
import tempfile

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]      # works in a checkout without installing

import hwgen
from hwgen.api import Accelerator
from hwgen.devices.memory import MemoryModel
from hwgen.engines.rtl import bench as rtl_bench
from hwgen.run import simulate
import native_builds

EXAMPLE = ROOT / "examples" / "m3vit_digits"
ORDERS = {"task 0": [0] * 8, "task 1": [1] * 8, "0 1 0 1 ...": [0, 1] * 4, "1 0 1 0 ...": [1, 0] * 4}
MEMORIES = {"ideal": MemoryModel(latency=0, bytes_per_cycle=64), "latency 100": MemoryModel(latency=100, bytes_per_cycle=64)}


@dataclass(frozen=True)
class Switch:
    """Cycles of eight frames in each of `ORDERS`, from start to done. Stage: RTL simulation."""

    memory: str
    cycles: dict[str, int]
    mismatches: int

    @property
    def extra(self) -> int:
        """Cycles that fourteen switches cost."""
        pure0, pure1, there, back = (self.cycles[name] for name in ORDERS)
        return there + back - pure0 - pure1

    def to_dict(self) -> dict:
        return asdict(self) | {"extra": self.extra}


def measure(acc: Accelerator, image: np.ndarray) -> list[Switch]:
    """Runs ``image`` [1, C, H, W] through a build with two tasks; one record a memory model."""
    build, model = acc.build, acc.build.model
    images = np.repeat(image, len(ORDERS["task 0"]), axis=0)
    frames = build.program.frames(model.tasks[0], images)
    executable = rtl_bench.build_bench(simulate.bench_files(build), trace=False)
    result = []
    for name, memory in MEMORIES.items():
        runs = {order: rtl_bench.run_bench(executable, build.path, build.program, frames, tasks, memory) for order, tasks in ORDERS.items()}
        wrong = sum(native_builds.differences(run, model, images, ORDERS[order]) for order, run in runs.items())
        result.append(Switch(name, {order: run.cycles for order, run in runs.items()}, wrong))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Cycles that switching tasks costs the bundled model.")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--array", default="16x16", help="array of the engine (16x16)")
    parser.add_argument("--build", type=Path, help="build directory to use; otherwise a temporary one")
    args = parser.parse_args()
    rows, columns = (int(size) for size in args.array.split("x"))
    with np.load(EXAMPLE / "test.npz") as file:
        image = file["x"][:1]
    with tempfile.TemporaryDirectory(prefix="hwgen_switch_") as folder:
        acc = hwgen.compile(EXAMPLE / "model.onnx", target="sim", array=(rows, columns), calib=EXAMPLE / "calib.npz",
                            out=args.build or Path(folder) / "build")
        switches = measure(acc, image)
    print(f"bundled M3ViT, {args.array} array, eight frames of one image; RTL simulation")
    print(f"{'memory':14}" + "".join(f"{name:>14}" for name in ORDERS) + f"{'extra':>8}  words unlike the integer model")
    for switch in switches:
        print(f"{switch.memory:14}" + "".join(f"{cycles:14,}" for cycles in switch.cycles.values()) + f"{switch.extra:8}  {switch.mismatches}")
    if args.json:
        args.json.write_text(json.dumps([switch.to_dict() for switch in switches], indent=2) + "\n")
    return int(any(switch.extra or switch.mismatches for switch in switches))


if __name__ == "__main__":
    sys.exit(main())
