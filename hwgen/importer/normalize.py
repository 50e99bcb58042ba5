"""ONNX graph -> `OpGraph`: infers shapes, folds constants, resolves moves into views, drops what is equal or does nothing.

Single operators are evaluated by onnx's own reference implementation, also on arrays of positions: that makes a view exact for every operator that
moves data. (The onnxscript optimizer folds as much, but renames and drops nodes, and `hwgen check` owes the user a verdict on each.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError, ShapeError
from ..matching.opgraph import Const, Op, OpGraph, Pool, Ref, Trail, View
from . import contrib, einsum, shapes
from .border import MAX_ELEMENTS, border, node_place, quoted
from .evaluate import FOLDED, SHAPED_BY_SHAPES, Evaluator, canonical, work
from .read import OnnxFile, known_operator, opset_versions
from .weights import array_of

RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
OF_ONE = {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"}              # their operand itself where they reduce axes of one element
MOVES = RESHAPES | {"Transpose", "Slice", "Split", "Gather", "Expand"}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
CHECKED_ATTRIBUTES = ("approximate", "axis", "kernel_shape")
AXIS_UNCHECKED = {"ScatterElements", "GatherElements", "Softmax", "LogSoftmax", "LayerNormalization", "CumSum", "TopK", "ArgMax", "ArgMin"}
INFERENCE_DATA = 64                    # constants up to this many elements are shown to shape inference
MAX_WORK = 1 << 33                     # steps of folding constants and moves, all in all: less than a minute
MAX_MADE_BYTES = 1 << 29               # memory of folded constants and of positions, beside 8 times that of the weights


def normalize(file: OnnxFile, task: int | None, pool: Pool) -> OpGraph:
    """``task``: value to fix the task input to, or None to leave it open. Raises ShapeError when shapes contradict."""
    return replace(_Normalizer(file, task, pool).run(), added=file.quantization.added)


class _Normalizer:
    def __init__(self, file: OnnxFile, task: int | None, pool: Pool):
        self.file, self.pool = file, pool
        self.opsets = opset_versions(file.proto)
        self.evaluator = Evaluator(self.opsets)
        self.inferred: dict[tuple, list] = {}                   # what was asked of shape inference -> answer
        self.known: dict[tuple[str, str], bool] = {}
        self.stored = {value.name: value.type for value in (*file.proto.graph.value_info, *file.proto.graph.output)}
        self.work, self.limit = 0, MAX_MADE_BYTES + 8 * sum(array.nbytes for array in file.weights.values())
        self.declined: dict[str, str] = {}
        self.refs: dict[str, Ref | None] = {"": None}
        self.types: dict[str, int] = {}                         # value -> ONNX element type
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.folded: dict[str, str] = {}
        self.moves: set[str] = set()
        self.kinds: dict[str, str] = {}
        self.ops: dict[tuple, Op] = {}
        self.nodes: dict[str, onnx.NodeProto] = {}              # of the ops
        self.producers: dict[str, Op] = {}
        for name, array in file.weights.items():
            self._constant(name, array)
        for name, shape in file.inputs.items():
            self._value(name, file.kinds.get(name, onnx.TensorProto.FLOAT), shape, View(name, shape))
        if file.task is not None:
            kind = file.task.type.tensor_type.elem_type
            shape = tuple(1 for _ in file.task.type.tensor_type.shape.dim)
            if task is None:
                self._value(file.task.name, kind, shape, View(file.task.name, shape))
            else:
                self._constant(file.task.name, np.full(shape, task, helper.tensor_dtype_to_np_dtype(kind)))

    def run(self) -> OpGraph:
        graph = self.file.proto.graph
        wanted = _wanted(graph)
        for node in graph.node:
            name = node.name if node.name and node.name not in self.kinds else f"{node.op_type}:{next(iter(node.output), '')}"
            while name in self.kinds:
                name = f"{name}:{len(self.kinds)}"
            self.kinds[name] = self.file.quantization.operators.get(name, node.op_type)
            if wanted.isdisjoint(node.output):
                self.folded[name] = "its result is not used"
                continue
            with border(self.file.path, node_place(node.op_type, name)):
                self._node(node, name)
        outputs = {}
        for value in graph.output:
            if value.name in outputs or value.name not in self.refs:
                raise ModelError(f"output {quoted(value.name)} is {'given twice' if value.name in outputs else 'made by no node'}",
                                 where=str(self.file.path), hint="export the model again")
            outputs[value.name] = self.refs[value.name]
        return OpGraph(self.file.inputs, tuple(self.ops.values()), outputs, self.folded, frozenset(self.moves), self.kinds,
                       self.declined, self.shapes, evaluate=partial(_evaluated, self.evaluator, self.nodes), types=self.types, values=self.refs)

    # ---------------------------------------------------------------- values

    def _value(self, name: str, kind: int, shape: tuple[int, ...] | None, ref: Ref) -> None:
        if not name:                                                # a result nobody wants
            return
        self.refs[name], self.types[name], self.shapes[name] = self.file.quantization.rounded(name, ref), kind, shape

    def _constant(self, name: str, array: np.ndarray) -> None:
        array = np.asarray(array)
        self._value(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, Const(self.pool.array(array)))

    # ---------------------------------------------------------------- one node

    def _node(self, node: onnx.NodeProto, name: str) -> None:
        inputs = [self.refs[value] for value in node.input]
        shaped = all(self.shapes[value] is not None for value in node.input if value)
        subgraph = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        simple = shaped and not subgraph and self._known(node)
        if simple and node.op_type == "Constant":
            self._constant_node(node, name)
        elif simple and node.op_type == "Identity":
            self._identity(node, name, inputs[0])
        elif simple and node.op_type == "Where" and (chosen := self._chosen(node, inputs)) is not None:
            self._identity(onnx.NodeProto(input=[chosen], output=node.output), name, self.refs[chosen])
        else:
            types = self._infer(node, name) if simple else self._declared(node, inputs)
            for output, (_, shape) in zip(node.output, types, strict=False):
                if shape is not None and math.prod(shape) > MAX_ELEMENTS:
                    raise self._too_large(node, name, f"{quoted(output)} {list(shape)} has {math.prod(shape):,} elements; the limit "
                                                      f"is {MAX_ELEMENTS:,}")
            if simple and not node.domain and len(node.attribute) and (node.op_type in AXIS_UNCHECKED or node.op_type in ("Conv", "Gelu")):
                self._check_attributes(node, name)
            known = simple and all(shape is not None for _, shape in types)
            if self._is_random(node, inputs):
                self.declined[name] = "gives another result in every run: export the model in eval mode (model.eval())"
                self._keep(node, name, inputs, types)
            elif (reason := contrib.refusal(node, self.opsets.get("", 0), self.shapes)) is not None:
                self.declined[name] = reason
                self._keep(node, name, inputs, types)
            elif not (known and (self._fold(node, name, inputs, types) or self._simplify(node, name, inputs, types)
                                 or self._einsum(node, name, inputs))):
                self._keep(node, name, inputs, types)
        if self.pool.bytes > self.limit:
            raise self._too_large(node, name, f"the constants folded so far take {self.pool.bytes:,} bytes")

    def _known(self, node: onnx.NodeProto) -> bool:
        key = (node.domain, node.op_type)
        if key not in self.known:
            self.known[key] = known_operator(self.opsets, node)
        return self.known[key]

    def _too_large(self, node: onnx.NodeProto, name: str, problem: str) -> ModelError:
        place = node_place(node.op_type, name)
        return ModelError(f"{place} makes too much: {problem}", where=f"{self.file.path}: {place}",
                          hint="is a shape in the model, or one given by --shape, what it should be?")

    def _check_attributes(self, node: onnx.NodeProto, name: str) -> None:
        """What the onnx package checks nowhere, and onnxruntime refuses."""
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in CHECKED_ATTRIBUTES}
        ranks = [None if not value else len(self.shapes[value]) for value in node.input]
        wrong = None
        if node.op_type == "Gelu" and attrs.get("approximate", b"none") not in (b"none", b"tanh"):
            wrong = f"approximate is {attrs['approximate'].decode()!r}, not 'none' or 'tanh'"
        elif node.op_type == "Conv" and "kernel_shape" in attrs and list(attrs["kernel_shape"]) != list(self.shapes[node.input[1]][2:]):
            wrong = f"kernel_shape is {list(attrs['kernel_shape'])}, the weight has the shape {list(self.shapes[node.input[1]])}"
        elif "axis" in attrs and node.op_type in AXIS_UNCHECKED and ranks and not -ranks[0] <= attrs["axis"] < ranks[0]:
            wrong = f"axis {attrs['axis']} is none of a value of {ranks[0]} dimensions"
        if wrong is not None:
            place = node_place(node.op_type, name)
            raise ModelError(f"{place} cannot run: its {wrong}", where=f"{self.file.path}: {place}", hint="export the model again")

    def _is_random(self, node: onnx.NodeProto, inputs: list[Ref | None]) -> bool:
        """Whether what it computes depends on chance: a random generator, or a Dropout in training mode."""
        if node.op_type != "Dropout" or node.domain:
            return node.op_type in RANDOM and not node.domain
        if self.opsets[""] < 7:
            return not any(a.name == "is_test" and a.i for a in node.attribute)
        return any(isinstance(ref, View) or ref is not None and bool(ref.array.any()) for ref in inputs[2:3])

    def _constant_node(self, node: onnx.NodeProto, name: str) -> None:
        given = node.attribute[0]
        if given.name == "value":
            array = array_of(self.file.path, given.t, node_place("Constant", name))
        elif given.name == "sparse_value":
            raise ModelError(f"Constant node {quoted(name)} holds a sparse tensor, which is not supported",
                             where=f"{self.file.path}: {node_place('Constant', name)}", hint="export the model with dense weights")
        else:
            kind = np.float32 if "float" in given.name else np.int64 if "int" in given.name else np.object_
            array = np.asarray(helper.get_attribute_value(given), kind)
        self._constant(node.output[0], array)
        self.folded[name] = "constant"

    def _identity(self, node: onnx.NodeProto, name: str, ref: Ref) -> None:
        source = node.input[0]
        if isinstance(ref, View):
            self.moves.add(name)
            ref = replace(ref, trail=Trail(name, ref.trail))
        else:
            self.folded[name] = "constant"
        self._value(node.output[0], self.types[source], self.shapes[source], ref)

    def _evaluate(self, node: onnx.NodeProto, arrays: list[np.ndarray | None], types) -> list[np.ndarray] | None:
        """What the node computes from these arrays; None when the reference implementation cannot, or it would take too long."""
        cost = work(node, arrays, [math.prod(shape) for _, shape in types])
        if cost is None:
            return None
        self.work += cost
        if self.work > MAX_WORK:
            raise self._too_large(node, node.name, f"folding constants and moves takes more than {MAX_WORK:,} steps")
        return self.evaluator.run(node, arrays)

    def _fold(self, node: onnx.NodeProto, name: str, inputs: list[Ref | None], types) -> bool:
        """Make constants of the results when the operands are, or only a shape is asked for."""
        if node.op_type == "Shape":
            arrays = [np.broadcast_to(np.False_, self.shapes[node.input[0]])]
        elif any(isinstance(ref, View) for ref in inputs) or node.op_type not in FOLDED or node.domain:
            return False
        else:
            arrays = [ref if ref is None else ref.array for ref in inputs]
        results = self._evaluate(node, arrays, types)
        for output, array in zip(node.output, results or (), strict=False):
            self._constant(output, array)
        if results is not None:
            self.folded[name] = "constant"
        return results is not None

    def _infer(self, node: onnx.NodeProto, name: str) -> list[tuple[int, tuple[int, ...] | None]]:
        small = {value: self.refs[value].array for value in node.input
                 if isinstance(self.refs[value], Const) and self.refs[value].array.size <= INFERENCE_DATA} \
            if node.op_type not in SHAPED_BY_SHAPES or node.domain else {}
        asked = (canonical(node), tuple((self.types[value], self.shapes[value], small[value].tobytes() if value in small else None)
                                        if value else None for value in node.input))
        if asked not in self.inferred:
            self.inferred[asked] = self._ask(node, name, small)
        return self.inferred[asked]

    def _ask(self, node: onnx.NodeProto, name: str, small: dict[str, np.ndarray]) -> list[tuple[int, tuple[int, ...] | None]]:
        schema = onnx.defs.get_schema(node.op_type, self.opsets[node.domain], node.domain)
        types = {value: helper.make_tensor_type_proto(self.types[value], self.shapes[value]) for value in node.input if value}
        data = {value: numpy_helper.from_array(array) for value, array in small.items()}
        ids = [helper.make_opsetid(key, version) for key, version in self.opsets.items()]
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=ids)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            shown = ", ".join(f"{value} {list(self.shapes[value])}" for value in node.input if value)
            place = node_place(node.op_type, name)
            raise ShapeError(f"the shapes of {place} do not fit: {shown} ({str(error).strip()})", where=f"{self.file.path}: {place}",
                             hint="is a shape given by --shape one the model was made for?") from error
        return [shapes.static(found.get(output)) for output in node.output]

    def _declared(self, node: onnx.NodeProto, inputs: list[Ref | None]) -> list[shapes.Type]:
        types = [(self.types[value], self.shapes[value]) if value else (0, None) for value in node.input]
        return shapes.declared(node, inputs, types, self.stored)

    def _keep(self, node: onnx.NodeProto, name: str, inputs: list[Ref | None], types) -> None:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "body"}
        attrs = {key: value.decode() if isinstance(value, bytes) else value for key, value in attrs.items()}
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        if kind == "Softmax" and self.opsets.get(node.domain, 0) < 13:
            attrs.setdefault("axis", 1)                                # the default of that time
        key = (kind, repr(sorted(attrs.items())), tuple(ref if ref is None else ref.key() for ref in inputs), len(node.output))
        if key in self.ops and name not in self.declined:
            twin = self.ops[key]
            self.folded[name] = f"computes the same as node {twin.name!r}"
            refs = [View(output, shape or ()) for output, (_, shape) in zip(twin.outputs, types, strict=False)]
        else:
            op = Op(name, kind, tuple(inputs), tuple(node.output), attrs, tuple(shape for _, shape in types))
            self.ops[key], self.nodes[name] = op, node
            self.producers.update({output: op for output in node.output})
            refs = [View(output, shape or ()) for output, (_, shape) in zip(node.output, types, strict=False)]
        for output, (element, shape), ref in zip(node.output, types, refs, strict=False):
            self._value(output, element, shape, ref)

    # ---------------------------------------------------------------- moves, scalings, and what does nothing

    def _simplify(self, node: onnx.NodeProto, name: str, inputs: list[Ref | None], types) -> bool:
        """Replace the node by views of its input where that is exact; False when it computes something."""
        x, shape = inputs[0], types[0][1]
        views: list[View | None] = []
        match node.op_type:
            case op if isinstance(x, View) and (op in RESHAPES or op in OF_ONE and math.prod(x.shape) == math.prod(shape)):
                if math.prod(x.shape) != math.prod(shape):
                    place = node_place(op, name)
                    raise ShapeError(f"{place} makes {list(shape)}, {math.prod(shape):,} elements, of {list(x.shape)}, "
                                     f"{math.prod(x.shape):,} elements", where=f"{self.file.path}: {place}",
                                     hint="is a shape given by --shape one the model was made for?")
                views = [replace(x, shape=shape, index=None if x.index is None else x.index.reshape(shape))]
            case op if op in MOVES and isinstance(x, View) and all(isinstance(ref, Const) for ref in inputs[1:]):
                moved = self._evaluate(node, [x.positions(), *(ref.array for ref in inputs[1:])], types)
                views = [replace(x, shape=part.shape, index=self._index(part, x)) for part in moved or ()]
            case "Cast" if isinstance(x, View) and types[0][0] == self.types[node.input[0]]:
                views = [x]
            case "Neg" if isinstance(x, View) and types[0][0] == onnx.TensorProto.FLOAT:
                views = [replace(x, scale=-x.scale)]
            case "Pad" if isinstance(x, View) and _pads(node, inputs) is not None and not any(_pads(node, inputs)):
                views = [x]
            case "Mul" | "Div" | "Add" | "Sub":
                views = [_elementwise(node.op_type, inputs, shape)]
            case "Where":
                views = [self._where(inputs, shape)]
        if not views or views[0] is None:
            return False
        self.moves.add(name)
        for output, view in zip(node.output, views, strict=False):
            self._value(output, types[0][0], view.shape, replace(view, trail=Trail(name, view.trail)))
        for output in node.output[len(views):]:                    # the mask of a Dropout
            self._value(output, onnx.TensorProto.BOOL, None, View(output, ()))
        return True

    def _chosen(self, node: onnx.NodeProto, inputs: list[Ref | None]) -> str | None:
        """The operand a Where with one constant as its condition takes, where its shape is that of the result: of a branch it always is."""
        if not isinstance(inputs[0], Const) or inputs[0].array.size != 1:
            return None
        yes, no = node.input[1:]
        chosen = yes if inputs[0].array.all() else no
        try:
            same = np.broadcast_shapes(self.shapes[yes], self.shapes[no]) == self.shapes[chosen]
        except ValueError:
            same = True
        return chosen if same else None

    def _where(self, inputs: list[Ref], shape: tuple[int, ...]) -> View | None:
        """A constant condition, or the guard ``Where(IsNaN(p), 0, p)`` exporters put behind Softmax: p is never NaN there."""
        condition, yes, no = inputs
        if isinstance(condition, Const):
            chosen = yes if condition.array.all() else no if not condition.array.any() else None
            return chosen if isinstance(chosen, View) and chosen.shape == shape else None
        guard = self.producers.get(condition.base)
        if guard is None or guard.kind != "IsNaN" or not isinstance(no, View) or no.shape != shape:
            return None
        source = self.producers.get(no.base)
        same = isinstance(guard.inputs[0], View) and guard.inputs[0].key() == no.key()
        if not (same and source is not None and source.kind == "Softmax"):
            return None
        return replace(no, trail=Trail(guard.name, no.trail))

    def _einsum(self, node: onnx.NodeProto, name: str, inputs: list[Ref | None]) -> bool:
        """Read an Einsum as the one product it is, under its own name, and the moves around that; False when it is more than that."""
        if node.op_type != "Einsum" or node.domain:
            return False
        fresh = f"{node.output[0]}.einsum"
        while any(value.startswith(fresh) for value in self.refs):
            fresh += "'"
        parts = einsum.written_out(node, [self.shapes[value] for value in node.input], [isinstance(ref, Const) for ref in inputs], fresh)
        if parts is None:
            self.declined[name] = "is more than one product of two values; write it as MatMul, or as several"
            return False
        for part in parts:
            self._node(part, name)
        self.folded.pop(name, None)                                 # its constants were
        return True

    def _index(self, part: np.ndarray, x: View) -> np.ndarray | None:
        """int32 positions, or None when they are all of 0, 1, 2, ... (of the value x is a view of)."""
        flat = part.ravel()
        whole = x.index is None and flat.size == math.prod(x.shape) and np.array_equal(flat, np.arange(flat.size))
        return None if whole else self.pool.array(part.astype(np.int32))


def _pads(node: onnx.NodeProto, inputs: list[Ref | None]) -> list[int] | None:
    """The pads of a Pad node, an attribute before operator set 11 and a constant operand since; None if they are computed."""
    if len(inputs) > 1:
        return inputs[1].array.ravel().tolist() if isinstance(inputs[1], Const) else None
    return next((list(a.ints) for a in node.attribute if a.name in ("pads", "paddings")), None)


def _evaluated(evaluator: Evaluator, nodes: dict[str, onnx.NodeProto], op: Op, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
    return evaluator.operator(nodes[op.name], list(arrays))


def _wanted(graph: onnx.GraphProto) -> set[str]:
    """The values some output is computed from, the outputs included; what only other nodes read is not looked at."""
    wanted = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(read_values(node))
    wanted.discard("")
    return wanted


def read_values(node: onnx.NodeProto):
    """Values a node reads, those its subgraphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from read_values(inner)
            yield from (output.name for output in graph.output)


def _elementwise(kind: str, inputs: list[Ref], shape: tuple[int, ...]) -> View | None:
    """x * c, c * x and x / c with one number c (a divisor may be an array of it); adding zeros, multiplying by ones. None for everything else."""
    x, c = inputs if isinstance(inputs[0], View) else reversed(inputs)
    if not isinstance(x, View) or not isinstance(c, Const) or x.shape != shape or c.array.dtype.kind != "f":
        return None
    if isinstance(inputs[0], Const) and kind in ("Div", "Sub"):
        return None
    if kind in ("Add", "Sub"):
        return None if c.array.any() else x
    if (c.array == 1).all():
        return x
    if c.array.size != 1 and (kind != "Div" or (c.array != c.array.flat[0]).any()):
        return None
    number = float(c.array.ravel()[0])
    return replace(x, scale=x.scale * number) if kind == "Mul" else replace(x, scale=x.scale / number) if number else None
