"""Lifetimes and places: tensors whose lives do not overlap may share words."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

Life = tuple[int, int]
"""Indices of the first and of the last step that uses a tensor."""


def lifetimes(uses: Iterable[Iterable[T]]) -> dict[T, Life]:
    """Of everything the steps use, in order of birth."""
    lives: dict[T, Life] = {}
    for index, used in enumerate(uses):
        for item in used:
            first, _ = lives.get(item, (index, index))
            lives[item] = first, index
    return lives


def first_fit(lives: dict[T, Life], size: Callable[[T], int]) -> tuple[dict[T, int], int]:
    """({item: first word}, words needed): in order of birth, each into the first gap that is large enough while it lives."""
    bases: dict[T, int] = {}
    words = 0
    for item, (first, last) in sorted(lives.items(), key=lambda entry: entry[1][0]):
        taken = sorted((base, base + size(other)) for other, base in bases.items() if lives[other][0] <= last and first <= lives[other][1])
        base = 0
        for start, stop in taken:
            if base + size(item) <= start:
                break
            base = max(base, stop)
        bases[item] = base
        words = max(words, base + size(item))
    return bases, words
