"""Rotate: neighbouring channels turned by an angle of each token, as rotary position embeddings do; read by what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..errors import ModelError
from ..graph import Array, Inner, Shape
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Match, Mismatch, Trial
from ..steps.format import INT8, WIDE
from ..steps.stages import Constant, Identity, Requant, Rotate as Turn
from ..steps.stages.multiply import MAX_SHIFT
from ..steps.step import Step
from ..steps.tensor import Memory, Tensor
from .linear import Linear
from .operands import picked
from .operator import SUPPORTED, Operator, Spellings

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering

MOST = 40                    # operators of one rotation
SAME = 1e-6                  # of the largest cosine


@dataclass(frozen=True, eq=False, repr=False)
class Rotate(Operator):
    """``y[2j] = x[2j] c[j] - x[2j+1] s[j]``, ``y[2j+1] = x[2j+1] c[j] + x[2j] s[j]``, c and s of each token."""

    x: str
    cos: Array               # [T, D / 2]
    sin: Array

    ABSORBS: ClassVar[bool] = True
    BY_CHANNEL: ClassVar[bool] = True

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != 2 or self.cos.shape != (x[0], x[1] // 2) or self.sin.shape != self.cos.shape or x[1] % 2:
            raise self.fail(f"cosines {self.cos.shape} and sines {self.sin.shape} do not fit {x}")
        return x

    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        (x,) = operands
        a, b = x[..., 0::2], x[..., 1::2]
        turned: Array = np.stack([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1).reshape(x.shape)
        return turned

    def part(self, channels: Array) -> Mapping[str, Array] | None:
        """Pairs as they are."""
        if (channels[0::2] % 2).any() or (channels[0::2] + 1 != channels[1::2]).any():
            return None
        return {"cos": self.cos[:, channels[0::2] // 2], "sin": self.sin[:, channels[0::2] // 2]}

    @property
    def period(self) -> int:
        """Channels after which cosines and sines are the same again."""
        both = np.stack([self.cos, self.sin], -1).reshape(len(self.cos), -1)
        return next(size for size in range(2, both.shape[1] + 1, 2)
                    if both.shape[1] % size == 0 and (both.reshape(len(both), -1, size) == both[:, None, :size]).all())

    def lower(self, to: Lowering) -> None:
        """The turn in the drain of the linear map, or of the norm of heads, before it, by a constant that is there once for all that are turned
        alike."""
        x, norm = to.result(self.x), to.producers.get(self.x)
        plain = x is not None and x.linear is not None and not x.mean
        if not plain and not (x is None and isinstance(norm, Operator)) or to.form(self.output) != INT8:
            raise self._no_map()
        to.narrow(self, self.output, "what is turned")
        words = np.stack([self.cos, self.sin], -1).reshape(len(self.cos), -1).astype(np.float64)
        words, top = words[:, :self.period], float(np.abs(words).max())
        unit, least, scale = top / WIDE.hi, to.fine_unit(self.x), to.scale(self.output)
        shift = min(MAX_SHIFT, max(2, 2 * math.floor(math.log2(scale / (unit * least)) / 2)))
        scale = max(scale, 4 * unit * least)
        table = to.pool.add(to.fresh(f"{self.output}.angles"), np.rint(words / unit).astype(WIDE.dtype))
        beside = next((step.sink for step in to.steps if step.feed.constant is table.array), None)
        if beside is None:
            beside = Tensor(to.fresh(f"{self.output}.turn"), WIDE, *words.shape, unit, Memory.OPERAND).view()
            to.emit(Step(beside.name, self.name, Constant(table), Identity(), (beside,), about="cosines and sines"))
        straight, turn = scale / (unit * 2.0 ** shift), Turn(beside, shift)
        out = to.activations(self.output, len(self.cos), 2 * self.cos.shape[1], scale)
        if x is not None and x.linear is not None:
            w = to.weights(x.linear, "linear", x, x.linear.weight, x.linear.bias, np.array([straight]), narrow=to.precision.narrow_linear)
            to.product(self.output, x.linear, x, w, (Requant(w.factor, WIDE), turn), out.view())
        elif not isinstance(norm, Operator) or not norm.lower_through(to, out, straight, WIDE, turn):
            raise self._no_map()
        to.define(self.output, out)

    def _no_map(self) -> ModelError:
        return self.fail(f"turns {self.x!r}, which is no linear map of 8 bits", hint=SUPPORTED)

    @classmethod
    def spellings(cls) -> Spellings:
        return Spellings({"Add": (rotary,), "Concat": (rotary,)},
                         dict.fromkeys(("Add", "Concat", "Mul", "Neg", "Sub"), "a rotary embedding"))


@dataclass(frozen=True, eq=False)
class Form:
    """Every element of an ONNX value as a sum of elements of another one: their places and factors, [..., terms]."""

    places: Array
    factors: Array

    def at(self, view: View) -> Form:
        """What the view shows of the value this is."""
        shown = view.positions()
        terms = self.places.shape[-1]
        return Form(self.places.reshape(-1, terms)[shown], self.factors.reshape(-1, terms)[shown] * view.scale)


def rotary(op: Op, trial: Trial) -> Match | None:
    """A sum in which each element is one of a value times a constant, plus or less another one of the same token: turned pairs of channels."""
    if not _is_linear(op):
        return None
    ops = list(_region(op, trial))
    inner = {one.outputs[0] for one in ops}
    leaves = {ref.base for one in ops for ref in one.inputs if isinstance(ref, View) and ref.base not in inner}
    if len(leaves) != 1 or not any(one.kind == "Mul" for one in ops):
        return None
    (base,) = leaves
    if base not in trial.bound:
        return None
    bound = trial.bound[base]
    if len(bound.shape) != 2 or bound.affine is not None or not bound.factor:
        return None
    form = _form(op, {one.outputs[0]: one for one in ops}, {})
    places = form.places if bound.order is None else bound.order[form.places]
    found = _turns(places.reshape(-1, places.shape[-1]), form.factors.reshape(-1, places.shape[-1]), bound.shape, op)
    if found is None:
        return None
    channels, outputs, cos, sin = found
    for one in ops:
        trial.absorb(one)
    width, pairs = bound.shape[1], f"{op.outputs[0]}.pairs"
    source = None if bound.node is None else picked(trial, bound.node, channels, pairs)
    if source is None:
        source = Linear(op.name, trial.fresh(pairs), bound.value, trial.array(np.eye(width)[:, channels]), trial.array(np.zeros(len(channels))))
    else:
        trial.absorbed.append(bound.anchor)
    trial.nodes.append(source)
    node = Rotate(op.name, op.outputs[0], source.output, trial.array(cos), trial.array(sin))
    return Match((node,), outputs, factor=bound.factor)


def _region(op: Op, trial: Trial) -> Iterator[Op]:
    """The operators that make a result out of elements of values of the network times constants, ``op`` first; none where they are too many."""
    found: dict[str, Op] = {}
    waiting = [op]
    while waiting:
        at = waiting.pop()
        if at.name in found:
            continue
        found[at.name] = at
        if len(found) > MOST:
            return
        for ref in at.inputs:
            before = trial.graph.producers.get(ref.base) if isinstance(ref, View) else None
            known = trial.bound.get(ref.base) if isinstance(ref, View) else None
            if before is not None and _is_linear(before) and (known is None or isinstance(known.node, (Linear, Rotate, type(None)))):
                waiting.append(before)
    yield from found.values()


def _is_linear(op: Op) -> bool:
    """Whether every element of its result is a sum of elements times constants."""
    if any(shape is None for shape in op.shapes):
        return False
    views = [isinstance(ref, View) for ref in op.inputs]
    return op.kind in ("Add", "Sub", "Concat", "Neg") and all(views) or op.kind == "Mul" and sorted(views) == [False, True] \
        or op.kind == "Div" and views == [True, False]


def _form(op: Op, inner: dict[str, Op], known: dict[str, Form]) -> Form:
    """Of the result of ``op``, by elements of what is not ``inner``: values by name -> the operators that give them. known: grows."""
    if op.outputs[0] in known:
        return known[op.outputs[0]]

    def of(ref: Ref | None) -> Form:
        if not isinstance(ref, View):
            raise TypeError(f"operand of {op.name!r} is no value")
        if ref.base in inner:
            return _form(inner[ref.base], inner, known).at(ref)
        return Form(ref.positions()[..., None], np.full((*ref.shape, 1), ref.scale))

    shape = op.shape(0)
    if op.kind in ("Mul", "Div"):
        place = next(place for place, ref in enumerate(op.inputs) if isinstance(ref, View))
        form, const = of(op.inputs[place]), op.ref(1 - place)
        if not isinstance(const, Const):
            raise TypeError(f"operand of {op.name!r} is no constant")
        numbers = const.array.astype(np.float64)
        with np.errstate(divide="ignore"):
            found = _spread(form, shape), np.broadcast_to(numbers if op.kind == "Mul" else 1 / numbers, shape)[..., None]
        result = Form(found[0].places, found[0].factors * found[1])
    elif op.kind == "Concat":
        forms = [of(ref) for ref in op.inputs]
        terms, axis = max(form.places.shape[-1] for form in forms), op.integer("axis", 0) % len(shape)
        padded = [_padded(form, terms) for form in forms]
        result = Form(np.concatenate([form.places for form in padded], axis), np.concatenate([form.factors for form in padded], axis))
    else:
        forms = [_spread(of(ref), shape) for ref in op.inputs]
        signs = [1.0] if op.kind == "Add" else [-1.0] if op.kind == "Neg" else [1.0, -1.0]
        result = Form(np.concatenate([form.places for form in forms], -1),
                      np.concatenate([form.factors * signs[min(place, len(signs) - 1)] for place, form in enumerate(forms)], -1))
    known[op.outputs[0]] = result
    return result


def _spread(form: Form, shape: Shape) -> Form:
    terms = form.places.shape[-1]
    return Form(np.broadcast_to(form.places, (*shape, terms)), np.broadcast_to(form.factors, (*shape, terms)))


def _padded(form: Form, terms: int) -> Form:
    """With so many terms: the first one more often, times 0."""
    more = terms - form.places.shape[-1]
    return Form(np.concatenate([form.places, np.repeat(form.places[..., :1], more, -1)], -1),
                np.concatenate([form.factors, np.zeros((*form.factors.shape[:-1], more))], -1))


def _turns(places: Array, factors: Array, shape: Shape, op: Op) -> tuple[Array, Array, Array, Array] | None:
    """(channels of the value in pairs, where each element of the result [T, D] stands in that of ``op``, cosines and sines [T, D / 2]) of a result
    whose elements are sums of these; None when it turns no pairs. Raises Mismatch where single channels are left."""
    tokens, width = shape
    token, channel = np.divmod(places, width)
    low, high = channel.min(1), channel.max(1)
    if (token != token[:, :1]).any() or ((channel != low[:, None]) & (channel != high[:, None])).any() or len(places) % tokens:
        return None
    of_low = np.where(channel == low[:, None], factors, 0).sum(1)
    of_high = np.where((channel == high[:, None]) & (high != low)[:, None], factors, 0).sum(1)
    order = np.lexsort((high, low, token[:, 0])).reshape(tokens, -1)
    if (token[order, 0] != np.arange(tokens)[:, None]).any() or (low[order] != low[order[0]]).any() or (high[order] != high[order[0]]).any():
        return None
    first, last = low[order[0]], high[order[0]]
    turned, passed = np.flatnonzero(first != last), np.flatnonzero(first == last)
    if not turned.size or turned.size % 2 or (first[turned[0::2]] != first[turned[1::2]]).any() or (last[turned[0::2]] != last[turned[1::2]]).any() \
            or len({*first[turned].tolist(), *last[turned].tolist()}) != turned.size:
        return None
    if passed.size % 2 or (first[passed[0::2]] + 1 != first[passed[1::2]]).any():
        raise Mismatch(f"turns {turned.size} of {first.size} channels and leaves single ones as they are: pairs of channels are turned, the head "
                       "dimension has to be even", op.name)
    pairs = np.concatenate([turned, passed]).reshape(-1, 2)
    pairs = pairs[np.argsort(first[pairs[:, 0]])]
    a, b = order[:, pairs[:, 0]], order[:, pairs[:, 1]]
    alone = first[pairs[:, 0]] == last[pairs[:, 0]]
    top = float(np.abs(factors).max())

    def same(x: Array, y: Array) -> Array:
        result: Array = (np.abs(x - y) <= SAME * top).all(0)
        return result

    straight = np.where(alone, same(of_low[a], of_low[b]), same(of_low[a], of_high[b]) & same(-of_high[a], of_low[b]))
    crossed = ~alone & same(of_low[b], of_high[a]) & same(-of_high[b], of_low[a])
    if not (straight | crossed).all():
        return None
    a, b = np.where(straight, a, b), np.where(straight, b, a)
    channels = np.stack([first[pairs[:, 0]], np.where(alone, first[pairs[:, 1]], last[pairs[:, 0]])], -1).ravel()
    cos, sin = of_low[a], np.where(alone, 0, -of_high[a])
    return channels, np.stack([a, b], -1).reshape(tokens, -1), cos, sin
