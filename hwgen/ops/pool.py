"""AttentionPool: learned queries look at all tokens, head by head: a class token that is no token, latents.

Spelled as an attention is, with queries that are constant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..matching.opgraph import Const, Op
from ..matching.trial import Match, Mismatch, Trial, in_order
from ..steps.format import INT8
from ..steps.stages import Constant, Identity
from ..steps.step import Step
from .attention import Heads, attend, columns, gated, heads_of, packed_positions, plain_operator, products, weighing, words
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPool(Operator):
    """Attention of constant queries: ``softmax(query @ k.T) @ v`` of each head, k, v ``[T, heads * head_dim]`` -> ``[Q, heads * head_dim]``."""

    k: str
    v: str
    query: Array             # [Q, heads * head_dim], what scores are multiplied with included
    num_heads: int

    VALUES: ClassVar[tuple[str, ...]] = ("k", "v")
    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        k, v = shapes
        if k != v or len(k) != 2 or k[-1] != self.query.shape[-1] or k[-1] % self.num_heads:
            raise self.fail(f"queries {list(self.query.shape)}, k {k}, v {v} do not form {self.num_heads} heads")
        return self.query.shape

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        k, v = operands
        return attend(self.query[None], k, v, self.num_heads, 1.0, inner)

    def formats(self) -> tuple[FixedFormat, ...]:
        return (FixedFormat("attention score", Unit.SCORE, Role.SCORE),)

    def lower(self, to: Lowering) -> None:
        """The queries come with the weights, in 8 bits up to the largest of them, and make good for scales of the channels of keys; then the steps of
        an attention."""
        k, v = words(to, self, {"the key": self.k, "the value": self.v})
        rows = self.query * k.tensor.units
        unit = (float(np.abs(rows).max()) or 1.0) / INT8.hi
        query = to.activations(to.fresh(f"{self.output}.query"), len(rows), rows.shape[1], unit / k.tensor.units)
        table = np.rint(rows / unit).astype(INT8.dtype)
        to.emit(Step(query.name, self.name, Constant(to.pool.add(query.name, table)), Identity(), (query.view(),), about="learned queries"))
        products(to, self, query.view(), k, v, self.num_heads, 1.0)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"MatMul": (matmul_pool,), "Attention": (pool_operator,)}, rank=6)


def matmul_pool(op: Op, trial: Trial) -> Match | None:
    """``softmax(query @ k.T * scale) @ v`` with a constant query; the scale may sit on k or the scores."""
    found = weighing(op, trial)
    if found is None or not isinstance(found.scores.query, Const):
        return None
    scores = found.scores
    _sees_all(op, scores.causal)
    query = found.scores.query.array.swapaxes(-1, -2) if scores.swapped else found.scores.query.array
    k, v = heads_of(trial, scores.key, op, "k", not scores.swapped), heads_of(trial, op.operand(1), op, "v", False)
    if k is None or v is None:
        return None
    return _pool(op, trial, query, k, replace(v, factor=v.factor * found.weights.scale), scores.scale, gates=found.gates)


def pool_operator(op: Op, trial: Trial) -> Match | None:
    """The Attention operator with a constant query."""
    refs, packed, causal = plain_operator(op)
    if not isinstance(refs[0], Const):
        return None
    _sees_all(op, causal)
    k, v = (heads_of(trial, ref, op, name, False) for ref, name in zip(refs[1:], "kv", strict=True))
    if k is None or v is None:
        return None
    return _pool(op, trial, refs[0].array, k, v, op.number("scale", 1 / math.sqrt(k.columns.shape[1])), tokens_first=packed)


def _sees_all(op: Op, causal: bool) -> None:
    if causal:
        raise Mismatch("is causal, with constant queries; they see all tokens", op.name)


def _pool(op: Op, trial: Trial, query: Array, k: Heads, v: Heads, scale: float, *, tokens_first: bool = False, gates: Array | None = None) -> Match:
    """query: [..., heads, Q, head_dim], or one head for all; gates: as of `Weighing`."""
    heads, head_dim = k.columns.shape
    count = query.shape[-2] if query.ndim > 1 else 0
    if v.columns.shape != k.columns.shape or not count or query.shape[-1] != head_dim or math.prod(query.shape[:-2]) not in (1, heads):
        raise Mismatch(f"has a constant query {list(query.shape)}, and k and v with [heads, channels] {list(k.columns.shape)}, "
                       f"{list(v.columns.shape)}; equal ones are supported", op.name)
    rows = np.broadcast_to(query.reshape(-1, count, head_dim), (heads, count, head_dim)).transpose(1, 0, 2).reshape(count, heads * head_dim)
    x, y = columns(op, trial, k, "k"), columns(op, trial, v, "v")
    if gates is not None:
        y = gated(op, trial, y, gates, v)
    node = AttentionPool(op.name, op.outputs[0], x, y, trial.array(rows.astype(np.float64) * (scale * k.factor)), heads)
    return Match((node,), in_order(count, heads * head_dim) if tokens_first else packed_positions(heads, count, head_dim), factor=v.factor)
