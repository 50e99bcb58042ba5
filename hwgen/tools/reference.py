"""Runs an ONNX file as it is, in a process of its own with limits of time and memory (hwgen/importer/reference.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import errno
import json
import os
from pathlib import Path
import sys
from typing import Any

import numpy as np

from ..errors import ModelError, ToolError
from ..importer.reference import NO_ROOM
from ..output import work_folder
from .process import run

SCRIPT = Path(__file__).resolve().parent.parent / "importer" / "reference.py"
MEMORY_BYTES = 1 << 30           # of address space, beside what the caller grants
MEMORY_PER_BYTE = 8              # that a caller should grant for each byte of weights
WALL_PER_CPU = 10                # a busy machine


@dataclass(frozen=True, eq=False)
class OnnxRun:
    """What the file computed. outputs: {ONNX value: [images, *shape of one run]}; ``note``: why it was not onnxruntime.

    nodes: value -> the node that gives it, with its weights, in words; with ``values`` only.
    """

    outputs: dict[str, np.ndarray]
    runtime: str
    note: str | None
    nodes: dict[str, str]


def run_onnx(model: Path, images: dict[str, np.ndarray], task: dict | None, *, cpu_seconds: int, more_bytes: int,
             values: bool = False, more: Sequence[str] = (), content: bytes | None = None) -> OnnxRun:
    """Run ``model`` on each image, batch 1. images: {input: [images, ...]}; task: name, shape, dtype and value of the integer input.

    ``values``: every float value of the main graph instead of its outputs; ``more``: these values, too, as far as it has them. content: of the
    model, which then is no file but a name for messages. Raises ModelError when the file cannot be run within the limits, OutputError when
    there is no room for temporary files.
    """
    with work_folder("hwgen_onnx_") as work:
        given: dict[str, Any] = {**images}
        np.savez(work / "inputs.npz", **given)
        file = model if content is None else work / "model.onnx"
        if content is not None:
            file.write_bytes(content)
        limits = {"cpu_seconds": cpu_seconds, "memory_bytes": MEMORY_BYTES + more_bytes}
        (work / "job.json").write_text(json.dumps(dict(model=str(file.absolute()), values=values, more=list(more), task=task, **limits)))
        try:
            run([sys.executable, SCRIPT, work], timeout=WALL_PER_CPU * cpu_seconds)
            result = json.loads((work / "result.json").read_text())
        except ToolError as error:
            if error.message.splitlines()[0].endswith(f"exit code {NO_ROOM}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise ModelError(f"the file cannot be run to compare with it: {_reason(error, cpu_seconds)}", where=str(model),
                             hint="run it with onnxruntime yourself; hwgen takes only what it can compare") from error
        if result["error"] is not None:
            raise ModelError(f"the file {result['error']}", where=str(model), hint="run it with onnxruntime yourself, and mend the export")
        with np.load(work / "outputs.npz") as arrays:
            outputs = dict(zip(result["names"], (arrays[key] for key in arrays.files), strict=True))
            return OnnxRun(outputs, result["runtime"], result["note"], result["nodes"])


def _reason(error: ToolError, cpu_seconds: int) -> str:
    if "exit code -24" in error.message or "exit code -9" in error.message or "took more than" in error.message:
        return f"it takes more than {cpu_seconds} CPU seconds, or was killed"
    return f"its runtime ended with: {error.message.splitlines()[-1]}"
