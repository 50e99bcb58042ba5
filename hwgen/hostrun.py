"""Runs the host parts of a network by onnxruntime, in a process of its own with limits, and checks what they are given and give."""

from __future__ import annotations

from collections.abc import Mapping
import math
from pathlib import Path

import numpy as np

from .errors import HwgenError, InputError, ModelError
from .hostparts import PREFIX, SUFFIX, HostParts, Part, Value
from .tools.reference import MEMORY_PER_BYTE, run_onnx

BASE_SECONDS, MACS_PER_SECOND = 8, 2e8       # limit of CPU time for a run of all images
BYTES_PER_VALUE = 64             # of memory, for each value of a network: copies, and what is not freed at once


def seconds(macs: int, images: int) -> int:
    """The limit of CPU time for a network of so many multiply-accumulates."""
    return BASE_SECONDS + math.ceil(macs * images / MACS_PER_SECOND)


def checked(values: tuple[Value, ...], given: Mapping[str, np.ndarray], what: str, kind: type[HwgenError]) -> dict[str, np.ndarray]:
    """Arrays for the inputs of a file, as many images of each; whole numbers get their types. what: "input", for messages. Raises ``kind``."""
    found: dict[str, np.ndarray] = {}
    for value in values:
        wanted = f"give an array [images, {', '.join(map(str, value.shape))}] of {value.dtype} under the name {value.name!r}"
        if value.name not in given:
            raise kind(f"{what} {value.name!r} is missing; given are {sorted(given)}", hint=wanted)
        array = np.asarray(given[value.name])
        if array.dtype.kind not in ("f" if value.is_float else "b" if value.dtype == "bool" else "iu"):
            raise kind(f"{what} {value.name!r} has dtype {array.dtype}", hint=f"{wanted}{', scaled as in training' * value.is_float}")
        if array.ndim != len(value.shape) + 1 or array.shape[1:] != value.shape:
            raise kind(f"{what} {value.name!r} has shape {array.shape}", hint=wanted)
        if not len(array):
            raise kind(f"{what} {value.name!r} holds no image", hint=wanted)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise kind(f"{what} {value.name!r} holds NaN or infinite values", hint="clean the data")
        if array.dtype.kind in "iu":
            _in_range(value, array, what, kind)
        found[value.name] = array if value.is_float else array.astype(value.dtype)
    if len({len(array) for array in found.values()}) > 1:
        raise kind(f"the inputs hold different numbers of images: { {name: len(array) for name, array in found.items()} }",
                   hint="give each input one array entry an image")
    return found


def _in_range(value: Value, array: np.ndarray, what: str, kind: type[HwgenError]) -> None:
    info = np.iinfo(value.dtype)
    low, high = (0, value.limit - 1) if value.limit else (int(info.min), int(info.max))
    if int(array.min()) < low or int(array.max()) > high:
        raise kind(f"{what} {value.name!r} holds values from {array.min()} to {array.max()}", hint=f"the file takes {low} to {high}")


def before(host: HostParts, given: Mapping[str, np.ndarray], what: str = "input", kind: type[HwgenError] = InputError) -> dict[str, np.ndarray]:
    """The engine's input for images of the file's inputs, which are `checked`. Raises ``kind`` when it is no number, ModelError when the part
    cannot be run."""
    images = checked(host.inputs, given, what, kind)
    if host.prefix is None:
        return images
    with np.errstate(over="ignore"):                    # a float64 that float32 does not hold becomes infinite
        found = run_part(host.prefix, PREFIX, {value.name: images[value.name].astype(value.dtype) for value in host.prefix.inputs})
    for name, array in found.items():
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        if len(bad):
            shown = array[bad[0]].ravel()
            raise kind(f"the part in front of the engine gives {shown[~np.isfinite(shown)][0]} in {name!r} for image {bad[0]} of the {what}",
                       where=PREFIX, hint="give images as in training")
    return found


def after(host: HostParts, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of the file [images, ...] for outputs of the engine, as far as these are given. Raises ModelError when the part cannot be run."""
    wanted = host.known(outputs)
    found = dict(outputs)
    if host.suffix is not None and any(value.name not in outputs for value in wanted):
        count = len(next(iter(outputs.values())))
        given = {value.name: outputs.get(value.name, np.zeros((count, *value.shape), value.dtype)) for value in host.suffix.inputs}
        found |= run_part(host.suffix, SUFFIX, given)
    return {value.name: found[value.name] for value in wanted}


def run_part(part: Part, name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a part gives, [images, ...]. name: for messages. Raises ModelError when it cannot be run within its limits."""
    count = len(next(iter(arrays.values())))
    try:
        done = run_onnx(Path(name), dict(arrays), None, cpu_seconds=seconds(part.macs, count), content=part.content,
                        more_bytes=len(part.content) * MEMORY_PER_BYTE + part.size * BYTES_PER_VALUE)
    except ModelError as error:
        raise ModelError(f"the host's part of the network does not run: {error.message}", where=name,
                         hint="run it with onnxruntime yourself") from error
    return {value.name: done.outputs[value.name].reshape(count, *value.shape) for value in part.outputs}
