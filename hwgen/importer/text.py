"""An ONNX file as text: one line a node, with what becomes of it, for `hwgen show`."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from ..listing import Line, Part, short
from ..matching.opgraph import OpGraph
from .read import OnnxFile
from .verdict import Status, Verdict


def part(file: OnnxFile, graph: OpGraph, verdicts: tuple[Verdict, ...]) -> Part:
    """verdicts: on the nodes of the file, in its order. ``%n`` is the first result of the node of line n."""
    judged = {verdict.node for verdict in verdicts}
    nodes = list(zip((node for node in file.proto.graph.node if node.name not in file.quantization.added or node.name in judged), verdicts,
                     strict=True))
    numbers = {node.output[0]: f"%{number}" for number, (node, _) in enumerate(nodes) if node.output}

    def rows(length: int) -> list[Line]:
        return [_row(node, verdict, graph, numbers, length) for node, verdict in nodes]
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in file.inputs.items())
    outputs = tuple(f"     output {value.name} = {numbers.get(value.name, value.name)} {_shape(graph, value.name)}"
                    for value in file.proto.graph.output)
    return Part(f"onnx file {file.path}: {len(nodes)} nodes, input {inputs}" + (f", task {file.task.name}" if file.task else ""), rows, outputs)


def _row(node: onnx.NodeProto, verdict: Verdict, graph: OpGraph, numbers: dict[str, str], length: int) -> Line:
    operands = ", ".join(numbers.get(name) or f"{short(name, length)} {_shape(graph, name)}" if name else "-" for name in node.input)
    fate = _fate(verdict)
    cells = (_results(graph, node.output), f"= {verdict.op}", operands, fate, f"; {short(verdict.node, length)}")
    kind = (verdict.op, verdict.status, tuple(graph.shapes.get(name) for name in (*node.input, *node.output)))
    full = f"{', '.join(node.output)} = {verdict.op}({', '.join(node.input)})    ; {verdict.node}"
    return Line(cells, verdict.node, kind, full, lambda: _detail(node, verdict, graph))


def _fate(verdict: Verdict) -> str:
    match verdict.status:
        case Status.SUPPORTED:
            return verdict.into
        case Status.FUSED:
            return f"part of {verdict.into}"
    return f"{verdict.status.value}: {verdict.reason}"


def _detail(node: onnx.NodeProto, verdict: Verdict, graph: OpGraph) -> dict[str, str]:
    found = {"operator": f"{node.domain}.{node.op_type}" if node.domain else node.op_type, "verdict": verdict.status.value}
    found |= {key: text for key, text in (("into", verdict.into), ("reason", verdict.reason)) if text}
    found |= {f"input {place}": f"{name} {_shape(graph, name)}" for place, name in enumerate(node.input) if name}
    found |= {f"output {place}": f"{name} {_shape(graph, name)}" for place, name in enumerate(node.output) if name}
    return found | {a.name: str(onnx.helper.get_attribute_value(a)) for a in node.attribute if a.type not in SUBGRAPHS}


SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS, onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS)


def _results(graph: OpGraph, names: Iterable[str]) -> str:
    return ", ".join(_shape(graph, name) for name in names)


def _shape(graph: OpGraph, name: str) -> str:
    shape = graph.shapes.get(name)
    return "[?]" if shape is None else str(list(shape))
