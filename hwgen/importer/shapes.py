"""Shapes of results whose operands have none that is known."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ..matching.opgraph import Const, Ref

SCATTERS = {"ScatterElements", "ScatterND"}
Type = tuple[int, tuple[int, ...] | None]                  # ONNX element type, shape or None when it is not static


def static(proto: onnx.TypeProto | None) -> Type:
    if proto is None or not proto.tensor_type.HasField("shape"):
        return onnx.TensorProto.FLOAT, None
    dims = proto.tensor_type.shape.dim
    shape = tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None
    return proto.tensor_type.elem_type or onnx.TensorProto.FLOAT, shape


def declared(node: onnx.NodeProto, inputs: list[Ref | None], types: list[Type], stored: Mapping[str, onnx.TypeProto]) -> list[Type]:
    """Of the results of an operator that cannot be inferred: what follows from one operand alone, else what the file says. types: of operands."""
    second = inputs[1] if len(inputs) > 1 else None
    if node.op_type in SCATTERS and not node.domain and types[0][1] is not None:
        return [types[0]]                                  # it changes values, not the shape
    if node.op_type == "Size" and not node.domain:
        return [(onnx.TensorProto.INT64, ())]
    if node.op_type == "Reshape" and not node.domain and isinstance(second, Const) and (second.array > 0).all():
        return [(types[0][0], tuple(second.array.ravel().tolist()))]
    return [static(stored.get(output)) for output in node.output]
