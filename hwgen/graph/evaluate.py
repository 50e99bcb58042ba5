"""What a network computes, in float32 numpy, a whole batch of images at once: a loop over its nodes."""

from __future__ import annotations

from collections.abc import Iterator
import math

import numpy as np

from ..errors import InputError
from .graph import Graph
from .node import Array, Inner, Node

CHUNK_ELEMENTS = 8_000_000      # float values of a trace that `run` keeps at a time


def run(graph: Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """Outputs of the network: {input name: float [B, ...]} -> {ONNX output: float32 [B, ...]}.

    The dimensions after the batch are those of ``graph.output_shapes`` where it names the output. Works through the batch
    in chunks. Raises InputError when an input is missing or does not fit the graph.
    """
    shapes = graph.shapes()
    chunk = max(1, CHUNK_ELEMENTS // sum(math.prod(shape) for shape in shapes.values()))
    count = max([len(inputs[name]) for name in graph.inputs if name in inputs], default=0)
    parts: dict[str, list[Array]] = {name: [] for name in graph.outputs}
    for start in range(0, max(count, 1), chunk):
        values = trace(graph, {name: array[start:start + chunk] for name, array in inputs.items()})
        for name, value in graph.outputs.items():
            tail = graph.output_shapes.get(name, (0, *shapes[value]))[1:]
            flat = values[value].reshape(len(values[value]), math.prod(shapes[value]))
            order = graph.output_orders.get(name)
            parts[name].append((flat if order is None else flat[:, order]).reshape(len(flat), *tail))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def trace(graph: Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """Every value of the graph, the inputs included: {value name: float32 [B, *shape]}. What overflows is infinite or NaN."""
    values: dict[str, Array] = {}
    for _ in steps(graph, inputs, values):
        pass
    return values


def steps(graph: Graph, inputs: dict[str, Array], values: dict[str, Array], inner: bool = False) -> Iterator[tuple[Node, Inner]]:
    """Computes node by node and gives each, its output being in ``values`` then, with what it computed on the way if ``inner``."""
    for name, shape in graph.inputs.items():
        if name not in inputs:
            raise InputError(f"input {name!r} is missing; given are {sorted(inputs)}", where=f"graph {graph.name!r}")
        values[name] = np.asarray(inputs[name], np.float32)
        if values[name].shape[1:] != tuple(shape):
            raise InputError(f"input {name!r} has shape {values[name].shape}, expected [images, {', '.join(map(str, shape))}]",
                             where=f"graph {graph.name!r}", hint="give the images along the first axis")
    for node in graph.nodes:
        kept: Inner = []
        with np.errstate(all="ignore"):
            values[node.output] = node.evaluate(*(values[v] for v in node.inputs), inner=kept if inner else None).astype(np.float32, copy=False)
        yield node, kept
