"""One DeiT-T block (197 tokens, 192 channels, 3 heads, MLP 768) in RTL simulation on a 16x16 array, in one command.

    python bench/block.py [--json block.json] [--build DIR]

The network is the block between a patch embedding and a head of 10 classes, with random weights: cycles do not depend on their
values. Memory: 64 bytes a cycle, 100 cycles of latency. Utilisation counts useful MACs, no padding, over 256 a cycle, from the start
of the block's first instruction to the retirement of its last. Attention is QK^T, softmax and P V of all heads; its bare matmuls are
its tiles at one token a cycle. Exit code 1 when a figure misses its limit or an output word differs from the integer model.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import resource
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]      # works in a checkout without installing

from hwgen.devices.memory import MemoryModel
from hwgen.engines.rtl import bench as rtl_bench
from hwgen.engines.rtl.bench import Run
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.program import Program
from hwgen.isa import Op
from hwgen.run import simulate
import native_builds
from qgraphs import random_images, random_model, random_qgraph

NETWORK = {"tokens": 197, "dim": 192, "heads": 3, "hidden": 768, "blocks": "d", "patch": 1}
ENGINE = {"ti": 16, "to": 16, "axi_data_bits": 512, "fifo_beats": 4096}
MEMORY = MemoryModel(latency=100, bytes_per_cycle=64)
UTILISATION_LIMIT = 0.93
ATTENTION_LIMIT = 1.05
SPEED_LIMIT = 100e6          # useful MACs per second of one core
REPEATS = 3                  # of the simulation: the fastest counts


@dataclass(frozen=True)
class Figures:
    """Stage: RTL simulation, but for estimated_cycles (cycle model) and the speeds: simulated_macs_per_second by the CPU time of the
    simulating process, its start included, simulated_macs_per_second_wall by the clock, which other processes share.

    block_macs, bare_cycles are useful multiply-accumulates and tiles x tokens; frame_cycles is the whole network, start to done.
    """

    mismatches: int
    block_macs: int
    block_cycles: int
    attention_cycles: int
    attention_bare_cycles: int
    frame_cycles: int
    estimated_cycles: int
    array_macs_per_cycle: int
    simulated_macs_per_second: float
    simulated_macs_per_second_wall: float

    @property
    def utilisation(self) -> float:
        return self.block_macs / (self.array_macs_per_cycle * self.block_cycles)

    @property
    def attention_ratio(self) -> float:
        return self.attention_cycles / self.attention_bare_cycles

    @property
    def estimate_error(self) -> float:
        return self.estimated_cycles / self.frame_cycles - 1

    def to_dict(self) -> dict:
        return asdict(self) | {"utilisation": self.utilisation, "attention_ratio": self.attention_ratio, "estimate_error": self.estimate_error}


def count(program: Program, run: Run, mismatches: int, cpu_seconds: float) -> Figures:
    """The figures of one simulated frame; instructions are told apart by their ONNX node."""
    events = run.events
    nodes = [program.infos[pc].node for pc in events["pc"]]
    block = [i for i, node in enumerate(nodes) if node.startswith("block0.")]
    attention = [i for i, node in enumerate(nodes) if node == "block0.attention"]
    instrs = [program.instrs[events["pc"][i]] for i in attention]
    if not block or block != list(range(block[0], block[-1] + 1)) or any(instr.op != Op.MATMUL for instr in instrs):
        raise ValueError(f"the instructions of the block are not in a row: {nodes}")
    return Figures(
        mismatches=mismatches,
        block_macs=sum(program.infos[events["pc"][i]].macs for i in block),
        block_cycles=int(events["retire"][block[-1]]) - int(events["start"][block[0]]),
        attention_cycles=int(events["start"][attention[-1] + 1]) - int(events["start"][attention[0]]),
        attention_bare_cycles=sum(instr.n_tiles * instr.k_tiles * instr.tokens for instr in instrs),
        frame_cycles=run.cycles,
        estimated_cycles=program.estimate(MEMORY.bytes_per_cycle, MEMORY.latency)[-1].stop,
        array_macs_per_cycle=program.config.macs_per_cycle,
        simulated_macs_per_second=program.useful_macs() / cpu_seconds,
        simulated_macs_per_second_wall=program.useful_macs() / run.seconds)


def measure(folder: Path) -> Figures:
    """Builds into ``folder`` (kept: the second time nothing is compiled) and simulates one frame `REPEATS` times. About 20 s on one core."""
    model = random_qgraph(**NETWORK)
    program = schedule(model, **ENGINE)
    build = native_builds.write(folder, model, program)
    images = random_images(random_model(**NETWORK), 1)
    executable = rtl_bench.build_bench(simulate.bench_files(build), trace=False)
    frames = program.frames(model.tasks[0], images)
    seconds = []
    for _ in range(REPEATS):
        before = cpu_seconds()
        run = rtl_bench.run_bench(executable, build.path, program, frames, [0], MEMORY)
        seconds.append(cpu_seconds() - before)
    return count(program, run, native_builds.differences(run, model, images, [0]), min(seconds))


def cpu_seconds() -> float:
    """CPU time of all processes this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description="Figures of one DeiT-T block in RTL simulation on a 16x16 array.")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--build", type=Path, help="build directory to use; otherwise a temporary one")
    args = parser.parse_args()
    if args.build:
        figures = measure(args.build)
    else:
        with tempfile.TemporaryDirectory(prefix="hwgen_block_") as folder:
            figures = measure(Path(folder) / "build")
    rows = (
        ("output words unlike the integer model", f"{figures.mismatches}", "0", figures.mismatches == 0),
        ("block, cycles", f"{figures.block_cycles:,}", "", True),
        ("useful MACs / (256 x cycles)", f"{figures.utilisation:.4f}", f">= {UTILISATION_LIMIT}", figures.utilisation >= UTILISATION_LIMIT),
        ("attention, cycles", f"{figures.attention_cycles:,}", "", True),
        ("attention / its bare matmuls", f"{figures.attention_ratio:.4f}", f"<= {ATTENTION_LIMIT}", figures.attention_ratio <= ATTENTION_LIMIT),
        ("simulated useful MACs per CPU second", f"{figures.simulated_macs_per_second / 1e6:,.0f} M", f">= {SPEED_LIMIT / 1e6:.0f} M",
         figures.simulated_macs_per_second >= SPEED_LIMIT),
        ("the same by the clock", f"{figures.simulated_macs_per_second_wall / 1e6:,.0f} M", "", True),
        ("whole frame, cycles", f"{figures.frame_cycles:,}", "", True),
        ("cycle model of the frame (estimate)", f"{figures.estimated_cycles:,}", "", True),
    )
    print("DeiT-T block: N=197, D=192, 3 heads, MLP 768; 16x16 array, 64 B/cycle, latency 100; RTL simulation")
    for name, value, limit, good in rows:
        print(f"{name:40} {value:>12}  {limit:9}{'' if good else ' MISSED'}")
    if args.json:
        args.json.write_text(json.dumps(figures.to_dict(), indent=2) + "\n")
    return int(not all(good for *_, good in rows))


if __name__ == "__main__":
    sys.exit(main())
