"""Runs the RTL of a build: in Verilator with the native bench, in Icarus with the cocotb bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
import time

import numpy as np

from ...devices.memory import MemoryModel
from ...errors import InputError, OutputError, ToolError
from ...output import work_folder
from ...registers import LENGTH_BITS, NUM_TASK_SLOTS, StatusBit
from ...steps.step import Quantized
from ...tools import cache, cosim, native, verilator
from ..protocol import Conditions, Result
from .program import Program

IMAGES = ("program.bin", "weights.bin")
MAX_FRAMES = 65535        # FRAMES register
EVENT = np.dtype([("frame", "<u4"), ("pc", "<u4"), ("start", "<u8"), ("retire", "<u8"), ("issue", "<u4"), ("wait_tile", "<u4"),
                  ("wait_hazard", "<u4"), ("wait_output", "<u4")])
ERRORS = (StatusBit.ILLEGAL_INSTRUCTION, StatusBit.AXI_READ_ERROR, StatusBit.AXI_WRITE_ERROR)


@dataclass(frozen=True)
class Run:
    """What one run of the hardware gave. cycles: from start to done; events: one record per instruction and frame (`EVENT`);
    values: per frame, what a program with ``taps`` let out; read_bytes: by the read channel, cpu_seconds: of the simulating process, None
    where nobody counts."""

    outputs: list[dict[str, np.ndarray]]
    cycles: int
    seconds: float
    read_bytes: int | None
    events: np.ndarray
    values: list[dict[str, np.ndarray]] = field(default_factory=list)
    cpu_seconds: float | None = None

    def __repr__(self) -> str:
        return f"<Run: {len(self.outputs)} frames, {self.cycles:,} cycles>"


def build_bench(files: Mapping[str, str | bytes], trace: bool) -> Path:
    """Compile a native bench; returns the executable. files: `bench_files`, by their names in the build (others are left out).

    It lies in the cache: the same files are compiled once. Raises ToolError.
    """
    data = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
    top = "rtl/hwgen_top.sv"
    rtl = {name.removeprefix("rtl/"): data[name] for name in (*(n for n in data if n.startswith("rtl/") and n.endswith(".sv") and n != top), top)}
    main = {Path(name).name: content for name, content in sorted(data.items()) if name.startswith(("bench/", "driver/"))}
    return verilator.build(rtl, "hwgen_top", main, trace=trace)


def _task_register(tasks: list[int]) -> int:
    """The TASKS register for these frames. Raises InputError when their tasks do not repeat every eight frames."""
    slots = [tasks[i % len(tasks)] for i in range(NUM_TASK_SLOTS)] if len(tasks) < NUM_TASK_SLOTS else tasks[:NUM_TASK_SLOTS]
    if any(task != slots[i % NUM_TASK_SLOTS] for i, task in enumerate(tasks)):
        raise InputError("the tasks of the frames do not repeat every eight frames")
    return sum(task << 4 * i for i, task in enumerate(slots))


def length_registers(lengths: Sequence[int]) -> list[int]:
    """The LENGTHS registers for these frames, of which all that share a slot are equal; no lengths: 0, the longest sequence."""
    slots = [lengths[i % len(lengths)] if lengths else 0 for i in range(NUM_TASK_SLOTS)]
    if any(length != slots[i % NUM_TASK_SLOTS] for i, length in enumerate(lengths)):
        raise InputError("the lengths of the frames do not repeat every eight frames")
    per = 32 // LENGTH_BITS
    return [sum(length << LENGTH_BITS * i for i, length in enumerate(slots[n:n + per])) for n in range(0, NUM_TASK_SLOTS, per)]


def _cycle_limit(program: Program, frames: int, memory: MemoryModel) -> int:
    """Cycles after which a run has hung: twenty times the estimate, and what the stalls cost."""
    expected = program.estimate(memory.bytes_per_cycle or program.config.axi_data_bits / 8, memory.latency)[-1].stop
    return round(20 * frames * (expected + 10 * memory.latency + 1000) / max(0.01, 1 - memory.stall))


def run_bench(executable: Path, folder: Path, program: Program, frames: bytes, tasks: list[int], memory: MemoryModel, *,
              lengths: Sequence[int] = (), waves: Path | None = None, runs: int = 1, checked: bool = True,
              on_frame: Callable[[int], None] | None = None) -> Run:
    """Run ``len(tasks)`` frames through the compiled bench. ``tasks`` must repeat every eight frames (TASKS register), and so must ``lengths``,
    tokens of the sequence of each frame (none: as many as were compiled).

    folder: holds program.bin and weights.bin. ``checked=False`` lets a program or weights in that the driver refuses.
    Raises ToolError when the hardware reports an error or does not finish.
    """
    if not 0 < len(tasks) <= MAX_FRAMES:
        raise InputError(f"{len(tasks)} frames in one run, 1 to {MAX_FRAMES} are possible")
    register = _task_register(tasks)
    with work_folder("hwgen_run_") as work:
        (work / "input.bin").write_bytes(frames)
        options = {"program": folder / "program.bin", "weights": folder / "weights.bin", "input": work / "input.bin", "output": work / "output.bin",
                   "events": work / "events.bin", "frames": len(tasks), "tasks": hex(register),
                   "latency": memory.latency, "bytes_per_cycle": memory.bytes_per_cycle, "stall": memory.stall, "seed": memory.seed, "runs": runs,
                   "max_cycles": _cycle_limit(program, len(tasks), memory), "unchecked": 0 if checked else 1}
        if lengths:
            length_registers(lengths)
            options["lengths"] = ",".join(map(str, lengths[:NUM_TASK_SLOTS]))
        if waves is not None:
            options["waves"] = waves
        result = native.run(executable, options, on_frame)
        status = result["status"]
        if bad := [bit.name for bit in ERRORS if status >> bit & 1]:
            raise ToolError(f"the simulated accelerator reports {', '.join(bad)} after {result['cycles']} cycles",
                            hint="this is a defect of hwgen or a changed program; compile again and report it")
        data = (work / "output.bin").read_bytes()
        events = np.fromfile(work / "events.bin", EVENT)
    return Run(program.read_outputs(data, tasks), result["cycles"], result["seconds"], result["read_bytes"], events,
               program.read_values(data, tasks), result["cpu_seconds"])


def _verilator(files: Mapping[str, bytes], program: Program, frames: bytes, tasks: list[int], how: Conditions) -> Run:
    """Native bench."""
    say, waves = how.say, how.waves
    say(f"compile the simulation ({cache.how_often()})", 0, 0)
    executable = build_bench(files, trace=waves is not None)
    say("simulate RTL", 0, len(tasks))
    with work_folder("hwgen_build_") as work:
        for name in IMAGES:
            (work / name).write_bytes(files[name])
        done = run_bench(executable, work, program, frames, tasks, how.memory, lengths=how.lengths, waves=waves,
                         on_frame=lambda done: say("simulate RTL", done, len(tasks)))
    if waves is not None and not waves.is_file():
        raise OutputError("the waveform could not be written", where=str(waves), hint="check the rights and the free space there")
    return done


def _icarus(files: Mapping[str, bytes], program: Program, frames: bytes, tasks: list[int], how: Conditions) -> Run:
    """cocotb bench on Icarus: real AXI transactions. The memory answers at once but where ``memory.stall`` pauses a channel."""
    how.say("simulate RTL in Icarus (slow)", 0, 0)
    with work_folder("hwgen_run_") as work:
        (work / "input.bin").write_bytes(frames)
        (work / "rtl").mkdir()
        for name, content in files.items():
            if name in IMAGES or name.startswith("rtl/"):
                (work / name).write_bytes(content)
        begin = time.monotonic()
        result = cosim.simulate(work, work, {
            "program": str(work / "program.bin"), "weights": str(work / "weights.bin"), "input": str(work / "input.bin"),
            "output": str(work / "output.bin"), "input_bytes": program.input_bytes, "input_stride": program.input_stride,
            "output_bytes": program.output_bytes, "frames": len(tasks), "tasks": _task_register(tasks), "stall_seed": how.memory.seed,
            "runs": 1, "timeout_ms": 10_000, "pattern": how.memory.stall,
            "lengths": length_registers(how.lengths) if program.config.lengths else []})
        seconds = time.monotonic() - begin
        outputs = program.read_outputs((work / "output.bin").read_bytes(), tasks)
    return Run(outputs, result["cycles"], seconds, None, np.zeros(0, EVENT))


SIMULATORS = {"verilator": _verilator, "icarus": _icarus}


def run(program: Program, model: Quantized, files: Mapping[str, bytes], images: np.ndarray, tasks: list[int], how: Conditions) -> Result:
    """Every image for every task through the RTL. files: of the build, the sources in the order a tool reads them. The runs of the result
    are (task of each frame, `Run`). With lengths of the images outputs hold anything behind them."""
    batch = program.batch
    groups = np.zeros((-(-len(images) // batch) * batch, *images.shape[1:]), images.dtype)
    groups[:len(images)] = images
    groups = groups.reshape(-1, batch, *images.shape[1:])
    # all tasks of an image in a row, if their pattern fits the eight slots of the TASKS register; else a run a task
    orders = [tasks] if NUM_TASK_SLOTS % len(tasks) == 0 or len(groups) * len(tasks) <= NUM_TASK_SLOTS else [[t] for t in tasks]
    most = len(groups) if len(set(how.lengths)) < 2 else max(1, NUM_TASK_SLOTS // len(orders[0]))      # images of a run
    found: dict[int, list[dict[str, np.ndarray]]] = {t: [] for t in tasks}
    runs: list[tuple[list[int], Run]] = []
    for order, first in product(orders, range(0, len(groups), most)):
        some = groups[first:first + most]
        sequence = order * len(some)
        inputs = np.repeat(some, len(order), axis=0).reshape(-1, *images.shape[1:])
        lengths = tuple(length for length in how.lengths[first:first + most] for _ in order)
        done = SIMULATORS[how.simulator](files, program, program.frames(model.tasks[0], inputs), sequence, replace(how, lengths=lengths))
        runs.append((sequence, done))
        for i, outputs in enumerate(done.outputs):
            found[sequence[i // batch]].append(outputs)
    found = {t: outputs[:len(images)] for t, outputs in found.items()}
    outputs_of = {t: {o.name: np.stack([frame[o.name] for frame in found[t]]) for o in program.outputs[t]} for t in tasks}
    return Result(outputs_of, sum(done.cycles for _, done in runs), sum(done.seconds for _, done in runs),
                  batch * sum(len(sequence) for sequence, _ in runs), tuple(runs))
