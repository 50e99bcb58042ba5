"""Pass over mixtures of experts: two tensors of hidden values in turn, layer 1 one expert ahead; blocks of tokens, if asked for."""

from __future__ import annotations

from dataclasses import replace

from ..stages import Gather
from ..step import Network, Step
from ..tensor import Span, Tensor


def order_experts(network: Network, block: int = 0) -> Network:
    """block: every expert's weights are read again for so many tokens; 0: once for all."""
    queues = {step.expert.queue.tensor for step in network.steps if step.expert is not None}
    steps: list[Step] = []
    run: list[Step] = []
    for step in network.steps:
        if run and step.value != run[0].value:
            steps += _ordered(run, block)
            run = []
        if step.expert is not None or step.sink.tensor in queues:
            run.append(step)
        else:
            steps.append(step)
    return replace(network, steps=(*steps, *(_ordered(run, block) if run else ())))


def _ordered(run: list[Step], block: int) -> list[Step]:
    gate, pairs = run[0], list(zip(run[1::2], run[2::2], strict=True))
    tokens = gate.sink.tokens.count
    result: list[Step] = []
    for start in range(0, tokens, block or tokens):
        span = Span(start, min(block or tokens, tokens - start))
        mark = f".tokens{start}" if block else ""
        result.append(replace(gate, source_view=replace(gate.source, tokens=replace(span, start=gate.source.tokens.start + start)),
                              sinks=tuple(replace(sink, tokens=span) for sink in gate.sinks), part=gate.part + mark,
                              macs=gate.macs * span.count // tokens))
        result += _ahead([_expert(pair, span, mark, turn % 2, max(a.columns for a, _ in pairs)) for turn, pair in enumerate(pairs)])
    return result


def _expert(pair: tuple[Step, Step], span: Span, mark: str, turn: int, width: int) -> tuple[Step, Step]:
    """The two layers for the tokens of ``span``, with their hidden values in tensor ``turn``."""
    first, second = pair
    expert = first.expert
    if expert is None or not isinstance(first.feed, Gather):
        raise ValueError(f"step {first.name!r} is the first layer of no expert")
    expert = replace(expert, queue=replace(expert.queue, tokens=span))
    hidden = Tensor(f"{first.value}.hidden{mark}.{turn}", first.sink.tensor.format, span.count, width, first.sink.tensor.scale)
    view = hidden.view(channels=Span(0, first.columns))
    share = [expert.routed * step.columns * step.tile.shape(step)[0] // expert.of for step in pair]
    tokens = replace(first.source, tokens=span)
    return (replace(first, source_view=tokens, sinks=(view,), expert=expert, part=first.part + mark, macs=share[0]),
            replace(second, source_view=view, expert=expert, part=second.part + mark, macs=share[1]))


def _ahead(pairs: list[tuple[Step, Step]]) -> list[Step]:
    """Layer 1 of the next expert before layer 2 of this one: neither waits for the other."""
    result = [pairs[0][0]]
    for index, (_, second) in enumerate(pairs):
        result += [*(first for first, _ in pairs[index + 1:index + 2]), second]
    return result
