"""MoE: a mixture of experts; as exporters write it, every expert computes every token, and a score of zero drops it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..functions import Act, activate, softmax, titles
from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Bound, Match, Mismatch, Trial, in_order, is_whole, reduced_axes, split_operands, without_leading_ones
from ..steps.format import LOGIT, LOGIT_UNIT, PRE_ACT_UNIT, PRE_ACTIVATION, SHARE, WIDE
from ..steps.stages import Add as AddTo, Gather, Plain, Requant, Route, Score
from ..steps.step import Expert, Keep, Step
from ..steps.tensor import Memory, Tensor
from .activation import recognize
from .linear import Linear
from .operands import Operand
from .operator import SUPPORTED, Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering

TIE = 1e-5                       # difference of two router scores that another order of additions may turn
PARTS = {"Add": "a mixture of experts", "MatMul": "a mixture of experts", "Mul": "a mixture of experts", "ReduceSum": "a mixture of experts",
         "Div": "a router", "ScatterElements": "a router", "Softmax": "a router", "TopK": "a router"}


@dataclass(frozen=True, eq=False, repr=False)
class MoE(Operator):
    """Mixture of experts, each a two-layer MLP; router = softmax over all experts, then top-k (lowest index wins a tie).

    ``renormalize``: the k scores are divided by their sum. ``y = sum_e score_e * (act(x @ w1[e] + b1[e]) @ w2[e] + b2[e])``
    """

    x: str
    gate: Array              # [D, E]
    gate_bias: Array         # [E]
    w1: Array                # [E, D, H]
    b1: Array                # [E, H]
    w2: Array                # [E, H, D]
    b2: Array                # [E, D]
    act: Act
    top_k: int
    renormalize: bool

    BY_TOKEN: ClassVar[bool] = True
    TRUNK: ClassVar[bool] = True

    @property
    def num_experts(self) -> int:
        return len(self.w1)

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        e, d, h = self.w1.shape
        if x[-1] != d or self.gate.shape != (d, e) or self.w2.shape != (e, h, d):
            raise self.fail(f"input {x}, gate {self.gate.shape}, w1 {self.w1.shape}, w2 {self.w2.shape} do not fit")
        if not 1 <= self.top_k <= e:
            raise self.fail(f"top-{self.top_k} of {e} experts")
        return x

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        rows = x.reshape(-1, x.shape[-1])
        if inner is not None:
            inner.append((Role.LOGIT, self.logits(rows)))
        experts, scores = self.route(rows)
        y = np.zeros_like(rows)
        for e in range(self.num_experts):
            mine, place = np.nonzero(experts == e)       # rows routed to e, and the place (0..k-1) it has there
            if len(mine):
                pre = rows[mine] @ self.w1[e] + self.b1[e]
                hidden = activate(pre, self.act)
                out = hidden @ self.w2[e] + self.b2[e]
                if inner is not None:
                    inner += [(Role.PRE, pre), (Role.HIDDEN, hidden), (Role.EXPERT, out)]
                y[mine] += scores[mine, place, None] * out
        return y.reshape(x.shape)

    def logits(self, rows: Array) -> Array:
        """What the router's softmax reads: [rows, experts]."""
        logits: Array = rows @ self.gate + self.gate_bias
        return logits

    def route(self, rows: Array) -> tuple[Array, Array]:
        """Chosen experts of each row, best first, lowest index first among equals; int64 and float32 scores, both [rows, k]."""
        scores = softmax(self.logits(rows))
        experts = np.argsort(-scores, axis=-1, kind="stable")[:, :self.top_k]
        chosen = np.take_along_axis(scores, experts, axis=-1)
        return experts, chosen / chosen.sum(-1, keepdims=True) if self.renormalize else chosen

    def settled(self, *operands: Array) -> Array:
        (x,) = operands
        return (self.margins(x.reshape(-1, x.shape[-1])) >= TIE).reshape(x.shape[:-1])

    def margins(self, rows: Array) -> Array:
        """For each row the difference between the scores of the last expert chosen and of the first one not; infinite if all are."""
        scores = np.sort(softmax(self.logits(rows)), axis=-1)[:, ::-1]
        margins: Array = scores[:, self.top_k - 1] - scores[:, self.top_k] if self.top_k < self.num_experts else np.full(len(scores), np.inf)
        return margins

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array] | None:
        if shift.any() and not self.renormalize:         # the scores of a token need not add up to 1
            return None
        return {"w2": self.w2 * scale, "b2": self.b2 * scale + shift}

    def formats(self) -> tuple[FixedFormat, ...]:
        return (FixedFormat("router logit", Unit.LOGIT, Role.LOGIT), FixedFormat("pre-activation", Unit.PRE_ACT, Role.PRE),
                FixedFormat("expert result", Unit.RESIDUAL, Role.EXPERT))

    def lower(self, to: Lowering) -> None:
        """Its steps come with the addition to the residual stream."""
        if self.output not in to.branches:
            raise self.fail("its result is not added to the residual stream", hint=SUPPORTED)

    def lower_update(self, to: Lowering, output: str) -> None:
        """The router, then expert by expert: its tokens are gathered, its results are added to the residual stream by their shares."""
        to.narrow(self, self.x, "what experts read,")
        x, form, place = to.operand(self, self.x), to.form(self.output), to.residual.view()
        tokens, experts, narrow = x.tensor.tokens, self.num_experts, to.precision.narrow_experts
        queue = Tensor(to.fresh(f"{output}.queue"), SHARE, tokens, self.top_k, memory=Memory.ROUTER).view()
        gate = to.weights(self, "gate", x, self.gate, self.gate_bias, LOGIT_UNIT, name=f"{output}.gate")
        to.product(output, self, x.tensor.view(), gate, (Requant(gate.factor, LOGIT), Route(self.top_k, self.renormalize)), queue,
                   part="gate", about="gate")
        given = to.units(self.output, self.b1.shape, Role.HIDDEN)
        tables, units = to.tables(self, self.act.value, np.broadcast_to(given, (experts, given.shape[-1])), f"{output}.experts", form)
        for e in range(experts):
            hidden = to.activations(to.fresh(f"{output}.hidden{e}"), tokens, self.w1[e].shape[1], units[e], form)
            first = to.weights(self, f"expert {e}, layer 1", x, self.w1[e], self.b1[e], PRE_ACT_UNIT, narrow=narrow,
                               name=f"{output}.expert{e}.layer1")
            second = to.weights(self, f"expert {e}, layer 2", to.as_lowered(hidden), self.w2[e], self.b2[e], to.residual_scale,
                                narrow=narrow, name=f"{output}.expert{e}.layer2")
            expert = Expert(e, experts, queue)
            drain = Requant(first.factor, PRE_ACTIVATION), tables[e]
            to.emit(Step(output, self.name, Gather(), first.tile, (hidden.view(),), x.tensor.view(), drain, part=f"expert{e}.layer1",
                         macs=tokens * self.top_k * self.w1[e].size // experts, about=f"expert {e}, layer 1", expert=expert))
            to.emit(Step(output, self.name, Plain(), second.tile, (place,), hidden.view(), (Requant(second.factor, WIDE), Score(), AddTo(place)),
                         (Keep.MOMENTS,), part=f"expert{e}.layer2", macs=tokens * self.top_k * self.w2[e].size // experts,
                         about=f"expert {e}, layer 2", expert=expert))

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"ReduceSum": (moe,)}, PARTS, rank=6)


@dataclass(frozen=True, eq=False)
class Stack:
    """One layer of all experts: ``x @ weight[e] + bias[e]``; weight [E, K, N], bias [E, N]."""

    x: View
    weight: Array
    bias: Array


@dataclass(frozen=True, eq=False)
class Router:
    """softmax of the gate's logits, ``factor`` times what the Linear ``gate`` gives."""

    gate: Linear
    factor: float
    top_k: int
    renormalize: bool
    num_tokens: int


def moe(op: Op, trial: Trial) -> Match | None:
    """``sum over e of scores[t, e] * expert_e(x[t])`` as ReduceSum of a Mul -> MoE."""
    whole = op.operand(0)
    product = trial.producer(whole, "Mul")
    axes = reduced_axes(op)
    if product is None or not isinstance(whole, View) or len(axes) != 1:
        return None
    shape, axis = product.shape(0), axes[0]
    for scores, results in (product.inputs, reversed(product.inputs)):
        scatter = _base(trial, scores, "ScatterElements")
        if scatter is not None and isinstance(scores, View) and isinstance(results, View):
            break
    else:
        return None                                                  # a sum, but not one of experts
    expert_major = [np.moveaxis(np.broadcast_to(ref.positions(), shape), axis, 0) for ref in (scores, results)]
    num_experts, dim = shape[axis], shape[-1]
    score_index, result_index = (index.reshape(num_experts, -1, dim) for index in expert_major)
    num_tokens = score_index.shape[1]
    token_major = np.arange(num_tokens * num_experts).reshape(num_tokens, num_experts)
    if axis == len(shape) - 1 or scatter.shape(0)[-1] != num_experts or math.prod(scatter.shape(0)) != token_major.size \
            or not (score_index == token_major.T[:, :, None]).all():
        raise Mismatch(f"sums over axis {axis} of {list(shape)}, but the scores of {scatter.name!r} {list(scatter.shape(0))} "
                       "do not stand as [tokens, experts] along it", op.name)
    router = _router(op, trial, scatter)
    if router is None:
        return None
    second = _stack(op, trial, View(results.base, result_index.shape, result_index, results.scale), "the second layer")
    inner = trial.producer(second.x)
    activated = recognize(inner, trial) if inner is not None else None
    if inner is None or activated is None:
        found = f"{inner.kind} node {inner.name!r}" if inner is not None else f"{second.x.base!r}"
        raise Mismatch(f"has {found} between the layers of its experts; supported are {titles('and')}", op.name)
    first = _stack(op, trial, activated.x, "the first layer")
    x = _input(op, trial, first.x, num_tokens)
    if x is None:
        return None
    if x.value != router.gate.x:
        raise Mismatch(f"has a router that reads {router.gate.x!r} and experts that read {x.value!r}; both must read one value",
                       op.name)
    if router.num_tokens != num_tokens or first.weight.shape[0] != num_experts:
        raise Mismatch(f"routes {router.num_tokens} tokens to {num_experts} experts, but {first.weight.shape[0]} experts compute "
                       f"{num_tokens}", op.name)
    trial.absorb(product, whole)
    for part in activated.parts:
        trial.absorb(part)
    out = np.float32(activated.factor * second.x.scale)
    total = np.float32(whole.scale * scores.scale)
    w1, b1 = first.weight * np.float32(x.factor), first.bias
    if x.affine is not None:
        w1, b1 = first.weight * x.affine.scale[:, None], first.bias + x.affine.offset @ first.weight.astype(np.float64)
    node = MoE(
        op.name, op.outputs[0], x.value, gate=trial.array(router.gate.weight * np.float32(router.factor)),
        gate_bias=trial.array(router.gate.bias * np.float32(router.factor)),
        w1=trial.array(w1), b1=trial.array(b1),
        w2=trial.array(second.weight * (out * total)), b2=trial.array(second.bias * total),
        act=activated.kind, top_k=router.top_k, renormalize=router.renormalize)
    return Match((node,), in_order(*x.shape))


def _base(trial: Trial, ref: Ref | None, kind: str) -> Op | None:
    """The operator an operand is a view of, in whatever order."""
    op = trial.graph.producers.get(ref.base) if isinstance(ref, View) else None
    return op if op is not None and op.kind == kind else None


def _stack(op: Op, trial: Trial, view: View, what: str) -> Stack:
    """The expert layer that gives ``view``: MatMul with a constant [E, K, N] and perhaps an Add of [E, 1, N]."""
    producer = trial.graph.producers.get(view.base)
    if not is_whole(view.positions()) or producer is not None and without_leading_ones(producer.shape(0)) != without_leading_ones(view.shape):
        raise Mismatch(f"reads {what} of its experts in another order than [experts, tokens, channels]", op.name)
    bias: Array | None = None
    scale, source = view.scale, view
    if producer is not None and producer.kind == "Add" and (found := split_operands(producer)) is not None:
        trial.absorb(producer, view)
        source, bias = found[0], found[1].array * np.float32(scale)
        scale *= source.scale
        producer = trial.producer(source)
    weight = producer.constant(1) if producer is not None and producer.kind == "MatMul" else None
    x = producer.operand(0) if producer is not None else None
    if producer is None or weight is None or weight.ndim != 3 or not isinstance(x, View):
        shown = f"{producer.kind} node {producer.name!r}" if producer is not None else f"{view.base!r}"
        raise Mismatch(f"has {shown} as {what} of its experts; supported is MatMul with a constant stack [experts, K, N]",
                       op.name)
    trial.absorb(producer, source)
    num_experts, _, n = weight.shape
    if bias is None:
        bias = np.zeros((num_experts, 1, n), np.float32)
    elif bias.ndim > 3 or (bias.ndim == 3 and bias.shape[1] != 1) or (bias.ndim == 2 and bias.shape[0] != 1):
        raise Mismatch(f"has a bias {list(bias.shape)} in {what} of its experts, not [experts, 1, {n}]", op.name)
    bias = np.broadcast_to(bias, (num_experts, 1, n)).reshape(num_experts, n)
    return Stack(x, weight * np.float32(scale), bias)


def _input(op: Op, trial: Trial, view: View, num_tokens: int) -> Operand | None:
    """The tokens all experts read: [1, T, D], or the same repeated for each expert."""
    found = trial.where(view, affine=True)
    if found is None:
        return None
    bound, positions = found
    copies = positions.reshape(-1, num_tokens * bound.shape[-1])
    if not all(is_whole(copy) for copy in copies) or copies.shape[1] != int(np.prod(bound.shape)):
        raise Mismatch(f"has experts that read {bound.value!r} {list(bound.shape)} as {list(view.shape)}, in another order or in "
                       "part", op.name)
    return Operand(bound.value, bound.shape, bound.factor * view.scale, bound.node, bound.affine and bound.affine.then(view.scale, 0.0))


def _router(op: Op, trial: Trial, scatter: Op) -> Router | None:
    """``zeros.scatter(1, index, top)`` with (top, index) = topk(softmax(gate(x))), perhaps divided by its sum."""
    zeros, index, updates = (scatter.operand(i) for i in range(3))
    top = _base(trial, index, "TopK")
    rank, shape = len(scatter.shape(0)), without_leading_ones(scatter.shape(0))
    if not isinstance(zeros, Const) or zeros.array.any() or scatter.attrs.get("reduction", "none") != "none" \
            or scatter.integer("axis", 0) % rank != rank - 1:
        raise Mismatch(f"has a router whose {scatter.name!r} does not put scores into zeros along the experts", op.name)
    if top is None or not isinstance(index, View) or index.base != top.outputs[1] or not is_whole(index.positions()) \
            or without_leading_ones(index.shape) != without_leading_ones(top.shape(1)):
        raise Mismatch(f"has a router whose {scatter.name!r} does not take its indices from a TopK", op.name)
    k = top.constant(1)
    if k is None or not over_last_axis(top) or not top.attrs.get("largest", 1) or without_leading_ones(top.ref(0).shape) != shape:
        raise Mismatch(f"has a router whose {top.name!r} is not a constant top-k of the largest over the experts", op.name)
    row_wise = trial.producer(top.operand(0), "Softmax")
    before = row_wise is not None
    if row_wise is not None:
        renormalize = _renormalized(op, trial, updates, top)
    else:                                                           # softmax over the k chosen logits: the same as renormalising
        row_wise = trial.producer(updates, "Softmax")
        if row_wise is None or not isinstance(updates, View) or not _is_top(row_wise.operand(0), top) or updates.scale != 1.0:
            raise Mismatch(f"has a router whose scores {top.name!r} do not come from a Softmax", op.name)
        renormalize = True
    if not over_last_axis(row_wise) or row_wise.shape(0)[-1] != (scatter.shape(0) if before else top.shape(0))[-1]:
        raise Mismatch(f"has a router Softmax {row_wise.name!r} over axis {row_wise.attrs.get('axis', -1)}, not over the experts", op.name)
    logits = row_wise.operand(0) if before else top.operand(0)
    bound = trial.bound.get(logits.base) if isinstance(logits, View) else None
    if bound is None or not isinstance(logits, View):
        return None
    if not isinstance(bound.node, Linear) or bound.order is not None or not is_whole(logits.positions()):
        raise Mismatch(f"has a router that reads {bound.value!r}, which is no Linear", op.name)
    for part, ref in ((scatter, index), (top, updates), (row_wise, top.operand(0))):
        trial.absorb(part, ref)
    trial.absorbed.append(bound.anchor)
    return Router(bound.node, _positive(op, logits, bound), int(k.ravel()[0]), renormalize,
                  math.prod(scatter.shape(0)[:-1]))


def over_last_axis(op: Op) -> bool:
    """Whether an operator with an ``axis`` works along the last one of its own operand."""
    rank = len(op.ref(0).shape)
    return op.integer("axis", -1) % rank == rank - 1


def _positive(op: Op, logits: View, bound: Bound) -> float:
    factor = bound.factor * logits.scale
    if factor <= 0:
        raise Mismatch(f"multiplies the logits of its router by {factor:.6g}", op.name)
    return factor


def _is_top(ref: Ref | None, top: Op) -> bool:
    return isinstance(ref, View) and ref.base == top.outputs[0] and ref.scale == 1.0 and is_whole(ref.positions()) \
        and without_leading_ones(ref.shape) == without_leading_ones(top.shape(0))


def _renormalized(op: Op, trial: Trial, updates: Ref | None, top: Op) -> bool:
    """Whether the scores are divided by their sum; Mismatch when they are changed in another way."""
    if _is_top(updates, top):
        return False
    division = trial.producer(updates, "Div")
    divisor = division.operand(1) if division is not None else None
    total = _base(trial, divisor, "ReduceSum")
    if total is not None and isinstance(divisor, View) and not (is_whole(divisor.positions())
                                  and without_leading_ones(divisor.shape) == without_leading_ones((*top.shape(0)[:-1], 1))):
        total = None                                                # one number a token, or it divides along something else
    if division is None or total is None or not isinstance(updates, View) or not isinstance(divisor, View) \
            or not _is_top(division.operand(0), top) or not _is_top(total.operand(0), top) \
            or reduced_axes(total) != [len(total.ref(0).shape) - 1] or {updates.scale, divisor.scale} != {1.0}:
        name = division.name if division is not None else updates.base if isinstance(updates, View) else "a constant"
        raise Mismatch(f"changes the top-k scores in {name!r}; supported are the scores themselves, and the scores divided by "
                       "their sum", op.name)
    trial.absorb(division, updates)
    trial.absorb(total)
    return True
