"""Weights of an ONNX file: `onnx.TensorProto` -> numpy, and those kept in files beside the model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from .border import border, quoted

EXTERNAL = onnx.TensorProto.EXTERNAL


def array_of(path: Path, tensor: onnx.TensorProto, place: str) -> np.ndarray:
    """The array. Raises ModelError with the place when type, dimensions and bytes contradict each other."""
    kind = tensor.data_type
    if kind not in onnx.TensorProto.DataType.values() or kind == onnx.TensorProto.UNDEFINED:
        raise ModelError(f"{place} has the unknown element type {kind}", where=f"{path}: {place}", hint="export the model again")
    dims = list(tensor.dims)
    if any(size < 0 for size in dims):
        raise ModelError(f"{place} has the shape {dims}: a dimension is negative", where=f"{path}: {place}",
                         hint="export the model again")
    size, needed = len(tensor.raw_data), stored_bytes(tensor)
    if tensor.HasField("raw_data") and needed is not None and size != needed:
        raise ModelError(f"{place} has the shape {dims}, which takes {needed} bytes; the file holds {size} bytes of it",
                         where=f"{path}: {place}", hint="the file is damaged: export the model again")
    with border(path, place):
        return numpy_helper.to_array(tensor)


def stored_bytes(tensor: onnx.TensorProto) -> int | None:
    """Bytes of the tensor as raw data; None for the types of less than a byte, which have packings of their own."""
    if onnx.TensorProto.DataType.Name(tensor.data_type).endswith(("INT4", "INT2", "FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2", "STRING")):
        return None
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def load_external(path: Path, proto: onnx.ModelProto, digest) -> None:
    """Read weights kept in files of their own, beside the model, and add those files to the digest."""
    tensors = [tensor for tensor in _tensors(proto) if tensor.data_location == EXTERNAL]
    if not tensors:
        return
    for tensor in tensors:
        _check_external(path, tensor)
    if any("\ud800" <= char <= "\udfff" for char in str(path.parent)):
        raise ModelError("the weights lie in files of their own, in a folder whose name is no UTF-8: the onnx package cannot open them there",
                         where=str(path), hint="rename the folder, or move the model and its data elsewhere")
    names = sorted({entry.value for t in tensors for entry in t.external_data if entry.key == "location"})
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise ModelError(f"cannot read the weights kept in {', '.join(map(quoted, names))}: {' '.join(str(error).split())[:300]}",
                         where=str(path), hint="the data file must be a plain file in the directory of the model") from error
    for name in names:
        with (path.parent / name).open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)


def _tensors(proto: onnx.ModelProto):
    """Every stored tensor: weights and attributes, in functions and subgraphs too."""
    yield from proto.graph.initializer
    waiting = [proto.graph.node, *(function.node for function in proto.functions)]
    while waiting:
        for node in waiting.pop():
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for graph in (attribute.g, *attribute.graphs):
                    yield from graph.initializer
                    waiting.append(graph.node)


def _check_external(path: Path, tensor: onnx.TensorProto) -> None:
    info = {entry.key: entry.value for entry in tensor.external_data}
    name = info.get("location", "")
    weight = f"weight {quoted(tensor.name)}"
    numbers = {key: info[key] for key in ("offset", "length") if key in info}
    wrong = [f"{key} {quoted(value)}" for key, value in numbers.items() if not (value.isascii() and value.isdigit() and len(value) < 19)]
    try:
        location = path.parent / name
        size = location.stat().st_size if location.is_file() else None
    except (OSError, ValueError):                                   # too long, or with a character no name can have
        size = None
    offset = 0 if wrong else int(numbers.get("offset", 0))
    needed = offset + (0 if wrong else int(numbers.get("length", 0)))
    if wrong:
        problem, hint = f"at the {wrong[0]}, which is no number of bytes", "export the model again"
    elif size is None:
        problem = f"which does not exist beside {path.name}"
        hint = "copy the data file that was exported with the model into the same directory"
    elif size < needed:
        problem = f"which holds {size} bytes where {needed} are needed"
        hint = "copy the data file that was exported with the model into the same directory"
    else:
        return
    raise ModelError(f"{weight} is kept in the file {quoted(name)}, {problem}", where=str(path), hint=hint)
