"""Loops over experts and branches, written out: a Loop with a constant number of turns is its turns, an If is both branches and a Where.

Only in files with a choice of experts (TopK, ArgMax): nothing else the engine runs has control flow. What cannot be written out stays, and is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHOICES = {"TopK", "ArgMax"}
FLOW = {"Loop", "If"}
MAX_TURNS, MAX_NODES = 256, 50_000
TRUE, SCALAR = "hwgen.true", "hwgen.scalar"             # constants: the condition of a loop that goes on, the shape of one number


def write_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the loops and branches that can be written out. The file has passed the checker."""
    kinds = {node.op_type for node in _every(proto.graph)}
    if not kinds & FLOW or not kinds & CHOICES:
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    writer = _Writer(result.graph)
    del result.graph.node[:]
    for node in proto.graph.node:
        writer.write(node, {}, "")
    result.graph.node.extend(writer.nodes)
    result.graph.initializer.extend(writer.constants)
    return result


def _every(graph: onnx.GraphProto):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _every(attribute.g)


class _Writer:
    """``nodes``, ``constants``: what was written."""

    def __init__(self, graph: onnx.GraphProto):
        self.nodes: list[onnx.NodeProto] = []
        self.known = {tensor.name: tensor for tensor in graph.initializer if math.prod(tensor.dims) == 1}
        self.known |= {node.output[0]: attribute.t for node in graph.node if node.op_type == "Constant" for attribute in node.attribute
                       if attribute.name == "value" and math.prod(attribute.t.dims) == 1}
        self.constants = [numpy_helper.from_array(np.array(True), TRUE), numpy_helper.from_array(np.zeros(0, np.int64), SCALAR)]
        self.known[TRUE] = self.constants[0]

    def write(self, node: onnx.NodeProto, names: Mapping[str, str], place: str) -> None:
        """A node, with other names for the values in ``names``; place: begins the names of what it gives inside of a body, "" outside."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [names.get(value, value) for value in node.input]
        made.output[:] = [value and names.get(value, value) for value in node.output]
        made.name = f"{place}{node.name or f'{node.op_type}:{next(iter(node.output), chr(32))}'}" if place else node.name
        body = {a.name: a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH}
        if node.op_type == "Loop" and not node.domain and (turns := self._turns(made, body["body"])) is not None:
            self._loop(made, body["body"], turns, names)
        elif node.op_type == "If" and not node.domain and not any(map(_holds_other_bodies, body.values())):
            self._branch(made, body["then_branch"], body["else_branch"], names)
        else:
            for attribute in made.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    _rename(attribute.g, names)
            self.nodes.append(made)
            if node.op_type == "Constant":
                self.known.update((made.output[0], a.t) for a in node.attribute if a.name == "value" and math.prod(a.t.dims) == 1)

    def _turns(self, node: onnx.NodeProto, body: onnx.GraphProto) -> int | None:
        """How often the body runs; None when that depends on values, or is too often."""
        count = self.known.get(node.input[0])
        goes_on = node.input[1] if len(node.input) > 1 and node.input[1] else TRUE
        makers = {output: inner for inner in body.node for output in inner.output}
        last = body.output[0].name
        while last in makers and makers[last].op_type in ("Identity", "Cast"):
            last = makers[last].input[0]
        first = last == body.input[1].name or last in self.known and self._true(last)
        constant = next((t for t in body.initializer if t.name == last), None)
        if last in makers and makers[last].op_type == "Constant":
            constant = next((a.t for a in makers[last].attribute if a.name == "value"), None)
        if count is None or not self._true(goes_on) or not (first or constant is not None and numpy_helper.to_array(constant).all()):
            return None
        turns = int(numpy_helper.to_array(count).ravel()[0])
        return turns if 0 < turns <= MAX_TURNS and turns * len(body.node) + len(self.nodes) <= MAX_NODES else None

    def _true(self, value: str) -> bool:
        return value in self.known and bool(numpy_helper.to_array(self.known[value]).all())

    def _loop(self, node: onnx.NodeProto, body: onnx.GraphProto, turns: int, outside: Mapping[str, str]) -> None:
        carried = list(node.input[2:])
        scanned: list[list[str]] = [[] for _ in body.output[1 + len(carried):]]
        for turn in range(turns):
            place = f"{node.name}/{turn}/"
            number = f"{place}turn"
            self.constants.append(numpy_helper.from_array(np.array(turn, np.int64), number))
            self.known[number] = self.constants[-1]
            given = dict(zip((value.name for value in body.input), (number, TRUE, *carried), strict=True))
            results = self._body(body, given, outside, place)[1:]
            for values, value in zip(scanned, results[len(carried):], strict=True):
                values.append(value)
            carried = results[:len(carried)]
        for output, value in zip(node.output, carried, strict=False):
            self._node("Identity", [value], output, f"{node.name}/{output}")
        for output, values in zip(node.output[len(carried):], scanned, strict=False):
            wide = [f"{value}/wide" for value in values]
            axis = numpy_helper.from_array(np.zeros(1, np.int64), f"{output}/axis")
            self.constants.append(axis)
            for value, result in zip(values, wide, strict=True):
                self._node("Unsqueeze", [value, axis.name], result, result)
            self._node("Concat", wide, output, f"{node.name}/{output}", axis=0)

    def _branch(self, node: onnx.NodeProto, then: onnx.GraphProto, other: onnx.GraphProto, outside: Mapping[str, str]) -> None:
        sides = [self._body(graph, {}, outside, f"{node.name}/{side}/") for side, graph in (("then", then), ("else", other))]
        condition = f"{node.name}/condition"
        self._node("Reshape", [node.input[0], SCALAR], condition, condition)
        for output, yes, no in zip(node.output, *sides, strict=True):
            self._node("Where", [condition, yes, no], output, f"{node.name}/{output}")

    def _body(self, graph: onnx.GraphProto, given: Mapping[str, str], outside: Mapping[str, str], place: str) -> list[str]:
        """Its results, once written; given: names of its inputs outside."""
        own = [*(value for inner in graph.node for value in inner.output if value), *(tensor.name for tensor in graph.initializer)]
        names = {**outside, **{value: f"{place}{value}" for value in own}, **given}
        for tensor in graph.initializer:
            made = onnx.TensorProto()
            made.CopyFrom(tensor)
            made.name = names[tensor.name]
            self.constants.append(made)
            if math.prod(made.dims) == 1:
                self.known[made.name] = made
        for inner in graph.node:
            self.write(inner, names, place)
        return [names.get(value.name, value.name) for value in graph.output]

    def _node(self, kind: str, inputs: list[str], output: str, name: str, **attributes: int) -> None:
        if output:
            self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))


def _holds_other_bodies(graph: onnx.GraphProto) -> bool:
    """Whether it has control flow that is never written out (Scan)."""
    return any(attribute.type == onnx.AttributeProto.GRAPH and node.op_type not in FLOW for node in _every(graph) for attribute in node.attribute)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Other names for the values from outside that a body reads."""
    own = {value.name for value in graph.input} | {output for node in graph.node for output in node.output}
    visible = {old: new for old, new in names.items() if old not in own}
    for node in graph.node:
        node.input[:] = [visible.get(value, value) for value in node.input]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, visible)
    for value in graph.output:
        value.name = visible.get(value.name, value.name)
