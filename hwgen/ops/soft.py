"""SoftMoE: experts work on slots, each a mean of all tokens, and every token is a mean of all their results.

Its rule is that of a mixture of experts (`moe`): what mixes tokens in front of the experts may be one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..functions import Act, activate, softmax
from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..steps.format import INT8, OCTAVE, TABLE_UNIT, WIDE
from ..steps.stages import Constant, Exp2, Identity, Keys, Multiply as Times, Plain, Requant, Restore, RowFactor, Stage, Values
from ..steps.step import Keep, Step
from ..steps.tensor import Memory, Span, Tensor
from .attention import words
from .expert_weights import nothing
from .multiply import product_units
from .operator import Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering
    from ..steps.tensor import View as Words


@dataclass(frozen=True, eq=False, repr=False)
class SoftMoE(Operator):
    """``logits = x @ phi``; slots = softmax(logits over the tokens).T @ x, those of an expert one after the other; each expert a two-layer MLP of
    its slots, which may be gated as in `MoE`; ``y = softmax(logits over the slots) @ results``."""

    x: str
    phi: Array               # [D, S]
    w1: Array                # [E, D, H]
    b1: Array                # [E, H]
    w2: Array                # [E, H, D]
    b2: Array                # [E, D]
    act: Act
    w3: Array = field(default_factory=nothing)           # [E, D, H], or empty: experts are not gated
    b3: Array = field(default_factory=nothing)           # [E, H], or empty

    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True

    @property
    def slots(self) -> int:
        """Of one expert."""
        return int(self.phi.shape[1]) // len(self.w1)

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        e, d, h = self.w1.shape
        if len(x) != 2 or x[-1] != d or self.phi.shape[0] != d or self.w2.shape != (e, h, d) or self.phi.shape[1] % e:
            raise self.fail(f"input {x}, phi {self.phi.shape}, w1 {self.w1.shape}, w2 {self.w2.shape} do not fit")
        if (self.w3.shape, self.b3.shape) not in (((0,), (0,)), ((e, d, h), (e, h))):
            raise self.fail(f"w3 {self.w3.shape} and b3 {self.b3.shape} do not fit w1 {self.w1.shape}")
        return x

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        logits = x @ self.phi                                                        # [B, T, S]
        mixed = softmax(logits.swapaxes(1, 2)) @ x
        slots = mixed.reshape(len(x), len(self.w1), self.slots, -1)
        pre = slots @ self.w1 + self.b1[:, None]
        hidden = activate(pre, self.act)
        gates = slots @ self.w3 + self.b3[:, None] if self.w3.size else None
        if gates is not None:
            hidden = hidden * gates
        results = (hidden @ self.w2 + self.b2[:, None]).reshape(mixed.shape)
        if inner is not None:
            inner += [(Role.SCORE, logits), (Role.SLOT, mixed)]
            for role, array in ((Role.PRE, pre), (Role.UP, gates), (Role.HIDDEN, hidden), (Role.EXPERT, results.reshape(slots.shape))):
                inner += [] if array is None else [(role, array[:, e]) for e in range(len(self.w1))]
        y: Array = softmax(logits) @ results
        return y

    def formats(self) -> tuple[FixedFormat, ...]:
        return FixedFormat("attention score", Unit.SCORE, Role.SCORE), FixedFormat("pre-activation", Unit.PRE_ACT, Role.PRE)

    def lower(self, to: Lowering) -> None:
        """An attention with phi as queries and the tokens as keys and values; the experts, each on its rows; an attention with the tokens as
        queries, phi as keys and the results as values."""
        (x,) = words(to, self, {"what experts read,": self.x})
        value, (dim, count), tokens = self.output, self.phi.shape, x.tokens.count
        to.narrow(self, value, "the sum of soft experts")
        rows = self.phi.T * x.tensor.units
        unit = (float(np.abs(rows).max()) or 1.0) / INT8.hi
        phi = to.activations(to.fresh(f"{value}.phi"), count, dim, unit / x.tensor.units)
        to.emit(Step(phi.name, self.name, Constant(to.pool.add(phi.name, np.rint(rows / unit).astype(INT8.dtype))), Identity(), (phi.view(),),
                     about="phi"))
        made = {role: to.scale(value, role) for role in (Role.SLOT, Role.HIDDEN, Role.EXPERT, Role.OUT)}
        mixed = to.activations(to.fresh(f"{value}.slots"), count, dim, made[Role.SLOT] * x.tensor.units / x.tensor.scale)
        self._mixed(to, mixed, phi.view(), x, x, unit, made[Role.SLOT])
        results = self._experts(to, mixed, made)
        keys = to.activations(to.fresh(f"{value}.keys"), count, dim, phi.units)
        copied = to.weights(replace(self, output=keys.name), "phi", to.as_lowered(phi), np.eye(dim), np.zeros(dim), phi.units, name=keys.name)
        to.product(keys.name, self, phi.view(), copied, (Requant(copied.factor),), keys.view(), about="phi as keys")
        out = to.activations(value, tokens, dim, made[Role.OUT])
        self._mixed(to, out, x, keys.view(), results.view(), unit, made[Role.OUT])
        to.define(value, out)

    def _mixed(self, to: Lowering, out: Tensor, q: Words, k: Words, v: Words, unit: float, scale: float) -> None:
        """Attention of one head into ``out``. unit: of a product of q and k, without the factors of channels that cancel; scale: of ``out``."""
        scored = to.point(self.output, Role.SCORE, Unit.SCORE, self.output)
        scores = Tensor(to.fresh(f"{out.name}.scores"), scored, q.tokens.count, k.tokens.count, memory=Memory.SCORE)
        macs = q.tokens.count * k.tokens.count * q.channels.count
        product = Requant(to.factor(self, "scores", unit / (scored.unit * OCTAVE)), scored)
        to.emit(Step(out.name, self.name, Plain(), Keys(k), (scores.view(),), q, (product,), (Keep.ROW_MAX,), part="scores", macs=macs,
                     about="logits"))
        to.emit(Step(out.name, self.name, Exp2(), Values(v), (out.view(),), scores.view(),
                     (Restore(), RowFactor(to.factor(self, "output", v.tensor.scale / scale))), macs=macs, about="a mean by shares"))

    def _experts(self, to: Lowering, mixed: Tensor, made: dict[Role, float]) -> Tensor:
        value, (count, _, width) = self.output, self.w1.shape
        pre = to.point(value, Role.PRE, Unit.PRE_ACT, value)
        given, looked, shift = np.array([[made[Role.HIDDEN]]]), to.table(self, self.act.value, pre), 0
        if self.w3.size:
            units, shift = product_units(given, TABLE_UNIT, to.fine_unit(value, Role.UP))
        else:
            (looked,), units = to.tables(self, self.act.value, given, f"{value}.experts", INT8, pre)
        hidden = to.activations(to.fresh(f"{value}.hidden"), self.phi.shape[1], width, units[0])
        results = to.activations(to.fresh(f"{value}.results"), self.phi.shape[1], len(self.phi), made[Role.EXPERT])
        for layer, (source, place, w, b, unit, role) in enumerate((
                (mixed, hidden, self.w1, self.b1, pre.unit, Role.PRE), (hidden, results, self.w2, self.b2, results.scale, Role.EXPERT))):
            for e in range(count):
                rows, part = Span(e * self.slots, self.slots), f"expert{e}" if count > 1 else ""
                made_of = to.weights(self, f"expert {e}, layer {layer + 1}", to.as_lowered(source), w[e], b[e], unit,
                                     narrow=to.precision.narrow_experts, name=f"{value}.expert{e}.layer{layer + 1}", role=role, index=e)
                drain: tuple[Stage, ...] = (Requant(made_of.factor),)
                if layer == 0:
                    times = self._times(to, source.view(rows), e, hidden.scale / (TABLE_UNIT * 2.0 ** shift), shift) if self.w3.size else ()
                    drain = Requant(made_of.factor, pre), looked, *times
                to.product(place.name, self, source.view(rows), made_of, drain, place.view(rows), part=part, about=f"expert {e}, layer {layer + 1}")
        return results

    def _times(self, to: Lowering, slots: Words, e: int, unit: float, shift: int) -> tuple[Stage, ...]:
        """The step that gives what the activations of a gated expert are multiplied by, in ``unit``, and the stage that does so."""
        tensor = to.activations(to.fresh(f"{self.output}.operand{e}"), self.slots, self.w3.shape[2], unit, WIDE)
        view = replace(tensor, memory=Memory.OPERAND).view()
        third = to.weights(self, f"expert {e}, layer 3", to.as_lowered(slots.tensor), self.w3[e], self.b3[e], unit,
                           narrow=to.precision.narrow_experts, name=f"{self.output}.expert{e}.layer3", role=Role.UP, index=e)
        to.product(view.name, self, slots, third, (Requant(third.factor, WIDE),), view, about=f"expert {e}, layer 3")
        return (Times(view, shift),)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings()
