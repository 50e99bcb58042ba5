"""Operators of onnxruntime, which its optimizer and the tools around it write into files, as ONNX functions: written out before a file is read.

Each is a text in the ONNX language, made for one call: only operands and results that are there are in it. What no text stands for stays
in the file and is refused by its name, with a reason where `refusal` knows one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import helper
import onnx.inliner
import onnx.parser

from .contrib_parts import (
    LAYER_NORM,
    Body,
    Call,
    Refused,
    Text,
    applied,
    attended,
    gelu,
    gelu_tanh,
    index,
    integers,
    layer_norm,
    rms_norm,
    split,
    times,
)
from .contrib_rotary import rotary_embedding

MICROSOFT = "com.microsoft"
WRITTEN_OUT = "hwgen.contrib"           # domain of the functions, for as long as there are any
EINSUM = 12                             # operator set that brought it


def _layer_normalization(call: Call) -> Body:
    if call.wants(1) or call.wants(2) or call.attribute("axis", -1) != -1:
        raise Refused("normalises from another axis on than the last, or gives its mean and deviation too")
    yield from layer_norm("y0", "x0", call.attribute("epsilon", 1e-5), call.opset, "x1", "x2" if call.has(2) else "")


def _simplified_layer_normalization(call: Call) -> Body:
    if call.wants(1) or call.attribute("axis", -1) != -1:
        raise Refused("normalises from another axis on than the last, or gives its deviation too")
    yield from rms_norm("y0", "x0", call.attribute("epsilon", 1e-5), call.opset, "x1")


def _skip(call: Call, bias: int, norm: Callable[[str], Body]) -> Body:
    """``x + skip + bias``, given as the fourth result, and its norm. bias: its place."""
    if call.wants(1) or call.wants(2):
        raise Refused("gives its mean and deviation too")
    total = "y3" if call.wants(3) else "total"
    yield f"{'both' if call.has(bias) else total} = Add (x0, x1)"
    if call.has(bias):
        yield f"{total} = Add (both, x{bias})"
    yield from norm(total)


def _skip_layer_normalization(call: Call) -> Body:
    yield from _skip(call, 4, lambda x: layer_norm("y0", x, call.attribute("epsilon", 1e-12), call.opset, "x2", "x3" if call.has(3) else ""))


def _skip_simplified_layer_normalization(call: Call) -> Body:
    yield from _skip(call, 3, lambda x: rms_norm("y0", x, call.attribute("epsilon", 1e-12), call.opset, "x2"))


def _activated(function: Callable[[str, str, int], Body]) -> Text:
    """A function of x, or of x plus a bias."""
    def text(call: Call) -> Body:
        if call.has(1):
            yield "biased = Add (x0, x1)"
        yield from function("y0", "biased" if call.has(1) else "x0", call.opset)
    return text


def _quick_gelu(call: Call) -> Body:
    yield from times("scaled", "x0", call.attribute("alpha", 1.702))
    yield "sigmoid = Sigmoid (scaled)"
    yield "y0 = Mul (x0, sigmoid)"


def _fused_matmul(call: Call) -> Body:
    """Letters: i rows, k columns of the first operand; the dots are the other axes."""
    letters = []
    for place, side, (row, column) in ((0, "A", "ik"), (1, "B", "kj")):
        if call.attribute(f"trans{side}", 0):
            row, column = column, row
        dots = "" if call.ranks.get(call.node.input[place]) == 2 else "..."
        letters.append(f"{row}{dots}{column}" if call.attribute(f"transBatch{side}", 0) else f"{dots}{row}{column}")
    if [term.strip(".") for term in letters] == ["ik", "kj"]:
        yield "product = MatMul (x0, x1)"
    elif call.opset < EINSUM:
        raise Refused(f"transposes an operand, which cannot be written out with operator set {call.opset}: export with opset_version "
                      f"{EINSUM} or later")
    else:
        dots = "..." if "..." in "".join(letters) else ""
        yield f'product = Einsum <equation = "{letters[0]},{letters[1]}->{dots}ij"> (x0, x1)'
    yield from times("y0", "product", call.attribute("alpha", 1.0))


def _fused_gemm(call: Call) -> Body:
    given = {key: call.attribute(key, default) for key, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}
    yield (f"sum = Gemm <alpha = {given['alpha']:.9e}, beta = {given['beta']:.9e}, transA = {given['transA']}, transB = {given['transB']}> "
           f"({', '.join(f'x{place}' for place in range(3) if call.has(place))})")
    yield from applied("y0", "sum", call)


def _fused_conv(call: Call) -> Body:
    attributes = {key: call.attribute(key, default) for key, default in
                  (("auto_pad", "NOTSET"), ("dilations", []), ("group", 1), ("kernel_shape", []), ("pads", []), ("strides", []))}
    given = ", ".join(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in attributes.items() if value != [])
    operands = ", ".join(f"x{place}" for place in range(3) if call.has(place))
    yield f"{'convolved' if call.has(3) else 'sum'} = Conv <{given}> ({operands})"
    if call.has(3):
        yield "sum = Add (convolved, x3)"
    yield from applied("y0", "sum", call)


NO_CACHE = "keys and values of earlier tokens"


def _multi_head_attention(call: Call) -> Body:
    call.only({4: "a mask of the keys", 6: NO_CACHE, 7: NO_CACHE, 8: NO_CACHE, 9: NO_CACHE})
    _plain(call, 1)
    heads, parts = call.attribute("num_heads", 0), ["x0", "x1", "x2"]
    if not call.has(1) or not call.has(2):                          # packed: [1, tokens, heads, 2 or 3, channels of a head]
        packed = "x1" if call.has(1) else "x0"
        yield integers("flat", 0, 0, -1)
        for place, part in enumerate(["k", "v"] if call.has(1) else ["q", "k", "v"]):
            yield index(f"{part}_place", place)
            yield f"{part}_taken = Gather <axis = 3> ({packed}, {part}_place)"
            yield f"{part}_packed = Reshape ({part}_taken, flat)"
        parts = ["x0" if call.has(1) else "q_packed", "k_packed", "v_packed"]
    if call.has(3):
        yield from split(["q_bias", "k_bias", "v_bias"], "x3", call.opset)
        for name, part in zip("qkv", parts, strict=True):
            yield f"{name} = Add ({part}, {name}_bias)"
    else:
        for name, part in zip("qkv", parts, strict=True):
            yield f"{name} = Identity ({part})"
    yield from attended(call, heads, "x5" if call.has(5) else "")
    yield "y0 = Identity (y)"


def _attention(call: Call) -> Body:
    """q, k and v by one matrix."""
    call.only({3: "a mask of the keys", 4: NO_CACHE, 6: NO_CACHE})
    _plain(call, 1)
    if call.attribute("do_rotary", 0):
        raise Refused("turns its queries and keys by their place (rotary embedding)")
    sizes = call.attribute("qkv_hidden_sizes", [])
    yield "packed = MatMul (x0, x1)"
    if call.has(2):
        yield "shifted = Add (packed, x2)"
    yield from split(["q", "k", "v"], "shifted" if call.has(2) else "packed", call.opset, sizes=sizes)
    yield from attended(call, call.attribute("num_heads", 0), "x5" if call.has(5) else "")
    yield "y0 = Identity (y)"


def _plain(call: Call, results: int) -> None:
    """An attention with just so many results; raises Refused."""
    if any(map(call.wants, range(results, len(call.node.output)))):
        raise Refused("gives its keys and values too")
    if call.attribute("num_heads", 0) < 1:
        raise Refused("says no number of heads")


def _sum(call: Call) -> Body:
    """Two by two."""
    total = "x0"
    for place in range(1, len(call.node.input)):
        name = "y0" if place == len(call.node.input) - 1 else f"sum{place}"
        yield f"{name} = Add ({total}, x{place})"
        total = name
    if total == "x0":
        yield "y0 = Identity (x0)"


def _mean_of(call: Call) -> Body:
    yield from (line.replace("y0", "total") for line in _sum(call))
    yield from times("y0", "total", 1 / len(call.node.input))


TEXTS: dict[tuple[str, str], Text] = {
    ("", "SimplifiedLayerNormalization"): _simplified_layer_normalization,
    ("", "LayerNormalization"): _layer_normalization,
    ("", "Mean"): _mean_of,
    ("", "Sum"): _sum,
    **{(MICROSOFT, name): text for name, text in {
        "Attention": _attention,
        "BiasGelu": _activated(gelu),
        "FastGelu": _activated(gelu_tanh),
        "FusedConv": _fused_conv,
        "FusedGemm": _fused_gemm,
        "FusedMatMul": _fused_matmul,
        "Gelu": _activated(gelu),
        "LayerNormalization": _layer_normalization,
        "MultiHeadAttention": _multi_head_attention,
        "QuickGelu": _quick_gelu,
        "RotaryEmbedding": rotary_embedding,
        "SimplifiedLayerNormalization": _simplified_layer_normalization,
        "SkipLayerNormalization": _skip_layer_normalization,
        "SkipSimplifiedLayerNormalization": _skip_simplified_layer_normalization,
        "TransposeMatMul": _fused_matmul,
    }.items()}}
"""(domain, operator) -> its text; onnxruntime has the first two in the standard domain, where ONNX does not or not yet."""


def write_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every call that has a text replaced by it."""
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*proto.graph.value_info, *proto.graph.input)
             if value.type.tensor_type.HasField("shape")}
    ranks |= {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    functions: list[onnx.FunctionProto] = []
    for node in proto.graph.node:
        text = _text_of(node, opset)
        if text is None:
            continue
        call = Call(node, opset, ranks)
        try:
            lines = list(text(call))
        except Refused:
            continue
        functions.append(_function(f"f{len(functions)}", call, lines))
        inputs, outputs = [value for value in node.input if value], [value for value in node.output if value]
        node.CopyFrom(onnx.NodeProto(op_type=functions[-1].name, domain=WRITTEN_OUT, name=node.name, input=inputs, output=outputs))
    if not functions:
        return proto
    proto.opset_import.append(helper.make_opsetid(WRITTEN_OUT, 1))
    proto.functions.extend(functions)
    result = onnx.inliner.inline_local_functions(proto)
    kept = [entry for entry in result.opset_import if entry.domain != WRITTEN_OUT]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


def _text_of(node: onnx.NodeProto, opset: int) -> Text | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (domain, node.op_type) == ("", "LayerNormalization") and opset >= LAYER_NORM:
        return None
    return TEXTS.get((domain, node.op_type))


def refusal(node: onnx.NodeProto, opset: int, shapes: Mapping[str, tuple[int, ...] | None]) -> str | None:
    """Why a call was not written out; None when no text stands for its operator, or one does. shapes: of values, as far as they are known."""
    text = _text_of(node, opset)
    ranks = {value: len(shape) for value in node.input if (shape := shapes.get(value)) is not None}
    try:
        for _ in text(Call(node, opset, ranks)) if text is not None else ():
            pass
    except Refused as error:
        return str(error)
    return None


def _function(name: str, call: Call, lines: list[str]) -> onnx.FunctionProto:
    inputs = ", ".join(f"x{place}" for place, value in enumerate(call.node.input) if value)
    outputs = ", ".join(f"y{place}" for place, value in enumerate(call.node.output) if value)
    function = onnx.parser.parse_function(f'<opset_import: ["" : {call.opset}], domain: "{WRITTEN_OUT}"> {name} ({inputs}) => ({outputs}) '
                                          f"{{ {' '.join(lines)} }}")
    base = call.node.name or f"{call.node.op_type}:{next(iter(call.node.output), '')}"
    for node in function.node:
        node.name = f"{base}/{node.op_type}"
    return function
