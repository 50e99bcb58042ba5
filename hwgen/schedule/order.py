"""Order of the program: steps of several tasks merged into one list, and the hazards between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from ..isa import Instr
from .steps import Step

MAX_SLACK = 3            # instructions that may be under way in front of one (two bits, and NUM_CONTEXTS - 1)


@dataclass(frozen=True)
class Slot:
    """A place in the program: ``task`` is None for a step of every task."""

    step: Step
    task: int | None


def merge(tasks: list[list[Step]]) -> list[Slot]:
    """One program for all tasks: equal steps become one instruction, the others run only for their task.

    Weights of a predicated instruction are in the stream for every frame and are discarded by the frames of other tasks,
    so switching tasks changes nothing in the order of the stream.
    """
    common = [step.identity for step in tasks[0]]
    for steps in tasks[1:]:
        keys = [step.identity for step in steps]
        blocks = SequenceMatcher(None, common, keys, autojunk=False).get_matching_blocks()
        common = [key for block in blocks for key in common[block.a:block.a + block.size]]
    positions = [0] * len(tasks)
    merged: list[Slot] = []
    for key in [*common, None]:
        for task, steps in enumerate(tasks):
            while positions[task] < len(steps) and steps[positions[task]].identity != key:
                merged.append(Slot(steps[positions[task]], task))
                positions[task] += 1
        if key is not None:
            merged.append(Slot(tasks[0][positions[0]], None))
            positions = [position + 1 for position in positions]
    return merged


def slacks(slots: list[Slot], num_tasks: int) -> list[tuple[int, int]]:
    """(slack, load_slack) of every instruction: how many instructions before it may still be under way when its feed, or its
    loading from the key/value memory, starts. The smallest over the tasks, since each sees another sequence."""
    found = [[MAX_SLACK, MAX_SLACK] for _ in slots]
    for task in range(num_tasks):
        writers: dict[str, int] = {}
        active = [i for i, slot in enumerate(slots) if slot.task in (None, task)]
        for n, i in enumerate(active):
            step = slots[i].step
            for kind, names in enumerate((step.reads, step.loads)):
                for name in names:
                    if name in writers:
                        found[i][kind] = min(found[i][kind], n - writers[name] - 1)
            writers.update((name, n) for name in step.writes)
    return [tuple(pair) for pair in found]


def predicated(slot: Slot, instr: Instr) -> Instr:
    """The instruction with its task predicate."""
    return instr if slot.task is None else replace(instr, pred=1, task=slot.task)
