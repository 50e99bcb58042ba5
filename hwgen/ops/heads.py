"""q, k and v of an attention as a rule reads them: columns of a token sequence, head by head, window by window."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np

from ..graph import Array
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Bound, Mismatch, Trial, in_order


@dataclass(frozen=True, eq=False)
class Heads:
    """q, k or v: columns [heads, head_dim] of the ir value ``bound``, all its tokens, those of ``windows`` one behind the other; ``factor`` times.

    ref: the operand.
    """

    bound: Bound
    columns: Array
    tokens: int
    factor: float
    ref: View
    windows: int = 1


def heads_of(trial: Trial, ref: Ref | None, op: Op, name: str, transposed: bool, windows: bool = False) -> Heads | None:
    """Reads [1, heads, T, d] ([1, heads, d, T] if transposed) as columns of a token sequence; None if it is not bound. windows: there may be more
    than one, [windows, heads, T, d]."""
    found = trial.where(ref)
    if found is None or not isinstance(ref, View):
        return None
    bound, positions = found
    number = math.prod(positions.shape[:-3])
    if len(bound.shape) != 2 or positions.ndim < 3 or not (number == 1 or windows and number):
        raise Mismatch(f"has {name} {list(positions.shape)} of {bound.value!r} {list(bound.shape)}; expected are [1, heads, "
                       "tokens, channels] of one token sequence", op.name)
    positions = positions.reshape(number, *positions.shape[-3:])
    positions = positions.swapaxes(2, 3) if transposed else positions                   # [windows, heads, T, d]
    tokens, channels = bound.shape
    columns = positions[0, :, 0, :]
    expected = np.arange(tokens).reshape(number, 1, -1, 1) * channels + columns[:, None, :] if tokens % number == 0 else None
    if columns.max() >= channels or expected is None or not np.array_equal(positions, expected):
        raise Mismatch(f"has {name} that does not take the tokens of {bound.value!r} {list(bound.shape)} whole and in order "
                       "(supported are windows of whole tokens, put in order in front of the Linear that gives q, k and v)", op.name)
    return Heads(bound, columns, tokens, bound.factor * ref.scale, ref, number)


def unpacked(ref: Ref | None, heads: int) -> Ref | None:
    """[B, T, heads * d] -> [B, heads, T, d]"""
    if ref is None or not heads or ref.shape[2] % heads:
        return ref
    if isinstance(ref, Const):
        return Const(ref.array.reshape(*ref.shape[:2], heads, -1).transpose(0, 2, 1, 3))
    index = ref.positions().reshape(ref.shape[0], ref.shape[1], heads, -1).transpose(0, 2, 1, 3)
    return replace(ref, shape=index.shape, index=index)


def repeated(ref: Ref | None, heads: int) -> Ref | None:
    """[B, kv heads, T, d] -> [B, heads, T, d]: each one for as many query heads as follow each other."""
    if not isinstance(ref, View) or len(ref.shape) != 4 or not ref.shape[1] or heads % ref.shape[1]:
        return ref
    index = np.repeat(ref.positions(), heads // ref.shape[1], axis=1)
    return ref if heads == ref.shape[1] else replace(ref, shape=index.shape, index=index)


def shared(part: Heads, heads: int) -> Heads:
    """One head, for as many as there are of the query: as products broadcast."""
    return replace(part, columns=np.repeat(part.columns, heads, axis=0)) if len(part.columns) == 1 else part


def packed_positions(heads: int, tokens: int, head_dim: int) -> Array:
    """Where each element of a result [tokens, heads * head_dim] stands in [heads, tokens, head_dim]."""
    return in_order(heads, tokens, head_dim).transpose(1, 0, 2).reshape(tokens, heads * head_dim)
