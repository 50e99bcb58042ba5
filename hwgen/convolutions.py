"""How much of a network is convolution: an engine of attention does it, and is not made for it."""

from __future__ import annotations

import numpy as np

from .steps.step import Network, Quantized, Step
from .steps.taken import NOTHING, Taken

RUNS = ("it runs, but this engine is made for attention. A convolution takes a pass of the array for each of its taps, a depthwise one uses a "
        "diagonal of each tile")
MOST = 0.5              # of the multiplications, above which a note says so


def share(network: Network) -> float:
    """Of the multiplications that are of convolutions inside, those with zeros between groups not counted."""
    convolved = sum(map(_multiplied, filter(_convolves, network.steps)))
    rest = sum(step.macs for step in network.steps if not _convolves(step))
    return convolved / max(1, convolved + rest)


def notes(model: Quantized) -> list[str]:
    """For people."""
    most = max(map(share, model.tasks))
    if most <= MOST:
        return []
    return [f"{most:.0%} of the multiplications are of convolutions inside the network: {RUNS}"]


def _convolves(step: Step) -> bool:
    """Whether it takes tokens again and again, or zeros beside them; neighbours that are merged, each once, are none."""
    if not isinstance(step.taken, Taken) or step.taken.taps == 1:
        return False
    order = step.taken.order.array
    return np.unique(order).size < order.size or bool((order == NOTHING).any())


def _multiplied(step: Step) -> int:
    """By weights that are not 0."""
    tile = step.weights
    return 0 if tile is None else step.tokens * int((tile.weight.array != 0).sum())
