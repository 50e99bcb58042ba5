"""Attention: every token looks at all others, head by head.

Spelled as the Attention operator, or as ``softmax(scale * q @ k.T) @ v`` in whatever way heads are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..functions import softmax
from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Bound, Match, Mismatch, Trial, in_order, is_whole, split_operands
from ..steps.format import OCTAVE
from ..steps.stages import Exp2, Keys, Plain, Requant, Restore, RowFactor, Values
from ..steps.step import Keep, Step
from ..steps.tensor import Memory, Tensor
from .linear import Linear
from .operands import rescaled
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering

SAME = 1e-9                      # relative difference of equal scales
SAME_SCALE = 1e-6           # relative: what float32 makes of 1 / sqrt(head_dim), in whatever parts


@dataclass(frozen=True, eq=False, repr=False)
class Attention(Operator):
    """Multi-head scaled dot-product attention on packed heads: q, k, v ``[T, heads * head_dim]`` -> ``[T, D]``."""

    q: str
    k: str
    v: str
    num_heads: int
    scale: float             # multiplies q @ k.T

    VALUES: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        q, k, v = shapes
        if k != v or q[-1] != k[-1] or q[-1] % self.num_heads:
            raise self.fail(f"q {q}, k {k}, v {v} do not form {self.num_heads} heads")
        return q

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        q, k, v = (self._heads(operand) for operand in operands)
        scores = q @ k.swapaxes(-1, -2) * np.float32(self.scale)
        if inner is not None:
            inner.append((Role.SCORE, scores))
        out: Array = softmax(scores) @ v
        return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)

    def _heads(self, a: Array) -> Array:
        """[B, T, heads * d] -> [B, heads, T, d]"""
        return a.reshape(*a.shape[:2], self.num_heads, -1).transpose(0, 2, 1, 3)

    def formats(self) -> tuple[FixedFormat, ...]:
        return (FixedFormat("attention score", Unit.SCORE, Role.SCORE),)

    def lower(self, to: Lowering) -> None:
        """Two steps: scores, and their exponentials times the values, divided by the sum of each row. A channel of the result has the scale
        of the values' channel, times what brings the largest of them to the scale of the result."""
        for value, what in zip(self.inputs, ("the query", "the key", "the value"), strict=True):
            to.narrow(self, value, what)
        q, k, v = (to.plain(self, value) for value in self.inputs)
        heads, scale, form, queries, keys = self.num_heads, to.scale(self.output), to.form(self.output), q.tokens.count, k.tokens.count
        scored = to.point(self.output, Role.SCORE, Unit.SCORE, self.output)
        scores = Tensor(to.fresh(f"{self.output}.scores"), scored, queries, heads * keys, memory=Memory.SCORE)
        out = replace(to.activations(self.output, queries, q.channels.count, scale, form), ratio=v.tensor.ratio)
        macs, unit = queries * keys * q.channels.count, q.tensor.units * k.tensor.units
        if not np.allclose(unit, unit[0], rtol=SAME, atol=0):
            raise self.fail("the scales of the channels of q and k do not cancel", hint="those of k are one number over those of q")
        product = to.factor(self, "scores", unit[0] * self.scale / (scored.unit * OCTAVE))
        to.emit(Step(self.output, self.name, Plain(), Keys(k), (scores.view(),), q, (Requant(product, scored),), (Keep.ROW_MAX,),
                     part="scores", heads=heads, macs=macs, about="Q K"))
        to.emit(Step(self.output, self.name, Exp2(), Values(v), (out.view(),), scores.view(),
                     (Restore(), RowFactor(to.factor(self, "output", v.tensor.scale / scale), form)), heads=heads, macs=macs, about="P V"))
        to.define(self.output, out)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"MatMul": (matmul_attention,), "Attention": (attention_operator,)},
                         dict.fromkeys(("Einsum", "IsNaN", "MatMul", "Mul", "Softmax", "Where"), "an attention"), rank=5)


@dataclass(frozen=True, eq=False)
class Heads:
    """q, k or v: columns [heads, head_dim] of the ir value ``bound``, all its tokens; ``factor`` times. ref: the operand."""

    bound: Bound
    columns: Array
    tokens: int
    factor: float
    ref: View


def matmul_attention(op: Op, trial: Trial) -> Match | None:
    """``softmax(q @ k.T * scale) @ v``; the scale may sit on q, k or the scores."""
    weights, gates = op.operand(0), np.ones(1)
    gate = split_operands(factor) if (factor := trial.producer(weights, "Mul")) is not None else None
    if isinstance(weights, View) and factor is not None and gate is not None and gate[1].array.ndim >= 3 and gate[1].array.shape[-2:] == (1, 1):
        trial.absorb(factor, weights)
        gates = weights.scale * gate[1].array.ravel().astype(np.float64)
        weights = gate[0]
    row_wise = trial.producer(weights, "Softmax")
    if row_wise is None or not isinstance(weights, View) or not isinstance(op.operand(1), View):
        return None
    _check_softmax(row_wise, op)
    scores = row_wise.ref(0)
    product = trial.producer(scores, "MatMul")
    if product is None or not isinstance(scores, View):
        raise Mismatch(_not_scores(trial, scores), op.name)
    q, k, v = (_heads(trial, ref, op, name, transposed) for ref, name, transposed in
               ((product.operand(0), "q", False), (product.operand(1), "k", True), (op.operand(1), "v", False)))
    if q is None or k is None or v is None:
        return None
    trial.absorb(row_wise, weights)
    trial.absorb(product, scores)
    return _attention(op, trial, q, k, replace(v, factor=v.factor * weights.scale), scores.scale, gates=gates)


def attention_operator(op: Op, trial: Trial) -> Match | None:
    """The Attention operator of opset 23, on 4-dimensional heads or on packed ones."""
    names = {3: "an attention mask", 4: "a key cache", 5: "a value cache", 6: "lengths of the sequences"}
    for position, ref in enumerate(op.inputs):
        name = names.get(position, f"an operand {position}")
        if position > 2 and ref is not None and not (position == 3 and isinstance(ref, Const)
                                                     and _lets_all_pass(ref.array, op.ref(1).shape[-2])):
            raise Mismatch(f"has {name}; only attention over all tokens is supported", op.name)
    if op.attrs.get("is_causal", 0) or op.attrs.get("softcap", 0.0) or any(op.outputs[1:]):
        raise Mismatch("is causal, caps its scores or returns more than the result; only plain attention is supported", op.name)
    refs = list(op.inputs[:3])
    packed = len(op.shape(0)) == 3
    if packed:
        counts = op.integer("q_num_heads", 0), op.integer("kv_num_heads", 0)
        if counts[0] != counts[1]:
            raise Mismatch(f"has {counts[0]} query heads and {counts[1]} key heads; equal numbers are supported", op.name)
        refs = [_unpacked(ref, counts[0]) for ref in refs]
    q, k, v = (_heads(trial, ref, op, name, False) for ref, name in zip(refs, "qkv", strict=True))
    if q is None or k is None or v is None:
        return None
    scale = op.number("scale", 1 / math.sqrt(q.columns.shape[1]))
    return _attention(op, trial, q, k, v, scale, tokens_first=packed)


def _check_softmax(row_wise: Op, op: Op) -> None:
    rank = len(row_wise.shape(0))
    if row_wise.integer("axis", -1) % rank != rank - 1:
        raise Mismatch(f"has a Softmax {row_wise.name!r} over axis {row_wise.attrs['axis']}, not the last", op.name)


def _not_scores(trial: Trial, scores: Ref) -> str:
    """Why what goes into the softmax is not a product of q and k."""
    producer = trial.graph.producers.get(scores.base) if isinstance(scores, View) else None
    if producer is None:
        return "has a softmax that reads no product of q and k"
    if producer.kind == "Add" and any(isinstance(ref, Const) for ref in producer.inputs):
        return (f"adds a constant to the scores in {producer.name!r} (an attention mask or a position bias); only attention over "
                "all tokens without a bias is supported")
    if producer.kind == "Where":
        return f"masks the scores in {producer.name!r}; only attention over all tokens is supported"
    return f"has a softmax that reads {producer.kind} node {producer.name!r}, not a product of q and k"


def _lets_all_pass(mask: Array, keys: int) -> bool:
    """A mask of fewer keys hides the others (operator set 24)."""
    if mask.ndim == 0 or mask.shape[-1] != keys:
        return False
    return bool(mask.all()) if mask.dtype == np.bool_ else not mask.any()


def _unpacked(ref: Ref | None, heads: int) -> Ref | None:
    """[B, T, heads * d] -> [B, heads, T, d]"""
    if not isinstance(ref, View) or not heads or ref.shape[2] % heads:
        return ref
    index = ref.positions().reshape(ref.shape[0], ref.shape[1], heads, -1).transpose(0, 2, 1, 3)
    return replace(ref, shape=index.shape, index=index)


def _heads(trial: Trial, ref: Ref | None, op: Op, name: str, transposed: bool) -> Heads | None:
    """Reads [1, heads, T, d] ([1, heads, d, T] if transposed) as columns of a token sequence; None if it is not bound."""
    found = trial.where(ref)
    if found is None or not isinstance(ref, View):
        return None
    bound, positions = found
    if len(bound.shape) != 2 or positions.ndim < 3 or math.prod(positions.shape[:-3]) != 1:
        raise Mismatch(f"has {name} {list(positions.shape)} of {bound.value!r} {list(bound.shape)}; expected are [1, heads, "
                       "tokens, channels] of one token sequence", op.name)
    positions = positions.reshape(positions.shape[-3:])
    positions = positions.swapaxes(1, 2) if transposed else positions                   # [heads, T, d]
    tokens, channels = bound.shape
    columns = positions[:, 0, :]
    expected = np.arange(tokens)[None, :, None] * channels + columns[:, None, :]
    if columns.max() >= channels or not np.array_equal(positions, expected):
        raise Mismatch(f"has {name} that does not take the tokens of {bound.value!r} {list(bound.shape)} whole and in order "
                       "(windows, shifts and sequences of another length are not supported)", op.name)
    return Heads(bound, columns, tokens, bound.factor * ref.scale, ref)


def _attention(op: Op, trial: Trial, q: Heads, k: Heads, v: Heads, scale: float, *, tokens_first: bool = False, gates: Array | None = None) -> Match:
    """gates: factors of the results, one a head or one for all."""
    if q.columns.shape != k.columns.shape or k.columns.shape != v.columns.shape:
        shown = ", ".join(str(list(part.columns.shape)) for part in (q, k, v))
        raise Mismatch(f"has q, k and v with [heads, channels] {shown}; equal ones are supported", op.name)
    scale *= q.factor * k.factor
    if not scale:
        raise Mismatch(f"multiplies the scores by {scale:.6g}", op.name)
    negative, scale, plain = scale < 0, abs(scale), 1 / math.sqrt(q.columns.shape[1])
    scale = plain if math.isclose(scale, plain, rel_tol=SAME_SCALE) else scale      # wherever it stands, and in how many parts
    x, y, z = (_columns(op, trial, part, name) for part, name in zip((q, k, v), "qkv", strict=True))
    heads, head_dim = q.columns.shape
    if negative:
        x = _changed(op, trial, x, -np.ones(q.columns.size), "q")
    if gates is not None and (gates != 1).any():
        z = _changed(op, trial, z, np.repeat(np.broadcast_to(gates, heads), head_dim), "v")
    node = Attention(op.name, op.outputs[0], x, y, z, heads, float(scale))
    if tokens_first:
        return Match((node,), in_order(q.tokens, heads * head_dim), factor=v.factor)
    positions = in_order(heads, q.tokens, head_dim).transpose(1, 0, 2).reshape(q.tokens, heads * head_dim)
    return Match((node,), positions, factor=v.factor)


def _changed(op: Op, trial: Trial, value: str, factors: Array, name: str) -> str:
    """The ir value times a factor for each channel."""
    made = next((node for node in trial.nodes if node.output == value), trial.made.get(value))
    node = None if made is None else rescaled(trial, made, factors, np.zeros(len(factors)), output=trial.fresh(f"{op.outputs[0]}.{name}'"))
    if node is None:
        raise Mismatch(f"multiplies {name} by factors no weights in front of it can take in", op.name)
    trial.nodes.append(node)
    return node.output


def _columns(op: Op, trial: Trial, part: Heads, name: str) -> str:
    """The ir value that holds just these columns: all of an existing one, or a Linear with these columns of the weight."""
    columns = part.columns.ravel()
    if is_whole(columns) and columns.size == part.bound.shape[1]:
        trial.rounds(part.bound.value, part.ref, part.bound.factor)
        return part.bound.value
    linear = part.bound.node
    if not isinstance(linear, Linear):
        raise Mismatch(f"makes {name} of some channels of {part.bound.value!r}, which is no Linear", op.name)
    trial.absorbed.append(part.bound.anchor)
    node = replace(linear, output=trial.fresh(f"{op.outputs[0]}.{name}"), weight=trial.array(linear.weight[:, columns]),
                   bias=trial.array(linear.bias[columns]))
    trial.nodes.append(node)
    trial.rounds(node.output, part.ref, part.bound.factor)
    return node.output
