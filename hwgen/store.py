"""A `qir.QModel` as the bytes of one file: an .npz without pickle, equal bytes for equal models.

The archive is stored, not compressed, with fixed time stamps. Member ``model.npy`` holds JSON (UTF-8, as uint8): the nodes
as ``{"type": class name, field: value, ...}``. An array is ``{"array": i}``, member ``a<i>.npy``; `qir.Weights` are
``{"weights": i}``, an index into a table. Both are written once per object, so what two tasks share is one object after `decode`.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
import io
import json
import math
import re
import types
import typing
import zipfile

import numpy as np

from . import qir, strict_json
from .functions import Act

FORMAT = "hwgen.qmodel"
FORMAT_VERSION = 1
RECORDS = {cls.__name__: cls for cls in (
    qir.QModel, qir.QGraph, qir.QPatches, qir.QResidualInit, qir.QNorm, qir.QLinear, qir.QResidualLinear, qir.QAttention,
    qir.QMoE, qir.QHead, qir.QActivation, qir.Weights)}
HINTS = {cls: typing.get_type_hints(cls) for cls in RECORDS.values()}
TIME_STAMP = (1980, 1, 1, 0, 0, 0)      # the least a zip file can hold
HEADER = "model.npy"
INT_LIMIT = 1 << 62                     # beyond any integer of a network
# what `encode` writes before an array's bytes; numpy's own reader would allocate whatever the shape says
ARRAY = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '([<|][iufb][1248])', 'fortran_order': False, "
                   rb"'shape': \((|\d{1,12},|\d{1,12}(?:, \d{1,12}){1,7})\), \} *\n", re.DOTALL)


# ---------------------------------------------------------------- bytes

def encode(model: qir.QModel) -> bytes:
    """The file's content; equal models (same values, same sharing) give equal bytes."""
    writer = _Writer()
    root = writer.value(model)
    header = {"format": FORMAT, "version": FORMAT_VERSION, "arrays": len(writer.arrays), "weights": writer.weights, "model": root}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    members = {HEADER: np.frombuffer(text.encode(), np.uint8)}
    members |= {_member(i): array for i, array in enumerate(writer.arrays)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in members.items():
            info = zipfile.ZipInfo(name, TIME_STAMP)
            info.create_system, info.external_attr = 3, 0o644 << 16         # the same on every platform
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
            archive.writestr(info, content.getvalue())
    return buffer.getvalue()


class Unreadable(Exception):
    """Why bytes are not a model; the text continues "model file 'x' ..."."""


def decode(content: bytes) -> qir.QModel:
    """The model in ``content``. Raises Unreadable when there is none.

    Values have the types their records declare; whether they are a network that can run, `quantizer.verify` says. Memory: a few times
    that of ``content``, whatever it holds.
    """
    # the reader of a damaged archive raises whatever the damaged field led it to; every one means the same to the user
    damage = (zipfile.BadZipFile, EOFError, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, OSError, OverflowError)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = set(archive.namelist())
            if sum(info.file_size for info in archive.infolist()) > len(content):
                raise Unreadable("is damaged: its members overlap or are compressed")
            if HEADER not in names:
                raise Unreadable("is not an hwgen model")
            header = strict_json.parse(_array(archive, HEADER).tobytes())
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise Unreadable("is not an hwgen model")
            if header.get("version") != FORMAT_VERSION:
                raise Unreadable(f"has format version {str(header.get('version'))[:20]}, this hwgen reads {FORMAT_VERSION}")
            if header["arrays"] != len(names) - 1 or type(header["arrays"]) is not int:
                raise Unreadable(f"is damaged: it should hold {str(header['arrays'])[:20]} arrays and holds {len(names) - 1}")
            members = [_member(i) for i in range(header["arrays"])]
            if names != {HEADER, *members}:
                raise Unreadable("is damaged: its arrays have other names")
            reader = _Reader([_array(archive, name) for name in members])
        reader.weights = [reader.value(item, qir.Weights) for item in header["weights"]]
        return reader.value(header["model"], qir.QModel)
    except damage as error:                                 # RuntimeError: RecursionError is one
        raise Unreadable(f"is damaged or not an hwgen model: {str(error)[:200]}") from error


def _member(index: int) -> str:
    return f"a{index}.npy"


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array as `encode` writes it: stored, not compressed, its header as long as its bytes say. Raises ValueError for any other."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{name} is compressed or encrypted")
    data = archive.read(info)                               # checks the CRC
    start = ARRAY.match(data)
    if start is None:
        raise ValueError(f"{name} is no array of numbers")
    dtype, shape = np.dtype(start[1].decode()), tuple(int(size) for size in start[2].split(b",") if size)
    if start.end() + dtype.itemsize * math.prod(shape) != len(data):
        raise ValueError(f"{name} has {len(data) - start.end()} bytes, its shape needs {dtype.itemsize * math.prod(shape)}")
    return np.frombuffer(data, dtype, offset=start.end()).reshape(shape).copy()


# ---------------------------------------------------------------- records <-> JSON

class _Writer:
    """Turns records into JSON values, collecting arrays and Weights once per object."""

    def __init__(self):
        self.arrays: list[np.ndarray] = []
        self.weights: list[dict] = []
        self._seen: dict[int, int] = {}         # id -> index; the model keeps the objects alive

    def value(self, x):
        match x:
            case np.ndarray():
                if id(x) not in self._seen:
                    self._seen[id(x)] = len(self.arrays)
                    self.arrays.append(x)
                return {"array": self._seen[id(x)]}
            case qir.Weights():
                if id(x) not in self._seen:
                    record = self._record(x)
                    self._seen[id(x)] = len(self.weights)
                    self.weights.append(record)
                return {"weights": self._seen[id(x)]}
            case Enum():
                return x.value
            case dict():
                return {key: self.value(item) for key, item in x.items()}
            case tuple():
                return [self.value(item) for item in x]
            case None | bool() | str():
                return x
            case int() | np.integer():
                return int(x)
            case float() | np.floating():
                return float(x)
        return self._record(x)

    def _record(self, x):
        if type(x) not in HINTS:
            raise TypeError(f"a model file cannot hold {type(x).__name__}")
        return {"type": type(x).__name__} | {f.name: self.value(getattr(x, f.name)) for f in fields(x)}


class _Reader:
    """Turns JSON values into records, each value checked against its field's annotation."""

    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays
        self.weights: list[qir.Weights] = []

    def value(self, x, hint):
        """``x`` as an instance of ``hint``; raises Unreadable when it is none."""
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is types.UnionType:                                       # X | None
            return None if x is None else self.value(x, args[0])
        if origin is tuple and isinstance(x, list):
            hints = [args[0]] * len(x) if args[-1] is Ellipsis else args
            if len(hints) == len(x):
                return tuple(self.value(item, h) for item, h in zip(x, hints))
        elif origin is dict and isinstance(x, dict):
            return {key: self.value(item, args[1]) for key, item in x.items()}
        elif hint is Act:
            return Act(x)
        elif hint is float and isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x):
            return float(x)
        elif hint is int and type(x) is int and abs(x) < INT_LIMIT or hint in (str, bool) and type(x) is hint:
            return x
        elif hint is np.ndarray and isinstance(x, dict) and x.keys() == {"array"}:
            return self._entry(self.arrays, x["array"])
        elif hint is qir.Weights and isinstance(x, dict) and x.keys() == {"weights"}:
            return self._entry(self.weights, x["weights"])
        elif is_dataclass(hint) and isinstance(x, dict) and issubclass(RECORDS.get(x.get("type"), object), hint):
            cls = RECORDS[x["type"]]
            if x.keys() - {"type"} == HINTS[cls].keys():
                return cls(**{key: self.value(x[key], h) for key, h in HINTS[cls].items()})
        raise Unreadable(f"is damaged: {ascii(str(x))[:62]} is not {getattr(hint, '__name__', hint)}")

    @staticmethod
    def _entry(table, index):
        if type(index) is not int or not 0 <= index < len(table):
            raise Unreadable(f"is damaged: entry {str(index)[:20]} of a table of {len(table)}")
        return table[index]
