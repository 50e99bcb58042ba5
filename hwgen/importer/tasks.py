"""Tasks: an integer scalar input that selects constants, one graph for each of its values."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from ..errors import ModelError
from ..matching.opgraph import OpGraph, View

MAX_TASKS = 256


def task_feed(task: onnx.ValueInfoProto, value: int) -> dict[str, Any]:
    """What selects task ``value``: name, shape and numpy type of the integer input, and the value."""
    kind = task.type.tensor_type
    return {"name": task.name, "shape": [1 for _ in kind.shape.dim], "dtype": str(helper.tensor_dtype_to_np_dtype(kind.elem_type)),
                "value": value}


def task_count(graph: OpGraph, name: str, path: str) -> int:
    """How many values the task input can take: the size of the constants' axes it indexes. Raises ModelError."""
    sizes: dict[str, int] = {}
    for op in graph.ops:
        for place, ref in enumerate(op.inputs):
            if isinstance(ref, View) and ref.base == name:
                data, depth = op.constant(0), op.constant(1)
                if op.kind == "OneHot" and place == 0 and depth is not None:
                    sizes[op.name] = int(depth.ravel()[0])
                    continue
                if op.kind != "Gather" or place != 1 or data is None:
                    raise ModelError(f"the integer input {name!r} goes into {op.kind} node {op.name!r}", where=path,
                                     hint="a task may only select constants: torch.index_select(gates, 0, task)")
                sizes[op.name] = data.shape[op.integer("axis", 0)]
    if any(size > MAX_TASKS for size in sizes.values()):
        raise ModelError(f"the integer input {name!r} selects among {max(sizes.values()):,} constants; up to {MAX_TASKS} tasks are "
                         "supported", where=path, hint="a token embedding cannot be part of the network: cut it off before export")
    if len(set(sizes.values())) != 1:
        raise ModelError(f"the integer input {name!r} selects nothing" if not sizes else
                         f"the integer input {name!r} selects among different numbers of constants: {sizes}", where=path,
                         hint="every Gather by the task must index an axis with one entry a task")
    return next(iter(sizes.values()))
