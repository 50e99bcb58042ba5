"""Constant channels beside those of a value, as a task embedding stands beside a token: a Linear behind takes them into its bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import Array, Shape
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Bound, Mismatch, Trial
from .tokens import sources


@dataclass(frozen=True, eq=False)
class Joined:
    """Each token is ``factor`` times some channels of ``value``, which stand at ``places``, and constants.

    channels: of the value, [n]; places: of these in the token, [n]; constants: float64 [channels of the token], 0 at ``places``.
    """

    value: str
    shape: Shape
    factor: float
    channels: Array
    places: Array
    constants: Array

    def weights(self, weight: Array, bias: Array, scale: float) -> tuple[Array, Array]:
        """Of a Linear that reads ``scale`` times it: as one of the value, [channels, N] and [N]."""
        wide = np.zeros((self.shape[-1], weight.shape[1]))
        np.add.at(wide, self.channels, weight[self.places].astype(np.float64) * (self.factor * scale))
        return wide, bias + scale * (self.constants @ weight.astype(np.float64))


def joined(trial: Trial, ref: Ref | None) -> Joined | None:
    """What an operand is where a Concat gives it; None where it is something else. Raises Mismatch when constants differ between tokens."""
    op = trial.producer(ref, "Concat")
    return None if op is None or not isinstance(ref, View) else _joined(op, trial)


def _joined(op: Op, trial: Trial) -> Joined | None:
    operands = dict(enumerate(op.inputs))
    views = {place: ref for place, ref in operands.items() if isinstance(ref, View)}
    found = {place: where for place, ref in views.items() if (where := trial.where(ref)) is not None}
    if not found or len(found) < len(views) or len(views) == len(operands) or len({bound.value for bound, _ in found.values()}) > 1:
        return None
    bound = next(iter(found.values()))[0]
    factors = {where[0].factor * views[place].scale for place, where in found.items()}
    if bound.node is None and bound.anchor or len(bound.shape) != 2:
        return None
    given: dict[int, Ref] = {place: ref for place, ref in operands.items() if isinstance(ref, (Const, View))}
    read = sources(op, trial, given, {place: positions for place, (_, positions) in found.items()})
    if read is None:
        return None
    if len(factors) > 1:
        raise Mismatch(f"joins parts of {bound.value!r} times different factors", op.name)
    return _by_channel(op, bound, factors.pop(), *read)


def _by_channel(op: Op, bound: Bound, factor: float, numbers: Array, constants: Array) -> Joined:
    tokens, dim = bound.shape
    rows = numbers.reshape(-1, numbers.shape[-1])
    places = np.flatnonzero(rows[0] >= 0)
    channels = rows[0, places] % dim
    if rows.shape[0] != tokens or not np.array_equal(rows[:, places], np.arange(tokens)[:, None] * dim + channels):
        raise Mismatch(f"puts channels of {bound.value!r} {list(bound.shape)} side by side in another order of tokens", op.name)
    rest = np.delete(rows, places, 1)
    values = constants[np.where(rest < 0, -1 - rest, -1)]
    if (rest >= 0).any() or (values != values[:1]).any():
        raise Mismatch(f"puts constants beside the channels of {bound.value!r} that differ between tokens; a Linear takes in those that are "
                       "the same for all", op.name)
    given = np.zeros(rows.shape[1])
    given[np.setdiff1d(np.arange(rows.shape[1]), places)] = values[0]
    return Joined(bound.value, bound.shape, factor, channels, places, given)
