"""Runs an ONNX file as it is: the judge of what the importer made of it. A process of its own, started by `hwgen.tools.reference`.

    python reference.py FOLDER       reads FOLDER/job.json and inputs.npz, writes outputs.npz and result.json

A file from a stranger may crash a runtime or eat a machine; here that ends this process only. It imports nothing of hwgen, so that it
starts quickly. onnxruntime runs the file; what it cannot open, onnx's own reference implementation runs.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
import resource
import sys
from typing import Any

import numpy as np

REFERENCE_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
LARGEST_PROTO = 2**31 - 1
NO_ROOM = 73                     # exit code: the result cannot be written (EX_CANTCREAT of sysexits.h)


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    _limit(resource.RLIMIT_AS, job["memory_bytes"], job["memory_bytes"])
    _limit(resource.RLIMIT_CPU, job["cpu_seconds"], job["cpu_seconds"] + 5)
    result: dict[str, Any] = {"error": None, "runtime": "", "note": None, "nodes": {}}
    model = Path(job["model"])
    os.chdir(model.parent)              # external data lies there; no runtime takes a path that is not UTF-8
    try:
        runtime, outputs = _run(Path(model.name), job["values"], job["more"], np.load(folder / "inputs.npz"), job["task"], result)
        result["runtime"] = runtime
        np.savez(folder / "outputs.npz", *outputs.values())
        result["names"] = list(outputs)
    except _Failed as error:
        result["error"] = str(error)
    except MemoryError:
        result["error"] = f"needs more than {job['memory_bytes'] / 2**30:.1f} GB of memory"
    (folder / "result.json").write_text(json.dumps(result))


def _limit(what: int, soft: int, hard: int) -> None:
    """Not above what this process was given (ulimit)."""
    given = resource.getrlimit(what)[1]
    if given != resource.RLIM_INFINITY:
        soft, hard = min(soft, given), min(hard, given)
    resource.setrlimit(what, (soft, hard))


class _Failed(Exception):
    """The file cannot be run; the text says why."""


def _run(path: Path, values: bool, more: list[str], images, task: dict | None, result: dict) -> tuple[str, dict[str, np.ndarray]]:
    """(runtime, {value: [images, ...]}): outputs of the file, and ``more`` of its values; with ``values`` every float value in the order of the
    nodes."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state
    failures = tuple(e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)) + (RuntimeError, ValueError)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # the file as it is: fusions refuse some correct files (a LayerNormalization scale of one element behind an Add)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = _with_values(path, result["nodes"]) if values else _with_more(path, more) if more else None
    source = proto.SerializeToString() if proto is not None else str(path) if str(path).isprintable() else path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names, runtime = [output.name for output in session.get_outputs()], f"onnxruntime {onnxruntime.__version__}"
    except failures as error:
        result["note"] = f"onnxruntime cannot open the file ({_line(error)}), so onnx's reference implementation judged it"
        session, names, runtime = _reference(path, proto, error)
        failures = REFERENCE_ERRORS
    halves = {given.name for given in session.get_inputs() if given.type == "tensor(float16)"} if result["note"] is None else set()
    feeds = {name: images[name].astype(np.float16) if name in halves else images[name] for name in images.files}
    parts: list[list] = []
    for i in range(len(next(iter(feeds.values())))):
        one = {name: array[i:i + 1] for name, array in feeds.items()}
        if task is not None:
            one[task["name"]] = np.full(task["shape"], task["value"], task["dtype"])
        try:
            with np.errstate(all="ignore"):
                parts.append(session.run(None, one))
        except failures as error:
            raise _Failed(f"fails when it is run: {_line(error)}") from error
    found = {name: arrays for name, arrays in zip(names, zip(*parts, strict=True), strict=False)
             if all(isinstance(array, np.ndarray) and array.dtype.kind in ("f" if values else "fiub") for array in arrays)}
    uneven = [name for name, arrays in found.items() if len({array.shape for array in arrays}) > 1]
    if uneven and not values and uneven[0] not in more:
        raise _Failed(f"gives output {uneven[0]!r} in a shape that differs from image to image")
    return runtime, {name: np.stack(arrays) for name, arrays in found.items() if name not in uneven}


def _reference(path: Path, proto, why: Exception):
    import onnx
    from onnx.reference import ReferenceEvaluator
    try:
        session = ReferenceEvaluator(_load(path) if proto is None else proto)
    except (*REFERENCE_ERRORS, onnx.checker.ValidationError) as error:
        raise _Failed(f"can be opened neither by onnxruntime ({_line(why)}) nor by onnx's reference implementation ({_line(error)})") from error
    return session, list(session.output_names), f"onnx {onnx.__version__} reference implementation"


def _load(path: Path):
    """The model of a file in the current folder, with its external data."""
    import onnx
    proto = onnx.load_model_from_string(path.read_bytes())
    onnx.load_external_data_for_model(proto, ".")
    return proto


def _with_values(path: Path, nodes: dict[str, str]):
    """The model with every value of its main graph as an output, in the order of the nodes. nodes: gets {value: its node, and its weights}."""
    import onnx
    proto = _load(path)
    if proto.ByteSize() > LARGEST_PROTO:
        raise _Failed("is too large to show its inner values")
    largest = {}
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            largest[tensor.name] = float(np.abs(array).max(initial=0.0))
    del proto.graph.output[:]
    for node in proto.graph.node:
        weights = "".join(f", whose weight {name!r} reaches {largest[name]:.3g}" for name in node.input if name in largest)
        nodes.update({name: f"{node.op_type} node {node.name!r}{weights}" for name in node.output if name})
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    return proto


def _with_more(path: Path, more: list[str]):
    """The model with these values as further outputs, those that are in its main graph."""
    proto = _load(path)
    if proto.ByteSize() > LARGEST_PROTO:
        return None
    import onnx
    there = {name for node in proto.graph.node for name in node.output} - {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more if name in there)
    return proto


def _line(error: BaseException) -> str:
    """The first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except OSError as failure:
        if failure.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sys.exit(NO_ROOM)
