"""Runs images through a build: the integer model, the RTL in Verilator (native bench), the RTL in Icarus (cocotb bench),
the HLS project as C++."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
import time
from typing import Any

import numpy as np

from ..build import Build
from ..build.directory import damaged
from ..devices.memory import MemoryModel
from ..engines.hls.plan import plan as make_plan
from ..engines.protocol import Conditions, Result
from ..engines.registry import ENGINES
from ..engines.rtl.bench import IMAGES, Run
from ..engines.rtl.program import Program
from ..errors import InputError
from ..steps import golden as integer_model, host
from ..steps.passes.lengths import shortened
from ..steps.step import Quantized

HONOURED = {             # engine -> what of a memory model it can do
    "verilator": ("latency", "bytes_per_cycle", "stall", "seed"), "icarus": ("stall", "seed"), "csim": (), "golden": ()}
SIMULATORS = tuple(HONOURED)


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


def bench_files(build: Build) -> dict[str, bytes]:
    """What a build's RTL runs from: sources in order, bench, driver, program, weights. Raises InputError when there is no RTL."""
    build.need_rtl()
    rest = tuple(name for name in build.below("rtl") if name not in build.rtl)
    return build.read((*build.rtl, *rest, "bench/main.cpp", *build.below("driver"), *IMAGES))


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


def simulate(build: Build, images: np.ndarray, *, task: int | None, engine: str, waves, memory: MemoryModel, lengths: Sequence[int] = (),
             progress) -> SimulationResult:
    """See `api.Accelerator.simulate`."""
    say = progress or (lambda stage, done=0, total=0: None)
    model, num_tasks, lengths = build.model, len(build.model.tasks), checked_lengths(build, len(images), lengths)
    if engine not in SIMULATORS:
        raise InputError(f"there is no engine {engine!r}", hint=f"choose one of {', '.join(SIMULATORS)}")
    if task is not None and not 0 <= task < num_tasks:
        raise InputError(f"there is no task {task}: the network has {num_tasks}", hint=f"choose 0 to {num_tasks - 1}")
    if waves is not None and engine != "verilator":
        raise InputError("waveforms are written by the engine verilator only", where="option --waves")
    check_memory(engine, memory.changed())
    tasks = [task] if task is not None else list(range(num_tasks))
    if engine == "csim":
        need_hls(build)
    elif engine != "golden":
        build.need_rtl()
    say("integer model", 0, 0)
    begin = time.monotonic()
    golden = {t: integer_model.run(model.tasks[t], images, lengths) for t in tasks}
    golden_seconds = time.monotonic() - begin
    macs = build.program.mean_macs(tasks) if build.program else sum(model.tasks[t].useful_macs for t in tasks) // len(tasks)
    if lengths:
        macs = sum(shortened(model.tasks[t], length).useful_macs for t in tasks for length in lengths) // (len(tasks) * len(lengths))
    common: dict[str, Any] = {
        "images": len(images), "useful_macs_per_image": macs, "array_macs_per_cycle": build.program.config.macs_per_cycle if build.program else None,
        "clock_mhz": build.clock_mhz, "input_clipped": host.input_clipped(model.tasks[0], images)}
    if engine == "golden":
        return SimulationResult(
            outputs=_dequantized(model, golden, lengths), bit_exact=None, mismatches=None, words=None, cycles_per_image=None, utilization=None,
            simulated_macs_per_second=macs * len(images) * len(tasks) / max(golden_seconds, 1e-9), simulated_cycles_per_second=None,
            latency_ms=None, **common)
    if engine == "csim":
        return _csim(build, golden, common, run_hls(build, images, tasks, say, lengths=lengths), lengths)
    program = build.need_rtl()
    memory = _memory(build, memory, engine)
    done = run_rtl(build, images, tasks, memory, say, simulator=engine, waves=None if waves is None else Path(waves), lengths=lengths)
    mismatches = _mismatches(done.outputs, golden)
    cycles, seconds = done.cycles or 0, max(done.seconds, 1e-9)
    return SimulationResult(
        outputs=_dequantized(model, done.outputs, lengths), bit_exact=mismatches == 0, mismatches=mismatches, words=_words(golden),
        cycles_per_image=cycles / done.frames, utilization=macs * done.frames / (program.config.macs_per_cycle * cycles),
        simulated_macs_per_second=macs * done.frames / seconds, simulated_cycles_per_second=cycles / seconds,
        latency_ms=cycles * program.batch / done.frames / build.clock_mhz / 1000, memory=asdict(memory),
        cpu_seconds=sum(run.cpu_seconds or 0.0 for _, run in done.runs) if engine == "verilator" else None,
        frames=[row for sequence, run in done.runs for row in _frame_table(sequence, run)],
        per_instruction=_instruction_table(program, [run.events for _, run in done.runs]), waves=None if waves is None else Path(waves),
        runs=[(sequence, run.events) for sequence, run in done.runs], **common)


def run_rtl(build: Build, images: np.ndarray, tasks: list[int], memory: MemoryModel, say, *, simulator: str = "verilator",
            waves: Path | None = None, lengths: tuple[int, ...] = ()) -> Result:
    """Every image for every task through the RTL of a build."""
    if waves is not None and waves.parent.resolve() == build.path.resolve():
        build.clear(waves.name)
    done = ENGINES["rtl"].run(build.need_rtl(), build.model, bench_files(build), images, tasks,
                              Conditions(_memory(build, memory, simulator), simulator, waves, say, lengths=lengths))
    return _counted(build.model, done, lengths)


def need_hls(build: Build) -> None:
    """Raises InputError when the build was compiled without the HLS engine."""
    if not build.has_hls:
        raise InputError("the build holds no HLS project", where=str(build.path), hint="compile with --backend hls or both")


def run_hls(build: Build, images: np.ndarray, tasks: list[int], say, *, trace: bool = False, lengths: tuple[int, ...] = ()) -> Result:
    """Every image for every task through the C++ of a build. Raises InputError when it has none."""
    need_hls(build)
    made = make_plan(build.model, build.report["hls"]["lanes"], build.report["hls"]["queries"])
    files = build.read(build.below("hls"))
    if files["hls/weights.bin"] != made.weight_file():
        raise damaged(build.path, "hls/weights.bin is not of the network and the lanes that report.json says")
    done = ENGINES["hls"].run(made, build.model, files, images, tasks, Conditions(say=say, trace=trace, lengths=lengths))
    return _counted(build.model, done, lengths)


def checked_lengths(build: Build, images: int, lengths: Sequence[int]) -> tuple[int, ...]:
    """Tokens of each image's sequence; fewer numbers than images are used again from the first on. Raises InputError."""
    sent = build.model.tasks[0].input[1]
    if not len(lengths):
        return ()
    if not sent.sequence:
        raise InputError("the build takes sequences of one length", where="option --lengths", hint="compile with --lengths")
    for length in lengths:
        if not 1 <= length <= sent.tokens:
            raise InputError(f"a sequence of {length} tokens, the build takes 1 to {sent.tokens}", where="option --lengths",
                             hint=f"give lengths of 1 to {sent.tokens}, or compile for a longer sequence")
    return tuple(int(lengths[i % len(lengths)]) for i in range(images))


def _counted(model: Quantized, done: Result, lengths: tuple[int, ...]) -> Result:
    """Without what is behind the sequences."""
    return replace(done, outputs={task: host.counted(model.tasks[task], outputs, lengths) for task, outputs in done.outputs.items()})


def _memory(build: Build, memory: MemoryModel, engine: str) -> MemoryModel:
    """The memory as it is simulated: the board's bandwidth where none is given; in Icarus it answers at once, a beat a cycle."""
    if engine == "icarus":
        return replace(memory, latency=0, bytes_per_cycle=build.need_rtl().config.axi_data_bits / 8)
    return memory if memory.bytes_per_cycle is not None else replace(memory, bytes_per_cycle=build.bytes_per_cycle)


def _csim(build: Build, golden: dict[int, dict[str, np.ndarray]], common: dict, done: Result, lengths: tuple[int, ...]) -> SimulationResult:
    """Of the HLS project, compiled and run as C++: outputs, no cycles."""
    mismatches = _mismatches(done.outputs, golden)
    return SimulationResult(
        outputs=_dequantized(build.model, done.outputs, lengths), bit_exact=mismatches == 0, mismatches=mismatches, words=_words(golden),
        cycles_per_image=None, utilization=None,
        simulated_macs_per_second=common["useful_macs_per_image"] * done.frames / max(done.seconds, 1e-9),
        simulated_cycles_per_second=None, latency_ms=None, **common)


def _mismatches(found: Mapping[int, Mapping[str, np.ndarray]], golden: dict[int, dict[str, np.ndarray]]) -> int:
    return sum(int((found[t][name] != golden[t][name]).sum()) for t in golden for name in golden[t])


def _words(golden: dict[int, dict[str, np.ndarray]]) -> int:
    return sum(words.size for outputs in golden.values() for words in outputs.values())


def _dequantized(model: Quantized, words: Mapping[int, Mapping[str, np.ndarray]], lengths: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Real outputs. An output that several tasks have (one pass each) is given for the last of them."""
    result: dict[str, np.ndarray] = {}
    for task, outputs in words.items():
        result |= host.dequantize(model.tasks[task], outputs, lengths)
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
    frames = max((row[0] for row in sums.values()), default=1)             # an instruction of all tasks runs in each
    for pc, (count, *values) in sorted(sums.items()):
        cycles, issue, tile, hazard, output = (value / count for value in values)
        macs = program.infos[pc].macs
        table.append({"pc": pc, "instruction": program.instrs[pc].note, "node": program.infos[pc].node, "share": count / frames, "cycles": cycles,
                      "issue": issue, "wait_tile": tile, "wait_hazard": hazard, "wait_output": output, "useful_macs": macs,
                      "utilization": macs / (cycles * program.config.macs_per_cycle) if cycles else 0.0})
    return table
