"""Ranges of a float network's values over calibration images, collected in one streaming pass.

Two tasks of one network share quantized weights only when the scales around them agree, so a value's range is kept under
a *site*: values that stand at the same place in two task graphs have the same site and get one common range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from .. import ir
from ..errors import CalibrationError
from ..golden import float_model

NUM_BINS = 4096
BATCH_ELEMENTS = 24_000_000     # float values of a trace kept at a time
RANDOM_IMAGES = 8
PERCENTILE = 99.99


class Role(Enum):
    """Which range of a node is meant."""

    OUT = "out"          # the node's output
    NORM = "norm"        # LayerNorm: (x - mean) / sqrt(var + eps), before gamma and beta
    HIDDEN = "hidden"    # MoE: activations between the two layers of the chosen experts


Site = tuple[int, Role]


@dataclass
class Range:
    """Histogram of magnitudes over [0, limit); the limit doubles as larger values come."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    limit: float = 0.0
    maximum: float = 0.0

    def add(self, x: np.ndarray) -> None:
        magnitude = np.abs(np.asarray(x, np.float64)).ravel()
        top = float(magnitude.max(initial=0.0))
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
        clip = self._percentile_clip() if method == "percentile" else self._mse_clip()
        return min(clip, self.maximum) / 127

    def _percentile_clip(self) -> float:
        reached = np.cumsum(self.counts) >= self.counts.sum() * (PERCENTILE / 100)
        return float((np.argmax(reached) + 1) * self.limit / NUM_BINS)

    def _mse_clip(self) -> float:
        """The clip with the least squared error: step**2 / 12 inside, (x - clip)**2 beyond."""
        centers = (np.arange(NUM_BINS) + 0.5) * (self.limit / NUM_BINS)
        clips = self.maximum * np.linspace(0.1, 1.0, 181)
        beyond = np.maximum(centers[None] - clips[:, None], 0.0)
        inside = (beyond == 0.0) @ self.counts * (clips / 127) ** 2 / 12
        return float(clips[np.argmin(inside + beyond ** 2 @ self.counts)])


# ---------------------------------------------------------------- which values belong together

def sites(model: ir.Model) -> list[dict[str, int]]:
    """Per task: value name -> site number. Equal numbers mean the same place in the structure (operator, sizes, inputs).

    Weights do not count: the gates of two tasks stand at one place. Of values alike within a graph (q, k, v of one norm)
    the n-th of one task corresponds to the n-th of another.
    """
    numbers: dict[tuple, int] = {}
    result = []
    for graph in model.tasks:
        shapes = graph.shapes()
        known = {name: numbers.setdefault(("input", name, shape), len(numbers)) for name, shape in graph.inputs.items()}
        seen: dict[tuple, int] = {}
        for node in graph.nodes:
            fixed = tuple(value for key in node.__dataclass_fields__ if key not in ("name", "output", *_value_fields(node))
                          and not isinstance(value := getattr(node, key), np.ndarray))
            place = (type(node).__name__, tuple(known[v] for v in node.inputs), shapes[node.output], fixed)
            seen[place] = seen.get(place, -1) + 1
            known[node.output] = numbers.setdefault((*place, seen[place]), len(numbers))
        result.append(known)
    return result


def _value_fields(node: ir.Node) -> tuple[str, ...]:
    return ("q", "k", "v") if isinstance(node, ir.Attention) else ("x", "y")


# ---------------------------------------------------------------- the pass over the images

def collect(model: ir.Model, images: dict[str, np.ndarray]) -> dict[Site, Range]:
    """Run the float model of every task on the images [B, ...] and return the range of every site."""
    ranges: dict[Site, Range] = {}
    count = len(next(iter(images.values())))
    for graph, known in zip(model.tasks, sites(model)):
        per_image = sum(int(np.prod(shape)) for shape in graph.shapes().values())
        batch = max(1, BATCH_ELEMENTS // per_image)
        for start in range(0, count, batch):
            inputs = {name: array[start:start + batch] for name, array in images.items()}
            values = {**inputs, **float_model.trace(graph, inputs)}
            for name, site in known.items():
                ranges.setdefault((site, Role.OUT), Range()).add(values[name])
            for node in graph.nodes:
                if isinstance(node, ir.LayerNorm):
                    ranges.setdefault((known[node.output], Role.NORM), Range()).add(_normalized(node, values[node.x]))
                elif isinstance(node, ir.MoE):
                    found = ranges.setdefault((known[node.output], Role.HIDDEN), Range())
                    for hidden in _hidden(node, values[node.x]):
                        found.add(hidden)
    return ranges


def _normalized(node: ir.LayerNorm, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + node.eps)


def _hidden(node: ir.MoE, x: np.ndarray):
    """Hidden activations of each expert on the tokens routed to it."""
    rows = x.reshape(-1, x.shape[-1])
    chosen = np.argsort(-(rows @ node.gate + node.gate_bias), axis=-1, kind="stable")[:, :node.top_k]
    for e in range(node.num_experts):
        mine = rows[(chosen == e).any(-1)]
        if len(mine):
            layer = ir.Graph("expert", {"x": (rows.shape[1],)}, (
                ir.Linear(node.name, "pre", "x", node.w1[e], node.b1[e]),
                ir.Activation(node.name, "hidden", "pre", node.act)), {"hidden": "hidden"})
            yield float_model.trace(layer, {"x": mine})["hidden"]


# ---------------------------------------------------------------- the calibration set

def checked(model: ir.Model, calibration: dict[str, np.ndarray] | None, random: bool) -> dict[str, np.ndarray]:
    """The calibration images as float32 [B, ...] per input, or seeded normal ones with ``random``.

    Raises CalibrationError naming the input, what was expected and what was found.
    """
    expected = model.tasks[0].inputs
    if random:
        rng = np.random.default_rng(0)
        return {name: rng.standard_normal((RANDOM_IMAGES, *shape)).astype(np.float32) for name, shape in expected.items()}
    if calibration is None:
        raise CalibrationError("quantization needs calibration images",
                               hint="give --calib FILE.npz, or --calib random for a build without meaningful accuracy")
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
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0])
            raise CalibrationError(f"calibration input {name!r} holds NaN or infinite values in image {bad}",
                                   hint="remove the image or mend it")
        arrays[name] = array.astype(np.float32)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise CalibrationError(f"calibration inputs hold different numbers of images: {counts}")
    return arrays
