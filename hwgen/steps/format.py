"""Number formats: how wide a word is, whether it has a sign, where its binary point lies. The only place that knows a width."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from .. import numerics


@dataclass(frozen=True, slots=True)
class Format:
    """Integers of ``bits`` bits; signed ones are symmetric, ``lo = -hi``. frac: fraction bits of a fixed binary point, or None when the
    unit is a scale that calibration chose."""

    bits: int
    signed: bool = True
    frac: int | None = None

    @property
    def hi(self) -> int:
        return (1 << self.bits - self.signed) - 1

    @property
    def lo(self) -> int:
        return -self.hi if self.signed else 0

    @property
    def dtype(self) -> np.dtype:
        """The smallest numpy type that holds it."""
        size = max(8, 1 << (self.bits - 1).bit_length())
        return np.dtype(f"{'int' if self.signed else 'uint'}{size}")

    @property
    def stored(self) -> str:
        """Of a word in a file or a memory, little endian, as numpy writes it."""
        return self.dtype.newbyteorder("<").str

    def holds(self, values: np.ndarray) -> bool:
        return bool(values.size == 0 or (values.min() >= self.lo and values.max() <= self.hi))

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}" + ("" if self.frac is None else f".{self.frac}")


INT8 = Format(numerics.ACT_BITS)                                        # activations, and weights of full width
INT4 = Format(4)                                        # narrow weights, two in a byte of the weight image
WIDE = Format(numerics.WIDE_BITS)                                       # the residual stream, and what is added to it
PRE_ACTIVATION = Format(numerics.WIDE_BITS, frac=numerics.PRE_ACT_FRAC)
SCORE = Format(numerics.WIDE_BITS, frac=numerics.SCORE_FRAC)            # attention score, log2 domain
LOGIT = Format(numerics.WIDE_BITS, frac=numerics.LOGIT_FRAC)            # router logit, log2 domain
PROBABILITY = Format(numerics.ACT_BITS, signed=False)                   # attention weight, un-normalised
SHARE = Format(numerics.SHARE_BITS, signed=False, frac=numerics.SHARE_BITS)               # router score
ACCUMULATOR = Format(numerics.ACC_BITS)
WEIGHTS = {fmt.bits: fmt for fmt in (INT4, INT8)}
FORMATS = {str(fmt): fmt for fmt in (INT8, INT4, WIDE, PRE_ACTIVATION, SCORE, LOGIT, PROBABILITY, SHARE, ACCUMULATOR)}
"""Every format of the integer network, by its text."""

OPERANDS = (INT8, WIDE)                                 # what streams through the array: WIDE in two passes of 8 bits
PRE_ACT_UNIT = 2.0 ** -numerics.PRE_ACT_FRAC            # real value of one unit of a pre-activation
TABLE_UNIT = 2.0 ** -numerics.ACT_FRAC                # of what a table gives
SCORE_UNIT = math.log(2) * 2.0 ** -numerics.SCORE_FRAC  # of a score, natural logarithm
LOGIT_UNIT = math.log(2) * 2.0 ** -numerics.LOGIT_FRAC  # of a router logit, natural logarithm
