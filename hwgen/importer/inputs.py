"""The inputs of a file: their static shapes, and what they must be for the network or for a file that is cut."""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from ..errors import ModelError, ShapeError
from .border import MAX_ELEMENTS, quoted
from .halves import HALVES

FLOAT, INTEGERS = onnx.TensorProto.FLOAT, (onnx.TensorProto.INT32, onnx.TensorProto.INT64)

Entry = tuple[dict[str, tuple[int, ...]], onnx.ValueInfoProto | None, dict[str, int]]       # as in `OnnxFile`: inputs, task, kinds


def _given(path: Path, proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> list[tuple[onnx.ValueInfoProto, tuple[int, ...]]]:
    """The inputs, each with its static shape."""
    weights = {t.name for t in proto.graph.initializer}
    values = [value for value in proto.graph.input if value.name not in weights]
    names = [value.name for value in values]
    for name in shapes:
        if name not in names:
            raise ShapeError(f"--shape names the input {name!r}; the model has {', '.join(map(repr, names)) or 'none'}",
                             where=str(path), hint="use one of these names")
    found = [(value, _static_shape(path, value, shapes.get(value.name))) for value in values]
    for value, shape in found:
        if any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise ShapeError(f"input {quoted(value.name)} has the shape {list(shape)}: it must have between 1 and {MAX_ELEMENTS:,} "
                             "elements", where=str(path), hint="export the model with the shape it is used with")
    return found


def any_inputs(path: Path, proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> Entry:
    """Of one that is cut: a single whole number beside other inputs is the task, everything else goes through the part in front."""
    found = _given(path, proto, shapes)
    numbers = [value for value, shape in found if value.type.tensor_type.elem_type in INTEGERS and math.prod(shape) == 1]
    task = numbers[0] if len(numbers) == 1 and len(found) > 1 else None
    inputs = {value.name: shape for value, shape in found if value is not task}
    return inputs, task, {value.name: value.type.tensor_type.elem_type for value, _ in found if value is not task}


def plain_inputs(path: Path, proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> Entry:
    inputs: dict[str, tuple[int, ...]] = {}
    tasks = []
    for value, shape in _given(path, proto, shapes):
        kind = value.type.tensor_type.elem_type
        if kind in INTEGERS and math.prod(shape) == 1:
            tasks.append(value)
        elif kind not in (FLOAT, *HALVES):
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
    return inputs, tasks[0] if tasks else None, {}


def _type_hint(kind: int) -> str:
    if kind in INTEGERS:
        return "token ids: cut the network behind the embedding look-up, and give the embeddings as a float32 input"
    if kind == onnx.TensorProto.DOUBLE:
        return "export the model in float32"
    return "give float32 values, prepared as for training; a conversion from whole numbers belongs in front of the network"


def _static_shape(path: Path, value: onnx.ValueInfoProto, given: tuple[int, ...] | None) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") and given is None:
        raise ShapeError(f"input {value.name!r} has no shape", where=str(path), hint=f"give it: --shape {value.name}=1x3x224x224")
    dims = [dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in tensor.shape.dim]
    if given is not None:
        fits = not tensor.HasField("shape") or len(given) == len(dims) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(dims, given, strict=True))
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
    return tuple(int(dim) for dim in dims)


def _times(dims) -> str:
    return "x".join(map(str, dims))


def _dtype(kind: int) -> str:
    return onnx.TensorProto.DataType.Name(kind).lower() if kind in onnx.TensorProto.DataType.values() else f"of type {kind}"
