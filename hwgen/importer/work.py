"""How many multiply-accumulates the nodes of a file are, from their shapes: what share of it the host would do.

What is evaluated element by element counts as none. An operator that nobody knows, or whose shapes are not known, is taken to be a product:
every row of its result with everything it reads, so that nothing heavy passes for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import math

import onnx

from ..matching.opgraph import Op, View

Shape = tuple[int, ...]
RECURRENT = ("LSTM", "GRU", "RNN")
POOLS = ("AveragePool", "MaxPool", "LpPool")
PRODUCTS = (*RECURRENT, *POOLS, "Conv", "ConvTranspose", "DeformConv", "MatMul", "Gemm", "Attention", "Einsum", "DFT", "STFT", "Det")


def macs(ops: Sequence[Op], functions: Iterable[onnx.FunctionProto] = ()) -> dict[str, int]:
    """For each node that is a product; of one image. functions: of the file, those that are not written out."""
    known = [shape for op in ops for shape in (*op.shapes, *(ref.shape for ref in op.inputs if isinstance(ref, View))) if shape]
    rows = max((math.prod(shape) // shape[-1] for shape in known if math.prod(shape)), default=1)
    stored = sum(math.prod(attribute.t.dims) for function in functions for node in function.node for attribute in node.attribute)
    return {op.name: count for op in ops if (count := _macs(op, rows, stored))}


def _macs(op: Op, rows: int, stored: int) -> int:
    shapes = [ref.shape for ref in op.inputs if ref is not None]
    result = op.shapes[0] if op.shapes else None
    foreign = not onnx.defs.has(op.kind)
    if op.kind not in PRODUCTS and not foreign:
        return 0
    if result is not None and not foreign:
        try:
            return _product(op, shapes, result)
        except (LookupError, TypeError, ValueError):                    # it does not fit its definition, or a shape is not known
            pass
    if result:
        rows = math.prod(result) // max(1, min(result[-1], result[1 if len(result) > 2 else -1]))      # channels stand last or second
    return rows * (sum(map(math.prod, shapes)) + stored * foreign)


def _product(op: Op, shapes: list[Shape], result: Shape) -> int:
    """Of an operator of the standard domain. Raises LookupError, TypeError, ValueError where shapes or attributes do not fit it."""
    match op.kind:
        case "Conv" | "DeformConv":
            return math.prod(result) * math.prod(shapes[1][1:])
        case "ConvTranspose":
            return math.prod(shapes[0]) * math.prod(shapes[1][1:])
        case "MatMul":
            return math.prod(result) * shapes[0][-1]
        case "Gemm":
            return math.prod(result) * shapes[0][0 if op.attrs.get("transA") else 1]
        case "Attention":                                               # scores, and the sum of values
            return math.prod(shapes[0]) * shapes[1][-2] + math.prod(result) * shapes[1][-2]
        case "Einsum":
            return _einsum(str(op.attrs["equation"]), shapes)
        case "DFT" | "STFT":
            return math.prod(result) * max(shapes[0])
        case "Det":
            return math.prod(shapes[0]) * shapes[0][-1]
        case kind if kind in POOLS:
            return math.prod(result) * math.prod(op.integers("kernel_shape"))
    steps = math.prod(shapes[0][:2])                                    # time and batch, in either order
    return steps * (math.prod(shapes[1]) + math.prod(shapes[2]))


def _einsum(equation: str, shapes: list[Shape]) -> int:
    """Every index with every other, those under an ellipsis too."""
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes, strict=True):
        before, dots, after = term.partition("...")
        if len(before) + len(after) > len(shape) or not dots and len(before) != len(shape):
            raise ValueError(f"{term} has other indices than {shape}")
        inner = shape[len(before):len(shape) - len(after)]
        for letter, size in (*zip(before, shape, strict=False), *zip(after, shape[len(shape) - len(after):], strict=True),
                             *((f".{place}", size) for place, size in enumerate(reversed(inner)))):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())
