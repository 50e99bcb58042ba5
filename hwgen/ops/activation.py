"""Activation: a function of each element; its spellings, as one operator or decomposed, used on their own and inside experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..functions import Act, activate
from ..graph import Array, FixedFormat, Inner, Role, Shape, Unit
from ..matching.opgraph import Op, Ref, View
from ..matching.trial import Match, Mismatch, Trial, close, split_operands
from .linear import Linear
from .operands import anyhow
from .operator import SUPPORTED, Operator, Spellings
from .spelled_activation import spelled_activation

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering



@dataclass(frozen=True, eq=False, repr=False)
class Activation(Operator):
    """A function of each element."""

    x: str
    kind: Act

    ABSORBS: ClassVar[bool] = True
    BY_TOKEN: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        return activate(operands[0], self.kind)

    def formats(self) -> tuple[FixedFormat, ...]:
        return (FixedFormat("pre-activation", Unit.PRE_ACT, Role.OUT, of=self.x),)

    def lower(self, to: Lowering) -> None:
        """The table in the drain of the linear map before it, or of one that changes nothing."""
        x = to.result(self.x)
        if x is None or x.linear is None:
            raise self.fail(f"reads {self.x!r} of {type(to.producers.get(self.x)).__name__}; an activation must follow a Linear", hint=SUPPORTED)
        if to.is_gate(self.output) and isinstance(x.linear, Linear):
            to.put_off(self.output, x, x.linear, self)
        else:
            x.linear.lower_with(to, x, self.output, self)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({kind: (activation,) for kind in (*LAST, *WHOLE)}, PARTS, rank=4)


@dataclass(frozen=True, eq=False)
class Activated:
    """``factor * kind(scale * x)``: x the operand the function is applied to; the parts absorbed on the way."""

    kind: Act
    x: View
    factor: float
    parts: tuple[Op, ...]


def recognize(op: Op, trial: Trial) -> Activated | None:
    """The activation whose result ``op`` computes; None when it computes something else. Raises Mismatch for a near miss."""
    if op.kind in WHOLE:
        kind, whole = WHOLE[op.kind](op), op.operand(0)
        return Activated(kind, whole, 1.0, (op,)) if isinstance(whole, View) else None
    try:
        found = _gated(op, trial) if op.kind == "Mul" else None
    except Mismatch:
        found = _spelled(op, trial)
        if found is None:
            raise
    return found or _spelled(op, trial)


def _spelled(op: Op, trial: Trial) -> Activated | None:
    """By what it computes, however it is written."""
    curve = spelled_activation(op, trial)
    return None if curve is None else Activated(curve.kind, replace(curve.x, scale=curve.t), curve.factor, (op, *curve.parts))


def _gated(op: Op, trial: Trial) -> Activated | None:
    for x, gate in (op.inputs, reversed(op.inputs)):
        inner = trial.producer(gate, *GATES)
        if inner is None or not isinstance(x, View) or not isinstance(gate, View):
            continue
        found = GATES[inner.kind](op, trial, x, gate, inner)
        if found is not None:
            return found
    return None


def _silu(op: Op, trial: Trial, x: View, gate: View, sigmoid: Op) -> Activated | None:
    """``x * sigmoid(t * x) = silu(t * x) / t``; t is 1 for SiLU, 1.702 for the quick GELU."""
    t = _multiple(sigmoid.operand(0), x)
    return _activated(Act.SILU, x, t, gate.scale, (op, sigmoid)) if t else None


def _gelu(op: Op, trial: Trial, x: View, gate: View, add: Op) -> Activated | None:
    """x * (1 + erf(x / sqrt(2))) and x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))), half of it somewhere."""
    found = split_operands(add)
    function = trial.producer(found[0], "Erf", "Tanh") if found is not None else None
    if found is None or function is None:
        return None
    inner = function.view(0)
    one = found[1].array
    if one.size != 1 or not close(float(one.ravel()[0]), found[0].scale):
        raise Mismatch(f"looks like a GELU, but {add.name!r} adds {one.ravel()[:4].tolist()} to {found[0].scale:.6g} * "
                       f"{function.kind.lower()}, not {found[0].scale:.6g}", op.name)
    factor = 2 * found[0].scale * gate.scale
    if function.kind == "Erf":
        t = _multiple(inner, x)
        return _activated(Act.GELU, x, t / math.sqrt(0.5), factor, (op, add, function)) if t else None
    total = trial.producer(inner, "Add")
    if total is None or any(not isinstance(ref, View) for ref in total.inputs):
        return None
    for first, cubed in (total.inputs, reversed(total.inputs)):
        cube, linear = _cube(trial, cubed, x), _multiple(first, x)
        if cube is not None and linear and isinstance(cubed, View):
            t = inner.scale * linear / math.sqrt(2 / math.pi)
            cubic = inner.scale * cubed.scale * cube[1] / (math.sqrt(2 / math.pi) * t ** 3)
            if not close(cubic, 0.044715):
                raise Mismatch(f"looks like a tanh GELU, but the third power has the factor {cubic:.6g}, not 0.044715", op.name)
            return _activated(Act.GELU_TANH, x, t, factor, (op, add, function, total, *cube[0]))
    return None


def _hard_swish(op: Op, trial: Trial, x: View, gate: View, sigmoid: Op) -> Activated | None:
    """``x * clip(a * t * x + 1/2, 0, 1)``: a is 1/6 for HardSwish itself."""
    t, a, half = _multiple(sigmoid.operand(0), x), sigmoid.number("alpha", 0.2), sigmoid.number("beta", 0.5)
    if not t:
        return None
    if not close(half, 0.5) or a <= 0:
        raise Mismatch(f"looks like a HardSwish, but {sigmoid.name!r} has alpha {a:.6g} and beta {half:.6g}, not 0.5 behind a positive alpha",
                       op.name)
    return _activated(Act("hard_swish"), x, 6 * a * t, gate.scale, (op, sigmoid))


def _clipped_swish(op: Op, trial: Trial, x: View, gate: View, clip: Op) -> Activated | None:
    """``x * clip(t * x + c, 0, 2 c)``, 2 c times a HardSwish; c is 3."""
    add = trial.producer(clip.operand(0), "Add")
    found = split_operands(add) if add is not None else None
    t = _multiple(found[0], x) if found is not None else None
    if add is None or found is None or not t:
        return None
    low, high, c = (None if array is None or array.size != 1 else float(array.ravel()[0])
                    for array in (clip.constant(1), clip.constant(2), found[1].array))
    if c is None or high is None or c <= 0 or low != 0 or not close(high, 2 * c):
        raise Mismatch(f"looks like a HardSwish, but {clip.name!r} does not cut {add.name!r} at 0 and at twice what it adds", op.name)
    return _activated(Act("hard_swish"), x, 6 * t / high, high * gate.scale, (op, clip, add))


def _mish(op: Op, trial: Trial, x: View, gate: View, tanh: Op) -> Activated | None:
    """``x * tanh(softplus(t * x)) = mish(t * x) / t``."""
    softplus = trial.producer(tanh.operand(0), "Softplus")
    t = _multiple(softplus.operand(0), x) if softplus is not None and tanh.view(0).scale == 1 else None
    return _activated(Act("mish"), x, t, gate.scale, (op, tanh, softplus)) if softplus is not None and t else None


def _activated(kind: Act, x: View, t: float, factor: float, parts: tuple[Op, ...]) -> Activated:
    """``factor * x * gate(t * base)``, x being ``x.scale * base``, as a function of ``t * base``."""
    t = next((exact for exact in (1.0, x.scale) if close(t, exact)), t)
    return Activated(kind, replace(x, scale=t), factor * x.scale / t, parts)


def _cube(trial: Trial, ref: Ref | None, x: View) -> tuple[tuple[Op, ...], float] | None:
    """Recognises the third power of x's base: the operators and the factor in front of it, that of ``ref`` excluded."""
    power = trial.producer(ref, "Pow", "Mul")
    if power is None:
        return None
    if power.kind == "Pow":
        side = _multiple(power.operand(0), x)
        return ((power,), side ** 3) if side is not None and _is_exponent(power, 3.0) else None
    for one, square in (power.inputs, reversed(power.inputs)):
        inner, side = trial.producer(square, "Mul", "Pow"), _multiple(one, x)
        if inner is None or side is None or not isinstance(square, View):
            continue
        if inner.kind == "Pow":
            sides: Sequence[float | None] = (_multiple(inner.operand(0), x),) * 2 if _is_exponent(inner, 2.0) else (None, None)
        else:
            sides = [_multiple(factor, x) for factor in inner.inputs]
        known = [factor for factor in sides if factor is not None]
        if len(known) == len(sides):
            return (power, inner), side * square.scale * known[0] * known[1]
    return None


def _is_exponent(power: Op, number: float) -> bool:
    exponent = power.constant(1)
    return exponent is not None and exponent.size == 1 and float(exponent.ravel()[0]) == number


def _multiple(ref: Ref | None, x: View) -> float | None:
    """How many times the base of x the operand is; None when it is not the same elements as x."""
    if not isinstance(ref, View) or ref.base != x.base or ref.shape != x.shape:
        return None
    return ref.scale if np.array_equal(ref.positions(), x.positions()) else None


def _of_gelu(op: Op) -> Act:
    return Act.GELU_TANH if op.attrs.get("approximate", "none") == "tanh" else Act.GELU


def _of_swish(op: Op) -> Act:
    if op.attrs.get("alpha", 1.0) != 1.0:
        raise Mismatch(f"alpha is {op.attrs['alpha']}, not 1", op.name)
    return Act.SILU


def _alpha(op: Op, default: float) -> float:
    """The parameter as it was written: that of the file is the nearest float32."""
    return float(str(np.float32(op.number("alpha", default))))


WHOLE: dict[str, Callable[[Op], Act]] = {
    "Relu": lambda op: Act.RELU,
    "Gelu": _of_gelu,
    "Swish": _of_swish,
    "HardSwish": lambda op: Act("hard_swish"),
    "Softplus": lambda op: Act("softplus"),
    "Mish": lambda op: Act("mish"),
    "Tanh": lambda op: Act("tanh"),
    "Sigmoid": lambda op: Act("sigmoid"),
    "LeakyRelu": lambda op: Act("leaky_relu", _alpha(op, 0.01)),
    "Elu": lambda op: Act("elu", _alpha(op, 1.0)),
}
"""ONNX operators that are a function -> which one, by their attributes."""
GATES: dict[str, Callable[[Op, Trial, View, View, Op], Activated | None]] = {
    "Sigmoid": _silu,
    "Add": _gelu,
    "HardSigmoid": _hard_swish,
    "Clip": _clipped_swish,
    "Tanh": _mish,
}
"""Operators that give what a Mul multiplies x with (``gate``) -> how to tell the function."""
LAST = ("Clip", "Div", "Log", "Max", "Mul")
"""ONNX operators that may be the last one of a function that is written out."""
PARTS = {
    "Add": "an activation",
    "Mul": "an activation",
    "Erf": "a GELU",
    "Pow": "a GELU",
    "HardSigmoid": "a HardSwish",
    "Clip": "a HardSwish",
    "Exp": "an activation",
    "Log": "an activation",
    "Max": "an activation",
    "Reciprocal": "an activation",
}


def activation(op: Op, trial: Trial) -> Match | None:
    """An activation function on a whole value."""
    found = recognize(op, trial)
    if found is None:
        return None
    read = anyhow(trial, found.x)
    if read is None:
        return None
    x, places = read
    for part in found.parts[1:]:
        trial.absorb(part)
    return Match((Activation(op.name, op.outputs[0], x.value, found.kind),), places, factor=found.factor)
