"""The ONNX file judges what its mask of tokens means: with n of them shown it has to compute what the network of n tokens does."""

from __future__ import annotations

import numpy as np

from . import hostrun
from .errors import ModelError
from .graph import Graph, evaluate
from .importer import Imported
from .padding import Padding
from .tools.reference import OnnxRun

IMAGES = 2          # that are compared for each length
COSINE, ROUNDED_COSINE = 0.99999, 0.99          # of a file that stands for another one (16-bit floating point, quantized): as near as they are
ERROR = 2e-3        # of the largest value of an output


def judge_masks(imported: Imported, padding: Padding, graph: Graph, fed: dict[str, np.ndarray], runs: dict[int, OnnxRun]) -> None:
    """fed: the engine's input for `IMAGES` images; runs: {length: what the file gives with a mask of that length}.

    Raises ModelError when the mask does anything but leave out the tokens behind the sequence.
    """
    for length, run in runs.items():
        try:
            short = graph.shortened(length)
        except ModelError as error:
            raise _refusal(imported, padding, length, error.message) from error
        read = evaluate.run(short, {name: array[:, :length] for name, array in fed.items()})
        whole = {name: _padded(value, graph, name) for name, value in read.items()}
        every = whole if imported.host is None else {**whole, **hostrun.after(imported.host, whole)}
        for name, value in every.items():
            if name in run.outputs and value.dtype.kind == "f":
                _compare(imported, padding, length, name, run.outputs[name], value)


def _padded(value: np.ndarray, graph: Graph, name: str) -> np.ndarray:
    """An output of a shorter sequence with zeros behind it, in the shape of the whole one."""
    shape = graph.output_shapes[name][1:]
    rest = [(0, size - there) for size, there in zip(shape, value.shape[1:], strict=True)]
    return np.pad(value, [(0, 0), *rest]) if any(more for _, more in rest) else value


def _compare(imported: Imported, padding: Padding, length: int, name: str, right: np.ndarray, value: np.ndarray) -> None:
    a, b = right.reshape(value.shape).astype(np.float64), value.astype(np.float64)
    if a.ndim > 2 and len(a[0]) == padding.tokens:                     # tokens behind the sequence count for nothing
        a, b = a[:, :length], b[:, :length]
    product = float(np.sqrt((a * a).sum() * (b * b).sum()))
    cosine = float((a * b).sum()) / product if product else float(not a.any() and not b.any())
    exact = imported.float_file is None
    if not cosine >= (COSINE if exact else ROUNDED_COSINE) or exact and not np.abs(a - b).max() <= ERROR * np.abs(a).max():
        raise _refusal(imported, padding, length, f"output {name!r} has a cosine of {cosine:.6f} to that of the network for {length} tokens")


def _refusal(imported: Imported, padding: Padding, length: int, reason: str) -> ModelError:
    return ModelError(f"input {padding.name!r} does more than to leave out the tokens behind a sequence: where it shows the first {length} of "
                      f"{padding.tokens}, {reason}", where=f"{imported.path}: input {padding.name!r}",
                      hint="attention may read it as a mask of the keys, and a mean over the tokens; export without it for sequences of one length")
