"""TokenMix: a constant matrix on the tokens of every channel, as in an MLP-Mixer: a Linear between two transposes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Array, Inner, Role, Shape, Unit
from ..matching.opgraph import Op, View
from ..matching.trial import Bound, Match, Trial, is_whole, split_operands
from ..steps.format import INT8, WIDE, Format
from ..steps.stages import Add, Constant, Identity, Plain, Requant, Stage, Table, Values
from ..steps.stages.tile import FULL, with_bias
from ..steps.step import Keep, Step
from ..steps.tensor import Memory, Tensor
from .activation import Activation
from .linear import Linear
from .operator import SUPPORTED, Operator, Spellings
from .residual import Add as Sum

if TYPE_CHECKING:
    from ..quantizer.lowered import Lowered
    from ..quantizer.lowering import Lowering
    from ..steps.tensor import View as Words

MAX_ONES = 8             # rows of constants that a bias of tokens takes at most


@dataclass(frozen=True, eq=False, repr=False)
class TokenMix(Operator):
    """``y[t] = sum of weight[t, s] * x[s] + bias[t]``: tokens ``[S, C] -> [T, C]``, every channel by itself."""

    x: str
    weight: Array            # [T, S]
    bias: Array              # [T]

    TRUNK: ClassVar[bool] = True
    MULTIPLIES: ClassVar[bool] = True
    DEFERS: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or x[0] != self.weight.shape[1] or self.bias.shape != self.weight.shape[:1]:
            raise self.fail(f"a matrix {list(self.weight.shape)} with a bias {list(self.bias.shape)} does not fit the tokens of {list(x)}")
        return len(self.weight), x[1]

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        y: Array = self.weight @ x + self.bias[:, None]
        return y

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array] | None:
        if not (scale == scale[0]).all() or not (shift == shift[0]).all():
            return None
        return {"weight": self.weight * scale[0], "bias": self.bias * scale[0] + shift[0]}

    def lower(self, to: Lowering) -> None:
        """A step where its result is added or looked up; one of its own where anything else reads it."""
        x = self._rows(to)
        to.put_off(self.output, x, self)
        if self.output in to.graph.outputs.values() or not all(isinstance(reader, (Activation, Sum)) for reader in to.readers[self.output]):
            del to.results[self.output]
            self.lower_with(to, x, self.output)

    def lower_with(self, to: Lowering, x: Lowered, output: str, function: Activation | None = None) -> None:
        """The step, with an activation function or without one, that gives ``output``."""
        value = self.output if function is None else output
        unit, form, table = to.scale(value), to.form(value), list[Table]()
        units, drained, before = np.array([unit]), form, unit
        if function is not None:
            drained = to.point(self.output, Role.OUT, Unit.PRE_ACT, output)
            table, (units,) = to.tables(function, function.kind.value, units[None], output, form, drained)
            before = drained.unit
        out = to.activations(output, len(self.weight), x.tensor.channels, units, form)
        self._product(to, x, output, before, drained, tuple(table), out.view())
        to.define(output, out)

    def lower_update(self, to: Lowering, x: Lowered, output: str, place: Words, start: bool, fresh: bool = False) -> None:
        """The step that adds its result to a residual stream, which is then ``output``; see `Linear`."""
        if x.view.tokens.count != self.weight.shape[1]:
            raise self.fail("has a result of which some tokens start a residual stream", hint=SUPPORTED)
        self._product(to, x, output, place.tensor.scale, WIDE, () if fresh else (Add(place),), place)

    def _product(self, to: Lowering, x: Lowered, output: str, unit: float, form: Format, behind: tuple[Stage, ...], place: Words) -> None:
        """The matrix comes as a constant to the activation memory, and streams past the tokens."""
        weight, bias = np.asarray(self.weight, np.float64), np.asarray(self.bias, np.float64)
        step = max(least_error_step(weight), float(np.abs(bias).max()) / (x.tensor.scale * FULL * FULL * (MAX_ONES - 2)))
        rows, ones = with_bias(np.clip(np.rint(weight / step), INT8.lo + 1, INT8.hi), np.rint(bias / (step * x.tensor.scale)))
        matrix = Tensor(to.fresh(f"{output}.matrix"), INT8, rows.shape[0], rows.shape[1], step)
        to.emit(Step(matrix.name, self.name, Constant(to.pool.add(matrix.name, rows)), Identity(), (matrix.view(),), about="matrix on tokens"))
        keeps = (Keep.MOMENTS,) if place.tensor.memory is Memory.RES else ()
        factor = to.factor(self, "mixed tokens", step * x.tensor.scale / unit)
        to.emit(Step(output, self.name, Plain(), Values(x.view, ones), (place,), matrix.view(), (Requant(factor, form), *behind), keeps,
                     macs=weight.size * x.tensor.channels, about="tokens mixed"))

    def _rows(self, to: Lowering) -> Lowered:
        """What is mixed, 8 bits in one unit, as a product gives it. A norm goes past the array with its gamma and beta."""
        to.narrow(self, self.x, "what is mixed,")
        name = to.fresh(f"{self.x}.mixed")
        if name in to.operands:
            return to.operands[name]
        to.known[name] = to.known[self.x]
        norm = to.norms.get(self.x)
        if norm is not None and norm.past is not None and norm.gamma is not None and norm.beta is not None:
            if to.versions[norm.tensor.name] == norm.past.version:
                words = to.activations(name, norm.view.tokens.count, norm.tensor.channels, to.scale(self.x))
                tile, factor = to.diagonal(to.producers[self.x], norm.gamma, norm.beta, norm.past.unit, words.scale, f"{self.x}.gamma")
                to.emit(Step(name, to.producers[self.x].name, norm.past.feed, tile, (words.view(),), norm.view, (Requant(factor, INT8),),
                             about="norm of what is mixed"))
                to.define(name, words)
                return to.operands[name]
            x = replace(norm, tensor=norm.past.words, past=None)
        else:
            x = to.operand(self, self.x)
        if x.mean:
            raise to.no_mean(self, self.x)
        if x.gamma is None and x.tensor.format == INT8 and x.tensor.ratio is None and self._by_a_product(to, x.tensor):
            return x
        replace(to.identity(self.x, x.tensor.channels), output=name).lower_with(to, x, name)
        return to.operands[name]

    def _by_a_product(self, to: Lowering, tensor: Tensor) -> bool:
        """Whether a product gives it, which can also go where tiles of tokens are; and no head of an attention has it there."""
        made = next(step for step in reversed(to.steps) if step.sink.tensor == tensor)
        alone = all(isinstance(reader, (Linear, TokenMix)) or not reader.MULTIPLIES for reader in to.readers.get(self.x, ()))
        return alone and (made.tile.by_columns or made.tile.by_rows and made.feed.name == Plain.name)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"MatMul": (mixed,), "Gemm": (mixed,), "Conv": (mixed,), **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (token_wise,))},
                         dict.fromkeys(("MatMul", "Conv"), "a matrix on tokens"), rank=-2)


def least_error_step(weight: Array) -> float:
    """Unit of 8 bits for a whole matrix that gives the least squared error; 1 for one of zeros."""
    largest = float(np.abs(weight).max())
    steps = [largest / INT8.hi * part for part in np.linspace(0.3, 1.0, 36)]
    return min(steps, key=lambda step: float(((np.clip(np.rint(weight / step), -INT8.hi, INT8.hi) * step - weight) ** 2).sum())) if largest else 1.0


def mixed(op: Op, trial: Trial) -> Match | None:
    """A product with a constant that sums over the tokens of a value: x.T @ W, W @ x, a convolution of one place whose channels are tokens."""
    given = _factors(op)
    if given is None:
        return None
    view, weight, bias, last = given                                                # weight [T, S], last: whether x has its tokens last
    found = trial.where(view)
    if found is None or len(found[0].shape) != 2 or op.kind == "Conv" and found[0].node is None and is_whole(found[1]):     # a signal
        return None
    bound, positions = found
    rows = positions.reshape(-1, *positions.shape[-2:])
    read = _by_channel(bound, rows[0] if last else rows[0].T) if len(rows) == 1 else None
    if read is None or read[0].size != weight.shape[1]:
        return None
    tokens, channels = read
    count, width = bound.shape
    whole = np.zeros((len(weight), count))
    np.add.at(whole.T, tokens, weight.T)
    node = TokenMix(op.name, op.outputs[0], bound.value, trial.array(whole * (bound.factor * view.scale)), trial.array(bias))
    order = np.argsort(channels)                                                    # of ONNX rows, by channel
    places = order * len(weight) + np.arange(len(weight))[:, None] if last else np.arange(len(weight))[:, None] * width + order
    trial.rounds(bound.value, view, bound.factor)
    return Match((node,), places.astype(np.int32))


def _factors(op: Op) -> tuple[View, Array, Array, bool] | None:
    """Of a product with a constant: the other operand, the constant as [T, S], its bias [T], and whether the sum is over the last axis of
    the operand, else over the last but one."""
    left, right = op.operand(0), op.operand(1)
    if op.kind == "Conv":
        weight = op.constant(1)
        plain = isinstance(left, View) and weight is not None and weight.ndim == len(left.shape) and weight.shape[2:] == (1,) * (weight.ndim - 2) \
            and op.integer("group", 1) == 1 and not any(op.integers("pads")) and set(op.integers("strides") or [1]) == {1}
        if not plain or not isinstance(left, View) or weight is None:
            return None
        given, index = _bias(op, len(weight)), left.positions().reshape(left.shape[1], -1)
        return None if given is None else (replace(left, shape=index.shape, index=index), weight.reshape(weight.shape[:2]), given, False)
    if isinstance(left, View) and isinstance(right, View) or len(op.inputs) < 2:
        return None
    view, const, swapped = (left, op.constant(1), False) if isinstance(left, View) else (right, op.constant(0), True)
    if not isinstance(view, View) or const is None or const.ndim != 2 or len(view.shape) < 2:
        return None
    bias: Array | None = np.zeros(const.shape[1 - swapped])
    if op.kind == "Gemm":
        transposed = bool(op.attrs.get("transA", 0)), bool(op.attrs.get("transB", 0))
        const = const.T if transposed[1 - swapped] else const
        view = _turned(view) if transposed[swapped] else view
        const = const * np.float32(op.number("alpha", 1.0))
        bias = _bias(op, const.shape[1 - swapped], swapped)
    weight = const if swapped else const.T
    return None if bias is None else (view, weight, bias, not swapped)


def _bias(op: Op, count: int, by_rows: bool = False) -> Array | None:
    """Of the third operand, times beta: one for each of the results along the last axis, or with ``by_rows`` along the one before; None where it
    is not that."""
    given = np.zeros(1) if op.operand(2) is None else op.constant(2)
    if given is None or given.size not in (1, count) or op.kind == "Gemm" and by_rows and given.shape[-1:] not in ((), (1,)) \
            or op.kind == "Gemm" and not by_rows and given.size > 1 and given.shape[-1] != count:
        return None
    return np.broadcast_to(given.ravel(), (count,)) * np.float32(op.number("beta", 1.0))


def _turned(view: View) -> View:
    index = view.positions().swapaxes(-1, -2)
    return replace(view, shape=index.shape, index=index)


def _by_channel(bound: Bound, positions: Array) -> tuple[Array, Array] | None:
    """Of positions [channels, tokens] in a sequence: the tokens of each row and the channels of each column, every channel once; None for others."""
    width = bound.shape[1]
    tokens, channels = positions // width, positions % width
    alike = (tokens == tokens[:1]).all() and (channels == channels[:, :1]).all()
    return (tokens[0], channels[:, 0]) if alike and np.array_equal(np.sort(channels[:, 0]), np.arange(width)) else None


def token_wise(op: Op, trial: Trial) -> Match | None:
    """A constant for each token that is added to what was mixed, or multiplies it -> its weights and bias."""
    found = split_operands(op)
    place = None if found is None or op.kind == "Div" and op.constant(1) is None else trial.where(found[0])
    if found is None or place is None or not isinstance(place[0].node, TokenMix):
        return None
    view, const = found
    bound, positions = place
    node = place[0].node
    if view.shape != op.shape(0) or positions.size != math.prod(bound.shape) or bound.affine is not None:
        return None
    order = np.argsort(positions.ravel())
    table = np.broadcast_to(const.array, view.shape).ravel()[order].reshape(bound.shape).astype(np.float64)
    if not is_whole(positions.ravel()[order]) or not (table == table[:, :1]).all():
        return None
    factor, vector = bound.factor * view.scale, table[:, 0]
    weights, offset = node.weight * factor, node.bias * factor
    with np.errstate(divide="ignore", invalid="ignore"):                            # a division by zero is refused with its weights
        match op.kind:
            case "Add":
                offset = offset + vector
            case "Sub":
                sign = 1.0 if isinstance(op.operand(0), View) else -1.0
                weights, offset = sign * weights, sign * (offset - vector)
            case "Mul":
                weights, offset = weights * vector[:, None], offset * vector
            case _:
                weights, offset = weights / vector[:, None], offset / vector
    trial.absorb(trial.graph.producers[view.base], view)
    changed = replace(node, name=op.name, output=op.outputs[0], weight=trial.array(weights), bias=trial.array(offset))
    return Match((changed,), order.astype(np.int32).reshape(bound.shape))
