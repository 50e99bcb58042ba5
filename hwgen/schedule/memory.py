"""Memory map: a base word for every buffer; buffers whose lives do not overlap may share words."""

from __future__ import annotations

from dataclasses import dataclass

from .order import Slot
from .steps import ACT, KV, RES, SCORE, Buffer


@dataclass(frozen=True)
class MemoryMap:
    """``bases``: first word of a buffer; ``words``: words used of each memory; ``lives``: (first, last) instruction."""

    bases: dict[Buffer, int]
    words: dict[str, int]
    lives: dict[Buffer, tuple[int, int]]


def chunks(buffer: Buffer, ti: int) -> int:
    """Words of one token."""
    return -(-buffer.channels // ti)


def size(buffer: Buffer, ti: int) -> int:
    return chunks(buffer, ti) * buffer.tokens


def allocate(slots: list[Slot], ti: int) -> MemoryMap:
    """First fit in order of birth. A buffer lives from the instruction that writes it first to the last one that uses it."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for index, slot in enumerate(slots):
        for place in (slot.step.source, slot.step.target, slot.step.stationary):
            if place is not None:
                first, _ = lives.get(place.buffer, (index, index))
                lives[place.buffer] = first, index
    bases: dict[Buffer, int] = {}
    words = {ACT: 0, KV: 0, SCORE: 0, RES: 0}
    for buffer, (first, last) in sorted(lives.items(), key=lambda item: (item[1][0], item[0].name)):
        need = size(buffer, ti)
        taken = sorted((bases[b], bases[b] + size(b, ti)) for b, (f, l) in lives.items()
                       if b in bases and b.memory == buffer.memory and f <= last and first <= l)
        base = 0
        for start, stop in taken:
            if base + need <= start:
                break
            base = max(base, stop)
        bases[buffer] = base
        words[buffer.memory] = max(words[buffer.memory], base + need)
    return MemoryMap(bases, words, lives)
