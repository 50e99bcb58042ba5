"""What `hwgen show` prints: a model or a build at one stage of the compiler, as text that fits a screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import build, listing, quantizer
from .choices import Stage
from .devices.board import load_board
from .engines.protocol import Wishes
from .engines.registry import ENGINES
from .engines.rtl import text as program_text
from .engines.rtl.program import Program
from .errors import InputError
from .foreign import REPR, visible
from .frontend import Options, calibration_images, settled
from .graph import text as graph_text
from .importer import Imported, import_model, listed
from .listing import Part
from .partition import import_parts, partitioned
from .quantizer import control
from .steps import text as steps_text
from .steps.step import Quantized

BUILT = "a build holds its network from the stage steps on"


@dataclass(frozen=True)
class Shown:
    """A listing. of: the model or build; text: for people, as `str` gives it; lines: for programs, JSON-able."""

    of: str
    stage: Stage
    text: str
    lines: list[dict[str, object]]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return visible(f"<Shown {self.stage} of {self.of}: {len(self.lines)} lines>", limit=REPR)


def show(source: str | Path, stage: str | None, node: str | None, everything: bool, shapes: dict[str, tuple[int, ...]] | None, options: Options,
         say: Callable[[str], None]) -> Shown:
    """See `api.show`."""
    wanted = None if stage is None else _stage(stage)
    if Path(source).is_dir():
        if options != Options() or shapes:
            raise InputError("a build has been compiled with its options already", where=str(source),
                             hint="leave out --target, --calib, --array, --method, --precision, --batch, --allow-host and --shape; "
                                  "or give the ONNX file")
        built = build.load(source)
        return shown(built, wanted or (Stage.PROGRAM if built.has_rtl else Stage.STEPS), node, everything)
    wanted = wanted or Stage.GRAPH
    if wanted is Stage.QUANT:
        return _rules(str(source), node, shapes, options, say)
    parts, became = model_parts(source, wanted, shapes, options, say)
    return _shown(str(source), wanted, parts, node, everything, became)


def shown(built: build.Build, stage: str, node: str | None = None, everything: bool = False) -> Shown:
    """A build at one stage. Raises InputError when it does not hold that one, or no node of the name."""
    wanted = _stage(stage)
    if wanted in (Stage.ONNX, Stage.GRAPH, Stage.QUANT):
        raise InputError(f"a build does not hold the stage {wanted}: {BUILT}", where=str(built.path),
                         hint=f"give the ONNX file: hwgen show MODEL.onnx --stage {wanted}")
    parts = _steps(built.model) if wanted is Stage.STEPS else [program_text.part(built.need_rtl())]
    return _shown(str(built.path), wanted, parts, node, everything, {})


def model_parts(model: str | Path, stage: Stage, shapes: dict[str, tuple[int, ...]] | None, options: Options,
                say: Callable[[str], None]) -> tuple[list[Part], dict[str, str]]:
    """(an ONNX file at one stage, ONNX nodes that are part of another one -> that one); raises the errors of the compiler up to there."""
    board = load_board(options.target)
    if stage is Stage.ONNX:
        checked = partitioned(model, shapes, options.allow_host, say)
        if checked.error is not None and not checked.verdicts:
            raise checked.error
        return [listed(model, checked.verdicts, shapes)], {}
    say("import")
    if stage is Stage.GRAPH:                            # also of a network the engine does not take
        imported = partitioned(model, shapes, options.allow_host, say).imported or import_model(model, shapes)
        return [graph_text.part(graph) for graph in imported.model.tasks], imported.became
    imported, quantized, *_ = _quantized(model, shapes, options, say)
    if stage is Stage.STEPS:
        return _steps(quantized), imported.became
    say("schedule")
    program: Program = ENGINES["rtl"].plan(quantized, board, Wishes(options.array, options.batch))
    return [program_text.part(program)], imported.became


def _quantized(model: str | Path, shapes: dict[str, tuple[int, ...]] | None, options: Options,
               say: Callable[[str], None]) -> tuple[Imported, Quantized, quantizer.Recipe, Mapping[str, str]]:
    """(the network, its integers, the rules before calibration, what the method `auto` chose)"""
    imported = import_parts(model, shapes, options.allow_host, say)
    say("quantize")
    _, images = calibration_images(imported, options)
    rules, _, _, ranges = settled(imported, options, images)
    quantized, findings = quantizer.with_findings(imported.model, images, method=options.method, random=options.random,
                                                  precision=options.precision, recipe=rules, ranges=ranges)
    return imported, quantized, rules, findings.methods


def _rules(of: str, node: str | None, shapes: dict[str, tuple[int, ...]] | None, options: Options, say: Callable[[str], None]) -> Shown:
    """The rules in effect, as the file for ``--quant``."""
    imported, quantized, given, methods = _quantized(of, shapes, options, say)
    rules = control.effective(imported.model, quantized, given, options.method, quantizer.Precision(options.precision), methods)
    chosen = rules if node is None else [rule for rule in rules if node in rule.name]
    if not chosen:
        raise InputError(f"no rule is for a node with {node!r} in its name", where=of, hint=f"there are {', '.join(r.name for r in rules[:8])}, …")
    return Shown(of, Stage.QUANT, control.text(chosen), [rule.to_dict() for rule in chosen])


def _stage(name: str) -> Stage:
    if name not in list(Stage):
        raise InputError(f"there is no stage {name!r}", hint=f"choose one of {', '.join(Stage)}")
    return Stage(name)


def _steps(model: Quantized) -> list[Part]:
    return [steps_text.part(network) for network in model.tasks]


def _shown(of: str, stage: Stage, parts: list[Part], node: str | None, everything: bool, became: dict[str, str]) -> Shown:
    if node is None:
        return Shown(of, stage, listing.text(parts, everything=everything), listing.data(parts, None))
    chosen = listing.nodes(parts, node, became)
    return Shown(of, stage, listing.detailed(parts, chosen), listing.data(parts, chosen))
