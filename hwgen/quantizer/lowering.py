"""Float graph + ranges -> steps: what the operators ask of it while each lowers itself, in the order of the float nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from .. import numerics
from ..errors import ModelError, combined
from ..functions import titles
from ..graph import Array, Graph, Node, Role
from ..knots import knots
from ..ops import Linear
from ..ops.operator import SUPPORTED, Operator
from ..steps.format import ACCUMULATOR, INT4, INT8, TABLE_UNIT, WEIGHTS, WIDE, Format
from ..steps.param import Factor, Params, ShortColumns
from ..steps.stages import Add, Constant, Host, Identity, Mean, Plain, Requant, Rescale, Stage, Table
from ..steps.stages.rescale import EXACT
from ..steps.step import Keep, Network, Output, Step
from ..steps.tensor import Memory, Span, Tensor, View
from .calibration import Range, Site
from .recipe import Recipe
from .structure import ResidualStream, consumers
from .weights import Quantized, factor, identity, quantize_linear

WIDE_TOP = 28000         # int16 value of the largest magnitude seen in calibration: headroom of 17 %


class Precision(StrEnum):
    """Bits of weights and activations. W4A8: the linear maps of all blocks and experts have 4-bit weights; embedding, gates and heads keep
    8. W4A8_EXPERTS: only the experts. MIXED: 8 bits, and 16 where the recipe says so."""

    W8A8 = "w8a8"
    W4A8 = "w4a8"
    W4A8_EXPERTS = "w4a8-experts"
    MIXED = "mixed"

    @property
    def narrow_linear(self) -> bool:
        """Whether the linear maps of blocks have 4-bit weights."""
        return self is Precision.W4A8

    @property
    def narrow_experts(self) -> bool:
        """Whether the linear maps of experts have 4-bit weights."""
        return self in (Precision.W4A8, Precision.W4A8_EXPERTS)


@dataclass(frozen=True)
class Lowered:
    """What a float value is in the integer network: ``tensor * scale * gamma + beta``, of ``tokens`` (a head's choice).

    gamma, beta: of the LayerNorm, to be folded into the linear map that reads it. linear: a map that was applied after
    the choice of tokens or before it, still to be emitted as a head.
    """

    tensor: Tensor
    gamma: Array | None = None
    beta: Array | None = None
    tokens: tuple[int, int] | None = None
    linear: Linear | None = None


class Lowering:
    """Builds one `Network`. ``recipe``, ``method`` and ``ranges`` give scales, ``known`` maps values to sites, ``pool`` shares params.

    stream: the residual stream; branches: values that are added to it. readers, producers, float_shapes: of the float values. operands: what
    was defined so far; residual: the tensor of the stream.
    """

    def __init__(self, graph: Graph, stream: ResidualStream, residual_scale: float, ranges: dict[Site, Range],
                 known: dict[str, int], method: str, pool: Params, precision: Precision, recipe: Recipe):
        self.precision, self.recipe = precision, recipe
        self.graph, self.stream, self.residual_scale = graph, stream, residual_scale
        self.ranges, self.known, self.method, self.pool = ranges, known, method, pool
        self.readers = consumers(graph)
        self.float_shapes = graph.shapes()
        self.producers = {node.output: node for node in graph.nodes}
        self.branches = {branch.output for _, branch in stream.updates.values()}
        self.steps: list[Step] = []
        self.used: set[tuple[str, str]] = set()             # what rules of the recipe were asked for
        self.outputs: list[Output] = []
        self.operands: dict[str, Lowered] = {}
        self.wrong: list[ModelError] = []                   # what does not fit
        self.lost: dict[str, ModelError] = {}               # value that is not there for that -> why
        tokens, dim = stream.table.shape
        self.residual = Tensor(self.fresh("residual"), WIDE, tokens, dim, residual_scale, Memory.RES)

    def run(self) -> Network:
        """Raises ModelError with every node that does not fit; what needs the result of such a node is counted as behind it."""
        self._attempt(self._start)
        for node in self.graph.nodes:
            if node.output not in self.stream.start_nodes and isinstance(node, Operator):
                self._attempt(partial(node.lower, self), node.inputs, node.output)
        for onnx_name, value in self.graph.outputs.items():
            self._attempt(partial(self._head, onnx_name, value), (value,), node=self.producers[value].name)
        if self.wrong:
            raise combined(self.wrong)
        return Network(self.graph.name, tuple(self.steps), tuple(self.outputs))

    def _attempt(self, lower: Callable[[], None], read: Sequence[str] = (), output: str = "", node: str | None = None) -> None:
        """Lower something that reads these values and gives ``output``; node: who is to blame, unless the error says it. The states of the
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
        if cause is not None and output not in self.stream.values:
            self.lost[output] = cause

    # ---------------------------------------------------------------- values

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
            return np.array([(found.maximum or 1.0) / WIDE_TOP if self.form(value) == WIDE else found.scale(rule.method or self.method)])
        units = np.asarray(rule.scale, np.float64)
        if units.size == 1:
            return units.reshape(1)
        if units.shape not in (shape, shape[-1:]):
            raise ModelError(f"value {value!r} is given {list(units.shape)} scales; it has {'one' if shape == (1,) else list(shape)}",
                             where="quantization recipe", hint="a scale a channel is for results of Linear nodes and of activations")
        return units

    def form(self, value: str) -> Format:
        """Of the integer image of a float value: 8 bits, or 16 by the recipe."""
        return WIDE if self.recipe.value(value).bits == WIDE.bits else INT8

    def narrow(self, node: Node, value: str, what: str) -> None:
        """``node`` takes ``value`` in 8 bits only. Raises ModelError where the recipe says 16."""
        if self.form(value) != INT8:
            raise node.fail(f"{what} {value!r} cannot have {WIDE.bits} bits",
                            hint=f"leave it at {INT8.bits}: 16 bits have what only linear maps read")

    def activations(self, name: str, tokens: int, channels: int, units: float | Array, form: Format = INT8) -> Tensor:
        """A new tensor of the activation memory. units: real value of one unit, a number, or float64 [1] or [channels]."""
        units = np.ravel(units)
        top = float(units.max())
        ratio = None if (units == top).all() else self.pool.add(f"{name}.ratio", units / top)
        return Tensor(name, form, tokens, channels, top, ratio=ratio)

    def define(self, value: str, tensor: Tensor, *, gamma: Array | None = None, beta: Array | None = None,
               tokens: tuple[int, int] | None = None) -> None:
        """What ``value`` is from now on; see `Lowered`."""
        self.operands[value] = Lowered(tensor, gamma, beta, tokens)

    def as_lowered(self, tensor: Tensor) -> Lowered:
        """A tensor that is no float value of its own."""
        return Lowered(tensor)

    def choose(self, node: Node, value: str, tokens: tuple[int, int]) -> None:
        """``node`` is so many tokens (start, stop) of ``value``; of the residual stream, the LayerNorm or the error follows at the reader."""
        if value in self.operands:
            self.operands[node.output] = replace(self.operands[value], tokens=tokens)
        elif value not in self.stream.values:
            raise node.fail(f"takes tokens of {value!r}, which is not a value of its own in hardware", hint=SUPPORTED)

    def head(self, node: Linear, x: Lowered) -> None:
        """``node`` is a head, to be emitted with the outputs."""
        self.operands[node.output] = replace(x, linear=node)

    def operand(self, node: Node, value: str) -> Lowered:
        """What ``node`` reads. Raises ModelError when it is no int8 value."""
        if value not in self.operands:
            raise node.fail(f"reads {value!r} of {type(self.producers.get(value)).__name__} without a LayerNorm in between: "
                            "only int8 values can be computed with, and this one stays in 16 bits or inside another step",
                            hint=SUPPORTED)
        operand = self.operands[value]
        if operand.linear is not None:
            raise node.fail(f"reads {value!r}, which is a Linear after the choice of tokens: only one Linear may follow it",
                            hint="heads are a single Linear")
        return operand

    def plain(self, node: Node, value: str) -> Tensor:
        """An operand of all tokens with no gamma left to fold."""
        operand = self.operand(node, value)
        if operand.gamma is not None:
            raise node.fail(f"reads the LayerNorm result {value!r} without a Linear in between", hint=SUPPORTED)
        return operand.tensor

    # ---------------------------------------------------------------- steps

    def factor(self, node: Node, what: str, ratio: float) -> Factor:
        """The nearest factor, or a ModelError that names the node."""
        return factor(node, what, ratio)

    def weights(self, node: Node, what: str, x: Lowered, weight: Array, bias: Array, out_scale: float | Array | None, *,
                repeat: int = 1, narrow: bool = False, name: str = "") -> Quantized:
        """The linear map of an operand, its gamma, beta and scales of channels folded in; see `weights.quantize_linear`. narrow: 4 bits, unless
        the recipe has bits for it."""
        rule = self.recipe.weight(node.name, what)
        self.used.add(("weights", node.name))
        form = WEIGHTS[rule.bits] if rule.bits else INT4 if narrow else INT8
        weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
        if x.gamma is not None and x.beta is not None:
            weight, bias = x.gamma[:, None] * weight, bias + x.beta @ weight
        if x.tensor.ratio is not None:
            weight = x.tensor.ratio.array[:, None] * weight
        steps = None if self.recipe.steps is None or rule.scale is not None else self.recipe.steps.of(weight, form.hi)
        made = quantize_linear(node, what, self.pool, weight, bias, x.tensor.scale, out_scale, repeat=repeat, form=form,
                               name=name or node.output, scale=rule.scale, steps=steps, x_form=x.tensor.format)
        if steps is not None and self.recipe.steps is not None:
            self.recipe.steps.note(f"{node.name}: {what}", steps, made.tile.scale.array / x.tensor.scale)
        return made

    def words(self, x: Lowered) -> Quantized:
        """The linear map that gives the words of ``x`` as they are, one unit of its accumulators a word: what reads a value out."""
        return identity(self.pool, x.tensor.channels, x.tensor.scale)

    def tables(self, node: Node, function: str, units: Array, name: str,
               form: Format = INT8) -> tuple[list[Table], Array]:
        """The stage of an activation function for each row of ``units``, float64 [rows, channels or 1], and the units of its results: with one
        a channel the least that columns have a multiplier for and that are not below. name: of the params.

        Raises ModelError when there is no table of the function.
        """
        try:
            knots(function)
        except ValueError as error:
            raise node.fail(f"its activation cannot be built: {error}", hint=f"use {titles('or')}") from error
        if units.shape[1] == 1:
            return [Table(function, factor(node, "activation", TABLE_UNIT / unit), form) for unit in units[:, 0]], units
        try:
            mult, shift = numerics.short_multipliers(TABLE_UNIT / units)
        except ValueError as error:
            raise node.fail(f"activation: {error}", hint="the scales of its channels are too far apart") from error
        return [Table(function, ShortColumns(self.pool.add(f"{name}.second", row), shift), form) for row in mult], TABLE_UNIT * 2.0 ** shift / mult

    def emit(self, step: Step) -> None:
        self.steps.append(step)

    def product(self, value: str, node: Node, x: View, w: Quantized, drain: tuple[Stage, ...], sink: View, **fields: Any) -> None:
        """The step of a linear map. fields: further ones of `Step`."""
        macs = x.tokens.count * w.tile.weight.array.size
        self.emit(Step(value, node.name, Plain(), w.tile, (sink,), x, drain, **{"macs": macs, **fields}))

    def update(self, value: str, node: Node, x: Tensor, w: Quantized, place: View) -> None:
        """A linear map whose result is added to the residual stream."""
        self.product(value, node, x.view(), w, (Requant(w.factor, WIDE), Add(place)), place, keeps=(Keep.MOMENTS,))

    def state(self, node: Node, value: str) -> Lowered:
        """The residual stream as it is now, an operand of 16 bits: what reads it without a LayerNorm. value: name of the operand."""
        words = self.activations(value, self.residual.tokens, self.residual.channels, self.residual_scale, WIDE)
        self.emit(Step(value, node.name, Rescale(EXACT), Identity(), (words.view(),), self.residual.view(), about="residual stream as it is"))
        return Lowered(words)

    def host_start(self, node: Node, source: str, table: Array, first_token: int) -> None:
        """The residual stream starts with the words of the host, without an embedding: int16 from ``first_token`` on, zeros before; then the
        constant ``table``, float [T, D], is added."""
        place = self.residual.view()
        self.emit(Step(self.fresh(f"{source}.int16"), node.name, Host(source, (0, 0), first_token), Identity(), (place,), keeps=(Keep.MOMENTS,),
                       about=f"input {source}"))
        if table.any():
            start = self.fresh(f"{source}.start")
            self.emit(Step(start, node.name, Constant(self.pool.add(start, self._words(table))), Identity(), (place,), drain=(Add(place),),
                           keeps=(Keep.MOMENTS,), about="residual start"))

    def _words(self, table: Array) -> Array:
        """A constant of the residual stream."""
        words: Array = np.clip(np.rint(table / self.residual_scale), WIDE.lo, WIDE.hi).astype(WIDE.dtype)
        return words

    def _start(self) -> None:
        """Input, constant and embedding."""
        stream = self.stream
        embed = stream.embed
        (source,) = self.graph.inputs
        patch, weight = embed.as_matrix()
        tokens = self.float_shapes[embed.output][0]
        patches = self.activations(self.fresh(f"{source}.int8"), tokens, weight.shape[0], self.scale(source))
        self.emit(Step(patches.name, embed.name, Host(source, patch), Identity(), (patches.view(),), about=f"input {source}"))
        table = self._words(stream.table)
        start = self.fresh(f"{embed.output}.start")
        self.emit(Step(start, embed.name, Constant(self.pool.add(start, table)), Identity(), (self.residual.view(),),
                       keeps=(Keep.MOMENTS,), about="residual start"))
        w = self.weights(embed, "embedding", Lowered(patches), weight, embed.bias, self.residual_scale)
        self.update(stream.values[0], embed, patches, w, self.residual.view(Span(stream.first_token, tokens)))

    def _head(self, onnx_name: str, value: str) -> None:
        """An output: a Linear of one token or of the mean of tokens."""
        where = f"output {onnx_name!r} of graph {self.graph.name!r}"
        head = self.operands.get(value)
        if head is None or head.linear is None:
            raise ModelError(f"value {value!r} of {type(self.producers.get(value)).__name__} cannot leave the engine: "
                             "an output must be a Linear of one token or of the mean of tokens", where=where, hint=SUPPORTED)
        if head.tokens is None:
            raise ModelError(f"value {value!r} keeps all {head.tensor.tokens} tokens", where=where,
                             hint="select a token or take the mean before or after the last Linear")
        node = head.linear
        repeat, channels = head.tokens[1] - head.tokens[0], node.weight.shape[1]
        w = self.weights(node, "head", head, node.weight, node.bias, None, repeat=repeat, name=onnx_name)
        shape = tuple(self.graph.output_shapes.get(onnx_name, (1, channels)))
        if int(np.prod(shape[1:])) != channels:
            raise ModelError(f"output shape {shape} does not hold {channels} channels", where=where)
        out = Tensor(onnx_name, ACCUMULATOR, 1, channels, memory=Memory.OUT)
        self.product(onnx_name, node, head.tensor.view(Span(head.tokens[0], repeat)), w, (Mean(),), out.view(), about=f"output {onnx_name}")
        self.outputs.append(Output(onnx_name, out, w.tile.scale, repeat, shape))
