"""Pass: a residual stream of one token that a constant starts has a second one, which nothing reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..param import Param
from ..stages import Add, Constant
from ..step import Network, Step
from ..tensor import Memory, Tensor
from ..walk import with_tensors


def lengthen_starts(network: Network) -> Network:
    """For an engine that reads a token's statistics the cycle before it writes them: two words of a constant that come one after the other are of
    different tokens. Products leave more cycles between words of a token."""
    single = {step.sink.tensor for step in network.steps if isinstance(step.feed, Constant) and step.sink.tensor.memory is Memory.RES
              and step.sink.tensor.tokens == 1}

    def longer(tensor: Tensor) -> Tensor:
        return replace(tensor, tokens=2) if tensor in single else tensor
    return replace(network, steps=tuple(_start(step) if isinstance(step.feed, Constant) and step.sink.tensor in single else step
                                        for step in with_tensors(network.steps, longer)))


def _start(step: Step) -> Step:
    """The step for both tokens."""
    if not isinstance(step.feed, Constant):
        raise TypeError(f"step {step.name!r} brings no constant")
    place, table = step.sink.tensor.view(), step.feed.table
    longer = Param(f"{table.name}, and zeros", np.concatenate([table.array, np.zeros_like(table.array)]))
    return replace(step, feed=Constant(longer), sinks=(place,),
                   drain=tuple(Add(place) if isinstance(stage, Add) else stage for stage in step.drain))
