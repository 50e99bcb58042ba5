"""Integers of a quantized file -> the real numbers they stand for: per tensor, per channel, in blocks, packed in bits."""

from __future__ import annotations

from collections.abc import Callable
import re

import numpy as np

PACKED_BITS = (2, 4, 8)


class Wrong(ValueError):
    """A scale, a zero point or an axis that cannot be; the text says what."""


def bounds(dtype: np.dtype) -> tuple[int, int]:
    """Least and largest number of an integer type, those of less than a byte included; raises Wrong for another type."""
    found = re.fullmatch(r"(u?)int(\d+)", dtype.name)
    if found is None:
        raise Wrong(f"quantizes to {dtype.name}; integers are read")
    bits = int(found[2])
    return (0, (1 << bits) - 1) if found[1] else (-(1 << bits - 1), (1 << bits - 1) - 1)


def checked_scale(scale: np.ndarray) -> np.ndarray:
    """Raises Wrong unless every scale is a positive number."""
    numbers = np.asarray(scale, np.float64)
    if not numbers.size:
        raise Wrong("has an empty scale")
    bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
    if bad.size:
        raise Wrong(f"has the scale {bad.flat[0]:g}: a scale is a positive number")
    return scale


def spread(parameter: np.ndarray, shape: tuple[int, ...], axis: int, block: int = 0) -> np.ndarray:
    """A scale or zero point in a form that broadcasts to ``shape``: one number, one along ``axis``, or one for each block of it."""
    if parameter.size == 1:
        return parameter.reshape(())
    if not -len(shape) <= axis < len(shape):
        raise Wrong(f"has the axis {axis}, which a value {list(shape)} does not have")
    axis %= len(shape)
    if block:
        count = -(-shape[axis] // block)
        if parameter.shape != (*shape[:axis], count, *shape[axis + 1:]):
            raise Wrong(f"has scales {list(parameter.shape)} for blocks of {block} along axis {axis} of {list(shape)}")
        return np.repeat(parameter, block, axis).take(np.arange(shape[axis]), axis)
    if parameter.ndim > 1:
        if np.broadcast_shapes(parameter.shape, shape) != shape:
            raise Wrong(f"has scales {list(parameter.shape)} for a value {list(shape)}")
        return parameter
    if parameter.size != shape[axis]:
        raise Wrong(f"has {parameter.size} scales along axis {axis} of {list(shape)}, which has {shape[axis]} entries")
    return parameter.reshape(-1, *[1] * (len(shape) - 1 - axis))


def real(integers: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, block: int = 0) -> np.ndarray:
    """``(integers - zero) * scale``, in the type of the scale. Raises Wrong."""
    scale = checked_scale(scale)
    offset = 0 if zero is None else spread(zero.astype(np.int64), integers.shape, axis, block)
    numbers = (integers.astype(np.int64) - offset).astype(np.float32) * spread(scale, integers.shape, axis, block).astype(np.float32)
    return np.asarray(numbers.astype(scale.dtype))


def unpacked(packed: np.ndarray, bits: int, rows: int, count: int) -> np.ndarray:
    """int64 [rows, count] of bytes that hold ``8 / bits`` numbers each, the first in the low bits."""
    numbers = packed.reshape(rows, -1)[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
    return np.asarray(numbers.reshape(rows, -1)[:, :count].astype(np.int64))


def of_blocks(packed: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, groups: np.ndarray | None, k: int, n: int, bits: int,
              block: int) -> np.ndarray:
    """Weight [k, n] in the type of the scales, of a MatMulNBits: for each of n columns blocks of ``block`` numbers along k.

    zeros: packed like the weights, or in the type of the scales; None for half the range. groups: block of each row, None for their order.
    Raises Wrong.
    """
    if bits not in PACKED_BITS or block < 16 or block & block - 1 or min(k, n) < 1:
        raise Wrong(f"has {bits} bits in blocks of {block} for a weight [{k}, {n}]")
    count = -(-k // block)
    if packed.dtype != np.uint8 or packed.size != n * count * (block * bits // 8):
        raise Wrong(f"has {packed.size} bytes of weights, which a weight [{k}, {n}] of {bits} bits in blocks of {block} does not take")
    if scales.size != n * count:
        raise Wrong(f"has {scales.size} scales for {n} columns of {count} blocks")
    integers = unpacked(packed, bits, n * count, block).reshape(n, count * block)[:, :k]
    if zeros is None:
        offsets = np.full((n, count), 1 << bits - 1, np.float32)
    elif zeros.dtype == np.uint8:
        if zeros.size != n * -(-count * bits // 8):
            raise Wrong(f"has {zeros.size} bytes of zero points for {n} columns of {count} blocks")
        offsets = unpacked(zeros, bits, n, count).astype(np.float32)
    else:
        offsets = zeros.reshape(n, count).astype(np.float32)
    of_row = np.arange(k) // block if groups is None else groups.ravel()
    if of_row.size != k or of_row.min() < 0 or of_row.max() >= count:
        raise Wrong(f"names blocks of rows that do not fit {count} blocks of {k} rows")
    if not np.isfinite(scales).all():
        raise Wrong("has scales that are no numbers")
    sizes = scales.reshape(n, count)                                # of either sign: the block's largest number is the least of its range
    return np.asarray(((integers.astype(np.float32) - offsets[:, of_row]) * sizes.astype(np.float32)[:, of_row]).T.astype(scales.dtype))


def rounded(array: np.ndarray, scale: np.ndarray, zero: np.ndarray, lo: int, hi: int, rounding: str) -> np.ndarray:
    """What a QONNX ``Quant`` makes of a constant. Raises Wrong."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ROUND": np.rint, "HALF_EVEN": np.rint, "FLOOR": np.floor, "CEIL": np.ceil, "ROUND_TO_ZERO": np.trunc, "DOWN": np.trunc,
             "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)), "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
             "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5)}
    found = ways.get(rounding.upper())
    if found is None:
        raise Wrong(f"rounds by {rounding!r}, which is not known")
    if np.broadcast_shapes(scale.shape, zero.shape, array.shape) != array.shape:
        raise Wrong(f"has scales {list(scale.shape)} for a value {list(array.shape)}")
    sizes = checked_scale(scale).astype(np.float32)
    q = np.clip(found(array.astype(np.float32) / sizes + zero.astype(np.float32)), lo, hi)
    return np.asarray(((q - zero.astype(np.float32)) * sizes).astype(np.float32))
