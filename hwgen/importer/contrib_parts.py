"""Parts of ONNX functions as text: what the functions of `contrib` are made of. Each gives lines of the ONNX language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import math
from typing import Any

import onnx
from onnx import helper

LAYER_NORM, GELU, SPLIT_OPERAND, SPLIT_OUTPUTS, AXES_OPERAND, RANGE = 17, 20, 13, 18, 18, 11      # operator set that brought it


class Refused(Exception):
    """What a call asks for that its text does not say; the message goes on from the name of the node."""


@dataclass(frozen=True, eq=False)
class Call:
    """One node. opset: of the standard operators; ranks: of weights, and of other values where the file says so."""

    node: onnx.NodeProto
    opset: int
    ranks: Mapping[str, int] = field(default_factory=dict)

    def has(self, place: int) -> bool:
        return place < len(self.node.input) and bool(self.node.input[place])

    def wants(self, place: int) -> bool:
        return place < len(self.node.output) and bool(self.node.output[place])

    def attribute(self, name: str, default: Any) -> Any:
        found = next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)
        return found.decode() if isinstance(found, bytes) else found

    def only(self, operands: dict[int, str]) -> None:
        """Raises Refused for an operand that is in none of the places; operands: place -> its name in a message."""
        for place in range(len(self.node.input)):
            if self.has(place) and place in operands:
                raise Refused(f"has {operands[place]}")


Body = Iterator[str]
Text = Callable[[Call], Body]


def number(name: str, value: float) -> str:
    return f"{name} = Constant <value = float {{{value:.9e}}}> ()"


def integers(name: str, *values: int) -> str:
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> ()"


def times(result: str, x: str, factor: float) -> Body:
    if factor == 1:
        yield f"{result} = Identity ({x})"
    else:
        yield number(f"{result}_factor", factor)
        yield f"{result} = Mul ({x}, {result}_factor)"


def gelu(result: str, x: str, opset: int) -> Body:
    """By the error function."""
    if opset >= GELU:
        yield f"{result} = Gelu ({x})"
        return
    yield number("half", 0.5)
    yield number("one", 1.0)
    yield number("root", math.sqrt(0.5))
    yield f"scaled = Mul ({x}, root)"
    yield "erf = Erf (scaled)"
    yield "erf_one = Add (erf, one)"
    yield f"twice = Mul ({x}, erf_one)"
    yield f"{result} = Mul (twice, half)"


def gelu_tanh(result: str, x: str, opset: int) -> Body:
    if opset >= GELU:
        yield f'{result} = Gelu <approximate = "tanh"> ({x})'
        return
    yield number("half", 0.5)
    yield number("one", 1.0)
    yield number("root", math.sqrt(2 / math.pi))
    yield number("cubic", 0.044715)
    yield f"square = Mul ({x}, {x})"
    yield f"cube = Mul (square, {x})"
    yield "part = Mul (cube, cubic)"
    yield f"sum = Add ({x}, part)"
    yield "scaled = Mul (sum, root)"
    yield "tanh = Tanh (scaled)"
    yield "tanh_one = Add (tanh, one)"
    yield f"twice = Mul ({x}, tanh_one)"
    yield f"{result} = Mul (twice, half)"


def mean(result: str, x: str, opset: int) -> Body:
    """Over the last axis, which is kept."""
    if opset >= AXES_OPERAND:
        yield integers(f"{result}_axes", -1)
        yield f"{result} = ReduceMean <keepdims = 1> ({x}, {result}_axes)"
    else:
        yield f"{result} = ReduceMean <axes = [-1], keepdims = 1> ({x})"


def layer_norm(result: str, x: str, epsilon: float, opset: int, gamma: str, beta: str = "") -> Body:
    """Over the last axis."""
    if opset >= LAYER_NORM:
        yield f"{result} = LayerNormalization <axis = -1, epsilon = {epsilon:.9e}> ({', '.join(filter(None, [x, gamma, beta]))})"
        return
    yield from mean("mean", x, opset)
    yield f"centered = Sub ({x}, mean)"
    yield "square = Mul (centered, centered)"
    yield from mean("variance", "square", opset)
    yield number("epsilon", epsilon)
    yield "stable = Add (variance, epsilon)"
    yield "deviation = Sqrt (stable)"
    yield "normal = Div (centered, deviation)"
    yield f"{'scaled' if beta else result} = Mul (normal, {gamma})"
    if beta:
        yield f"{result} = Add (scaled, {beta})"


def rms_norm(result: str, x: str, epsilon: float, opset: int, gamma: str) -> Body:
    yield f"square = Mul ({x}, {x})"
    yield from mean("variance", "square", opset)
    yield number("epsilon", epsilon)
    yield "stable = Add (variance, epsilon)"
    yield "deviation = Sqrt (stable)"
    yield f"normal = Div ({x}, deviation)"
    yield f"{result} = Mul (normal, {gamma})"


def split(results: list[str], x: str, opset: int, axis: int = -1, sizes: Sequence[int] = ()) -> Body:
    """In equal parts, or in parts of these sizes."""
    if sizes and opset >= SPLIT_OPERAND:
        yield integers("sizes", *sizes)
        yield f"{', '.join(results)} = Split <axis = {axis}> ({x}, sizes)"
        return
    if sizes:
        yield f"{', '.join(results)} = Split <axis = {axis}, split = {list(sizes)}> ({x})"
        return
    count = f", num_outputs = {len(results)}" if opset >= SPLIT_OUTPUTS else ""
    yield f"{', '.join(results)} = Split <axis = {axis}{count}> ({x})"


def attended(call: Call, heads: int, bias: str) -> Body:
    """y of q, k, v [1, tokens, channels]; bias: a value added to the scores, or nothing."""
    yield integers("by_heads", 0, 0, heads, -1)
    for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        yield f"{part}_heads = Reshape ({part}, by_heads)"
        yield f"{part}_ready = Transpose <perm = {order}> ({part}_heads)"
    yield "product = MatMul (q_ready, k_ready)"
    scale = call.attribute("scale", 0.0)
    if scale:
        yield number("factor", scale)
    else:
        yield "shape = Shape (q_heads)"
        yield integers("last", 3)
        yield "size = Gather (shape, last)"
        yield "float_size = Cast <to = 1> (size)"
        yield "root = Sqrt (float_size)"
        yield "factor = Reciprocal (root)"
    yield "scaled = Mul (product, factor)"
    if bias:
        yield f"biased = Add (scaled, {bias})"
    scores = "biased" if bias else "scaled"
    if call.attribute("unidirectional", 0):
        yield from causal("masked", scores, call.opset)
        scores = "masked"
    yield f"weights = Softmax <axis = 3> ({scores})"
    yield "mixed = MatMul (weights, v_ready)"
    yield "by_tokens = Transpose <perm = [0, 2, 1, 3]> (mixed)"
    yield integers("joined", 0, 0, -1)
    yield "y = Reshape (by_tokens, joined)"


def causal(result: str, scores: str, opset: int) -> Body:
    """The scores [1, heads, tokens, tokens], those of keys behind the query's own far below all others."""
    if opset < RANGE:
        raise Refused(f"is causal, which cannot be written out with operator set {opset}: export with opset_version {RANGE} or later")
    yield f"score_shape = Shape ({scores})"
    for name, value in (("key_axis", 3), ("zero", 0), ("one", 1)):
        yield index(name, value)
    yield "count = Gather (score_shape, key_axis)"
    yield "keys = Range (zero, count, one)"
    yield integers("column", -1, 1)
    yield "queries = Reshape (keys, column)"
    yield "behind = Greater (keys, queries)"
    yield number("least", -3e38)
    yield f"{result} = Where (behind, least, {scores})"


def applied(result: str, x: str, call: Call) -> Body:
    """The attribute ``activation`` of a fused operator."""
    name = call.attribute("activation", "")
    given = {key: call.attribute(f"activation_{key}", math.nan) for key in ("alpha", "beta", "gamma")}
    numbers = [f"{key} = {value:.9e}" for key, value in given.items() if not math.isnan(value)]
    parameters = call.attribute("activation_params", [])
    if name in ("LeakyRelu", "Elu", "HardSigmoid"):
        numbers = numbers or [f"{key} = {value:.9e}" for key, value in zip(("alpha", "beta"), parameters, strict=False)]
    elif name not in ("", "Relu", "Tanh", "Sigmoid", "Softplus"):
        raise Refused(f"applies {name}")
    attributes = f"<{', '.join(numbers)}> " if numbers and name else ""
    yield f"{result} = {name or 'Identity'} {attributes}({x})"


def index(name: str, value: int) -> str:
    return f"{name} = Constant <value = int64 {{{value}}}> ()"
