"""Float graph + ranges -> steps: one small method an operator, in the order of the float nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
import math
from typing import Any

import numpy as np

from .. import ir, numerics
from ..errors import ModelError
from ..steps.format import ACCUMULATOR, INT4, INT8, LOGIT, PRE_ACTIVATION, SCORE, SHARE, WIDE
from ..steps.param import Params
from ..steps.stages import (
    Add,
    Constant,
    Exp2,
    Gather,
    Host,
    Identity,
    Keys,
    Mean,
    Normalize,
    Plain,
    Requant,
    Restore,
    Route,
    RowFactor,
    Score,
    Stage,
    Table,
    Values,
)
from ..steps.stages.normalize import EPS_BITS
from ..steps.step import Expert, Keep, Network, Output, Step
from ..steps.tensor import Memory, Span, Tensor, View
from .calibration import Range, Role, Site
from .structure import SUPPORTED, ResidualStream, consumers
from .weights import Linear, factor, quantize_linear

PRE_ACT_SCALE = 2.0 ** -numerics.PRE_ACT_FRAC
ACT_RESULT_SCALE = 2.0 ** -numerics.DELTA_FRAC
SCORE_SCALE = math.log(2) * 2.0 ** -numerics.SCORE_FRAC     # natural-log value of one unit of a log2-domain score
LOGIT_SCALE = math.log(2) * 2.0 ** -numerics.LOGIT_FRAC     # and of a router logit


class Precision(StrEnum):
    """Bits of weights and activations. W4A8: the linear maps of all blocks and experts have 4-bit weights; embedding, gates and heads keep
    8. W4A8_EXPERTS: only the experts."""

    W8A8 = "w8a8"
    W4A8 = "w4a8"
    W4A8_EXPERTS = "w4a8-experts"


@dataclass(frozen=True)
class Operand:
    """What a float value is in the integer network: ``tensor * scale * gamma + beta``, of ``tokens`` (a head's choice).

    gamma, beta: of the LayerNorm, to be folded into the linear map that reads it. linear: a map that was applied after
    the choice of tokens or before it, still to be emitted as a head.
    """

    tensor: Tensor
    gamma: np.ndarray | None = None
    beta: np.ndarray | None = None
    tokens: tuple[int, int] | None = None
    linear: ir.Linear | None = None


class Lowering:
    """Builds one `Network`. ``method`` and ``ranges`` give scales, ``known`` maps values to sites, ``pool`` shares params."""

    def __init__(self, graph: ir.Graph, stream: ResidualStream, residual_scale: float, ranges: dict[Site, Range],
                 known: dict[str, int], method: str, pool: Params, precision: Precision):
        self.precision = precision
        self.graph, self.stream, self.residual_scale = graph, stream, residual_scale
        self.ranges, self.known, self.method, self.pool = ranges, known, method, pool
        self.readers = consumers(graph)
        self.float_shapes = graph.shapes()
        self.producers = {node.output: node for node in graph.nodes}
        self.branches = {branch.output for _, branch in stream.updates.values()}
        self.steps: list[Step] = []
        self.outputs: list[Output] = []
        self.operands: dict[str, Operand] = {}
        self.residual = Tensor(self._fresh("residual"), WIDE, *self.float_shapes[stream.embed.output], residual_scale, Memory.RES)

    def run(self) -> Network:
        """Raises ModelError at the first node that does not fit."""
        self._start()
        rules = {ir.LayerNorm: self._norm, ir.Linear: self._linear, ir.Activation: self._activation,
                 ir.Attention: self._attention, ir.MoE: self._moe, ir.Add: self._add, ir.Select: self._select,
                 ir.Mean: self._mean}
        for node in self.graph.nodes:
            if node.output in self.stream.start_nodes:
                continue
            rule = rules.get(type(node))
            if rule is None:
                raise node.fail("this operator is only supported where the residual stream starts", hint=SUPPORTED)
            rule(node)
        for onnx_name, value in self.graph.outputs.items():
            self._head(onnx_name, value)
        return Network(self.graph.name, tuple(self.steps), tuple(self.outputs))

    # ---------------------------------------------------------------- helpers

    def _fresh(self, name: str) -> str:
        """A name that no float value has."""
        while name in self.float_shapes:
            name += "'"
        return name

    def _scale(self, value: str, role: Role = Role.OUT) -> float:
        return self.ranges[self.known[value], role].scale(self.method)

    def _activations(self, name: str, tokens: int, channels: int, scale: float) -> Tensor:
        return Tensor(name, INT8, tokens, channels, scale)

    def _operand(self, node: ir.Node, value: str) -> Operand:
        if value not in self.operands:
            raise node.fail(f"reads {value!r} of {type(self.producers.get(value)).__name__} without a LayerNorm in between: "
                            "only int8 values can be computed with, and this one stays in 16 bits or inside another step",
                            hint=SUPPORTED)
        operand = self.operands[value]
        if operand.linear is not None:
            raise node.fail(f"reads {value!r}, which is a Linear after the choice of tokens: only one Linear may follow it",
                            hint="heads are a single Linear")
        return operand

    def _plain(self, node: ir.Node, value: str) -> Operand:
        """An operand of all tokens with no gamma left to fold."""
        operand = self._operand(node, value)
        if operand.gamma is not None:
            raise node.fail(f"reads the LayerNorm result {value!r} without a Linear in between", hint=SUPPORTED)
        return operand

    def _weights(self, node: ir.Node, what: str, x: Operand, weight: np.ndarray, bias: np.ndarray, out_scale: float | None, *,
                 repeat: int = 1, narrow: bool = False, name: str = "") -> Linear:
        weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
        if x.gamma is not None and x.beta is not None:
            weight, bias = x.gamma[:, None] * weight, bias + x.beta @ weight
        return quantize_linear(node, what, self.pool, weight, bias, x.tensor.scale, out_scale, repeat=repeat,
                               form=INT4 if narrow else INT8, name=name or node.output)

    def _table(self, node: ir.Node, kind: ir.Act, out_scale: float) -> Table:
        try:
            numerics.delta_table(kind.value)
        except ValueError as error:
            raise node.fail(f"activation {kind.value!r} has no table", hint="use GELU, SiLU or ReLU") from error
        return Table(kind.value, factor(node, "activation", ACT_RESULT_SCALE / out_scale))

    def _product(self, value: str, node: ir.Node, x: View, w: Linear, drain: tuple[Stage, ...], sink: View, **fields: Any) -> None:
        """The step of a linear map."""
        macs = x.tokens.count * w.tile.weight.array.size
        self.steps.append(Step(value, node.name, Plain(), w.tile, (sink,), x, drain, **{"macs": macs, **fields}))

    # ---------------------------------------------------------------- rules

    def _start(self) -> None:
        stream, embed = self.stream, self.stream.embed
        (source,) = self.graph.inputs
        tokens, dim = self.float_shapes[embed.output]
        if isinstance(embed, ir.PatchEmbed):
            patch = tuple(embed.weight.shape[2:])
            weight = embed.weight.reshape(dim, -1).T
        else:
            patch, weight = (0, 0), embed.weight
        patches = self._activations(self._fresh(f"{source}.int8"), tokens, weight.shape[0], self._scale(source))
        self.steps.append(Step(patches.name, embed.name, Host(source, patch), Identity(), (patches.view(),), about=f"input {source}"))
        table = numerics.sat(np.rint(stream.table / self.residual_scale), WIDE.bits).astype(WIDE.dtype)
        self.residual = replace(self.residual, tokens=len(table))
        start = self._fresh(f"{embed.output}.start")
        self.steps.append(Step(start, embed.name, Constant(self.pool.add(start, table)), Identity(), (self.residual.view(),),
                               keeps=(Keep.MOMENTS,), about="residual start"))
        w = self._weights(embed, "embedding", Operand(patches), weight, embed.bias, self.residual_scale)
        self._update(stream.values[0], embed, patches, w, self.residual.view(Span(stream.first_token, tokens)))

    def _update(self, value: str, node: ir.Node, x: Tensor, w: Linear, place: View) -> None:
        """A linear map whose result is added to the residual stream."""
        self._product(value, node, x.view(), w, (Requant(w.factor, WIDE), Add(place)), place, keeps=(Keep.MOMENTS,))

    def _norm(self, node: ir.LayerNorm) -> None:
        x, tokens = node.x, None
        producer = self.producers[x]
        if isinstance(producer, ir.Select) and producer.x in self.stream.values:
            x, tokens = producer.x, (producer.index, producer.index + 1)
        if x not in self.stream.values:
            reason = ("normalises the mean of tokens, the engine normalises each token"
                      if isinstance(producer, ir.Mean) else f"normalises {node.x!r}, which is not the residual stream")
            raise node.fail(reason, hint=SUPPORTED)
        dim = self.float_shapes[x][-1]
        scale = self._scale(node.output, Role.NORM)
        units = node.eps * (dim / self.residual_scale) ** 2
        if not units < (1 << EPS_BITS) - 1:                       # nor infinite, nor NaN
            raise node.fail(f"eps = {node.eps:.6g} is too large for a residual scale of {self.residual_scale:.3g}",
                            hint="a LayerNorm's epsilon keeps it from dividing by zero; usual are 1e-5 and 1e-6")
        eps = max(1, round(units))
        out = self._activations(node.output, self.residual.tokens, dim, scale)
        feed = Normalize(eps, factor(node, "16 / D", 16 / dim), factor(node, "normalise", dim / (16 * scale)))
        self.steps.append(Step(node.output, node.name, feed, Identity(), (out.view(),), self.residual.view()))
        self.operands[node.output] = Operand(out, np.asarray(node.gamma, np.float64), np.asarray(node.beta, np.float64), tokens)

    def _linear(self, node: ir.Linear) -> None:
        if node.output in self.branches:
            return                                                  # emitted by its Add
        x = self._operand(node, node.x)
        readers = self.readers[node.output]
        if x.tokens is not None or node.output in self.graph.outputs.values() \
                or (readers and all(isinstance(r, (ir.Select, ir.Mean)) for r in readers)):
            self.operands[node.output] = replace(x, linear=node)    # a head
            return
        if any(isinstance(r, ir.Activation) for r in readers):
            if len(readers) > 1:
                raise node.fail(f"its result {node.output!r} is read by an activation and by something else", hint=SUPPORTED)
            return                                                  # emitted by its Activation
        self._emit_linear(node, node.output, x, None)

    def _emit_linear(self, node: ir.Linear, output: str, x: Operand, act: ir.Activation | None) -> None:
        scale = self._scale(output)
        table = (self._table(act, act.kind, scale),) if act else ()
        w = self._weights(node, "linear", x, node.weight, node.bias, PRE_ACT_SCALE if act else scale,
                          narrow=self.precision is Precision.W4A8)
        out = self._activations(output, x.tensor.tokens, node.weight.shape[1], scale)
        self._product(output, node, x.tensor.view(), w, (Requant(w.factor, PRE_ACTIVATION if act else INT8), *table), out.view())
        self.operands[output] = Operand(out)

    def _activation(self, node: ir.Activation) -> None:
        linear = self.producers.get(node.x)
        if not isinstance(linear, ir.Linear) or node.x in self.operands:
            raise node.fail(f"reads {node.x!r} of {type(linear).__name__}; an activation must follow a Linear of all tokens",
                            hint=SUPPORTED)
        self._emit_linear(linear, node.output, self._operand(linear, linear.x), node)

    def _attention(self, node: ir.Attention) -> None:
        q, k, v = (self._plain(node, value).tensor for value in node.inputs)
        heads, scale = node.num_heads, self._scale(node.output)
        scores = Tensor(self._fresh(f"{node.output}.scores"), SCORE, q.tokens, heads * k.tokens, memory=Memory.SCORE)
        out = self._activations(node.output, *self.float_shapes[node.output], scale)
        macs = q.tokens * k.tokens * q.channels
        product = factor(node, "scores", q.scale * k.scale * node.scale / SCORE_SCALE)
        self.steps.append(Step(node.output, node.name, Plain(), Keys(k.view()), (scores.view(),), q.view(), (Requant(product, SCORE),),
                               (Keep.ROW_MAX,), part="scores", heads=heads, macs=macs, about="Q K"))
        self.steps.append(Step(node.output, node.name, Exp2(), Values(v.view()), (out.view(),), scores.view(),
                               (Restore(), RowFactor(factor(node, "output", v.scale / scale))), heads=heads, macs=macs, about="P V"))
        self.operands[node.output] = Operand(out)

    def _moe(self, node: ir.MoE) -> None:
        if node.output not in self.branches:
            raise node.fail("its result is not added to the residual stream", hint=SUPPORTED)

    def _add(self, node: ir.Add) -> None:
        if node.output not in self.stream.updates:
            if node.output in self.graph.outputs.values() and all(isinstance(self.producers.get(v), ir.Linear) for v in node.inputs):
                raise node.fail(f"is a sum of two heads, {node.x!r} and {node.y!r}",
                                hint="give the two heads as two outputs, and add them on the host")
            norms = [v for v in node.inputs if isinstance(self.producers.get(v), ir.LayerNorm)]
            raise node.fail(f"adds {node.x!r} and {node.y!r}, neither of which is the residual stream"
                            + (": post-norm is not supported" if norms else ""), hint=SUPPORTED)
        _, branch = self.stream.updates[node.output]
        x = self._operand(branch, branch.x)
        if isinstance(branch, ir.Linear):
            w = self._weights(branch, "linear", x, branch.weight, branch.bias, self.residual_scale,
                              narrow=self.precision is Precision.W4A8)
            self._update(node.output, branch, x.tensor, w, self.residual.view())
        else:
            self._experts(branch, node.output, x)

    def _experts(self, node: ir.MoE, output: str, x: Operand) -> None:
        """The router, then expert by expert: its tokens are gathered, its results are added to the residual stream by their shares."""
        tokens, experts, narrow = x.tensor.tokens, node.num_experts, self.precision is not Precision.W8A8
        place = self.residual.view()
        queue = Tensor(self._fresh(f"{output}.queue"), SHARE, tokens, node.top_k, memory=Memory.ROUTER).view()
        gate = self._weights(node, "gate", x, node.gate, node.gate_bias, LOGIT_SCALE, name=f"{output}.gate")
        self._product(output, node, x.tensor.view(), gate, (Requant(gate.factor, LOGIT), Route(node.top_k, node.renormalize)), queue,
                      part="gate", about="gate")
        scale = self._scale(node.output, Role.HIDDEN)
        table = self._table(node, node.act, scale)
        for e in range(experts):
            hidden = self._activations(self._fresh(f"{output}.hidden{e}"), tokens, node.w1[e].shape[1], scale)
            first = self._weights(node, f"expert {e}, layer 1", x, node.w1[e], node.b1[e], PRE_ACT_SCALE, narrow=narrow,
                                  name=f"{output}.expert{e}.layer1")
            second = self._weights(node, f"expert {e}, layer 2", Operand(hidden), node.w2[e], node.b2[e], self.residual_scale,
                                   narrow=narrow, name=f"{output}.expert{e}.layer2")
            expert = Expert(e, experts, queue)
            self.steps.append(Step(output, node.name, Gather(), first.tile, (hidden.view(),), x.tensor.view(),
                                   (Requant(first.factor, PRE_ACTIVATION), table), part=f"expert{e}.layer1",
                                   macs=tokens * node.top_k * node.w1[e].size // experts, about=f"expert {e}, layer 1", expert=expert))
            self.steps.append(Step(output, node.name, Plain(), second.tile, (place,), hidden.view(),
                                   (Requant(second.factor, WIDE), Score(), Add(place)), (Keep.MOMENTS,), part=f"expert{e}.layer2",
                                   macs=tokens * node.top_k * node.w2[e].size // experts, about=f"expert {e}, layer 2", expert=expert))

    def _select(self, node: ir.Select) -> None:
        self._choose(node, (node.index, node.index + 1))

    def _mean(self, node: ir.Mean) -> None:
        self._choose(node, (node.start, self.float_shapes[node.x][0]))

    def _choose(self, node: ir.Select | ir.Mean, tokens: tuple[int, int]) -> None:
        if node.x in self.operands:
            self.operands[node.output] = replace(self.operands[node.x], tokens=tokens)
        elif node.x not in self.stream.values:
            raise node.fail(f"takes tokens of {node.x!r}, which is not a value of its own in hardware", hint=SUPPORTED)
        # else: tokens of the residual stream; the LayerNorm or the error follows at the reader

    def _head(self, onnx_name: str, value: str) -> None:
        where = f"output {onnx_name!r} of graph {self.graph.name!r}"
        head = self.operands.get(value)
        if head is None or head.linear is None:
            raise ModelError(f"value {value!r} of {type(self.producers.get(value)).__name__} cannot leave the engine: "
                             "an output must be a Linear of one token or of the mean of tokens", where=where, hint=SUPPORTED)
        if head.tokens is None:
            raise ModelError(f"value {value!r} keeps all {head.tensor.tokens} tokens", where=where,
                             hint="select a token or take the mean before or after the last Linear")
        node = head.linear
        repeat = head.tokens[1] - head.tokens[0]
        w = self._weights(node, "head", head, node.weight, node.bias, None, repeat=repeat, name=onnx_name)
        shape = tuple(self.graph.output_shapes.get(onnx_name, (1, node.weight.shape[1])))
        if int(np.prod(shape[1:])) != node.weight.shape[1]:
            raise ModelError(f"output shape {shape} does not hold {node.weight.shape[1]} channels", where=where)
        out = Tensor(onnx_name, ACCUMULATOR, 1, node.weight.shape[1], memory=Memory.OUT)
        self._product(onnx_name, node, head.tensor.view(Span(head.tokens[0], repeat)), w, (Mean(),), out.view(), about=f"output {onnx_name}")
        self.outputs.append(Output(onnx_name, out, w.tile.scale, repeat, shape))
