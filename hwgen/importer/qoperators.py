"""The operators of quantized files, one function or one line of a table each: what float operator they stand for. See `quantized`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
import math
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..matching.grid import Grid
from .border import quoted
from .integers import Wrong, bounds, checked_scale, of_blocks, rounded, spread
from .quantized import AGAIN, FLOATS, Handler, Reading

MS = "com.microsoft"
BIAS = 1 << 30           # an int32 bias of that size leaves sums of products of 8 bits no room
QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


def _attributes(node: onnx.NodeProto, *names: str) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if not names or a.name in names}


def _number(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


# ---------------------------------------------------------------- pairs

def quantize_linear(to: Reading, node: onnx.NodeProto) -> None:
    """A computed value changes nothing; a constant is rounded when it is folded."""
    value, output = node.input[0], node.output[0]
    if value in to.integers:
        raise to.fail(node, f"quantizes {quoted(value)}, which holds integers already")
    if value not in to.computed:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.domain = ""
        to.put(plain)
        return
    kind = _number(node, "output_dtype", 0)
    grid = to.grid(node, 1, 2, value, helper.tensor_dtype_to_np_dtype(kind) if kind and len(node.input) < 3 else None)
    to.emit(node, "Relu" if to.is_clipped(value, grid) else "Identity", [value], output)
    to.rounds(node, output, grid)


def dequantize_linear(to: Reading, node: onnx.NodeProto) -> None:
    value, output = node.input[0], node.output[0]
    if value in to.sums:
        scale = to.parameter(node, 1, "scale")
        if scale is None or scale.size != 1 or np.any(to.parameter(node, 2, "zero point")):
            raise to.fail(node, f"gives the sums of {quoted(value)} a zero point, or a scale for each channel")
        to.emit(node, "Mul", [value, to.constant(f"{node.name}: scale", checked_scale(scale).reshape(()))], output)
    elif value in to.integers:
        known = to.dynamic.get(value)
        if known is None or known != tuple(node.input[1:3]):
            to.same(node, value, to.grid(node, 1, 2, value, _type(to.integers[value]) if len(node.input) < 3 or not node.input[2] else None))
        to.emit(node, "Identity", [value], output)
    elif value in to.computed:
        raise to.fail(node, f"reads {quoted(value)}, which no node before it quantizes", FLOATS)
    else:
        _dequantized_constant(to, node)


def _type(grid: Grid | None) -> np.dtype | None:
    """Of integers on a grid, where a zero point is left out."""
    return None if grid is None else np.dtype(f"{'int' if grid.lo < 0 else 'uint'}{8 if grid.bits <= 8 else 16}")


def _dequantized_constant(to: Reading, node: onnx.NodeProto) -> None:
    array, scale, zero = to.array(node.input[0]), to.parameter(node, 1, "scale"), to.parameter(node, 2, "zero point")
    if scale is None:
        raise to.fail(node, "has no scale")
    if array is None:                                               # a constant that is folded later
        checked_scale(scale)
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.domain = ""
        to.put(plain)
        return
    if scale.ndim == 1 and scale.size > 1 and to.opsets.get("", 0) < 13 and not node.domain:
        raise to.fail(node, "has a scale for each channel, which operator sets before 13 do not have")
    result = to.dequantized(array, scale, zero, _number(node, "axis", 1), _number(node, "block_size", 0))
    if to.is_weight(node.output[0]):
        to.fits(node, node.input[0], array, zero)
    to.emit(node, "Identity", [to.constant(f"{node.input[0]} (real)", result)], node.output[0])


def dynamic_quantize(to: Reading, node: onnx.NodeProto) -> None:
    """Its scale is 1: the integers are the value, and what multiplies by the scale changes nothing."""
    value, output = node.input[0], node.output[0]
    if value in to.integers:
        raise to.fail(node, f"quantizes {quoted(value)}, which holds integers already")
    to.emit(node, "Identity", [value], output)
    names = [name for name in node.output[1:3]]
    for name, one in zip(names, (np.float32(1), np.uint8(0)), strict=False):
        if name:
            to.made[name] = to.constants[name] = np.asarray(one)
            to.computed.discard(name)
    for reader, place in to.readers.get(names[0], ()) if names else ():
        if reader.op_type == "Mul" and (scale := to.constants.get(reader.input[1 - place])) is not None:
            try:
                checked_scale(scale)                                # of the weight that the integers are multiplied with
            except Wrong as wrong:
                raise to.fail(reader, str(wrong), AGAIN) from wrong
    to.integers[output], to.dynamic[output] = None, (*names, "", "")[:2]
    to.found_anew.append(node.name)
    to.anew.append(output)


# ---------------------------------------------------------------- products of integers

def _factor(to: Reading, node: onnx.NodeProto, place: int, zero: int, axis: int) -> tuple[str, float]:
    """(the value that stands for the integers at ``place`` less their zero point, what it has to be multiplied with to be those)."""
    name, given = node.input[place], node.input[zero] if zero < len(node.input) else ""
    if name in to.integers:
        known = to.integers[name]
        if known is None:
            if given != to.dynamic[name][1]:
                raise to.fail(node, f"reads {quoted(name)} with the zero point {quoted(given)}, which is not the one it was quantized with")
            return name, 1.0
        offset = to.parameter(node, zero, "zero point")
        if ({0} if offset is None else set(offset.ravel().tolist())) != {known.zero}:
            raise to.fail(node, f"reads {quoted(name)} with another zero point than {known.zero}, which it was quantized with")
        return name, 1 / known.scale
    if name in to.computed:
        raise to.fail(node, f"reads the integers {quoted(name)}, which no node before it quantizes", FLOATS)
    array, offset = to.array(name), to.parameter(node, zero, "zero point")
    if array is None:
        raise to.fail(node, f"reads the integers {quoted(name)}, which are no weight of the file")
    bounds(array.dtype)
    to.fits(node, name, array, offset)
    to.widths.add(8)
    shift = 0 if offset is None else spread(offset.astype(np.int64), array.shape, axis)
    return to.constant(f"{name} (real)", (array.astype(np.int64) - shift).astype(np.float32)), 1.0


def _product(to: Reading, node: onnx.NodeProto, kind: str, axis: int, **attrs: Any) -> None:
    """A product of integers, in units of what was multiplied: float numbers until something multiplies them with the scales."""
    (x, a), (w, b) = _factor(to, node, 0, 2, -2), _factor(to, node, 1, 3, axis)
    output = node.output[0]
    if a * b == 1.0:
        to.emit(node, kind, [x, w], output, **attrs)
    else:
        raw = to.fresh(f"{output} (real)")
        to.emit(node, kind, [x, w], raw, before=True, **attrs)
        to.emit(node, "Mul", [raw, to.constant(f"{node.name}: 1 / scale", np.asarray(a * b, np.float32))], output)
    to.sums.add(output)


def matmul_integer(to: Reading, node: onnx.NodeProto) -> None:
    _product(to, node, "MatMul", -1)


def conv_integer(to: Reading, node: onnx.NodeProto) -> None:
    _product(to, node, "Conv", 0, **_attributes(node))


def matmul_integer_to_float(to: Reading, node: onnx.NodeProto) -> None:
    """com.microsoft MatMulIntegerToFloat: A, B, their scales, their zero points, a float bias."""
    operands = []
    for place in (0, 1):
        name = node.input[place]
        if name in to.dynamic:
            if (*node.input[2 + place:3 + place], *node.input[4 + place:5 + place]) != to.dynamic[name]:
                raise to.fail(node, f"reads {quoted(name)} with another scale or zero point than it was quantized with")
            operands.append(name)
        else:
            _weight_fits(to, node, place, 4 + place)
            operands.append(to.meaning(node, place, 2 + place, 4 + place))
    _biased(to, node, operands, 6)


def dynamic_matmul(to: Reading, node: onnx.NodeProto) -> None:
    """com.microsoft DynamicQuantizeMatMul: A float32, B, its scale and zero point, a float bias."""
    _weight_fits(to, node, 1, 3)
    to.found_anew.append(node.name)
    x = to.fresh(f"{node.input[0]} (read)")
    to.emit(node, "Identity", [node.input[0]], x, before=True)
    to.anew.append(x)
    _biased(to, node, [x, to.meaning(node, 1, 2, 3)], 4)


def _weight_fits(to: Reading, node: onnx.NodeProto, place: int, zero: int) -> None:
    array = to.array(node.input[place])
    if array is not None:
        to.fits(node, node.input[place], array, to.parameter(node, zero, "zero point"))


def _biased(to: Reading, node: onnx.NodeProto, operands: list[str], bias: int) -> None:
    """MatMul, and an Add where there is a float bias."""
    output = node.output[0]
    if len(node.input) > bias and node.input[bias]:
        raw = to.fresh(f"{output} (raw)")
        to.emit(node, "MatMul", operands, raw, before=True)
        to.emit(node, "Add", [raw, node.input[bias]], output)
    else:
        to.emit(node, "MatMul", operands, output)


def matmul_nbits(to: Reading, node: onnx.NodeProto) -> None:
    """com.microsoft MatMulNBits: weights of 2, 4 or 8 bits in blocks along the rows."""
    given = _attributes(node)
    sizes = [given.get(name, default) for name, default in (("K", 0), ("N", 0), ("bits", 4), ("block_size", 0))]
    packed, scales, zeros, groups = (to.parameter(node, place, what) for place, what in
                                     enumerate(("weight", "scale", "zero point", "order of blocks"), 1))
    if packed is None or scales is None:
        raise to.fail(node, "has no weight, or no scales")
    k, n, bits, block = (size if isinstance(size, int) else 0 for size in sizes)
    if max(k, n, block) > 1 << 26 or k * n > 1 << 30:
        raise Wrong(f"has a weight [{k}, {n}] in blocks of {block}")
    weight = of_blocks(packed, scales, zeros, groups, k, n, bits, block)
    to.scales.append(scales)
    to.widths.add(bits)
    _biased(to, node, [node.input[0], to.constant(f"{node.input[1]} (real)", weight)], 5)


# ---------------------------------------------------------------- operators on integers, one for each float one

@dataclass(frozen=True)
class Operation:
    """``kind``: the float operator. operands: places of (integers, scale, zero point); result: of its scale and zero point; bias: of int32
    integers whose scale is the product of those of the operands; axis: of the scales of a constant second operand."""

    kind: str
    operands: tuple[tuple[int, int, int], ...]
    result: tuple[int, int]
    bias: int | None = None
    axis: int = -1

    def __call__(self, to: Reading, node: onnx.NodeProto) -> None:
        attrs = _attributes(node)
        axis = 0 if self.kind == "Gemm" and attrs.get("transB") else self.axis
        inputs = []
        for number, (value, scale, zero) in enumerate(self.operands):
            if number and self.kind in ("MatMul", "Gemm", "Conv"):
                _weight_fits(to, node, value, zero)
            inputs.append(to.meaning(node, value, scale, zero, axis))
        if self.bias is not None and len(node.input) > self.bias and node.input[self.bias]:
            inputs.append(self._bias(to, node, float(attrs.get("alpha", 1.0)) if self.kind == "Gemm" else 1.0))
        if self.kind in CHANGED:
            inputs, attrs = CHANGED[self.kind](to, node, inputs, attrs)
        output, (scale, zero) = node.output[0], self.result
        if not (len(node.input) > scale and node.input[scale]):
            to.emit(node, self.kind, inputs, output, **attrs)
            return
        grid = to.grid(node, scale, zero, output)
        if to.cuts(self.kind, inputs, grid):
            raw = to.fresh(f"{output} (raw)")
            to.emit(node, self.kind, inputs, raw, before=True, **attrs)
            to.emit(node, "Relu", [raw], output)
        else:
            to.emit(node, self.kind, inputs, output, **attrs)
        to.rounds(node, output, grid)

    def _bias(self, to: Reading, node: onnx.NodeProto, alpha: float) -> str:
        place = self.bias or 0
        array = to.parameter(node, place, "bias")
        scales = [to.parameter(node, scale, "scale") for _, scale, _ in self.operands]
        if array is None or any(scale is None for scale in scales):
            raise to.fail(node, "has a bias or scales that are left out")
        largest = int(array.ravel()[np.abs(array.astype(np.int64)).argmax()]) if array.size else 0
        if abs(largest) >= BIAS:
            raise to.fail(node, f"has a bias of {largest:,}, which leaves its sums of 32 bits no room", AGAIN)
        unit = np.float64(alpha) * math.prod(np.asarray(scale, np.float64).ravel() for scale in scales)
        return to.constant(f"{node.input[place]} (real)", (array.astype(np.float64) * unit).astype(np.float32))


def _softmax(to: Reading, node: onnx.NodeProto, inputs: list[str], attrs: dict) -> tuple[list[str], dict]:
    """Its attribute ``opset`` says which Softmax is meant; that before 13 is another one unless it is over the last axis."""
    old = attrs.pop("opset", 13)
    if old < 13 and attrs.get("axis", 1) != -1:
        raise to.fail(node, f"is the Softmax of operator set {old} over the axes from {attrs.get('axis', 1)} on; the last axis is read",
                      "export the model with operator set 13 or later")
    return inputs, attrs


def _channels_first(to: Reading, node: onnx.NodeProto, inputs: list[str], attrs: dict) -> tuple[list[str], dict]:
    if attrs.pop("channels_last", 0):
        raise to.fail(node, "reads images whose channels come last", "export the model with channels first")
    return inputs, attrs


CHANGED = {"Conv": _channels_first, "Softmax": _softmax, "AveragePool": _channels_first, "GlobalAveragePool": _channels_first}


def concat(to: Reading, node: onnx.NodeProto) -> None:
    """com.microsoft QLinearConcat: scale and zero point of the result, then integers, scale and zero point of each operand."""
    if len(node.input) < 5 or len(node.input) % 3 != 2:
        raise to.fail(node, f"has {len(node.input)} operands, not two and three for each value that is joined")
    to.emit(node, "Concat", [to.meaning(node, place, place + 1, place + 2) for place in range(2, len(node.input), 3)], node.output[0],
            **_attributes(node))
    to.rounds(node, node.output[0], to.grid(node, 0, 1, node.output[0]))


def where(to: Reading, node: onnx.NodeProto) -> None:
    """com.microsoft QLinearWhere: condition, two operands, scale and zero point of the result."""
    to.emit(node, "Where", [node.input[0], to.meaning(node, 1, 2, 3), to.meaning(node, 4, 5, 6)], node.output[0])
    to.rounds(node, node.output[0], to.grid(node, 7, 8, node.output[0]))


def attention(to: Reading, node: onnx.NodeProto) -> None:
    """com.microsoft QAttention: input and weight as integers, float bias, their scales, mask, their zero points, past."""
    scales = (*node.input[3:4], *node.input[6:7])
    known = to.dynamic.get(node.input[0])
    if len(node.input) > 8 and node.input[8]:
        raise to.fail(node, "keeps keys and values of earlier runs", "export the model without a cache")
    if known is not None and known != scales:
        raise to.fail(node, f"reads {quoted(node.input[0])} with another scale or zero point than it was quantized with")
    _weight_fits(to, node, 1, 7)
    x = node.input[0] if known is not None else to.meaning(node, 0, 3, 6)
    mask = [node.input[5]] if len(node.input) > 5 and node.input[5] else []
    to.emit(node, "Attention", [x, to.meaning(node, 1, 4, 7), node.input[2], *mask], node.output[0], domain=MS, **_attributes(node))


# ---------------------------------------------------------------- QONNX (Brevitas)

def quant(to: Reading, node: onnx.NodeProto) -> None:
    """Rounds a float value to the numbers of so many bits; it stays a float value."""
    value, output, given = node.input[0], node.output[0], _attributes(node, "signed", "narrow", "rounding_mode")
    scale, zero, width = (to.parameter(node, place, what) for place, what in ((1, "scale"), (2, "zero point"), (3, "bit width")))
    if scale is None or width is None or width.size != 1 or not 2 <= float(width.ravel()[0]) <= 32 or width.ravel()[0] % 1:
        raise to.fail(node, "has no scale, or no whole number of 2 to 32 bits")
    bits, signed, narrow = int(width.ravel()[0]), int(given.get("signed", 1)), int(given.get("narrow", 0))
    lo, hi = (-(1 << bits - 1) + narrow, (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1 - narrow)
    zeros = np.zeros(()) if zero is None else zero
    rounding = given.get("rounding_mode", b"ROUND")
    mode = rounding.decode() if isinstance(rounding, bytes) else str(rounding)
    array = to.array(value)
    if array is not None:
        to.scales.append(checked_scale(scale))
        to.widths.add(bits)
        to.emit(node, "Identity", [to.constant(f"{value} (real)", rounded(array, scale, zeros, lo, hi, mode))], output)
        return
    if mode.upper() not in ("ROUND", "HALF_EVEN"):
        raise to.fail(node, f"rounds {quoted(value)} by {mode!r}; the hardware rounds to the nearest number")
    numbers, offsets = np.unique(checked_scale(scale)), np.unique(zeros)
    if len(numbers) > 1 or len(offsets) > 1 or offsets[0] % 1:
        raise to.fail(node, f"gives {quoted(value)} {len(numbers)} scales and {len(offsets)} zero points: a computed value has one of each",
                      "quantize activations per tensor; weights may have a scale for each channel")
    to.emit(node, "Identity", [value], output)
    grid = Grid(float(numbers[0]), int(offsets[0]), lo, hi, value, node.name)
    if bits > 16:
        raise to.fail(node, f"keeps {quoted(value)} in {bits} bits; up to 16 are read")
    to.grids[output] = grid


def unreadable(why: str, to: Reading, node: onnx.NodeProto) -> None:
    raise to.fail(node, why, "quantize with uniform steps of 2 to 16 bits (Quant), or give the float model")


ONE, TWO = ((0, 1, 2),), ((0, 1, 2), (3, 4, 5))
HANDLERS: dict[tuple[str, str], Handler] = {
    **{(domain, name): handler for domain in ("", MS) for name, handler in
       (("QuantizeLinear", quantize_linear), ("DequantizeLinear", dequantize_linear))},
    ("", "DynamicQuantizeLinear"): dynamic_quantize,
    ("", "MatMulInteger"): matmul_integer,
    ("", "ConvInteger"): conv_integer,
    ("", "QLinearMatMul"): Operation("MatMul", TWO, (6, 7)),
    ("", "QLinearConv"): Operation("Conv", TWO, (6, 7), bias=8, axis=0),
    (MS, "QLinearConv"): Operation("Conv", TWO, (6, 7), bias=8, axis=0),
    (MS, "QGemm"): Operation("Gemm", TWO, (7, 8), bias=6),
    (MS, "QLinearAdd"): Operation("Add", TWO, (6, 7)),
    (MS, "QLinearMul"): Operation("Mul", TWO, (6, 7)),
    (MS, "QLinearSigmoid"): Operation("Sigmoid", ONE, (3, 4)),
    (MS, "QLinearLeakyRelu"): Operation("LeakyRelu", ONE, (3, 4)),
    (MS, "QLinearSoftmax"): Operation("Softmax", ONE, (3, 4)),
    (MS, "QLinearAveragePool"): Operation("AveragePool", ONE, (3, 4)),
    (MS, "QLinearGlobalAveragePool"): Operation("GlobalAveragePool", ONE, (3, 4)),
    (MS, "QLinearConcat"): concat,
    (MS, "QLinearWhere"): where,
    (MS, "QAttention"): attention,
    (MS, "MatMulIntegerToFloat"): matmul_integer_to_float,
    (MS, "DynamicQuantizeMatMul"): dynamic_matmul,
    (MS, "MatMulNBits"): matmul_nbits,
    **{(domain, name): quant for domain in QONNX for name in ("Quant", "IntQuant")},
    **{(domain, name): partial(unreadable, why) for domain in QONNX for name, why in
       (("BipolarQuant", "keeps a value in one bit (BipolarQuant)"), ("Trunc", "cuts bits off (Trunc)"),
        ("FloatQuant", "keeps a value in a small float type (FloatQuant)"))},
}
