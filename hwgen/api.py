"""The Python API. The commands of `cli` do their work by it, and add what is printed, asked and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
import time
from typing import Any

import numpy as np

from . import (
    __version__,
    build as builds,
    cores,
    flows,
    foreign,
    hostrun,
    layers,
    quantized_file,
    report as reporting,
    reported,
    routers,
    show as shows,
    strict_json,
)
from .choices import Grain
from .cores import folder
from .cores.parameter import Value as Setting
from .describe import Description, describe
from .devices.board import load_board
from .devices.memory import MemoryModel
from .engines.protocol import Files
from .engines.registry import ENGINES
from .errors import BuildVersionError, HwgenError, InputError
from .estimating import Estimate, estimate as estimate_on, targets_of
from .frontend import Options, plan
from .graph import Graph
from .hostparts import Value
from .importer import Checked
from .layers import LayerError
from .output import MANIFEST, check_target
from .page import Comparison, Drawing, Made, compare_reports, drawing, page, readable, when
from .partition import import_parts, partitioned
from .progress import Progress
from .quantizer import Recipe, Rule, rotated
from .routers import RouterFlips
from .run import difference, timeline as trace
from .run.simulate import SimulationResult, simulate
from .show import Shown

__all__ = [
    "Accelerator", "Checked", "Comparison", "Estimate", "LayerError", "MemoryModel", "RouterFlips", "Shown", "SimulationResult", "check",
    "compare", "compile", "core", "estimate", "load", "show",
]

BENCH_IMAGES = 2         # in the C simulation bench of an HLS project


def check(model: str | Path, shapes: dict[str, tuple[int, ...]] | None = None, *, progress: Progress | None = None, **options) -> Checked:
    """Verdict on every node of an ONNX file, and whether `compile` takes it with the same options; nothing is written.

    options: target, calib, array, method, backend, precision, batch, quant, target_snr, target_accuracy, allow_host, lengths, as for `compile`.
    Raises InputError or TargetError for options that do not exist.
    """
    wanted = Options(**options)
    load_board(wanted.target)
    checked = partitioned(model, shapes, wanted.allow_host, _say(progress))
    if checked.imported is None:
        return checked
    try:
        planned = plan(checked.imported, wanted, _say(progress))
    except HwgenError as error:
        return replace(checked, ok=False, error=error)
    return replace(checked, onnx=planned.onnx.to_dict() if planned.onnx else None, warnings=tuple(planned.warnings))


def compile(model: str | Path, *, target: str = "sim", calib=None, out: str | Path = "build", shapes=None,
            array: tuple[int, int] | None = None, method: str = "minmax", backend: str = "rtl",
            precision: str = "w8a8", batch: int = 1, quant=None, target_snr: float | None = None,
            target_accuracy: float | None = None, allow_host: bool = False, lengths: bool = False, progress: Progress | None = None) -> Accelerator:
    """Turn an ONNX file into a build directory.

    target: a board's name or YAML file. calib: an .npz file or a dict of arrays; None or "random": seeded noise, and accuracy is unknown.
    array: (rows, columns) instead of the board's choice. backend: "rtl", "hls" (a Vitis HLS project in ``hls/``) or "both". precision: see
    `quantizer.Precision`. batch: images worked on together, so that weights are read once for all of them. quant: rules for single layers, a
    mapping or a YAML file (see `quantizer.control`). target_snr, target_accuracy: what the precision "mixed" is to reach: dB of the worst output,
    or the share of labels in the calibration set that are met. allow_host: what there are no steps for may run on the host however much
    it is. lengths: a run says how many tokens of its sequence there are, and takes the cycles of so many. Raises the errors of `hwgen.errors`;
    then nothing is written. MismatchError: what was read computes something else than the file does
    when it is run.
    """
    options = Options(target, calib, array, method, backend, precision, batch, quant, target_snr, target_accuracy, allow_host, lengths)
    say = _say(progress)
    check_target(out)
    load_board(target)
    say("import")
    planned = plan(import_parts(model, shapes, allow_host, say), options, say)
    quantized, board = planned.quantized, planned.board
    say("generate")
    (images,) = planned.images.values()
    files: Files = {}
    for name, made in planned.plans.items():
        files |= ENGINES[name].files(made, quantized, Path(model).stem, board, images[:BENCH_IMAGES])
    builds.write(Path(out), files, quantized, planned.plans.get("rtl"), reported.report(foreign.visible(Path(model).name), planned, options),
                 inputs=dict(planned.imported.model.tasks[0].inputs), target=board.name, clock_mhz=board.clock_mhz,
                 bytes_per_cycle=board.bytes_per_cycle(), host=planned.imported.host, padding=planned.imported.padding)
    return Accelerator(builds.load(out))


def show(source: str | Path, stage: str | None = None, node: str | None = None, everything: bool = False, *,
         shapes: dict[str, tuple[int, ...]] | None = None, progress: Progress | None = None, **options) -> Shown:
    """An ONNX file or a build directory at one stage of the compiler, as text for a screen (``print`` it).

    stage: "onnx", "graph", "steps" or "program"; without it the graph of a file, the program of a build. node: only what comes from the ONNX
    nodes with this name, or with this in their name, in full detail. everything: repetitions too. options: of a file, as for `check`.
    Raises InputError when the node or the stage is not there, and the errors of the compiler up to the stage.
    """
    return shows.show(source, stage, node, everything, shapes, Options(**options), _say(progress))


def _say(progress: Progress | None) -> Callable[[str], None]:
    return (lambda stage: progress(stage, 0, 0)) if progress else (lambda stage: None)


def estimate(model: str | Path, targets: str | Sequence[str | Path] = "sim", shapes: dict[str, tuple[int, ...]] | None = None, *,
             progress: Progress | None = None, **options) -> list[Estimate]:
    """Size and speed of an ONNX file on one board, several, or "all", in seconds; nothing is written and the file is not compared with.

    options: as for `compile` but target; with calib also the error of the integers. Raises the errors of `compile`; a board that the network does
    not fit has an error in its place, unless it is the only one.
    """
    wanted = Options(**options)
    names = targets_of(targets) if isinstance(targets, str) else tuple(targets)
    for name in names:
        load_board(name)
    return estimate_on(import_parts(model, shapes, wanted.allow_host, _say(progress)), names, wanted, _say(progress))


def core(name: str, backend: str = "rtl", out: str | Path | None = None, *, target: str = "zcu104", synth: bool = False,
         simulate: bool = False, progress: Progress | None = None, **settings: Setting) -> cores.Core:
    """A single core as RTL or HLS C++, with golden model, bench and README, in the folder ``out`` (None: `Core.folder`).

    name, settings: of `cores.TEMPLATES`, as ``core("softmax", lanes=16)``. synth: Yosys counts its cells for the board ``target``; simulate: Icarus
    counts cycles; both for the README. Raises InputError for a core that is not possible, OutputError, ToolError; then nothing is written.
    The same core is replaced, unless somebody has changed it: that is an OutputError, as is a folder with another core or backend.
    """
    made, board, say = cores.plan(name, backend, settings), load_board(target), _say(progress)
    place = Path(out or made.folder)
    folder.check(made, place)
    cells = measured = None
    for wanted, option in ((synth, "--synth"), (simulate, "--simulate")):
        if wanted and backend != "rtl":
            raise InputError("cells and cycles are counted of RTL only", where=f"option {option}", hint="leave it out, or take --backend rtl")
    if simulate:
        say("simulate RTL")
        measured = folder.simulate(made, board)
    if synth:
        say("generate")
        sources = {file.removeprefix("rtl/"): text for file, text in folder.rtl(made).items() if file.endswith(".sv")}
        say("count cells")
        cells = flows.count(sources, made.top, board)
    say("write")
    folder.write(made, place, board, cells, measured)
    return made


def compare(builds: Sequence[str | Path]) -> Comparison:
    """Builds side by side: directories, or JSON files that ``hwgen report --json`` wrote; two or more.

    Raises InputError, BuildVersionError for one that cannot be read or is of another version.
    """
    reports = [(str(build), _report_of(Path(build))) for build in builds]
    for name, data in reports:
        with readable(name):
            compare_reports([(name, data), (name, data)])               # by itself first: a message is of one file
    return compare_reports(reports)


def _report_of(path: Path) -> dict[str, Any]:
    """Of a build directory, or of a JSON file."""
    if not path.is_file():
        return load(path).report()
    try:
        data = strict_json.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"the report cannot be read: {str(error)[:200]}", where=str(path),
                         hint="write it with hwgen report BUILD --json FILE") from error
    if not isinstance(data, dict) or "version" not in data or "network" not in data:
        raise InputError("this is no report", where=str(path), hint="write it with hwgen report BUILD --json FILE")
    if data["version"] != __version__:
        written = str(data["version"])[:40]
        raise BuildVersionError(f"the report was written by hwgen {written}, this is hwgen {__version__}", where=str(path),
                                hint="compile the model again, and write the report with this version")
    if not data["network"]:
        raise InputError("the report holds no figures", where=str(path), hint="write it with hwgen report BUILD --json FILE")
    return data


def load(path: str | Path) -> Accelerator:
    """Open a build directory. Raises InputError, BuildVersionError."""
    return Accelerator(builds.load(path))


@dataclass(frozen=True)
class Accelerator:
    """A compiled network. ``acc(x)`` runs it in RTL simulation, its host parts by onnxruntime; x: one array, or a dict by ONNX input name.

    inputs, outputs: of the ONNX file.
    """

    build: builds.Build
    inputs: dict[str, tuple[int, ...]] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        host = self.build.host
        outputs = [v.name for v in host.outputs] if host else [o.name for network in self.build.model.tasks for o in network.outputs]
        masks = () if self.build.padding is None else (self.build.padding.value,)
        object.__setattr__(self, "inputs", {value.name: value.shape for value in (*self.values, *masks)})
        object.__setattr__(self, "outputs", tuple(dict.fromkeys(outputs)))

    @property
    def values(self) -> tuple[Value, ...]:
        """The inputs with their types, without one that says which tokens are there."""
        host = self.build.host
        return host.inputs if host else tuple(Value(name, "float32", shape) for name, shape in self.build.inputs.items())

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items())
        return foreign.visible(f"<Accelerator {self.build.report.get('network', {}).get('name', '')} in {self.build.path}: "
                               f"{inputs} -> {', '.join(self.outputs)}>", limit=foreign.REPR)

    def __call__(self, x, task: int | None = None, progress: Progress | None = None) -> dict[str, np.ndarray]:
        """Outputs [images, ...] under their ONNX names and with their types, made of what the RTL computed."""
        inputs = x if isinstance(x, dict) else {next(iter(self.inputs)): np.asarray(x)}
        return self.simulate(inputs, task=task, progress=progress).outputs

    def simulate(self, inputs: dict[str, np.ndarray], *, task: int | None = None, engine: str = "verilator",
                 waves: str | Path | None = None, memory: MemoryModel = MemoryModel(), lengths: Sequence[int] = (),
                 progress: Progress | None = None) -> SimulationResult:
        """Run images through ``engine`` ("verilator", "icarus", "csim", "golden") and compare every output word with the integer model.

        Without ``task`` each image runs once for each task. lengths: tokens of each image's sequence, of a build for lengths, all if empty; fewer
        numbers than images are used again from the first on. Outputs of every token are 0 behind them. Raises InputError, ToolError.
        """
        result = simulate(self.build, self._images(inputs), task=task, engine=engine, waves=waves, memory=memory,
                          lengths=self._lengths(inputs, lengths), progress=progress)
        return replace(result, outputs=hostrun.after(self.build.host, result.outputs)) if self.build.host else result

    @property
    def levels(self) -> tuple[str, ...]:
        """What the build can run besides the integer model: "rtl", "csim"."""
        return tuple(name for name, there in (("rtl", self.build.has_rtl), ("csim", self.build.has_hls)) if there)

    def some_lengths(self, inputs: dict[str, np.ndarray]) -> tuple[int, ...]:
        """Of sequences, to try a build for lengths with: the longest, the shortest and some between; none of other builds, and where the inputs
        say them."""
        sent = self.build.model.tasks[0].input[1]
        if self.build.padding is not None and self.build.padding.name in inputs:
            return ()
        return tuple(dict.fromkeys((sent.tokens, 1, sent.tokens // 2 + 1, sent.tokens - 1))) if sent.sequence else ()

    def first_differences(self, inputs: dict[str, np.ndarray], progress: Progress | None = None,
                          lengths: Sequence[int] = ()) -> list[difference.Difference]:
        """Where C simulation (every value) and RTL simulation (outputs), as far as the build has them, first leave the integer model.

        At most one entry for each level and task. lengths: as for `simulate`. Raises InputError, ToolError.
        """
        return difference.search(self.build, self._images(inputs), progress, self._lengths(inputs, lengths))

    def layer_errors(self, inputs: dict[str, np.ndarray], *, model: str | Path | None = None, alone: bool = True) -> list[LayerError]:
        """What each layer of the integer network loses on these images against the float network, in the order of the network.

        model: the ONNX file, where it is no longer where it was when the build was made. alone: also what each layer would do to the outputs
        by itself, which takes about half a run of the float network a layer and image. Raises InputError when the file is another one.
        """
        graphs, images = self._graphs(model), self._images(inputs)
        return layers.layer_errors(graphs, self.build.model.tasks, dict.fromkeys(graphs[0].inputs, images), alone=alone)

    def router_flips(self, inputs: dict[str, np.ndarray], *, model: str | Path | None = None) -> list[RouterFlips]:
        """How often each router sends a token of these images to other experts than the float network does; none without routers.

        model: as for `layer_errors`, and raises what that does.
        """
        graphs, images = self._graphs(model), self._images(inputs)
        return routers.router_flips(graphs, self.build.model.tasks, dict.fromkeys(graphs[0].inputs, images))

    def trace(self, result: SimulationResult) -> dict:
        """Timeline of a simulation for Perfetto and chrome://tracing, JSON-able. Empty for engines without cycles."""
        return trace.timeline(self.build.need_rtl(), result.runs, self.build.clock_mhz)

    def keep(self, result: SimulationResult) -> None:
        """Write the result into the build directory, where `report` finds it; nothing for engines without cycles. Raises OutputError."""
        if not result.per_instruction:
            return
        simulation = {"stage": "rtl simulation", "images": result.images, "bit_exact": result.bit_exact, "cycles_per_image": result.cycles_per_image,
                          "latency_ms": result.latency_ms, "utilization": result.utilization, "memory": result.memory}
        layers = trace.layers(result.per_instruction, self.build.need_rtl().config.macs_per_cycle)
        self.build.keep({"simulation": simulation, "stalls": dict(stage="rtl simulation", **trace.stalls(result.per_instruction)), "layers": layers,
                         "timeline": trace.first_frame(self.build.need_rtl(), result.runs)})

    def report(self) -> dict:
        """What report.json holds, and the cycles of the last simulation kept for this build."""
        kept, ignored = self.build.kept()
        if kept and "limits" in self.build.report:
            limit = max(self.build.report["limits"][key] for key in ("array_limit_cycles", "memory_limit_cycles"))
            kept["simulation"]["cycles_over_limit"] = kept["simulation"]["cycles_per_image"] / limit
        return self.build.report | kept | ({"simulation_ignored": ignored} if ignored else {})

    def page(self) -> str:
        """The report as one HTML page that needs nothing from outside: figures, charts, timeline, tables.

        Raises BuildVersionError for a report that hwgen did not write.
        """
        build, data = self.build, self.report()
        return page(data, f"hwgen: {build.path}", self._made(data), build.program, build.model.tasks[0], reporting.sections(data))

    def drawing(self, name: str) -> Drawing:
        """One of the page by itself, for a notebook or a file: "cycles", "roofline", "resources", "error", "engine", "network", "timeline", "memory".

        Raises InputError for another one, or where the build has nothing for it; BuildVersionError for a report that hwgen did not write.
        """
        data = self.report()
        return drawing(name, data, self._made(data), self.build.program, self.build.model.tasks[0])

    def _made(self, data: dict) -> Made:
        built = (self.build.path / MANIFEST).stat().st_mtime
        command = data.get("source", {}).get("command", "not known")
        return Made(command, when(built), when(time.time()), str(self.build.path), self.build.digest)

    def show(self, stage: str | None = None, node: str | None = None, everything: bool = False) -> Shown:
        """The build at the stage "steps" or "program" (steps for a build without RTL), as text for a screen; see `api.show`."""
        return shows.shown(self.build, stage or ("program" if self.build.program else "steps"), node, everything)

    def describe(self, grain: str = "summary") -> Description:
        """The build in words at one grain, "summary", "block" or "signal", each description beside the text it describes (``print`` it).

        Raises InputError for another grain, BuildVersionError.
        """
        if grain not in tuple(Grain):
            raise InputError(f"there is no grain {grain!r}", hint=f"there are {', '.join(Grain)}")
        return describe(self.build, Grain(grain))

    def synth(self, flow: str = "yosys", target: str | Path | None = None, progress: Progress | None = None) -> flows.Synthesis:
        """Synthesize the RTL and count cells. target: a board of the same family instead of the build's, by name or YAML file.

        Raises InputError, TargetError, ToolError.
        """
        self.build.need_rtl()
        sources = {Path(name).name: data.decode(errors="replace") for name, data in self.build.read(self.build.rtl).items()}
        return flows.synthesize(sources, load_board(target or self.build.target), flow, progress,
                                estimate=self.build.report.get("resources", {}).get("used"))

    def _graphs(self, model: str | Path | None) -> tuple[Graph, ...]:
        """The float networks as they were quantized, read from the ONNX file anew. Raises InputError when it is gone or another one."""
        source = self.build.report.get("source", {})
        path = Path(model or source.get("file", ""))
        if not path.is_file():
            raise InputError(f"the ONNX file of the build is not at {str(path)!r}", where=str(self.build.path), hint="give model=FILE.onnx")
        imported = import_parts(path, {value.name: (1, *value.shape) for value in self.values}, True, _say(None))
        if imported.digest != source.get("sha256"):
            raise InputError(f"{path} is not the file that the build was made from", where=str(self.build.path), hint="give model=FILE.onnx")
        given = self.build.report.get("quantization", {}).get("scales_given", {})
        values, weights = ({name: Rule(scale=1.0) for name in given.get(what, ())} for what in ("values", "weights"))
        return rotated(imported.model, quantized_file.rules(imported, Recipe(values, weights))[0]).tasks

    def _lengths(self, inputs: dict[str, np.ndarray], lengths: Sequence[int]) -> Sequence[int]:
        """Of the sequences: those of the mask among the inputs, if there is one, or those that are given. Raises InputError."""
        padding = self.build.padding
        if padding is None or padding.name not in inputs:
            return lengths
        if len(lengths):
            raise InputError(f"lengths of the sequences are given, and the input {padding.name!r} says them", hint="leave one of the two out")
        return padding.lengths(np.asarray(inputs[padding.name]), "input", InputError)

    def _images(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Of the engine's input."""
        images = hostrun.checked(self.values, inputs, "input", InputError)
        (fed,) = (images if self.build.host is None else hostrun.before(self.build.host, images)).values()
        return fed
