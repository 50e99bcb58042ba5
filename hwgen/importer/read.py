"""ONNX file -> checked `onnx.ModelProto` with its weights in memory, and the shapes of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
import hashlib
import math
from pathlib import Path
import re

from google.protobuf.message import DecodeError
import numpy as np
import onnx
from onnx import helper
import onnx.inliner

from ..errors import ModelError, ShapeError
from ..matching.grid import Grid
from ..matching.opgraph import Ref, View
from ..padding import Padding
from . import contrib, control, halves
from .border import border, node_place, quoted
from .inputs import Entry, any_inputs, plain_inputs
from .padded import padding_of, shown_whole
from .weights import array_of, load_external

FLOAT = onnx.TensorProto.FLOAT
FOREIGN_DOMAIN = "unknown"             # in what the checker sees: the domain of operators it has no definition of
CHECKED_DATA = 64                      # weights up to this many elements are shown to the checker with their values
MAX_OUTPUTS = 256
MAX_NODES, MAX_DEPTH, MAX_INLINED = 1_000_000, 100, 1 << 28         # of functions written out: nodes, calls in calls, bytes


@dataclass(frozen=True, eq=False)
class Quantization:
    """What a quantized file says, which was read as the float network it stands for. grids: ONNX value -> the numbers it is rounded to;
    operators: of the nodes that were changed, as the file has them; added: nodes that stand for none of the file.

    dynamic: nodes that find a scale for every image; widths: bits of its weights; scales: of its weights, rising; notes: for people.
    float_file: the whole float network, as an ONNX file; rounded_file: and with the rounding of the file put back.
    """

    grids: dict[str, Grid]
    operators: dict[str, str]
    added: frozenset[str]
    dynamic: tuple[str, ...]
    widths: frozenset[int]
    scales: tuple[float, ...]
    notes: tuple[str, ...]
    float_file: bytes
    rounded_file: bytes

    def rounded(self, name: str, ref: Ref) -> Ref:
        """What the value is, with the numbers it is rounded to."""
        grid = self.grids.get(name)
        return ref if grid is None or not isinstance(ref, View) or not ref.scale else replace(ref, grid=grid.times(1 / ref.scale))


NOT_QUANTIZED = Quantization({}, {}, frozenset(), (), frozenset(), (), (), b"", b"")


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A model as read. ``inputs``: static shape of every float input, batch included; ``task``: the integer scalar input; ``kinds``: ONNX element
    types of the inputs that are not float32, of a file that is read to be cut (`read_any`); proto: of a quantized file the float network,
    and ``quantization`` what that leaves out. widened: the file is of 16-bit floating point, ``proto`` the float32 network it stands for.
    padding: the input that says which tokens are there; all of them are in ``proto``.
    """

    path: Path
    proto: onnx.ModelProto
    digest: str
    inputs: dict[str, tuple[int, ...]]
    task: onnx.ValueInfoProto | None
    weights: dict[str, np.ndarray]
    kinds: dict[str, int] = field(default_factory=dict)
    quantization: Quantization = NOT_QUANTIZED
    widened: bool = False
    padding: Padding | None = None

    @property
    def float_file(self) -> bytes | None:
        """What the file is compared by instead of itself: the network in float32 it stands for; None when it is one."""
        if self.quantization is not NOT_QUANTIZED:
            return self.quantization.float_file
        return self.proto.SerializeToString() if self.widened else None


def read(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None, shown: int = 1) -> OnnxFile:
    """Read and check a file; ``shapes`` gives inputs with symbolic dimensions, batch first. shown: what an input holds that says which tokens are
    there, where one is.

    Raises ModelError (the file cannot be read, is no ONNX, or its external weights are missing) and ShapeError (a dimension
    is symbolic and not given, or does not fit).
    """
    path = Path(path)
    with border(path, "the model"):
        return _read(path, shapes or {}, plain_inputs, shown)


def read_any(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None, shown: int = 1) -> OnnxFile:
    """`read`, of a file whose inputs have any number, types and shapes: one to be cut."""
    path = Path(path)
    with border(path, "the model"):
        return _read(path, shapes or {}, any_inputs, shown)


def _read(path: Path, shapes: dict[str, tuple[int, ...]], enter: Callable[..., Entry], shown: int) -> OnnxFile:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ModelError("the model is a pipe or a device; it is read twice, and its weights lie beside it", where=str(path),
                         hint="save it as a file first")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror}", where=str(path),
                         hint="give the ONNX file" if path.is_dir() else "check the path") from error
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError("the file is no ONNX model, or it is truncated", where=str(path),
                         hint="compare its size with the original, or export the model again") from error
    digest = hashlib.sha256(data)
    del data
    _check_names(path, proto)
    if not proto.graph.output or not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        raise ModelError("the file holds no ONNX network: it has no outputs or names no operator set", where=str(path),
                         hint="give a file written by torch.onnx.export or onnx.save")
    if len(proto.graph.output) > MAX_OUTPUTS:
        raise ModelError(f"the network has {len(proto.graph.output):,} outputs; up to {MAX_OUTPUTS} are supported", where=str(path),
                         hint="export the network with the outputs that are needed")
    _check_opsets(path, proto)
    load_external(path, proto, digest)
    if proto.functions:
        proto = _inline(path, proto)
    for node in proto.graph.node:
        if node.domain == "ai.onnx":                                # the long name of the standard domain
            node.domain = ""
    halves.sort_nodes(proto.graph)
    padding = padding_of(proto, shapes, shown)
    if padding is not None:
        proto = shown_whole(proto, padding)
        shapes = {name: shape for name, shape in shapes.items() if name != padding.name}
    inputs, task, kinds = enter(path, proto, shapes)
    weights = _weights(path, proto)
    _check(path, proto)
    wide, plain = halves.widened(proto), proto
    proto = contrib.write_out(proto)
    if wide or proto is not plain:
        _check(path, proto)
    with border(path, "the model"):
        proto = control.write_out(proto)
    if wide or proto is not plain or len(proto.graph.initializer) != len(weights):
        weights = _weights(path, proto)
    kinds = {name: FLOAT if kind in halves.HALVES else kind for name, kind in kinds.items()}
    return OnnxFile(path, proto, digest.hexdigest(), inputs, task, weights, kinds, widened=wide, padding=padding)


def _weights(path: Path, proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: array_of(path, tensor, f"weight {quoted(tensor.name)}") for tensor in proto.graph.initializer}


# ---------------------------------------------------------------- what the checker does not check, or must not see

def _check_names(path: Path, proto: onnx.ModelProto) -> None:
    """Every name is text. Protobuf hands out one that is not UTF-8 as bytes."""
    def bad(names):
        return next((name for name in names if isinstance(name, bytes)), None)

    def of_graph(graph):
        yield graph.name
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
        yield from (tensor.name for tensor in graph.initializer)
        yield from of_nodes(graph.node)

    def of_nodes(nodes):
        for node in nodes:
            yield node.name
            yield node.op_type
            yield node.domain
            yield from node.input
            yield from node.output
            for attribute in node.attribute:
                yield attribute.name
                for graph in (attribute.g, *attribute.graphs) if attribute.type in GRAPHS else ():
                    yield from of_graph(graph)

    found = bad(entry.domain for entry in proto.opset_import)
    found = bad(of_graph(proto.graph)) if found is None else found
    for function in proto.functions if found is None else ():
        found = found or bad((function.name, function.domain, *function.input, *function.output, *function.attribute))
        found = found or bad(of_nodes(function.node))
    if found is not None:
        raise ModelError(f"a name in the file is no text (UTF-8): {quoted(found)}", where=str(path),
                         hint="the file is damaged: compare it with the original, or export the model again")


GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _check_opsets(path: Path, proto: onnx.ModelProto) -> None:
    """One version a domain, and of the standard one a version the onnx package knows; "ai.onnx" becomes its short name."""
    versions: dict[str, int] = {}
    for entry in proto.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
        if versions.setdefault(entry.domain, entry.version) != entry.version:
            raise ModelError(f"the file asks for two versions of the operator set {entry.domain or 'ai.onnx'!r}: "
                             f"{versions[entry.domain]} and {entry.version}", where=str(path), hint="export the model again")
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= versions[""] <= newest:
        raise ModelError(f"the file asks for version {versions['']} of the ONNX operators; known are 1 to {newest}",
                         where=str(path), hint=f"export the model with an opset_version up to {newest}")
    wrong = next((domain for domain, version in versions.items() if not 0 < version < 1 << 31), None)
    if wrong is not None:
        raise ModelError(f"the file asks for version {versions[wrong]} of the operator set {quoted(wrong)}", where=str(path),
                         hint="export the model again")
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise ModelError(f"weight {quoted(name)} is stored as a sparse tensor, which is not supported", where=str(path),
                         hint="export the model with dense weights")


def _inline(path: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Write out the functions of the file; their size is found first, for a few short ones can call for a huge network."""
    bodies = {}
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in bodies:
            raise ModelError(f"the file defines the function {quoted(function.name)} twice", where=str(path),
                             hint="export the model again")
        bodies[key] = function
    size: dict[tuple, tuple[int, int, int]] = {}                    # nodes, bytes, calls in calls
    waiting = list(bodies)
    open_calls: set[tuple] = set()
    while waiting:
        key = waiting[-1]
        called = [call for node in bodies[key].node for call in _calls(node) if call in bodies]
        missing = [call for call in called if call not in size]
        if key in size or not missing:
            open_calls.discard(key)
            waiting.pop()
            size.setdefault(key, _sum([(len(bodies[key].node), bodies[key].ByteSize(), 1), *(size[call] for call in called)]))
            continue
        open_calls.add(key)
        loop = next((call for call in missing if call in open_calls), None)
        if loop is not None:
            raise ModelError(f"the function {quoted(loop[1])} calls itself", where=str(path),
                             hint="a network cannot be recursive: export the model again")
        waiting += missing
    whole = _sum([size[call] for node in proto.graph.node for call in _calls(node) if call in size] or [(0, 0, 0)])
    limits = ((MAX_NODES, "nodes"), (MAX_INLINED, "bytes"), (MAX_DEPTH, "calls inside each other"))
    for number, (limit, unit) in zip(whole, limits, strict=True):
        if number > limit:
            raise ModelError(f"the functions of the file make a network of {number:,} {unit} when they are written out; the limit "
                             f"is {limit:,}", where=str(path), hint="export the model without functions")
    return onnx.inliner.inline_local_functions(proto)


def _sum(sizes: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Of a body (first) and what it calls."""
    own, *called = sizes
    return (own[0] + sum(c[0] for c in called), own[1] + sum(c[1] for c in called),
            max(own[2], *(c[2] + 1 for c in called)) if called else own[2])


def _calls(node: onnx.NodeProto):
    """What might be a function called by the node, those in its subgraphs included."""
    for inner in _within(node):
        yield inner.domain, inner.op_type, inner.overload


def _within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The node, and those in its subgraphs."""
    yield node
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.type in GRAPHS else ():
            for inner in graph.node:
                yield from _within(inner)


def _check_splits(path: Path, proto: onnx.ModelProto) -> None:
    """The onnx package ends the whole process at a Split into fewer parts than it has outputs."""
    for node in (inner for outer in proto.graph.node for inner in _within(outer)):
        parts = [a.i for a in node.attribute if a.name == "num_outputs" and node.op_type == "Split"]
        if parts and parts[0] != len(node.output):
            place = node_place(node.op_type, node.name)
            raise ModelError(f"{place} has num_outputs {parts[0]} and {len(node.output)} outputs", where=f"{path}: {place}",
                             hint="the file is damaged, or written by a faulty exporter: export the model again")


def _check(path: Path, proto: onnx.ModelProto) -> None:
    """The full check of the onnx package (structure, then all types and shapes), of the network without its large weights.

    Operators the package does not know are shown to it as those of a foreign domain: it takes them as they are, and they are
    reported as nodes that are not supported. Types stored for values inside are left out: they are not used.
    """
    shown = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    shown.opset_import.append(helper.make_opsetid(FOREIGN_DOMAIN, 1))
    shown.graph.name = proto.graph.name
    shown.graph.node.extend(proto.graph.node)
    shown.graph.input.extend(proto.graph.input)
    shown.graph.output.extend(proto.graph.output)
    given = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= CHECKED_DATA:
            shown.graph.initializer.append(tensor)
        elif tensor.name not in given:
            shown.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    versions = opset_versions(proto)
    for node in shown.graph.node:
        if not known_operator(versions, node):
            node.domain = FOREIGN_DOMAIN
    halves.checkable(shown)
    if shown.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:            # it cannot be handed over
        return
    _check_splits(path, shown)
    try:
        onnx.checker.check_model(shown)
        for value in shown.graph.output:                            # onnxruntime, too, holds an output to its type only
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        onnx.shape_inference.infer_shapes(shown, check_type=True, strict_mode=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the ONNX checker refuses the model: {_one_line(error)}", where=str(path),
                         hint="export the model again with a current exporter") from error
    except onnx.shape_inference.InferenceError as error:
        found = re.search(r"\(op_type:(.*?), node name: (.*?)\): (.*?)(\(op_type:|$)", str(error), re.DOTALL)
        if found is None:
            raise ModelError(f"the types or shapes in the file contradict each other: {_one_line(error)}", where=str(path),
                             hint="export the model again with a current exporter") from error
        place = node_place(found[1], found[2])
        few = "" if found[1] != "TopK" else "choose at most as many as there are (experts of a router), then "
        raise ShapeError(f"the types or shapes of {place} do not fit: {_one_line(found[3])}{_wanted(proto, found[2])}", where=f"{path}: {place}",
                         hint=f"{few}export the model again; the node cannot run as it stands") from error


def _wanted(proto: onnx.ModelProto, name: str) -> str:
    """How many a TopK of this name asks for, for a message."""
    asked = {node.input[1] for node in proto.graph.node if node.op_type == "TopK" and node.name == name and len(node.input) > 1}
    found = [tensor for tensor in proto.graph.initializer if tensor.name in asked and not tensor.external_data]
    return "".join(f" (k = {int(onnx.numpy_helper.to_array(tensor).ravel()[0])})" for tensor in found)


def _one_line(error) -> str:
    text = str(error).split("==> Context")[0]
    text = " ".join(re.sub(r"\[(ShapeInferenceError|TypeInferenceError)\]", "", text).split())
    return text if len(text) <= 300 else text[:300] + " …"


def opset_versions(proto: onnx.ModelProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in proto.opset_import}


def known_operator(versions: dict[str, int], node: onnx.NodeProto) -> bool:
    """Whether the installed onnx package has a definition of this operator in the version the model asks for."""
    return node.domain in versions and onnx.defs.has(node.op_type, versions[node.domain], node.domain)
