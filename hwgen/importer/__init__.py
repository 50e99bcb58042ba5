"""ONNX importer: file -> checked, normalised operator graph -> rewrite rules -> `ir.Model`, with a verdict on every node.

    border.py      what onnx, numpy and protobuf raise on a damaged file becomes one message
    read.py        the file, checked, and the shapes of its inputs; weights.py, its weights
    normalize.py   shapes, constants and moves resolved: `opgraph.OpGraph`; evaluate.py, single operators evaluated
    rules.py       the table of rewrite rules; layers.py, activation.py, attention.py, moe.py hold them, trial.py what they use
    lower.py       tries the rules, builds one `ir.Graph` for each task
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import ir
from ..errors import HwgenError, ModelError
from .lower import Lowered, Status, Verdict, lower
from .normalize import normalize, task_count
from .opgraph import Pool
from .read import OnnxFile, read

__all__ = ["Checked", "Imported", "Status", "Verdict", "check_model", "import_model"]


@dataclass(frozen=True, eq=False)
class Imported:
    """``digest``: SHA-256 of the file and of its external weights, in hex."""

    model: ir.Model
    verdicts: tuple[Verdict, ...]
    path: Path
    digest: str


@dataclass(frozen=True, eq=False)
class Checked:
    """``error``: what `import_model` raises for this file, None when ok; model is None then."""

    verdicts: tuple[Verdict, ...]
    ok: bool
    error: HwgenError | None
    model: ir.Model | None


def import_model(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Imported:
    """Read an ONNX network; one `ir.Graph` for each task, weights that tasks share are one array.

    shapes: {input name: shape, batch first} for inputs with symbolic dimensions. A task is a value of an integer scalar input
    that selects constants, or a group of outputs with a trunk of their own.
    Raises ModelError (file, operator, weight) and ShapeError (dimension), both with the place and the next step.
    """
    file = read(path, shapes)
    checked = _check(file)
    if checked.error is not None:
        raise checked.error
    return Imported(checked.model, checked.verdicts, file.path, file.digest)


def check_model(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Checked:
    """Like `import_model`, but a network that is not supported is a result. Raises only when the file cannot be read."""
    return _check(read(path, shapes))


def _check(file: OnnxFile) -> Checked:
    try:
        parts = _lower(file)
    except ModelError as error:
        return Checked((), False, error, None)
    failed = next((part for part in parts if not part.graphs), None)
    verdicts = (failed or parts[0]).verdicts
    bad = [verdict for verdict in verdicts if verdict.status is Status.UNSUPPORTED]
    if bad:
        return Checked(verdicts, False, _unsupported(file, bad), None)
    if failed is not None:
        return Checked(verdicts, False, type(failed.error)(failed.error.message, str(file.path), failed.error.hint), None)
    try:
        model = ir.Model(tuple(graph for part in parts for graph in part.graphs)).verify()
    except ModelError as error:
        return Checked(verdicts, False, ModelError(error.message, f"{file.path}: {error.where}", error.hint), None)
    return Checked(verdicts, True, None, model)


def _lower(file: OnnxFile) -> list[Lowered]:
    pool = Pool()
    try:
        graph = normalize(file, None, pool)
        if file.task is None:
            return [lower(graph, None, pool)]
        name = file.task.name
        return [lower(normalize(file, value, pool), f"{name}{value}", pool)
                for value in range(task_count(graph, name, str(file.path)))]
    except ModelError as error:
        raise ModelError(error.message, error.where or str(file.path), error.hint) from error


def _unsupported(file: OnnxFile, bad: list[Verdict]) -> ModelError:
    first = next((verdict for verdict in bad if not verdict.reason.startswith("belongs to ")), bad[0])
    count = f" ({len(bad)} nodes in all)" if len(bad) > 1 else ""
    return ModelError(f"{first.op} node {first.node!r} is not supported{count}: {first.reason}",
                      where=f"{file.path}: {first.op} node {first.node!r}",
                      hint=f"`hwgen check {file.path}` lists every node; cut the network there, or change it before export")
