"""Runs images through a build: the integer model, the RTL in Verilator (native bench), the RTL in Icarus (cocotb bench),
the HLS project as C++."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
import time
from typing import Any

import numpy as np

from ..build import Build
from ..devices.memory import LATENCY
from ..engines.rtl.program import Program
from ..errors import InputError, OutputError, ToolError
from ..output import work_folder
from ..registers import NUM_TASK_SLOTS, StatusBit
from ..steps import golden as integer_model, host
from ..steps.step import Quantized
from ..tools import cache, cosim, native, verilator
from . import csim

HONOURED = {             # engine -> what of a memory model it can do
    "verilator": ("latency", "bytes_per_cycle", "stall", "seed"), "icarus": ("stall", "seed"), "csim": (), "golden": ()}
SIMULATORS = tuple(HONOURED)

MAX_FRAMES = 65535        # FRAMES register
EVENT = np.dtype([("frame", "<u4"), ("pc", "<u4"), ("start", "<u8"), ("retire", "<u8"), ("issue", "<u4"), ("wait_tile", "<u4"),
                  ("wait_hazard", "<u4"), ("wait_output", "<u4")])
ERRORS = (StatusBit.ILLEGAL_INSTRUCTION, StatusBit.AXI_READ_ERROR, StatusBit.AXI_WRITE_ERROR)


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The memory behind the AXI4 master. latency: cycles from a read burst's address to its first beat; bytes_per_cycle: None = what
    one port of the board delivers; stall: probability that a channel is not ready in a cycle; seed: of the stalls."""

    latency: int = LATENCY
    bytes_per_cycle: float | None = None
    stall: float = 0.0
    seed: int = 0

    def changed(self) -> list[str]:
        """Fields that differ from the default."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


def verify_memories(engine: str, beat: float) -> dict[str, MemoryModel]:
    """The memory models of `hwgen verify`, by name: ideal (no latency, a beat every cycle), slow, unsteady, the last two through one port of
    the board. beat: bytes. What the engine cannot honour is left out, and so is what then is the same run under another name."""
    wanted: dict[str, dict[str, Any]] = {
        "ideal": {"latency": 0, "bytes_per_cycle": beat, "stall": 0.0}, "latency 100": {"latency": 100, "stall": 0.0},
        "random stalls": {"latency": 20, "stall": 0.3}}
    found: dict[str, MemoryModel] = {}
    for name, values in wanted.items():
        memory = MemoryModel(**{key: value for key, value in values.items() if key in HONOURED[engine]})
        if memory not in found.values():
            found[name] = memory
    return found


def check_memory(engine: str, given: Iterable[str]) -> None:
    """Raises InputError when the engine cannot honour one of these fields of a `MemoryModel`."""
    for name in given:
        if name not in HONOURED[engine]:
            raise InputError(f"the engine {engine} knows no {name.replace('_', ' ')} of the memory",
                             where=f"option --{name.replace('_', '-')}", hint="leave it out, or use the engine verilator")


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


def bench_files(build: Build) -> dict[str, bytes]:
    """What the native bench of a build is made of: RTL sources in order, bench, driver. Raises InputError when there is no RTL."""
    build.need_rtl()
    return build.read((*build.rtl, "bench/main.cpp", *build.below("driver")))


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


def _cycle_limit(program: Program, frames: int, memory: MemoryModel) -> int:
    """Cycles after which a run has hung: twenty times the estimate, and what the stalls cost."""
    expected = program.estimate(memory.bytes_per_cycle or program.config.axi_data_bits / 8, memory.latency)[-1].stop
    return round(20 * frames * (expected + 10 * memory.latency + 1000) / max(0.01, 1 - memory.stall))


def run_bench(executable: Path, folder: Path, program: Program, frames: bytes, tasks: list[int], memory: MemoryModel, *,
              waves: Path | None = None, runs: int = 1, checked: bool = True, on_frame: Callable[[int], None] | None = None) -> Run:
    """Run ``len(tasks)`` frames through the compiled bench. ``tasks`` must repeat every eight frames (TASKS register).

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


@dataclass(frozen=True)
class SimulationResult:
    """Outputs and figures of a simulation; stage "rtl simulation" for the cycles. See docs/reference/json.md.

    A frame is one image (with --batch several) for one task; ``cycles_per_image`` are the busy cycles of the run over the images of
    all its frames; ``memory`` is the memory model they were simulated with. cpu_seconds: of the simulating processes.
    outputs: float32 [images, ...] under their ONNX names. What an engine does not know is None: bit_exact, mismatches and words for the
    integer model itself; cycles and what follows from them for it and the C simulation.
    input_clipped: share of the input values beyond the calibrated range, which the host clips; None where nobody counted.
    """

    images: int
    outputs: dict[str, np.ndarray]
    bit_exact: bool | None
    mismatches: int | None
    words: int | None
    cycles_per_image: float | None
    useful_macs_per_image: int
    array_macs_per_cycle: int | None
    utilization: float | None
    simulated_macs_per_second: float
    simulated_cycles_per_second: float | None
    clock_mhz: float
    latency_ms: float | None
    memory: dict | None = None
    cpu_seconds: float | None = None
    frames: list = field(default_factory=list)
    per_instruction: list = field(default_factory=list)
    waves: Path | None = None
    input_clipped: float | None = None
    runs: list[tuple[list[int], np.ndarray]] = field(default_factory=list)      # per run: task of each frame, events (`EVENT`)

    def __repr__(self) -> str:
        exact = {None: "", True: ", bit-exact", False: f", {self.mismatches} words differ"}[self.bit_exact]
        cycles = "" if self.cycles_per_image is None else f", {self.cycles_per_image:,.0f} cycles an image"
        return f"<SimulationResult: {self.images} images{exact}{cycles}>"

    def to_dict(self) -> dict:
        """JSON-able, without the outputs and the events."""
        data = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in ("outputs", "waves", "runs")}
        return data | {"waves": None if self.waves is None else str(self.waves)}


def simulate(build: Build, images: np.ndarray, *, task: int | None, engine: str, waves, memory: MemoryModel, progress) -> SimulationResult:
    """See `api.Accelerator.simulate`."""
    say = progress or (lambda stage, done=0, total=0: None)
    model, num_tasks = build.model, len(build.model.tasks)
    if engine not in SIMULATORS:
        raise InputError(f"there is no engine {engine!r}", hint=f"choose one of {', '.join(SIMULATORS)}")
    if task is not None and not 0 <= task < num_tasks:
        raise InputError(f"there is no task {task}: the network has {num_tasks}", hint=f"choose 0 to {num_tasks - 1}")
    if waves is not None and engine != "verilator":
        raise InputError("waveforms are written by the engine verilator only", where="option --waves")
    check_memory(engine, memory.changed())
    tasks = [task] if task is not None else list(range(num_tasks))
    say("integer model", 0, 0)
    begin = time.monotonic()
    golden = {t: integer_model.run(model.tasks[t], images) for t in tasks}
    golden_seconds = time.monotonic() - begin
    macs = build.program.mean_macs(tasks) if build.program else sum(model.tasks[t].useful_macs for t in tasks) // len(tasks)
    common: dict[str, Any] = {
        "images": len(images), "useful_macs_per_image": macs, "array_macs_per_cycle": build.program.config.macs_per_cycle if build.program else None,
        "clock_mhz": build.clock_mhz, "input_clipped": host.input_clipped(model.tasks[0], images)}
    if engine == "golden":
        return SimulationResult(
            outputs=_dequantized(model, golden), bit_exact=None, mismatches=None, words=None, cycles_per_image=None, utilization=None,
            simulated_macs_per_second=macs * len(images) * len(tasks) / max(golden_seconds, 1e-9), simulated_cycles_per_second=None,
            latency_ms=None, **common)
    if engine == "csim":
        return _csim(build, images, golden, common, say)
    program = build.need_rtl()
    memory = _conditions(build, memory, engine)
    hardware, runs = run_rtl(build, images, tasks, memory, say, engine=engine, waves=waves)
    mismatches = sum(int((hardware[t][name] != golden[t][name]).sum()) for t in tasks for name in golden[t])
    frames = program.batch * sum(len(sequence) for sequence, _ in runs)
    cycles = sum(done.cycles for _, done in runs)
    seconds = max(sum(done.seconds for _, done in runs), 1e-9)
    return SimulationResult(
        outputs=_dequantized(model, hardware), bit_exact=mismatches == 0, mismatches=mismatches,
        words=sum(golden[t][name].size for t in tasks for name in golden[t]), cycles_per_image=cycles / frames,
        utilization=macs * frames / (program.config.macs_per_cycle * cycles), simulated_macs_per_second=macs * frames / seconds,
        simulated_cycles_per_second=cycles / seconds, latency_ms=cycles * program.batch / frames / build.clock_mhz / 1000,
        memory=asdict(memory), cpu_seconds=sum(done.cpu_seconds or 0.0 for _, done in runs) if engine == "verilator" else None,
        frames=[row for sequence, done in runs for row in _frame_table(sequence, done)],
        per_instruction=_instruction_table(program, [done.events for _, done in runs]), waves=None if waves is None else Path(waves),
        runs=[(sequence, done.events) for sequence, done in runs], **common)


def run_rtl(build: Build, images: np.ndarray, tasks: list[int], memory: MemoryModel, say, *, engine: str = "verilator",
            waves=None) -> tuple[dict[int, dict[str, np.ndarray]], list[tuple[list[int], Run]]]:
    """Every image for every task through the RTL: ({task: {ONNX output: int32 [images, channels]}}, runs with their tasks)."""
    memory = _conditions(build, memory, engine)
    run = _run_verilator if engine == "verilator" else _run_icarus
    program = build.need_rtl()
    batch = program.batch
    groups = np.zeros((-(-len(images) // batch) * batch, *images.shape[1:]), images.dtype)
    groups[:len(images)] = images
    groups = groups.reshape(-1, batch, *images.shape[1:])
    # all tasks of an image in a row, if their pattern fits the eight slots of the TASKS register; else a run a task
    orders = [tasks] if NUM_TASK_SLOTS % len(tasks) == 0 or len(groups) * len(tasks) <= NUM_TASK_SLOTS else [[t] for t in tasks]
    found: dict[int, list[dict[str, np.ndarray]]] = {t: [] for t in tasks}
    runs = []
    for order in orders:
        sequence = order * len(groups)
        inputs = np.repeat(groups, len(order), axis=0).reshape(-1, *images.shape[1:])
        done = run(build, program.frames(build.model.tasks[0], inputs), sequence, memory, None if waves is None else Path(waves), say)
        runs.append((sequence, done))
        for i, outputs in enumerate(done.outputs):
            found[sequence[i // batch]].append(outputs)
    found = {t: outputs[:len(images)] for t, outputs in found.items()}
    return {t: {o.name: np.stack([frame[o.name] for frame in found[t]]) for o in program.outputs[t]} for t in tasks}, runs


def _conditions(build: Build, memory: MemoryModel, engine: str) -> MemoryModel:
    """The memory as it is simulated: the board's bandwidth where none is given; in Icarus it answers at once, a beat a cycle."""
    if engine == "icarus":
        return replace(memory, latency=0, bytes_per_cycle=build.need_rtl().config.axi_data_bits / 8)
    return memory if memory.bytes_per_cycle is not None else replace(memory, bytes_per_cycle=build.bytes_per_cycle)


def _csim(build: Build, images: np.ndarray, golden: dict[int, dict[str, np.ndarray]], common: dict, say) -> SimulationResult:
    """The HLS project, compiled and run as C++: outputs, no cycles."""
    run = csim.simulate(build, images, list(golden), say)
    found = {t: {name: np.stack([run.outputs[i][name] for i in range(n, len(run.outputs), len(golden))]) for name in golden[t]}
             for n, t in enumerate(golden)}
    mismatches = sum(int((found[t][name] != golden[t][name]).sum()) for t in golden for name in golden[t])
    return SimulationResult(
        outputs=_dequantized(build.model, found), bit_exact=mismatches == 0, mismatches=mismatches,
        words=sum(golden[t][name].size for t in golden for name in golden[t]), cycles_per_image=None, utilization=None,
        simulated_macs_per_second=common["useful_macs_per_image"] * len(run.outputs) / max(run.seconds, 1e-9),
        simulated_cycles_per_second=None, latency_ms=None, **common)


def _run_verilator(build: Build, frames: bytes, tasks: list[int], memory: MemoryModel, waves: Path | None, say) -> Run:
    say(f"compile the simulation ({cache.how_often()})", 0, 0)
    executable = build_bench(bench_files(build), trace=waves is not None)
    if waves is not None and waves.parent.resolve() == build.path.resolve():
        build.clear(waves.name)
    say("simulate RTL", 0, len(tasks))
    with work_folder("hwgen_build_") as work:
        for name, content in build.read(("program.bin", "weights.bin")).items():
            (work / name).write_bytes(content)
        done = run_bench(executable, work, build.need_rtl(), frames, tasks, memory, waves=waves,
                         on_frame=lambda done: say("simulate RTL", done, len(tasks)))
    if waves is not None and not waves.is_file():
        raise OutputError("the waveform could not be written", where=str(waves), hint="check the rights and the free space there")
    return done


def _run_icarus(build: Build, frames: bytes, tasks: list[int], memory: MemoryModel, waves: Path | None, say) -> Run:
    """cocotb bench on Icarus: real AXI transactions. The memory answers at once but where ``memory.stall`` pauses a channel."""
    program = build.need_rtl()
    say("simulate RTL in Icarus (slow)", 0, 0)
    with work_folder("hwgen_run_") as work:
        (work / "input.bin").write_bytes(frames)
        (work / "rtl").mkdir()
        for name, content in build.read((*build.below("rtl"), "program.bin", "weights.bin")).items():
            (work / name).write_bytes(content)
        begin = time.monotonic()
        result = cosim.simulate(work, work, {
            "program": str(work / "program.bin"), "weights": str(work / "weights.bin"), "input": str(work / "input.bin"),
            "output": str(work / "output.bin"), "input_bytes": program.input_bytes, "input_stride": program.input_stride,
            "output_bytes": program.output_bytes, "frames": len(tasks), "tasks": _task_register(tasks), "stall_seed": memory.seed,
            "runs": 1, "timeout_ms": 10_000, "pattern": memory.stall})
        seconds = time.monotonic() - begin
        outputs = program.read_outputs((work / "output.bin").read_bytes(), tasks)
    return Run(outputs, result["cycles"], seconds, None, np.zeros(0, EVENT))


def _dequantized(model: Quantized, words: dict[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Real outputs. An output that several tasks have (one pass each) is given for the last of them."""
    result: dict[str, np.ndarray] = {}
    for task, outputs in words.items():
        result |= host.dequantize(model.tasks[task], outputs)
    return result


def _frame_table(tasks: list[int], run: Run) -> list[dict]:
    """Per frame: task, first and last cycle, from the start of the run."""
    rows = []
    for frame, task in enumerate(tasks):
        events = run.events[run.events["frame"] == frame]
        if len(events):
            rows.append({"frame": frame, "task": task, "start": int(events["start"][0] - run.events["start"][0]),
                         "stop": int(events["retire"][-1] - run.events["start"][0])})
    return rows


def _instruction_table(program: Program, runs: list[np.ndarray]) -> list[dict]:
    """Per instruction, averages over the frames that ran it; cycles: from its start to the start of the next."""
    sums: dict[int, np.ndarray] = {}
    for events in runs:
        if not len(events):
            continue
        spans = np.append(events["start"][1:], events["retire"][-1:]).astype(np.int64) - events["start"].astype(np.int64)
        for event, cycles in zip(events, spans, strict=True):
            row = sums.setdefault(int(event["pc"]), np.zeros(6))
            row += (1, cycles, event["issue"], event["wait_tile"], event["wait_hazard"], event["wait_output"])
    table = []
    for pc, (count, *values) in sorted(sums.items()):
        cycles, issue, tile, hazard, output = (value / count for value in values)
        macs = program.infos[pc].macs
        table.append({"pc": pc, "instruction": program.instrs[pc].note, "node": program.infos[pc].node, "cycles": cycles,
                      "issue": issue, "wait_tile": tile, "wait_hazard": hazard, "wait_output": output, "useful_macs": macs,
                      "utilization": macs / (cycles * program.config.macs_per_cycle) if cycles else 0.0})
    return table
