"""Float graph + ranges -> steps: what the operators ask of it while each lowers itself, in the order of the float nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..errors import ModelError, combined
from ..graph import Array, Graph, Node, Role, Unit
from ..ops import Activation, Linear, Multiply, TokenMix
from ..ops.operator import SUPPORTED, Operator
from ..steps.format import INT4, INT8, WEIGHTS, WIDE, Format
from ..steps.param import Columns, Factor, Params
from ..steps.passes.norms import drop_unread
from ..steps.stages import Add, Diagonal, Plain, Requant, Stage, Stationary, Table
from ..steps.step import Keep, Network, Output, Step
from ..steps.taken import NOTHING, Taken
from ..steps.tensor import Memory, Span, Tensor, View
from . import ends, lookup, residuals
from .bias import Target
from .calibration import FORMS, Range, Site
from .lowered import Lowered
from .order import multiplied, order
from .precision import Precision
from .recipe import Recipe
from .structure import Stream, base, consumers
from .weights import Quantized, factor, quantize_diagonal, quantize_linear

WIDE_TOP = 28000         # int16 value of the largest magnitude seen in calibration: headroom of 17 %


class Lowering:
    """Builds one `Network`. ``recipe``, ``method`` and ``ranges`` give scales, ``known`` maps values to sites, ``pool`` shares params.

    streams: the residual streams, and scales: real value of a unit of each. readers, producers, float_shapes: of the float values. What was
    defined so far: operands; results, of linear maps that are done where they are added, looked up or leave; states, of streams; norms, that are
    added to a stream or start one.
    """

    def __init__(self, graph: Graph, streams: Sequence[Stream], scales: Sequence[float], ranges: dict[Site, Range],
                 known: dict[str, int], method: str, pool: Params, precision: Precision, recipe: Recipe):
        self.precision, self.recipe = precision, recipe
        self.graph, self.streams = graph, streams
        self.ranges, self.known, self.method, self.pool = ranges, dict(known), method, pool
        self.readers, self.multiplied = consumers(graph), multiplied(graph)
        self.float_shapes = graph.shapes()
        self.producers = {node.output: node for node in graph.nodes}
        self.steps: list[Step] = []
        self.used: set[tuple[str, str]] = set()             # what rules of the recipe were asked for
        self.targets: dict[Stationary, Target] = {}         # of the tiles whose bias is to be corrected
        self.outputs: dict[str, Output] = {}
        self.operands: dict[str, Lowered] = {}
        self.results: dict[str, Lowered] = {}
        self.states: dict[str, Lowered] = {}
        self.norms: dict[str, Lowered] = {}
        self.uses = residuals.uses(graph)
        self.versions: Counter[str] = Counter()             # of each residual stream, how often it was changed
        self.wrong: list[ModelError] = []                   # what does not fit
        self.lost: dict[str, ModelError] = {}               # value that is not there for that -> why
        self.residuals: dict[str, tuple[Stream, Tensor]] = {}
        for index, (stream, scale) in enumerate(zip(streams, scales, strict=True)):
            tokens, channels = stream.table.shape
            tensor = Tensor(self.fresh(f"residual{index or ''}"), WIDE, tokens, channels, scale, Memory.RES)
            self.residuals |= dict.fromkeys(stream.values, (stream, tensor))
        taken = {base(term, self.producers) for stream in streams for state, terms in stream.terms.items() for term in terms if term != state}
        taken |= {base(value, self.producers) for value in graph.outputs.values()} | self.multiplied
        taken |= {base(value, self.producers) for node in graph.nodes if isinstance(node, Multiply) for value in node.inputs}
        self.raw = taken & {*self.residuals, *graph.inputs}     # what is read without a LayerNorm

    def run(self) -> Network:
        """Raises ModelError with every node that does not fit; what needs the result of such a node is counted as behind it."""
        self._attempt(partial(ends.receive, self))
        for unit in order(self.graph, self.streams):
            if isinstance(unit, str):
                value = self.graph.outputs[unit]
                self._attempt(partial(ends.leave, self, unit, value), (value,), node=self.producers[value].name)
            elif isinstance(unit, Operator):
                self._attempt(partial(self._lower, unit), unit.inputs, unit.output)
        if self.wrong:
            raise combined(self.wrong)
        return drop_unread(Network(self.graph.name, tuple(self.steps), tuple(self.outputs[name] for name in self.graph.outputs)))

    def _attempt(self, lower: Callable[[], None], read: Sequence[str] = (), output: str = "", node: str | None = None) -> None:
        """Lower something that reads these values and gives ``output``; node: who is to blame, unless the error says it. The states of a
        residual stream are there whatever is added."""
        cause = next((self.lost[value] for value in read if value in self.lost), None)
        if cause is not None:
            cause.behind += 1
        else:
            try:
                lower()
            except ModelError as error:
                cause = error.about(node)
                self.wrong.append(error)
        if cause is None:
            return
        if output in self.residuals:
            residual = self.residuals[output][1]
            self.states[output] = Lowered(residual)
            self.operands.setdefault(output, Lowered(residual))
        else:
            self.lost[output] = cause

    def _lower(self, node: Operator) -> None:
        node.lower(self)
        if node.output in self.residuals:
            residuals.advance(self, node)

    def fresh(self, name: str) -> str:
        """A name that no float value and no output has."""
        while name in self.float_shapes or name in self.graph.outputs:
            name += "'"
        return name

    def scale(self, value: str, role: Role = Role.OUT) -> float:
        """Of the integer image of a float value that has one scale. Raises ModelError where the recipe has one a channel."""
        units = self.units(value, (1,), role)
        return float(units.item())

    def units(self, value: str, shape: tuple[int, ...], role: Role = Role.OUT) -> Array:
        """Real value of one unit of the integer image, by the recipe or by calibration (in 16 bits the largest value seen
        is `WIDE_TOP`): float64 [1], or ``shape`` where the recipe has one a
        channel. Raises ModelError when the recipe has so many for another shape."""
        rule = self.recipe.value(value)
        self.used.add(("value", value))
        if rule.scale is None:
            found = self.ranges[self.known[value], role]
            return np.array([self.wide_unit(value, role) if self.form(value) == WIDE else found.scale(rule.method or self.method)])
        units = np.asarray(rule.scale, np.float64)
        if units.size == 1:
            return units.reshape(1)
        if units.shape not in (shape, shape[-1:]):
            raise ModelError(f"value {value!r} is given {list(units.shape)} scales; it has {'one' if shape == (1,) else list(shape)}",
                             where="quantization recipe", hint="a scale a channel is for results of Linear nodes and of activations")
        return units

    def largest(self, value: str, role: Role = Role.OUT) -> float:
        """Magnitude that calibration has seen."""
        return self.ranges[self.known[value], role].maximum

    def fine_unit(self, value: str, role: Role = Role.OUT) -> float:
        """Of a value that is kept in 16 bits on the way to another one, by calibration."""
        return (self.largest(value, role) or 1.0) / WIDE_TOP

    def point(self, value: str, role: Role, unit: Unit, result: str, fine: bool = False) -> Format:
        """Of what a value is kept in with a binary point, on the way to ``result``; see `Range.form`."""
        return self.ranges[self.known[value], role].form(*FORMS[unit], fine=fine or self.recipe.value(result).fine)

    def form(self, value: str) -> Format:
        """Of the integer image of a float value: 8 bits, or 16 by the recipe."""
        return WIDE if self.recipe.value(value).bits == WIDE.bits else INT8

    def wide_unit(self, value: str, role: Role = Role.OUT) -> float:
        """Of an image in 16 bits, by calibration."""
        return (self.ranges[self.known[value], role].maximum or 1.0) / WIDE_TOP

    def narrow(self, node: Node, value: str, what: str) -> None:
        """``node`` takes ``value`` in 8 bits only. Raises ModelError where the recipe says 16."""
        if self.recipe.value(value).bits == WIDE.bits:
            raise node.fail(f"{what} {value!r} cannot have {WIDE.bits} bits",
                            hint=f"leave it at {INT8.bits}: 16 bits have what only linear maps read")

    def activations(self, name: str, tokens: int, channels: int, units: float | Array, form: Format = INT8) -> Tensor:
        """A new tensor of the activation memory. units: real value of one unit, a number, or float64 [1] or [channels]."""
        units = np.ravel(units)
        top = float(units.max())
        ratio = None if (units == top).all() else self.pool.add(f"{name}.ratio", units / top)
        return Tensor(name, form, tokens, channels, top, ratio=ratio)

    def define(self, value: str, tensor: Tensor, *, gamma: Array | None = None, beta: Array | None = None,
               tokens: Span | None = None) -> None:
        """What ``value`` is from now on, an operand; see `Lowered`."""
        self.operands[value] = Lowered(tensor, gamma, beta, tokens)

    def as_lowered(self, tensor: Tensor) -> Lowered:
        """A tensor that is no float value of its own."""
        return Lowered(tensor)

    def put_off(self, value: str, x: Lowered, linear: Linear | TokenMix, function: Activation | None = None) -> None:
        """``value`` is a linear map of an operand, whose step is done where it is added, looked up, multiplied or leaves. function: of that map."""
        self.results[value] = replace(x, linear=linear, function=function)

    def is_gate(self, value: str) -> bool:
        """Whether products of two values are all that reads it."""
        return value not in self.graph.outputs.values() and {type(reader) for reader in self.readers[value]} == {Multiply}

    def store(self, value: str, x: Lowered) -> None:
        """What was put off as a function of a linear map is done after all."""
        if x.linear is not None:
            del self.results[value]
            x.linear.lower_with(self, x, value, x.function)

    def choose(self, node: Node, value: str, tokens: Span, mean: bool = False) -> None:
        """``node`` is some tokens of ``value``, or their mean."""
        for known in (self.operands, self.results, self.states, self.norms):
            if value in known:
                known[node.output] = replace(known[value].of(tokens), mean=mean)

    def take(self, node: Node, value: str, order: Array) -> None:
        """``node`` is tokens of ``value`` side by side, in an order as of `Taken`. What an order takes of another one is stored first; so is a norm
        that is not 0 where its words are."""
        x = self.operand(node, value)
        if x.mean:
            raise self.no_mean(node, value)
        if x.beta is not None and x.beta.any() and (order == NOTHING).any():
            x = Lowered(self.plain(node, value).tensor)
        self.operands[node.output] = replace(x, taken=Taken(self.pool.add(f"{node.output}.order", order)))

    def operand(self, node: Node, value: str, taken: bool = False) -> Lowered:
        """What ``node`` multiplies, in 8 or 16 bits. taken: it takes tokens by an order; for others they are stored. Raises ModelError when it is no
        value of its own."""
        if value not in self.operands:
            raise node.fail(f"reads {value!r} of {type(self.producers.get(value)).__name__}, which is inside another step", hint=SUPPORTED)
        if self.operands[value].taken is not None and not taken:
            return Lowered(self.plain(node, value).tensor)
        return self.operands[value]

    def plain(self, node: Node, value: str) -> View:
        """An int8 operand with no gamma left to fold: any other one goes through a linear map that changes nothing."""
        operand = self.operand(node, value, taken=True)
        if operand.mean:
            raise self.no_mean(node, value)
        if operand.gamma is None and operand.tensor.format == INT8 and operand.taken is None:
            return operand.view
        name = self.fresh(f"{value}.int8")
        if name not in self.operands:
            self.known[name] = self.known[value]
            replace(self.identity(value, operand.channels), output=name).lower_with(self, operand, name)
        return self.operands[name].view

    def no_mean(self, node: Node, value: str) -> ModelError:
        """The mean of tokens can only leave."""
        return node.fail(f"computes with {value!r}, the mean of tokens: the engine adds tokens up as they leave", hint=SUPPORTED)

    def result(self, value: str) -> Lowered | None:
        """A value as a linear map of an operand: that of its own node, or one that changes nothing. None when it is neither."""
        if value in self.results:
            return self.results[value]
        operand = self.operands.get(value)
        return None if operand is None else replace(operand, linear=self.identity(value, operand.channels))

    def identity(self, value: str, channels: int) -> Linear:
        """A linear map that changes nothing."""
        producer = self.producers.get(value)
        return Linear(value if producer is None else producer.name, value, value, np.eye(channels, dtype=np.float32),
                      np.zeros(channels, np.float32))

    def factor(self, node: Node, what: str, ratio: float) -> Factor:
        """The nearest factor, or a ModelError that names the node."""
        return factor(node, what, ratio)

    def weights(self, node: Node, what: str, x: Lowered, weight: Array, bias: Array, out_scale: float | Array | None, *,
                repeat: int = 1, narrow: bool = False, name: str = "", role: Role = Role.OUT, index: int = 0) -> Quantized:
        """The linear map of an operand, its gamma, beta and scales of channels folded in; see `weights.quantize_linear`. narrow: 4 bits, unless
        the recipe has bits for it. role, index: of the values of ``node`` that it gives, see `bias.Target`."""
        rule = self.recipe.weight(node.name, what)
        self.used.add(("weights", node.name))
        form = WEIGHTS[rule.bits] if rule.bits else INT4 if narrow else INT8
        weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
        if x.gamma is not None and x.beta is not None:
            weight, bias = x.each(x.gamma)[:, None] * weight, bias + x.each(x.beta) @ weight
        if x.tensor.ratio is not None:
            weight = x.each(x.tensor.ratio.array)[:, None] * weight
        steps = None if self.recipe.steps is None or rule.scale is not None else self.recipe.steps.of(weight, form.hi)
        made = quantize_linear(node, what, self.pool, weight, bias, x.tensor.scale, out_scale, repeat=repeat, form=form,
                               name=name or node.output, scale=rule.scale, steps=steps, x_form=x.tensor.format)
        if steps is not None and self.recipe.steps is not None:
            self.recipe.steps.note(f"{node.name}: {what}", steps, made.tile.scale.array / x.tensor.scale)
        if node.output in self.float_shapes and self.recipe.corrects(rule):
            self.targets.setdefault(made.tile, Target(node.output, role, index))
        return made

    def table(self, node: Node, function: str, x: Format) -> Table:
        """See `lookup.table`."""
        return lookup.table(node, function, x)

    def tables(self, node: Node, function: str, units: Array, name: str, form: Format, x: Format) -> tuple[list[Table], Array]:
        """See `lookup.tables`."""
        return lookup.tables(self.pool, node, function, units, name, form, x)

    def diagonal(self, node: Node, gamma: Array, beta: Array, unit: float, out: float | Array, name: str) -> tuple[Diagonal, Columns]:
        """``gamma * x + beta`` for each channel; see `weights.quantize_diagonal`."""
        return quantize_diagonal(node, "gamma", self.pool, gamma, beta, unit, out, name=name)

    def emit(self, step: Step) -> None:
        self.steps.append(step)

    def product(self, value: str, node: Node, x: Lowered | View, w: Quantized, drain: tuple[Stage, ...], sink: View, **fields: Any) -> None:
        """The step of a linear map. fields: further ones of `Step`; with ``taken``, which tokens of ``x`` it streams, it has its rows."""
        if isinstance(x, Lowered):
            fields, x = {"taken": x.taken, **fields}, x.view
        macs = (taken.tokens if (taken := fields.get("taken")) else x.tokens.count) * w.tile.weight.array.size
        self.emit(Step(value, node.name, Plain(), w.tile, (sink,), x, drain, **{"macs": macs, **fields}))

    def update(self, value: str, node: Node, x: Lowered | View, w: Quantized, place: View, fresh: bool = False) -> None:
        """A linear map whose result is added to a residual stream; fresh: which starts with it."""
        drain = (Requant(w.factor, WIDE),) if fresh else (Requant(w.factor, WIDE), Add(place))
        self.product(value, node, x, w, drain, place, keeps=(Keep.MOMENTS,))
