"""Stage: a function of one variable, from a table of knots with linear interpolation, and the requantizer behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...knots import knots
from ..format import INT8, OPERANDS, PRE_ACTIVATION, PRE_ACTIVATIONS, RATING, TABLE, Format
from ..param import Factor, ShortColumns
from .base import Interval, Run, Stage, need

if TYPE_CHECKING:
    from ..step import Step


@cache
def _results(function: str, x: Format) -> np.ndarray:
    """`numerics.activation` of every pre-activation of this format, from the lowest on."""
    return numerics.activation(np.arange(x.lo, x.hi + 1), knots(function), x.frac or 0)


@dataclass(frozen=True, slots=True)
class Table(Stage):
    """An activation by the table of its knots. function: a name `knots` knows. factor: from the table's unit to that of the result, or to that
    of each channel; None: as `TABLE`, for `Multiply`. x: of the pre-activations, one of `PRE_ACTIVATIONS`."""

    function: str
    factor: Factor | ShortColumns | None
    to: Format = INT8
    x: Format = PRE_ACTIVATION

    name: ClassVar[str] = "table"
    hls: ClassVar[str] = "linear_activated"

    @property
    def table(self) -> str:
        return self.function

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        return {"second": numerics.short_code(self.factor.mult.array)} if isinstance(self.factor, ShortColumns) else {}

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        run.inner["pre"] = x
        results = _results(self.function, self.x)[x - self.x.lo]
        return results if self.factor is None else self.factor.apply(results, self.to)

    def format(self, before: Format, step: Step) -> Format:
        need(before, self.x, "a table")
        return self.to

    def interval(self, x: Interval, step: Step) -> Interval:
        return self.to.lo, self.to.hi

    def fields(self, step: Step) -> dict[str, int]:
        own = {"act": 1, "pre_frac": PRE_ACTIVATIONS.index(self.x)}
        if self.factor is None:
            return own
        return own | {"shift2": self.factor.shift} | ({"mult2": self.factor.mult} if isinstance(self.factor, Factor) else {"act_columns": 1})

    def wrong(self, step: Step) -> str | None:
        if self.to not in ((*OPERANDS, RATING) if self.factor is not None else (TABLE,)):
            return f"the result of a table is {', '.join(map(str, (*OPERANDS, RATING)))}, or {TABLE} for a product of two values, not {self.to}"
        if self.x not in PRE_ACTIVATIONS:
            return f"a table takes {', '.join(map(str, PRE_ACTIVATIONS))}, not {self.x}"
        if isinstance(self.factor, ShortColumns) and (step.weights is None or self.factor.mult.array.shape != (step.columns,)):
            return f"a table has {self.factor.mult.array.shape} factors for {step.columns} columns of weights"
        try:
            knots(self.function)
        except ValueError as error:
            return str(error)
        return None if self.factor is None else self.factor.wrong("activation")

    @property
    def brief(self) -> str:
        return f"{self.name}({self.function}) {self.to}"

    def __str__(self) -> str:
        return f"table({self.function}, {self.factor}, {self.to})" if self.factor is not None else f"table({self.function})"
