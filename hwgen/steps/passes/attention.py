"""Passes over attention: keys, queries and values in the order that hides latency; heads and blocks of queries as steps of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..param import Param
from ..stages import Bias, Constant, Exp2, Keys, Plain, Values
from ..stages.tile import pairs
from ..step import Network, Step
from ..tensor import Memory, Span, Tensor

MIN_BLOCK = 64           # queries of a block: fewer would wait for the keys to be loaded again
STAIRS = 8               # blocks that a head is cut into because rows see fewer keys: more would save less than a twentieth


def order_inputs(network: Network) -> Network:
    """The products that give k, q and v of one attention right before it come in this order: keys are loaded first."""
    steps = _biases_first(network.steps)
    for index in range(len(steps) - 3):
        scores, weigh = steps[index + 3], steps[min(index + 4, len(steps) - 1)]
        if not isinstance(scores.tile, Keys) or not isinstance(weigh.tile, Values):
            continue
        group = {step.sink.tensor: step for step in steps[index:index + 3] if _is_product(step)}
        wanted = (scores.tile.view.tensor, scores.source.tensor, weigh.tile.view.tensor)
        apart = not any(step.source.tensor in group for step in group.values())
        if len(group) == 3 and set(group) == set(wanted) and apart:
            steps[index:index + 3] = [group[tensor] for tensor in wanted]
    return replace(network, steps=tuple(steps))


def _biases_first(network: tuple[Step, ...]) -> list[Step]:
    """The steps with constants of the drain right behind the input."""
    constants = [step for step in network if isinstance(step.feed, Constant) and step.sink.tensor.memory is Memory.OPERAND]
    others = [step for step in network if step not in constants]
    return [*others[:1], *constants, *others[1:]]


def _is_product(step: Step) -> bool:
    return step.weights is not None and step.sink.tensor.memory is Memory.ACT and step.expert is None


def split_heads(network: Network, words: int, lanes: int, most: int = 0) -> Network:
    """Every head a pair of steps, scores and P V, and each pair for a block of queries.

    words, lanes: a block's scores take at most so many words of so many lanes, in equal blocks. most: queries of a block, if not 0.
    Where each row sees a key more than the one before, a block takes the keys that its last row sees, and there are more blocks.
    Scores run one pair ahead of P V, in two tensors in turn: neither waits for the other.
    """
    steps: list[Step] = []
    found: list[tuple[Step, Step]] = []
    biases = _Biases(network)
    for index, step in enumerate(network.steps):
        if step.sink.tensor in biases.whole:
            continue
        if isinstance(step.tile, Keys) and isinstance(network.steps[index + 1].tile, Values):
            found.append((step, network.steps[index + 1]))
        elif isinstance(step.feed, Exp2) and isinstance(step.tile, Values):
            following = network.steps[index + 1] if index + 1 < len(network.steps) else None
            if following is None or following.value != step.value or not isinstance(following.tile, Keys):   # images of a batch: one run
                steps += _split(found, words, lanes, most, biases)
                found = []
        else:
            steps.append(step)
    return replace(network, steps=tuple(steps))


class _Biases:
    """The constants that are added to scores. whole: {tensor: the step that brings it, for all heads}; each head and block of queries gets its part,
    and equal parts are brought once in the network."""

    def __init__(self, network: Network) -> None:
        read = {stage.view.tensor for step in network.steps for stage in step.drain if isinstance(stage, Bias)}
        self.whole = {step.sink.tensor: step for step in network.steps if step.sink.tensor in read}
        self.made: dict[tuple[tuple[int, ...], bytes], Tensor] = {}

    def part(self, step: Step, heads: int, head: int, queries: Span, keys: int) -> list[Step]:
        """The step of the scores of one of the heads and some queries, which see the first ``keys`` keys; before it the one that brings its bias,
        unless that is there."""
        stage = next((stage for stage in step.drain if isinstance(stage, Bias)), None)
        if stage is None:
            return [step]
        brings = self.whole[stage.view.tensor]
        if not isinstance(brings.feed, Constant):
            raise TypeError(f"step {brings.name!r} brings no constant")
        table, first = brings.feed.table, head * (stage.view.channels.count // heads)
        part = np.ascontiguousarray(table.array[queries.slice, first:first + keys])
        key, new = (part.shape, part.tobytes()), list[Step]()
        if key not in self.made:
            label = f"{brings.sink.name}.{len(self.made)}"
            self.made[key] = replace(brings.sink.tensor, name=label, tokens=queries.count, channels=keys)
            new = [replace(brings, value=label, feed=Constant(Param(f"{table.name}[{head}: {queries}, {keys}]", part)),
                           sinks=(self.made[key].view(),))]
        return [*new, replace(step, drain=tuple(Bias(self.made[key].view()) if one is stage else one for one in step.drain))]


def _split(units: list[tuple[Step, Step]], words: int, lanes: int, most: int, biases: _Biases) -> list[Step]:
    scores: list[list[Step]] = []
    weighs: list[Step] = []
    for score, weigh in units:
        tokens, keys, limit = score.source.tokens.count, score.columns, _limit(score)
        blocks = -(-tokens // (most or max(MIN_BLOCK, words // -(-keys // lanes))))
        if limit:
            blocks = max(blocks, min(STAIRS, tokens // max(MIN_BLOCK, 3 * lanes // 2)))
        block = -(-tokens // blocks)
        for head in range(score.heads):
            for first in range(0, tokens, block):
                half = len(scores) % 2
                buffer = Tensor(f"{score.sink.name}.{half}", score.sink.tensor.format, block, keys, memory=Memory.SCORE)
                queries = Span(first, min(block, tokens - first))
                seen = min(keys, limit + queries.stop - 1) if limit else keys
                unit = _Unit(head, queries, half, buffer, tokens, limit and limit + first, seen)
                scores.append(biases.part(unit.score(score), score.heads, head, queries, seen))
                weighs.append(unit.weigh(weigh))
    ordered = [*scores[0]]
    for index, weigh in enumerate(weighs):
        ordered += [step for some in scores[index + 1:index + 2] for step in some] + [weigh]
    return ordered


class _Unit:
    """A head and a block of queries, of which the first sees ``limit`` keys (0: all) and the last ``seen``."""

    def __init__(self, head: int, queries: Span, half: int, buffer: Tensor, tokens: int, limit: int, seen: int) -> None:
        self.head, self.queries, self.half, self.limit, self.seen = head, queries, half, limit, seen
        self.scores = buffer.view(Span(0, queries.count), Span(0, seen))
        self.label = f"head {head}" + (f", queries {queries.start}.." if queries.count < tokens else "")
        self.part = f"head{head}.queries{queries.start}"

    def score(self, step: Step) -> Step:
        dim = step.source.channels.count // step.heads
        channels = Span(self.head * dim, dim)
        queries = replace(self.queries, start=step.source.tokens.start + self.queries.start)
        if not isinstance(step.tile, Keys) or not isinstance(step.feed, Plain):
            raise TypeError(f"step {step.name!r} gives no scores")
        keys = replace(step.tile.view, tokens=replace(step.tile.view.tokens, count=self.seen), channels=channels)
        return replace(step, source_view=replace(step.source, tokens=queries, channels=channels), tile=Keys(keys, self.limit), sinks=(self.scores,),
                       part=f"{step.part}.{self.part}", heads=1, half=self.half, about=f"{step.about}, {self.label}", macs=self._macs(step, dim))

    def weigh(self, step: Step) -> Step:
        if not isinstance(step.tile, Values) or not isinstance(step.feed, Exp2):
            raise TypeError(f"step {step.name!r} weighs no values")
        dim = step.sink.channels.count // step.heads
        channels = Span(self.head * dim, dim)
        queries = replace(self.queries, start=step.sink.tokens.start + self.queries.start)
        values = replace(step.tile.view, tokens=replace(step.tile.view.tokens, count=self.seen), channels=channels)
        return replace(step, source_view=self.scores, half=self.half, feed=Exp2(self.limit),
                       tile=Values(values), sinks=(replace(step.sink, tokens=queries, channels=channels),),
                       part=f"{step.part}.{self.part}".lstrip("."), heads=1, about=f"{step.about}, {self.label}", macs=self._macs(step, dim))

    def _macs(self, step: Step, dim: int) -> int:
        return dim * pairs(self.limit, self.queries.count, self.seen) if step.macs else 0


def _limit(score: Step) -> int:
    """Keys that the first row sees; 0: all rows see all."""
    if not isinstance(score.tile, Keys):
        raise TypeError(f"step {score.name!r} gives no scores")
    return score.tile.limit
