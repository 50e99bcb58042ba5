"""Routers: how often the integer network sends a token to other experts than the float network does, or keeps another token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .foreign import REPR, visible
from .graph import Array, Graph, evaluate
from .steps import golden
from .steps.step import Network

CHUNK = 2                   # images worked on at a time


@dataclass(frozen=True, repr=False)
class RouterFlips:
    """What one router of one task decides, or one choice of tokens: there a token's expert is whether it is kept.

    task: name of the network; node: ONNX name. decisions: tokens it chose experts for, over all images. flips: those whose set of experts is
    another one in the integer network than in the float network, each on the values of its own network. reordered: those whose experts are the
    same, in another order of their scores; it changes nothing but the rounding of a sum, and is no flip.
    """

    task: str
    node: str
    decisions: int
    flips: int
    reordered: int

    def __repr__(self) -> str:
        return visible(f"<RouterFlips {self.flips:,} of {self.decisions:,} decisions, of {self.node}>", limit=REPR)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def router_flips(graphs: Sequence[Graph], networks: Sequence[Network], images: dict[str, Array]) -> list[RouterFlips]:
    """One entry a router and task, in the order of the network; none for a network without routers.

    graphs: as they were quantized into ``networks``. images: float [images, ...] per input.
    """
    return [found for graph, network in zip(graphs, networks, strict=True) for found in _flips(graph, network, images)]


def _flips(graph: Graph, network: Network, images: dict[str, Array]) -> list[RouterFlips]:
    """Of one task: the routing steps of a node's name are its routers, in order."""
    if not any(step.routes or step.picks for step in network.steps):
        return []
    counts: dict[str, tuple[str, Array]] = {}
    for start in range(0, len(next(iter(images.values()))), CHUNK):
        some = {name: array[start:start + CHUNK] for name, array in images.items()}
        values = evaluate.trace(graph, some)
        words = golden.trace(network, next(iter(some.values())), detail=True)
        queued: dict[str, list[Array]] = {}
        for step in network.steps:
            if step.routes or step.picks:
                queued.setdefault(step.node, []).append(words[f"{step.value}.experts"])
        for node in graph.nodes:
            right = node.chosen(*(values[value] for value in node.inputs))
            if right is not None:
                found = queued[node.name].pop(0)
                flips = (np.sort(found, axis=-1) != np.sort(right, axis=-1)).any(-1)
                reordered = ~flips & (found != right).any(-1)
                before = counts.get(node.output, (node.name, np.zeros(3, int)))[1]
                counts[node.output] = node.name, before + [flips.size, flips.sum(), reordered.sum()]
    return [RouterFlips(graph.name, name, *map(int, counted)) for name, counted in counts.values()]


def choice_warnings(found: Sequence[RouterFlips], networks: Sequence[Network]) -> list[str]:
    """A line for every choice of tokens that does not keep those of the float network. found: of `router_flips` on calibration images."""
    choices = {(network.name, step.node) for network in networks for step in network.steps if step.picks}
    return [f"the choice of tokens by node {one.node!r} is another one than in float for {one.flips:,} of {one.decisions:,} tokens of calibration "
            "images (kept instead of dropped, or the other way round): their scores are closer than the integers tell apart"
            for one in found if one.flips and (one.task, one.node) in choices]
