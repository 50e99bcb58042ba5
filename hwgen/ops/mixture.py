"""What looks like a mixture of experts in an ONNX graph: its operators, and the layers of its experts, in whatever order they stand.

A mixture is found by its router: a Linear whose results go into a softmax or a choice. From there to the one value that holds the sum it is a
region that reads nothing but the router's logits and one other value, which the experts read: the router's input, or any other tokens.
Experts are products with constants in it, one behind another; how tokens are gathered for them, and how results are weighted and added, is
not looked at here: `routing` evaluates it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
import math

import numpy as np

from ..functions import Act
from ..graph import Array
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.region import Region, region
from ..matching.trial import Bound, Mismatch, Trial
from .activation import Activation
from .linear import Linear
from .operands import unread

SIGMOID = Act("sigmoid")
LIMIT = 20_000                   # operators of a mixture
CHOICES = {"Softmax", "LogSoftmax", "TopK", "ArgMax", "ReduceMax", "Hardmax"}         # what reads the logits of a router
BY_HAND = {"Sigmoid", "Exp"}                                                           # or these, which may be an activation of an expert as well
PRODUCTS = {"MatMul", "Gemm", "Einsum"}
SELECTIONS = {"Gather", "GatherND", "GatherElements", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Split", "Cast", "Expand",
              "Identity", "Flatten"}
MOVES = SELECTIONS | {"Concat", "Tile", "Where", "Mul", "Pad", "ScatterElements", "ScatterND"}     # of tokens on their way to experts
SHAPES = {"Shape", "Size"}


@dataclass(frozen=True, eq=False)
class Logits:
    """What a router reads: ``value``, ``factor`` times the ONNX value; bound: what that is in the ir, a Linear ``gate``."""

    value: str
    bound: Bound
    gate: Linear
    factor: float


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of one expert or of several: ``scale * x @ weight + bias``, the weight and the bias as constants of the file."""

    weight: Array
    bias: Array | None
    scale: float

    def weights(self, count: int, n_in: int) -> Iterator[Array]:
        """Each way to read the weight as [count, n_in, N]."""
        found = self.weight.reshape([size for size in self.weight.shape if size != 1])
        if found.ndim == 2 and count > 1:                            # side by side: [n_in, count * N] or its transpose
            for wide in (found, found.T):
                if wide.shape[0] == n_in and wide.shape[1] % count == 0:
                    yield wide.reshape(n_in, count, -1).transpose(1, 0, 2)
                    yield wide.reshape(n_in, -1, count).transpose(2, 0, 1)
            return
        if found.ndim == 2:
            found = found[None]
        if found.ndim == 3 and found.size:
            for axes in permutations(range(3)):
                if (found.shape[axes[0]], found.shape[axes[1]]) == (count, n_in):
                    yield found.transpose(axes)

    def biases(self, count: int, n: int) -> Iterator[Array]:
        """Each way to read the bias as [count, n]."""
        if self.bias is None:
            yield np.zeros((count, n), np.float32)
        elif self.bias.size == n:
            yield np.broadcast_to(self.bias.reshape(n), (count, n))
        elif self.bias.size == count * n:
            found = self.bias.reshape([size for size in self.bias.shape if size != 1])
            yield from (array.reshape(count, n) for array in (found, found.T) if array.shape in ((count, n), (count * n,)))


@dataclass(frozen=True, eq=False)
class Expert:
    """Layers of one expert, or of a stack of them. before: the value that goes into the activation; behind: what the second layer reads.
    third: of gated experts, a layer beside the first one, and ``beside`` its result; which of both the activation is of, is not known here."""

    first: Layer
    second: Layer
    before: str
    behind: View
    third: Layer | None = None
    beside: str = ""

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.first, self.second, *(() if self.third is None else (self.third,))


@dataclass(frozen=True, eq=False)
class Mixture:
    """``xs``: ONNX values that hold what the experts read, and what they are in the ir; scalars: the numbers in it, for factors that are one of
    them."""

    region: Region
    logits: Logits
    xs: Mapping[str, Bound]
    experts: tuple[Expert, ...]
    routing: frozenset[str]              # operators that work on the logits alone
    mixes: bool                          # it multiplies tokens with what the router gives before an expert sees them
    changed: Op | None                   # what does something else to tokens before an expert sees them
    scalars: tuple[float, ...]

    @property
    def x(self) -> str:
        """What the experts read, in the ir."""
        return next(iter(self.xs.values())).value

    def has(self, *kinds: str) -> bool:
        """Whether the router has an operator of these kinds."""
        return not self.routing.isdisjoint(kinds)


def mixture(op: Op, trial: Trial) -> Mixture | None:
    """The mixture whose sum ``op`` gives; None when it gives something else. Raises Mismatch when its experts are none that are supported."""
    logits = None if CHOICES.isdisjoint(trial.graph.operators) else _logits(op, trial)
    if logits is None:
        return None
    xs = {name: bound for name, bound in trial.bound.items() if bound.value == logits.gate.x and bound.node is not None or name == logits.gate.x}
    try:
        found = _read(op, trial, logits, xs)
    except Mismatch:
        early = _early(op, trial, logits, xs)
        if early is None:
            raise
        return early
    if found is not None and (found.experts or found.has("TopK", "ArgMax")):     # an attention that is written out has a softmax too
        return found
    return _early(op, trial, logits, xs)


def _read(op: Op, trial: Trial, logits: Logits, xs: Mapping[str, Bound]) -> Mixture | None:
    """The mixture whose experts read the one ir value that ``xs`` hold; None when there is none."""
    found = region(trial.graph, op, {*xs, logits.value}.__contains__, LIMIT)
    xs = {name: bound for name, bound in xs.items() if found is not None and name in found.leaves}
    if found is None or not xs or not found.closed(logits.value) or found.leaves != {*xs, logits.value} \
            or math.prod(op.shape(0)) != math.prod(next(iter(xs.values())).shape):
        return None
    return _Reader(found, logits, xs, op).read()


def _early(op: Op, trial: Trial, logits: Logits, xs: Mapping[str, Bound]) -> Mixture | None:
    """The one whose experts read other tokens than its router: the last value that all of them read; None where there is no such value.
    Raises Mismatch where its router reads what is not supported."""
    found = region(trial.graph, op, {*xs, logits.value}.__contains__, LIMIT)
    if found is None or not found.closed(logits.value) or all(part.kind not in ("TopK", "ArgMax") for part in found.ops):
        return None
    places, producers = trial.graph.places, trial.graph.producers
    open_values = {op.outputs[0]}
    while made := [value for value in open_values if value in producers and value != logits.value]:
        last = producers[max(made, key=lambda value: places[producers[value].name])]
        open_values = open_values - {*last.outputs} | {ref.base for ref in last.inputs if isinstance(ref, View)}
        read = {value: trial.bound.get(value) for value in open_values - {logits.value}}
        known = {value: bound for value, bound in read.items() if bound is not None and (bound.node is not None or not bound.anchor)}
        if len(known) == len(read) and len({bound.value for bound in known.values()}) == 1:
            try:
                mixture = _read(op, trial, logits, known)
            except Mismatch:                                         # of what lies before the experts
                continue
            if mixture is not None and mixture.experts and mixture.changed is None and mixture.x != logits.gate.x:
                return mixture
    if (unsupported := unread(trial, logits.gate.x)) is not None:
        raise Mismatch(f"is behind {unsupported!r}, which is not supported and which its router reads", op.name)
    return None


def _logits(op: Op, trial: Trial) -> Logits | None:
    """Those of the router that ``op`` is behind: the Linear a softmax or a choice reads, between it and the next values of the ir."""
    def is_read(value: str) -> bool:
        bound = trial.bound.get(value)
        return bound is not None and (bound.node is not None or not bound.anchor) and not _is_sigmoid(bound)       # not what was given up

    near = region(trial.graph, op, is_read, LIMIT)
    if near is None:
        return None
    found = _read_by(CHOICES, trial, near) or _read_by(BY_HAND, trial, near)
    if len(found) != 1:
        if not found and any(part.kind in ("TopK", "ArgMax") for part in near.ops):
            _no_linear(op, trial, near)
        return None
    (value, factors), = found.items()
    bound, gate = trial.bound[value], trial.bound[value].node
    if not isinstance(gate, Linear):
        return None
    if len(factors) > 1:
        raise Mismatch(f"has a router that reads its logits {value!r} times {' and times '.join(f'{factor:.6g}' for factor in sorted(factors))}",
                       op.name)
    factor = factors.pop()
    if not factor:
        raise Mismatch(f"has a router that reads its logits {value!r} times 0", op.name)
    return Logits(value, bound, gate, factor)


def _is_sigmoid(bound: Bound) -> bool:
    """What a router may make scores by."""
    return isinstance(bound.node, Activation) and bound.node.kind == SIGMOID


def _read_by(kinds: set[str], trial: Trial, near: Region) -> dict[str, set[float]]:
    """Results of a Linear that operators of these kinds read, and how many times what they are."""
    found: dict[str, set[float]] = {}
    for part in near.ops:
        for ref in part.inputs:
            if part.kind in kinds and isinstance(ref, View) and ref.base in near.leaves and ref.base in trial.bound \
                    and isinstance(trial.bound[ref.base].node, Linear):
                found.setdefault(ref.base, set()).add(ref.scale)
    return found


def _no_linear(op: Op, trial: Trial, near: Region) -> None:
    """Raises Mismatch for a router that chooses by what no Linear gives."""
    for part in near.ops:
        bound = trial.bound.get(part.inputs[0].base) if part.kind in CHOICES | BY_HAND and isinstance(part.inputs[0], View) else None
        if bound is not None and bound.node is not None and bound.shape[0] > 1:         # of a row of scores tokens are chosen, not experts
            kind = getattr(bound.node, "kind", None)
            raise Mismatch(f"has a router that takes {kind.function.title if kind else type(bound.node).__name__} of its logits before it chooses; "
                           "supported is a softmax of what a Linear gives", op.name)


@dataclass(eq=False)
class _Reader:
    """Sorts the values of a region by what they hold. depth: of values that depend on a token, products with constants before them."""

    region: Region
    logits: Logits
    xs: Mapping[str, Bound]
    result: Op
    depth: dict[str, int] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)            # of values that are tokens, moved about
    products: dict[str, tuple[Op, View, Array]] = field(default_factory=dict)     # result -> operator, operand, weight
    routing: set[str] = field(default_factory=set)
    mixes: bool = False
    changed: Op | None = None

    def read(self) -> Mixture:
        self.depth.update(dict.fromkeys(self.xs, 0))
        self.scales.update(dict.fromkeys(self.xs, 1.0))
        for op in self.region.ops:
            self._sort(op)
        experts: dict[tuple[object, ...], Expert] = {}
        for value, (op, operand, _) in self.products.items():
            if self.depth[value] > 2:
                raise Mismatch(f"has experts of more than two layers: {op.name!r} is a third one", self.result.name)
            if self.depth[value] == 2:
                expert = self._expert(value, operand)
                experts.setdefault(tuple(id(array) for layer in expert.layers for array in (layer.weight, layer.bias)), expert)
        return Mixture(self.region, self.logits, self.xs, tuple(experts.values()), frozenset(self.routing), self.mixes, self.changed,
                       tuple(self._scalars()))

    def _sort(self, op: Op) -> None:
        views = [ref for ref in op.inputs if isinstance(ref, View)]
        tokens = [ref for ref in views if ref.base in self.depth and op.kind not in SHAPES]
        if not tokens:
            self.routing.add(op.kind)
            return
        depth = max(self.depth[ref.base] for ref in tokens)
        weight = self._weight(op) if op.kind in PRODUCTS and len(tokens) == 1 else None
        for output in op.outputs:
            self.depth[output] = depth + (weight is not None)
            if weight is not None:
                self.products[output] = (op, tokens[0], weight)
            elif depth == 0:
                self.mixes |= op.kind in PRODUCTS
                self.changed = self.changed or (None if op.kind in PRODUCTS or op.kind in MOVES else op)
                constant = [ref.array for ref in op.inputs if isinstance(ref, Const) and ref.array.size == 1]
                factor = float(constant[0].ravel()[0]) if op.kind == "Mul" and constant else 1.0
                self.scales[output] = self.scales[tokens[0].base] * tokens[0].scale * factor

    def _weight(self, op: Op) -> Array | None:
        """The constant a product multiplies tokens with: a matrix, or a stack some matrices are taken from."""
        for ref in op.inputs[:2]:
            array = self._constant(ref)
            if array is not None and array.ndim >= 2:
                return array * np.float32(op.number("alpha", 1.0)) if op.kind == "Gemm" and op.number("alpha", 1.0) != 1 else array
        return None

    def _constant(self, ref: Ref | None) -> Array | None:
        """A constant, or what the router takes out of one."""
        scale = 1.0
        while isinstance(ref, View):
            op = self.region.graph.producers.get(ref.base)
            if op is None or ref.base in self.depth or ref.base == self.logits.value or op.kind not in SELECTIONS:
                return None
            scale *= ref.scale
            ref = op.operand(0)
        if ref is None or ref.array.dtype.kind != "f":
            return None
        return ref.array if scale == 1 else ref.array * np.float32(scale)

    def _expert(self, value: str, hidden: View) -> Expert:
        """The one whose second product gives ``value``."""
        firsts = [product for product in self.products if product in self._before(hidden)]
        if len(firsts) not in (1, 2):
            raise Mismatch(f"has experts whose second layer {self.products[value][0].name!r} reads {len(firsts)} first layers", self.result.name)
        before, first_layer = self._layer(firsts[0])
        _, second_layer = self._layer(value)
        if len(firsts) == 1:
            return Expert(first_layer, second_layer, before, hidden)
        beside, third_layer = self._layer(firsts[1])
        return Expert(first_layer, second_layer, before, hidden, third_layer, beside)

    def _before(self, hidden: View) -> set[str]:
        """First products that a value between the two is computed from."""
        found, seen, waiting = set(), set(), [hidden.base]
        while waiting:
            value = waiting.pop()
            if value in seen or self.depth.get(value) != 1:
                continue
            seen.add(value)
            if value in self.products:
                found.add(value)
            else:
                waiting += [ref.base for ref in self.region.graph.producers[value].inputs if isinstance(ref, View)]
        return found

    def _layer(self, product: str) -> tuple[str, Layer]:
        """(its result, it): a product, and the constant that is added to it."""
        op, operand, weight = self.products[product]
        scale = operand.scale * self.scales.get(operand.base, 1.0) if self.depth[product] == 1 else 1.0
        if op.kind == "Gemm" and (bias := self._constant(op.operand(2))) is not None:
            beta = op.number("beta", 1.0)
            return product, Layer(weight, bias if beta == 1 else bias * np.float32(beta), scale)
        value = product
        while True:
            readers = [reader for reader in self.region.graph.readers.get(value, ()) if reader.kind not in SHAPES]
            if len(readers) != 1:
                return product, Layer(weight, None, scale)
            (reader,) = readers
            views = [ref for ref in reader.inputs if isinstance(ref, View) and ref.base == value]
            others = [ref for ref in reader.inputs if ref not in views]
            if reader.kind == "Add" and len(views) == 1 and (bias := self._constant(others[0])) is not None and bias.size > 1:
                return reader.outputs[0], Layer(weight, bias, scale * views[0].scale)
            if reader.kind not in SELECTIONS or reader.operand(0) not in views or views[0].scale != 1:
                return product, Layer(weight, None, scale)
            value = reader.outputs[0]

    def _scalars(self) -> Iterator[float]:
        for op in self.region.ops:
            for ref in op.inputs:
                if isinstance(ref, View):
                    yield ref.scale
                elif ref is not None and ref.array.size == 1 and ref.array.dtype.kind == "f":
                    yield float(ref.array.ravel()[0])
