"""Tables of the element-wise functions: the float functions of `functions` as the knots of `numerics`, for numpy, RTL and C++ alike."""

from __future__ import annotations

from functools import cache

import numpy as np

from .functions import Act, Line
from .numerics import ACT_FRAC, KNOT_FRAC, KNOTS, Ints, Knots


@cache
def knots(name: str) -> Knots:
    """name: ``Act.value``. Raises ValueError when there is no such function, or when it does not fit a table."""
    function = Act.of(name).function
    x = np.arange(-(KNOTS // 2), KNOTS // 2 + 1) * 2.0 ** -KNOT_FRAC
    try:
        values = _fixed((function.exact or function.f)(x))
        return Knots(values[:-1], np.diff(values), (_line(function.left), _line(function.right)))
    except ValueError as error:
        raise ValueError(f"{name} has no table: {error}") from error


def _line(line: Line) -> tuple[int, int]:
    slope, offset = _fixed(np.array(line))
    return int(slope), int(offset)


def _fixed(values: np.ndarray) -> Ints:
    """In unit 2**-16. Raises ValueError for what no integer is, or a far too large one."""
    scaled = np.round(values * (1 << ACT_FRAC))
    if not (np.abs(scaled) < 1 << 31).all():
        raise ValueError("a value is out of range")
    return scaled.astype(np.int64)
