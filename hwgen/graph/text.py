"""A float graph as text: one line a node, for `hwgen show`, messages and snapshots."""

from __future__ import annotations

from ..listing import Line, Part, short, text as listing
from .graph import Graph
from .node import Node, Shape, attribute


def text(graph: Graph, *, everything: bool = False) -> str:
    """The graph in aligned lines that fit a screen; ``%n`` is the value of line n."""
    return listing([part(graph)], everything=everything)


def part(graph: Graph) -> Part:
    """The same as a part of a listing."""
    shapes = graph.shapes()
    numbers = {node.output: f"%{number}" for number, node in enumerate(graph.nodes)}

    def rows(length: int) -> list[Line]:
        return [_row(node, shapes, numbers, length) for node in graph.nodes]
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in graph.inputs.items())
    outputs = (f"     output {name} = {value} {list(shapes[value])}"
               + (f", shape {list(graph.output_shapes[name])}" if name in graph.output_shapes else "")
               + (", in another order" if name in graph.output_orders else "") for name, value in graph.outputs.items())
    return Part(f"graph {graph.name}: {len(graph.nodes)} nodes, input {inputs}", rows, tuple(outputs))


def _row(node: Node, shapes: dict[str, Shape], numbers: dict[str, str], length: int) -> Line:
    kind = type(node).__name__
    words = [*(key if value is True else f"{key} {attribute(value)}" for key, value in node.attributes().items() if value is not False),
             *(f"{key} {list(array.shape)}" for key, array in node.params().items() if array.ndim > 1)]
    read = ", ".join(numbers.get(value) or short(value, length) for value in node.inputs)
    cells = (f"{list(shapes[node.output])}", f"= {kind} {read}", ", ".join(words), f"; {short(node.name, length)}")
    same = (kind, tuple(words), tuple(shapes[value] for value in node.inputs), shapes[node.output])
    return Line(cells, node.name, same, f"{node}    ; {node.name}", lambda: _detail(node, shapes))


def _detail(node: Node, shapes: dict[str, Shape]) -> dict[str, str]:
    detail = {f"input {value}": str(list(shapes[value])) for value in node.inputs} | {"output": f"{node.output} {list(shapes[node.output])}"}
    detail |= {key: attribute(value) for key, value in node.attributes().items()}
    detail |= {key: f"{array.dtype} {list(array.shape)}, {float(array.min()):.6g} to {float(array.max()):.6g}"
               for key, array in node.params().items() if array.size}
    return detail
