"""Pass: the orders by which steps take their tokens are a constant, brought once a frame, for an engine that reads them from a memory."""

from __future__ import annotations

from dataclasses import replace
import hashlib

import numpy as np

from ...errors import CapacityError
from ...isa import ABSENT
from ..format import WIDE
from ..param import Param
from ..stages import Constant, Identity
from ..step import Network, Step
from ..taken import NOTHING, Kept, Taken
from ..tensor import Memory, Tensor

ROWS = 16               # words of the constant in a column of tiles: the least that fills a memory, so no accumulator is deeper for it


def bring_lists(network: Network, lanes: int) -> Network:
    """Each order lies in words of ``lanes`` numbers, each tap from a new word on. Numbers are those of tokens of the whole source; what is not
    there is `ABSENT`, with the number of the view's first token. Raises CapacityError where a source has more tokens than a number tells."""
    found: dict[tuple[Param, int, int], int] = {}
    parts: list[np.ndarray] = []
    words = 0
    for step in network.steps:
        if isinstance(step.taken, Taken) and (key := _key(step, step.taken)) not in found:
            if step.source.tokens.stop > ABSENT:
                raise CapacityError(f"takes tokens of {step.source.tensor} by an order, numbers of tokens have {ABSENT - 1} at most",
                                    where=f"node {step.node!r}", hint="use a smaller image")
            rows = _rows(step, step.taken, lanes)
            found[key] = words
            parts.append(rows)
            words += len(rows)
    if not parts:
        return network
    count = -(-words // ROWS)
    table = np.zeros((count * ROWS, lanes), WIDE.dtype)
    table[:words] = np.concatenate(parts)
    table = np.ascontiguousarray(table.reshape(count, ROWS, lanes).transpose(1, 0, 2).reshape(ROWS, count * lanes))
    digest = hashlib.sha256(table.tobytes()).hexdigest()[:12]
    place = Tensor("lists", WIDE, ROWS, count * lanes, memory=Memory.LIST).view()
    first = next(step for step in network.steps if isinstance(step.taken, Taken))
    brings = Step("lists", first.node, Constant(Param(f"orders.{digest}", table)), Identity(), (place,), about="orders of tokens")
    steps = [replace(step, taken=replace(step.taken, place=place, first=found[_key(step, step.taken)])) if isinstance(step.taken, Taken) else step
             for step in network.steps]
    return replace(network, steps=(steps[0], brings, *steps[1:]))


def row_words(taken: Taken | Kept, lanes: int) -> int:
    """Words of a tap."""
    return -(-taken.tokens // lanes)


def _key(step: Step, taken: Taken) -> tuple[Param, int, int]:
    return taken.order, step.source.tokens.start, step.source.tokens.step


def _rows(step: Step, taken: Taken, lanes: int) -> np.ndarray:
    """Words [taps * words of a tap, lanes]."""
    order, span = taken.order.array.astype(np.int64), step.source.tokens
    numbers = np.where(order == NOTHING, ABSENT + span.start, span.start + span.step * order)
    rows = np.zeros((taken.taps, row_words(taken, lanes) * lanes), WIDE.dtype)
    rows[:, :taken.tokens] = numbers
    return rows.reshape(-1, lanes)
