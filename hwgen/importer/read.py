"""ONNX file -> checked `onnx.ModelProto` with its weights in memory, and the shapes of its inputs."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from ..errors import ModelError, ShapeError

FLOAT, INTEGERS = onnx.TensorProto.FLOAT, (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A model as read. ``inputs``: static shape of every float input, batch included; ``task``: the integer scalar input."""

    path: Path
    proto: onnx.ModelProto
    digest: str
    inputs: dict[str, tuple[int, ...]]
    task: onnx.ValueInfoProto | None


def read(path: str | Path, shapes: dict[str, tuple[int, ...]] | None = None) -> OnnxFile:
    """Read and check a file; ``shapes`` gives inputs with symbolic dimensions, batch first.

    Raises ModelError (the file cannot be read, is no ONNX, or its external weights are missing) and ShapeError (a dimension
    is symbolic and not given, or does not fit).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror}", where=str(path), hint="check the path") from error
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError("the file is no ONNX model, or it is truncated", where=str(path),
                         hint="compare its size with the original, or export the model again") from error
    if not proto.graph.output or not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        raise ModelError("the file holds no ONNX network: it has no outputs or names no operator set", where=str(path),
                         hint="give a file written by torch.onnx.export or onnx.save")
    digest = hashlib.sha256(data)
    _load_external(path, proto, digest)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    inputs, task = _inputs(path, proto, shapes or {})
    _check(path, proto)
    return OnnxFile(path, proto, digest.hexdigest(), inputs, task)


def _load_external(path: Path, proto: onnx.ModelProto, digest) -> None:
    """Read weights kept in files of their own, beside the model."""
    tensors = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    tensors += [a.t for node in proto.graph.node for a in node.attribute if a.t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in tensors:
        info = {entry.key: entry.value for entry in tensor.external_data}
        location = path.parent / info.get("location", "")
        needed = int(info.get("offset", 0)) + int(info.get("length", 0))
        if not location.is_file():
            problem = f"which does not exist beside {path.name}"
        elif location.stat().st_size < needed:
            problem = f"which holds {location.stat().st_size} bytes where {needed} are needed"
        else:
            continue
        raise ModelError(f"weight {tensor.name!r} is kept in the file {info.get('location')!r}, {problem}", where=str(path),
                         hint="copy the data file that was exported with the model into the same directory")
    names = sorted({entry.value for t in tensors for entry in t.external_data if entry.key == "location"})
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"cannot read the weights kept in {', '.join(map(repr, names))}: {error}", where=str(path),
                         hint="the data file must be a plain file in the directory of the model") from error
    for name in names:
        digest.update((path.parent / name).read_bytes())


def _check(path: Path, proto: onnx.ModelProto) -> None:
    """The ONNX checker, except when an operator is unknown to it: that one is reported as a node that is not supported."""
    if any(not known_operator(proto, node) for node in proto.graph.node) or proto.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
        return
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the ONNX checker refuses the model: {str(error).splitlines()[0]}", where=str(path),
                         hint="export the model again with a current exporter") from error


def known_operator(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether the installed onnx package has a definition of this operator in the version the model asks for."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    domain = "" if node.domain == "ai.onnx" else node.domain
    return domain in versions and onnx.defs.has(node.op_type, versions[domain], domain)


def _inputs(path: Path, proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]):
    weights = {t.name for t in proto.graph.initializer}
    values = [value for value in proto.graph.input if value.name not in weights]
    names = [value.name for value in values]
    for name in shapes:
        if name not in names:
            raise ShapeError(f"--shape names the input {name!r}; the model has {', '.join(map(repr, names)) or 'none'}",
                             where=str(path), hint="use one of these names")
    inputs: dict[str, tuple[int, ...]] = {}
    tasks = []
    for value in values:
        kind = value.type.tensor_type.elem_type
        shape = _static_shape(path, value, shapes.get(value.name))
        if kind in INTEGERS and math.prod(shape) == 1:
            tasks.append(value)
        elif kind != FLOAT:
            raise ModelError(f"input {value.name!r} is {_dtype(kind)} {list(shape)}; an input is float32, or one integer that "
                             "selects the task", where=str(path), hint=_type_hint(kind))
        elif not shape or shape[0] != 1:
            raise ShapeError(f"input {value.name!r} has the shape {list(shape)}; the first dimension is the batch and must be 1",
                             where=str(path), hint="export with a batch of 1; hwgen streams any number of images")
        else:
            inputs[value.name] = shape
    if len(tasks) > 1:
        raise ModelError(f"the model has {len(tasks)} integer inputs: {[value.name for value in tasks]}", where=str(path),
                         hint="one integer input can select the task; make the others constants before export")
    if not inputs:
        raise ModelError("the model has no float32 input", where=str(path), hint="give a network that reads an image or tokens")
    return inputs, tasks[0] if tasks else None


def _type_hint(kind: int) -> str:
    if kind in INTEGERS:
        return "token ids: cut the network behind the embedding look-up, and give the embeddings as a float32 input"
    if kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE):
        return "export the model in float32"
    return "give float32 values, prepared as for training; a conversion from whole numbers belongs in front of the network"


def _static_shape(path: Path, value: onnx.ValueInfoProto, given: tuple[int, ...] | None) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") and given is None:
        raise ShapeError(f"input {value.name!r} has no shape", where=str(path), hint=f"give it: --shape {value.name}=1x3x224x224")
    dims = [dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in tensor.shape.dim]
    if given is not None:
        fits = not tensor.HasField("shape") or len(given) == len(dims) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(dims, given))
        if not fits or any(size < 1 for size in given):
            raise ShapeError(f"--shape {value.name}={_times(given)} does not fit the input {value.name!r} of shape "
                             f"[{', '.join(map(str, dims))}]", where=str(path), hint="only symbolic dimensions can be chosen")
        return tuple(int(size) for size in given)
    for place, dim in enumerate(dims):
        if isinstance(dim, str):
            guess = [(1 if i == 0 else f"<{d}>") if isinstance(d, str) else d for i, d in enumerate(dims)]
            raise ShapeError(f"dimension {place} ({dim!r}) of the input {value.name!r} is not fixed: its shape is "
                             f"[{', '.join(map(str, dims))}]", where=str(path),
                             hint=f"give it: --shape {value.name}={_times(guess)}")
    return tuple(dims)


def _times(dims) -> str:
    return "x".join(map(str, dims))


def _dtype(kind: int) -> str:
    return onnx.TensorProto.DataType.Name(kind).lower()


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Name -> array of every stored weight."""
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
