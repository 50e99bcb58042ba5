"""Products that change nothing."""

from __future__ import annotations

import numpy as np

from ..format import ACCUMULATOR, INT8
from ..param import UNIT, Columns, Param
from ..stages import Diagonal, Stationary


def unity(channels: int) -> Stationary:
    """The unit matrix."""
    name = f"identity{channels}"
    return Stationary(Param(f"{name}.weight", np.eye(channels, dtype=INT8.dtype)), Param(f"{name}.bias", np.zeros(channels, ACCUMULATOR.dtype)),
                      Param(f"{name}.scale", np.ones(channels)))


def each(channels: int) -> Diagonal:
    """Each channel as it is."""
    name = f"each{channels}"
    return Diagonal(Param(f"{name}.sign", np.ones(channels, INT8.dtype)), Param(f"{name}.bias", np.zeros(channels, ACCUMULATOR.dtype)))


def one(channels: int) -> Columns:
    """The factor one for each column."""
    mult, shift = (np.full(channels, value, np.int64) for value in (UNIT.mult, UNIT.shift))
    return Columns(Param(f"identity{channels}.mult", mult), Param(f"identity{channels}.shift", shift))
