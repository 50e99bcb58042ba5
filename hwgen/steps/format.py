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
    def unit(self) -> float:
        """Of a fixed binary point."""
        return 2.0 ** -(self.frac or 0)

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
PRE_ACTIVATIONS = tuple(Format(numerics.WIDE_BITS, frac=frac) for frac in numerics.PRE_ACT_FRACS)      # by the code in an instruction
PRE_ACTIVATION = PRE_ACTIVATIONS[0]
SCORES = tuple(Format(numerics.WIDE_BITS, frac=frac) for frac in numerics.SCORE_FRACS)  # of attention, log2 domain; by the code
SCORE = SCORES[0]
TABLE = Format(numerics.RESULT_BITS, frac=numerics.ACT_FRAC)                # what a table gives
LOGIT = Format(numerics.WIDE_BITS, frac=numerics.LOGIT_FRAC)            # router logit, log2 domain
PROBABILITY = Format(numerics.ACT_BITS, signed=False)                   # attention weight, un-normalised
RATING = Format(numerics.WIDE_BITS, frac=numerics.RATING_FRAC)             # a score that a router takes as it is
SHARE = Format(numerics.SHARE_BITS, signed=False, frac=numerics.SHARE_BITS)               # router score
ACCUMULATOR = Format(numerics.ACC_BITS)
WEIGHTS = {fmt.bits: fmt for fmt in (INT4, INT8)}
FORMATS = {str(fmt): fmt for fmt in (INT8, INT4, WIDE, *PRE_ACTIVATIONS, *SCORES, TABLE, LOGIT, RATING, PROBABILITY, SHARE, ACCUMULATOR)}
"""Every format of the integer network, by its text."""

OPERANDS = (INT8, WIDE)                                 # what streams through the array: WIDE in two passes of 8 bits
TABLE_UNIT = TABLE.unit                               # real value of one unit of what a table gives
OCTAVE = math.log(2)                                    # of 1 in the log2 domain of scores and router logits, in nats
