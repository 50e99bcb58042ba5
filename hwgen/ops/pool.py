"""AttentionPool: learned queries look at all tokens, head by head: a class token that is no token, latents.

Spelled as an attention is, with queries that are constant; or with no keys and values but the tokens, as a softmax over the tokens of a Linear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Match, Mismatch, Trial, in_order, is_whole, reduced_axes
from ..steps.format import INT8
from ..steps.stages import Constant, Identity
from ..steps.step import Step
from .attention import attend, columns, gated, plain_operator, products, weighing, words
from .heads import Heads, heads_of, packed_positions, shared
from .linear import Linear
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPool(Operator):
    """Attention of constant queries: ``softmax(query @ k.T) @ v`` of each head, k ``[T, heads * head_dim]``, v ``[T, heads * value_dim]`` ->
    ``[Q, heads * value_dim]``."""

    k: str
    v: str
    query: Array             # [Q, heads * head_dim], what scores are multiplied with included
    num_heads: int

    VALUES: ClassVar[tuple[str, ...]] = ("k", "v")
    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        k, v = shapes
        if k[:-1] != v[:-1] or len(k) != 2 or k[-1] != self.query.shape[-1] or k[-1] % self.num_heads or v[-1] % self.num_heads:
            raise self.fail(f"queries {list(self.query.shape)}, k {k}, v {v} do not form {self.num_heads} heads")
        return len(self.query), v[-1]

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
        return Spellings({"MatMul": (matmul_pool, token_pool), "Attention": (pool_operator,), "ReduceSum": (token_pool,)}, rank=6)


def matmul_pool(op: Op, trial: Trial) -> Match | None:
    """``softmax(query @ k.T * scale) @ v`` with a constant query; the scale may sit on k or the scores."""
    found = weighing(op, trial)
    if found is None or not isinstance(found.scores.query, Const):
        return None
    scores = found.scores
    _sees_all(op, scores.causal, scores.bias)
    query = found.scores.query.array.swapaxes(-1, -2) if scores.swapped else found.scores.query.array
    k, v = heads_of(trial, scores.key, op, "k", not scores.swapped), heads_of(trial, op.operand(1), op, "v", False)
    if k is None or v is None:
        return None
    return _pool(op, trial, query, k, replace(v, factor=v.factor * found.weights.scale), scores.scale, gates=found.gates)


def pool_operator(op: Op, trial: Trial) -> Match | None:
    """The Attention operator with a constant query."""
    refs, packed, causal, bias = plain_operator(op)
    if not isinstance(refs[0], Const):
        return None
    _sees_all(op, causal, bias)
    k, v = (heads_of(trial, ref, op, name, False) for ref, name in zip(refs[1:], "kv", strict=True))
    if k is None or v is None:
        return None
    return _pool(op, trial, refs[0].array, k, v, op.number("scale", 1 / math.sqrt(k.columns.shape[1])), tokens_first=packed)


def _sees_all(op: Op, causal: bool, bias: Array | None) -> None:
    if bias is not None:
        raise Mismatch("adds a mask or a position bias to the scores of constant queries; they see all tokens alike", op.name)
    if causal:
        raise Mismatch("is causal, with constant queries; they see all tokens", op.name)


def token_pool(op: Op, trial: Trial) -> Match | None:
    """``softmax(x @ w, over the tokens).T @ v``, or the sum over the tokens of ``softmax(x @ w) * v``: a query is a column of w, the keys are x.
    A bias of the scores is the same for all tokens."""
    rows, values = (op.operand(0), op.operand(1)) if op.kind == "MatMul" else _summed(op, trial)
    found = _over_tokens(trial, rows)
    if found is None or not isinstance(rows, View):
        return None
    row_wise, scores = found
    place = trial.where(scores)
    v = heads_of(trial, values, op, "v", False)
    if place is None or v is None:
        return None
    bound, positions = place
    linear = bound.node
    if not isinstance(linear, Linear) or len(bound.shape) != 2 or positions.size != math.prod(bound.shape) or not is_whole(positions) \
            or len(v.columns) != 1:
        raise Mismatch("weighs tokens by what is no Linear", op.name)
    trial.absorb(row_wise, rows)
    trial.absorbed.append(bound.anchor)
    y = columns(op, trial, v, "v")
    query = linear.weight.T.astype(np.float64) * (bound.factor * scores.scale)
    node = AttentionPool(op.name, op.outputs[0], linear.x, y, trial.array(query), 1)
    return Match((node,), in_order(len(query), v.columns.shape[1]), factor=v.factor * rows.scale)


def _over_tokens(trial: Trial, rows: Ref | None) -> tuple[Op, View] | None:
    """The Softmax over the tokens that gives ``rows`` [..., queries, tokens], and what it reads as [..., tokens, queries]."""
    for ref, last in ((rows, 1), (_turned(rows), 2)):
        row_wise = trial.producer(ref, "Softmax")
        if row_wise is not None and row_wise.integer("axis", -1) % len(row_wise.shape(0)) == len(row_wise.shape(0)) - last:
            scores = row_wise.ref(0) if last == 2 else _turned(row_wise.ref(0))
            return (row_wise, scores) if isinstance(scores, View) else None
    return None


def _turned(ref: Ref | None) -> View | None:
    """A computed operand with rows and columns changed; None for others."""
    if not isinstance(ref, View) or len(ref.shape) < 2:
        return None
    index = ref.positions().swapaxes(-1, -2)
    return replace(ref, shape=index.shape, index=index)


def _summed(op: Op, trial: Trial) -> tuple[Ref | None, Ref | None]:
    """Of a sum over tokens of weights [1, tokens, 1] times values [1, tokens, channels]: the weights as [1, 1, tokens], the values."""
    product = trial.producer(op.operand(0), "Mul")
    if product is None or len(product.shape(0)) != 3 or reduced_axes(op) != [1]:
        return None, None
    small = next((place for place in (0, 1) if product.ref(place).shape[-1] == 1 < product.shape(0)[-1]), None)
    if small is None:
        return None, None
    trial.absorb(product, op.operand(0))
    return _turned(product.ref(small)), product.ref(1 - small)


def _pool(op: Op, trial: Trial, query: Array, k: Heads, v: Heads, scale: float, *, tokens_first: bool = False, gates: Array | None = None) -> Match:
    """query: [..., heads, Q, head_dim], or one head for all; gates: as of `Weighing`."""
    heads = max(len(k.columns), len(v.columns), math.prod(query.shape[:-2]) if query.ndim > 2 else 1)
    k, v = shared(k, heads), shared(v, heads)
    head_dim = k.columns.shape[1]
    count = query.shape[-2] if query.ndim > 1 else 0
    fits = len(k.columns) == len(v.columns) == heads and v.tokens == k.tokens and math.prod(query.shape[:-2]) in (1, heads)
    if not fits or not count or query.shape[-1] != head_dim:
        raise Mismatch(f"has a constant query {list(query.shape)}, and k and v with [heads, channels] {list(k.columns.shape)}, "
                       f"{list(v.columns.shape)}; as many heads of each are supported, those of the query as wide as those of k", op.name)
    rows = np.broadcast_to(query.reshape(-1, count, head_dim), (heads, count, head_dim)).transpose(1, 0, 2).reshape(count, heads * head_dim)
    x, y = columns(op, trial, k, "k"), columns(op, trial, v, "v")
    if gates is not None:
        y = gated(op, trial, y, gates, v)
    node = AttentionPool(op.name, op.outputs[0], x, y, trial.array(rows.astype(np.float64) * (scale * k.factor)), heads)
    width = v.columns.shape[1]
    return Match((node,), in_order(count, heads * width) if tokens_first else packed_positions(heads, count, width), factor=v.factor)
