"""Pass over mixtures of experts: two tensors of hidden values in turn, layer 1 one expert ahead; blocks of tokens, if asked for."""

from __future__ import annotations

from dataclasses import replace

from ..stages import Gather, Multiply
from ..step import Network, Step
from ..tensor import Memory, Span, Tensor


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
    gate, layers = run[0], 3 if run[1].sink.tensor.memory is Memory.OPERAND else 2
    experts = [tuple(run[start:start + layers]) for start in range(1, len(run), layers)]
    tokens = gate.sink.tokens.count
    result: list[Step] = []
    for start in range(0, tokens, block or tokens):
        span = Span(start, min(block or tokens, tokens - start))
        mark = f".tokens{start}" if block else ""
        result.append(replace(gate, source_view=replace(gate.source, tokens=replace(span, start=gate.source.tokens.start + start)),
                              sinks=tuple(replace(sink, tokens=span) for sink in gate.sinks), part=gate.part + mark,
                              macs=gate.macs * span.count // tokens))
        result += _ahead([_expert(steps, span, mark, turn % 2, max(a.columns for *_, a, _ in experts)) for turn, steps in enumerate(experts)])
    return result


def _expert(steps: tuple[Step, ...], span: Span, mark: str, turn: int, width: int) -> tuple[Step, ...]:
    """The two layers for the tokens of ``span``, with their hidden values in tensor ``turn``; in front of them the one that gives what these are
    multiplied by, if there is one."""
    *third, first, second = steps
    expert = first.expert
    if expert is None or not isinstance(first.feed, Gather):
        raise ValueError(f"step {first.name!r} is the first layer of no expert")
    expert = replace(expert, queue=replace(expert.queue, tokens=span))
    hidden = Tensor(f"{first.value}.hidden{mark}.{turn}", first.sink.tensor.format, span.count, width, first.sink.tensor.scale)
    view = hidden.view(channels=Span(0, first.columns))
    tokens = replace(first.source, tokens=span)
    placed = [replace(first, source_view=tokens, sinks=(view,)), replace(second, source_view=view)]
    for step in third:
        beside = replace(step.sink.tensor, name=f"{step.sink.tensor.name}{mark}", tokens=span.count)
        drain = tuple(replace(stage, view=beside.view()) if isinstance(stage, Multiply) else stage for stage in first.drain)
        placed = [replace(step, source_view=tokens, sinks=(beside.view(),)), replace(placed[0], drain=drain), placed[1]]
    return tuple(replace(step, expert=expert, part=step.part + mark, macs=expert.routed * step.columns * step.tile.shape(step)[0] // expert.of)
                 for step in placed)


def _ahead(experts: list[tuple[Step, ...]]) -> list[Step]:
    """What gives the hidden values of the next expert before layer 2 of this one: neither waits for the other."""
    result = [*experts[0][:-1]]
    for index, steps in enumerate(experts):
        result += [step for after in experts[index + 1:index + 2] for step in after[:-1]] + [steps[-1]]
    return result
