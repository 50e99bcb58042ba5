"""Pass: normalisation, and what else is made of the residual stream alone, moves into the feeds of the steps that read its result."""

from __future__ import annotations

from dataclasses import replace

from ..stages import Gather, Identity, Normalize, Plain, Requant, Rescale
from ..step import Network, Step
from ..tensor import Tensor
from .unity import each, one


def fuse_norms(network: Network) -> Network:
    """The normalised words are stored where experts gather them: the router's step, which sees them all, keeps them; and past the array where
    something reads them that cannot have them from the feed: when the residual stream has moved on, or as keys or values."""
    gathered = {step.source.tensor for step in network.steps if isinstance(step.feed, Gather)}
    stored = _stored(network)
    norms: dict[Tensor, Step] = {}
    steps: list[Step] = []
    for step in network.steps:
        if _is_norm(step):
            if step.sink.tensor in stored:
                channels = step.sink.channels.count
                steps.append(replace(step, tile=each(channels), drain=(Requant(one(channels), step.sink.tensor.format),), macs=0))
            else:
                norms[step.sink.tensor] = step
            continue
        norm = norms.get(step.source_view.tensor) if step.source_view else None
        if norm is not None and isinstance(step.feed, Plain):
            keeps = step.source.tensor in gathered and step.routes
            steps.append(replace(step, feed=norm.feed, source_view=step.source.of(norm.source.tensor),
                                 sinks=(*step.sinks, step.source) if keeps else step.sinks))
        else:
            steps.append(step)
    return replace(network, steps=tuple(steps))


def drop_unread(network: Network) -> Network:
    """The network without the steps that store normalised words which nothing reads."""
    read = {view.tensor for step in network.steps for view in (step.source_view, step.tile.stationary) if view is not None}
    return replace(network, steps=tuple(step for step in network.steps if not _is_norm(step) or step.sink.tensor in read))


def _is_norm(step: Step) -> bool:
    return isinstance(step.feed, (Normalize, Rescale)) and isinstance(step.tile, Identity)


def _stored(network: Network) -> set[Tensor]:
    """Norms that have to lie in memory: those that are read when the state has moved on, as keys or values, or by experts whose router reads
    something else."""
    states: dict[Tensor, Tensor] = {}
    stale: set[Tensor] = set()
    found: set[Tensor] = set()
    routed = {step.source.tensor for step in network.steps if step.routes}
    for step in network.steps:
        if _is_norm(step):
            states[step.sink.tensor] = step.source.tensor
            continue
        found |= {view.tensor for view in (step.tile.stationary,) if view is not None and view.tensor in states}
        if step.source_view is not None and step.source.tensor in states and (
                step.source.tensor in stale if isinstance(step.feed, Plain) else step.source.tensor not in routed):
            found.add(step.source.tensor)
        stale |= {tensor for tensor, state in states.items() if any(sink.tensor == state for sink in step.sinks)}
    return found
