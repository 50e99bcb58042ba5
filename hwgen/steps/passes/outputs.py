"""Pass: an output of many tokens leaves in pieces that the engine's output queue holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..stages import Mean
from ..step import Network, Step
from ..taken import Taken
from ..tensor import Memory, Span, View


def split_outputs(network: Network, rows: int) -> Network:
    """Every step whose result leaves does so for at most ``rows`` tokens; its weights are read again for each piece."""
    return replace(network, steps=tuple(piece for step in network.steps for piece in _pieces(step, rows)))


def _pieces(step: Step, rows: int) -> Iterator[Step]:
    tokens = step.sink.tokens.count
    if step.sink.tensor.memory is not Memory.OUT or tokens <= rows or any(isinstance(stage, Mean) for stage in step.drain):
        yield step
        return
    for first in range(0, tokens, rows):
        count = min(rows, tokens - first)
        reads = {"taken": step.taken.some(Span(first, count))} if isinstance(step.taken, Taken) else {
            "source_view": _some(step.source, first, count)}
        yield replace(step, **reads, sinks=(_some(step.sink, first, count),),
                      part=f"{step.part}.tokens{first}".lstrip("."), macs=step.macs * count // tokens,
                      about=f"{step.about}, tokens {first}..")


def _some(view: View, first: int, count: int) -> View:
    return replace(view, tokens=Span(view.tokens.start + first * view.tokens.step, count, view.tokens.step))
