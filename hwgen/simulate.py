"""Runs a program on a simulated accelerator: the native Verilator bench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import tempfile

import numpy as np

from .errors import InputError, ToolError
from .registers import StatusBit
from .schedule import Program
from .tools import native, verilator

MAX_FRAMES = 65535        # FRAMES register
TASK_SLOTS = 8            # TASKS register
EVENT = np.dtype([("frame", "<u4"), ("pc", "<u4"), ("start", "<u8"), ("retire", "<u8"), ("issue", "<u4"), ("wait_tile", "<u4"),
                  ("wait_hazard", "<u4"), ("wait_output", "<u4")])
ERRORS = (StatusBit.ILLEGAL_INSTRUCTION, StatusBit.AXI_READ_ERROR, StatusBit.AXI_WRITE_ERROR)


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The memory behind the AXI4 master. latency: cycles from a read burst's address to its first beat; bytes_per_cycle: None = what
    the board delivers; stall: probability that a channel is not ready in a cycle; seed: of the stalls."""

    latency: int = 100
    bytes_per_cycle: float | None = None
    stall: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Run:
    """What one run of the hardware gave. cycles: from start to done; events: one record per instruction and frame (`EVENT`)."""

    outputs: list[dict[str, np.ndarray]]
    cycles: int
    seconds: float
    read_bytes: int
    events: np.ndarray


def build_bench(build: Path, trace: bool) -> Path:
    """Compile the native bench of a build directory; returns the executable. A second call compiles only what changed."""
    names = (build / "rtl" / "filelist.f").read_text().split()
    return verilator.build([build / "rtl" / name for name in names], "hwgen_top", build / "bench" / "main.cpp",
                           build / "bench" / ("waves" if trace else "fast"), trace=trace)


def _cycle_limit(program: Program, frames: int, memory: MemoryModel) -> int:
    """Cycles after which a run has hung: twenty times the estimate, and what the stalls cost."""
    expected = program.estimate(memory.bytes_per_cycle, memory.latency)[-1].stop
    return round(20 * frames * (expected + 10 * memory.latency + 1000) / max(0.01, 1 - memory.stall))


def run_bench(executable: Path, build: Path, program: Program, frames: bytes, tasks: list[int], memory: MemoryModel, *,
              waves: Path | None = None, runs: int = 1, on_frame: Callable[[int], None] | None = None) -> Run:
    """Run ``len(tasks)`` frames through the compiled bench. ``tasks`` must repeat every eight frames (TASKS register).

    Raises ToolError when the hardware reports an error or does not finish.
    """
    if not 0 < len(tasks) <= MAX_FRAMES:
        raise InputError(f"{len(tasks)} frames in one run, 1 to {MAX_FRAMES} are possible")
    slots = [tasks[i % len(tasks)] for i in range(TASK_SLOTS)] if len(tasks) < TASK_SLOTS else tasks[:TASK_SLOTS]
    if any(task != slots[i % TASK_SLOTS] for i, task in enumerate(tasks)):
        raise InputError("the tasks of the frames do not repeat every eight frames")
    with tempfile.TemporaryDirectory(prefix="hwgen_run_") as folder:
        work = Path(folder)
        (work / "input.bin").write_bytes(frames)
        options = dict(program=build / "program.bin", weights=build / "weights.bin", input=work / "input.bin", output=work / "output.bin",
                       events=work / "events.bin", frames=len(tasks), tasks=hex(sum(t << 4 * i for i, t in enumerate(slots))),
                       input_bytes=program.input_bytes, input_stride=program.input_stride, output_bytes=program.output_bytes,
                       latency=memory.latency, bytes_per_cycle=memory.bytes_per_cycle, stall=memory.stall, seed=memory.seed, runs=runs, max_cycles=_cycle_limit(program, len(tasks), memory))
        if waves is not None:
            options["waves"] = waves
        result = native.run(executable, options, on_frame)
        status = result["status"]
        if bad := [bit.name for bit in ERRORS if status >> bit & 1]:
            raise ToolError(f"the simulated accelerator reports {', '.join(bad)} after {result['cycles']} cycles", where=str(build),
                            hint="this is a defect of hwgen or a changed program; compile again and report it")
        outputs = program.read_outputs((work / "output.bin").read_bytes(), tasks)
        events = np.fromfile(work / "events.bin", EVENT)
    return Run(outputs, result["cycles"], result["seconds"], result["read_bytes"], events)
