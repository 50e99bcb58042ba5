"""Pass: the bias of a router's choice comes with a step of its own, in front of the router's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..format import WIDE
from ..stages import Choose, Constant, Identity
from ..step import Network, Step
from ..tensor import Memory, Tensor


def stream_biases(network: Network) -> Network:
    """For an engine that keeps the bias beside the queues."""
    return replace(network, steps=tuple(made for step in network.steps for made in (*_bias(step), step)))


def _bias(step: Step) -> Iterator[Step]:
    for stage in step.drain:
        if isinstance(stage, Choose) and stage.bias is not None:
            place = Tensor(f"bias.{step.columns}", WIDE, 1, step.columns, memory=Memory.ROUTER).view()
            yield Step(step.value, step.node, Constant(stage.bias), Identity(), (place,), part=f"{step.part}.bias", about="bias of the choice")
