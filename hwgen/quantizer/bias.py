"""Bias correction: the mean error that quantization leaves in each column of a linear map is taken out of its integer bias.

Weights are rounded once, so what their rounding adds to a column has a mean that is not zero, and so has what clipping cuts off. The integer network
runs on calibration images step by step, beside the float network; a linear map is corrected before what reads it runs, so later ones find
the earlier ones corrected. Costs nothing in hardware: every column has a bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..graph import Array, Graph, Role
from ..graph.evaluate import steps
from ..steps import golden, host
from ..steps.param import Params
from ..steps.stages import Mean, Run, Stationary, Tile
from ..steps.step import Network
from .weights import BIAS_LIMIT

IMAGES = 16              # of the calibration set
MACS = 2.5e10            # multiply-accumulates of the float network that may go into it, but for two images
ELEMENTS = 8e6           # words of the largest tensor, of all images at a time


@dataclass(frozen=True)
class Target:
    """Which values of the float network the accumulators of a tile are, apart from their unit. index: of the experts that have such values."""

    value: str
    role: Role = Role.OUT
    index: int = 0


def enough(images: Mapping[str, Array], networks: Sequence[Network]) -> dict[str, Array]:
    """As many of the images as correction takes."""
    macs = max(1, sum(network.useful_macs for network in networks))
    largest = max(tensor.tokens * tensor.channels for network in networks for tensor in network.tensors())
    count = max(1, min(IMAGES, int(ELEMENTS / largest), max(2, int(MACS / macs))))
    return {name: array[:count] for name, array in images.items()}


def corrected(graphs: Sequence[Graph], networks: Sequence[Network], targets: Mapping[Stationary, Target], images: Mapping[str, Array],
              pool: Params) -> list[Network]:
    """The networks with the biases of the tiles in ``targets`` corrected. graphs: as they were quantized; images: float [images, ...].

    What tasks share is corrected for the first of them.
    """
    done: dict[Stationary, Stationary] = {}
    found = []
    for graph, network in zip(graphs, networks, strict=True):
        tiles = [step.weights for step in network.steps if step.weights is not None]
        means = _means(graph, {targets[one] for one in tiles if one in targets}, images)

        def tile(run: Run, means: Mapping[Target, tuple[Array, int]] = means) -> Tile:
            own = run.step.weights
            if own is None or own not in targets:
                return run.step.tile
            if own not in done:
                done[own] = _corrected(run, own, *means[targets[own]], pool)
            return done[own]

        golden.evaluate(network, host.quantize_input(network, next(iter(images.values()))), tile=tile)
        found.append(replace(network, steps=tuple(replace(step, tile=done.get(step.weights, step.weights)) if step.weights is not None else step
                                                  for step in network.steps)))
    return found


def _means(graph: Graph, wanted: set[Target], images: Mapping[str, Array]) -> dict[Target, tuple[Array, int]]:
    """(float64 [images, channels]: of each image the mean over its tokens, NaN where it has none; tokens, 0 for those of an expert)"""
    rows: dict[Target, list[Array]] = {target: [] for target in wanted}
    tokens = dict.fromkeys(wanted, 0)
    for image in range(len(next(iter(images.values())))):
        values: dict[str, Array] = {}
        for node, inner in steps(graph, {name: array[image:image + 1] for name, array in images.items()}, values, inner=True):
            seen = [(Target(node.output), values[node.output][0])]
            for role in dict.fromkeys(role for role, _ in inner):
                seen += [(Target(node.output, role, index), array) for index, array in enumerate(array for other, array in inner if other is role)]
            for target, array in seen:
                if target in wanted:
                    flat = array.reshape(-1, array.shape[-1])
                    rows[target].append(_mean(flat))
                    tokens[target] = len(flat) if target.role is Role.OUT else 0
    return {target: (np.array(found), tokens[target]) for target, found in rows.items()}


def _mean(rows: Array) -> Array:
    """float64 [channels]; NaN of no rows."""
    return np.full(rows.shape[-1], np.nan) if not len(rows) else np.asarray(rows.mean(0, dtype=np.float64))


def _corrected(run: Run, tile: Stationary, wanted: Array, tokens: int, pool: Params) -> Stationary:
    """The tile as it is where it streams some of the tokens the float values are of; where one of these is a mean over all, it is theirs.

    A column's mean error is shrunk by what it would be by chance, as it differs from image to image.
    """
    if run.rows is None:
        if tokens not in (0, 1, run.seen.shape[-2]):
            return tile
        streamed = run.seen.mean(-2, dtype=np.float64)
    else:
        streamed = np.array([_mean(run.seen[run.rows[0] == image]) for image in range(len(wanted))])
    error = streamed @ tile.weight.array + tile.bias.array - wanted / tile.scale.array
    error = error[~np.isnan(error).any(1)]
    if not len(error):
        return tile
    mean = error.mean(0)
    chance = error.var(0, ddof=1) / len(error) if len(error) > 1 else np.zeros_like(mean)
    kept = np.maximum(0.0, 1.0 - chance / np.maximum(mean ** 2, np.finfo(np.float64).tiny))
    bias = tile.bias.array - np.rint(kept * mean).astype(np.int64)
    fits = np.abs(bias) * (run.step.tokens if Mean() in run.step.drain else 1) <= BIAS_LIMIT
    return replace(tile, bias=pool.add(tile.bias.name, np.where(fits, bias, tile.bias.array).astype(np.int32)))
