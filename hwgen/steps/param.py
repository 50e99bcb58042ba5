"""Parameters: arrays with a name. Equal content is one `Param`, found by its digest, so that sharing can be printed and stored."""

from __future__ import annotations

from dataclasses import dataclass
import hashlib

import numpy as np

from .. import numerics
from ..foreign import REPR, visible
from .format import Format


@dataclass(frozen=True, slots=True, eq=False)
class Param:
    """A constant of the network. Equal are params of equal name: `Params` gives no name to two contents."""

    name: str
    array: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Param) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<Param {visible(self.name, limit=REPR // 2)} {self.array.dtype} {list(self.array.shape)}>"


class Params:
    """Hands out one `Param` per content, named after the first value it was made for."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, tuple[int, ...], bytes], Param] = {}
        self._names: set[str] = set()

    def add(self, name: str, array: np.ndarray) -> Param:
        """The param of this content; a new one is called ``name``, with an apostrophe for each other content of that name."""
        data = np.ascontiguousarray(array)
        key = str(data.dtype), data.shape, hashlib.sha256(data.tobytes()).digest()
        if key not in self._found:
            while name in self._names:
                name += "'"
            self._names.add(name)
            self._found[key] = Param(name, data)
        return self._found[key]


@dataclass(frozen=True, slots=True)
class Factor:
    """A requantizer: ``x * mult / 2**shift``, rounded half up. The only rounding rule (see `numerics.requantize`)."""

    mult: int
    shift: int

    @classmethod
    def of(cls, ratio: float) -> Factor:
        """The one nearest to a positive real ratio. Raises ValueError when there is none."""
        return cls(*numerics.quantize_multiplier(ratio))

    def apply(self, x: np.ndarray, to: Format) -> np.ndarray:
        return numerics.requantize(x, self.mult, self.shift, to.bits)

    def wrong(self, what: str) -> str | None:
        """What keeps hardware from doing it, or None."""
        return out_of_range(what, self.mult, self.shift, self.mult, self.shift)

    def __str__(self) -> str:
        return f"*{self.mult}>>{self.shift}"


@dataclass(frozen=True, slots=True)
class Columns:
    """A `Factor` per output channel: mult, shift int64 [N]."""

    mult: Param
    shift: Param

    def apply(self, x: np.ndarray, to: Format) -> np.ndarray:
        return numerics.requantize(x, self.mult.array, self.shift.array, to.bits)

    def wrong(self, what: str) -> str | None:
        """What keeps hardware from doing it, or None."""
        mult, shift = self.mult.array, self.shift.array
        if mult.ndim != 1 or mult.shape != shift.shape or mult.dtype.kind != "i" or shift.dtype.kind != "i":
            return f"{what}: multipliers {mult.dtype} {mult.shape} and shifts {shift.dtype} {shift.shape} are no pairs of integers"
        return out_of_range(what, int(mult.min()), int(shift.min()), int(mult.max()), int(shift.max()))

    def __str__(self) -> str:
        return f"*{self.mult.name}"


@dataclass(frozen=True, slots=True)
class ShortColumns:
    """A `Factor` per output channel behind a table: mult int64 [N], each a `numerics.short_multiplier`; one shift, odd."""

    mult: Param
    shift: int

    def apply(self, x: np.ndarray, to: Format) -> np.ndarray:
        return numerics.requantize(x, self.mult.array, self.shift, to.bits)

    def wrong(self, what: str) -> str | None:
        """What keeps hardware from doing it, or None."""
        mult = self.mult.array
        if mult.ndim != 1 or mult.dtype.kind != "i":
            return f"{what}: multipliers {mult.dtype} {mult.shape} are no row of integers"
        if (codes := numerics.short_code(mult)).min() < 0:
            return f"{what}: multiplier {mult[np.argmin(codes)]} of column {np.argmin(codes)} is no short one"
        if self.shift % 2 == 0:
            return f"{what}: the shift behind multipliers of columns is odd, not {self.shift}"
        return out_of_range(what, int(mult.min()), self.shift, int(mult.max()), self.shift)

    def __str__(self) -> str:
        return f"*{self.mult.name}>>{self.shift}"


UNIT = Factor(1 << numerics.MULT_BITS - 1, numerics.MULT_BITS - 1)          # times one


def out_of_range(what: str, low: int, least: int, high: int, most: int) -> str | None:
    """What is wrong with multipliers ``low`` .. ``high`` and shifts ``least`` .. ``most``, or None."""
    if not 0 < low <= high < 1 << numerics.MULT_BITS:
        return f"{what}: multiplier {low if low <= 0 else high} is not in 1..{(1 << numerics.MULT_BITS) - 1}"
    if not 1 <= least <= most <= numerics.MAX_SHIFT:
        return f"{what}: shift {least if least < 1 else most} is not in 1..{numerics.MAX_SHIFT}"
    return None
