"""Hazards: how far an instruction may overlap with those before it."""

from __future__ import annotations

from itertools import product

from ...layout.merge import Slot
from ...steps.step import Step

MAX_SLACK = 3            # instructions that may be under way in front of one (two bits, and NUM_CONTEXTS - 1)

Reads = tuple[tuple[str, ...], tuple[str, ...]]


def reads(step: Step) -> Reads:
    """(what the feed waits for, what the loader waits for): names of tensors. What the drain adds to is not among them: all drains have
    one latency."""
    feed = () if step.source_view is None else (step.source.name,)
    queue = () if step.expert is None else (step.expert.queue.name,)
    loads = () if step.tile.stationary is None else (step.tile.stationary.name,)
    numbers = () if step.taken is None or step.taken.place is None else (step.taken.place.name,)
    return (*feed, *queue, *numbers), loads


def slacks(slots: list[Slot[Step]], starts: list[int], num_tasks: int) -> list[tuple[int, int]]:
    """(slack, load_slack) of every instruction: how many instructions before it may still be under way when its feed, or its
    loading from the key/value memory, starts. The smallest over the tasks, and over the lengths of a sequence, since each sees other
    instructions. starts: the first token of each, of those that shorter sequences do without."""
    found = [[MAX_SLACK, MAX_SLACK] for _ in slots]
    for task, length in product(range(num_tasks), [first + 1 for first in sorted(set(starts) | {0})]):
        writers: dict[str, int] = {}
        active = [i for i, slot in enumerate(slots) if slot.task in (None, task) and starts[i] < length]
        for n, i in enumerate(active):
            step = slots[i].step
            for kind, names in enumerate(reads(step)):
                for name in names:
                    if name in writers:
                        found[i][kind] = min(found[i][kind], n - writers[name] - 1)
            writers.update((sink.name, n) for sink in step.sinks)
    return [(slack, load_slack) for slack, load_slack in found]
