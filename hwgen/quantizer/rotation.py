"""The same network with its residual stream in other coordinates, in which no channel stands out.

A LayerNorm without gamma and beta keeps an orthogonal matrix that keeps the mean: ``norm(x @ Q) = norm(x) @ Q`` where ``Q @ 1 = 1``. So Q goes into
the weights that write the stream and into its constants, its transpose with gamma and beta into those that read the normalised value; the
network computes what it did. One scale for all channels then fits all of them: see decision 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
import random
from typing import Any

import numpy as np

from ..graph import Array, Graph, Model, Node
from ..ops import LayerNorm
from .calibration import LARGE, sites
from .recipe import EMPTY, Recipe

SIGNS = 0            # seed of the signs of a rotation


@cache
def rotation(dim: int) -> Array:
    """The matrix of this size, float64 [dim, dim]: orthogonal, symmetric, its rows add up to 1, and no entry is large.

    The cosine transform, a sign to each frequency but the constant one, and the transform back.
    """
    places = np.arange(dim)
    cosines = np.cos(np.pi / dim * (places[None] + 0.5) * places[:, None]) * np.sqrt(np.where(places == 0, 1, 2) / dim)[:, None]
    draw = random.Random(SIGNS)
    signs = np.array([1.0, *(draw.choice((-1.0, 1.0)) for _ in places[1:])])
    matrix: Array = cosines.T @ (signs[:, None] * cosines)
    return matrix


def rotated(model: Model, recipe: Recipe = EMPTY) -> Model:
    """The same functions, with every residual stream in other coordinates that allows it: all that writes and reads it has weights for that,
    it does not leave as it is, and the recipe gives no scale to a value or weight that would change. One of a quantized file keeps the whole
    numbers of its weights instead."""
    if recipe.steps is not None:
        return model
    known = sites(model)
    streams = _Streams()
    for graph, places in zip(model.tasks, known, strict=True):
        _join(graph, places, streams, recipe)
    return Model(tuple(_changed(graph, places, streams) for graph, places in zip(model.tasks, known, strict=True)))


class _Streams:
    """Sites of values that share coordinates; of all tasks, which share weights."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}
        self.held: set[int] = set()              # what cannot change, by any of its sites
        self.normalised: set[int] = set()

    def of(self, site: int) -> int:
        while (above := self.parent.setdefault(site, site)) != site:
            site = above
        return site

    def join(self, a: int, b: int) -> None:
        self.parent[self.of(a)] = self.of(b)

    @property
    def free(self) -> set[int]:
        """Those that change."""
        return {self.of(site) for site in self.normalised} - {self.of(site) for site in self.held}


def _join(graph: Graph, places: Mapping[str, int], streams: _Streams, recipe: Recipe) -> None:
    """Note which values of a graph share coordinates, and which cannot change theirs."""
    own = {value for value in places if recipe.value(value).scale is not None}                 # as it is
    affine: set[str] = set()                                                                   # gamma and beta are still to be applied
    given = {node.name for node in graph.nodes for name, rule in recipe.weights.items()
             if rule.scale is not None and node.name in (name, name.rpartition(": ")[0])}
    own |= {*graph.inputs, *graph.outputs.values()}
    for node in graph.nodes:
        if any(np.abs(array).max(initial=0) > LARGE for array in node.params().values()):      # float32 may not hold what becomes of them
            own |= {*node.inputs, node.output}
        norm = isinstance(node, LayerNorm)
        if node.COMMUTES or norm:
            for value in node.inputs:
                streams.join(places[value], places[node.output])
            if norm or node.params() or len(node.inputs) > 1:
                own |= affine & {*node.inputs}
            if norm or affine & {*node.inputs}:
                affine.add(node.output)
            if norm:
                streams.normalised.add(places[node.output])
        else:
            own |= {*(() if node.TAKES and node.name not in given else node.inputs),
                    *(() if node.GIVES and node.name not in given else (node.output,))}
    streams.held |= {places[value] for value in own}


def _changed(graph: Graph, places: Mapping[str, int], streams: _Streams) -> Graph:
    free = streams.free
    affine: dict[str, tuple[Array, Array]] = {}
    nodes, shapes = [], graph.shapes()
    for node in graph.nodes:
        nodes.append(_node(node, shapes, affine, {value for value in (*node.inputs, node.output) if streams.of(places[value]) in free}))
    return replace(graph, nodes=tuple(nodes))


def _node(node: Node, shapes: Mapping[str, tuple[int, ...]], affine: dict[str, tuple[Array, Array]], changed: set[str]) -> Node:
    """The node where the values ``changed`` have other coordinates. affine: gamma and beta of values that come without them now."""
    if isinstance(node, LayerNorm):
        if node.output not in changed:
            return node
        affine[node.output] = np.asarray(node.gamma, np.float64), np.asarray(node.beta, np.float64)
        return replace(node, gamma=np.ones_like(node.gamma), beta=np.zeros_like(node.beta))
    weights: dict[str, Array] = {}
    for value in dict.fromkeys(node.inputs):
        if value in changed and not node.COMMUTES:
            matrix = rotation(shapes[value][-1])
            gamma, beta = affine.get(value, (np.ones(len(matrix)), np.zeros(len(matrix))))
            weights |= node.reading(matrix.T * gamma, beta)
        elif value in affine:
            affine[node.output] = affine[value]
    node = _with(node, weights)
    return _with(node, node.turned(rotation(shapes[node.output][-1]))) if node.output in changed else node


def _with(node: Node, weights: Mapping[str, Array]) -> Node:
    changes: dict[str, Any] = {key: array.astype(np.float32) for key, array in weights.items()}
    return replace(node, **changes) if changes else node
