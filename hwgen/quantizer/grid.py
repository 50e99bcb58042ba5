"""The steps of weights that are whole multiples of one, as those of a quantized file are, whatever was folded into them."""

from __future__ import annotations

import numpy as np

from ..graph import Array

ON_GRID = 1e-3           # of a step: how far a weight of float32 may lie from a whole number of steps
SAME = 1e-5              # relative, of scales


class Steps:
    """The steps of a file's weights. ``missed``: weights that are no whole multiples of one here, ``node: part`` -> share of channels."""

    def __init__(self, scales: Array):
        self.scales = np.sort(np.asarray(scales, np.float64))
        self.missed: dict[str, float] = {}

    def of(self, weight: Array, top: int) -> Array:
        """float64 [N]: the step of each column of a weight [K, N] whose numbers are whole multiples of it, up to ``top``; NaN for others.

        A factor of a column (LayerScale, BatchNorm, 1/8 on q) is in its step. Where the numbers of a column have a common divisor, it is
        the file's step all the same.
        """
        largest = np.abs(weight).max(0, initial=0.0)
        shares = np.abs(weight) / np.where(largest > 0, largest, 1.0)
        highest = np.zeros(weight.shape[1], np.int64)                # the whole number that the largest of a column is
        for number in range(1, top + 1):
            open_ = np.flatnonzero((highest == 0) & (largest > 0))
            if not open_.size:
                break
            for rows in (shares[:16], shares):                       # most fail in the first rows
                times = rows[:, open_] * number
                open_ = open_[(np.abs(times - np.rint(times)) < ON_GRID).all(0)]
            highest[open_] = number
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(highest > 0, largest / highest, np.nan)
        return np.array([step if np.isnan(step) else self._said(step, top // int(count)) for step, count in zip(steps, highest, strict=True)])

    def _said(self, step: float, most: int) -> float:
        """The file's step of which ``step`` is a whole multiple, up to ``most``; ``step`` itself when the file has none."""
        for divisor in range(1, most + 1):
            place = int(np.searchsorted(self.scales, step / divisor * (1 - SAME)))
            if place < len(self.scales) and self.scales[place] <= step / divisor * (1 + SAME):
                return float(self.scales[place])
        return step

    def note(self, name: str, steps: Array, taken: Array) -> None:
        """``taken``: the steps that weights got in the end."""
        share = float((~np.isclose(steps, taken, rtol=SAME, atol=0)).mean())
        if share:
            self.missed[name] = share
