"""What a quantized file says about its numbers: the grid a value is rounded to, and what is taken of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..graph import Array


@dataclass(frozen=True)
class Grid:
    """A value is rounded to ``scale * (q - zero)`` with whole numbers lo <= q <= hi. value: its ONNX name; node: the ONNX node that says so."""

    scale: float
    zero: int
    lo: int
    hi: int
    value: str
    node: str

    @property
    def bits(self) -> int:
        return (self.hi - self.lo).bit_length()

    @property
    def reach(self) -> int:
        """The largest magnitude of ``q - zero``."""
        return max(self.zero - self.lo, self.hi - self.zero)

    def exact(self, bits: int) -> bool:
        """Whether signed symmetric integers of ``bits`` bits are its numbers, but for the one at the far end of its range."""
        return self.bits == bits and self.reach <= 1 << bits - 1

    def step(self, bits: int) -> float:
        """Unit of the signed symmetric integers of ``bits`` bits that hold its range: its scale where that is exact."""
        return self.scale if self.exact(bits) else self.scale * self.reach / ((1 << bits - 1) - 1)

    def times(self, factor: float) -> Grid:
        """Of ``factor`` times the value."""
        if factor > 0:
            return replace(self, scale=self.scale * factor)
        return replace(self, scale=-self.scale * factor, zero=-self.zero, lo=-self.hi, hi=-self.lo)

    def like(self, other: Grid) -> bool:
        """Whether both are the same numbers, up to the rounding of float32."""
        return bool(np.isclose(self.scale, other.scale, rtol=1e-5, atol=0)) and (self.zero, self.lo, self.hi) == (other.zero, other.lo, other.hi)


@dataclass(frozen=True, eq=False)
class Kept:
    """What a file says of its own quantization. grids: value of the float graph -> what its readers read it rounded to, one for each reader
    that is told so; rounded: every ONNX value the file rounds; weights: scales of its weights, float64, rising; weight_bits: their widths.

    dynamic: ONNX nodes that find a scale for every image. notes: what was changed on the way, for people.
    """

    grids: Mapping[str, tuple[Grid, ...]] = field(default_factory=dict)
    rounded: tuple[Grid, ...] = ()
    weights: Array = field(default_factory=lambda: np.zeros(0))
    weight_bits: frozenset[int] = frozenset()
    dynamic: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
