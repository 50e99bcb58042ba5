"""One network of nodes, and the networks of all tasks; both verify themselves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import math

import numpy as np

from ..errors import ModelError
from ..foreign import REPR, visible
from .node import Array, Node, Shape


@dataclass(frozen=True, eq=False)
class Graph:
    """One network, batch 1. ``nodes`` in topological order; every value is defined once."""

    name: str
    inputs: dict[str, Shape]                    # ONNX input name -> shape without batch
    nodes: tuple[Node, ...]
    outputs: dict[str, str]                     # ONNX output name -> value name
    output_shapes: dict[str, Shape] = field(default_factory=dict)       # as in the ONNX file, batch included
    output_orders: dict[str, Array] = field(default_factory=dict)       # where its elements stand in the value, flat; else in order

    def __repr__(self) -> str:
        return visible(f"<Graph {self.name}: {', '.join(self.inputs)} -> {', '.join(self.outputs)}, {len(self.nodes)} nodes>", limit=REPR)

    def shapes(self) -> dict[str, Shape]:
        """Shape of every value; raises ModelError at the first node that does not fit."""
        known = dict(self.inputs)
        for node in self.nodes:
            for value in node.inputs:
                if value not in known:
                    raise node.misplaced(f"input {value!r} is used before it is produced",
                                         hint="are the nodes in topological order?")
            if node.output in known:
                raise node.misplaced(f"value {node.output!r} is defined twice")
            known[node.output] = node.shape(*(known[v] for v in node.inputs))
        return known

    def shortened(self, tokens: int) -> Graph:
        """The network for the first so many tokens of its one input, a sequence. Raises ModelError where it has none."""
        ((name, (longest, *rest)),) = self.inputs.items()
        known = self.shapes()
        sizes = {output: (shape[0], tokens, *shape[2:]) if len(shape) > 2 and shape[1] == longest == known[self.outputs[output]][0] else shape
                 for output, shape in self.output_shapes.items()}
        short = replace(self, inputs={name: (tokens, *rest)}, nodes=tuple(node.shorter(tokens, longest) for node in self.nodes), output_shapes=sizes)
        return short.verify()

    def verify(self) -> Graph:
        """Checks names, order, shapes and that every weight is finite; returns self."""
        known = self.shapes()
        for name, value in self.outputs.items():
            if value not in known:
                raise ModelError(f"output {name!r} reads the unknown value {value!r}", where=f"graph {self.name!r}")
            order = self.output_orders.get(name)
            if order is not None and not np.array_equal(np.sort(order), np.arange(math.prod(known[value]))):
                raise ModelError(f"output {name!r} is no order of the elements of {value!r}", where=f"graph {self.name!r}")
        for node in self.nodes:
            for key, array in node.params().items():
                if not np.isfinite(array).all():
                    bad = int(np.flatnonzero(~np.isfinite(array.ravel()))[0])
                    raise node.fail(f"{key} holds {float(array.ravel()[bad])!r} at flat index {bad}",
                                    hint="export the model again; a quantizer needs finite weights")
        return self


@dataclass(frozen=True, eq=False)
class Model:
    """What the importer returns: one graph per task, in task order; tasks share weights by identity of the arrays."""

    tasks: tuple[Graph, ...]

    def __repr__(self) -> str:
        return visible(f"<Model: {len(self.tasks)} tasks, first {self.tasks[0]!r}>", limit=REPR)

    def verify(self) -> Model:
        first = self.tasks[0]
        for graph in self.tasks:
            graph.verify()
            if graph.inputs != first.inputs:
                raise ModelError(f"tasks have different inputs: {first.inputs} and {graph.inputs}", where=graph.name)
        return self
