"""Gated experts (SwiGLU and its kin): which part of what the first layers give goes through the activation, and which multiplies it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..graph import Array
from .mixture import Expert


@dataclass(frozen=True, eq=False)
class Gating:
    """third: the activation is of the third layer, not of the first. up: bool [2 H], columns of the first layer, where it is both."""

    third: bool = False
    up: Array | None = None

    def drawn(self, expert: Expert, draw: Callable[[Array], Array], factor: float) -> dict[str, Callable[[Array], Array]]:
        """How the results of the first layers are replaced: what goes through the activation is drawn, what multiplies it is ``factor``."""
        if self.up is not None:
            up = self.up
            return {expert.before: lambda array: np.where(up, np.float32(factor), draw(array)).astype(np.float32)}
        gate, beside = self.names(expert)
        return {gate: draw, **({beside: lambda array: np.full(array.shape, factor, np.float32)} if beside else {})}

    def names(self, expert: Expert) -> tuple[str, str]:
        """Values of the file: what goes through the activation, and what multiplies it."""
        return (expert.beside, expert.before) if self.third else (expert.before, expert.beside)

    def looked_up(self, expert: Expert, values: dict[str, Array]) -> Array:
        """Of the values, what goes through the activation."""
        found = values[self.names(expert)[0]]
        return found if self.up is None else found[..., ~self.up]


def halves(columns: int) -> Iterator[Gating]:
    """Each way to read the columns of one layer as two."""
    places = np.arange(columns)
    for up in (places >= columns // 2, places < columns // 2, places % 2 == 1, places % 2 == 0):
        yield Gating(up=up)
