"""Add: the sum of two values, as a residual connection is."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Shape
from ..matching.opgraph import Op, View
from ..matching.trial import Bound, Match, Mismatch, Trial, close, in_order, inverse
from .linear import Linear
from .operands import Operand, plain
from .operator import Operator, Spellings
from .take import Take

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class Add(Operator):
    """Sum of two values of one shape (the residual connection)."""

    x: str
    y: str

    VALUES: ClassVar[tuple[str, ...]] = ("x", "y")
    COMMUTES: ClassVar[bool] = True
    TRUNK: ClassVar[bool] = True
    ABSORBS: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        x, y = shapes
        if x != y:
            raise self.fail(f"shapes {x} and {y} differ")
        return x

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        x, y = operands
        total: Array = x + y
        return total

    def lower(self, to: Lowering) -> None:
        """None of its own: what is added to a residual stream makes them."""

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Add": (add,), "Sub": (add,)}, dict.fromkeys(("Add", "Sub"), "a residual connection"), rank=3)


def add(op: Op, trial: Trial) -> Match | None:
    """Residual Add or Sub of two values. A factor of the one that was computed first stands before the whole sum, unless
    its weights can take it in and nothing else reads them."""
    refs = [ref for ref in op.inputs if isinstance(ref, View)]
    if len(refs) == 2 and op.kind == "Sub":
        refs[1] = replace(refs[1], scale=-refs[1].scale)
    places = [place for ref in refs if (place := trial.where(ref)) is not None]
    if len(refs) != 2 or len(places) != 2:
        return None
    if any(math.prod(ref.shape) != math.prod(op.shape(0)) for ref in refs):
        if op.kind == "Sub":
            return None                                              # the first step of a norm
        raise Mismatch(f"adds values of {list(refs[0].shape)} and {list(refs[1].shape)}: broadcasting is only supported for constants",
                       op.name)
    (x, px), (y, py) = places
    factors = [bound.factor * ref.scale for (bound, _), ref in zip(places, refs, strict=True)]
    factor = 1.0
    if not all(close(given, 1.0) for given in factors):
        known = [None, *trial.made]                                  # an input is there before every node
        first = next(place for value in known for place in (0, 1) if value == (places[place][0].node and places[place][0].value))
        factor = 1.0 if _takes_a_factor(places[first][0]) and len(trial.graph.readers[refs[first].base]) == 1 else factors[first]
    if not factor:
        raise Mismatch("adds a value times 0", op.name)
    order = inverse(px)
    taken = any(isinstance(bound.node, Take) for bound in (x, y))
    if order is not None and order.size == math.prod(x.shape) and x.shape == y.shape and np.array_equal(px, py) and close(*factors) and not taken:
        return Match((Add(op.name, op.outputs[0], x.value, y.value),), order.reshape(x.shape), factor=factor)
    a, b = (_reordered(trial, plain(trial, replace(ref, scale=ref.scale / factor))) for ref in refs)
    if a is None or b is None:
        return None
    return Match((Add(op.name, op.outputs[0], a.value, b.value),), in_order(*a.shape), factor=factor)


def _takes_a_factor(bound: Bound) -> bool:
    width = bound.shape[-1]
    return bound.node is not None and bound.node.affine(np.ones(width), np.zeros(width)) is not None


def _reordered(trial: Trial, x: Operand | None) -> Operand | None:
    """An operand that is the tokens of a Linear in another order, as the Linear of tokens in that order: it is added where it is computed."""
    take = None if x is None else x.node
    linear = trial.made.get(take.x) if isinstance(take, Take) and len(take.order) == 1 else None
    if x is None or not isinstance(take, Take) or not isinstance(linear, Linear):
        return x
    first = replace(take, output=trial.fresh(f"{linear.x}.ordered for {trial.op.name}"), x=linear.x)
    then = replace(linear, x=first.output, output=trial.fresh(f"{linear.output}.ordered for {trial.op.name}"))
    trial.nodes[:] = [*(node for node in trial.nodes if node is not take), first, then]
    return replace(x, value=then.output, node=then)
