"""A quantized ONNX file -> the float network it stands for, and what it says of its rounding.

Every value that holds integers in the file holds the real numbers they stand for here, under its own name: QuantizeLinear, DequantizeLinear
and moves of integers change nothing then, an operator of integers is the float one, a constant is what its integers mean. What is left of
the quantization is a `Grid` for each value that the file rounds, and the scales of its weights; nothing is estimated.
`qoperators.py` has the operators, `integers.py` the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from ..matching.grid import Grid
from . import contrib
from .border import border, node_place, quoted
from .evaluate import Evaluator
from .integers import Wrong, bounds, checked_scale, real
from .read import OnnxFile, Quantization, opset_versions
from .rounding import with_rounding

FLOATS = "produce float32 values in front of it, or export the model with QuantizeLinear and DequantizeLinear in pairs"
AGAIN = "quantize the float model again"
MOVES = {"Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Expand", "Identity", "Tile"}
KEEPING = {"Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Flatten", "Cast", "QuantizeLinear", "DequantizeLinear", "Clip"}
PRODUCTS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,)}             # where a weight is read
FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
SIGNED = {"MatMul", "Gemm", "Conv", "Add", "Sub", "BatchNormalization"}     # give numbers of both signs
WIDTHS = (8, 16)                       # bits of values that are taken


def unquantized(file: OnnxFile) -> OnnxFile:
    """The file with a float network in it; as it is when it is not quantized. Raises ModelError with the node that cannot be read."""
    from .qoperators import HANDLERS
    if not any((node.domain, node.op_type) in HANDLERS for node in file.proto.graph.node):
        return file
    with border(file.path, "the quantized model"):
        return Reading(file, HANDLERS).run()


Handler = Callable[["Reading", onnx.NodeProto], None]


@dataclass(eq=False)
class Reading:
    """One pass over the nodes of a file, in order.

    integers: value that holds integers in the file -> their grid, None for one whose scale is found anew for every image (``dynamic``: its
    scale and zero point, by name). sums: value that holds an integer product, in units of what was multiplied. constants: known arrays.
    """

    file: OnnxFile
    handlers: dict[tuple[str, str], Handler]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    integers: dict[str, Grid | None] = field(default_factory=dict)
    dynamic: dict[str, tuple[str, str]] = field(default_factory=dict)
    sums: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.opsets = opset_versions(self.file.proto)
        self.evaluator = Evaluator(self.opsets)
        self.constants = dict(self.file.weights)
        self.computed = set(self.file.inputs) | ({self.file.task.name} if self.file.task is not None else set())
        self.names = {name for node in self.file.proto.graph.node for name in (*node.input, *node.output)} | set(self.constants)
        self.made: dict[str, np.ndarray] = {}
        self.grids: dict[str, Grid] = {}
        self.scales: list[np.ndarray] = []
        self.widths: set[int] = set()
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self.operators: dict[str, str] = {}
        self.notes: list[str] = []
        self.producers: dict[str, onnx.NodeProto] = {}
        self.found_anew: list[str] = []
        self.anew: list[str] = []                                  # values whose scale is found for every image

    def run(self) -> OnnxFile:
        graph = onnx.GraphProto()
        graph.CopyFrom(self.file.proto.graph)
        self._name(graph)
        for node in graph.node:
            for place, value in enumerate(node.input):
                self.readers.setdefault(value, []).append((node, place))
        for node in graph.node:
            self._node(node)
        for value in graph.output:
            if value.name in self.integers or value.name in self.sums:
                raise ModelError(f"output {quoted(value.name)} holds integers", where=str(self.file.path),
                                 hint="keep the DequantizeLinear behind it in the file")
        del graph.node[:]
        graph.node.extend(self.nodes)
        changed = {*self.integers, *self.sums}
        kept = [value for value in graph.value_info if value.name not in changed]
        del graph.value_info[:]
        graph.value_info.extend(kept)
        used = {name for node in self.nodes for name in node.input} | {value.name for value in graph.output}
        initializers = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend([*initializers, *(numpy_helper.from_array(array, name) for name, array in self.made.items() if name in used)])
        proto = onnx.ModelProto()
        proto.CopyFrom(self.file.proto)
        proto.graph.CopyFrom(graph)
        if any(node.op_type == "Attention" and node.domain for node in self.nodes):
            proto = contrib.write_out(proto)                        # of a QAttention
        weights = {name: array for name, array in {**self.file.weights, **self.made}.items() if name in used}
        scales = np.unique(np.concatenate([np.zeros(0), *(scale.ravel().astype(np.float64) for scale in self.scales)]))
        found = Quantization(self.grids, self.operators, frozenset(self.added), tuple(self.found_anew), frozenset(self.widths),
                             tuple(scales.tolist()), tuple(dict.fromkeys(self.notes)), proto.SerializeToString(),
                             with_rounding(proto, self.grids, self.anew).SerializeToString())
        return replace(self.file, proto=proto, weights=weights, quantization=found)

    def _name(self, graph: onnx.GraphProto) -> None:
        """A name of its own for every node, as verdicts have it."""
        taken: set[str] = set()
        for node in graph.node:
            name = node.name if node.name and node.name not in taken else f"{node.op_type}:{next(iter(node.output), '')}"
            while name in taken:
                name = f"{name}:{len(taken)}"
            node.name = name
            taken.add(name)

    def _node(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        if any(name in self.computed for name in _read(node)):
            self.computed.update(name for name in node.output if name)
        handler = self.handlers.get((node.domain, node.op_type))
        held = [name for name in node.input if name in self.integers]
        try:
            if handler is not None:
                handler(self, node)
            elif held or any(name in self.integers or name in self.sums for name in _read(node)):
                self._on_integers(node, held)
            else:
                self.put(node)
        except Wrong as error:
            raise self.fail(node, str(error)) from error

    # ---------------------------------------------------------------- what handlers work with

    def fail(self, node: onnx.NodeProto, what: str, hint: str = AGAIN) -> ModelError:
        op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        place = node_place(op, node.name)
        return ModelError(f"the file is quantized, and {place} cannot be read: it {what}", where=f"{self.file.path}: {place}", hint=hint)

    def emit(self, node: onnx.NodeProto, kind: str, inputs: list[str], output: str, before: bool = False, **attrs) -> None:
        """A float operator in the place of ``node``, which gives ``output``; ``before``: one more in front of that."""
        name = node.name
        if before:
            name = self.fresh(f"{node.name}: {kind}")
            self.added.add(name)
        else:
            self.operators[name] = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        self.put(helper.make_node(kind, inputs, [output], name=name, **attrs))

    def put(self, node: onnx.NodeProto) -> None:
        """The node as it is."""
        self.nodes.append(node)
        self.producers.update(dict.fromkeys(node.output, node))

    def fresh(self, name: str) -> str:
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        """The name of a new weight."""
        name = self.fresh(name)
        self.made[name] = self.constants[name] = np.ascontiguousarray(array)
        return name

    def array(self, name: str) -> np.ndarray | None:
        """A constant, also behind operators that keep its size; None for what is computed, or not known here."""
        if name in self.constants:
            return self.constants[name]
        if name in self.computed:
            return None
        node = self.producers.get(name)
        if node is None or node.op_type not in KEEPING or node.domain:
            return None
        operands = [None if not value else self.array(value) for value in node.input]
        if any(operand is None for operand, value in zip(operands, node.input, strict=True) if value):
            return None
        found = self.evaluator.run(node, operands)
        if found is None:
            return None
        self.constants[name] = np.asarray(found[list(node.output).index(name)])
        return self.constants[name]

    def parameter(self, node: onnx.NodeProto, place: int, what: str) -> np.ndarray | None:
        """A scale or zero point: the constant at ``place`` of the inputs, None when it is left out."""
        name = node.input[place] if place < len(node.input) else ""
        if not name:
            return None
        found = self.array(name)
        if found is None:
            raise self.fail(node, f"has a {what} that is no constant", "quantize with static scales, or with onnxruntime's quantize_dynamic")
        return found

    def grid(self, node: onnx.NodeProto, scale: int, zero: int, value: str, dtype: np.dtype | None = None) -> Grid:
        """What the scale and zero point at these places of the inputs say of a computed value."""
        sizes, offsets = self.parameter(node, scale, "scale"), self.parameter(node, zero, "zero point")
        if sizes is None:
            raise self.fail(node, "has no scale")
        numbers = np.unique(checked_scale(sizes).astype(np.float64))
        zeros = np.unique([0] if offsets is None else offsets.astype(np.int64))
        if len(numbers) > 1 or len(zeros) > 1:
            raise self.fail(node, f"gives {quoted(value)} {len(numbers)} scales and {len(zeros)} zero points: a computed value has one of each",
                            "quantize activations per tensor; weights may have a scale for each channel")
        kind = np.dtype(np.uint8) if offsets is None else offsets.dtype
        lo, hi = bounds(dtype or kind)
        if not lo <= zeros[0] <= hi:
            raise self.fail(node, f"has the zero point {zeros[0]}, outside of {lo} to {hi}")
        return Grid(float(numbers[0]), int(zeros[0]), lo, hi, value, node.name)

    def rounds(self, node: onnx.NodeProto, output: str, grid: Grid) -> None:
        """``output`` is on this grid from here on."""
        if grid.bits > max(WIDTHS):
            raise self.fail(node, f"keeps {quoted(grid.value)} in {grid.bits} bits; up to {max(WIDTHS)} are read")
        self.integers[output] = grid
        self.grids[output] = grid

    def is_clipped(self, value: str, grid: Grid) -> bool:
        """Whether rounding cuts off the negative numbers of a sum: what is left of a Relu that a quantizer left out."""
        node = self.producers.get(value)
        while node is not None and node.op_type in {*MOVES, "Cast"} and not node.domain:
            node = self.producers.get(node.input[0])
        return node is not None and not node.domain and self.cuts(node.op_type, list(node.input), grid)

    def cuts(self, kind: str, inputs: list[str], grid: Grid) -> bool:
        """`is_clipped` for the result of an operator. Adding a number (1 + erf, variance + epsilon) is none that such a Relu follows."""
        numbers = [array for name in inputs if (array := self.array(name)) is not None and array.size == 1]
        return grid.zero == grid.lo and kind in SIGNED and not (numbers and kind in ("Add", "Sub"))

    def same(self, node: onnx.NodeProto, value: str, grid: Grid) -> None:
        """Raises unless the integers of a value are on this grid."""
        known = self.integers[value]
        if known is None or not known.like(grid):
            shown = "a scale found anew for each image" if known is None else f"the scale {known.scale:.6g} and zero point {known.zero}"
            made = "" if known is None else f" from node {quoted(known.node)}"
            raise self.fail(node, f"reads {quoted(value)} with the scale {grid.scale:.6g} and zero point {grid.zero}, which has {shown}{made}: "
                                  "the two contradict each other")

    def meaning(self, node: onnx.NodeProto, place: int, scale: int, zero: int, axis: int = -1) -> str:
        """The value that holds what the integers at ``place`` mean. axis: of a constant with a scale for each channel."""
        name = node.input[place]
        if name in self.computed:
            if name not in self.integers:
                raise self.fail(node, f"reads {quoted(name)}, which is not quantized", FLOATS)
            self.same(node, name, self.grid(node, scale, zero, name))
            return name
        array, sizes, zeros = self.array(name), self.parameter(node, scale, "scale"), self.parameter(node, zero, "zero point")
        if sizes is None:
            raise self.fail(node, "has no scale")
        if array is None:                                           # a constant that is not known yet
            output = self.fresh(f"{name} (real)")
            given = [name, node.input[scale], *([node.input[zero]] if zeros is not None else [])]
            self.emit(node, "DequantizeLinear", given, output, before=True, **({"axis": axis} if sizes.size > 1 else {}))
            return output
        return self.constant(f"{name} (real)", self.dequantized(array, sizes, zeros, axis))

    def dequantized(self, array: np.ndarray, sizes: np.ndarray, zeros: np.ndarray | None, axis: int, block: int = 0) -> np.ndarray:
        """`integers.real` of a constant; its scales are those of weights when it is a matrix or more."""
        result = real(array, sizes, zeros, axis, block)
        if array.ndim > 1:
            self.scales.append(sizes)
            lo, hi = bounds(array.dtype)
            self.widths.add((hi - lo).bit_length())
        return result

    def fits(self, node: onnx.NodeProto, name: str, array: np.ndarray, zeros: np.ndarray | None) -> None:
        """Raises when a weight that the file stores as integers has zero points that leave 8 bits: they would need a sum over the operand in
        hardware. A weight that the file stores in float, and rounds when it is loaded, is rounded as it is best here."""
        zero = np.zeros(1, np.int64) if zeros is None else zeros.astype(np.int64)
        lo, hi = bounds(array.dtype)
        if not zero.any() or hi - lo > 255 or array.ndim < 2 or not self.is_stored(name):
            return
        reach = int(max(array.max(initial=lo) - zero.min(), zero.max() - array.min(initial=hi))) if array.size else 0
        if reach > 128:
            raise self.fail(node, f"gives the weight {quoted(name)} zero points ({zero.flat[0]} first) with which its integers reach {reach}; "
                                  "weights have 8 bits and no zero point in hardware",
                            "quantize weights symmetrically (onnxruntime: weight_type=QuantType.QInt8, or extra_options={'WeightSymmetric': True})")

    def is_stored(self, name: str) -> bool:
        """Whether a constant of integers is one of the file, perhaps moved; not one that is rounded from float numbers."""
        node = self.producers.get(name)
        return node is None or node.op_type == "Constant" or node.op_type in KEEPING - {"QuantizeLinear"} and self.is_stored(node.input[0])

    def is_weight(self, name: str) -> bool:
        """Whether a constant goes into a matrix product, perhaps moved."""
        return any(place in PRODUCTS.get(node.op_type, ()) or node.op_type in KEEPING and self.is_weight(node.output[0])
                   for node, place in self.readers.get(name, ()) if not node.domain)

    # ---------------------------------------------------------------- standard operators on integers

    def _on_integers(self, node: onnx.NodeProto, held: list[str]) -> None:
        """Moves of integers move what they mean; a Clip narrows their range; a Cast makes sums numbers as they are."""
        value = node.input[0] if node.input else ""
        others = [name for name in (*node.input[1:], *_inner(node)) if name in self.integers or name in self.sums]
        if node.op_type == "Concat" and held and not node.domain and not any(name in self.sums for name in others):
            self._concat(node, held[0])
        elif node.domain or others or value not in self.integers and value not in self.sums:
            raise self.fail(node, f"computes with the integers of {quoted(next(iter([*others, *held, value])))}", FLOATS)
        elif node.op_type in MOVES:
            self.put(node)
            for output in node.output:
                if value in self.sums:
                    self.sums.add(output)
                    continue
                self.integers[output] = self.integers[value]
                if value in self.dynamic:
                    self.dynamic[output] = self.dynamic[value]
        elif node.op_type == "Clip" and value in self.integers:
            self._clip(node)
        elif node.op_type == "Cast" and value in self.sums and next((a.i for a in node.attribute if a.name == "to"), 0) in FLOAT_TYPES:
            self.put(node)
        else:
            raise self.fail(node, f"computes with the integers of {quoted(value)}", FLOATS)

    def _clip(self, node: onnx.NodeProto) -> None:
        known = self.integers[node.input[0]]
        given = [self.array(name) if name else None for name in node.input[1:]]
        if known is None or any(array is None for array, name in zip(given, node.input[1:], strict=True) if name):
            raise self.fail(node, f"clips {quoted(node.input[0])} to limits that are no constants", FLOATS)
        lo, hi = (int(array.ravel()[0]) if array is not None else default
                  for array, default in zip([*given, None, None][:2], (known.lo, known.hi), strict=True))
        if not known.lo <= lo <= known.zero <= hi <= known.hi or lo == hi:
            raise self.fail(node, f"clips {quoted(node.input[0])} to {lo} to {hi}, where its zero point is {known.zero}")
        grid = replace(known, lo=lo, hi=hi, node=node.name)
        self.emit(node, "Relu" if self.is_clipped(node.input[0], grid) else "Identity", [node.input[0]], node.output[0])
        self.rounds(node, node.output[0], grid)

    def _concat(self, node: onnx.NodeProto, first: str) -> None:
        known = self.integers[first]
        inputs = []
        for name in node.input:
            if name in self.integers:
                if known is None or self.integers[name] is None:
                    raise self.fail(node, "joins values whose scales are found anew for each image", FLOATS)
                self.same(node, name, known)
                inputs.append(name)
                continue
            array = self.array(name)
            if known is None or array is None:
                raise self.fail(node, f"joins {quoted(name)} and integers", FLOATS)
            zero = np.asarray(known.zero)
            inputs.append(self.constant(f"{name} (real)", real(array, np.asarray(known.scale, np.float32), zero, 0)))
        self.put(helper.make_node("Concat", inputs, [node.output[0]], name=node.name,
                                  axis=next(a.i for a in node.attribute if a.name == "axis")))
        self.integers[node.output[0]] = known


def _read(node: onnx.NodeProto):
    """Values a node reads, those its subgraphs take from outside included."""
    yield from node.input
    yield from _inner(node)


def _inner(node: onnx.NodeProto):
    """Values its subgraphs read."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
