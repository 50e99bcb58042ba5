"""LayerNorm and RMSNorm written out in other operators, whichever: recognised by what they compute, from one value, on tokens of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
import math

import numpy as np

from ..graph import Array
from ..matching.opgraph import Const, Op, View
from ..matching.region import Region, Unprovable, region
from ..matching.trial import Bound, Mismatch, Trial, inverse, reduced_axes

MAX_OPERATORS = 16
REDUCING = {"ReduceMean", "ReduceSum", "ReduceSumSquare"}
WHOLE = {"InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization"}
ROOTS = WHOLE | {"Pow", "Sqrt"}
PARTS = REDUCING | ROOTS | {"Add", "Div", "Mul", "Reciprocal", "Sub"}
LARGE, SMALL, TOKENS = 100.0, 1e-3, 4       # deviations of the values that are tried, and how many tokens at least
FITS = 3e-4                                 # of the largest value of a token
EXACT = 1e-5                                # relative: a factor this near to 1 is 1
LOOKS = "looks like a LayerNorm, but computes something else (an epsilon outside of the root, another variance)"
SAME_EPS = 0.02                             # relative: a measured epsilon this near to a number of the file is that number


@dataclass(frozen=True, eq=False)
class Spelled:
    """``gamma * norm(view) + beta``, float64 [channels]. positions: where each element of the normalised ir value stands in the result.
    rms: no mean is taken off."""

    bound: Bound
    gamma: Array
    beta: Array
    eps: float
    positions: Array
    parts: tuple[Op, ...]
    rms: bool = False


@dataclass(frozen=True, eq=False)
class Near:
    """Operators that may be a norm: they read one value, ``view`` is all of it that they normalise."""

    region: Region
    leaf: str
    view: View


def near_norm(op: Op, trial: Trial) -> Near | None:
    """The operators of which a norm could be made that end in this one; None where there are none. Raises Mismatch for a near miss."""
    if ROOTS.isdisjoint(trial.graph.operators):
        return None
    near = region(trial.graph, op, lambda value: value in trial.bound, MAX_OPERATORS)
    if near is not None and len(near.leaves) > 1 and _looks_final(op, trial) and any(map(_is_root, near.ops)):
        _check_axes(op, [part for leaf in near.leaves if (part := trial.graph.producers.get(leaf)) is not None])
    if near is None or len(near.leaves) != 1 or not all(part.kind in PARTS for part in near.ops) or not any(map(_is_root, near.ops)):
        return None
    (leaf,) = near.leaves
    size = math.prod(op.shape(0))
    refs = (ref for part in near.ops for ref in part.inputs if isinstance(ref, View) and ref.base == leaf)
    view = next((ref for ref in refs if ref.positions().size == size), None)
    return None if view is None else Near(near, leaf, view)


def spelled_norm(op: Op, trial: Trial) -> Spelled | None:
    """What the operator is the norm of, by channels of one ir value; None when it is none. Raises Mismatch for a near miss."""
    near = near_norm(op, trial)
    found = None if near is None else trial.where(near.view)
    place = None if found is None else inverse(found[1])
    if near is None or found is None or place is None or place.size != math.prod(found[0].shape):
        return None
    bound, view = found[0], near.view
    if bound.node is None and bound.anchor:                          # an unsupported operator: its layout is anyone's guess
        shape = view.shape[1:] if view.shape[0] == 1 and len(view.shape) > 1 else view.shape
        bound = replace(bound, value=f"{bound.value} {list(shape)}", shape=shape, order=place)
        trial.assumed[bound.value], place = shape, np.arange(place.size)
    width = bound.shape[-1]
    rows = np.arange(place.size) if bound.order is None else inverse(bound.order)
    if rows is None:
        return None
    tried = _Tried(near, op, trial, bound, rows.reshape(-1, width), place.reshape(-1, width))
    if (fit := tried.fit(place.reshape(bound.shape))) is not None:
        return fit
    if _looks_final(op, trial):
        _check_axes(op, near.region.ops)
        raise Mismatch(LOOKS, op.name)
    return None


def spelled_heads(op: Op, trial: Trial, near: Near, bound: Bound) -> Spelled | None:
    """The norm of each row of the view, heads of the tokens of ``bound``: gamma and beta are those of one head. Raises Mismatch for a near miss."""
    dim, place = near.view.shape[-1], np.arange(math.prod(near.view.shape))
    tried = _Tried(near, op, trial, bound, near.view.positions().reshape(-1, dim), place.reshape(-1, dim))
    if (fit := tried.fit(place)) is not None:
        return fit
    if _looks_final(op, trial):
        _check_axes(op, near.region.ops)
        raise Mismatch(LOOKS, op.name)
    return None


def _check_axes(op: Op, parts: Iterable[Op]) -> None:
    """Raises Mismatch for a mean among these that is not one of channels."""
    wrong = next((part for part in parts if part.kind in REDUCING and reduced_axes(part) != [len(part.view(0).shape) - 1]), None)
    if wrong is not None:
        raise Mismatch(f"looks like a LayerNorm, but {wrong.name!r} averages over axes {reduced_axes(wrong)}, not the last", op.name)


def _is_root(op: Op) -> bool:
    exponent = op.constant(1) if op.kind == "Pow" else None
    return op.kind in WHOLE or op.kind == "Sqrt" or exponent is not None and exponent.size == 1 and abs(float(exponent.ravel()[0])) == 0.5


def _looks_final(op: Op, trial: Trial) -> bool:
    """A centered value divided by a root, or times one."""
    return op.kind == "Div" and trial.producer(op.operand(0), "Sub") is not None or \
        op.kind == "Mul" and any(trial.producer(ref, "Sub") is not None for ref in op.inputs) and all(isinstance(ref, View) for ref in op.inputs)


def _centered(x: Array) -> Array:
    y: Array = x - x.mean(-1, keepdims=True)
    return y


def _plain(x: Array) -> Array:
    return x


class _Tried:
    """The region evaluated on values of its leaf. rows: which of its elements, flat, are normalised together, [rows, channels]; place: where they
    stand in the result, flat."""

    def __init__(self, near: Near, op: Op, trial: Trial, bound: Bound, rows: Array, place: Array):
        self.near, self.op, self.trial, self.bound, self.rows, self.place = near, op, trial, bound, rows, place
        self.epsilons = sorted({float(number) for number in self._numbers() if 0 < number < 1})
        rng = np.random.default_rng(0)
        draws = math.ceil(TOKENS / len(rows))
        small = math.sqrt(self.epsilons[0]) if self.epsilons else SMALL
        self.large = [rng.normal(1.0, 1.0, rows.shape).astype(np.float32) * np.float32(LARGE) for _ in range(draws)]
        self.small = [rng.normal(0.0, small, rows.shape).astype(np.float32) for _ in range(draws)]

    def _numbers(self) -> Iterator[float]:
        for part in self.near.region.ops:
            yield from (float(ref.array.ravel()[0]) for ref in part.inputs if isinstance(ref, Const) and ref.array.size == 1)
            if part.kind in WHOLE:
                yield part.number("epsilon", 1e-5)

    def _results(self, draws: list[Array]) -> Array:
        """[tokens of all draws, channels]"""
        shape = self.trial.graph.shapes.get(self.near.leaf)
        value = np.ones(math.prod(self.bound.shape), np.float32)
        found = []
        for draw in draws:
            value[self.rows] = draw
            with np.errstate(all="ignore"):
                given = {self.near.leaf: value if shape is None else value.reshape(shape)}
                result = self.near.region.run(given, self.op.outputs[:1])[self.op.outputs[0]]
            found.append(result.ravel()[self.place].astype(np.float64))
        return np.concatenate(found)

    def _vectors(self) -> list[Array]:
        """Constants that hold one number a channel, by channel."""
        found = []
        for part in self.near.region.ops:
            for ref in part.inputs:
                if isinstance(ref, Const) and 1 < ref.array.size <= self.place.size and _broadcasts(ref.array, self.near.view.shape):
                    rows = np.broadcast_to(ref.array, self.near.view.shape).ravel()[self.place]
                    found += [rows[0].astype(np.float64)] if (rows == rows[0]).all() else []
        return found

    def fit(self, positions: Array) -> Spelled | None:
        """positions: of the result."""
        found = self._fit(_centered, positions)
        return found if found is not None or (plain := self._fit(_plain, positions)) is None else replace(plain, rms=True)

    def _fit(self, before: Callable[[Array], Array], positions: Array) -> Spelled | None:
        """before: what is done to a token before it is divided by its root mean square."""
        try:
            large, small = self._results(self.large), self._results(self.small)
        except Unprovable:
            return None
        if not (np.isfinite(large).all() and np.isfinite(small).all()):
            return None
        x, y = (before(np.concatenate(draws).astype(np.float64)) for draws in (self.large, self.small))
        ones, zeros = np.ones(x.shape[-1]), np.zeros(x.shape[-1])
        if not (x * x).mean(-1).all():                                   # a single channel has nothing but its mean
            return None
        normal = x / np.sqrt((x * x).mean(-1, keepdims=True))
        for gamma in (ones, *self._vectors()):
            for beta in (zeros, *self._vectors()):
                scaled = gamma * normal
                power = float((scaled * scaled).sum())
                factor = float(((large - beta) * scaled).sum()) / power if power else 0.0
                if not factor or not _same(large, factor * scaled + beta):
                    continue
                factor = 1.0 if abs(factor - 1) < EXACT else factor
                variance = (y * y).mean(-1)
                eps = self._epsilon(small - beta, factor * gamma * y, variance, factor)
                if math.isfinite(eps) and _same(small, factor * gamma * y / np.sqrt(variance + eps)[:, None] + beta):
                    sign = math.copysign(1.0, self.bound.factor)
                    return Spelled(self.bound, sign * factor * gamma, beta, eps / self.bound.factor ** 2, positions,
                                   self.near.region.ops[:-1])
        return None

    def _epsilon(self, result: Array, scaled: Array, variance: Array, factor: float) -> float:
        """That makes ``scaled / sqrt(variance + eps)`` of the small tokens what the operators made of them."""
        along = (result * scaled).sum(-1)
        if not along.all():
            return math.nan
        roots = (scaled * scaled).sum(-1) / along
        measured = float(np.median(roots ** 2 - variance))
        known = [eps * change for eps in self.epsilons for change in (1.0, factor ** 2, factor ** -2)]
        return next((eps for eps in known if abs(eps - measured) <= SAME_EPS * eps), max(measured, 0.0))


def _broadcasts(array: Array, shape: tuple[int, ...]) -> bool:
    sizes = (1,) * (len(shape) - array.ndim) + array.shape
    return len(sizes) == len(shape) and all(size in (1, whole) for size, whole in zip(sizes, shape, strict=True))


def _same(a: Array, b: Array) -> bool:
    return bool((np.abs(a - b).max(-1) <= FITS * np.abs(a).max(-1)).all())
