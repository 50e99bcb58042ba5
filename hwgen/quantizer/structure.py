"""Finds the residual streams of a float graph: values that are kept in 16 bits, because they are operands of a sum or normalised.

Everything else is an operand of a product, in 8 bits, or what such a product gives: a term of a sum, or an output. A network may have no
stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import ModelError, combined
from ..graph import Array, Graph, Node
from ..ops import Add, AddConst, ConcatTokens, LayerNorm, Mean, MoE, Prune
from ..ops.operator import SUPPORTED
from ..steps.tensor import Span


@dataclass(eq=False)
class Stream:
    """A residual stream: a constant, and the sums that follow.

    table: [T, D] of the start (position embedding, class tokens); places: its rows that the tokens of the terms of the start are added to.
    terms: state -> values that are added to the state before it, or to the table, in this order: a mixture of experts comes first, it reads the
    state before in every step; behind the others where there is none. The start up to its last constant is no state, and no
    sum that nothing reads but the next sum. source: the input that the stream starts with, None where it starts with terms.
    """

    table: Array
    places: Array
    terms: dict[str, tuple[str, ...]]
    source: str | None = None

    @property
    def runs(self) -> list[tuple[Span, Span]]:
        """Neighbouring tokens of the terms of the start, and the rows of the table they go to."""
        ends = [0, *(np.flatnonzero(np.diff(self.places) != 1) + 1).tolist(), len(self.places)]
        return [(Span(first, end - first), Span(int(self.places[first]), end - first)) for first, end in pairwise(ends)]

    @property
    def values(self) -> tuple[str, ...]:
        """Names of its states in order."""
        return tuple(self.terms)

    def between(self, largest: Mapping[str, float]) -> list[float]:
        """Bounds of what has its unit on the way to its states: each term, and the sum while they are added one after the other. largest: magnitude
        of every value."""
        found, before = [], float(np.abs(self.table).max())
        for state, terms in self.terms.items():
            sizes = [largest[term] for term in terms]
            found += [*sizes, *(min(before + sum(sizes[:count]), largest[state] + sum(sizes[count:])) for count in range(1, len(sizes)))]
            before = largest[state]
        return found

    @property
    def start(self) -> str:
        return next(iter(self.terms))

    @property
    def newest(self) -> str:
        return next(reversed(self.terms))


def consumers(graph: Graph) -> dict[str, list[Node]]:
    """Nodes that read each value (twice if they read it twice)."""
    readers: dict[str, list[Node]] = {name: [] for name in graph.inputs}
    for node in graph.nodes:
        readers.setdefault(node.output, [])
        for value in node.inputs:
            readers[value].append(node)
    return readers


def base(value: str, producers: Mapping[str, Node]) -> str:
    """What some tokens are taken of; the value itself where it is whole."""
    while (node := producers.get(value)) is not None and node.CHOOSES:
        (value,) = node.inputs
    return value


def find_residuals(graphs: Sequence[Graph]) -> list[list[Stream]]:
    """`find_streams` of every task; raises ModelError with what is wrong in any."""
    found: list[list[Stream]] = []
    wrong: list[ModelError] = []
    for graph in graphs:
        try:
            found.append(find_streams(graph))
        except ModelError as error:
            wrong.append(error)
    if wrong:
        raise combined(wrong)
    return found


def find_streams(graph: Graph) -> list[Stream]:
    """In the order of their starts. Raises ModelError with the nodes that use one as the engine does not."""
    if len(graph.inputs) != 1:
        shown = ", ".join(f"{name!r} {[1, *shape]}" for name, shape in sorted(graph.inputs.items()))
        raise ModelError(f"the network has {len(graph.inputs)} inputs, {shown}: several are supported where each is tokens [1, tokens, channels]",
                         where=f"graph {graph.name!r}", hint="make the other inputs constants before export, or give tokens: patches of an image")
    return _Search(graph).run()


class _Search:
    """of: stream of each state, those that are passed included. sums: those of terms only, which the next sum takes in."""

    def __init__(self, graph: Graph):
        self.graph, self.readers, self.shapes = graph, consumers(graph), graph.shapes()
        self.producers = {node.output: node for node in graph.nodes}
        self.leaving = set(graph.outputs.values())
        self.streams: list[Stream] = []
        self.of: dict[str, Stream] = {}
        self.sums: dict[str, tuple[str, ...]] = {}
        self.wrong: list[ModelError] = []

    def run(self) -> list[Stream]:
        for value in self.graph.inputs:
            if not self.readers[value] or value in self.leaving:
                raise ModelError(f"input {value!r} goes to {'an output' if not self.readers[value] else 'an output too'} as it is",
                                 where=f"graph {self.graph.name!r}", hint=SUPPORTED)
            if self._normalised(value) or any(isinstance(reader, (Add, AddConst, ConcatTokens)) for reader in self.readers[value]):
                self._begin(value, ()).source = value
        for node in self.graph.nodes:
            try:
                self._visit(node)
            except ModelError as error:
                error.behind = self._behind(node)
                self.wrong.append(error)
        if self.wrong:
            raise combined(self.wrong)
        for stream in self.streams:
            self._merge(stream)
            stream.terms = {state: tuple(sorted(terms, key=lambda term: isinstance(self.producers.get(term), MoE) == (state == stream.start)))
                            for state, terms in stream.terms.items()}
        return self.streams

    def _visit(self, node: Node) -> None:
        match node:
            case AddConst() | ConcatTokens():
                self._constant(node)
            case Add():
                self._sum(node)
            case Prune():                                            # 16-bit words as they were, not a product
                self._begin(node.output, (node.output,))
            case _ if not node.CHOOSES and self._normalised(node.output):
                self._begin(node.output, (node.output,))

    def _normalised(self, value: str) -> bool:
        """Whether a LayerNorm reads it, or some of its tokens."""
        return any(isinstance(reader, LayerNorm) or reader.CHOOSES and not isinstance(reader, Mean) and self._normalised(reader.output)
                   for reader in self.readers[value])

    def _begin(self, state: str, terms: tuple[str, ...]) -> Stream:
        shape = self.shapes[state]
        if len(shape) > 2:
            blamed = self.producers.get(state) or self.readers[state][0]
            raise blamed.fail(f"value {state!r} has the shape {list(shape)}, it is no sequence of tokens: it cannot be added to or normalised",
                              hint=SUPPORTED)
        table = np.zeros(shape if len(shape) == 2 else (1, *shape), np.float64)
        stream = Stream(table, np.arange(len(table)), {state: terms})
        self.streams.append(stream)
        self.of[state] = stream
        return stream

    def _constant(self, node: AddConst | ConcatTokens) -> None:
        """Constants belong to the start of a stream."""
        stream = self.of.get(node.x)
        if stream is None:
            stream = self._begin(node.x, (node.x,))
        elif node.x != stream.start or stream.newest != stream.start or node.x in self.leaving or not self._starts_with(node.x, node):
            raise node.fail("a constant for each token is only supported where the residual stream starts", hint=SUPPORTED)
        if isinstance(node, ConcatTokens):
            mine, constant = node.rows(len(stream.table))
            table = np.empty((len(mine) + len(constant), stream.table.shape[1]))
            table[mine], table[constant] = stream.table, node.tokens
            stream.table, stream.places = table, mine[stream.places]
        else:
            stream.table = stream.table + node.value
        stream.terms = {node.output: stream.terms[node.x]}
        self.of[node.output] = stream

    def _sum(self, node: Add) -> None:
        newest = next((value for value in node.inputs if value in self.of and value == self.of[value].newest), None)
        others = list(node.inputs)
        if newest is not None:
            others.remove(newest)
        terms = tuple(term for value in others for term in self.sums.get(value, (value,)))
        if newest is not None:
            self.of[newest].terms[node.output] = terms
            self.of[node.output] = self.of[newest]
        elif self._only_added(node.output):
            self.sums[node.output] = terms
        else:
            self._begin(node.output, terms)

    def _starts_with(self, state: str, node: Node) -> bool:
        """Whether ``node`` alone adds a constant to a start, or else it is only multiplied: the words of the host are so before that."""
        others = [reader for reader in self.readers[state] if reader is not node]
        return not others or state in self.graph.inputs and all(reader.MULTIPLIES for reader in others)

    def _only_added(self, value: str) -> bool:
        """Whether nothing but one sum reads it."""
        return value not in self.leaving and [type(reader) for reader in self.readers[value]] == [Add]

    def _behind(self, node: Node) -> int:
        """Nodes and outputs that need its result."""
        needs = {node.output}
        for reader in self.graph.nodes:
            if not needs.isdisjoint(reader.inputs):
                needs.add(reader.output)
        return len(needs) - 1 + sum(value in needs for value in self.graph.outputs.values())

    def _merge(self, stream: Stream) -> None:
        """Sums that nothing reads but the next sum are a part of it."""
        states = list(stream.values)
        for state, after in pairwise(states[1:]):
            if self._only_added(state):
                stream.terms[after] = (*stream.terms.pop(state), *stream.terms[after])
