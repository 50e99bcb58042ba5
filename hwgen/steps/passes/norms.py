"""Pass: normalisation, and what else is made of the residual stream alone, moves into the feeds of the steps that read its result."""

from __future__ import annotations

from dataclasses import replace

from ...errors import ModelError
from ..stages import Gather, Identity, Normalize, Plain, Rescale
from ..step import Network, Step
from ..tensor import Tensor

HINT = "each block may read the newest residual value and what it computes itself; cut the network there"


def fuse_norms(network: Network) -> Network:
    """The normalised words are stored only where experts gather them: the router's step, which sees them all, keeps them.

    Raises ModelError when what is normalised has changed before the last reader.
    """
    gathered = {step.source.tensor for step in network.steps if isinstance(step.feed, Gather)}
    norms: dict[Tensor, Step] = {}
    stale: set[Tensor] = set()
    steps: list[Step] = []
    for step in network.steps:
        if isinstance(step.feed, (Normalize, Rescale)) and isinstance(step.tile, Identity):
            norms[step.sink.tensor] = step
            continue
        norm = norms.get(step.source_view.tensor) if step.source_view else None
        if norm is not None and isinstance(step.feed, Plain):
            if step.source.tensor in stale:
                raise ModelError(f"reads {step.source.name!r} after the residual stream has moved on: the engine reads the "
                                 "newest state only", where=f"node {step.node!r}", hint=HINT)
            keeps = step.source.tensor in gathered and step.routes
            steps.append(replace(step, feed=norm.feed, source_view=step.source.of(norm.source.tensor),
                                 sinks=(*step.sinks, step.source) if keeps else step.sinks))
        else:
            steps.append(step)
        stale |= {tensor for tensor, norm in norms.items() if any(sink.tensor == norm.source.tensor for sink in step.sinks)}
    return replace(network, steps=tuple(steps))
