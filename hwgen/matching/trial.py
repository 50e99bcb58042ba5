"""What a rewrite rule works with: one try of one rule on one operator, and the two ways it ends beside "not my business".

A rule is a function ``rule(op: Op, trial: Trial) -> Match | None``: a `Match` with the ir nodes that compute the operator's
result, None when the operator is not its business, and a raised `Mismatch` when it almost fits, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
import math

import numpy as np

from ..graph import Array, Node, Shape
from .grid import Grid
from .opgraph import Const, Op, OpGraph, Pool, Ref, Trail, View

TOLERANCE = 1e-5            # relative, for constants that must be a certain number (1/sqrt(2), 0.044715, ...)


class Mismatch(Exception):
    """Why a rule declines an operator it is meant for, and the ONNX node that is to blame."""

    def __init__(self, reason: str, node: str):
        super().__init__(reason)
        self.reason, self.node = reason, node


@dataclass(frozen=True, eq=False)
class Affine:
    """A factor and an offset for each channel, float64 [channels]: ``x * scale + offset``."""

    scale: Array
    offset: Array

    def of(self, x: Array) -> Array:
        """x [..., channels], float32."""
        y: Array = (x * self.scale + self.offset).astype(np.float32)
        return y

    def then(self, scale: Array | float, offset: Array | float) -> Affine:
        """It, and another one on its result."""
        return Affine(self.scale * scale, self.offset * scale + offset)


@dataclass(frozen=True, eq=False)
class Bound:
    """What an ONNX value is in the ir: ``factor`` times the ir value ``value`` of shape ``shape``.

    node: the ir node that computes it; None for an input, and for the result of an operator that is not supported. order:
    flat position in the ONNX value -> flat position in the ir value; None when equal. anchor: the ONNX node. affine: what each channel of
    the ir value is multiplied with and added to instead of ``factor``, by the ONNX nodes ``waiting`` for a node that takes it in.
    """

    value: str
    shape: Shape
    node: Node | None
    factor: float = 1.0
    order: Array | None = None
    anchor: str = ""
    affine: Affine | None = None
    waiting: tuple[str, ...] = ()

    def onnx(self, value: Array) -> Array:
        """The elements of the ONNX value, flat, where the ir value is ``value``."""
        value = value if self.affine is None else self.affine.of(value)
        flat = value.ravel() if self.order is None else value.ravel()[self.order]
        return flat if self.factor == 1.0 else flat * np.float32(self.factor)


@dataclass(frozen=True, eq=False)
class Match:
    """``nodes``: new ir nodes, the last one computes the operator's result: ``factor`` times it, moved about. Without nodes it is ``of``,
    a value that is there already, changed by ``affine``. proved: the rule has evaluated the ONNX nodes itself.

    positions: integers of the shape of the ir result ([T, D], [D]); where each of its elements stands in the ONNX result, flat. Every
    rule says so for its operator; that each element of the ONNX result is met once is checked in one place (`order_of`).
    """

    nodes: tuple[Node, ...]
    positions: Array
    factor: float = 1.0
    affine: Affine | None = None
    of: Bound | None = None
    proved: bool = False

    @property
    def value(self) -> str:
        """The ir value the result is made of."""
        return self.nodes[-1].output if self.nodes or self.of is None else self.of.value


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def in_order(*shape: int) -> Array:
    """Positions of an ir result of this shape that stands in the ONNX result element by element."""
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def inverse(positions: Array) -> Array | None:
    """The permutation that undoes ``positions``, flat; None when they are not each of 0 .. size - 1 once."""
    flat = positions.ravel()
    if flat.size and not (flat.min() >= 0 and flat.max() < flat.size):
        return None
    order = np.full(flat.size, -1, np.int32)
    order[flat] = np.arange(flat.size, dtype=np.int32)
    return None if (order < 0).any() else order


def channels_of(positions: Array, shape: Shape) -> tuple[Array, Array] | None:
    """Of positions that are all tokens of some channels of a value: these channels, rising, and where each element stands among the
    positions, flat, [tokens, channels]. None for others."""
    flat, width = positions.ravel(), shape[-1]
    if flat.size == math.prod(shape) and is_whole(flat):
        return np.arange(width), flat.reshape(-1, width)
    channels, tokens = np.unique(flat % width), math.prod(shape[:-1])
    if channels.size * tokens != flat.size:
        return None
    order = np.argsort(flat, kind="stable")
    wanted = np.arange(tokens)[:, None] * width + channels
    return (channels, order.reshape(wanted.shape)) if flat.size and np.array_equal(flat[order], wanted.ravel()) else None


def order_of(op: Op, match: Match, shape: Shape) -> Array | None:
    """`Bound.order` of a match whose ir result has the shape ``shape``; raises Mismatch unless it holds each element of the ONNX result once."""
    onnx = op.shape(0)
    if match.positions.shape == tuple(shape) and match.positions.size == math.prod(onnx) and is_whole(match.positions):
        return None
    order = inverse(match.positions) if match.positions.shape == tuple(shape) and match.positions.size == math.prod(onnx) else None
    if order is None:
        raise Mismatch(f"gives {list(onnx)}, which is not {list(shape)} in some order (broadcast, or taken apart in groups)", op.name)
    return None if is_whole(order) else order


class Trial:
    """Reads operands, and notes what the rule used: ``nodes`` made on the way, ``absorbed`` ONNX nodes, ``moved`` chains of them.

    made: ir value -> the node that computes it, of the matches so far and in their order.
    """

    def __init__(self, op: Op, graph: OpGraph, bound: MutableMapping[str, Bound], pool: Pool, made: Mapping[str, Node]):
        self.op, self.graph, self.bound, self.pool, self.made = op, graph, bound, pool, made
        self.nodes: list[Node] = []
        self.absorbed: list[str] = []
        self.moved: list[Trail | None] = []
        self.assumed: dict[str, Shape] = {}       # ir values that stand for results of unsupported operators
        self.grids: list[tuple[str, Grid]] = []   # ir value -> what a quantized file rounds it to where it is read here

    # ---------------------------------------------------------------- reading the ONNX graph

    def producer(self, ref: Ref | None, *kinds: str) -> Op | None:
        """The operator whose whole result, in its own order and shape, the operand is (times a scale); None if it is of other kinds.

        Leading dimensions of size 1 may be gone or added: they change neither what a last axis is nor how the value broadcasts.
        """
        if not isinstance(ref, View):
            return None
        op = self.graph.producers.get(ref.base)
        if op is None or kinds and op.kind not in kinds or not is_whole(ref.positions()):
            return None
        shape = op.shapes[op.outputs.index(ref.base)]
        return op if shape is not None and without_leading_ones(shape) == without_leading_ones(ref.shape) else None

    def absorb(self, op: Op, *refs: Ref | None) -> None:
        """The operator becomes part of the match, with the moves of the operands through which it was reached."""
        self.absorbed.append(op.name)
        for ref in (*refs, *op.inputs):
            if isinstance(ref, View):
                self.moved.append(ref.trail)

    def fresh(self, name: str) -> str:
        """A name for an ir value that no ONNX value has: ``name``, with marks behind it if it is taken."""
        while name in self.graph.producers or name in self.graph.inputs:
            name += "'"
        return name

    def rounds(self, value: str, ref: Ref | None, factor: float = 1.0) -> None:
        """``value`` is what the operand is read as: elements of its base are ``factor`` times it."""
        if isinstance(ref, View) and ref.grid is not None and factor:
            self.grids.append((value, ref.grid.times(1 / factor)))

    def array(self, array: Array) -> Array:
        """A float32 array for an ir node, shared with every equal one; what float32 does not hold becomes infinite, and is refused later."""
        with np.errstate(over="ignore"):
            return self.pool.array(np.asarray(array, np.float32))

    # ---------------------------------------------------------------- reading ir values

    def where(self, ref: Ref | None, affine: bool = False) -> tuple[Bound, Array] | None:
        """(what the operand's base is in the ir, flat positions in that ir value of the operand's shape); None if not bound.

        affine: the rule takes `Bound.affine` in; where there is one, it is a Mismatch for any other rule.
        """
        if not isinstance(ref, View) or ref.base not in self.bound:
            return None
        bound = self.bound[ref.base]
        if bound.affine is not None and not affine:
            raise Mismatch(f"reads {bound.value!r} times a factor for each channel, of {', '.join(map(repr, bound.waiting))}; only a Linear or "
                           "experts behind it, or a Linear, a LayerNorm, an embedding or experts in front of it take that in", self.op.name)
        self.absorbed += bound.waiting
        self.moved.append(ref.trail)
        positions = ref.positions()
        return bound, positions if bound.order is None else bound.order[positions]

    def per_channel(self, const: Ref | None, view: Ref | None) -> Array | None:
        """What a constant that broadcasts to the view holds for each channel that the view is all tokens of, rising; None when it differs
        between tokens."""
        if not isinstance(const, Const) or not isinstance(view, View) or np.broadcast_shapes(const.shape, view.shape) != view.shape:
            return None
        found = self.where(view, affine=True)
        part = None if found is None else channels_of(found[1], found[0].shape)
        if part is None:
            return None
        rows = np.broadcast_to(const.array, view.shape).ravel()[part[1]]
        return rows[0] if (rows == rows[0]).all() else None


def without_leading_ones(shape: Shape) -> Shape:
    """``(1, 1, 5, 1)`` -> ``(5, 1)``"""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        del sizes[0]
    return tuple(sizes)


def is_whole(positions: Array) -> bool:
    """0, 1, 2, ... in this order."""
    return np.array_equal(positions.ravel(), np.arange(positions.size))


def reduced_axes(op: Op) -> list[int]:
    """Axes a Reduce operator works on, not negative, sorted; attribute or constant operand; all when none are given."""
    rank, constant = len(op.ref(0).shape), op.constant(1)
    given = op.integers("axes") if constant is None else constant.ravel().tolist()
    if not given:
        given = [] if op.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in given)


def row(op: Op, what: str, array: Array, n: int) -> Array:
    """A constant that broadcasts along the tokens, as [n]; Mismatch for one that differs between them."""
    if array.size != 1 and (array.shape[-1] != n or array.size != n):
        raise Mismatch(f"has a {what} of shape {list(array.shape)}, not [{n}]", op.name)
    return np.broadcast_to(array.ravel(), (n,))


def split_operands(op: Op) -> tuple[View, Const] | None:
    """The operands of a commutative operator with one constant."""
    for view, const in (op.inputs, reversed(op.inputs)):
        if isinstance(view, View) and isinstance(const, Const):
            return view, const
    return None


Rule = Callable[[Op, Trial], Match | None]
