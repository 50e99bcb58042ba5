"""A quantized file, seen from the compiler: its scales go before calibration, and the integer network is held against what the file computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .errors import ModelError
from .importer import Imported
from .judge import cosine, file_outputs
from .quantizer import Precision, Recipe, kept
from .quantizer.calibration import Range, Site
from .steps import golden, host
from .steps.step import Quantized

IMAGES = 8               # of the calibration set, to compare on
FAR = 0.9                # cosine below which the file computes something else than the float network in it
FAR_ON_NOISE = 0.8       # which reaches values that the file was not made for
NEAR = 0.98              # below which a warning says so


@dataclass(frozen=True)
class Said:
    """notes: what is not as in the file, for people. cosine: of each output of the integer network to the file's, the smallest of the tasks
    that have it; empty when nothing runs the file, or a part of it runs on the host."""

    notes: tuple[str, ...]
    cosine: dict[str, float]

    def to_dict(self) -> dict:
        return {"cosine": self.cosine, "notes": list(self.notes)}


def rules(imported: Imported, asked: Recipe, precision: Precision = Precision.W8A8,
          ranges: Mapping[Site, Range] | None = None) -> tuple[Recipe, list[str]]:
    """The recipe of the file with that of the user before it, entry by entry, and what cannot be taken. precision, ranges: as of `kept.recipe`.

    Raises ModelError when the file contradicts itself.
    """
    if imported.kept is None:
        return asked, []
    said, notes = kept.recipe(imported.model, imported.kept, asked, precision, ranges)
    values = {value: said.value(value).over(asked.value(value)) for value in (*said.values, *asked.values)}
    return replace(asked, values=values, steps=said.steps), notes


def in_range(imported: Imported, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Normal noise moved into the range that the file says its input has."""
    grids = {} if imported.kept is None or imported.host is not None else imported.kept.grids
    result = {}
    for name, array in images.items():
        result[name] = array
        if name in grids:
            low, high = (grids[name][0].scale * (q - grids[name][0].zero) for q in (grids[name][0].lo, grids[name][0].hi))
            result[name] = np.clip((low + high) / 2 + array * (high - low) / 6, low, high).astype(np.float32)
    return result


def compared(imported: Imported, quantized: Quantized, recipe: Recipe, notes: list[str], images: dict[str, np.ndarray], random: bool) -> Said | None:
    """The integer network against the quantized file; None of a float one.

    Raises ModelError when they have little to do with each other: then the file relies on values that its rounding cuts off.
    """
    if imported.kept is None:
        return None
    some = {name: array[:IMAGES] for name, array in images.items()}
    cosines: dict[str, float] = {}
    for graph, origin, integers in zip(imported.model.tasks, imported.origins, quantized.tasks, strict=True):
        right = file_outputs(imported, graph, origin, some)
        found = host.dequantize(integers, golden.run(integers, next(iter(some.values()))))
        for name in graph.outputs if right else ():
            similarity = cosine(right[name].ravel().astype(np.float64), found[name].ravel().astype(np.float64))
            cosines[name] = min(similarity, cosines.get(name, 1.0))
    notes = [*notes, *kept.weight_notes(recipe)]
    for name, similarity in cosines.items():
        if similarity < (FAR_ON_NOISE if random else FAR):
            where = "noise in the range of its input" if random else "calibration images"
            raise ModelError(f"the quantized file computes something else than the float network in it: output {name!r} has a cosine of "
                                f"{similarity:.4f} on {where}; its scales cut off values that matter", where=f"{imported.path}",
                                hint="quantize with ranges that hold the values of these images, and with symmetric activations "
                                     "(onnxruntime: ActivationSymmetric), so that no activation function is left to the rounding")
        if similarity < NEAR:
            notes.append(f"quantized file: output {name!r} of the integer network has a cosine of {similarity:.4f} to what the file computes"
                         f"{', on noise' if random else ''}")
    return Said(tuple(notes), cosines)
