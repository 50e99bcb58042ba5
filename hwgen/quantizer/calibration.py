"""Ranges of a float network's values over calibration images, collected in one streaming pass.

Two tasks of one network share quantized weights only when the scales around them agree, so a value's range is kept under
a *site*: values that stand at the same place in two task graphs have the same site and get one common range.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
import math

import numpy as np

from ..errors import CalibrationError, HwgenError, ModelError
from ..graph import Graph, Model, Node, Role, Unit
from ..graph.evaluate import steps
from ..steps.format import INT8, LOGIT, OCTAVE, PRE_ACTIVATIONS, SCORES, Format

NUM_BINS = 4096
BATCH_ELEMENTS = 24_000_000     # float values of a trace kept at a time
RANDOM_IMAGES = 8
PERCENTILE = 99.99
NOTHING = 1e-4                  # values of a bin that holds none, for a logarithm
HEADROOM = 1.25                 # of a finer binary point than usual over the largest magnitude seen
LARGE = 1e6                     # no weight and no image value of a working network
FORMS = {Unit.SCORE: (SCORES, OCTAVE), Unit.LOGIT: ((LOGIT,), OCTAVE), Unit.PRE_ACT: (PRE_ACTIVATIONS, 1.0)}
"""The formats with a binary point that values may be kept in, the usual one first, and the real value of their 1."""

Site = tuple[int, Role]


class NotFinite(ValueError):
    """A value is NaN or infinite: it has no place in a histogram."""


@dataclass
class Range:
    """Histogram of magnitudes over [0, limit); the limit doubles as larger values come. peaks: the largest of each channel, [channels], once there
    is a value; None where values differ in their number of channels."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    limit: float = 0.0
    maximum: float = 0.0
    peaks: np.ndarray | None = field(default=None, kw_only=True)

    def add(self, x: np.ndarray) -> None:
        """Raises NotFinite."""
        magnitude = np.abs(np.asarray(x, np.float64))
        top = float(magnitude.max(initial=0.0))
        if not math.isfinite(top):
            raise NotFinite
        peaks = magnitude.max(tuple(range(x.ndim - 1)), initial=0.0)
        if not self.counts.any():
            self.peaks = peaks
        else:
            self.peaks = np.maximum(self.peaks, peaks) if self.peaks is not None and self.peaks.shape == peaks.shape else None
        magnitude = magnitude.ravel()
        if top == 0.0:
            self.counts[0] += magnitude.size
            return
        if self.limit == 0.0:
            self.limit = 2.0 ** np.ceil(np.log2(top) + 1e-9)
        while top >= self.limit:                       # merge pairs of bins: the limit stays a power of two
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(NUM_BINS // 2, np.int64)])
            self.limit *= 2
        self.maximum = max(self.maximum, top)
        self.counts += np.bincount((magnitude * (NUM_BINS / self.limit)).astype(np.int64), minlength=NUM_BINS)

    def scale(self, method: str) -> float:
        """Scale of the int8 image of this value (127 * scale is where it clips); 1.0 for a value that is always 0."""
        if self.maximum == 0.0:
            return 1.0
        return min(CLIPS[method](self), self.maximum) / INT8.hi

    def form(self, forms: Sequence[Format], one: float = 1.0, fine: bool = False) -> Format:
        """Of these formats with a fixed binary point, whose 1 has the real value ``one``: the first of them, or the next coarser that holds
        the largest magnitude. fine: the finest that holds `HEADROOM` times as much. The coarsest when none does."""
        order = sorted(forms, key=lambda form: form.unit)
        usual = order.index(forms[0])
        for place in range(0 if fine else usual, len(order)):
            if self.maximum * (HEADROOM if place < usual else 1) <= order[place].hi * order[place].unit * one:
                return order[place]
        return order[-1]

    def share_beyond(self, limit: float) -> float:
        """Share of the values larger than ``limit``, which is rounded to a bin: 1/4096 of the range seen."""
        if self.maximum <= limit:
            return 0.0
        return float(self.counts[round(limit * NUM_BINS / self.limit):].sum() / self.counts.sum())

    def percentile_clip(self) -> float:
        reached = np.cumsum(self.counts) >= self.counts.sum() * (PERCENTILE / 100)
        return float((np.argmax(reached) + 1) * self.limit / NUM_BINS)

    def entropy_clip(self) -> float:
        """The clip with the least relative entropy of the integer image to what it is of, beyond the clip counted at it (as TensorRT does)."""
        levels, used = INT8.hi + 1, max(1, int(np.ceil(self.maximum / self.limit * NUM_BINS)))
        best, least = used, np.inf
        for bins in range(min(levels, used), used + 1, max(1, NUM_BINS // 128)):
            p = self.counts[:bins].astype(np.float64)
            p[-1] += self.counts[bins:].sum()
            full, level = p > 0, np.arange(bins) * levels // bins
            q = (np.bincount(level, self.counts[:bins]) / np.maximum(np.bincount(level, full), 1))[level]
            p, q = p[full], np.maximum(q[full], NOTHING)
            divergence = float((p / p.sum() * np.log(p / p.sum() * q.sum() / q)).sum())
            if divergence <= least:
                best, least = bins, divergence
        return best * self.limit / NUM_BINS

    def mse_clip(self) -> float:
        """The clip with the least squared error: step**2 / 12 inside, (x - clip)**2 beyond."""
        centers = (np.arange(NUM_BINS) + 0.5) * (self.limit / NUM_BINS)
        clips = self.maximum * np.linspace(0.1, 1.0, 181)
        beyond = np.maximum(centers[None] - clips[:, None], 0.0)
        inside = (beyond == 0.0) @ self.counts * (clips / INT8.hi) ** 2 / 12
        return float(clips[np.argmin(inside + beyond ** 2 @ self.counts)])


CLIPS: dict[str, Callable[[Range], float]] = {
    "minmax": lambda found: found.maximum,
    "percentile": Range.percentile_clip,
    "mse": Range.mse_clip,
    "entropy": Range.entropy_clip,
    "auto": lambda found: found.maximum,            # of what no images were compared on
}
"""How the magnitude from which on an int8 value clips is chosen; `recipe.METHODS` names them."""


# ---------------------------------------------------------------- which values belong together

def sites(model: Model) -> list[dict[str, int]]:
    """Per task: value name -> site number. Equal numbers mean the same place in the structure (operator, sizes, inputs).

    Weights do not count: the gates of two tasks stand at one place. Of values alike within a graph (q, k, v of one norm)
    the n-th of one task corresponds to the n-th of another.
    """
    numbers: dict[Hashable, int] = {}
    result = []
    for graph in model.tasks:
        shapes = graph.shapes()
        known = {name: numbers.setdefault(("input", name, shape), len(numbers)) for name, shape in graph.inputs.items()}
        seen: dict[Hashable, int] = {}
        for node in graph.nodes:
            fixed = tuple(node.attributes().values())
            place = (type(node).__name__, tuple(known[v] for v in node.inputs), shapes[node.output], fixed)
            seen[place] = seen.get(place, -1) + 1
            known[node.output] = numbers.setdefault((*place, seen[place]), len(numbers))
        result.append(known)
    return result


# ---------------------------------------------------------------- the pass over the images

def collect(model: Model, images: dict[str, np.ndarray]) -> dict[Site, Range]:
    """Run the float model of every task on the images [B, ...] and return the range of every site.

    Raises CalibrationError or ModelError naming the first node that gives NaN or infinity.
    """
    ranges: dict[Site, Range] = {}
    count = len(next(iter(images.values())))
    for graph, known in zip(model.tasks, sites(model), strict=True):
        per_image = sum(int(np.prod(shape)) for shape in graph.shapes().values())
        batch = max(1, BATCH_ELEMENTS // per_image)
        for start in range(0, count, batch):
            inputs = {name: array[start:start + batch] for name, array in images.items()}
            values: dict[str, np.ndarray] = {}
            with np.errstate(all="ignore"):             # what overflows is found below
                for node, inner in steps(graph, inputs, values, inner=True):
                    try:
                        for role, found in ((Role.OUT, values[node.output]), *inner):
                            ranges.setdefault((known[node.output], role), Range()).add(found)
                    except NotFinite as error:
                        raise not_finite(graph, node, values, start) from error
                for name in graph.inputs:
                    ranges.setdefault((known[name], Role.OUT), Range()).add(values[name])
    return ranges


def not_finite(graph: Graph, node: Node, values: dict[str, np.ndarray], first_image: int) -> HwgenError:
    """The error for a node whose result is not finite: its largest operand and the largest weight up to it say where that comes from."""
    result = values[node.output]
    bad = ~np.isfinite(result.reshape(len(result), -1)).all(1)
    what = f"gives {'NaN' if np.isnan(result).any() else 'infinity'}" if bad.any() else "overflows"
    operand = max(float(np.abs(values[name][np.argmax(bad)]).max()) for name in node.inputs)
    image = max(float(np.abs(values[name]).max()) for name in graph.inputs)
    before = graph.nodes[:graph.nodes.index(node) + 1]
    weight, heavy = max(((float(np.abs(array).max(initial=0)), place) for place in before
                         for array in place.params().values()), key=lambda pair: pair[0], default=(0.0, node))
    message = (f"{what} for calibration image {first_image + int(np.argmax(bad))}: the node's operands reach {operand:.3g}, the images "
               f"{image:.3g}, and the largest weight up to here is {weight:.3g}, of {type(heavy).__name__} node {heavy.name!r}")
    where = f"{type(node).__name__} node {node.name!r}"
    if weight > max(image, LARGE):
        return ModelError(message, where=where, hint="float32 overflows: mend the weights of that node and export the model again")
    return CalibrationError(message, where=where, hint="scale the images as in training" if image > LARGE else
                            "the network has no finite result for this image: remove it, or find out why")


# ---------------------------------------------------------------- the calibration set

def checked(model: Model, calibration: dict[str, np.ndarray] | None, random: bool) -> dict[str, np.ndarray]:
    """The calibration images as float32 [B, ...] per input; with ``random`` seeded normal ones where none are given.

    Raises CalibrationError naming the input, what was expected and what was found.
    """
    expected = model.tasks[0].inputs
    if random and calibration is None:
        rng = np.random.default_rng(0)
        return {name: rng.standard_normal((RANDOM_IMAGES, *shape)).astype(np.float32) for name, shape in expected.items()}
    if calibration is None:
        raise CalibrationError("quantization needs calibration images",
                               hint="give images as {input name: array}, or random=True for seeded noise (accuracy is unknown then)")
    arrays = {}
    for name, shape in expected.items():
        wanted = f"expected a float array [images, {', '.join(map(str, shape))}] under the name {name!r}"
        if name not in calibration:
            raise CalibrationError(f"calibration set lacks the input {name!r}; it holds {sorted(calibration)}", hint=wanted)
        array = np.asarray(calibration[name])
        if array.dtype.kind != "f":
            raise CalibrationError(f"calibration input {name!r} has dtype {array.dtype}",
                                   hint=f"{wanted}, scaled as in training")
        if array.ndim != len(shape) + 1 or array.shape[1:] != tuple(shape):
            raise CalibrationError(f"calibration input {name!r} has shape {array.shape}", hint=wanted)
        if not len(array):
            raise CalibrationError(f"calibration input {name!r} is empty: shape {array.shape}", hint=wanted)
        with np.errstate(over="ignore"):                    # a float64 that float32 does not hold becomes infinite
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0])
            raise CalibrationError(f"calibration input {name!r} holds NaN or infinite values in image {bad}",
                                   hint="remove the image or mend it")
        if (array == array.flat[0]).all():
            raise CalibrationError(f"calibration input {name!r} holds nothing but the value {array.flat[0]:g}",
                                   hint=f"{wanted}: images like those the network will see")
        arrays[name] = array
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise CalibrationError(f"calibration inputs hold different numbers of images: {counts}",
                               hint="give each input one array entry an image")
    return arrays
