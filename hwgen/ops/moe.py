"""MoE: a mixture of experts. What of a file is one, `mixture` finds and `routing` evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..functions import FUNCTIONS, Act, activate, softmax
from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..matching.opgraph import Op, View
from ..matching.region import Unprovable
from ..matching.trial import Bound, Match, Mismatch, Trial, in_order
from ..steps.format import INT8, LOGIT, OCTAVE, RATING, SHARE, TABLE_UNIT, WIDE
from ..steps.stages import Add as AddTo, Choose, Gather, Multiply as Times, Plain, Requant, Route, Score, Stage, Table
from ..steps.step import Expert, Keep, Step
from ..steps.tensor import Memory, Tensor
from .activation import Activation
from .expert_weights import nothing
from .linear import Linear
from .mixture import Mixture, mixture
from .multiply import Multiply, product_units
from .operands import operand
from .operator import SUPPORTED, Operator, Spellings
from .routing import routed
from .soft import SoftMoE
from .softmix import Soft, soft

if TYPE_CHECKING:
    from ..quantizer.lowered import Lowered
    from ..quantizer.lowering import Lowering
    from ..steps.format import Format
    from ..steps.tensor import View as Place

TIE = 1e-5                       # difference of two router scores that another order of additions may turn
SUMS = ("ReduceSum", "Add", "Sum", "Mul", "Div", "MatMul", "Einsum", "ScatterElements", "ScatterND", "Where")     # what may give the sum
CHOICES = frozenset({"TopK", "ArgMax", "ReduceMax", "Hardmax", "OneHot", "NonZero"})                            # of experts
GATE = "a score of its own that no router gives"
PARTS = {"Add": "a mixture of experts", "MatMul": "a mixture of experts", "Mul": "a mixture of experts", "ReduceSum": "a mixture of experts",
         "Div": "a router", "ScatterElements": "a router", "Softmax": "a router", "TopK": "a router"}


@dataclass(frozen=True, eq=False, repr=False)
class MoE(Operator):
    """Mixture of experts, each a two-layer MLP, which may be gated; router = softmax over all experts, then top-k (lowest index wins a tie).

    ``sigmoid``: a score is the sigmoid of its logit; ``choice`` is added to the scores for the top-k alone. ``renormalize``: the k scores are
    divided by their sum. ``y = sum_e score_e * (act(x @ w1[e] + b1[e]) @ w2[e] + b2[e])``; of gated experts the activation is multiplied by
    ``x @ w3[e] + b3[e]``.
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
    sigmoid: bool = False
    choice: Array = field(default_factory=lambda: np.zeros(0, np.float32))        # [E], or empty: zeros
    w3: Array = field(default_factory=nothing)           # [E, D, H], or empty: experts are not gated
    b3: Array = field(default_factory=nothing)           # [E, H], or empty

    BY_TOKEN: ClassVar[bool] = True
    TAKES: ClassVar[bool] = True
    GIVES: ClassVar[bool] = True
    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True
    DEFERS: ClassVar[bool] = True

    @property
    def num_experts(self) -> int:
        return len(self.w1)

    @property
    def gated(self) -> bool:
        return self.w3.size > 0

    def shape(self, *shapes: Shape) -> Shape:
        x, routed = shapes[0], shapes[-1]
        e, d, h = self.w1.shape
        if x[-1] != d or self.gate.shape != (routed[-1], e) or self.w2.shape != (e, h, d) or routed[:-1] != x[:-1]:
            raise self.fail(f"input {x}, of the router {routed}, gate {self.gate.shape}, w1 {self.w1.shape}, w2 {self.w2.shape} do not fit")
        if not 1 <= self.top_k <= e:
            raise self.fail(f"top-{self.top_k} of {e} experts")
        if (self.w3.shape, self.b3.shape) not in (((0,), (0,)), ((e, d, h), (e, h))):
            raise self.fail(f"w3 {self.w3.shape} and b3 {self.b3.shape} do not fit w1 {self.w1.shape}")
        if self.choice.shape not in ((0,), (e,)):
            raise self.fail(f"a bias {list(self.choice.shape)} of the choice among {e} experts")
        return x

    def attributes(self) -> dict[str, object]:
        return {key: value for key, value in super().attributes().items() if value or key != "sigmoid"}

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        x, rows = operands[0], _rows(operands[0])
        if inner is not None:
            inner.append((Role.LOGIT, self.logits(_rows(operands[-1]))))
        experts, scores = self.route(_rows(operands[-1]))
        y = np.zeros_like(rows)
        for e in range(self.num_experts):
            mine, place = np.nonzero(experts == e)       # rows routed to e, and the place (0..k-1) it has there
            pre = rows[mine] @ self.w1[e] + self.b1[e]
            hidden = activate(pre, self.act)
            if self.gated:
                up = rows[mine] @ self.w3[e] + self.b3[e]
                hidden = hidden * up
                if inner is not None:
                    inner.append((Role.UP, up))
            out = hidden @ self.w2[e] + self.b2[e]
            if inner is not None:
                inner += [(Role.PRE, pre), (Role.HIDDEN, hidden), (Role.EXPERT, out)]
            y[mine] += scores[mine, place, None] * out
        return y.reshape(x.shape)

    @property
    def routed(self) -> str:
        """What the router reads."""
        return self.inputs[-1]

    def logits(self, rows: Array) -> Array:
        """What the router makes scores of, of the rows it reads: [rows, experts]."""
        logits: Array = rows @ self.gate + self.gate_bias
        return logits

    def scores(self, rows: Array) -> tuple[Array, Array]:
        """Scores of all experts, and what the choice is by, [rows, experts] both."""
        logits = self.logits(rows)
        scores: Array = FUNCTIONS["sigmoid"].f(logits) if self.sigmoid else softmax(logits)
        return scores, scores + self.choice if self.choice.size else scores

    def route(self, rows: Array) -> tuple[Array, Array]:
        """Chosen experts of each row, best first, lowest index first among equals; int64 and float32 scores, both [rows, k]."""
        scores, ranked = self.scores(rows)
        experts = np.argsort(-ranked, axis=-1, kind="stable")[:, :self.top_k]
        chosen = np.take_along_axis(scores, experts, axis=-1)
        return experts, chosen / chosen.sum(-1, keepdims=True) if self.renormalize else chosen

    def chosen(self, *operands: Array) -> Array:
        experts, _ = self.route(_rows(operands[-1]))
        return experts.reshape(*operands[-1].shape[:-1], self.top_k)

    def settled(self, *operands: Array) -> Array:
        return (self.margins(_rows(operands[-1])) >= TIE).reshape(operands[-1].shape[:-1])

    def margins(self, rows: Array) -> Array:
        """For each row the difference between what the last expert chosen has and the first one not; infinite if all are."""
        scores = np.sort(self.scores(rows)[1], axis=-1)[:, ::-1]
        margins: Array = scores[:, self.top_k - 1] - scores[:, self.top_k] if self.top_k < self.num_experts else np.full(len(scores), np.inf)
        return margins

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array] | None:
        if shift.any() and not self.renormalize:         # the scores of a token need not add up to 1
            return None
        return {"w2": self.w2 * scale, "b2": self.b2 * scale + shift}

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        return {"w2": self.w2 @ matrix, "b2": self.b2 @ matrix}

    def reading(self, matrix: Array, offset: Array) -> Mapping[str, Array]:
        third = {"w3": matrix @ self.w3, "b3": self.b3 + offset @ self.w3} if self.gated else {}
        return {**third, "gate": matrix @ self.gate, "gate_bias": self.gate_bias + offset @ self.gate,
                "w1": matrix @ self.w1, "b1": self.b1 + offset @ self.w1}

    def formats(self) -> tuple[FixedFormat, ...]:
        logit = FixedFormat("router logit", Unit.PRE_ACT if self.sigmoid else Unit.LOGIT, Role.LOGIT)
        return (logit, FixedFormat("pre-activation", Unit.PRE_ACT, Role.PRE),
                FixedFormat("expert result", Unit.RESIDUAL, Role.EXPERT))

    def lower(self, to: Lowering) -> None:
        """Its steps come with the addition to a residual stream."""
        added = [reader for reader in to.readers[self.output] if not reader.MULTIPLIES and not reader.CHOOSES]
        if (not added and self.output not in to.residuals) or len(added) < len(to.readers[self.output]) or self.output in to.graph.outputs.values():
            raise self.fail("its result is not added to the residual stream, or used elsewhere too", hint=SUPPORTED)

    def lower_update(self, to: Lowering, output: str, place: Place) -> None:
        """The router, then expert by expert: its tokens are gathered, its results are added to the residual stream by their shares."""
        hidden_form = to.form(self.output)
        x, routed = (self._operand(to, value, place) for value in (self.x, self.routed))
        tokens, experts, narrow = x.tensor.tokens, self.num_experts, to.precision.narrow_experts
        queue = Tensor(to.fresh(f"{output}.queue"), SHARE, tokens, self.top_k, memory=Memory.ROUTER).view()
        form, unit, choose = self._router(to, output)
        gate = to.weights(self, "gate", routed, self.gate, self.gate_bias, unit, name=f"{output}.gate", role=Role.LOGIT)
        to.product(output, self, routed.tensor.view(), gate, (Requant(gate.factor, form), *choose), queue, part="gate", about="gate")
        pre = to.point(self.output, Role.PRE, Unit.PRE_ACT, self.output)
        given = to.units(self.output, self.b1.shape, Role.HIDDEN)
        given = np.broadcast_to(given, (experts, given.shape[-1]))
        if self.gated:
            units, shift = product_units(given, TABLE_UNIT, to.fine_unit(self.output, Role.UP))
            looked = [(to.table(self, self.act.value, pre),)] * experts
        else:
            tables, units = to.tables(self, self.act.value, given, f"{output}.experts", hidden_form, pre)
            looked = [(table,) for table in tables]
        for e in range(experts):
            hidden = to.activations(to.fresh(f"{output}.hidden{e}"), tokens, self.w1[e].shape[1], units[e], hidden_form)
            expert = Expert(e, experts, queue)
            times: tuple[Stage, ...] = ()
            if self.gated:
                beside = to.activations(to.fresh(f"{output}.operand{e}"), tokens, self.w3[e].shape[1], units[e] / (TABLE_UNIT * 2.0 ** shift), WIDE)
                beside = replace(beside, memory=Memory.OPERAND)
                third = to.weights(self, f"expert {e}, layer 3", x, self.w3[e], self.b3[e], beside.units, narrow=narrow,
                                   name=f"{output}.expert{e}.layer3", role=Role.UP, index=e)
                to.emit(Step(output, self.name, Gather(), third.tile, (beside.view(),), x.tensor.view(), (Requant(third.factor, WIDE),),
                             part=f"expert{e}.layer3", macs=tokens * self.top_k * self.w3[e].size // experts,
                             about=f"expert {e}, layer 3", expert=expert))
                times = (Times(beside.view(), shift, hidden_form),)
            first = to.weights(self, f"expert {e}, layer 1", x, self.w1[e], self.b1[e], pre.unit, narrow=narrow,
                               name=f"{output}.expert{e}.layer1", role=Role.PRE, index=e)
            second = to.weights(self, f"expert {e}, layer 2", to.as_lowered(hidden), self.w2[e], self.b2[e], place.tensor.scale,
                                narrow=narrow, name=f"{output}.expert{e}.layer2", role=Role.EXPERT, index=e)
            drain = Requant(first.factor, pre), *looked[e], *times
            to.emit(Step(output, self.name, Gather(), first.tile, (hidden.view(),), x.tensor.view(), drain, part=f"expert{e}.layer1",
                         macs=tokens * self.top_k * self.w1[e].size // experts, about=f"expert {e}, layer 1", expert=expert))
            to.emit(Step(output, self.name, Plain(), second.tile, (place,), hidden.view(), (Requant(second.factor, WIDE), Score(), AddTo(place)),
                         (Keep.MOMENTS,), part=f"expert{e}.layer2", macs=tokens * self.top_k * self.w2[e].size // experts,
                         about=f"expert {e}, layer 2", expert=expert))

    def _operand(self, to: Lowering, value: str, place: Place) -> Lowered:
        """All tokens of what the experts or the router read, in 8 bits."""
        to.narrow(self, value, "what experts read,")
        x = to.operand(self, value)
        if x.mean or not x.view.whole or not place.whole:
            raise self.fail("routes some of the tokens of a value, or of a residual stream", hint=SUPPORTED)
        return x if x.tensor.format == INT8 else to.as_lowered(to.plain(self, value).tensor)

    def _router(self, to: Lowering, output: str) -> tuple[Format, float, tuple[Stage, ...]]:
        """Format of the logits, real value of their unit, and the stages behind them."""
        if not self.sigmoid:
            return LOGIT, LOGIT.unit * OCTAVE, (Route(self.top_k, self.renormalize),)
        form, bias = to.point(self.output, Role.LOGIT, Unit.PRE_ACT, self.output, fine=True), None
        if self.choice.any():
            words = np.rint((self.choice - (float(self.choice.max()) + float(self.choice.min())) / 2) / RATING.unit)
            if np.abs(words).max() > WIDE.hi:
                raise self.fail(f"the biases of its choice are up to {np.ptp(self.choice):.4g} apart; up to {2 * WIDE.hi * RATING.unit:.4g} fit",
                                hint="scores are at most 1: an expert whose bias is more than that below the others' is never chosen, leave it out")
            bias = to.pool.add(f"{output}.choice", words.astype(WIDE.dtype)[None])
        table = Table("sigmoid", to.factor(self, "router score", TABLE_UNIT / RATING.unit), RATING, form)
        return form, form.unit, (table, Choose(self.top_k, self.renormalize, bias))

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings(dict.fromkeys(SUMS, (moe,)), PARTS, rank=6, opens=CHOICES)


@dataclass(frozen=True, eq=False, repr=False)
class EarlyMoE(MoE):
    """The same with a router that reads other tokens than the experts: those of a layer before (pre-gating), or what another layer made of them.
    Its queues are filled where the experts stand: until then what it reads is kept."""

    early: str = ""

    VALUES: ClassVar[tuple[str, ...]] = ("x", "early")
    TAKES: ClassVar[bool] = False

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings()                       # of `MoE`


def moe(op: Op, trial: Trial) -> Match | None:
    """``sum over e of score[t, e] * expert_e(x[t])``, however it is written -> MoE."""
    found = mixture(op, trial)
    if found is None:
        return _gated(op, trial)
    try:
        mixed = soft(found, op.name) if found.x == found.logits.gate.x else None
        if mixed is not None:
            return _soft(found, mixed, op, trial)
        whole = routed(found, op.name)
    except Unprovable:
        raise Mismatch("is a mixture of experts, but it has an operator that cannot be evaluated here", op.name) from None
    logits, value = found.logits, found.x
    _absorb(found, op, trial)
    affines = [_affine_of(bound, bound.shape[-1]) for bound in found.xs.values()]
    if any(not np.array_equal(one, affines[0]) for one in affines):
        raise Mismatch(f"has experts that read {value!r} times different factors", op.name)
    scale, offset = affines[0]
    w = whole.weights.behind(scale, offset)
    gate, gate_bias = logits.gate.weight, logits.gate.bias
    scale, offset = _affine_of(logits.bound, gate.shape[-1])
    if (scale * whole.factor != 1).any() or offset.any():
        gate, gate_bias = gate * (scale * whole.factor), (gate_bias * scale + offset) * whole.factor
    made, read = _kind(value, logits.gate.x)
    node = made(op.name, op.outputs[0], value, gate=trial.array(gate), gate_bias=trial.array(gate_bias), w1=trial.array(w.w1), b1=trial.array(w.b1),
               w2=trial.array(w.w2), b2=trial.array(w.b2), w3=trial.array(w.w3), b3=trial.array(w.b3),
               act=whole.act, top_k=whole.routing.top_k, renormalize=whole.routing.renormalize,
               sigmoid=whole.routing.sigmoid, choice=trial.array(whole.routing.choice), **read)
    for part in found.region.ops:                                    # what the second layers of experts read
        ref = part.operand(0)
        if part.kind in ("MatMul", "Gemm") and isinstance(ref, View) and ref.base not in found.region.leaves:
            trial.rounds(node.output, ref, 1 / ref.scale)
    return Match((node,), whole.positions, proved=found.mixes)            # a product over all tokens: a few of them tell nothing


def _kind(x: str, routed: str) -> tuple[type[MoE], dict[str, Any]]:
    """The operator whose experts and whose router read these values, and its fields beyond those of `MoE`."""
    return (MoE, {}) if x == routed else (EarlyMoE, {"early": routed})


def _absorb(found: Mixture, op: Op, trial: Trial) -> None:
    """All of it becomes part of the match."""
    for part in found.region.ops[:-1]:
        trial.absorb(part)
    trial.absorb(op)
    bound = found.logits.bound
    trial.absorbed += [bound.anchor, *bound.waiting, *(name for x in found.xs.values() for name in x.waiting)]


def _soft(found: Mixture, mixed: Soft, op: Op, trial: Trial) -> Match:
    """A soft one -> SoftMoE."""
    logits = found.logits
    scale, offset = _affine_of(logits.bound, logits.gate.weight.shape[-1])
    for bound in found.xs.values():
        ones, zeros = _affine_of(bound, bound.shape[-1])
        if (ones != 1).any() or zeros.any():
            raise Mismatch(f"has soft experts that read {bound.value!r} times a factor", op.name)
    if offset.any() or logits.gate.bias.any():
        raise Mismatch(f"has slots with a bias, of {logits.bound.anchor!r}: their logits are products of the tokens alone", op.name)
    _absorb(found, op, trial)
    w = mixed.weights
    phi = (logits.gate.weight * (scale * logits.factor))[:, mixed.columns]
    node = SoftMoE(op.name, op.outputs[0], logits.gate.x, phi=trial.array(phi), w1=trial.array(w.w1), b1=trial.array(w.b1), w2=trial.array(w.w2),
                   b2=trial.array(w.b2), w3=trial.array(w.w3), b3=trial.array(w.b3), act=mixed.act)
    return Match((node,), mixed.positions, proved=True)


def _gated(op: Op, trial: Trial) -> Match | None:
    """``sigmoid(gate(x)) * expert(x)``, an expert every token takes by a share of its own (Qwen-MoE) -> MoE of one expert.

    Raises Mismatch for a product of every token with such a share when it is no such expert.
    """
    for share, y in (op.inputs, op.inputs[::-1]) if op.kind == "Mul" and len(op.inputs) == 2 else ():
        if not (isinstance(share, View) and isinstance(y, View) and share.shape[-1:] == (1,) and op.shape(0)[-1] > 1):
            continue
        maker = trial.graph.producers.get(share.base)
        if maker is not None and maker.kind == "Sigmoid" and share.base in trial.bound and y.base in trial.bound:
            return _one_expert(op, trial, share, y)
    return None


def _one_expert(op: Op, trial: Trial, share: View, y: View) -> Match:
    named = f"multiplies each token by {GATE}, {share.base!r}"
    gate, (score, times) = trial.bound[share.base].node, (operand(trial, share), operand(trial, y))
    second = None if times is None else times.node
    act = trial.made.get(second.x) if isinstance(second, Linear) else None
    third = None
    if isinstance(act, Multiply):
        factors = trial.made.get(act.x), trial.made.get(act.y)
        act, third = factors if isinstance(factors[0], Activation) else factors[::-1]
    first = trial.made.get(act.x) if isinstance(act, Activation) else None
    logit = trial.made.get(gate.x) if isinstance(gate, Activation) else None
    if not (isinstance(second, Linear) and isinstance(act, Activation) and isinstance(first, Linear) and isinstance(logit, Linear)
            and (third is None or isinstance(third, Linear)) and score is not None and times is not None and score.shape[0] == times.shape[0]):
        raise Mismatch(f"{named}; supported are a Linear of the token as its score, and as what it weighs two layers with an activation between "
                       "them, which may be gated", op.name)
    if third is not None and third.x != first.x:
        raise Mismatch(f"{named}; it weighs a gated MLP whose halves read {first.x!r} and {third.x!r}, and must read the same", op.name)
    up = {} if third is None else {"w3": trial.array(third.weight[None]), "b3": trial.array(third.bias[None])}
    factor = score.factor * times.factor
    made, read = _kind(first.x, logit.x)
    node = made(op.name, op.outputs[0], first.x, gate=logit.weight, gate_bias=logit.bias, w1=trial.array(first.weight[None]),
               b1=trial.array(first.bias[None]), w2=trial.array(second.weight[None] * factor), b2=trial.array(second.bias[None] * factor),
               act=act.kind, top_k=1, renormalize=False, sigmoid=True, **up, **read)
    for ref in (share, y):
        trial.absorb(trial.graph.producers[ref.base], ref)
    return Match((node,), in_order(*times.shape))


def _rows(x: Array) -> Array:
    """Tokens of a whole batch: [B, T, D] -> [B * T, D]."""
    return x.reshape(-1, x.shape[-1])


def _affine_of(bound: Bound, channels: int) -> tuple[Array, Array]:
    """Factor and offset of each channel of an ONNX value, float64."""
    if bound.affine is not None:
        return bound.affine.scale, bound.affine.offset
    return np.full(channels, bound.factor), np.zeros(channels)
