"""The ONNX file is the judge: what it computes itself against what the importer read in it, output by output.

Equal means a cosine of at least `MIN_COSINE`, and no value off by more than `MAX_ERROR` of the largest one; where an output hardly moves
around a constant, what moves is held to `MAX_MOVING_ERROR` as well. An image on which a router meets a tie closer than `TIE` may be sent
to another expert by another order of additions: if it differs it is set apart and counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import math

import numpy as np

from . import ir
from .errors import CalibrationError, MismatchError, ModelError
from .golden import float_model
from .importer import Imported, Origin
from .tools.reference import OnnxRun, run_onnx

MIN_COSINE = 0.99999
MAX_ERROR = 1e-3                 # of the largest value of the output
MAX_MOVING_ERROR = 1e-2          # of how far the output moves between images, beyond NOISE
NOISE = 2e-5                     # of the largest value: what float32 loses on the way
TIE = 1e-5                       # difference of two router scores
CALIBRATION_IMAGES = NOISE_IMAGES = 4
BASE_SECONDS, MACS_PER_SECOND = 20, 2e8      # limit of CPU time for a run of all images


@dataclass(frozen=True)
class Judgement:
    """How well the float graph computes what the file does, over all outputs: the smallest cosine, the largest error (not relative).

    ``images`` were compared, ``images_set_apart`` were not. runtime: what ran the file; note: why it was not onnxruntime.
    """

    onnx_cosine: float
    onnx_max_abs_error: float
    images: int
    images_set_apart: int
    runtime: str
    note: str | None

    def to_dict(self) -> dict:
        return asdict(self)


def judge(imported: Imported, calibration: dict[str, np.ndarray] | None) -> Judgement:
    """Run the file on some calibration images and on seeded noise like them, and compare every output.

    Raises MismatchError when an output differs (with the first ONNX value that does), ModelError when the file cannot be run within the
    limits or gives NaN or infinity on noise, CalibrationError when it does on a calibration image.
    """
    images, given = _images(imported.model.tasks[0].inputs, calibration)
    cosine, largest, apart = 1.0, 0.0, set()
    runs: dict[str, OnnxRun] = {}
    for graph, origin in zip(imported.model.tasks, imported.origins):
        key = str(origin.task)
        if key not in runs:
            runs[key] = _run(imported, origin, images)
        found = runs[key].outputs
        _finite(imported, graph, origin, found, images, given)
        read = float_model.run(graph, images)
        different = {name: _different(found[name].reshape(read[name].shape), read[name]) for name in read}
        bad = np.logical_or.reduce(list(different.values()))
        tied = {int(i) for i in np.flatnonzero(bad) if _margin(graph, {name: array[i:i + 1] for name, array in images.items()}) < TIE}
        kept = [i for i in range(len(bad)) if i not in tied]
        if not kept:
            raise ModelError(f"the network cannot be compared with the file: on each of {len(bad)} images a router chooses between experts "
                             f"whose scores differ by less than {TIE:g}", where=str(imported.path),
                             hint="are two experts of the router the same? Train or initialise the router differently")
        apart |= tied
        for name, value in read.items():
            a, b = found[name].reshape(value.shape)[kept].astype(np.float64), value[kept].astype(np.float64)
            similarity, error = _cosine(a, b), float(np.abs(a - b).max(initial=0.0))
            if different[name][kept].any() or similarity < MIN_COSINE:
                raise _mismatch(imported, graph, origin, images, name, similarity, error, float(np.abs(a).max(initial=0.0)))
            cosine, largest = min(cosine, similarity), max(largest, error)
    run = next(iter(runs.values()))
    count = len(next(iter(images.values())))
    return Judgement(cosine, largest, count - len(apart), len(apart), run.runtime, run.note)


def _images(inputs: dict[str, tuple[int, ...]], calibration: dict[str, np.ndarray] | None) -> tuple[dict[str, np.ndarray], int]:
    """Images for each input, float32 [images, ...], and how many of them are calibration images; then noise of their mean and deviation."""
    random = np.random.default_rng(0)
    result, given = {}, 0
    for name, shape in inputs.items():
        noise = random.standard_normal((NOISE_IMAGES, *shape))
        if calibration is not None:
            some = np.asarray(calibration[name][:CALIBRATION_IMAGES], np.float64)
            given = len(some)
            noise = np.concatenate([some, some.mean() + (some.std() or 1.0) * noise])
        largest = float(np.finfo(np.float32).max)
        result[name] = np.clip(noise, -largest, largest).astype(np.float32)
    return result, given


def _run(imported: Imported, origin: Origin, images: dict[str, np.ndarray], values: bool = False) -> OnnxRun:
    macs = sum(macs_of(graph) for graph in imported.model.tasks) * len(next(iter(images.values())))
    return run_onnx(imported.path, images, origin.task, cpu_seconds=BASE_SECONDS + math.ceil(macs / MACS_PER_SECOND),
                    model_bytes=imported.size, values=values)


def macs_of(graph: ir.Graph) -> int:
    """Multiplications of one image, experts counted as if all computed all tokens (so they do in many files)."""
    shapes = graph.shapes()
    total = 0
    for node in graph.nodes:
        tokens = math.prod(shapes[node.output][:-1])
        weights = sum(getattr(node, key).size for key in ("weight", "w1", "w2", "gate") if hasattr(node, key))
        total += tokens * weights
        if isinstance(node, ir.Attention):
            total += 2 * tokens * shapes[node.k][0] * shapes[node.q][-1]
    return total


# ---------------------------------------------------------------- comparing

def _different(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which images differ: [images] bool; a is right."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    largest, moving = np.abs(a).max(initial=0.0), (a.max(0) - a.min(0)).max(initial=0.0) / 2
    error = np.abs(a - b).max(1, initial=0.0)
    return ~(error <= MAX_ERROR * largest) | (error > MAX_MOVING_ERROR * moving) & (error > NOISE * largest)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """1.0 for two zeros."""
    product = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / product if product else float(not a.any() and not b.any())


def _margin(graph: ir.Graph, image: dict[str, np.ndarray]) -> float:
    """The least difference between the last expert chosen and the first one not, over all tokens and routers; infinite without."""
    values = float_model.trace(graph, image)
    least = math.inf
    for node in graph.nodes:
        if isinstance(node, ir.MoE) and node.top_k < node.num_experts:
            rows = values[node.x].reshape(-1, node.gate.shape[0])
            scores = np.sort(float_model.softmax(rows @ node.gate + node.gate_bias), axis=-1)[:, ::-1]
            least = min(least, float((scores[:, node.top_k - 1] - scores[:, node.top_k]).min()))
    return least


# ---------------------------------------------------------------- saying where

def _finite(imported: Imported, graph: ir.Graph, origin: Origin, found: dict[str, np.ndarray], images: dict[str, np.ndarray], given: int) -> None:
    for name in graph.outputs:
        good = np.isfinite(found[name].reshape(len(found[name]), -1)).all(1)
        if good.all():
            continue
        image = int(np.argmin(good))
        run = _values(imported, origin, images, image)
        value = next((key for key, array in run.outputs.items() if not np.isfinite(array).all()), name)
        shown = run.outputs.get(value, found[name][image:image + 1]).ravel()
        message = f"the network itself gives {shown[~np.isfinite(shown)][0]} in {value!r}, result of {run.nodes.get(value, 'the network')}"
        if image < given:
            raise CalibrationError(f"{message}, for calibration image {image}", where=f"{imported.path}: value {value!r}",
                                   hint="give images scaled as in training, and check the weights of that node")
        raise ModelError(f"{message}, for ordinary noise", where=f"{imported.path}: value {value!r}",
                         hint="check the weights of that node and of those in front of it, and export again")


def _values(imported: Imported, origin: Origin, images: dict[str, np.ndarray], image: int) -> OnnxRun:
    """Every float value of the file for one image, in the order of its nodes; none when the file does not show them."""
    try:
        return _run(imported, origin, {name: array[image:image + 1] for name, array in images.items()}, values=True)
    except ModelError:
        return OnnxRun({}, "", None, {})


def _mismatch(imported: Imported, graph: ir.Graph, origin: Origin, images: dict[str, np.ndarray], output: str, cosine: float, error: float,
              largest: float) -> MismatchError:
    first = None
    for image in range(len(next(iter(images.values())))):
        values = _values(imported, origin, images, image).outputs
        trace = float_model.trace(graph, {name: array[image:image + 1] for name, array in images.items()})
        first = next((name for name, array in values.items() if name in origin.bound and _departs(array, origin.bound[name], trace)), None)
        if first is not None:
            break
    shown = (f"; the first value that differs is {first!r}, result of node {origin.bound[first].anchor!r}" if first is not None else
             "; the values before it agree")
    return MismatchError(
        f"hwgen reads the file as something else than it computes: output {output!r} has a cosine of {cosine:.6f} to the file's, with an error "
        f"of up to {error:.3g} where the largest value is {largest:.3g}{shown}",
        where=f"{imported.path}: " + (f"value {first!r}" if first is not None else f"output {output!r}"),
        hint="nothing was written; please report this model: it must not happen. Writing that part of the network in another way helps")


def _departs(array: np.ndarray, bound, trace: dict[str, np.ndarray]) -> bool:
    """Whether an ONNX value is not what it is bound to in the graph."""
    if bound.value not in trace or trace[bound.value].size != array.size:
        return False
    value = bound.factor * trace[bound.value].ravel()
    right = array.ravel().astype(np.float64)
    return not np.abs(right - (value if bound.order is None else value[bound.order])).max() <= MAX_ERROR * np.abs(right).max()
