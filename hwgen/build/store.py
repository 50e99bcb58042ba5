"""A `steps.Quantized` as the bytes of one file: an .npz without pickle, equal bytes for equal models.

The archive is stored, not compressed, with fixed time stamps. Member ``model.npy`` holds JSON (UTF-8, as uint8): records as ``{"type": class
name, field: value, ...}``, formats as their text. Params stand once in the file and tensors once in a network; everything else refers to
them by name. The array of the i-th of ``params`` is member ``a<i>.npy``.
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
from typing import Any
import zipfile

import numpy as np

from .. import strict_json
from ..steps.format import FORMATS, Format
from ..steps.param import Columns, Factor, Param, ShortColumns
from ..steps.stages import FEEDS, STAGES, TILES
from ..steps.step import Expert, Network, Output, Quantized, Step
from ..steps.taken import Kept, Taken
from ..steps.tensor import HeadMap, Span, Tensor, View
from ..steps.window import Window

FORMAT = "hwgen.qmodel"
FORMAT_VERSION = 5
RECORDS: dict[str, Any] = {cls.__name__: cls for cls in (
    Quantized, Network, Step, Output, Expert, Taken, Kept, Tensor, View, Span, HeadMap, Window, Factor, Columns, ShortColumns,
    *FEEDS, *TILES, *STAGES)}
HINTS: dict[type, dict[str, Any]] = {cls: {f.name: typing.get_type_hints(cls)[f.name] for f in fields(cls)} for cls in RECORDS.values()}
TIME_STAMP = (1980, 1, 1, 0, 0, 0)      # the least a zip file can hold
HEADER = "model.npy"
INT_LIMIT = 1 << 62                     # beyond any integer of a network
# what `encode` writes before an array's bytes; numpy's own reader would allocate whatever the shape says
ARRAY = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '([<|][iufb][1248])', 'fortran_order': False, "
                   rb"'shape': \((|\d{1,12},|\d{1,12}(?:, \d{1,12}){1,7})\), \} *\n", re.DOTALL)


# ---------------------------------------------------------------- bytes

def encode(model: Quantized) -> bytes:
    """The file's content; equal models give equal bytes. Raises ValueError when one name means two params, or two tensors of a network."""
    writer = _Writer()
    root = writer.value(model)
    header = {"format": FORMAT, "version": FORMAT_VERSION, "params": list(writer.params), "model": root}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    members = {HEADER: np.frombuffer(text.encode(), np.uint8)}
    members |= {_member(i): param.array for i, param in enumerate(writer.params.values())}
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


def decode(content: bytes) -> Quantized:
    """The model in ``content``. Raises Unreadable when there is none.

    Values have the types their records declare; whether they are a network that can run, `steps.verify` says. Memory: a few times that of
    ``content``, whatever it holds.
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
            params = _names(header["params"])
            if len(params) != len(names) - 1:
                raise Unreadable(f"is damaged: it should hold {len(params)} arrays and holds {len(names) - 1}")
            members = [_member(i) for i in range(len(params))]
            if names != {HEADER, *members}:
                raise Unreadable("is damaged: its arrays have other names")
            reader = _Reader({name: Param(name, _array(archive, member)) for name, member in zip(params, members, strict=True)})
        model: Quantized = reader.value(header["model"], Quantized)
        return model
    except damage as error:                                 # RuntimeError: RecursionError is one
        raise Unreadable(f"is damaged or not an hwgen model: {str(error)[:200]}") from error


def _member(index: int) -> str:
    return f"a{index}.npy"


def _names(value: object) -> list[str]:
    """The table of params. Raises Unreadable for anything but different texts."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
        raise Unreadable("is damaged: its params are no list of different names")
    return value


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
    """Turns records into JSON values, collecting params; the tensors of a network stand before its steps."""

    def __init__(self) -> None:
        self.params: dict[str, Param] = {}
        self._tensors: dict[str, Any] = {}

    def value(self, x: Any) -> Any:
        match x:
            case Param():
                known = self.params.setdefault(x.name, x)
                if known is not x and (known.array.dtype != x.array.dtype or not np.array_equal(known.array, x.array)):
                    raise ValueError(f"two params are called {x.name!r}")
                return x.name
            case Tensor():
                record = self._record(x)
                if self._tensors.setdefault(x.name, record) != record:
                    raise ValueError(f"two tensors are called {x.name!r}")
                return x.name
            case Network():
                self._tensors = {}
                steps = self._record(x)
                return {"type": "Network", "tensors": list(self._tensors.values())} | steps
            case Format():
                if FORMATS.get(str(x)) != x:
                    raise ValueError(f"{x} is no format of the integer network")
                return str(x)
            case Enum():
                return x.value
            case tuple():
                return [self.value(item) for item in x]
            case None | bool() | str():
                return x
            case int() | np.integer():
                return int(x)
            case float() | np.floating():
                return float(x)
        return self._record(x)

    def _record(self, x: Any) -> dict[str, Any]:
        if type(x) not in HINTS:
            raise TypeError(f"a model file cannot hold {type(x).__name__}")
        return {"type": type(x).__name__} | {f.name: self.value(getattr(x, f.name)) for f in fields(x)}


class _Reader:
    """Turns JSON values into records, each value checked against its field's annotation."""

    def __init__(self, params: dict[str, Param]) -> None:
        self.params = params
        self.tensors: dict[str, Tensor] = {}

    def value(self, x: Any, hint: Any) -> Any:
        """``x`` as an instance of ``hint``; raises Unreadable when it is none."""
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):                       # X | None, or records that say their type
            return None if x is None and types.NoneType in args else self.value(x, tuple(arg for arg in args if arg is not types.NoneType))
        if isinstance(hint, tuple) and len(hint) == 1:
            (hint,) = hint
        if origin is tuple and isinstance(x, list):
            hints = [args[0]] * len(x) if args[-1] is Ellipsis else args
            if len(hints) == len(x):
                return tuple(self.value(item, h) for item, h in zip(x, hints, strict=True))
        elif hint is Param and isinstance(x, str) and x in self.params:
            return self.params[x]
        elif hint is Tensor and isinstance(x, str) and x in self.tensors:
            return self.tensors[x]
        elif hint is Format and isinstance(x, str) and x in FORMATS:
            return FORMATS[x]
        elif isinstance(hint, type) and issubclass(hint, Enum):
            return hint(x)
        elif hint is float and isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x):
            return float(x)
        elif hint is int and type(x) is int and abs(x) < INT_LIMIT or hint in (str, bool) and type(x) is hint:
            return x
        elif (isinstance(hint, tuple) or is_dataclass(hint) or hint in ABSTRACT) and isinstance(x, dict) and hint is not Tensor:
            return self._record(x, hint)
        raise self._wrong(x, hint)

    def _record(self, x: dict[str, Any], hint: Any) -> Any:
        cls = RECORDS.get(x.get("type", ""))
        if cls is None or not issubclass(cls, hint):
            raise self._wrong(x, hint)
        if cls is Network:
            self.tensors = self._tensors(x)
        if x.keys() - {"type"} != HINTS[cls].keys() | ({"tensors"} if cls is Network else set()):
            raise self._wrong(x, hint)
        return cls(**{key: self.value(x[key], h) for key, h in HINTS[cls].items()})

    def _tensors(self, network: dict[str, Any]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for item in network["tensors"]:
            if not isinstance(item, dict):
                raise self._wrong(item, Tensor)
            tensor: Tensor = self._record(item, Tensor)
            if tensor.name in found:
                raise Unreadable(f"is damaged: two tensors are called {ascii(tensor.name)[:62]}")
            found[tensor.name] = tensor
        return found

    @staticmethod
    def _wrong(x: Any, hint: Any) -> Unreadable:
        wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in (hint if isinstance(hint, tuple) else (hint,)))
        return Unreadable(f"is damaged: {ascii(str(x))[:62]} is not {wanted}")


ABSTRACT = {base for cls in (*FEEDS, *TILES, *STAGES) for base in cls.__mro__[1:-1]}
