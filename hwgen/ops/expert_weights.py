"""Weights of the experts of a mixture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..functions import Act, activate
from ..graph import Array


def nothing() -> Array:
    """What stands for a weight that is not there."""
    return np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class Weights:
    """Of all experts. w3, b3: of gated experts, whose activation is multiplied by ``x @ w3 + b3``; empty for others."""

    w1: Array                # [experts, D, H]
    b1: Array
    w2: Array
    b2: Array
    w3: Array = field(default_factory=nothing)
    b3: Array = field(default_factory=nothing)

    @property
    def gated(self) -> bool:
        return self.w3.size > 0

    def results(self, x: Array, act: Act) -> Array:
        """Of every expert on every token, or on rows of its own: x [tokens, D] or [experts, tokens, D] -> [experts, tokens, D]."""
        hidden = activate(x @ self.w1 + self.b1[:, None], act)
        if self.gated:
            hidden = hidden * (x @ self.w3 + self.b3[:, None])
        found: Array = hidden @ self.w2 + self.b2[:, None]
        return found

    def times(self, factor: float) -> Weights:
        """Of experts whose results are so many times as large."""
        return self if factor == 1 else replace(self, w2=self.w2 * np.float32(factor), b2=self.b2 * np.float32(factor))

    def of(self, places: list[int]) -> Weights:
        third = (self.w3[places], self.b3[places]) if self.gated else ()
        return Weights(self.w1[places], self.b1[places], self.w2[places], self.b2[places], *third)

    def behind(self, scale: Array, offset: Array) -> Weights:
        """Of experts that read ``scale * x + offset``, float64 [D] both, where these read x."""
        if (scale == 1).all() and not offset.any():
            return self
        third = (self.w3 * scale[:, None], self.b3 + offset @ self.w3.astype(np.float64)) if self.gated else ()
        return Weights(self.w1 * scale[:, None], self.b1 + offset @ self.w1.astype(np.float64), self.w2, self.b2, *third)
