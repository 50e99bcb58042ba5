"""The number contract: every rounding, saturation, table and tie-break of the project, defined once, on integers.

numpy here, `rtl/` and `hls/` are compared to these functions bit for bit. All functions are vectorised, take and return
int64 arrays (or ints) and never use floating point; floats appear only where a table or a multiplier is built.

Formats
    weights, activations   int8 in [-127, 127]          residual stream   int16 in [-32767, 32767]
    accumulator            int32                        multiplier        unsigned 16 bits, shift 1..47
    pre-activation         int16, 7, 8, 10 or 12 fraction bits
    score                  int16, 4, 6, 8 or 10 fraction bits, in the log2 domain
    router logit           int16, unit 2**-8 in the log2 domain
    attention probability  unsigned 8 bits, un-normalised (255 = the row maximum)
    router score           unsigned 16 bits, unit 2**-16
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import math

import numpy as np

Ints = np.ndarray                       # int64
AnyInts = np.ndarray | np.integer | int

ACC_BITS = 32
MULT_BITS = 16
MAX_SHIFT = 47
ACT_BITS = 8             # of an activation
WIDE_BITS = 16           # of the residual stream, pre-activations, scores and logits, and of wide operands
LOW_OFFSET = 128         # what the low half of a wide operand is less
RATING_FRAC = 15           # of a score a router takes as it is: up to 1
SHARE_BITS = 16          # of a router score, all of them fraction bits
PRE_ACT_FRAC = 8         # fraction bits of a pre-activation, unless a layer has others: up to ±128
PRE_ACT_FRACS = (PRE_ACT_FRAC, 10, 12, 7)               # by the code in an instruction: up to ±128, ±32, ±8, ±256
FINE_FRAC = 12           # fraction bits between knots
END_FRAC = 8             # fraction bits beyond them
ACT_FRAC = 16            # fraction bits of an activation's result, of its values at the knots and of the slopes beyond them
KNOT_FRAC = 5            # knots are 2**-5 apart
KNOTS = 1024             # knots of a function, half of them for negative arguments: up to ±16
KNOT_BITS = 21           # of a signed value at a knot: up to ±16
SLOPE_BITS = 15          # of a signed difference to the next knot: slopes up to ±8
END_BITS = 18            # of a signed slope beyond the knots, unit 2**-ACT_FRAC: up to ±2
RESULT_BITS = 25         # of an activation's result, signed: up to ±256
SHORT_BITS = 6           # behind the leading one of a short multiplier, (64 + m) * 2**(9 - r): what a column's record has room for
SHORT_RANGE = 10         # of r: 0..9
SCORE_FRAC = 6           # fraction bits of attention scores, log2 domain, unless a layer has others: up to ±355 nats
SCORE_FRACS = (SCORE_FRAC, 8, 10, 4)                    # by the code in an instruction: up to ±355, ±89, ±22, ±1419 nats
EXP_FRAC = 6             # fraction bits of the exponential's argument
LOGIT_FRAC = 8           # fraction bits of router logits, log2 domain: up to ±88.7 nats
MEAN_FRAC = 4            # fraction bits of the LayerNorm mean
ONE = 1 << 15            # 1.0 of the router's exponentials


def sat(x: AnyInts, bits: int) -> Ints:
    """Saturate to the symmetric range ±(2**(bits-1) - 1)."""
    limit = (1 << (bits - 1)) - 1
    return np.asarray(np.minimum(np.maximum(x, -limit), limit))


def round_shift(x: AnyInts, shift: AnyInts) -> Ints:
    """``(x + half) >> shift``: round half towards +infinity; shift 0 is allowed."""
    return np.asarray((x + ((1 << np.asarray(shift, np.int64)) >> 1)) >> shift)


def requantize(acc: AnyInts, mult: AnyInts, shift: AnyInts, bits: int) -> Ints:
    """acc * mult / 2**shift, rounded half up, saturated to ``bits``. The only rounding rule of the project.

    `sat` of `round_shift`, in the memory of the product.
    """
    product, limit = np.asarray(np.asarray(acc, np.int64) * mult), (1 << (bits - 1)) - 1
    half = (1 << np.asarray(shift, np.int64)) >> 1
    if half.shape and np.broadcast_shapes(product.shape, half.shape) != product.shape:
        return sat(round_shift(product, shift), bits)
    np.add(product, half, out=product)
    np.right_shift(product, shift, out=product)
    np.maximum(product, -limit, out=product)
    return np.minimum(product, limit, out=product)


def quantize_multiplier(ratio: float) -> tuple[int, int]:
    """The (mult, shift) nearest to a positive real ratio, mult in [2**15, 2**16), shift in 1..47.

    Raises ValueError when the ratio cannot be represented (it is 0, not finite, or outside 2**-48 .. 2**15).
    A ratio below 2**-32 loses mantissa bits rather than being refused.
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"ratio {ratio!r} is not a positive number")
    mantissa, exponent = math.frexp(ratio)              # ratio = mantissa * 2**exponent, mantissa in [0.5, 1)
    shift = MULT_BITS - exponent
    mult = round(mantissa * (1 << MULT_BITS))
    if mult == 1 << MULT_BITS:
        mult, shift = mult >> 1, shift - 1
    if shift > MAX_SHIFT:
        mult, shift = round(math.ldexp(ratio, MAX_SHIFT)), MAX_SHIFT
    if shift < 1 or mult == 0:
        raise ValueError(f"ratio {ratio!r} is outside the range of a 16-bit multiplier and a shift of 1..{MAX_SHIFT}")
    return mult, shift


def short_multiplier(code: AnyInts) -> Ints:
    """The 16-bit multiplier of a code r * 64 + m, 0..639: (64 + m) * 2**(9 - r)."""
    code, one = np.asarray(code, np.int64), 1 << SHORT_BITS
    return np.asarray((one + (code & one - 1)) << SHORT_RANGE - 1 - (code >> SHORT_BITS))


def short_code(mult: AnyInts) -> Ints:
    """The code of a multiplier; -1 where it is none of `short_multiplier`."""
    mult, codes = np.asarray(mult, np.int64), np.arange(SHORT_RANGE << SHORT_BITS)
    order = np.argsort(short_multiplier(codes))
    known = short_multiplier(codes)[order]
    place = np.minimum(np.searchsorted(known, mult), len(known) - 1)
    return np.where(known[place] == mult, codes[order][place], -1)


def short_multipliers(ratios: np.ndarray) -> tuple[Ints, int]:
    """Positive real ratios [...] -> (short multipliers [...], their odd shift), each pair the largest that is not above its ratio.

    The shift is as large as the largest ratio allows; with ratios more than 2**9 apart it is larger, and the largest are not reached.
    Raises ValueError when a ratio cannot be represented.
    """
    ratios = np.asarray(ratios, np.float64)
    low, high = float(ratios.min()), float(ratios.max())
    if not (math.isfinite(high) and low > 0):
        raise ValueError(f"ratio {high if low > 0 else low!r} is not a positive number")
    shift = min(max(math.floor(MULT_BITS - math.log2(high)), math.ceil(SHORT_BITS - math.log2(low))), MAX_SHIFT)
    if shift % 2 == 0:
        shift += -1 if math.ldexp(low, shift - 1) >= 1 << SHORT_BITS else 1
    if shift < 1 or math.ldexp(low, shift) < 1 << SHORT_BITS:
        raise ValueError(f"ratios {low!r} to {high!r} are outside the range of a column's multiplier and a shift of 1..{MAX_SHIFT}")
    known = np.sort(short_multiplier(np.arange(SHORT_RANGE << SHORT_BITS)))
    return known[np.searchsorted(known, np.ldexp(ratios, shift), side="right") - 1], shift


# ---------------------------------------------------------------- tables (read by numpy, RTL and C++ alike)

def _exponential(one: int, frac: int) -> Ints:
    """one * 2**-f for every fraction f of ``frac`` bits."""
    return np.round(one * 2.0 ** (-np.arange(1 << frac) / (1 << frac))).astype(np.int64)


EXP_P8 = _exponential(255 * 256, EXP_FRAC)                                          # 255.0 * 2**-f, unit 2**-8
EXP_Q15 = _exponential(ONE, LOGIT_FRAC)                                             # 2**-f, unit 2**-15
RECIP = np.round(2.0 ** 31 / ((256.5 + np.arange(256)) * 128)).astype(np.int64)     # 2**31 / m
RSQRT = np.round(2.0 ** 23 / np.sqrt((np.maximum(np.arange(256), 64) + 0.5) * 256)).astype(np.int64)  # 2**23 / sqrt(m)


# ---------------------------------------------------------------- non-linear functions

@dataclass(frozen=True, eq=False)
class Knots:
    """A function of a pre-activation: straight lines between knots 2**-5 apart, and one on each side beyond them.

    value, slope: [KNOTS], F(i) at i / 32 and F(i + 1) - F(i), i = -512 .. 511, unit 2**-16. ends: (slope, offset) of the line below -16
    and of that from 16 on, ``slope * x + offset``, both in unit 2**-16 too. Raises ValueError for what the hardware's widths do not hold.
    """

    value: Ints
    slope: Ints
    ends: tuple[tuple[int, int], tuple[int, int]]

    def __post_init__(self) -> None:
        coarsest = min(PRE_ACT_FRACS)
        edges = np.array([-32767, (-16 << coarsest) - 1, 16 << coarsest, 32767])
        for what, numbers, bits in (("a value at a knot", self.value, KNOT_BITS), ("a slope between knots", self.slope, SLOPE_BITS),
                                    ("a slope beyond the knots", [slope for slope, _ in self.ends], END_BITS),
                                    ("an offset beyond the knots", [offset for _, offset in self.ends], KNOT_BITS),
                                    ("a result", activation(edges, self, coarsest), RESULT_BITS)):
            if not (-1 << bits - 1 <= np.min(numbers) and np.max(numbers) < 1 << bits - 1):
                raise ValueError(f"{what} does not fit {bits} bits")

    @cached_property
    def lines(self) -> tuple[Ints, Ints]:
        """(slopes, offsets) [KNOTS + 2] in unit 2**-28 of every line as a function of x in unit 2**-12, the ends first and last, half a unit
        included."""
        x = np.arange(-(KNOTS // 2), KNOTS // 2) << FINE_FRAC - KNOT_FRAC
        (left, below), (right, above) = self.ends
        slopes = np.concatenate([[left], self.slope << KNOT_FRAC, [right]])
        starts = np.concatenate([[below << FINE_FRAC], (self.value << FINE_FRAC) - (self.slope << KNOT_FRAC) * x, [above << FINE_FRAC]])
        return slopes, starts + ((1 << FINE_FRAC - 1) - 1)


def activation(x: AnyInts, knots: Knots, frac: int = PRE_ACT_FRAC) -> Ints:
    """The function of these knots, rounded half down. x int16 (unit 2**-frac) -> unit 2**-16, 25 bits signed.

    Between knots every bit of x counts; beyond them x is taken in unit 2**-8, rounded down.
    """
    x = np.asarray(x, np.int64) << FINE_FRAC - frac
    slopes, offsets = knots.lines
    line = np.clip((x >> FINE_FRAC - KNOT_FRAC) + KNOTS // 2 + 1, 0, KNOTS + 1)
    x = np.where((line == 0) | (line > KNOTS), x >> FINE_FRAC - END_FRAC << FINE_FRAC - END_FRAC, x)
    return np.asarray((slopes[line] * x + offsets[line]) >> FINE_FRAC)


def exp2_p8(distance: AnyInts, frac: int = SCORE_FRAC) -> Ints:
    """255 * 2**(-distance / 2**frac) as an unsigned 8-bit integer; distance = row maximum - score, >= 0, is rounded half up to the table's unit."""
    distance = np.asarray(distance, np.int64)
    distance = round_shift(distance, frac - EXP_FRAC) if frac > EXP_FRAC else distance << EXP_FRAC - frac
    whole, part = distance >> EXP_FRAC, distance & ((1 << EXP_FRAC) - 1)
    return np.where(whole >= 9, 0, round_shift(EXP_P8[part], np.minimum(whole, 9) + 8))


def exp2_q15(distance: AnyInts) -> Ints:
    """2**(-distance / 256), unit 2**-15; distance = difference of two router logits, >= 0."""
    distance = np.asarray(distance, np.int64)
    whole, frac = distance >> LOGIT_FRAC, distance & ((1 << LOGIT_FRAC) - 1)
    return np.where(whole >= 16, 0, round_shift(EXP_Q15[frac], np.minimum(whole, 16)))


def bit_length(x: AnyInts) -> Ints:
    """Number of bits of a positive integer below 2**62 (exact, vectorised)."""
    x = np.asarray(x, np.int64)
    length = np.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        big = (x >> step) > 0
        length += np.where(big, step, 0)
        x = np.where(big, x >> step, x)
    return length + (x > 0)


def _mantissa(x: Ints, exponent: Ints) -> Ints:
    return np.asarray(np.where(exponent >= 0, x >> np.maximum(exponent, 0), x << np.maximum(-exponent, 0)))


def reciprocal(s: AnyInts) -> tuple[Ints, Ints]:
    """s >= 1 -> (r, e) with 1/s = r * 2**-(31 + e), r in [2**15, 2**16): table of 256 and one Newton step.

    The mantissa is the leading 16 bits of s (truncated). Relative error below 2**-14.
    """
    s = np.asarray(s, np.int64)
    exponent = bit_length(s) - 16
    m = _mantissa(s, exponent)
    r0 = RECIP[(m >> 7) & 255]
    t = (m * r0) >> 15
    return np.minimum((r0 * ((1 << 17) - t)) >> 16, 65535), exponent


def rsqrt(v: AnyInts) -> tuple[Ints, Ints]:
    """v >= 1 -> (y, e) with 1/sqrt(v) = y * 2**-(23 + e), y in [2**15, 2**16): table and one Newton step."""
    v = np.asarray(v, np.int64)
    exponent = bit_length(v) - 16
    exponent = exponent + (exponent & 1)
    m = _mantissa(v, exponent)
    y0 = RSQRT[m >> 8]
    t = (m * ((y0 * y0) >> 16)) >> 14
    return np.minimum((y0 * ((3 << 16) - t)) >> 17, 65535), exponent >> 1


def scale_factor(r: Ints, exponent: Ints, frac: int, mult: int, shift: int) -> tuple[Ints, Ints]:
    """(r * 2**-(frac + exponent)) * (mult / 2**shift) as one (multiplier, shift) pair for `requantize`.

    The multiplier keeps 16 bits (truncated); the shift is held in 1..47.
    """
    return (r * mult) >> 16, np.clip(frac + exponent + shift - 16, 1, MAX_SHIFT)


# ---------------------------------------------------------------- composite steps

def norm_coefficients(total: AnyInts, squares: AnyInts, dim: int, eps: int, inv_mult: int, inv_shift: int, mult: int,
                      shift: int) -> tuple[Ints, Ints, Ints]:
    """LayerNorm statistics of a token -> (mean [unit 2**-4], multiplier, shift).

    total, squares: exact sums of x and x*x over ``dim`` channels. eps: integer added to D**2 * variance, >= 1.
    inv_mult / 2**inv_shift = 16 / D;  mult / 2**shift = D / (16 * output scale).
    """
    total, squares = np.asarray(total, np.int64), np.asarray(squares, np.int64)
    mean = round_shift(total * inv_mult, inv_shift)
    y, exponent = rsqrt(dim * squares - total * total + eps)
    return mean, *scale_factor(y, exponent, 23, mult, shift)


def normalize(x: AnyInts, mean: AnyInts, multiplier: AnyInts, shift: AnyInts) -> Ints:
    """(x - mean) * rstd as int8; x int16, mean in unit 2**-4."""
    return requantize((np.asarray(x, np.int64) << MEAN_FRAC) - mean, multiplier, shift, ACT_BITS)


def normalize_wide(x: AnyInts, mean: AnyInts, multiplier: AnyInts, shift: AnyInts) -> Ints:
    """The same in 16 bits, -32768..32767: what feeds give, which is never stored, takes two's complement whole. multiplier, shift: of the high
    half, shift at least 9."""
    product = ((np.asarray(x, np.int64) << MEAN_FRAC) - mean) * multiplier
    return np.asarray(np.clip(round_shift(product, shift - ACT_BITS), -1 << WIDE_BITS - 1, (1 << WIDE_BITS - 1) - 1))


def planes(x: AnyInts) -> tuple[Ints, Ints]:
    """A word of 16 bits as two of 8, high and low: ``x = 256 * high + low + 128``."""
    x = np.asarray(x)
    return x >> ACT_BITS, (x & (1 << ACT_BITS) - 1) - LOW_OFFSET


def softmax_factor(row_sum: AnyInts, mult: int, shift: int) -> tuple[Ints, Ints]:
    """Row sum of `exp2_p8` values -> (multiplier, shift) that turns an un-normalised P @ V into the output scale."""
    r, exponent = reciprocal(row_sum)
    return scale_factor(r, exponent, 31, mult, shift)


def online_softmax(logits: AnyInts) -> tuple[Ints, Ints]:
    """One pass over the last axis: running maximum b and sum s (unit 2**-15).

    ``x > b``: s = s * 2**(b - x) + 1, b = x; else s += 2**(x - b). Returns (b, s).
    """
    logits = np.asarray(logits, np.int64)
    b = logits[..., 0].copy()
    s = np.full_like(b, ONE)
    for i in range(1, logits.shape[-1]):
        x = logits[..., i]
        e = exp2_q15(np.abs(x - b))
        s = np.where(x > b, round_shift(s * e, 15) + ONE, s + e)
        b = np.maximum(b, x)
    return b, s


def route(logits: AnyInts, top_k: int, renormalize: bool) -> tuple[Ints, Ints]:
    """Router: logits [..., E] -> (experts [..., k], scores [..., k] unit 2**-16, at most 65535).

    Softmax over all experts by `online_softmax`, the k largest logits in descending order; the lowest index wins a tie.
    With ``renormalize`` the scores are divided by the sum of the k chosen ones instead of the sum over all.
    """
    logits = np.asarray(logits, np.int64)
    experts = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    b, s = online_softmax(logits)
    e = exp2_q15(b[..., None] - np.take_along_axis(logits, experts, -1))
    if renormalize:
        s = e.sum(-1)
    r, exponent = reciprocal(s)
    return experts, np.minimum(round_shift(e * r[..., None], (15 + exponent)[..., None]), 65535)


def route_scores(scores: AnyInts, bias: AnyInts, top_k: int, renormalize: bool) -> tuple[Ints, Ints]:
    """Router: scores [..., E], 0 to 32767 in unit 2**-15 -> (experts [..., k], scores [..., k] unit 2**-16, at most 65535).

    The k experts with the largest score plus ``bias`` [E] in descending order; the lowest index wins a tie. With ``renormalize`` their scores
    are divided by their sum.
    """
    scores = np.asarray(scores, np.int64)
    experts = np.argsort(-(scores + bias), axis=-1, kind="stable")[..., :top_k]
    e = np.take_along_axis(scores, experts, -1)
    if not renormalize:
        return experts, 2 * e
    total = np.maximum(e.sum(-1), 1)
    lift = np.maximum(16 - bit_length(total), 0)
    r, exponent = reciprocal(total << lift)
    return experts, np.minimum(round_shift((e << lift[..., None]) * r[..., None], (15 + exponent)[..., None]), 65535)


def weigh(y: AnyInts, score: AnyInts) -> Ints:
    """An expert's output (int16) times its router score."""
    return round_shift(np.asarray(y, np.int64) * score, SHARE_BITS)


def exact(length: int, largest: int) -> type[np.floating]:
    """The floats that hold every partial sum of ``length`` products up to ``largest``: float32 below 2**24, float64 below 2**53."""
    return np.float32 if length * largest < 1 << 24 else np.float64


def matmul(x: np.ndarray, w: np.ndarray, largest: int = 1 << 32) -> Ints:
    """Exact integer product through BLAS. largest: magnitude of a product of two words."""
    kind = exact(np.shape(x)[-1], largest)
    return np.asarray((np.asarray(x, kind) @ np.asarray(w, kind)).astype(np.int64))


def best(scores: np.ndarray, count: int, ranked: bool) -> np.ndarray:
    """Places of the ``count`` largest of scores [..., N], the lower place first among equals: [..., count], the largest first (``ranked``) or
    in rising order."""
    found = np.argsort(-np.asarray(scores, np.int64), axis=-1, kind="stable")[..., :count]
    return found if ranked else np.sort(found, axis=-1)
