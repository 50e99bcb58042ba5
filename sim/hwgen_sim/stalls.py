"""Stall patterns: endless generators of bool, True = pause this cycle. Seeded, so that a failure can be run again."""

from collections.abc import Callable, Iterator
from itertools import repeat
import random


def never() -> Iterator[bool]:
    """Full speed."""
    return repeat(False)


def randomly(probability: float, seed: int) -> Iterator[bool]:
    """Each cycle on its own."""
    rng = random.Random(seed)
    while True:
        yield rng.random() < probability


def bursts(longest: int, seed: int) -> Iterator[bool]:
    """Runs of 1..longest cycles, paused and not in turn."""
    rng = random.Random(seed)
    paused = False
    while True:
        yield from repeat(paused, rng.randint(1, longest))
        paused = not paused


def stalls(pattern: str | float, seed: int) -> Iterator[bool]:
    """The pattern of a name, or pauses of a probability."""
    return PATTERNS[pattern](seed) if isinstance(pattern, str) else randomly(pattern, seed)


PATTERNS: dict[str, Callable[[int], Iterator[bool]]] = {         # name -> seed -> pattern
    "never": lambda seed: never(),
    "seldom": lambda seed: randomly(0.1, seed),
    "often": lambda seed: randomly(0.7, seed),
    "bursts": lambda seed: bursts(12, seed),
}
