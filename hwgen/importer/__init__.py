"""ONNX importer: file -> checked, normalised operator graph -> rewrite rules -> `Model`, with a verdict on every node.

    border.py      what onnx, numpy and protobuf raise on a damaged file becomes one message
    read.py        the file, checked; inputs.py, its inputs and their shapes; weights.py, its weights
    quantized.py   a quantized file as the float network it stands for; qoperators.py, its operators; integers.py, what integers mean
    halves.py      a file of 16-bit floating point as the float32 network it stands for
    contrib.py     operators of onnxruntime as ONNX functions, written out; contrib_parts.py, what these are made of
    control.py     loops and branches, written out
    normalize.py   shapes, constants and moves resolved: `opgraph.OpGraph`; evaluate.py, single operators evaluated; einsum.py, Einsum as a
                   product; tasks.py, the input that selects a task
    sweep.py       tries the rules of `hwgen.ops` with what `hwgen.matching` offers, builds one `Graph` for each task;
                   verdict.py, what becomes of a node; apart.py, names of outputs
    causes.py      the message when a node is not supported
    reference.py   runs the file itself, in a process of its own
    text.py        the file as text
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import HwgenError, ModelError
from ..foreign import REPR, visible
from ..graph import Model
from ..hostparts import HostParts
from ..listing import Part
from ..matching.grid import Kept
from ..matching.opgraph import Pool
from ..matching.trial import Bound
from ..padding import Padding
from ..uncollected import uncollected
from .causes import unsupported
from .normalize import normalize
from .quantized import unquantized
from .read import NOT_QUANTIZED, OnnxFile, read, read_any as _read_any
from .sweep import Swept, sweep_rules
from .tasks import task_count, task_feed
from .text import part
from .verdict import Status, Verdict

__all__ = ["Checked", "Imported", "Origin", "Status", "Verdict", "check_file", "check_model", "import_model", "listed", "read_any"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a graph of the model comes from. task: name, shape, dtype and value of the integer input that selects it, or None.

    bound: ONNX value -> what it is in the graph, in the order of the file.
    """

    task: dict | None
    bound: dict[str, Bound]


@dataclass(frozen=True, eq=False)
class Imported:
    """``digest``: SHA-256 of the file and of its external weights, in hex; ``origins``: one a graph; ``size``: bytes of the weights; ``host``:
    what of the file the host runs, None where the network is the whole file.

    kept: what a quantized file says of its rounding, None for a float one; float_file: the float32 network that a quantized file, or one of
    16-bit floating point, stands for, as an ONNX file; rounded_file: and with the rounding of a quantized file put back. padding: the input
    that says which tokens of a sequence are there; the network is that of all of them.
    """

    model: Model
    verdicts: tuple[Verdict, ...]
    path: Path
    digest: str
    origins: tuple[Origin, ...]
    size: int
    host: HostParts | None = None
    kept: Kept | None = None
    float_file: bytes | None = None
    rounded_file: bytes | None = None
    padding: Padding | None = None

    @property
    def became(self) -> dict[str, str]:
        """ONNX nodes that are part of another one -> that one."""
        into = {verdict.node: verdict.into for verdict in self.verdicts if verdict.status is Status.FUSED}

        def owner(name: str) -> str:
            seen = {name}
            while name in into and into[name] not in seen:
                name = into[name]
                seen.add(name)
            return name
        return {name: owner(name) for name in into}

    def __repr__(self) -> str:
        return visible(f"<Imported {self.path.name}: {self.model!r}>", limit=REPR)


@dataclass(frozen=True, eq=False)
class Checked:
    """``error``: why the file is not taken, None when ok; imported: None when the importer refuses it; padding: an input that may say which
    tokens are there, whatever became of the file.

    onnx: how well the network computes what the file does (`judge.Judgement` as a dict), and warnings: what calibration found, where that was
    asked for.
    """

    verdicts: tuple[Verdict, ...]
    ok: bool
    error: HwgenError | None
    imported: Imported | None = None
    padding: Padding | None = None
    onnx: dict | None = None
    warnings: tuple[str, ...] = ()

    @property
    def model(self) -> Model | None:
        """The network, None with an ``error``."""
        return self.imported and self.imported.model

    @property
    def host(self) -> dict[str, object] | None:
        """What the host would run, JSON-able; None where it is nothing."""
        return self.imported.host.to_dict() if self.imported and self.imported.host else None

    def __repr__(self) -> str:
        return visible(f"<Checked: {'supported' if self.ok else 'not supported'}, {len(self.verdicts)} nodes"
                       f"{f', {self.error.message}' if self.error else ''}>", limit=REPR)


def import_model(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Imported:
    """Read an ONNX network; one `Graph` for each task, weights that tasks share are one array.

    shapes: {input name: shape, batch first} for inputs with symbolic dimensions. A task is a value of an integer scalar input
    that selects constants, or a group of outputs with a trunk of their own.
    Raises ModelError (file, operator, weight) and ShapeError (dimension), both with the place and the next step.
    """
    checked = check_model(path, shapes)
    if checked.imported is None:
        raise checked.error
    return checked.imported


def check_model(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None, shown: int = 1) -> Checked:
    """Like `import_model`, but a network that is not supported is a result. Raises only when the file cannot be read. shown: see `read.read`."""
    return check_file(unquantized(read(path, shapes, shown)))


def read_any(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None, shown: int = 1) -> OnnxFile:
    """A file to be cut, whatever its inputs are; of a quantized one the float network it stands for. Raises ModelError, ShapeError."""
    return unquantized(_read_any(path, shapes, shown))


def check_file(file: OnnxFile) -> Checked:
    """`check_model` of a file that was read, or of a part of one."""
    with uncollected():
        return replace(_check(file), padding=file.padding)


def listed(path: str | Path, verdicts: tuple[Verdict, ...], shapes: dict[str, tuple[int, ...]] | None = None) -> Part:
    """The nodes of a file with the verdicts on them, as a part of a listing. Raises ModelError, ShapeError."""
    with uncollected():
        file = read_any(path, shapes)
        return part(file, normalize(file, None, Pool()), verdicts)


def _check(file: OnnxFile) -> Checked:
    try:
        parts = _sweep(file)
    except HwgenError as error:
        return Checked((), False, error)
    failed = next((part for _, part in parts if not part.graphs), None)
    verdicts = (failed or parts[0][1]).verdicts
    if any(verdict.status is Status.UNSUPPORTED for verdict in verdicts):
        return Checked(verdicts, False, unsupported(file, verdicts))
    if failed is not None:
        return Checked(verdicts, False, type(failed.error)(failed.error.message, str(file.path), failed.error.hint).about(failed.error.node))
    graphs = [(graph, Origin(task, part.bound)) for task, part in parts for graph in part.graphs]
    try:
        model = Model(tuple(graph for graph, _ in graphs)).verify()
        _all_outputs(file, model)
    except ModelError as error:
        return Checked(verdicts, False, ModelError(error.message, ": ".join(filter(None, [str(file.path), error.where])), error.hint))
    size = sum(array.nbytes for array in file.weights.values())
    found = Imported(model, verdicts, file.path, file.digest, tuple(origin for _, origin in graphs), size, float_file=file.float_file)
    found = replace(found, padding=file.padding)
    if file.quantization is not NOT_QUANTIZED:
        found = replace(found, kept=_kept(file, [part for _, part in parts]), rounded_file=file.quantization.rounded_file)
    return Checked(verdicts, True, None, found)


def _kept(file: OnnxFile, parts: list[Swept]) -> Kept:
    """What a quantized file says of the values of the network."""
    said, grids = file.quantization, {}
    for swept in parts:
        grids |= swept.grids
    return Kept(grids, tuple(said.grids.values()), np.asarray(said.scales, np.float64), said.widths, said.dynamic, said.notes)


def _sweep(file: OnnxFile) -> list[tuple[dict | None, Swept]]:
    """(value of the task input, what it selects), one for each task that an integer input selects; else one."""
    pool = Pool()
    try:
        graph = normalize(file, None, pool)
        if file.task is None:
            return [(None, sweep_rules(graph, None, pool))]
        name = file.task.name
        return [(task_feed(file.task, value), sweep_rules(normalize(file, value, pool), f"{name}{value}", pool))
                for value in range(task_count(graph, name, str(file.path)))]
    except ModelError as error:
        raise ModelError(error.message, error.where or str(file.path), error.hint) from error


def _all_outputs(file: OnnxFile, model: Model) -> None:
    """Each ONNX output is one of a graph, and nothing else is."""
    wanted, given = {value.name for value in file.proto.graph.output}, {name for graph in model.tasks for name in graph.outputs}
    if wanted != given:
        raise ModelError(f"of the outputs {sorted(wanted)} the network gives {sorted(given)}",
                         hint="remove the others before export, and report this")
