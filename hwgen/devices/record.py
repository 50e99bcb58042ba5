"""A YAML file into a frozen record, by the record's types; every mistake is named with file, key, value and what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
import difflib
from pathlib import Path
import reprlib
import types
import typing
from typing import Any, NewType, TypeVar

from .. import strict_yaml
from ..errors import TargetError

Record = TypeVar("Record")
Count = NewType("Count", int)            # 1 or more, where an int is 0 or more
Amount = NewType("Amount", float)        # 0 or more, where a float is more than 0

LARGEST = 1_000_000_000_000              # of any number
_SCALARS: dict[Any, str] = {int: "a whole number, 0 or more", Count: "a whole number, 1 or more", float: "a number above 0",
                            Amount: "a number, 0 or more", str: "text", bool: "true or false"}
_MANY: dict[Any, str] = {int: "whole numbers", Count: "whole numbers, 1 or more", float: "numbers above 0", Amount: "numbers, 0 or more",
                         str: "texts"}

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxstring, _BRIEF.maxlong = 2, 8, 6, 80, 80


def shown(value: object) -> str:
    """Any value for a message: short, also where YAML's aliases make a few lines into a tree without end."""
    return _BRIEF.repr(value)


@dataclass(frozen=True)
class Special:
    """A type that is not read by its fields. expected: for messages; make: (key, value) -> the value, or None when it is none."""

    expected: str
    make: Callable[[str, object], object | None]


@dataclass(frozen=True)
class Reader:
    """Reads one file. what: "board file"; pattern: what to do when the file is no record at all."""

    path: Path
    what: str
    pattern: str
    special: Mapping[type, Special]

    def read(self, kind: type[Record]) -> Record:
        """The record in the file. Raises TargetError."""
        return self._record(kind, self._content(), "")

    def wrong(self, problem: str, hint: str) -> TargetError:
        """The error for a mistake in this file."""
        return TargetError(f"{self.what} {self.path.name!r}: {problem}", where=str(self.path), hint=hint)

    def _content(self) -> dict[object, object]:
        def wrong(problem: str) -> TargetError:
            return TargetError(f"{self.what} {self.path.name!r} {problem}", where=str(self.path), hint=self.pattern)
        return strict_yaml.read(self.path, wrong)

    def _record(self, kind: type[Record], data: Mapping[Any, object], prefix: str) -> Record:
        """prefix: of the keys in messages, ``"ports."``."""
        hints = typing.get_type_hints(kind)
        known = _names(kind)
        self.check_known(data, known, prefix)
        values = {}
        for name in known:
            if name not in data:
                raise self.wrong(f"key {prefix + name!r} is missing", f"expected {self._expected(hints[name])}")
            values[name] = self._convert(prefix + name, data[name], hints[name])
        return kind(**values)

    def check_known(self, data: Mapping[Any, object], known: list[str], prefix: str) -> None:
        """Raises TargetError for a key that is not in ``known``."""
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise self.wrong(f"key {shown(prefix + key if isinstance(key, str) else key)} is unknown",
                                 f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")

    def _convert(self, key: str, value: object, kind: Any) -> object:
        """``value`` as the type ``kind`` of the field ``key``."""
        kind = _optional(kind) or kind if value is not None else kind
        if is_dataclass(kind) and kind not in self.special and isinstance(value, dict):
            return self._record(typing.cast(type, kind), value, f"{key}.")
        if typing.get_origin(kind) is dict and isinstance(value, dict) and all(isinstance(name, str) for name in value):
            inner = typing.get_args(kind)[1]
            if inner not in _SCALARS:
                return {name: self._convert(f"{key}.{name}", item, inner) for name, item in value.items()}
        made = self.special[kind].make(key, value) if kind in self.special else _made(value, kind)
        if made is None and not (value is None and _optional(kind)):
            raise self.wrong(f"key {key!r} is {shown(value)}", f"expected {self._expected(kind)}")
        return made

    def _expected(self, kind: Any) -> str:
        if inner := _optional(kind):
            return f"{self._expected(inner)}, or null"
        if kind in self.special:
            return self.special[kind].expected
        if kind in _SCALARS:
            return _SCALARS[kind]
        if is_dataclass(kind):
            *names, last = _names(kind)
            return f"a map of {', '.join(names)} and {last}"
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is dict:
            return f"a map of {_several(arguments[1])}"
        if len(arguments) == 2 and arguments[1] is ...:
            return f"a list of {_several(arguments[0])}" + (", not empty" if arguments[0] is not str else "")
        return f"a pair of {_several(arguments[0])}"


def _names(kind: Any) -> list[str]:
    return [f.name for f in fields(kind)]


def _optional(kind: Any) -> Any:
    """``X`` of ``X | None``, else None."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(argument for argument in typing.get_args(kind) if argument is not type(None))
    return None


def _several(kind: Any) -> str:
    if kind in _MANY:
        return _MANY[kind]
    arguments = typing.get_args(kind)
    return f"maps of {_several(arguments[1])}" if typing.get_origin(kind) is dict else f"pairs of {_several(arguments[0])}"


def _made(value: object, kind: Any) -> object | None:
    """A value of scalars, lists and maps of them as the type ``kind``; None when it is none."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) and value <= LARGEST else None
    if kind in (int, Count):
        return number if type(number) is int and number >= (kind is Count) else None
    if kind in (float, Amount):
        return float(number) if number is not None and (number > 0 or number == 0 and kind is Amount) else None
    if kind in (str, bool):
        return value if type(value) is kind else None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and isinstance(value, dict):
        items = {name: _made(item, arguments[1]) for name, item in value.items()}
        return items if all(isinstance(name, str) and item is not None for name, item in items.items()) else None
    if origin is tuple and isinstance(value, list):
        many = arguments[1] is ...
        made = tuple(_made(item, arguments[0]) for item in value)
        return made if None not in made and (made or arguments[0] is str if many else len(made) == len(arguments)) else None
    return None
