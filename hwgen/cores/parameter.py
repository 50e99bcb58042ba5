"""The parameters of a core: what each may be, and how a value that cannot be is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import difflib
import math
import re

from ..errors import InputError

Value = int | float | bool | str
ON, OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
WHOLE = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class Parameter:
    """One parameter. choices: all values there are; else numbers from ``low`` to ``high``. The type of the default is that of every value."""

    name: str
    default: Value
    meaning: str
    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0

    @property
    def range(self) -> str:
        """What is possible, for people."""
        if isinstance(self.default, bool):
            return "on, off"
        return ", ".join(map(shown, self.choices)) or f"{shown(self.low)} .. {shown(self.high)}"

    def read(self, text: str | Value) -> Value:
        """The value of a text, or a value as it is. Raises InputError for what is not possible."""
        try:
            value = self._typed(text)
        except ValueError as error:
            raise self._refused(text) from error
        if self.choices and value not in self.choices:
            raise self._refused(text, nearest(str(value), list(map(str, self.choices))))
        if not (self.choices or isinstance(value, (bool, str)) or self.low <= value <= self.high):
            raise self._refused(text)
        return value

    def _typed(self, text: str | Value) -> Value:
        if isinstance(self.default, bool):
            word = str(text).lower()
            if word not in ON + OFF:
                raise ValueError(word)
            return word in ON
        if isinstance(self.default, str):
            return str(text)
        if isinstance(self.default, int):
            if isinstance(text, bool) or not WHOLE.fullmatch(str(text)):
                raise ValueError(text)
            return int(text)
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number

    def _refused(self, text: object, near: str | None = None) -> InputError:
        meant = f", did you mean {near}?" if near else ""
        return InputError(f"{self.name} = {str(text)[:60]} is not possible{meant}", where=f"parameter {self.name}",
                          hint=f"{self.meaning}: {self.range}")


def shown(value: Value) -> str:
    """As it is written behind ``--set``."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The name that was perhaps meant."""
    found = difflib.get_close_matches(word.lower(), known, 1, 0.5)
    return found[0] if found else None


def settings(texts: Sequence[str]) -> dict[str, str]:
    """``["lanes=8", "length=64"]`` -> a mapping. Raises InputError for what is none."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"{text[:60]!r} is no setting", where="option --set", hint="write it as NAME=VALUE, as --set lanes=8")
        if name in found:
            raise InputError(f"{name} is set twice", where="option --set", hint="give each parameter once")
        found[name] = value
    return found


def values(parameters: Sequence[Parameter], given: Mapping[str, str | Value], core: str) -> dict[str, Value]:
    """All parameters of a core: those that are given, the others as they are by default. Raises InputError."""
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            near = nearest(name, list(known))
            raise InputError(f"{core} has no parameter {name[:60]!r}{f', did you mean {near}?' if near else ''}", where="option --set",
                             hint=f"its parameters are {', '.join(known)}; hwgen core lists what they mean")
    return {name: parameter.read(given.get(name, parameter.default)) for name, parameter in known.items()}
