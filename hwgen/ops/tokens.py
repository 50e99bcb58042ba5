"""ConcatTokens: constant tokens among those of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Bound, Match, Mismatch, Trial, in_order
from .operands import plain
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class ConcatTokens(Operator):
    """Puts constant tokens (class token, distillation token, registers) in front of the sequence, or anywhere in it."""

    x: str
    tokens: Array            # [P, D]
    places: Array = field(default_factory=lambda: np.zeros(0, np.int32))    # of each token of x in the result; empty: behind the constants

    COMMUTES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        total = x[0] + len(self.tokens)
        if len(x) != 2 or x[-1] != self.tokens.shape[-1]:
            raise self.fail(f"tokens {self.tokens.shape} do not fit {x}")
        if self.places.size and not (self.places.shape == x[:1] and np.isin(self.places, np.arange(total)).all()
                                     and np.unique(self.places).size == x[0]):
            raise self.fail(f"{x[0]} tokens do not go to the places {self.places.tolist()} of {total}")
        return total, x[1]

    def rows(self, count: int) -> tuple[Array, Array]:
        """Places in the result of the tokens of x, which has so many, and of the constant ones."""
        total = count + len(self.tokens)
        mine = self.places if self.places.size else np.arange(len(self.tokens), total)
        return mine, np.setdiff1d(np.arange(total), mine)

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        mine, constant = self.rows(x.shape[1])
        result = np.empty((len(x), len(mine) + len(constant), x.shape[-1]), np.float32)
        result[:, mine], result[:, constant] = x, self.tokens
        return result

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        return {"tokens": self.tokens @ matrix}

    def lower(self, to: Lowering) -> None:
        """None of its own: it is in the constant that a residual stream starts with."""

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings(dict.fromkeys(DATA, (concat_tokens,)))


DATA = {"Concat": (), "Pad": (1, 3), "ScatterND": (1,), "ScatterElements": (1,)}
"""ONNX operators that put values side by side -> operands that are no data."""


def concat_tokens(op: Op, trial: Trial) -> Match | None:
    """Constant tokens put among those of a sequence, in whatever way -> ConcatTokens."""
    operands = {place: ref for place, ref in enumerate(op.inputs) if ref is not None and place not in DATA[op.kind]}
    views = {place: ref for place, ref in operands.items() if isinstance(ref, View)}
    if op.kind != "Concat" and (len(views) != 1 or op.kind == "Pad" and op.attrs.get("mode", "constant") != "constant"):
        return None
    values = {ref.base for ref in views.values()}
    if len(values) != 1:
        raise Mismatch(f"joins {len(values)} computed values; only constant tokens can be put among those of one sequence", op.name)
    found = {place: where for place, ref in views.items() if (where := trial.where(ref)) is not None}
    if len(found) != len(views):
        return None
    bound = next(iter(found.values()))[0]
    if bound.node is None and bound.anchor:                          # an unsupported operator: its layout is anyone's guess
        return _assumed(op, trial, next(iter(views.values())))
    if len(bound.shape) != 2:
        raise Mismatch(f"puts constants beside {bound.value!r} {list(bound.shape)}, which is no sequence of tokens", op.name)
    read = sources(op, trial, operands, {place: positions for place, (_, positions) in found.items()})
    if read is None:
        return None
    numbers, constants = read
    dim = bound.shape[1]
    readers = trial.graph.readers.get(op.outputs[0], ())
    if op.kind == "Concat" and numbers.shape[-1] != dim and any(reader.kind in ("MatMul", "Gemm") for reader in readers):
        return None                                                 # constants beside every token, which a Linear behind takes in
    if numbers.shape[-1] != dim:
        raise Mismatch(f"gives {list(numbers.shape)} of {bound.value!r} {list(bound.shape)}: it does not put tokens side by side", op.name)
    rows = numbers.reshape(-1, dim)
    computed = (rows >= 0).all(1)
    if (rows[computed] % dim != np.arange(dim)).any() or (rows[computed] // dim != rows[computed][:, :1] // dim).any() \
            or not (rows[~computed] < 0).all():
        raise Mismatch(f"mixes constants and channels of {bound.value!r} within a token", op.name)
    tokens = rows[computed][:, 0] // dim
    if not np.array_equal(np.sort(tokens), np.arange(bound.shape[0])):
        raise Mismatch(f"does not take each of the {bound.shape[0]} tokens of {bound.value!r} once", op.name)
    x = _whole(op, trial, bound, list(views.values()))
    if x is None:
        return None
    places = np.flatnonzero(computed)[np.argsort(tokens)].astype(np.int32)
    behind = np.array_equal(places, np.arange(len(rows) - len(places), len(rows)))
    node = ConcatTokens(op.name, op.outputs[0], x, trial.array(constants[-1 - rows[~computed]]),
                        trial.pool.array(np.zeros(0, np.int32) if behind else places))
    return Match((node,), in_order(len(rows), dim))


def _assumed(op: Op, trial: Trial, view: View) -> Match | None:
    """As if the operand were the tokens."""
    x, total = plain(trial, view), math.prod(op.shape(0)[:-1])
    if x is None or len(x.shape) != 2 or x.shape[1] != op.shape(0)[-1]:
        raise Mismatch(f"gives {list(op.shape(0))} of {list(view.shape)}, which is no sequence of tokens", op.name)
    node = ConcatTokens(op.name, op.outputs[0], x.value, trial.array(np.zeros((total - x.shape[0], x.shape[1]))))
    return Match((node,), in_order(total, x.shape[1]))


def sources(op: Op, trial: Trial, operands: dict[int, Ref], positions: dict[int, Array]) -> tuple[Array, Array] | None:
    """What each element of the result is: a position in the computed value, or -1 - i for the i-th of the constants; None when nobody can say."""
    if trial.graph.evaluate is None:
        return None
    constants: list[Array] = []
    given: list[Array | None] = [ref.array if isinstance(ref, Const) else None for ref in op.inputs]
    count = 0
    for place, ref in operands.items():
        if isinstance(ref, Const):
            constants.append(ref.array.ravel())
            given[place] = -1 - np.arange(count, count + ref.array.size).reshape(ref.array.shape)
            count += ref.array.size
        else:
            given[place] = positions[place].astype(np.int64) + 1
    results = None if op.number("value", 0.0) else trial.graph.evaluate(op, given)
    if results is None:
        return None
    numbers = np.where(results[0] > 0, results[0] - 1, np.where(results[0] < 0, results[0], -1 - count))    # 0: what Pad puts there by itself
    return numbers, np.concatenate([np.zeros(0), *constants, np.zeros(1)])


def _whole(op: Op, trial: Trial, bound: Bound, views: list[View]) -> str | None:
    """The ir value, all of it, that the operands are parts of; with their factor in the weights in front of it."""
    factors = {view.scale for view in views}
    if len(factors) > 1:
        raise Mismatch(f"joins parts of {bound.value!r} times different factors", op.name)
    size = math.prod(bound.shape)
    index = np.arange(size, dtype=np.int32) if bound.order is None else np.argsort(bound.order).astype(np.int32)
    found = plain(trial, replace(views[0], shape=bound.shape, index=index.reshape(bound.shape)))
    return None if found is None else found.value
