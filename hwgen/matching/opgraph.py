"""The normalised form of an ONNX graph that the rewrite rules work on: static shapes, constants folded, moves resolved.

Exporters spell one thing in many ways: qkv may be split by Split, Slice, Gather or unbind, heads may be made by any chain
of Reshape and Transpose. Here every such chain is gone: a rule sees a `View`, which says for each element which element
of an operator's result it is, so a rule checks what a chain does and not how it is spelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
import hashlib
import math

import numpy as np

from .grid import Grid

SHOWN_TRAIL = 4             # nodes of a trail in a message


@dataclass(frozen=True, eq=False)
class Const:
    """A constant operand. Equal constants of one import are one array."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def key(self) -> tuple[object, ...]:
        return ("const", id(self.array))


@dataclass(frozen=True, eq=False, slots=True)
class Trail:
    """A chain of ONNX nodes: the last one, and the chain before it, which other chains share."""

    name: str
    before: Trail | None = None

    def __str__(self) -> str:
        names: list[str] = []
        at: Trail | None = self
        while at is not None and len(names) < SHOWN_TRAIL:
            names.append(repr(at.name))
            at = at.before
        return ", ".join([*(["…"] if at is not None else []), *reversed(names)])


@dataclass(frozen=True, eq=False)
class View:
    """``scale`` times elements of the value ``base``, moved about.

    base: result of an `Op`, or an input of the network. index: int32 of shape ``shape``, flat positions in base; None when
    they are 0, 1, 2, ... trail: ONNX nodes the chain consists of; None when there are none. grid: what a quantized file rounds the
    elements of base to on the way; None when it does not.
    """

    base: str
    shape: tuple[int, ...]
    index: np.ndarray | None = None
    scale: float = 1.0
    trail: Trail | None = None
    grid: Grid | None = None

    def positions(self) -> np.ndarray:
        """Flat positions in base, of shape ``shape``."""
        return np.arange(math.prod(self.shape), dtype=np.int32).reshape(self.shape) if self.index is None else self.index

    def key(self) -> tuple[object, ...]:
        return (self.base, self.shape, self.moved, self.scale)

    @cached_property
    def moved(self) -> bytes | None:
        """Equal for views that take the same positions in the same order; None when they are 0, 1, 2, ..."""
        return None if self.index is None else hashlib.sha256(self.index.tobytes()).digest()


Ref = Const | View


@dataclass(frozen=True, eq=False)
class Op:
    """An ONNX node that computes something. An omitted input is None; shapes are static, or None when they are unknown."""

    name: str
    kind: str
    inputs: tuple[Ref | None, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, object]
    shapes: tuple[tuple[int, ...] | None, ...]

    def operand(self, position: int) -> Ref | None:
        return self.inputs[position] if position < len(self.inputs) else None

    def ref(self, position: int) -> Ref:
        """An operand that must be there; raises LookupError."""
        ref = self.operand(position)
        if ref is None:
            raise LookupError(f"operand {position} is missing")
        return ref

    def view(self, position: int) -> View:
        """An operand that must be computed; raises LookupError."""
        ref = self.operand(position)
        if not isinstance(ref, View):
            raise LookupError(f"operand {position} is not computed")
        return ref

    def shape(self, position: int) -> tuple[int, ...]:
        """Of a result; raises LookupError when it is not known."""
        shape = self.shapes[position]
        if shape is None:
            raise LookupError(f"the shape of {self.outputs[position]!r} is not known")
        return shape

    def number(self, key: str, default: float) -> float:
        """An attribute that is a number; raises TypeError."""
        value = self.attrs.get(key, default)
        if not isinstance(value, (int, float)):
            raise TypeError(f"attribute {key} is no number")
        return float(value)

    def integer(self, key: str, default: int) -> int:
        """An attribute that is a whole number; raises TypeError."""
        value = self.attrs.get(key, default)
        if not isinstance(value, int):
            raise TypeError(f"attribute {key} is no whole number")
        return value

    def integers(self, key: str) -> list[int]:
        """An attribute that is a list of whole numbers, empty when it is missing; raises TypeError."""
        value = self.attrs.get(key) or []
        if not isinstance(value, list):
            raise TypeError(f"attribute {key} is no list")
        return value

    def constant(self, position: int) -> np.ndarray | None:
        """The array of a constant operand, else None."""
        ref = self.operand(position)
        return ref.array if isinstance(ref, Const) else None


Evaluate = Callable[[Op, Sequence[np.ndarray | None]], list[np.ndarray] | None]


@dataclass(frozen=True, eq=False)
class OpGraph:
    """``folded``: ONNX node -> why nothing is left of it. ``declined``: -> why it cannot be computed. ``moves``: ONNX nodes that
    only move or scale data. ``shapes``: of every ONNX value, None where it is not known. ``evaluate``: what an operator computes from
    these operands, None when nobody can say. ``types``: ONNX element type of every value; ``values``: what every value is.
    ``added``: nodes that stand for none of the file, which owe no verdict."""

    inputs: dict[str, tuple[int, ...]]
    ops: tuple[Op, ...]
    outputs: dict[str, Ref]
    folded: dict[str, str]
    moves: frozenset[str]
    kinds: dict[str, str]                     # every ONNX node, in order -> operator
    declined: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    producers: dict[str, Op] = field(default_factory=dict)
    evaluate: Evaluate | None = None
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, Ref | None] = field(default_factory=dict)
    added: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.producers.update({output: op for op in self.ops for output in op.outputs})

    @cached_property
    def readers(self) -> dict[str, list[Op]]:
        """Value -> the operators that read it."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for base in {ref.base for ref in op.inputs if isinstance(ref, View)}:
                found.setdefault(base, []).append(op)
        return found

    @cached_property
    def operators(self) -> frozenset[str]:
        """ONNX operators there are."""
        return frozenset(op.kind for op in self.ops)

    @cached_property
    def places(self) -> dict[str, int]:
        """Operator -> its place in the order of the file."""
        return {op.name: place for place, op in enumerate(self.ops)}


class Pool:
    """Hands out one object per content: an array met twice, in one task or in two, becomes one array. ``bytes``: of all."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], np.ndarray] = {}
        self.bytes = 0

    def array(self, array: np.ndarray) -> np.ndarray:
        data = np.ascontiguousarray(array).reshape(np.shape(array))      # ascontiguousarray makes a scalar 1-dimensional
        content = data.tobytes() if data.dtype.hasobject else data.reshape(-1).view(np.uint8).data
        key = (data.dtype, data.shape, hashlib.sha256(content).digest())
        if key not in self._found:
            self._found[key] = data
            self.bytes += data.nbytes
        return self._found[key]
