"""Activation functions on the way to steps: the stages that look them up."""

from __future__ import annotations

from .. import numerics
from ..functions import titles
from ..graph import Array, Node
from ..knots import knots
from ..steps.format import TABLE, TABLE_UNIT, Format
from ..steps.param import Params, ShortColumns
from ..steps.stages import Table
from .weights import factor


def table(node: Node, function: str, x: Format) -> Table:
    """The stage of an activation function whose results go on as they are; x: format of the pre-activations. Raises ModelError when there is no
    table of the function."""
    try:
        knots(function)
    except ValueError as error:
        raise node.fail(f"its activation cannot be built: {error}", hint=f"use {titles('or')}") from error
    return Table(function, None, TABLE, x)


def tables(pool: Params, node: Node, function: str, units: Array, name: str, form: Format, x: Format) -> tuple[list[Table], Array]:
    """The stage of an activation function for each row of ``units``, float64 [rows, channels or 1], and the units of its results: with one
    a channel the least that columns have a multiplier for and that are not below. name: of the params; x: format of the pre-activations.

    Raises ModelError when there is no table of the function.
    """
    table(node, function, x)
    if units.shape[1] == 1:
        return [Table(function, factor(node, "activation", TABLE_UNIT / unit), form, x) for unit in units[:, 0]], units
    try:
        mult, shift = numerics.short_multipliers(TABLE_UNIT / units)
    except ValueError as error:
        raise node.fail(f"activation: {error}", hint="the scales of its channels are too far apart") from error
    return [Table(function, ShortColumns(pool.add(f"{name}.second", row), shift), form, x) for row in mult], TABLE_UNIT * 2.0 ** shift / mult
