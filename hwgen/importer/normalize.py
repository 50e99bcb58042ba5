"""ONNX graph -> `OpGraph`: infers shapes, folds constants, resolves moves into views, drops what is equal or does nothing.

Single operators are evaluated by onnx's own reference implementation, also on arrays of positions: that is what makes a
view exact for every operator that moves data, with no second definition of what Slice or Gather mean. (The onnxscript
optimizer folds as much, but renames and drops nodes, and `hwgen check` owes the user a verdict on each.)
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..errors import ModelError, ShapeError
from .opgraph import Const, Op, OpGraph, Pool, Ref, View
from .read import OnnxFile, initializers, known_operator

RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
MOVES = RESHAPES | {"Transpose", "Slice", "Split", "Gather", "Expand"}
NOT_FOLDED = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
INFERENCE_DATA = 64                    # constants up to this many elements are shown to shape inference


def normalize(file: OnnxFile, task: int | None, pool: Pool) -> OpGraph:
    """``task``: value to fix the task input to, or None to leave it open. Raises ShapeError when shapes contradict."""
    return _Normalizer(file, task, pool).run()


class _Normalizer:
    def __init__(self, file: OnnxFile, task: int | None, pool: Pool):
        self.file, self.pool = file, pool
        self.opsets = {entry.domain: entry.version for entry in file.proto.opset_import}
        self.refs: dict[str, Ref | None] = {"": None}
        self.types: dict[str, int] = {}                         # value -> ONNX element type
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.folded: dict[str, str] = {}
        self.moves: set[str] = set()
        self.kinds: dict[str, str] = {}
        self.ops: dict[tuple, Op] = {}
        self.producers: dict[str, Op] = {}
        for name, array in initializers(file.proto).items():
            self._constant(name, array)
        for name, shape in file.inputs.items():
            self._value(name, onnx.TensorProto.FLOAT, shape, View(name, shape))
        if file.task is not None:
            kind = file.task.type.tensor_type.elem_type
            shape = tuple(1 for _ in file.task.type.tensor_type.shape.dim)
            if task is None:
                self._value(file.task.name, kind, shape, View(file.task.name, shape))
            else:
                self._constant(file.task.name, np.full(shape, task, helper.tensor_dtype_to_np_dtype(kind)))

    def run(self) -> OpGraph:
        graph = self.file.proto.graph
        for node in graph.node:
            name = node.name if node.name and node.name not in self.kinds else f"{node.op_type}:{next(iter(node.output), '')}"
            self.kinds[name] = node.op_type
            self._node(node, name)
        outputs = {value.name: self.refs[value.name] for value in graph.output}
        return OpGraph(self.file.inputs, tuple(self.ops.values()), outputs, self.folded, frozenset(self.moves), self.kinds)

    # ---------------------------------------------------------------- values

    def _value(self, name: str, kind: int, shape: tuple[int, ...] | None, ref: Ref) -> None:
        self.refs[name], self.types[name], self.shapes[name] = ref, kind, shape

    def _constant(self, name: str, array: np.ndarray) -> None:
        array = np.asarray(array)
        self._value(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, Const(self.pool.array(array)))

    # ---------------------------------------------------------------- one node

    def _node(self, node: onnx.NodeProto, name: str) -> None:
        inputs = [self.refs[value] for value in node.input]
        shaped = all(self.shapes[value] is not None for value in node.input if value)
        subgraph = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        simple = shaped and not subgraph and known_operator(self.file.proto, node)
        if simple and self._fold(node, name, inputs):
            return
        types = self._infer(node, name) if simple else self._declared(node)
        if not (simple and all(shape is not None for _, shape in types) and self._simplify(node, name, inputs, types)):
            self._keep(node, name, inputs, types)

    def _evaluate(self, node: onnx.NodeProto, arrays: list[np.ndarray | None]) -> list[np.ndarray] | None:
        """What the node computes from these arrays; None when the reference implementation cannot."""
        feeds = {value: array for value, array in zip(node.input, arrays) if value}
        try:
            with np.errstate(all="ignore"):
                return ReferenceEvaluator(node, opsets=self.opsets).run(None, feeds)
        except (RuntimeError, TypeError, ValueError, LookupError):          # NotImplementedError is a RuntimeError
            return None

    def _fold(self, node: onnx.NodeProto, name: str, inputs: list[Ref | None]) -> bool:
        """Make constants of the results when the operands are, or only a shape is asked for."""
        if node.op_type == "Shape":
            arrays = [np.zeros(self.shapes[node.input[0]], np.bool_)]
        elif any(isinstance(ref, View) for ref in inputs) or node.op_type in NOT_FOLDED:
            return False
        else:
            arrays = [ref if ref is None else ref.array for ref in inputs]
        results = self._evaluate(node, arrays)
        for output, array in zip(node.output, results or ()):
            self._constant(output, array)
        if results is not None:
            self.folded[name] = "constant"
        return results is not None

    def _infer(self, node: onnx.NodeProto, name: str) -> list[tuple[int, tuple[int, ...] | None]]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        schema = onnx.defs.get_schema(node.op_type, self.opsets[node.domain], domain)
        types = {value: helper.make_tensor_type_proto(self.types[value], self.shapes[value]) for value in node.input if value}
        data = {value: numpy_helper.from_array(self.refs[value].array) for value in node.input
                if isinstance(self.refs[value], Const) and self.refs[value].array.size <= INFERENCE_DATA}
        ids = [helper.make_opsetid(key, version) for key, version in self.opsets.items()]
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=ids)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            shown = ", ".join(f"{value} {list(self.shapes[value])}" for value in node.input if value)
            raise ShapeError(f"the shapes of {node.op_type} node {name!r} do not fit: {shown} ({str(error).strip()})",
                             where=f"{self.file.path}: {node.op_type} node {name!r}",
                             hint="is a shape given by --shape one the model was made for?") from error
        return [_static(found.get(output)) for output in node.output]

    def _declared(self, node: onnx.NodeProto) -> list[tuple[int, tuple[int, ...] | None]]:
        """Types as stored in the file, for operators that cannot be inferred here."""
        graph = self.file.proto.graph
        known = {value.name: value.type for value in (*graph.value_info, *graph.output)}
        return [_static(known.get(output)) for output in node.output]

    def _keep(self, node: onnx.NodeProto, name: str, inputs: list[Ref | None], types) -> None:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "body"}
        attrs = {key: value.decode() if isinstance(value, bytes) else value for key, value in attrs.items()}
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if kind == "Softmax" and self.opsets.get(node.domain, 0) < 13:
            attrs.setdefault("axis", 1)                                # the default of that time
        key = (kind, repr(sorted(attrs.items())), tuple(ref if ref is None else ref.key() for ref in inputs), len(node.output))
        if key in self.ops and kind not in NOT_FOLDED:
            twin = self.ops[key]
            self.folded[name] = f"computes the same as node {twin.name!r}"
            refs = [self.refs[output] for output in twin.outputs]
        else:
            op = Op(name, kind, tuple(inputs), tuple(node.output), attrs, tuple(shape for _, shape in types))
            self.ops[key] = op
            self.producers.update({output: op for output in node.output})
            refs = [View(output, shape or ()) for output, (_, shape) in zip(node.output, types)]
        for output, (element, shape), ref in zip(node.output, types, refs):
            self._value(output, element, shape, ref)

    # ---------------------------------------------------------------- moves, scalings, and what does nothing

    def _simplify(self, node: onnx.NodeProto, name: str, inputs: list[Ref | None], types) -> bool:
        """Replace the node by views of its input where that is exact; False when it computes something."""
        x, shape = inputs[0], types[0][1]
        views: list[View | None] = []
        match node.op_type:
            case "Dropout" if any(isinstance(ref, View) or ref is not None and ref.array.any() for ref in inputs[2:3]):
                return False                                           # training mode
            case op if op in RESHAPES and isinstance(x, View):
                views = [replace(x, shape=shape, index=None if x.index is None else x.index.reshape(shape))]
            case op if op in MOVES and isinstance(x, View) and all(isinstance(ref, Const) for ref in inputs[1:]):
                moved = self._evaluate(node, [x.positions(), *(ref.array for ref in inputs[1:])])
                views = [replace(x, shape=part.shape, index=_plain(part, x)) for part in moved or ()]
            case "Cast" if isinstance(x, View) and types[0][0] == self.types[node.input[0]]:
                views = [x]
            case "Pad" if isinstance(x, View) and isinstance(inputs[1], Const) and not inputs[1].array.any():
                views = [x]
            case "Mul" | "Div" | "Add" | "Sub":
                views = [_elementwise(node.op_type, inputs, shape)]
            case "Where":
                views = [self._where(inputs, shape)]
        if not views or views[0] is None:
            return False
        self.moves.add(name)
        for output, view in zip(node.output, views):
            trail = view.trail if name in view.trail else (*view.trail, name)
            self._value(output, types[0][0], view.shape, replace(view, trail=trail))
        for output in node.output[len(views):]:                    # the mask of a Dropout
            self._value(output, onnx.TensorProto.BOOL, None, View(output, ()))
        return True

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
        return replace(no, trail=(*no.trail, guard.name))


def _elementwise(kind: str, inputs: list[Ref], shape: tuple[int, ...]) -> View | None:
    """x * c, c * x and x / c with one number c; adding zeros, multiplying by ones. None for everything else."""
    x, c = inputs if isinstance(inputs[0], View) else reversed(inputs)
    if not isinstance(x, View) or not isinstance(c, Const) or x.shape != shape or c.array.dtype.kind != "f":
        return None
    if isinstance(inputs[0], Const) and kind in ("Div", "Sub"):
        return None
    if kind in ("Add", "Sub"):
        return None if c.array.any() else x
    if (c.array == 1).all():
        return x
    if c.array.size != 1:
        return None
    number = float(c.array.ravel()[0])
    return replace(x, scale=x.scale * number) if kind == "Mul" else replace(x, scale=x.scale / number) if number else None


def _plain(part: np.ndarray, x: View) -> np.ndarray | None:
    """int32 positions, or None when they are all of 0, 1, 2, ... (of the value x is a view of)."""
    flat = part.ravel()
    whole = x.index is None and flat.size == math.prod(x.shape) and np.array_equal(flat, np.arange(flat.size))
    return None if whole else part.astype(np.int32)


def _static(proto: onnx.TypeProto | None) -> tuple[int, tuple[int, ...] | None]:
    """(element type, shape or None when not static)."""
    if proto is None or not proto.tensor_type.HasField("shape"):
        return onnx.TensorProto.FLOAT, None
    dims = proto.tensor_type.shape.dim
    shape = tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None
    return proto.tensor_type.elem_type or onnx.TensorProto.FLOAT, shape


def task_feed(file: OnnxFile, value: int) -> dict:
    """What selects task ``value``: name, shape and numpy type of the integer input, and the value."""
    kind = file.task.type.tensor_type
    return dict(name=file.task.name, shape=[1 for _ in kind.shape.dim], dtype=str(helper.tensor_dtype_to_np_dtype(kind.elem_type)),
                value=value)


def task_count(graph: OpGraph, name: str, path: str) -> int:
    """How many values the task input can take: the size of the constants' axes it indexes. Raises ModelError."""
    sizes: dict[str, int] = {}
    for op in graph.ops:
        for place, ref in enumerate(op.inputs):
            if isinstance(ref, View) and ref.base == name:
                data = op.constant(0)
                if op.kind != "Gather" or place != 1 or data is None:
                    raise ModelError(f"the integer input {name!r} goes into {op.kind} node {op.name!r}", where=path,
                                     hint="a task may only select constants: torch.index_select(gates, 0, task)")
                sizes[op.name] = data.shape[op.attrs.get("axis", 0)]
    if len(set(sizes.values())) != 1:
        raise ModelError(f"the integer input {name!r} selects nothing" if not sizes else
                         f"the integer input {name!r} selects among different numbers of constants: {sizes}", where=path,
                         hint="every Gather by the task must index an axis with one entry a task")
    return next(iter(sizes.values()))
