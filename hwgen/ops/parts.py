"""Parts of an attention: windows, and where a mask hides what is far from a query, blocks of queries with the keys they see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Array
from ..steps.stages.tile import seen as in_sight
from ..steps.tensor import Span
from .masks import LEAST

if TYPE_CHECKING:
    from ..steps.tensor import View

BLOCK = 64                  # queries of a block, or a multiple of it: a block costs as many cycles for each key as it has queries,
SETUP = 32                  # and so many more, in which its keys are loaded and the first rows are on their way
WORTH = 0.9                 # of the cost of all keys: what cutting has to save


@dataclass(frozen=True, eq=False)
class Part:
    """Some queries and the keys they look at. limit: see `Keys`. bias: float32 [heads or 1, queries, keys], None where nothing is added. name: of
    the part, empty where it is all of the attention; about: the same for people."""

    queries: Span
    keys: Span
    limit: int
    bias: Array | None
    name: str = ""
    about: str = ""


def some(view: View, tokens: Span) -> View:
    """Tokens of a view, counted from its first one."""
    return replace(view, tokens=replace(view.tokens, start=view.tokens.start + tokens.start * view.tokens.step, count=tokens.count))


def parts(queries: int, keys: int, windows: int, limit: int, bias: Array | None) -> list[Part]:
    """The parts of an attention of so many queries and keys, of all windows together; bias: of a window, or of each, [windows, ...]."""
    rows, columns = queries // windows, keys // windows
    found: list[Part] = []
    for window in range(windows):
        added = bias[window] if bias is not None and bias.ndim == 4 else bias
        name, about = (f"window{window}", f", window {window}") if windows > 1 else ("", "")
        for block in blocks(rows, columns, limit, added):
            where = (f"queries{block.queries.start}", f", queries {block.queries.start}..") if block.queries.count < rows else ("", "")
            found.append(replace(block, name=".".join(filter(None, (name, where[0]))), about=about + where[1],
                                 queries=replace(block.queries, start=window * rows + block.queries.start),
                                 keys=replace(block.keys, start=window * columns + block.keys.start)))
    return found


def blocks(queries: int, keys: int, limit: int, bias: Array | None) -> list[Part]:
    """Blocks of queries of a masked attention, each with the keys that one of its queries sees; all of it where no keys in front are left out
    that way, or too few. What is behind a causal limit alone, an engine leaves out itself."""
    whole = [Part(Span(0, queries), Span(0, keys), limit, bias)]
    if bias is None or queries < 2 * BLOCK:
        return whole
    seen = np.asarray((bias > LEAST).any(0) & in_sight(limit, queries, keys))
    first, stop = seen.argmax(1), keys - seen[:, ::-1].argmax(1)
    best, least = _best(first, stop)
    _, all_keys = _best(0 * first, stop if limit else 0 * stop + keys)
    if least > WORTH * all_keys:
        return whole
    return [_block(start, min(best, queries - start), first, stop, limit, bias) for start in range(0, queries, best)]


def _best(first: Array, stop: Array) -> tuple[int, int]:
    """(queries of a block, what all blocks cost) where that is least; queries see the keys from ``first`` to ``stop``."""
    def cost(size: int) -> int:
        starts = np.arange(0, len(first), size)
        sizes = np.minimum(size, len(first) - starts) + SETUP
        return int((sizes * (np.maximum.reduceat(stop, starts) - np.minimum.reduceat(first, starts))).sum())
    found = {size: cost(size) for size in range(BLOCK, len(first) + BLOCK, BLOCK)}
    best = min(found, key=found.__getitem__)
    return best, found[best]


def _block(start: int, count: int, first: Array, stop: Array, limit: int, bias: Array) -> Part:
    low, high = int(first[start:start + count].min()), int(stop[start:start + count].max())
    own = limit + start - low if limit else 0
    part = np.ascontiguousarray(bias[:, start:start + count, low:high])
    needed = (part != 0) & in_sight(own, count, high - low)
    return Part(Span(start, count), Span(low, high - low), own, part if needed.any() else None)
