"""Pass: what lies between two linear maps of a token (hidden values of an MLP) is there for a block of tokens at a time.

The weights of both are read again for each block, so this is for activations that do not fit otherwise.
"""

from __future__ import annotations

from dataclasses import replace

from ..stages import Add, Requant, Table
from ..step import Network, Step
from ..taken import Taken
from ..tensor import Memory, Span, Tensor
from ..walk import tensors


def split_hidden(network: Network, rows: int) -> Network:
    """rows: tokens of a block; values of so many tokens at most stay as they are. Two tensors in turn hold the blocks: neither map waits for
    the other."""
    uses: dict[Tensor, int] = {}
    for step in network.steps:
        for tensor in set(tensors((step.source_view, step.tile, step.sinks, step.drain))):
            uses[tensor] = uses.get(tensor, 0) + 1
    steps: list[Step] = []
    at = 0
    while at < len(network.steps):
        pair = network.steps[at:at + 2]
        if len(pair) == 2 and _between(*pair) and uses[pair[0].sink.tensor] == 2 and pair[0].sink.tokens.count > rows:
            steps += _blocks(*pair, rows)
            at += 2
        else:
            steps.append(pair[0])
            at += 1
    return replace(network, steps=tuple(steps))


def _between(first: Step, second: Step) -> bool:
    """Whether ``second`` reads all that ``first`` gives, each token by itself."""
    if second.taken is not None or any(step.weights is None or step.expert is not None or step.heads > 1 or len(step.sinks) > 1
                                       for step in (first, second)):
        return False
    hidden = first.sink
    return (hidden.whole and hidden.tensor.memory is Memory.ACT and second.source == hidden
            and first.tokens == hidden.tokens.count == second.sink.tokens.count
            and second.sink.tensor.memory in (Memory.ACT, Memory.RES) and all(isinstance(stage, (Requant, Table)) for stage in first.drain)
            and all(isinstance(stage, (Requant, Table, Add)) for stage in second.drain))


def _blocks(first: Step, second: Step, rows: int) -> list[Step]:
    """The first map one block ahead."""
    hidden = first.sink.tensor
    turns = [replace(hidden, name=f"{hidden.name}.{turn}", tokens=rows) for turn in (0, 1)]
    firsts: list[Step] = []
    seconds: list[Step] = []
    for start in range(0, hidden.tokens, rows):
        count = min(rows, hidden.tokens - start)
        words = turns[len(firsts) % 2].view(Span(0, count))
        firsts.append(_some(replace(first, sinks=(words,)), first, start, count, reads=True))
        seconds.append(_some(replace(second, source_view=words), second, start, count, reads=False))
    ordered = firsts[:1]
    for index, step in enumerate(seconds):
        ordered += [*firsts[index + 1:index + 2], step]
    return ordered


def _some(step: Step, whole: Step, start: int, count: int, reads: bool) -> Step:
    """The step for ``count`` tokens from ``start`` on: of what it reads, or of what it writes."""
    view = whole.source if reads else whole.sink
    tokens = replace(view.tokens, start=view.tokens.start + start * view.tokens.step, count=count)
    place = replace(view, tokens=tokens)
    changed = replace(step, taken=step.taken.some(Span(start, count))) if reads and isinstance(step.taken, Taken) else replace(
        step, source_view=place) if reads else replace(
        step, sinks=(place,), drain=tuple(Add(place) if isinstance(stage, Add) else stage for stage in step.drain))
    total = whole.sink.tokens.count
    return replace(changed, part=f"{whole.part}.tokens{start}".lstrip("."), macs=whole.macs * count // total,
                   about=f"{whole.about}, tokens {start}..".lstrip(", "))
