"""One program for all tasks: what is equal in all of them stands once, the rest runs for its task only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Slot(Generic[T]):
    """A place in the program: ``task`` is None for a step of every task."""

    step: T
    task: int | None


def merge(tasks: list[list[T]], identity: Callable[[T], Hashable]) -> list[Slot[T]]:
    """identity: equal for steps of two tasks that can be one. The order of every task is kept.

    Weights of a step of one task are in the stream for every frame and are discarded by the frames of other tasks, so switching tasks
    changes nothing in the order of the stream.
    """
    keyed = [[(identity(step), step) for step in steps] for steps in tasks]
    common = [key for key, _ in keyed[0]]
    for steps in keyed[1:]:
        blocks = SequenceMatcher(None, common, [key for key, _ in steps], autojunk=False).get_matching_blocks()
        common = [key for block in blocks for key in common[block.a:block.a + block.size]]
    positions = [0] * len(tasks)
    merged: list[Slot[T]] = []
    for key in [*common, None]:
        for task, steps in enumerate(keyed):
            while positions[task] < len(steps) and (key is None or steps[positions[task]][0] != key):
                merged.append(Slot(steps[positions[task]][1], task))
                positions[task] += 1
        if key is not None:
            merged.append(Slot(keyed[0][positions[0]][1], None))
            positions = [position + 1 for position in positions]
    return merged


def align(tasks: Sequence[Sequence[T]], shape: Callable[[T], Hashable]) -> list[tuple[T | None, ...]]:
    """Rows of a program, in each the step of every task, or None: tasks that have the same shapes lie side by side, so that one place in
    memory serves all of them; others run one after the other."""
    if len({tuple(map(shape, steps)) for steps in tasks}) == 1:
        return list(zip(*tasks, strict=True))
    return [tuple(step if task == place else None for place in range(len(tasks))) for task, steps in enumerate(tasks) for step in steps]


def slots(row: tuple[T | None, ...], identity: Callable[[T], Hashable]) -> list[Slot[T]]:
    """A row of `align`: one step for every task where all do the same, a step a task otherwise."""
    steps = [Slot(step, task) for task, step in enumerate(row) if step is not None]
    if len(steps) == len(row) and len({identity(slot.step) for slot in steps}) == 1:
        return [Slot(steps[0].step, None)]
    return steps
