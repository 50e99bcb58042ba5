"""The float network of a quantized file with the rounding of that file put back: what tells whether it was read right.

Where the file is made of pairs, this is the file; where it has operators on integers, it is the same but for the last unit of a rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..matching.grid import Grid

MICROSOFT = "com.microsoft"          # has 16 bits in every version


def with_rounding(model: onnx.ModelProto, grids: Mapping[str, Grid], anew: Iterable[str]) -> onnx.ModelProto:
    """``model`` with these values rounded where they are made: to a grid, or (``anew``) to 8 bits whose scale is found for every image."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    wanted: dict[str, Grid | None] = {**dict.fromkeys(anew), **grids}
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def fresh(name: str) -> str:
        while name in taken:
            name += "'"
        taken.add(name)
        return name

    def constant(name: str, array: np.ndarray) -> str:
        name = fresh(name)
        weights.append(numpy_helper.from_array(array, name))
        return name

    for node in model.graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        nodes.append(kept)
        for place, output in enumerate(node.output):
            if output not in wanted:
                continue
            grid, exact, whole = wanted[output], fresh(f"{output} (exact)"), fresh(f"{output} (rounded)")
            kept.output[place] = exact
            if grid is None:
                names = [whole, fresh(f"{output} (scale)"), fresh(f"{output} (zero point)")]
                nodes += [helper.make_node("DynamicQuantizeLinear", [exact], names), helper.make_node("DequantizeLinear", names, [output])]
                continue
            kind = np.dtype(f"{'int' if grid.lo < 0 else 'uint'}{8 if grid.bits <= 8 else 16}")
            domain = "" if kind.itemsize == 1 else MICROSOFT
            given = [constant(f"{output} (scale)", np.array(grid.scale, np.float32)), constant(f"{output} (zero point)", np.asarray(grid.zero, kind))]
            nodes.append(helper.make_node("QuantizeLinear", [exact, *given], [whole], domain=domain))
            narrow = grid.bits != 8 * kind.itemsize
            back = fresh(f"{output} (wide)") if narrow else output
            nodes.append(helper.make_node("DequantizeLinear", [whole, *given], [back], domain=domain))
            if narrow:
                limits = [constant(f"{output} (limit)", np.array((q - grid.zero) * grid.scale, np.float32)) for q in (grid.lo, grid.hi)]
                nodes.append(helper.make_node("Clip", [back, *limits], [output]))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(weights)
    if not any(entry.domain == MICROSOFT for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return result
