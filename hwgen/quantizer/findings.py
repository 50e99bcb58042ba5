"""What calibration found beside the ranges: values that leave a fixed number format, and calibration sets that look wrong.

The int16 formats of pre-activations and scores have a few binary points to choose from, router logits one; the residual stream has one
unit for the whole network: whatever is larger saturates, in the integer model and in the hardware. int8 formats are not counted here:
their ranges are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
import math
from typing import Any

import numpy as np

from ..graph import FixedFormat, Model, Role
from ..ops import MoE, Slice
from ..steps.format import WIDE, Format
from .calibration import FORMS, Range, Site
from .recipe import EMPTY, Recipe
from .structure import Stream

CLIP_LIMIT = 1e-3                # share of clipped values above which a layer is warned of
ERROR_LIMIT = 0.1                # of the relative output error
DEVIATION = (0.01, 10.0)         # of input values that a network was trained on
OUTLIER = 100.0                  # largest value over that of the median image, or over the 95th percentile
FEWEST = 4.0                     # bits that are left for the smaller ones of what enters together
HUGE = 1e15                      # float32 squares overflow at 1.8e19


@dataclass(frozen=True)
class Clip:
    """A fixed format of one layer. range: largest magnitude over the calibration images; limit: largest the format holds; both in the
    units of the float network. clipped: share of the calibration values beyond it."""

    node: str
    what: str
    range: float
    limit: float
    clipped: float


@dataclass(frozen=True)
class Findings:
    """clipping: every layer with a fixed format, in the order of the network, whether it clips or not. warnings: one line each. methods: how the
    range of a value is taken, where `auto` chose."""

    clipping: tuple[Clip, ...] = ()
    warnings: tuple[str, ...] = ()
    methods: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows of ``clipping``, JSON-able."""
        return [asdict(clip) for clip in self.clipping]


def clipping(model: Model, streams: Sequence[Sequence[Stream]], sites: list[dict[str, int]], ranges: dict[Site, Range],
             scales: Sequence[float], recipe: Recipe = EMPTY) -> list[Clip]:
    """One row a layer and format; what stands at one place in several tasks is one row. scales: real value of a unit of each stream."""
    rows: dict[tuple[Site, str], Clip] = {}

    def row(node: str, what: str, held: tuple[Sequence[Format], float], site: Site, fine: bool = False) -> None:
        found = ranges.get(site)
        if found is not None:            # an expert no calibration token went to has none
            forms, one = held
            limit = WIDE.hi * found.form(forms, one, fine).unit * one
            rows.setdefault((site, what), Clip(node, what, found.maximum, limit, found.share_beyond(limit)))

    for graph, found, known in zip(model.tasks, streams, sites, strict=True):
        kept: dict[str, list[tuple[FixedFormat, bool]]] = {}
        for node in graph.nodes:
            for fixed in node.formats():
                kept.setdefault(fixed.of or node.output, []).append((fixed, recipe.value(node.output).fine))
        producers = {node.output: node for node in graph.nodes}
        states = {state: (stream, scale) for stream, scale in zip(found, scales, strict=False) for state in stream.values}
        added = {term: scale for stream, scale in zip(found, scales, strict=False) for terms in stream.terms.values() for term in terms}
        for node in graph.nodes:
            for fixed, fine in kept.get(node.output, ()):
                held = FORMS.get(fixed.unit, ((WIDE,), added.get(node.output, 0.0)))
                row(node.name, fixed.what, held, (known[node.output], fixed.role), fine)
            if node.output not in states:
                continue
            stream, scale = states[node.output]
            for term in stream.terms[node.output]:
                if term in producers and not isinstance(producers[term], MoE):
                    row(producers[term].name, "residual update", ((WIDE,), scale), (known[term], Role.OUT))
            if node.output != stream.start:
                row(node.name, "residual", ((WIDE,), scale), (known[node.output], Role.OUT))
    return list(rows.values())


def clip_warnings(clips: list[Clip]) -> list[str]:
    """A line for every layer of which more than 0.1 % is clipped."""
    return [f"{100 * clip.clipped:.2g} % of the calibration values are clipped in node {clip.node!r}: its {clip.what}s reach "
            f"{clip.range:.4g}, int16 holds {clip.limit:.4g}" for clip in clips if clip.clipped > CLIP_LIMIT]


def output_warnings(errors: dict[str, float], remedy: str = "") -> list[str]:
    """A line for every output whose relative error (integer less float model, on calibration images) is above 0.1. remedy: what to do."""
    return [f"output {name!r} of the integer model is {error:.3g} off on calibration images (root mean square, relative to the float "
            f"model); up to {ERROR_LIMIT:g} is usual{remedy}" for name, error in errors.items() if not error <= ERROR_LIMIT]


def large_values(model: Model, sites: list[dict[str, int]], ranges: dict[Site, Range]) -> list[str]:
    """A line for the first node whose values come near the end of float32."""
    for graph, known in zip(model.tasks, sites, strict=True):
        for node in graph.nodes:
            top = ranges[known[node.output], Role.OUT].maximum
            if top > HUGE:
                return [f"values of {type(node).__name__} node {node.name!r} reach {top:.3g}: float32 is near its end there"]
    return []


def joined_warnings(model: Model, images: Mapping[str, np.ndarray], bits: int) -> list[str]:
    """A line for each input of which some tokens, that are read apart from the others, are so much smaller that one scale leaves them few of
    its bits. images: float32 [B, tokens, channels]."""
    found: dict[str, str] = {}
    for node in (node for graph in model.tasks for node in graph.nodes if isinstance(node, Slice) and node.x in images):
        tops = np.abs(images[node.x]).max((0, 2))
        apart = np.zeros(len(tops), bool)
        apart[node.span.slice] = True
        inside, outside = (float(tops[some].max(initial=0)) for some in (apart, ~apart))
        if not inside or not outside:
            continue
        left = bits - abs(math.log2(inside / outside))
        if left < FEWEST:
            text = f"tokens {node.span} reach {inside:.3g}, the others {outside:.3g}; they enter with one scale, which leaves the smaller ones"
            found.setdefault(node.x, f"calibration input {node.x!r}: {text} {max(left, 0):.1f} of {bits} bits: bring them to one range in front of "
                             "the network, and the factor into the weights that read them")
    return list(found.values())


def input_warnings(name: str, images: np.ndarray) -> list[str]:
    """What is odd about calibration images float32 [B, ...] that are finite and not all one value."""
    found, flat = [], np.abs(images.reshape(len(images), -1).astype(np.float64))

    def warn(text: str) -> None:
        found.append(f"calibration input {name!r}: {text}")

    deviation = float(images.std(dtype=np.float64))
    if not DEVIATION[0] <= deviation <= DEVIATION[1]:
        warn(f"the standard deviation of its values is {deviation:.3g}; are they scaled as in training?")
    if images.min() >= 0 and 1 < images.max() <= 255 and (images == np.rint(images)).all():
        warn(f"its values are whole numbers from {images.min():g} to {images.max():g}; pixels that are not scaled as in training?")
    peaks = flat.max(1)
    typical = min(float(np.median(peaks)), float(np.percentile(flat[flat > 0], 95)))
    if peaks.max() > OUTLIER * typical:
        warn(f"image {int(np.argmax(peaks))} reaches {peaks.max():.3g} where {typical:.3g} is typical, and sets the range of all; "
             "is it damaged?")
    constant = np.flatnonzero(np.ptp(images.reshape(len(images), -1), axis=1) == 0)
    if len(constant):
        first = int(constant[0])
        warn(f"{len(constant)} of {len(images)} images hold a single value, the first is image {first} ({images[first].flat[0]:g})")
    if images.ndim == 4:
        channels = images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
        for channel in np.flatnonzero(np.ptp(channels, axis=1) == 0):
            warn(f"channel {channel} is {channels[channel, 0]:g} in every image")
    return found
