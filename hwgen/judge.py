"""The ONNX file is the judge: what it computes itself against what the importer read in it, output by output.

Equal means a cosine of at least `MIN_COSINE`, and no value off by more than `MAX_ERROR` of the largest one; the same channel by channel, and
where a channel hardly moves around a constant, what moves is held to `MAX_MOVING_ERROR`: a large constant hides nothing. A token on
which a router meets a tie closer than `TIE` may be sent to another expert by another order of additions, and a choice of tokens may keep another
one of equal scores (a Sigmoid that is 1): an image whose first difference is such a token is set apart and counted.

With host parts, what is compared are the values at the cuts, and the file's outputs behind prefix, float network and suffix. Whole numbers
(a class) are the same where the values they are made of are: one that differs stands for a tie, and its image is set apart and counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
import math

import numpy as np

from . import hostrun, mask_judge
from .errors import CalibrationError, MismatchError, ModelError
from .graph import Graph, evaluate
from .hostparts import PREFIX, HostParts, Value
from .hostrun import BYTES_PER_VALUE
from .importer import Imported, Origin
from .ops import Attention, AttentionPool, MoE, Prune
from .ops.moe import TIE
from .tools.reference import MEMORY_PER_BYTE, OnnxRun, run_onnx

MIN_COSINE = 0.99999
MIN_ROUNDED_COSINE = 0.99       # of a quantized file to itself, read and rounded again: units of a rounding may differ
MAX_ERROR = 1e-3                 # of the largest value of the output
MAX_MOVING_ERROR = 1e-2          # of how far the output moves between images, beyond NOISE
NOISE = 2e-5                     # of the largest value of a channel, or of a usual channel: what float32 loses on the way
TIED = f"a router chooses between experts whose scores differ by less than {TIE:g}"
HINTS = (("does a Sigmoid or Softmax in front of the choice give exactly 0 or 1 for many tokens? Scale the scores as in training, "
          "or choose by what it reads"),
         "are two experts of the router the same? Train or initialise the router differently")
CALIBRATION_IMAGES = NOISE_IMAGES = 4


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
    """Run the file on some calibration images (of its inputs) and on noise like them, and compare every output.

    Raises MismatchError when an output differs (with the first ONNX value that does), ModelError when the file cannot be run within the
    limits, CalibrationError or ModelError when it, or the network in float32, gives NaN or infinity.
    """
    host = imported.host
    images, given = _images(host.inputs if host else _plain(imported.model.tasks[0].inputs), calibration)
    fed = images if host is None or host.prefix is None else hostrun.run_part(host.prefix, PREFIX, images)
    least, largest, apart = 1.0, 0.0, set()
    runs: dict[str, OnnxRun] = {}
    for graph, origin in zip(imported.model.tasks, imported.origins, strict=True):
        key = str(origin.task)
        if key not in runs:
            runs[key] = _run(imported, origin, images)
            if imported.rounded_file is not None:
                _as_rounded(imported, origin, images)
        found = runs[key].outputs
        usable = _finite(imported, graph, origin, found, images, given)
        read = evaluate.run(graph, fed)
        _overflow(imported, graph, read, usable, given)
        read, chosen = _in_the_file(host, fed, read, found)
        for name, value in read.items():
            if not value.size:
                raise ModelError(f"{name!r} has no elements", where=f"{imported.path}: {name!r}", hint="leave that output out of the file")
            if found[name].size != value.size:
                raise ModelError(f"{name!r} has {found[name][0].size:,} elements when the file is run, and {value[0].size:,} by the shapes of its "
                                 "operands", where=f"{imported.path}: {name!r}",
                                 hint="give the operators that fusing tools have written operands of one shape, or export without such a tool")
        different = {name: _different(found[name].reshape(value.shape), value, usable) for name, value in read.items()}
        bad = np.logical_or.reduce(list(different.values()))
        ties = {int(i): _tied(imported, graph, origin, images, fed, int(i)) for i in np.flatnonzero(bad)}
        tied = {i for i, tie in ties.items() if tie}
        tied |= {i for value in chosen for i in usable if not np.array_equal(found[value][i].ravel(), chosen[value][i].ravel()) and not bad[i]}
        kept = [i for i in usable if i not in tied]
        if not kept:
            what = next((tie for tie in ties.values() if tie), TIED)
            raise ModelError(f"the network cannot be compared with the file: on each of {len(usable)} images {what}, or a class between two alike",
                             where=str(imported.path), hint=HINTS[what == TIED])
        apart |= tied
        for name, value in read.items():
            a, b = found[name].reshape(value.shape)[kept].astype(np.float64), value[kept].astype(np.float64)
            similarity, error = cosine(a, b), float(np.abs(a - b).max(initial=0.0))
            if different[name][kept].any() or similarity < MIN_COSINE:
                raise _mismatch(imported, graph, origin, images, fed, name, similarity, error, float(np.abs(a).max(initial=0.0)))
            least, largest = min(least, similarity), max(largest, error)
        if imported.padding is not None:
            some = {name: array[:mask_judge.IMAGES] for name, array in images.items()}
            masked = {length: _run(imported, origin, some, length=length) for length in imported.padding.tried()}
            some = {name: array[:mask_judge.IMAGES] for name, array in fed.items()}
            mask_judge.judge_masks(imported, imported.padding, graph, some, masked)
    run = next(iter(runs.values()))
    note = run.note
    if imported.float_file is not None and imported.kept is None:
        note = "; ".join(filter(None, [note, _in_halves(imported, runs, images)]))
    return Judgement(least, largest, len(usable) - len(apart), len(apart), run.runtime, note)


def _in_halves(imported: Imported, runs: dict[str, OnnxRun], images: dict[str, np.ndarray]) -> str:
    """How far a file of 16-bit floating point is from the float32 network it was compared as. runs: of that, by the task."""
    what = "the file is of 16-bit floating point and was compared as the float32 network with its weights"
    least = 1.0
    for origin in imported.origins:
        try:
            own = _run(replace(imported, float_file=None), origin, images).outputs
        except ModelError:
            return f"{what}; nothing here runs it as it is"
        for name, value in own.items():
            a, b = value.astype(np.float64), runs[str(origin.task)].outputs[name].astype(np.float64)
            finite = np.isfinite(a) & np.isfinite(b)
            least = min(least, cosine(a[finite], b[finite]))
    return f"{what}; as it is, its cosine to that is {least:.7f}"


def _in_the_file(host: HostParts | None, fed: dict[str, np.ndarray], read: dict[str, np.ndarray],
                 found: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(values in floating point, values in whole numbers) to be compared with those of the file: where it is cut, and its outputs."""
    if host is None:
        return read, {}
    every = (fed if host.prefix else {}) | read | hostrun.after(host, read)
    floats = {name: value for name, value in every.items() if value.dtype.kind == "f" and name in found}
    return floats, {name: value for name, value in every.items() if value.dtype.kind != "f" and name in found}


def _plain(inputs: dict[str, tuple[int, ...]]) -> tuple[Value, ...]:
    return tuple(Value(name, "float32", shape) for name, shape in inputs.items())


def _images(inputs: tuple[Value, ...], calibration: dict[str, np.ndarray] | None) -> tuple[dict[str, np.ndarray], int]:
    """Images for each input, [images, ...], and how many of them are calibration images.

    Behind those, evenly chosen from the set, noise of their mean and deviation; then what reaches other parts of a network: three times
    that noise, a constant, and a slope (neighbouring values alike, as in a picture). Whole numbers are noise in their range.
    """
    random = np.random.default_rng(0)
    result, given = {}, 0
    largest = float(np.finfo(np.float32).max)
    for value in inputs:
        name, shape = value.name, value.shape
        own = None
        if calibration is not None:
            own = calibration[name][np.unique(np.linspace(0, len(calibration[name]) - 1, CALIBRATION_IMAGES).round().astype(int))]
            given = len(own)
        if not value.is_float:
            some = value.noise(random, NOISE_IMAGES + 3)
            result[name] = some if own is None else np.concatenate([own, some])
            continue
        noise = random.standard_normal((NOISE_IMAGES, *shape))
        slopes = sum(np.linspace(-1.5, 1.5, size).reshape(-1, *[1] * (len(shape) - 1 - axis)) for axis, size in enumerate(shape))
        some = np.concatenate([noise, 3 * noise[:1], np.full((1, *shape), 0.5), np.broadcast_to(slopes, (1, *shape))])
        if own is not None:
            own = np.asarray(own, np.float64)
            some = np.concatenate([own, own.mean() + (own.std() or 1.0) * some])
        result[name] = np.clip(some, -largest, largest).astype(value.dtype)
    return result, given


def file_outputs(imported: Imported, graph: Graph, origin: Origin, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a quantized file computes, rounding included, {output: [images, ...]}: by the file, or where nothing runs it by the float network
    in it with the rounding put back. Nothing when a part of it runs on the host, which reads values that are rounded in the file."""
    if imported.host is not None:
        return {}
    try:
        found = _run(replace(imported, float_file=None), origin, images).outputs
    except ModelError:
        found = _run(replace(imported, float_file=imported.rounded_file), origin, images).outputs
    return {name: found[name] for name in graph.outputs}


def _as_rounded(imported: Imported, origin: Origin, images: dict[str, np.ndarray]) -> None:
    """Raises MismatchError when a quantized file computes something else than what was read in it, rounding included."""
    try:
        right = _run(replace(imported, float_file=None), origin, images).outputs
    except ModelError:                                              # operators that are no business of onnxruntime (QONNX)
        return
    found = _run(replace(imported, float_file=imported.rounded_file), origin, images).outputs
    for name in found if imported.host is None else (value.name for value in imported.host.outputs):     # inside a file may have whole numbers
        a, b = right[name].astype(np.float64), found[name].astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        if cosine(a[finite], b[finite]) < MIN_ROUNDED_COSINE:
            raise MismatchError(f"hwgen reads the quantized file as something else than it computes: output {name!r} has a cosine of "
                                f"{cosine(a[finite], b[finite]):.6f} to the file's", where=f"{imported.path}: output {name!r}",
                                hint="nothing was written; please report this model: it must not happen. Quantizing with QuantizeLinear and "
                                     "DequantizeLinear in pairs (QuantFormat.QDQ) helps")


def _run(imported: Imported, origin: Origin, images: dict[str, np.ndarray], values: bool = False, length: int = 0) -> OnnxRun:
    """length: tokens that a mask shows, of the file as it is; 0: all, and of what stands for it."""
    graphs, count, host = imported.model.tasks, len(next(iter(images.values()))), imported.host
    numbers = sum(math.prod(shape) for graph in graphs for shape in graph.shapes().values())
    macs, weights = sum(macs_of(graph) for graph in graphs), imported.size
    more: tuple[str, ...] = ()
    if host is not None:
        for part in host.parts.values():
            numbers, macs, weights = numbers + part.size, macs + part.macs, weights + len(part.content)
        more = (*((value.name for value in host.prefix.outputs) if host.prefix else ()), *(name for graph in graphs for name in graph.outputs))
    content, padding = (None if length else imported.float_file), imported.padding
    if padding is not None and content is None:
        images = images | {padding.name: padding.masks([length or padding.tokens] * count)}
    return run_onnx(imported.path, images, origin.task, cpu_seconds=hostrun.seconds(macs, count),
                    more_bytes=weights * MEMORY_PER_BYTE + numbers * BYTES_PER_VALUE, values=values, more=more, content=content)


def macs_of(graph: Graph) -> int:
    """Multiplications of one image, experts counted as if all computed all tokens (so they do in many files)."""
    shapes = graph.shapes()
    total = 0
    for node in graph.nodes:
        tokens = math.prod(shapes[node.output][:-1])
        weights = sum(getattr(node, key).size for key in ("weight", "w1", "w2", "w3", "gate") if hasattr(node, key))
        total += tokens * weights
        if isinstance(node, (Attention, AttentionPool)):
            total += 2 * tokens * math.prod(shapes[node.k])
    return total


# ---------------------------------------------------------------- comparing

def _different(a: np.ndarray, b: np.ndarray, usable: list[int]) -> np.ndarray:
    """Which images differ: [images] bool, false for those that are not usable; a is right."""
    x, y = (value[usable].reshape(len(usable), -1, value.shape[-1]).astype(np.float64) for value in (a, b))
    error = np.abs(x - y).max(1, initial=0.0)                                             # [images, channels]
    size, moving = np.abs(x).max((0, 1), initial=0.0), (x.max((0, 1)) - x.min((0, 1))) / 2      # [channels]
    rounding = NOISE * np.maximum(size, np.median(size))
    bad = ~(error.max(1) <= MAX_ERROR * size.max()) | ((error > rounding) & ((error > MAX_ERROR * size) | (error > MAX_MOVING_ERROR * moving))).any(1)
    result = np.zeros(len(a), bool)
    result[usable] = bad
    return result


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """1.0 for two zeros."""
    product = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / product if product else float(not a.any() and not b.any())


def _tied(imported: Imported, graph: Graph, origin: Origin, images: dict[str, np.ndarray], fed: dict[str, np.ndarray], image: int) -> str:
    """Which tie the first values of this image that differ are of, in words: tokens of a mixture of experts on which its router meets one, or
    tokens that a choice keeps where their scores in the file are the same. Empty when it is none."""
    if not any(isinstance(node, (MoE, Prune)) for node in graph.nodes):
        return ""
    trace = evaluate.trace(graph, {name: array[image:image + 1] for name, array in fed.items()})
    values = _values(imported, origin, images, image).outputs
    for name, array in values.items():
        bound = origin.bound.get(name)
        if bound is None or not _departs(array, bound, trace):
            continue
        if not isinstance(bound.node, (MoE, Prune)):
            return ""
        right = array.ravel() if bound.order is None else array.ravel()[np.argsort(bound.order)]
        right = right.reshape(trace[bound.value].shape[1:])
        if isinstance(bound.node, Prune):
            alike = _alike(bound.node, right / bound.factor, trace, list(values.values()))
            return f"the choice of tokens {bound.node.name!r} meets scores that are the same" if alike else ""
        off = np.abs(right - bound.factor * trace[bound.value][0]).max(-1) > MAX_ERROR * np.abs(right).max()
        rows = trace[bound.node.routed][0].reshape(-1, bound.node.gate.shape[0])
        return TIED if (bound.node.margins(rows)[off.ravel()] < TIE).all() else ""
    return ""


def _alike(node: Prune, right: np.ndarray, trace: dict[str, np.ndarray], values: list[np.ndarray]) -> bool:
    """Whether the file keeps other tokens only where they have equal scores. right: what it keeps, [front + keep, D]. The scores are a value of
    the file that does not fall where those of the graph rise; where all are the same, the first tokens are kept."""
    x, mine = trace[node.x][0][node.front:], node.kept(*(trace[value] for value in node.inputs))[0]
    distance = np.array([np.abs(x - row).max(-1) for row in right])
    kept = distance[node.front:].argmin(-1)
    if np.abs(trace[node.x][0][:node.front] - right[:node.front]).max(initial=0.0) > MAX_ERROR * np.abs(right).max() \
            or distance[node.front:].min(-1).max() > MAX_ERROR * np.abs(right).max() or len(np.unique(kept)) < len(kept):
        return False
    order = np.argsort(trace[node.score].ravel()[-len(x):], kind="stable")
    for value in values:
        scores = value.ravel()[-len(x):].astype(np.float64)
        if value.dtype.kind != "f" or value.size not in (len(x), len(x) + node.front) or not np.isfinite(scores).all():
            continue
        slack = TIE * np.ptp(scores)
        for sign in (1, -1):
            both = [scores[mine], scores[kept]] if node.ranked else [np.sort(scores[mine]), np.sort(scores[kept])]
            if (slack or np.array_equal(kept, np.arange(node.keep))) and (sign * np.diff(scores[order]) >= -slack).all() \
                    and np.abs(both[0] - both[1]).max() <= slack:
                return True
    return False


# ---------------------------------------------------------------- saying where

def _finite(imported: Imported, graph: Graph, origin: Origin, found: dict[str, np.ndarray], images: dict[str, np.ndarray],
            given: int) -> list[int]:
    """Images on which every output is a number. Raises for a calibration image, or ordinary noise, on which one is not."""
    count = len(next(iter(images.values())))
    good = np.ones(count, bool)
    for name in [name for name, array in found.items() if array.dtype.kind == "f"] if imported.host else graph.outputs:
        finite = np.isfinite(found[name].reshape(count, -1)).all(1)
        good &= finite
        if finite[:given + NOISE_IMAGES].all():
            continue
        image = int(np.argmin(finite))
        run = _values(imported, origin, images, image)
        value = next((key for key, array in run.outputs.items() if not np.isfinite(array).all()), name)
        shown = run.outputs.get(value, found[name][image:image + 1]).ravel()
        message = f"the network itself gives {shown[~np.isfinite(shown)][0]} in {value!r}, result of {run.nodes.get(value, 'the network')}"
        if image < given:
            raise CalibrationError(f"{message}, for a calibration image", where=f"{imported.path}: value {value!r}",
                                   hint="give images scaled as in training, and check the weights of that node")
        raise ModelError(f"{message}, for ordinary noise", where=f"{imported.path}: value {value!r}",
                         hint="check the weights of that node and of those in front of it, and export again")
    return np.flatnonzero(good).tolist()


def _overflow(imported: Imported, graph: Graph, read: dict[str, np.ndarray], usable: list[int], given: int) -> None:
    """Raises when the float network leaves float32 where the file does not: values near its end."""
    for name, value in read.items():
        if not np.isfinite(value[usable]).all():
            kind = CalibrationError if given else ModelError
            raise kind(f"output {name!r} cannot be compared: the values of the network come near the end of float32", where=str(imported.path),
                       hint="give images scaled as in training" if given else "check the weights, and export again")


def _values(imported: Imported, origin: Origin, images: dict[str, np.ndarray], image: int) -> OnnxRun:
    """Every float value of the file for one image, in the order of its nodes; none when the file does not show them."""
    try:
        return _run(imported, origin, {name: array[image:image + 1] for name, array in images.items()}, values=True)
    except ModelError:
        return OnnxRun({}, "", None, {})


def _mismatch(imported: Imported, graph: Graph, origin: Origin, images: dict[str, np.ndarray], fed: dict[str, np.ndarray], output: str,
              cosine: float, error: float, largest: float) -> MismatchError:
    first = None
    for image in range(len(next(iter(images.values())))):
        values = _values(imported, origin, images, image).outputs
        trace = evaluate.trace(graph, {name: array[image:image + 1] for name, array in fed.items()})
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
    right = array.ravel().astype(np.float64)
    return not np.abs(right - bound.onnx(trace[bound.value])).max() <= MAX_ERROR * np.abs(right).max()
