"""Passes over attention: keys, queries and values in the order that hides latency; heads and blocks of queries as steps of their own."""

from __future__ import annotations

from dataclasses import replace

from ..stages import Exp2, Keys, Plain, Values
from ..step import Network, Step
from ..tensor import Memory, Span, Tensor

MIN_BLOCK = 64           # queries of a block: fewer would wait for the keys to be loaded again


def order_inputs(network: Network) -> Network:
    """The products that give k, q and v of one attention right before it come in this order: keys are loaded first."""
    steps = list(network.steps)
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


def _is_product(step: Step) -> bool:
    return step.weights is not None and step.sink.tensor.memory is Memory.ACT and step.expert is None


def split_heads(network: Network, words: int, lanes: int, most: int = 0) -> Network:
    """Every head a pair of steps, scores and P V, and each pair for a block of queries.

    words, lanes: a block's scores take at most so many words of so many lanes, in equal blocks. most: queries of a block, if not 0.
    Scores run one pair ahead of P V, in two tensors in turn: neither waits for the other.
    """
    steps: list[Step] = []
    pairs: list[tuple[Step, Step]] = []
    for index, step in enumerate(network.steps):
        if isinstance(step.tile, Keys):
            pairs.append((step, network.steps[index + 1]))
        elif isinstance(step.feed, Exp2):
            following = network.steps[index + 1] if index + 1 < len(network.steps) else None
            if following is None or following.value != step.value or not isinstance(following.tile, Keys):   # images of a batch: one run
                steps += _split(pairs, words, lanes, most)
                pairs = []
        else:
            steps.append(step)
    return replace(network, steps=tuple(steps))


def _split(pairs: list[tuple[Step, Step]], words: int, lanes: int, most: int) -> list[Step]:
    scores: list[Step] = []
    weighs: list[Step] = []
    for score, weigh in pairs:
        tokens, keys = score.source.tokens.count, score.columns
        limit = most or max(MIN_BLOCK, words // -(-keys // lanes))
        block = -(-tokens // -(-tokens // limit))
        for head in range(score.heads):
            for first in range(0, tokens, block):
                half = len(scores) % 2
                buffer = Tensor(f"{score.sink.name}.{half}", score.sink.tensor.format, block, keys, memory=Memory.SCORE)
                unit = _Unit(head, Span(first, min(block, tokens - first)), half, buffer, tokens)
                scores.append(unit.score(score))
                weighs.append(unit.weigh(weigh))
    ordered = scores[:1]
    for index, weigh in enumerate(weighs):
        ordered += [*scores[index + 1:index + 2], weigh]
    return ordered


class _Unit:
    """A head and a block of queries."""

    def __init__(self, head: int, queries: Span, half: int, buffer: Tensor, tokens: int) -> None:
        self.head, self.queries, self.half, self.buffer = head, queries, half, buffer
        self.label = f"head {head}" + (f", queries {queries.start}.." if queries.count < tokens else "")
        self.part = f"head{head}.queries{queries.start}"

    def score(self, step: Step) -> Step:
        dim = step.source.channels.count // step.heads
        channels = Span(self.head * dim, dim)
        queries = replace(self.queries, start=step.source.tokens.start + self.queries.start)
        if not isinstance(step.tile, Keys) or not isinstance(step.feed, Plain):
            raise TypeError(f"step {step.name!r} gives no scores")
        return replace(step, source_view=replace(step.source, tokens=queries, channels=channels),
                       tile=Keys(replace(step.tile.view, channels=channels)), sinks=(self.buffer.view(Span(0, self.queries.count)),),
                       part=f"{step.part}.{self.part}", heads=1, half=self.half, about=f"{step.about}, {self.label}",
                       macs=step.macs // step.heads * self.queries.count // step.source.tokens.count)

    def weigh(self, step: Step) -> Step:
        if not isinstance(step.tile, Values):
            raise TypeError(f"step {step.name!r} weighs no values")
        dim = step.sink.channels.count // step.heads
        channels = Span(self.head * dim, dim)
        queries = replace(self.queries, start=step.sink.tokens.start + self.queries.start)
        return replace(step, source_view=self.buffer.view(Span(0, self.queries.count)), half=self.half,
                       tile=Values(replace(step.tile.view, channels=channels)), sinks=(replace(step.sink, tokens=queries, channels=channels),),
                       part=f"{step.part}.{self.part}".lstrip("."), heads=1, about=f"{step.about}, {self.label}",
                       macs=step.macs // step.heads * self.queries.count // step.source.tokens.count)
