"""Pass: every int8 value also leaves the engine, for comparison; one image a frame."""

from __future__ import annotations

from dataclasses import replace

from ..format import ACCUMULATOR
from ..stages import Plain
from ..step import Network, Step
from ..tensor import Memory, Span, Tensor
from .unity import unity

TAP = "tap"


def taps(network: Network, rows: int) -> Network:
    """Read each value through an identity matrix, right after it is complete, ``rows`` tokens at a time."""
    steps: list[Step] = []
    written = {step.sink.name: index for index, step in enumerate(network.steps)}       # by its last part
    for index, step in enumerate(network.steps):
        steps.append(step)
        if step.sink.tensor.memory is Memory.ACT and step.expert is None and written[step.sink.name] == index:
            steps += _taps(step, rows)
    return replace(network, steps=tuple(steps))


def _taps(step: Step, rows: int) -> list[Step]:
    value = step.sink.tensor
    out = Tensor(f"{value.name}.{TAP}", ACCUMULATOR, value.tokens, value.channels, memory=Memory.OUT, sequence=value.sequence)
    tile = unity(value.channels)
    spans = (Span(first, min(rows, value.tokens - first)) for first in range(0, value.tokens, rows))
    return [Step(step.value, step.node, Plain(), tile, (out.view(span),), value.view(span), part=f"{TAP}{span.start}", about=TAP)
            for span in spans]


def is_tap(step: Step) -> bool:
    return step.part.startswith(TAP) and step.sink.tensor.memory is Memory.OUT
