"""A candidate proves itself: what a rule made of ONNX operators is evaluated on random values beside those operators.

The values a candidate's nodes read are drawn at random; from what they are in the file everything up to the operator's result is computed as
ONNX says, and the nodes compute theirs. Where every node takes each token by itself a few tokens are drawn and the others are NaN: what
is not known is not computed, and an operator that mixes tokens after all shows. A spelling that was proved is not proved again for the next
layer with it, which differs in its weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
from typing import Any

import numpy as np

from ..graph import Array, Node, Shape
from .opgraph import Evaluate, Op, OpGraph, Ref, View
from .region import Unprovable, moved
from .trial import Bound, Match, Mismatch, Trial

TOKENS = 4                  # drawn, for nodes that take each by itself
TOLERANCE = 1e-4            # of the largest value of the result
LARGE = 1e15                # weights beyond it leave float32 on the way: nothing can be compared
MAX_OPERATORS = 256         # between what a candidate reads and what it gives
BY_ELEMENT = {"Erf", "Exp", "Gelu", "Relu", "Sigmoid", "Sqrt", "Swish", "Tanh"}


class Prover:
    """Proves the candidates of one graph."""

    def __init__(self, graph: OpGraph, bound: Mapping[str, Bound]):
        self.graph, self.bound = graph, bound
        self.between: dict[str, Node] = {}                       # ir value that no ONNX value is -> the node that makes it
        self.proved: set[tuple[object, ...]] = set()

    def prove(self, trial: Trial, match: Match, order: Array | None, shapes: Mapping[str, Shape]) -> None:
        """Raises Mismatch when the nodes of the match compute something else than the operator. order: of `Bound`; shapes: of ir values."""
        nodes = self._with_those_between((*trial.nodes, *match.nodes))
        made = {node.output for node in nodes}
        given = {value: shapes[value] for value in (*(value for node in nodes for value in node.inputs), match.value) if value not in made}
        try:
            part = _Part(self.graph, self.bound, list(given), trial.op)
            spelling = (part.spelling(), *map(_structure, nodes), match.factor, match.affine is None, None if order is None else _digest(order))
            if spelling not in self.proved and _compare(nodes, match, given, part):
                self.proved.add(spelling)
        except Unprovable:
            pass
        self.between.update({node.output: node for node in (*trial.nodes, *match.nodes[:-1])})

    def _with_those_between(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """Behind the nodes of earlier matches that they read and that no ONNX value can stand for: a token taken out, a Linear scaled."""
        made = {node.output for node in nodes}
        before = {value: self.between[value] for node in nodes for value in node.inputs if value in self.between and value not in made}
        return (*self._with_those_between(tuple(before.values())), *nodes) if before else nodes


def _compare(nodes: tuple[Node, ...], match: Match, given: dict[str, Shape], part: _Part) -> bool:
    """Whether there was something to compare; raises Mismatch and Unprovable."""
    rng = np.random.default_rng(0)
    drawn = {value: rng.standard_normal(shape).astype(np.float32) for value, shape in given.items()}
    tokens = _few_tokens(nodes, given, rng)
    if tokens is not None:
        for array in drawn.values():
            array[np.setdiff1d(np.arange(len(array)), tokens)] = np.nan
    right = part.evaluate(drawn).ravel()[match.positions].astype(np.float64)
    values = {value: (array if tokens is None else array[tokens])[None] for value, array in drawn.items()}
    settled: Array | None = None
    with np.errstate(all="ignore"):
        for node in nodes:
            operands = [values[value] for value in node.inputs]
            values[node.output] = node.evaluate(*operands)
            settled = node.settled(*operands)
        found = values[match.value][0] if match.affine is None else match.affine.of(values[match.value][0])
        found = match.factor * found.astype(np.float64)
        right = right if tokens is None else right[tokens]
        if settled is not None:
            right, found = right[settled[0]], found[settled[0]]
        error, largest = np.abs(right - found), float(np.abs(found).max(initial=0.0))
    same = (error <= TOLERANCE * largest) | (np.isnan(right) & np.isnan(found)) | (right == found)
    if not same.all() and all(float(np.abs(array).max(initial=0.0)) < LARGE for node in nodes for array in node.params().values()):
        kind = type(match.nodes[-1]).__name__ if match.nodes else "factor and an offset for each channel"
        raise Mismatch(f"was read as {'an' if kind[0] in 'AEIO' else 'a'} {kind}, which computes something else: on random values the results "
                       f"differ by up to {float(error[~same].max()):.3g}, where the largest value is {largest:.3g}", part.op.name)
    return largest > 0


def _few_tokens(nodes: tuple[Node, ...], given: dict[str, Shape], rng: np.random.Generator) -> Array | None:
    """Places of the tokens to draw; None for all."""
    counts = {shape[0] for shape in given.values() if len(shape) == 2}
    if len(counts) != 1 or any(len(shape) != 2 for shape in given.values()) or not all(node.BY_TOKEN for node in nodes):
        return None
    (count,) = counts
    return np.sort(rng.choice(count, TOKENS, replace=False)) if count > TOKENS else None


def _structure(node: Node) -> tuple[object, ...]:
    """What a node is but for its names and its weights."""
    return type(node), tuple(node.attributes().values()), tuple((array.shape, bool(array.any())) for array in node.params().values())


def _memory(index: Array | None) -> object:
    """Equal for equal positions: the pool of an import keeps them once, and reshaped ones lie in the same place."""
    return index is not None and (index.__array_interface__["data"][0], index.shape, index.strides)


def _digest(array: Array) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


class _Part:
    """The operators between values of the network (``given``, by their name in the ir) and the result of ``op``."""

    def __init__(self, graph: OpGraph, bound: Mapping[str, Bound], given: list[str], op: Op):
        self.graph, self.bound, self.given, self.op = graph, bound, given, op
        self.ops: list[Op] = []                                  # from the operands to the result
        self.leaves: dict[str, Bound | None] = {}                # ONNX value -> what it is; None for an input of the network
        seen: set[str] = set()
        waiting = [(op, False)]
        while waiting:
            at, ready = waiting.pop()
            if ready:
                self.ops.append(at)
            elif at.name not in seen:
                seen.add(at.name)
                if len(seen) > MAX_OPERATORS or any(shape is None for shape in at.shapes):
                    raise Unprovable
                waiting.append((at, True))
                waiting += [(before, False) for ref in at.inputs if isinstance(ref, View) and (before := self._before(ref.base)) is not None]

    def _before(self, value: str) -> Op | None:
        """The operator that computes it, None for a leaf."""
        known = self.bound.get(value)
        producer = self.graph.producers.get(value)
        if known is not None and known.value in self.given or producer is None:
            self.leaves[value] = known if known is not None and known.value in self.given else None
            return None
        return producer

    def spelling(self) -> tuple[object, ...]:
        """Equal for parts that differ in names and in the values of their weights: constants of several numbers that are not all zero."""
        number = {value: place for place, value in enumerate((*self.leaves, *(output for op in self.ops for output in op.outputs)))}

        def operand(ref: Ref | None) -> object:
            if isinstance(ref, View):
                return number[ref.base], ref.shape, _memory(ref.index), ref.scale
            if ref is None:
                return None
            weight = ref.array.dtype.kind == "f" and ref.array.size > 1
            return bool(ref.array.any()) if weight else ref.array.tobytes(), ref.shape, ref.array.dtype

        leaves = [(leaf and (self.given.index(leaf.value), leaf.factor, leaf.affine is None, leaf.order is not None and _digest(leaf.order)))
                  for leaf in self.leaves.values()]
        return tuple(leaves), *((op.kind, repr(op.attrs), op.shapes, tuple(map(operand, op.inputs))) for op in self.ops)

    def evaluate(self, drawn: dict[str, Array]) -> Array:
        """The result of the last operator; raises Unprovable."""
        if self.graph.evaluate is None:
            raise Unprovable
        known: dict[str, Array] = {}
        for name, leaf in self.leaves.items():
            shape = self._shape(name)
            known[name] = leaf.onnx(drawn[leaf.value]).reshape(shape) if leaf is not None else \
                np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        for op in self.ops:
            operands = [None if ref is None else moved(self.graph, ref, known) for ref in op.inputs]
            results = _of_known(op, self.graph.evaluate, operands) or self.graph.evaluate(op, operands)
            if results is None:
                raise Unprovable
            known.update(zip(op.outputs, results, strict=False))
        return known[self.op.outputs[0]]

    def _shape(self, value: str) -> Shape:
        producer = self.graph.producers.get(value)
        return self.graph.inputs[value] if producer is None else producer.shape(producer.outputs.index(value))


def _of_known(op: Op, evaluate: Evaluate, operands: list[Array | None]) -> list[Array] | None:
    """What follows from the elements or rows that are not NaN, NaN for the others; None where there are none or the operator takes all at once."""
    first = operands[0] if operands else None
    if first is None or first.dtype.kind != "f" or not (op.kind in BY_ELEMENT or op.kind == "MatMul") or not np.isnan(first).any():
        return None
    at: Any
    if op.kind in BY_ELEMENT:
        at = (~np.isnan(first),)
    elif (weight := op.constant(1)) is not None and first.ndim >= 2 and weight.ndim >= 2:
        at = (..., np.flatnonzero((~np.isnan(first).any(-1)).reshape(-1, first.shape[-2]).any(0)), slice(None))
    else:
        return None
    some = evaluate(op, [first[at], *operands[1:]])
    if some is None:
        return None
    whole = np.full(op.shape(0), np.nan, some[0].dtype)
    whole[at] = some[0]
    return [whole]
