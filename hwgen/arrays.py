"""What the command line reads into numpy: shapes, sizes, files of arrays, labels."""

from __future__ import annotations

from collections.abc import Callable
import lzma
import math
import os
from pathlib import Path
import struct
import tokenize
import zipfile
import zlib

import numpy as np

from .errors import HwgenError, InputError


def parse_shapes(items: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """``["x=1x3x224x224"]`` -> ``{"x": (1, 3, 224, 224)}``; raises InputError naming the item."""
    shapes = {}
    for item in items or ():
        name, _, dims = item.rpartition("=")
        parts = dims.split("x")
        if not name or not all(_size(part) for part in parts):
            raise InputError(f"{item!r} is not a shape", where="option --shape", hint="write it as --shape x=1x3x224x224")
        shapes[name] = tuple(map(int, parts))
    return shapes or None


def _size(text: str) -> bool:
    """A whole number from 1 on, of a length that can be one."""
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0


def parse_array(text: str | None) -> tuple[int, int] | None:
    """``"16x16"`` -> ``(16, 16)``; raises InputError."""
    if text is None:
        return None
    parts = text.split("x")
    if len(parts) != 2 or not all(part == "0" or _size(part) for part in parts):
        raise InputError(f"{text!r} is not an array size", where="option --array", hint="write it as --array 32x32")
    return int(parts[0]), int(parts[1])


def parse_lengths(text: str | None) -> tuple[int, ...]:
    """``"5,12"`` -> ``(5, 12)``; raises InputError."""
    parts = text.split(",") if text is not None else []
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"{text!r} is no list of lengths", where="option --lengths", hint="write it as --lengths 5,12")
    return tuple(map(int, parts))


# what zipfile and numpy raise for a file that is not there or not what they expect: encrypted members are a RuntimeError, compressions they
# do not know a NotImplementedError; a header is parsed as Python
UNREADABLE = (OSError, ValueError, TypeError, EOFError, RuntimeError, NotImplementedError, OverflowError, MemoryError, SyntaxError, LookupError,
              struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def read_npz(path: str | os.PathLike, what: str, error_class: type[HwgenError]) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file, which may hold anything; no pickle. Raises ``error_class`` for anything else.

    what: "the input", for messages. Memory: what the file holds, unpacked; not what the header of an array says.
    """
    hint = "write it with numpy.savez(file, x=images), x being the ONNX input name"
    try:
        with open(path, "rb") as file:              # opened here: numpy leaves its own file open after an error
            if not zipfile.is_zipfile(file):
                file.seek(0)
                kind = "one array, not an .npz of named arrays" if file.read(6) == np.lib.format.MAGIC_PREFIX else "something else or cut off"
                raise error_class(f"{what} cannot be read as .npz: it is {kind}", where=str(path), hint=hint)
            with zipfile.ZipFile(file) as archive:
                return {info.filename.removesuffix(".npy"): _array(archive, info) for info in archive.infolist()}
    except UNREADABLE as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise error_class(f"{what} cannot be read as .npz: {reason}", where=str(path), hint=hint) from error


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One member; its header is held against its size before anything is allocated. Raises what `UNREADABLE` has."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(member)
        needed = math.prod(shape) * kind.itemsize
        if not kind.hasobject and (min(shape, default=0) < 0 or needed > info.file_size):
            raise ValueError(f"array {info.filename!r} has the shape {shape}, which takes {needed:,} bytes; the file holds {info.file_size:,}")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def split_arrays(arrays: dict[str, np.ndarray], acc, where: Path, images: int | None, note: Callable[[str], None]):
    """(inputs, labels) of a file, the first ``images`` of each; labels are named like an ONNX output.

    ``note`` is told of arrays that are neither. Raises InputError."""
    inputs = {name: array for name, array in arrays.items() if name in acc.inputs}
    labels = {name: array for name, array in arrays.items() if name in acc.outputs}
    if not inputs:
        raise InputError(f"the file holds {', '.join(map(repr, arrays)) or 'nothing'}, the network takes "
                         f"{', '.join(map(repr, acc.inputs))}", where=str(where),
                         hint="name the arrays like the ONNX inputs, images along the first axis")
    if unknown := [name for name in arrays if name not in inputs and name not in labels]:
        note(f"note: ignoring {', '.join(map(repr, unknown))}: neither an input nor an output of the network")
    if images is None:
        return inputs, labels
    held = min(len(array) if array.ndim else 0 for array in inputs.values())
    if not 1 <= images <= held:
        raise InputError(f"{images} images are asked for, the file holds {held}", where="option --images",
                         hint=f"ask for 1 to {held}, or leave --images out")
    return ({n: a[:images] for n, a in inputs.items()}, {n: a[:images] for n, a in labels.items()})


def accuracy(outputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of images whose largest output (or whose output, where it is one whole number) is the label, for every output that has integer
    labels, one an image."""
    return {name: float((_chosen(outputs[name]) == label).mean()) for name, label in labels.items()
            if name in outputs and label.ndim == 1 and label.dtype.kind in "iu" and len(label) == len(outputs[name])}


def _chosen(output: np.ndarray) -> np.ndarray:
    """The class of each image."""
    rows = output.reshape(len(output), -1)
    return rows[:, 0] if output.dtype.kind in "iu" and rows.shape[1] == 1 else rows.argmax(1)
