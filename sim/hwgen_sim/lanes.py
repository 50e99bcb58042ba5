"""Lists of lane values <-> the one wide number of a port; lane 0 in the low bits."""

from collections.abc import Iterable


def pack(values: Iterable[int], bits: int) -> int:
    """Values (signed or not) of ``bits`` each -> one number."""
    word, mask = 0, (1 << bits) - 1
    for n, value in enumerate(values):
        word |= (int(value) & mask) << bits * n
    return word


def unpack(word: int, bits: int, count: int, signed: bool = True) -> list[int]:
    """One number -> ``count`` values of ``bits`` each."""
    mask, half = (1 << bits) - 1, 1 << (bits - 1) if signed else 0
    return [(((word >> bits * n) & mask) ^ half) - half for n in range(count)]
