"""A part of an ONNX graph between values that are given and one result: what is in it, and what it computes from other values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ..graph import Array
from .opgraph import Const, Op, OpGraph, Ref, View


class Unprovable(Exception):
    """An operator cannot be evaluated here, or there are too many of them; the judge compares the whole network."""


@dataclass(frozen=True, eq=False)
class Region:
    """``ops``: in order, the last one gives the result. leaves: the values they read that none of them gives."""

    graph: OpGraph
    ops: tuple[Op, ...]
    leaves: frozenset[str]

    def closed(self, leaf: str) -> bool:
        """Whether nothing outside reads what is computed from ``leaf`` inside, the result excepted."""
        inside = {op.name for op in self.ops}
        kept = {ref.base for ref in self.graph.outputs.values() if isinstance(ref, View)}
        behind = {leaf}
        for op in self.ops[:-1]:
            if any(isinstance(ref, View) and ref.base in behind for ref in op.inputs):
                behind.update(op.outputs)
        return not any(value in kept or any(reader.name not in inside for reader in self.graph.readers.get(value, ()))
                       for value in behind - {leaf})

    def run(self, given: Mapping[str, Array], wanted: Collection[str], instead: Mapping[str, Callable[[Array], Array]] | None = None
            ) -> dict[str, Array]:
        """The wanted values of it. given: the leaves; instead: value -> what to go on with in the place of it. Raises Unprovable."""
        if self.graph.evaluate is None:
            raise Unprovable
        known, found = dict(given), {value: given[value] for value in wanted if value in given}
        last = {ref.base: place for place, op in enumerate(self.ops) for ref in op.inputs if isinstance(ref, View)}
        for place, op in enumerate(self.ops):
            results = self.graph.evaluate(op, [None if ref is None else moved(self.graph, ref, known) for ref in op.inputs])
            if results is None:
                raise Unprovable
            for output, result in zip(op.outputs, results, strict=False):
                known[output] = instead[output](result) if instead and output in instead else result
                if output in wanted:
                    found[output] = known[output]
            for ref in op.inputs:
                if isinstance(ref, View) and last[ref.base] == place:
                    known.pop(ref.base, None)
        return found


def region(graph: OpGraph, result: Op, is_leaf: Callable[[str], bool], limit: int) -> Region | None:
    """The operators between leaves and a result; None with more than ``limit`` of them. Inputs of the graph are leaves as well."""
    found: list[Op] = []
    seen, ends = {result.name}, set()
    waiting: list[tuple[Op, bool]] = [(result, False)]
    while waiting:
        op, ready = waiting.pop()
        if ready:
            found.append(op)
            continue
        if len(seen) > limit:
            return None
        waiting.append((op, True))
        for ref in op.inputs:
            before = graph.producers.get(ref.base) if isinstance(ref, View) else None
            if isinstance(ref, View) and (before is None or is_leaf(ref.base)):
                ends.add(ref.base)
            elif before is not None and before.name not in seen:
                seen.add(before.name)
                waiting.append((before, False))
    order = graph.places
    return Region(graph, tuple(sorted(found, key=lambda op: order[op.name])), frozenset(ends))


def moved(graph: OpGraph, ref: Ref, known: Mapping[str, Array]) -> Array:
    """An operand where these values are known."""
    if isinstance(ref, Const):
        return ref.array
    base = known[ref.base]
    if ref.index is not None:
        base = base.ravel()[ref.index]
    elif graph.shapes.get(ref.base, ref.shape) is not None:             # one whose shape is not known is moved by operators only
        base = base.reshape(ref.shape)
    return base if ref.scale == 1.0 else base * base.dtype.type(ref.scale)


def behind(ops: tuple[Op, ...], kinds: Collection[str]) -> set[str]:
    """Operators of these kinds, and those that read from them, directly or not."""
    names: set[str] = set()
    values: set[str] = set()
    for op in ops:
        if op.kind in kinds or any(isinstance(ref, View) and ref.base in values for ref in op.inputs):
            names.add(op.name)
            values.update(op.outputs)
    return names


def needed(graph: OpGraph) -> tuple[Op, ...]:
    """The operators the outputs depend on, in order."""
    values = {ref.base for ref in graph.outputs.values() if isinstance(ref, View)}
    kept = []
    for op in reversed(graph.ops):
        if values.intersection(op.outputs):
            kept.append(op)
            values.update(ref.base for ref in op.inputs if isinstance(ref, View))
    return tuple(reversed(kept))
