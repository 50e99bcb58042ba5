"""Finds the input of a file that says which tokens are there, and puts all of them in its place: a file for the longest sequence.

What the input does is not read but tried: `hwgen.judge` runs the file with masks of several lengths, and the network for as many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..padding import Padding

Shapes = Mapping[str, tuple[int, ...]]
CARRIES = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Expand", "Clip")       # a choice is still one behind these
CHOOSES = {"Gather": (1,), "OneHot": (0,), "GatherElements": (1,), "GatherND": (1,), "EmbedLayerNormalization": (0, 1, 8)}
MASKED = {"Attention": 3, "MultiHeadAttention": 4, "EmbedLayerNormalization": 7}                     # operand of onnxruntime's operators
ONLY = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "ReduceSum", "EmbedLayerNormalization")
MICROSOFT = "com.microsoft"


def padding_of(proto: onnx.ModelProto, shapes: Shapes, shown: int) -> Padding | None:
    """The one input [1, tokens] that chooses nothing, beside others of as many tokens; None when there is none, or are several."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    given = [value for value in proto.graph.input if value.name not in weights]
    sizes = {value.name: _sizes(value, shapes) for value in given}
    found = []
    for value in given:
        tokens = next((sizes[other.name][1] for other in given if other is not value and len(sizes[other.name]) in (2, 3)
                       and sizes[other.name][1] > 1), 0)
        own, kind = sizes[value.name], value.type.tensor_type.elem_type
        if len(own) == 2 and own[1] in (0, tokens) and tokens and own[0] in (0, 1) and kind in KINDS and not _chooses(proto, value.name):
            found.append(Padding(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name, tokens, shown))
    return found[0] if len(found) == 1 and len(given) > 1 else None


KINDS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT)


def shown_whole(proto: onnx.ModelProto, padding: Padding) -> onnx.ModelProto:
    """The file for sequences of which every token is there."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    graph.initializer.append(numpy_helper.from_array(padding.masks([padding.tokens]), padding.name))
    kept = [value for value in graph.input if value.name != padding.name]
    del graph.input[:]
    graph.input.extend(kept)
    _unmasked(graph, padding.name)
    return result


def _unmasked(graph: onnx.GraphProto, name: str) -> None:
    """Operators of onnxruntime do without a mask that hides nothing."""
    masks = {name}
    for node in graph.node:
        carries = node.op_type in ONLY and next((value for value in node.input if value), "") in masks
        if carries:
            masks.update(node.output)
        place = MASKED.get(node.op_type) if node.domain == MICROSOFT else None
        if place is not None and place < len(node.input) and node.input[place] in masks:
            if node.op_type == "EmbedLayerNormalization":
                masks.update(node.output[1:2])
            node.input[place] = ""
            while node.input and not node.input[-1]:
                del node.input[-1]


def _sizes(value: onnx.ValueInfoProto, shapes: Shapes) -> tuple[int, ...]:
    """Dimensions, 0 for those that are not fixed; none when the rank is not known."""
    tensor = value.type.tensor_type
    if value.name in shapes:
        return tuple(shapes[value.name])
    return tuple(dim.dim_value for dim in tensor.shape.dim) if tensor.HasField("shape") else ()


def _chooses(proto: onnx.ModelProto, name: str) -> bool:
    """Whether a value is an index somewhere: ids of tokens, types, positions, a task."""
    carried = {name}
    for node in proto.graph.node:
        if any(place < len(node.input) and node.input[place] in carried for place in CHOOSES.get(node.op_type, ())):
            return True
        if node.op_type in CARRIES and node.input and node.input[0] in carried:
            carried.update(node.output)
    return False
