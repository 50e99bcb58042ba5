"""Attention: every token looks at all others, or at those before it, head by head.

Spelled as the Attention operator, or as ``softmax(scale * q @ k.T) @ v`` in whatever way heads are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..functions import softmax
from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Match, Mismatch, Trial, in_order, is_whole, split_operands
from ..steps.format import OCTAVE, SCORES, WIDE, Format
from ..steps.stages import Bias, Constant, Exp2, Identity, Keys, Plain, Requant, Restore, RowFactor, Stage, Values
from ..steps.stages.tile import pairs
from ..steps.step import Keep, Step
from ..steps.tensor import Memory, Tensor
from .heads import Heads, heads_of, packed_positions, repeated, shared, unpacked
from .linear import Linear
from .masks import ALL, LEAST, Scores, operator_mask, scores_of
from .norm import LayerNorm
from .operands import picked, rescaled
from .operator import Operator, Spellings
from .parts import parts, some

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering
    from ..steps.tensor import View as Words

NEXT_TO_NOTHING = 10               # octaves below the largest score of a row in which a weight is 0 for sure
SAME = 1e-9                      # relative difference of equal scales
SAME_SCALE = 1e-6           # relative: what float32 makes of 1 / sqrt(head_dim), in whatever parts


@dataclass(frozen=True, eq=False, repr=False)
class Attention(Operator):
    """Multi-head scaled dot-product attention on packed heads: q ``[Q, heads * head_dim]``, k the same of T tokens, v ``[T, heads * value_dim]`` ->
    ``[Q, heads * value_dim]``."""

    q: str
    k: str
    v: str
    num_heads: int
    scale: float             # multiplies q @ k.T
    causal: bool = False     # token i sees itself and those before, else all
    windows: int = 1         # the tokens are those of so many windows, one behind the other, and see those of their own

    VALUES: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        q, k, v = shapes
        if k[:-1] != v[:-1] or q[-1] != k[-1] or q[-1] % self.num_heads or v[-1] % self.num_heads:
            raise self.fail(f"q {q}, k {k}, v {v} do not form {self.num_heads} heads")
        if q[0] % self.windows or k[0] % self.windows:
            raise self.fail(f"{q[0]} queries and {k[0]} keys do not form {self.windows} windows")
        return *q[:-1], v[-1]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        q, k, v = operands
        return attend(q, k, v, self.num_heads, self.scale, inner, self.causal, windows=self.windows)

    def formats(self) -> tuple[FixedFormat, ...]:
        return (FixedFormat("attention score", Unit.SCORE, Role.SCORE),)

    def lower(self, to: Lowering) -> None:
        q, k, v = words(to, self, {"the query": self.q, "the key": self.k, "the value": self.v})
        products(to, self, q, k, v, self.num_heads, self.scale, int(self.causal), self.added(), self.windows)

    def added(self) -> Array | None:
        """What is added to the scores."""
        return None

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"MatMul": (matmul_attention,), "Attention": (attention_operator,)},
                         dict.fromkeys(("Einsum", "IsNaN", "MatMul", "Mul", "Softmax", "Where"), "an attention"), rank=5)


@dataclass(frozen=True, eq=False, repr=False)
class BiasedAttention(Attention):
    """The same with a constant added to the scores: a position bias, or a mask."""

    bias: Array = field(kw_only=True)            # [heads or 1, queries, keys] of a window, or of each, [windows, ...]; below `LEAST`: hidden

    def shape(self, *shapes: Shape) -> Shape:
        found = super().shape(*shapes)
        queries, keys = (shape[0] // self.windows for shape in shapes[:2])
        heads, windows = self.bias.shape[-3], self.bias.shape[:-3]
        if self.bias.shape[-2:] != (queries, keys) or heads not in (1, self.num_heads) or windows not in ((), (self.windows,)):
            raise self.fail(f"a bias {self.bias.shape} does not fit {self.num_heads} heads of {queries} queries and {keys} keys")
        return found

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        q, k, v = operands
        return attend(q, k, v, self.num_heads, self.scale, inner, self.causal, self.bias, self.windows)

    def added(self) -> Array:
        return self.bias

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings()


def attend(q: Array, k: Array, v: Array, heads: int, scale: float, inner: Inner | None, causal: bool = False, bias: Array | None = None,
           windows: int = 1) -> Array:
    """``softmax(scale * q @ k.T) @ v`` of each head: [B or 1, Q, heads * d], [B, T, heads * d], [B, T, heads * e] -> [B, Q, heads * e].
    inner: gets the scores, 0 where they are not seen. causal: query i sees keys 0 to i. bias: [heads or 1, Q, T], added to the scores. windows: each
    for itself; Q and T of a bias are those of a window, which may have its own, [windows, heads or 1, Q, T]."""
    if windows > 1:
        x, y, z = (a.reshape(-1, a.shape[1] // windows, a.shape[2]) for a in (q, k, v))
        of_each = np.tile(bias, (len(k), 1, 1, 1)) if bias is not None and bias.ndim == 4 else bias
        return attend(x, y, z, heads, scale, inner, causal, of_each).reshape(len(k), -1, v.shape[2])
    q, k, v = (a.reshape(*a.shape[:2], heads, -1).transpose(0, 2, 1, 3) for a in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * np.float32(scale)
    hidden = np.tri(*scores.shape[-2:]) == 0 if causal else None
    if bias is not None:
        unseen = bias <= LEAST
        hidden = unseen if hidden is None else hidden | unseen
        if inner is not None:                    # what is held in 16 bits on the way, too
            inner.append((Role.SCORE, np.where(hidden, np.float32(0), scores)))
        scores = scores + np.where(unseen, np.float32(0), bias)
    if inner is not None:
        inner.append((Role.SCORE, scores if hidden is None else np.where(hidden, np.float32(0), scores)))
    if hidden is not None:
        scores = np.where(hidden, np.float32(-np.inf), scores)
    out: Array = softmax(scores) @ v
    return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)


def words(to: Lowering, node: Operator, values: Mapping[str, str]) -> list[Words]:
    """The int8 words of values, by what they are to the node; raises ModelError where they cannot have 8 bits."""
    for what, value in values.items():
        to.narrow(node, value, what)
    return [to.plain(node, value) for value in values.values()]


def products(to: Lowering, node: Operator, q: Words, k: Words, v: Words, heads: int, scale: float, limit: int = 0,
             bias: Array | None = None, windows: int = 1) -> None:
    """Two steps for each part: scores, and their exponentials times the values, divided by the sum of each row. A channel of the result has the
    scale of the values' channel, times what brings the largest of them to the scale of the result. limit: of `Keys`. bias: of `BiasedAttention`;
    its words are a constant that goes along with the scores, which parts with equal ones share."""
    value, unit, form = node.output, to.scale(node.output), to.form(node.output)
    scored = to.point(value, Role.SCORE, Unit.SCORE, value) if bias is None else _beside_a_mask(to, node, bias)
    out = replace(to.activations(value, q.tokens.count, v.channels.count, unit, form), ratio=v.tensor.ratio)
    both = q.tensor.units * k.tensor.units
    if not np.allclose(both, both[0], rtol=SAME, atol=0):
        raise node.fail("the scales of the channels of q and k do not cancel", hint="those of k are one number over those of q")
    product = to.factor(node, "scores", both[0] * scale / (scored.unit * OCTAVE))
    brought: dict[tuple[Shape, bytes], Bias] = {}
    for part in parts(q.tokens.count, k.tokens.count, windows, limit, bias):
        added = list[Stage]()
        if part.bias is not None:
            key = part.bias.shape, part.bias.tobytes()
            if key not in brought:
                brought[key] = _bias(to, node, part.bias, heads, scored, f"bias.{part.name}".rstrip("."))
            added = [brought[key]]
        some_q, some_k, some_v, some_out = (some(view, span) for view, span in ((q, part.queries), (k, part.keys), (v, part.keys),
                                                                                   (out.view(), part.queries)))
        queries, keys = part.queries.count, part.keys.count
        seen, name = pairs(part.limit, queries, keys), f"scores.{part.name}".rstrip(".")
        scores = Tensor(to.fresh(f"{value}.{name}"), scored, queries, heads * keys, memory=Memory.SCORE)
        to.emit(Step(value, node.name, Plain(), Keys(some_k, part.limit), (scores.view(),), some_q, (Requant(product, scored), *added),
                     (Keep.ROW_MAX,), part=name, heads=heads, macs=seen * q.channels.count, about=f"Q K{part.about}"))
        weighed = (Restore(), RowFactor(to.factor(node, "output", v.tensor.scale / unit), form))
        to.emit(Step(value, node.name, Exp2(part.limit), Values(some_v), (some_out,), scores.view(), weighed, part=part.name, heads=heads,
                     macs=seen * v.channels.count, about=f"P V{part.about}"))
    to.define(value, out)


def _beside_a_mask(to: Lowering, node: Operator, bias: Array) -> Format:
    """The format of scores that holds them with the bias, and in which a score less the largest word is far below every one that is seen."""
    seen = to.point(node.output, Role.SCORE, Unit.SCORE, node.output)
    if not (bias <= LEAST).any():
        return seen
    largest = to.largest(node.output, Role.SCORE) / OCTAVE
    fits = [form for form in SCORES if 2 * largest + NEXT_TO_NOTHING <= form.hi * form.unit and form.unit >= seen.unit]
    if not fits:
        coarsest = max(SCORES, key=lambda form: form.unit)
        raise node.fail(f"has scores up to {largest * OCTAVE:.4g} and a mask: the engine holds scores up to "
                        f"{(coarsest.hi * coarsest.unit - NEXT_TO_NOTHING) / 2 * OCTAVE:.4g} beside one",
                        hint="calibrate with images like those the network will see, or export without the mask")
    return min(fits, key=lambda form: form.unit)


def _bias(to: Lowering, node: Operator, bias: Array, heads: int, scored: Format, what: str = "bias") -> Bias:
    """The stage that adds a bias to the scores of all heads, and before it the step that brings its words."""
    words = np.clip(np.rint(bias.astype(np.float64) / (scored.unit * OCTAVE)), WIDE.lo, WIDE.hi)
    table = np.where(bias <= LEAST, WIDE.lo, words).astype(WIDE.dtype)
    _, queries, keys = table.shape
    flat = np.broadcast_to(table, (heads, queries, keys)).transpose(1, 0, 2).reshape(queries, heads * keys)
    name = to.fresh(f"{node.output}.{what}")
    place = Tensor(name, WIDE, queries, heads * keys, memory=Memory.OPERAND).view()
    to.emit(Step(name, node.name, Constant(to.pool.add(name, flat)), Identity(), (place,), about="bias of the scores"))
    return Bias(place)


@dataclass(frozen=True, eq=False)
class Weighing:
    """``softmax(scores) @ values``: ``weights`` are what the Softmax gives. gates: factors of the results, one a head or one for all."""

    weights: View
    scores: Scores
    gates: Array


def weighing(op: Op, trial: Trial) -> Weighing | None:
    """What a MatMul weighs its second operand with; None when it does not."""
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
    if not isinstance(row_wise.ref(0), View):
        raise Mismatch("has a softmax of constants", op.name)
    trial.absorb(row_wise, weights)
    return Weighing(weights, scores_of(op, trial, row_wise.view(0)), gates)


def matmul_attention(op: Op, trial: Trial) -> Match | None:
    """``softmax(q @ k.T * scale) @ v``; the scale may sit on q, k or the scores."""
    found = weighing(op, trial)
    if found is None or isinstance(found.scores.query, Const):
        return None
    scores, swapped = found.scores, found.scores.swapped
    q, k, v = (heads_of(trial, ref, op, name, transposed, windows=True) for ref, name, transposed in
               ((scores.query, "q", swapped), (scores.key, "k", not swapped), (op.operand(1), "v", False)))
    if q is None or k is None or v is None:
        return None
    return _attention(op, trial, q, k, replace(v, factor=v.factor * found.weights.scale), scores.scale, gates=found.gates, causal=scores.causal,
                      bias=scores.bias)


def plain_operator(op: Op) -> tuple[list[Ref | None], bool, bool, Array | None]:
    """Operands q, k and v of the Attention operator of opset 23 as [B, heads, T, d], whether they are packed, whether it is causal, and the bias of
    its scores. Raises Mismatch when it does more than attend."""
    names = {3: "an attention mask that is computed", 4: "a key cache", 5: "a value cache", 6: "lengths of the sequences"}
    for position, ref in enumerate(op.inputs):
        name = names.get(position, f"an operand {position}")
        if position > 2 and ref is not None and not (position == 3 and isinstance(ref, Const)):
            raise Mismatch(f"has {name}; only attention {ALL} is supported", op.name)
    if op.attrs.get("softcap", 0.0) or any(op.outputs[1:]):
        raise Mismatch("caps its scores or returns more than the result; only plain attention is supported", op.name)
    causal, bias = operator_mask(op, op.ref(0).shape[-2], op.ref(1).shape[-2])
    refs = list(op.inputs[:3])
    packed = len(op.shape(0)) == 3
    if packed:
        counts = op.integer("q_num_heads", 0), op.integer("kv_num_heads", 0)
        refs = [unpacked(ref, count) for ref, count in zip(refs, (counts[0], counts[1], counts[1]), strict=True)]
    if refs[0] is not None:
        refs[1:] = [repeated(ref, refs[0].shape[1]) for ref in refs[1:]]
    return refs, packed, causal, bias


def attention_operator(op: Op, trial: Trial) -> Match | None:
    """The Attention operator, on 4-dimensional heads or on packed ones."""
    refs, packed, causal, bias = plain_operator(op)
    if isinstance(refs[0], Const):
        return None
    q, k, v = (heads_of(trial, ref, op, name, False, windows=True) for ref, name in zip(refs, "qkv", strict=True))
    if q is None or k is None or v is None:
        return None
    scale = op.number("scale", 1 / math.sqrt(q.columns.shape[1]))
    return _attention(op, trial, q, k, v, scale, tokens_first=packed, causal=causal, bias=bias)


def _check_softmax(row_wise: Op, op: Op) -> None:
    rank = len(row_wise.shape(0))
    if row_wise.integer("axis", -1) % rank != rank - 1:
        raise Mismatch(f"has a Softmax {row_wise.name!r} over axis {row_wise.attrs['axis']}, not the last", op.name)


def _attention(op: Op, trial: Trial, q: Heads, k: Heads, v: Heads, scale: float, *, tokens_first: bool = False, gates: Array | None = None,
               causal: bool = False, bias: Array | None = None) -> Match:
    """gates: factors of the results, one a head or one for all."""
    if causal and q.tokens != k.tokens:
        raise Mismatch(f"is causal, with {q.tokens} queries and {k.tokens} keys; equal numbers are supported", op.name)
    k, v = shared(k, len(q.columns)), shared(v, len(q.columns))
    if q.columns.shape != k.columns.shape or len(k.columns) != len(v.columns):
        shown = ", ".join(str(list(part.columns.shape)) for part in (q, k, v))
        raise Mismatch(f"has q, k and v with [heads, channels] {shown}; as many heads of each are supported, those of q "
                       "as wide as those of k", op.name)
    if k.tokens != v.tokens:
        raise Mismatch(f"has {k.tokens} keys and {v.tokens} values", op.name)
    windows = q.windows
    if {k.windows, v.windows} != {windows}:
        raise Mismatch(f"has q, k and v of {windows}, {k.windows} and {v.windows} windows; equal numbers are supported", op.name)
    scale *= q.factor * k.factor
    if not scale:
        raise Mismatch(f"multiplies the scores by {scale:.6g}", op.name)
    negative, scale, plain = scale < 0, abs(scale), 1 / math.sqrt(q.columns.shape[1])
    scale = plain if math.isclose(scale, plain, rel_tol=SAME_SCALE) else scale      # wherever it stands, and in how many parts
    if not is_whole(q.columns):                          # in whatever order: q . k does not mind
        within = np.argsort(q.columns, axis=1)
        q, k = (replace(part, columns=np.take_along_axis(part.columns, within, 1)) for part in (q, k))
    x, y, z = (columns(op, trial, part, name) for part, name in zip((q, k, v), "qkv", strict=True))
    heads = len(q.columns)
    if negative:
        x = _changed(op, trial, x, -np.ones(q.columns.size), "q")
    if gates is not None:
        z = gated(op, trial, z, gates, v)
    if bias is not None and windows > 1 and len(bias) == windows * heads:
        bias = bias.reshape(windows, heads, *bias.shape[1:])
        bias = bias[0] if (bias == bias[:1]).all() else bias
    if bias is not None and bias.shape[-3] not in (1, heads):
        raise Mismatch(f"adds a bias {list(bias.shape)} to the scores of {heads} heads", op.name)
    node = Attention(op.name, op.outputs[0], x, y, z, heads, float(scale), causal, windows) if bias is None else BiasedAttention(
        op.name, op.outputs[0], x, y, z, heads, float(scale), causal, windows, bias=trial.array(bias))
    width, rows = v.columns.shape[1], q.tokens // windows
    places = in_order(q.tokens, heads * width) if tokens_first else (
        packed_positions(heads, rows, width) + np.arange(windows)[:, None, None] * rows * heads * width).reshape(q.tokens, heads * width)
    return Match((node,), places.astype(np.int32), factor=v.factor)


def gated(op: Op, trial: Trial, value: str, gates: Array, v: Heads) -> str:
    """The values times a factor for each head, or for all."""
    heads, head_dim = v.columns.shape
    return _changed(op, trial, value, np.repeat(np.broadcast_to(gates, heads), head_dim), "v") if (gates != 1).any() else value


def _changed(op: Op, trial: Trial, value: str, factors: Array, name: str) -> str:
    """The ir value times a factor for each channel."""
    made = next((node for node in trial.nodes if node.output == value), trial.made.get(value))
    node = None if made is None else rescaled(trial, made, factors, np.zeros(len(factors)), output=trial.fresh(f"{op.outputs[0]}.{name}'"))
    if node is None:
        raise Mismatch(f"multiplies {name} by factors no weights in front of it can take in", op.name)
    trial.nodes.append(node)
    return node.output


def columns(op: Op, trial: Trial, part: Heads, name: str) -> str:
    """The ir value that holds just these columns: all of an existing one, or a Linear with these columns of the weight."""
    wanted = part.columns.ravel()
    if is_whole(wanted) and wanted.size == part.bound.shape[1]:
        trial.rounds(part.bound.value, part.ref, part.bound.factor)
        return part.bound.value
    source = part.bound.node
    node = None if source is None else picked(trial, source, wanted, f"{op.outputs[0]}.{name}")
    if node is None and isinstance(source, LayerNorm):          # one key head, normalised as a whole, for several query heads
        node = Linear(op.name, trial.fresh(f"{op.outputs[0]}.{name}"), part.bound.value, trial.array(np.eye(part.bound.shape[1])[:, wanted]),
                      trial.array(np.zeros(wanted.size)))
    if node is None:
        raise Mismatch(f"makes {name} of some channels of {part.bound.value!r}, which "
                       f"{'are no turned pairs or whole heads of a Linear' if source is not None and source.BY_CHANNEL else 'is no Linear'}", op.name)
    trial.absorbed.append(part.bound.anchor)
    trial.nodes.append(node)
    trial.rounds(node.output, part.ref, part.bound.factor)
    return node.output
