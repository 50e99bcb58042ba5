"""The compiler up to what it would write: import, comparison with the ONNX file, quantization, plan. `check` stops here, `compile` goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
import math
import os
from pathlib import Path
import shlex
from typing import Any

import numpy as np

from . import arrays, convolutions, hostrun, layers, mixed, quantized_file, quantizer, routers, strict_yaml
from .arrays import read_npz
from .devices.board import Board, load_board
from .engines.protocol import Wishes
from .engines.registry import BACKENDS, ENGINES
from .errors import CalibrationError, HwgenError, InputError, ModelError
from .graph import Model, evaluate
from .importer import Imported
from .judge import Judgement, judge, macs_of
from .layers import LayerError
from .mixed import Mixed
from .ops.operator import SUPPORTED
from .quantizer import calibration, control
from .quantizer.calibration import Range, Site
from .routers import RouterFlips
from .steps import golden, host
from .steps.passes.lengths import sequenced
from .steps.step import Quantized

ERROR_IMAGES = 8         # of the calibration set, for the error of the integer model
ERROR_MACS = 2e10        # multiply-accumulates of a float network that may go into it; 2 images are looked at in any case


def plain(value: object) -> str:
    """As text that UTF-8 can hold: a file's name may be bytes that are none."""
    return os.fsencode(value).decode(errors="replace") if isinstance(value, (str, Path)) else str(value)


@dataclass(frozen=True)
class Options:
    """What decides, beside the model, whether and how it compiles. See `api.compile`."""

    target: str | Path = "sim"
    calib: object = None
    array: tuple[int, int] | None = None
    method: str = "minmax"
    backend: str = "rtl"
    precision: str = "w8a8"
    batch: int = 1
    quant: object = None
    target_snr: float | None = None
    target_accuracy: float | None = None
    allow_host: bool = False
    lengths: bool = False

    def __post_init__(self):
        if self.backend not in BACKENDS:
            raise InputError(f"there is no backend {self.backend!r}", hint=f"choose one of {', '.join(BACKENDS)}")
        if self.precision not in list(quantizer.Precision):
            raise InputError(f"there is no precision {self.precision!r}", hint=f"choose one of {', '.join(quantizer.Precision)}")
        targets = [target for target in (self.target_snr, self.target_accuracy) if target is not None]
        if len(targets) != int(self.precision == quantizer.Precision.MIXED):
            raise InputError(f"{'two targets are' if len(targets) > 1 else 'a target is' if targets else 'no target is'} given with the precision "
                             f"{str(self.precision)!r}", hint="give the precision mixed, and with it --target-snr 22 (dB of the worst output) or "
                             "--target-accuracy 0.98 (the calibration set holds labels then)")
        if targets and self.random:
            raise InputError("mixed precision needs calibration images", where="option --precision", hint="give --calib FILE.npz")
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise InputError(f"an accuracy of {self.target_accuracy:g} is not a share above 0, up to 1", where="option --target-accuracy",
                             hint="98 % are 0.98")
        if self.target_snr is not None and not math.isfinite(self.target_snr):
            raise InputError(f"a ratio of {self.target_snr:g} dB is none that is reached", where="option --target-snr", hint="usual are 15 to 30")
        if type(self.batch) is not int:
            raise InputError(f"batch is {self.batch!r}, not a whole number of images", hint="give 1 or more")
        if self.method not in quantizer.METHODS:
            raise InputError(f"there is no method {self.method!r}", hint=quantizer.known_methods(self.method))

    def on(self, target: str | Path) -> Options:
        """The same for another board."""
        return replace(self, target=target)

    def command(self, model: str | Path) -> str:
        """The line for a shell that compiles a file with these options; arrays and rules that came from Python have no file to name."""
        words = ["hwgen", "compile", plain(model)]
        for option in fields(self):
            value = getattr(self, option.name)
            if value == option.default:
                continue
            name = f"--{option.name.replace('_', '-')}"
            match value:
                case True:
                    words.append(name)
                case (rows, columns):
                    words += [name, f"{rows}x{columns}"]
                case str() | Path() | int() | float():
                    words += [name, plain(value)]
                case _:
                    words += [name, "(from Python)"]
        return shlex.join(words)

    @property
    def random(self) -> bool:
        """No calibration images are given, or noise is asked for."""
        return self.calib is None or isinstance(self.calib, str) and self.calib == "random"


@dataclass(frozen=True, eq=False)
class Planned:
    """A network ready to be written.

    images: calibration images, float32 [images, ...] of the engine's input. output_error: for each output, of the integer to the float model on
    `error_images` of them, relative root mean square; the largest of the tasks that have it. layers: the error by layer on `layers.CHUNK` of
    them, of the outputs as in output_error. routers: how often a token goes to other experts, on `error_images`. All three are empty with
    noise. mixed: how the values in 16 bits were chosen; rules: what went before calibration. warnings: what calibration found, for
    people. plans: of the engines of the build, by name.
    said: what of a quantized file is not as it says, and how near the integer network comes to it.
    """

    imported: Imported
    onnx: Judgement | None
    images: dict[str, np.ndarray]
    quantized: Quantized
    findings: quantizer.Findings
    output_error: dict[str, float]
    layers: list[LayerError]
    routers: list[RouterFlips]
    mixed: Mixed | None
    rules: quantizer.Recipe
    board: Board
    plans: dict[str, Any]
    said: quantized_file.Said | None = None

    @property
    def warnings(self) -> list[str]:
        """What is special about the plans, what calibration found, outputs whose error is large, and what of the board's estimates was
        never measured."""
        planning = [f"resources on {self.board.name} are planning figures: {text}" for text in self.board.family.not_measured]
        notes = self.said.notes if self.said else ()
        plans = [note for name, made in self.plans.items() for note in ENGINES[name].facts(made).notes]
        return [*notes, *plans, *convolutions.notes(self.quantized), *self.findings.warnings,
                *quantizer.output_warnings(self.output_error, _remedy(self.layers)),
                *routers.choice_warnings(self.routers, self.quantized.tasks), *planning]


def plan(imported: Imported, options: Options, say: Callable[[str], None]) -> Planned:
    """Everything of `compile` that can refuse a network that was read. Raises the errors of `hwgen.errors`, each with a next step."""
    return on_board(quantized(imported, options, say), options, say)


def quantized(imported: Imported, options: Options, say: Callable[[str], None], sketch: bool = False) -> Planned:
    """The part of `plan` in front of the engines, which has no plans. sketch: what sizes and cycles need, without the comparison with the file, and
    without calibration images on one of noise."""
    with _next_steps():
        return _quantized(imported, options, say, sketch)


def on_board(planned: Planned, options: Options, say: Callable[[str], None]) -> Planned:
    """With plans of the engines for the board of ``options``. Raises CapacityError, with a next step."""
    with _next_steps():
        say("schedule")
        board = load_board(options.target)
        plans = {name: ENGINES[name].plan(planned.quantized, board, wish) for name, wish in _wishes(options).items()}
        return replace(planned, board=board, plans=plans)


@contextmanager
def _next_steps() -> Iterator[None]:
    """Every refusal of a model says at least what is supported."""
    try:
        yield
    except HwgenError as error:
        for cause in (error, *error.others):
            if isinstance(cause, ModelError):
                cause.hint = cause.hint or SUPPORTED
        raise


def _wishes(options: Options) -> dict[str, Wishes]:
    """Of each engine of a build: of one with two engines, the first gets those of the user."""
    wishes = {name: Wishes() for name in BACKENDS[options.backend]}
    wishes[next(iter(wishes))] = Wishes(options.array, options.batch)
    return wishes


def _quantized(imported: Imported, options: Options, say: Callable[[str], None], sketch: bool) -> Planned:
    board = load_board(options.target)
    given, images = calibration_images(imported, options)
    judgement = None
    if not sketch:
        say("compare with the ONNX file")
        judgement = judge(imported, None if options.random else given)
    elif options.random:
        images = {name: array[:1] for name, array in images.items()}
    chosen = None
    rules, notes, graphs, ranges = settled(imported, options, images)
    if options.precision == quantizer.Precision.MIXED:
        say("search for a mixed precision")
        rules = quantizer.chosen(graphs, ranges, images, options.method, options.precision, rules)
        engine, wish = next(iter(_wishes(options).items()))
        rules, chosen = _mixed(imported, graphs, options, rules, ranges, images, partial(_cycles, engine, board, wish))
    say("quantize")
    integers, findings = quantizer.with_findings(imported.model, images, method=options.method, random=options.random,
                                                  precision=options.precision, recipe=rules, ranges=ranges)
    if options.lengths or imported.padding is not None:
        integers = replace(integers, tasks=tuple(map(sequenced, integers.tasks)))
    said = quantized_file.compared(imported, integers, rules, notes, images, options.random)
    errors = {} if options.random else _output_error(imported, integers, images)
    by_layer = [] if options.random else _by_layer(graphs, integers, images, errors)
    flips = [] if options.random else routers.router_flips(graphs.tasks, integers.tasks, _some(imported, images))
    return Planned(imported, judgement, images, integers, findings, errors, by_layer, flips, chosen, rules, board, {}, said)


def settled(imported: Imported, options: Options, images: dict[str, np.ndarray]
            ) -> tuple[quantizer.Recipe, list[str], Model, dict[Site, Range]]:
    """What goes before calibration; what of a quantized file cannot be taken; the network as it is quantized; the range of every site."""
    asked = recipe(imported, options)
    graphs = quantizer.rotated(imported.model, quantized_file.rules(imported, asked)[0])
    ranges = calibration.collect(graphs, images)
    rules, notes = quantized_file.rules(imported, asked, quantizer.Precision(options.precision), None if options.random else ranges)
    return rules, notes, graphs, ranges


def _mixed(imported: Imported, model: Model, options: Options, base: quantizer.Recipe, ranges: dict[Site, Range],
           images: dict[str, np.ndarray], cycles: Callable[[Quantized], int | None]) -> tuple[quantizer.Recipe, Mixed]:
    """The cheapest values to widen for the target; model: as it is quantized, images: what of the calibration set the engine sees."""
    graphs = model.tasks

    def make(rules: quantizer.Recipe) -> Quantized:
        return quantizer.from_ranges(model, ranges, method=options.method, precision=options.precision,
                                     recipe=quantizer.balanced(model, ranges, options.method, rules))

    def snr(network: Quantized) -> float:
        worst = max(_output_error(imported, network, images).values())
        return -20 * math.log10(max(worst, 1e-10))

    def accuracy(network: Quantized) -> float:
        outputs: dict[str, np.ndarray] = {}
        for task in network.tasks:
            outputs |= host.dequantize(task, golden.run(task, next(iter(images.values()))))
        scores = arrays.accuracy(hostrun.after(imported.host, outputs) if imported.host else outputs, labels)
        return min(scores.values())

    labels: dict[str, np.ndarray] = {}
    if options.target_accuracy is not None:
        outputs = {name for graph in graphs for name in graph.outputs} | ({value.name for value in imported.host.outputs} if imported.host else set())
        labels = {name: array for name, array in load_calibration(options.calib).items() if name in outputs and array.dtype.kind in "iu"}
        if not labels:
            raise CalibrationError("the calibration set holds no labels", where="option --target-accuracy",
                                   hint=f"add whole numbers, one an image, under the name of an output: {', '.join(sorted(outputs))}")
    first = make(base)
    few = 1 if layers.cost(graphs, first.tasks) * layers.CHUNK > layers.ALONE_MACS else layers.CHUNK
    errors = layers.layer_errors(graphs, first.tasks, {name: array[:few] for name, array in images.items()})
    what, target, measure = ("accuracy", options.target_accuracy, accuracy) if labels else ("snr_db", options.target_snr, snr)
    rules, _, found = mixed.search(base, mixed.candidates(graphs, first.tasks, errors), make, measure, cycles, what, target or 0.0)
    return rules, found


def _cycles(engine: str, board: Board, wish: Wishes, network: Quantized) -> int | None:
    """Of an image, stage "estimate"."""
    costs = ENGINES[engine].cost(ENGINES[engine].plan(network, board, wish), network, board)
    found: int | None = costs.get("estimate", costs.get("hls", {})).get("cycles_per_image")
    return found


def recipe(imported: Imported, options: Options) -> quantizer.Recipe:
    """The rules of the option ``quant``, a mapping or a YAML file. Raises InputError."""
    given, where = options.quant, "quant"
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        where = str(path)
        given = strict_yaml.read(path, lambda problem: InputError(f"the quantization file {problem}", where=where,
                                                                  hint="hwgen show MODEL.onnx --stage quant prints one"))
    return quantizer.EMPTY if given is None else control.recipe(given, imported.model, imported.became, where)


def calibration_images(imported: Imported, options: Options) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Calibration images, seeded noise where there are none: (of the file's inputs, of the engine's input). Raises CalibrationError."""
    host = imported.host
    given = None if options.random else load_calibration(options.calib)
    if host is None or host.prefix is None:
        images = calibration.checked(imported.model, given, options.random)
        images = images if given is None else _filled(imported, given, images)
        images = quantized_file.in_range(imported, images) if options.random else images
        return images, images
    if given is None:
        rng = np.random.default_rng(0)
        given = {value.name: value.noise(rng, calibration.RANDOM_IMAGES) for value in host.inputs}
    mask, given = given, hostrun.checked(host.inputs, given, "calibration input", CalibrationError)
    fed = _filled(imported, mask, hostrun.before(host, given, "calibration input", CalibrationError))
    return given, calibration.checked(imported.model, fed, options.random)


def _filled(imported: Imported, given: dict[str, np.ndarray], fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The engine's input without what is behind the sequences, where a mask says so. Raises CalibrationError."""
    padding = imported.padding
    if padding is None or padding.name not in given:
        return fed
    lengths = padding.lengths(np.asarray(given[padding.name]), "calibration input", CalibrationError)
    if any(len(array) != len(lengths) for array in fed.values()):
        raise CalibrationError(f"the calibration set holds {len(lengths)} masks {padding.name!r}, and other numbers of sequences",
                               hint="give each input one array entry a sequence")
    return {name: padding.filled(array, lengths) for name, array in fed.items()}


def error_images(model: Model) -> int:
    """On how many calibration images the integer model is compared with the float one: fewer of a large network."""
    return min(ERROR_IMAGES, max(2, int(ERROR_MACS / max(1, sum(macs_of(graph) for graph in model.tasks)))))


def _some(imported: Imported, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first `error_images` of them."""
    return {name: array[:error_images(imported.model)] for name, array in images.items()}


def _output_error(imported: Imported, quantized: Quantized, images: dict[str, np.ndarray]) -> dict[str, float]:
    """See `Planned`."""
    some = _some(imported, images)
    errors: dict[str, float] = {}
    for graph, integers in zip(imported.model.tasks, quantized.tasks, strict=True):
        found = host.dequantize(integers, golden.run(integers, next(iter(some.values()))))
        for name, value in evaluate.run(graph, some).items():
            error = float(np.sqrt(((found[name] - value) ** 2).mean() / max((value ** 2).mean(), 1e-30)))
            errors[name] = max(error, errors.get(name, 0.0))
    return errors


def _by_layer(model: Model, quantized: Quantized, images: dict[str, np.ndarray], outputs: dict[str, float]) -> list[LayerError]:
    """See `Planned`; outputs: their errors, by which they are listed: one figure for each."""
    some = {name: array[:layers.CHUNK] for name, array in images.items()}
    graphs, networks = model.tasks, quantized.tasks
    found = layers.layer_errors(graphs, networks, some, alone=layers.cost(graphs, networks) * layers.CHUNK <= layers.ALONE_MACS)
    return [replace(error, snr_db=layers.decibel(1.0, outputs[error.value] ** 2)) if error.format == "output" else error for error in found]


def _remedy(errors: list[LayerError]) -> str:
    """What to do about a large error, in words."""
    worst = layers.worst(errors)
    if worst is None:
        return ""
    alone = "" if worst.alone_db is None else f", {worst.alone_db:.1f} dB at the outputs if it alone is rounded"
    return (f"; the layer that costs most is node {worst.node!r} ({worst.format}, {100 * worst.clipped:.2g} % clipped{alone}): "
            f"give it 16 bits by --quant, or another --method")


def load_calibration(calib) -> dict[str, np.ndarray]:
    """A dict as it is, or the arrays of an .npz file; raises CalibrationError."""
    if isinstance(calib, dict):
        return calib
    if not isinstance(calib, (str, os.PathLike)):
        raise CalibrationError(f"calibration images are given as {type(calib).__name__}",
                               hint="give {input name: array}, or the path of an .npz file")
    return read_npz(calib, "the calibration set", CalibrationError)
