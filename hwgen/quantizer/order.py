"""The order in which the nodes of a float graph are lowered: a state of a residual stream is gone once the next one is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ..graph import Graph, Node
from ..ops import Activation, LayerNorm, Multiply
from .structure import Stream, base, consumers

Unit = Node | str
"""What is lowered at one go: a node, or an output by its ONNX name."""


def multiplied(graph: Graph) -> set[str]:
    """Values that are operands of a product, or of which some tokens are."""
    readers = consumers(graph)
    found: set[str] = set()
    for value in (*(node.output for node in reversed(graph.nodes)), *graph.inputs):
        if any(reader.MULTIPLIES or reader.CHOOSES and reader.output in found for reader in readers[value]):
            found.add(value)
    return found


def order(graph: Graph, streams: Sequence[Stream]) -> Iterator[Unit]:
    """That of the nodes, then the outputs, but what normalises a state comes before the sum that changes it; and so does, where that is
    possible, what reads the state or its normalised value: an engine that has them on the way into the array need not store them then."""
    return _Order(graph, streams).run()


class _Order:
    """before: for each unit those that have to come before it; rather: those that should."""

    def __init__(self, graph: Graph, streams: Sequence[Stream]):
        self.units: list[Unit] = [*graph.nodes, *graph.outputs]
        self.graph, self.multiplied = graph, multiplied(graph)
        self.producers = {node.output: node for node in graph.nodes}
        self.terms = {state: terms for stream in streams for state, terms in stream.terms.items()}
        places = {node.output: place for place, node in enumerate(graph.nodes)}
        changes = {old: places[new] for stream in streams for old, new in pairwise(stream.values)}
        self.before: list[set[int]] = [{places[value] for value in self._given(unit) if value in places} for unit in self.units]
        self.rather: list[set[int]] = [set() for _ in self.units]
        for place, unit in enumerate(self.units):
            for value in self._reads(unit):
                norm = self.producers.get(value)
                state = base(norm.x, self.producers) if isinstance(norm, LayerNorm) else value
                change = changes.get(state, place)
                if change != place:
                    (self.before if isinstance(unit, LayerNorm) else self.rather)[change].add(place)

    def run(self) -> Iterator[Unit]:
        done: set[int] = set()
        left = list(range(len(self.units)))
        while left:
            ready = [place for place in left if self.before[place] <= done]
            place = next((place for place in ready if self.rather[place] <= done), ready[0])
            left.remove(place)
            done.add(place)
            yield self.units[place]

    def _given(self, unit: Unit) -> tuple[str, ...]:
        return (self.graph.outputs[unit],) if isinstance(unit, str) else unit.inputs

    def _reads(self, unit: Unit) -> Iterator[str]:
        """Values whose words are read where the unit is lowered."""
        if isinstance(unit, str):
            yield self._taken_in(self.graph.outputs[unit])
            return
        yield from map(self._taken_in, self.terms.get(unit.output, ()))
        if unit.ABSORBS:
            for value in unit.inputs:
                gate = self.producers.get(value) if isinstance(unit, Multiply) else None
                yield self._taken_in(gate.x if isinstance(gate, Activation) else value)
        elif unit.output in self.multiplied or not unit.DEFERS:
            yield from (base(value, self.producers) for value in unit.inputs)

    def _taken_in(self, value: str) -> str:
        """Of a sum, an output or an activation: they do what was put off to them."""
        value = base(value, self.producers)
        node = self.producers.get(value)
        return base(node.inputs[0], self.producers) if node is not None and node.DEFERS else value
