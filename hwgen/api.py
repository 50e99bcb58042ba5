"""The Python API; the commands call nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
import json
from pathlib import Path
import zipfile

import numpy as np

from . import __version__, build as builds, csim, difference, flows, ir, quantizer, resources, trace
from .backends import bench, driver, hls, hls_estimate, rtl
from .board import Board, load_board
from .errors import CalibrationError, InputError
from .golden import float_model, integer_model
from .importer import Checked, check_model, import_model
from .output import MANIFEST, check_target, sha256, write_json
from .qir import QModel
from .schedule import Program
from .simulate import MemoryModel, SimulationResult, has_rtl, simulate
from .sizing import LATENCY, choose

__all__ = ["Accelerator", "Checked", "MemoryModel", "SimulationResult", "check", "compile", "load"]

Progress = Callable[[str, float, float], None]
BACKENDS = ("rtl", "hls", "both")
ERROR_IMAGES = 8         # of the calibration set, for the error of the integer model
BENCH_IMAGES = 2         # in the C simulation bench of an HLS project
KEPT = "simulation.json" # in the build directory: the last simulation, for `Accelerator.report`


def check(model: str | Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Checked:
    """Verdict on every node of an ONNX file. Raises ModelError only when the file cannot be read."""
    return check_model(model, shapes)


def compile(model: str | Path, *, target: str = "sim", calib=None, out: str | Path = "build", shapes=None,
            array: tuple[int, int] | None = None, method: str = "percentile", backend: str = "rtl",
            precision: str = "w8a8", batch: int = 1, progress: Progress | None = None) -> "Accelerator":
    """Turn an ONNX file into a build directory.

    target: a board's name or YAML file. calib: an .npz file, a dict of arrays, or "random". array: (rows, columns) instead of the
    board's choice. backend: "rtl", "hls" (a Vitis HLS project in ``hls/``) or "both". precision: see `quantizer.Precision`. batch: images
    worked on together, so that weights are read once for all of them. Raises the errors of `hwgen.errors`; then nothing is written.
    """
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}", hint=f"choose one of {', '.join(BACKENDS)}")
    say = progress or (lambda stage, done=0, total=0: None)
    if precision not in list(quantizer.Precision):
        raise InputError(f"there is no precision {precision!r}", hint=f"choose one of {', '.join(quantizer.Precision)}")
    check_target(out)
    board = load_board(target)
    say("import", 0, 0)
    imported = import_model(model, shapes)
    say("quantize", 0, 0)
    random = isinstance(calib, str) and calib == "random"
    quantized, findings = quantizer.judged(imported.model, None if random or calib is None else _calibration(calib), method=method, random=random,
                                           precision=precision)
    say("schedule", 0, 0)
    program = choose(quantized, board, array, batch)
    say("generate", 0, 0)
    report = _report(Path(model).name, quantized, program, board, precision)
    report["quantization"] = _quantization(imported.model, quantized, program,
                                           None if random or calib is None else _calibration(calib))
    report["quantization"]["clipping"] = findings.to_dict()
    report["warnings"] = [*findings.warnings, *quantizer.output_warnings(report["quantization"]["output_error"])]
    files = driver.files(program, Path(model).stem)
    if backend != "hls":
        files |= {**rtl.files(program.config), **bench.files()}
    if backend != "rtl":
        plan = hls_estimate.choose(quantized, board)
        (input_name, shape), = imported.model.tasks[0].inputs.items()
        images = np.random.default_rng(0).standard_normal((BENCH_IMAGES, *shape)) if random else _calibration(calib)[input_name][:BENCH_IMAGES]
        files |= hls.files(plan, quantized, Path(model).stem, board, images)
        report["hls"] = hls_estimate.report(plan, board)
    builds.write(Path(out), files, quantized, program, report, inputs=dict(imported.model.tasks[0].inputs), target=board.name,
                 clock_mhz=board.clock_mhz, bytes_per_cycle=board.bytes_per_cycle())
    return Accelerator(builds.load(out))


def load(path: str | Path) -> "Accelerator":
    """Open a build directory. Raises InputError, BuildVersionError."""
    return Accelerator(builds.load(path))


@dataclass(frozen=True)
class Accelerator:
    """A compiled network. ``acc(x)`` runs it in RTL simulation; x: one array, or a dict by ONNX input name."""

    build: builds.Build
    inputs: dict[str, tuple[int, ...]] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "inputs", self.build.inputs)
        object.__setattr__(self, "outputs", tuple(dict.fromkeys(o.name for task in self.build.program.outputs for o in task)))

    def __call__(self, x, task: int | None = None) -> dict[str, np.ndarray]:
        """Outputs float32 [images, ...] under their ONNX names, dequantized from what the RTL computed."""
        inputs = x if isinstance(x, dict) else {next(iter(self.inputs)): np.asarray(x)}
        return self.simulate(inputs, task=task).outputs

    def simulate(self, inputs: dict[str, np.ndarray], *, task: int | None = None, engine: str = "verilator",
                 waves: str | Path | None = None, memory: MemoryModel = MemoryModel(), progress: Progress | None = None) -> SimulationResult:
        """Run images through ``engine`` ("verilator", "icarus", "csim", "golden") and compare every output word with the integer model.

        Without ``task`` each image runs once for each task. Raises InputError, ToolError.
        """
        return simulate(self.build, self._images(inputs), task=task, engine=engine, waves=waves, memory=memory, progress=progress)

    @property
    def levels(self) -> tuple[str, ...]:
        """What the build can run besides the integer model: "rtl", "csim"."""
        return tuple(name for name, there in (("rtl", has_rtl(self.build)), ("csim", csim.has_hls(self.build.report))) if there)

    def first_differences(self, inputs: dict[str, np.ndarray], progress: Progress | None = None) -> list[difference.Difference]:
        """Where C simulation (every value) and RTL simulation (outputs), as far as the build has them, first leave the integer model.

        At most one entry for each level and task. Raises InputError, ToolError.
        """
        return difference.search(self.build, self._images(inputs), progress)

    def trace(self, result: SimulationResult) -> dict:
        """Timeline of a simulation for Perfetto and chrome://tracing, JSON-able. Empty for engines without cycles."""
        return trace.timeline(self.build.program, result.runs, self.build.clock_mhz)

    def keep(self, result: SimulationResult, memory: MemoryModel) -> None:
        """Write the result into the build directory, where `report` finds it; nothing for engines without cycles. Raises OutputError."""
        if not result.per_instruction:
            return
        simulation = dict(stage="rtl simulation", images=result.images, bit_exact=result.bit_exact, cycles_per_image=result.cycles_per_image,
                          latency_ms=result.latency_ms, utilization=result.utilization, memory=asdict(memory))
        layers = trace.layers(result.per_instruction, result.array_macs_per_cycle)
        write_json(self.build.path / KEPT, dict(build=sha256(self.build.path / MANIFEST), simulation=simulation,
                                                stalls=dict(stage="rtl simulation", **trace.stalls(result.per_instruction)), layers=layers))

    def report(self) -> dict:
        """What report.json holds, and the cycles of the last simulation kept for this build."""
        path = self.build.path / KEPT
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.pop("build", None) != sha256(self.build.path / MANIFEST):
            return self.build.report
        limit = max(self.build.report["limits"][key] for key in ("array_limit_cycles", "memory_limit_cycles"))
        kept["simulation"]["cycles_over_limit"] = kept["simulation"]["cycles_per_image"] / limit
        return self.build.report | kept

    def synth(self, flow: str = "yosys", target: str | Path | None = None, progress: Progress | None = None) -> flows.Synthesis:
        """Synthesize the RTL and count cells. target: a board of the same family instead of the build's, by name or YAML file.

        Raises InputError, TargetError, ToolError.
        """
        return flows.synthesize(self.build.path, load_board(target or self.build.target), flow, progress,
                                estimate=self.build.report["resources"]["used"])

    def _images(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        ((name, shape),) = self.inputs.items()
        wanted = f"give a float array [images, {', '.join(map(str, shape))}] under the name {name!r}"
        if name not in inputs:
            raise InputError(f"the network's input {name!r} is missing; given are {sorted(inputs)}", hint=wanted)
        images = np.asarray(inputs[name])
        if images.dtype.kind != "f":
            raise InputError(f"input {name!r} has dtype {images.dtype}", hint=f"{wanted}, scaled as in training")
        if images.ndim != len(shape) + 1 or images.shape[1:] != tuple(shape):
            raise InputError(f"input {name!r} has shape {images.shape}", hint=wanted)
        if not len(images):
            raise InputError(f"input {name!r} holds no image", hint=wanted)
        if not np.isfinite(images).all():
            raise InputError(f"input {name!r} holds NaN or infinite values", hint="clean the data")
        return images


def _calibration(calib) -> dict[str, np.ndarray]:
    if isinstance(calib, dict):
        return calib
    hint = "write it with numpy.savez(file, x=images), x being the ONNX input name"
    try:
        with np.load(calib, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"the calibration set cannot be read as .npz: {error}", where=str(calib), hint=hint) from error


def _quantization(model: ir.Model, quantized: QModel, program: Program, images: dict[str, np.ndarray] | None) -> dict:
    """What precision costs and buys: the integer model against the float one on calibration images, and bytes of the weight image."""
    narrow = sum(i.n_tiles * i.k_tiles for i in program.instrs if i.w4) * program.config.macs_per_cycle // 2
    errors: dict[str, float] = {}
    if images is not None:
        some = {name: array[:ERROR_IMAGES] for name, array in images.items()}
        for graph, integers in zip(model.tasks, quantized.tasks):
            found = integer_model.dequantize(integers, integer_model.run(integers, next(iter(some.values()))))
            for name, value in float_model.run(graph, some).items():
                errors[name] = float(np.sqrt(((found[name] - value) ** 2).mean() / max((value ** 2).mean(), 1e-30)))
    return dict(stage="golden models", images=0 if images is None else min(ERROR_IMAGES, len(next(iter(images.values())))),
                output_error=errors, weight_bytes=len(program.image), weight_bytes_with_8_bits=len(program.image) + narrow)


def _report(name: str, model: QModel, program: Program, board: Board, precision: str) -> dict:
    config = program.config
    timing = program.estimate(board.bytes_per_cycle(), LATENCY)
    cycles = timing[-1].stop
    macs = program.useful_macs()
    used = resources.estimate(config, board)
    kinds = ("lut", "ff", "dsp", "bram36", "uram")
    ends = [*(t.start for t in timing[1:]), timing[-1].stop]
    instructions = [dict(pc=pc, instruction=instr.note or "end of frame", node=info.node, task=instr.task if instr.pred else None, start=t.start,
                         cycles=end - t.start, wait_tile=t.wait_tile, wait_hazard=t.wait_hazard, useful_macs=info.macs)
                    for pc, (instr, info, t, end) in enumerate(zip(program.instrs, program.infos, timing, ends))]
    return dict(
        version=__version__, calibration=model.calibration, precision=str(precision), batch=program.batch, weight_bytes=len(program.image),
        network=dict(name=name, tasks=len(model.tasks), outputs=[o.name for task in program.outputs for o in task],
                     useful_macs_per_image=macs, residual_scale=model.tasks[0].residual_scale),
        board=dict(name=board.name, part=board.part, clock_mhz=board.clock_mhz, memory_bytes_per_cycle=board.bytes_per_cycle()),
        array=dict(ti=config.ti, to=config.to, packed=config.packed, fabric_columns=config.fabric_columns,
                   load_columns=config.load_columns, macs_per_cycle=config.macs_per_cycle),
        resources=dict(stage="estimate", used={k: getattr(used, k) for k in kinds}, available={k: getattr(board, k) for k in kinds}),
        estimate=dict(stage="estimate", cycles_per_image=cycles / program.batch, latency_ms=cycles / board.clock_mhz / 1000,
                      utilization=macs * program.batch / (config.macs_per_cycle * cycles),
                      accumulator_use=max(max(integer_model.check_accumulators(graph).values()) for graph in model.tasks)),
        limits=dict(stage="estimate", **trace.roofline(macs, config.macs_per_cycle, (len(program.image) + program.input_bytes) / program.batch,
                                                       board.bytes_per_cycle())),
        memory={name: getattr(config, f"{key}_words") for name, key in (("activations", "act"), ("keys and values", "kv"),
                                                                        ("scores", "score"), ("residual", "res"))},
        instructions=instructions)
