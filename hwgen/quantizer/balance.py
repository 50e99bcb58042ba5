"""What calibration adds to a recipe: scales of channels behind activations, and 16 bits where a precision asks for them.

A value whose channels are of unequal size loses the small ones to the unit of the large ones; weights that make good for it lose theirs. Between the
two stands ``sqrt(largest value / largest weight)`` of each channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..graph import Array, Graph, Model, Node, Role
from ..ops import Activation, Attention, AttentionPool, LayerNorm, Linear, Mean, MoE, Multiply, Select, Take
from ..steps.format import WIDE
from .calibration import Range, Site, sites
from .recipe import Recipe
from .structure import consumers

WIDENED = (Activation, Attention, AttentionPool, LayerNorm, MoE, Multiply)
SPREAD = 1e-3           # of the largest: a smaller value or weight counts as this


def balanced(model: Model, ranges: Mapping[Site, Range], method: str, recipe: Recipe) -> Recipe:
    """The recipe with a scale a channel for each result of an activation that only Linear nodes read, where it and their weights have none.

    The largest value lies at the end of the range, less what the method leaves out. Tasks that share a value share its scales where they
    share the weights that read it. A quantized file keeps the whole numbers of its weights instead.
    """
    if recipe.steps is not None:
        return recipe
    values = dict(recipe.values)
    for graph, known in zip(model.tasks, sites(model), strict=True):
        readers = consumers(graph)
        for node in graph.nodes:
            rule, found = recipe.value(node.output), ranges.get((known[node.output], Role.OUT))
            if not isinstance(node, (Activation, Multiply)) or rule.scale is not None or rule.bits == WIDE.bits or found is None \
                    or found.peaks is None or not found.peaks.any():
                continue
            weight = _weight(graph, node.output, readers[node.output], recipe)
            if weight is not None:
                ratio = np.sqrt(_spread(found.peaks) / weight)
                top = (found.peaks / ratio).max() * found.scale(rule.method or method) / found.maximum
                values[node.output] = replace(rule, scale=ratio * top)
    return replace(recipe, values=values)


def _weight(graph: Graph, value: str, readers: list[Node], recipe: Recipe) -> Array | None:
    """The largest weight that reads each channel, float64 [channels]; None when something else than a Linear reads the value, or one with
    scales of its own."""
    linear = [node for node in readers if isinstance(node, Linear) and recipe.weight(node.name, "linear").scale is None]
    if not linear or len(linear) < len(readers) or value in graph.outputs.values():
        return None
    largest: Array = np.max([np.abs(node.weight).max(1) for node in linear], axis=0).astype(np.float64)
    return _spread(largest) if largest.any() else None


def _spread(sizes: Array) -> Array:
    """None of them 0."""
    held: Array = np.maximum(sizes, SPREAD * sizes.max())
    return held


def widened(model: Model, recipe: Recipe) -> Recipe:
    """The recipe with 16 bits for every value that only linear maps read, where it does not say how many.

    Not for what a mean of tokens is taken of: the accumulator that adds them up holds less of 16 bits than of 8.
    """
    values = dict(recipe.values)
    for graph in model.tasks:
        for value in widenable(graph):
            rule = recipe.value(value)
            if rule.bits is None and rule.scale is None:
                values[value] = replace(rule, bits=WIDE.bits)
    return replace(recipe, values=values)


def widenable(graph: Graph) -> dict[str, None]:
    """The values that can have 16 bits, in the order of the network: see `widened`."""
    readers = consumers(graph)

    def by_weights(value: str) -> bool:
        return all(isinstance(node, (Select, Take)) and by_weights(node.output) or
                   isinstance(node, Linear) and not any(isinstance(reader, Mean) for reader in readers[node.output])
                   for node in readers[value])
    return dict.fromkeys(node.output for node in graph.nodes if isinstance(node, WIDENED) and (isinstance(node, MoE) or by_weights(node.output)))
