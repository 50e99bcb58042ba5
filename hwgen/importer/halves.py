"""16-bit floating point: a file of it as the float32 network it stands for. Nodes are put in order on the way.

Weights keep the values that were rounded; numbers of a formula (the root of 2 in a GELU) are taken as they were before that, so that the
network is the float32 one with rounded weights. Conversions between float types do nothing then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
FLOAT = onnx.TensorProto.FLOAT
TYPES = ("to", "dtype", "output_dtype", "stash_type")              # attributes that hold an element type
HEAD_SIZES = range(8, 257, 8)
MEANT = (math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715, 0.044715 * math.sqrt(2 / math.pi), 1.702, 1 / 6, 1e-5, 1e-6,
         *(size ** power for power in (-0.5, 0.5, -0.25) for size in HEAD_SIZES))


def widened(proto: onnx.ModelProto) -> bool:
    """Change a model to float32; whether there was anything to change."""
    return _changed(proto, dict.fromkeys(HALVES, FLOAT))


def checkable(proto: onnx.ModelProto) -> None:
    """Change bfloat16 to float16, which is a type of every operator that has weights: exporters write both where either is asked for."""
    _changed(proto, {HALVES[1]: HALVES[0]})


def _changed(proto: onnx.ModelProto, types: dict[int, int]) -> bool:
    """Whether some values, constants or attributes had one of the element types; they have another one now."""
    changed = False
    for graph in _graphs(proto.graph):
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        inside = [tensor for a in attributes for tensor in (*([a.t] if a.HasField("t") else []), *a.tensors)]
        for tensor in (*graph.initializer, *inside):
            if tensor.data_type in types:
                _convert(tensor, types[tensor.data_type])
                changed = True
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in types:
                value.type.tensor_type.elem_type = types[value.type.tensor_type.elem_type]
                changed = True
        for attribute in attributes:
            if attribute.name in TYPES and attribute.i in types:
                attribute.i = types[attribute.i]
                changed = True
    return changed


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside it."""
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        yield found
        for node in found.node:
            for attribute in node.attribute:
                waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _convert(tensor: onnx.TensorProto, kind: int) -> None:
    array = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        wide = array.astype(helper.tensor_dtype_to_np_dtype(kind))
    if array.size == 1 and kind == FLOAT:
        meant = {number for number in MEANT if np.asarray(number).astype(array.dtype) == array.ravel()[0]}
        wide = np.full_like(wide, meant.pop()) if len(meant) == 1 else wide
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes in an order in which each value is made before it is read, the order of the file where there is a choice. As they are
    when there is no such order."""
    makers = {value: place for place, node in enumerate(graph.node) for value in node.output if value}
    before = [sorted({makers[value] for value in _read(node) if value in makers}) for node in graph.node]
    if all(not needed or needed[-1] < place for place, needed in enumerate(before)):
        return
    order: list[int] = []
    placed, opened = set(), set()
    for first in range(len(before)):
        waiting = [first]
        while waiting:
            place = waiting[-1]
            missing = [other for other in before[place] if other not in placed] if place not in placed else []
            if not missing:
                waiting.pop()
                if place not in placed:
                    placed.add(place)
                    order.append(place)
            elif place in opened:
                return                                              # it waits for itself
            else:
                opened.add(place)
                waiting += reversed(missing)
    nodes: Sequence[onnx.NodeProto] = [graph.node[place] for place in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Values a node reads, those its subgraphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
            yield from (output.name for output in graph.output)
