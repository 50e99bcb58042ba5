"""The method `auto`: for each value, the range with the least error where the value is read.

Each candidate rounds the value of calibration images; what reads it computes with that, all else being float. The squared error of its result
counts, relative to the result: an error that weights do not hear, or a softmax, does no harm. What the error of the value itself
would choose is far from the best, see decision 8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
import math

import numpy as np

from ..graph import Array, Graph, Inner, Model, Node, Role
from ..graph.evaluate import steps
from ..ops import LayerNorm, MoE
from ..steps.format import INT8, WIDE
from .balance import balanced
from .calibration import CLIPS, Range, Site, sites
from .order import multiplied
from .recipe import AUTO, Recipe
from .structure import consumers

IMAGES = 8               # of the calibration set
MACS = 1.2e10            # multiply-accumulates of the float network that may go into it, but for two images
Units = Mapping[str, Mapping[str, float | Array]]
"""Method -> value -> real value of one unit, a number or [channels]."""


def nearest(model: Model, ranges: Mapping[Site, Range], images: Mapping[str, Array], method: str, recipe: Recipe) -> Recipe:
    """The recipe with a method for every value that has `auto`, by its rule or by ``method``, in 8 bits and without a scale. model, ranges: as they
    are quantized; images: float [images, ...] per input. What one ONNX node gives (q, k and v, it may be) has one method."""
    wanted = [{value for value in multiplied(graph) | {node.output for node in graph.nodes if isinstance(node, MoE)}
               if _is_open(recipe, value, method)} - {node.output for node in graph.nodes if node.CHOOSES} for graph in model.tasks]
    if not any(wanted):
        return recipe
    places = sites(model)
    units = {name: _units(model, ranges, places, name, recipe) for name in CLIPS if name != AUTO}
    some = few(model, images)
    errors: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys(units, 0.0))
    groups = [_groups(graph, known) for graph, known in zip(model.tasks, places, strict=True)]
    for graph, known, values in zip(model.tasks, groups, wanted, strict=True):
        for image in range(len(next(iter(some.values())))):
            for value, name, error in _errors(graph, {key: array[image:image + 1] for key, array in some.items()}, values, units):
                errors[known[value]][name] += error
    rules = dict(recipe.values)
    for known, values in zip(groups, wanted, strict=True):
        for value in sorted(values & {value for value, site in known.items() if site in errors}):
            found = errors[known[value]]
            rules[value] = replace(recipe.value(value), method=min(found, key=lambda name: found[name]))
    return replace(recipe, values=rules)


def _groups(graph: Graph, known: Mapping[str, int]) -> dict[str, int]:
    """The least site of what the node of each value gives, by name."""
    producers = {node.output: node.name for node in graph.nodes}
    least: dict[str, int] = {}
    for value, name in producers.items():
        least[name] = min(known[value], least.get(name, known[value]))
    return {value: least[producers[value]] if value in producers else site for value, site in known.items()}


def few(model: Model, images: Mapping[str, Array]) -> dict[str, Array]:
    """As many of the images as are looked at."""
    macs = 1
    for graph in model.tasks:
        shapes = graph.shapes()
        for node in graph.nodes:
            if node.MULTIPLIES:
                macs += math.prod(shapes[node.output][:-1]) * sum(array.size for array in node.params().values())
    return {name: array[:min(IMAGES, max(2, int(MACS / macs)))] for name, array in images.items()}


def _is_open(recipe: Recipe, value: str, method: str) -> bool:
    rule = recipe.value(value)
    return (rule.method or method) == AUTO and rule.scale is None and rule.bits != WIDE.bits


def _units(model: Model, ranges: Mapping[Site, Range], places: list[dict[str, int]], method: str, recipe: Recipe) -> dict[str, float | Array]:
    """Of every value, as it would be with the method everywhere."""
    plain = replace(recipe, values={value: replace(rule, method=method) for value, rule in recipe.values.items()})
    rules = balanced(model, ranges, method, plain)
    found: dict[str, float | Array] = {}
    for graph, known in zip(model.tasks, places, strict=True):
        roles = {node.output: Role.NORM if isinstance(node, LayerNorm) else Role.HIDDEN for node in graph.nodes if isinstance(node, (LayerNorm, MoE))}
        for value, site in known.items():
            given, seen = rules.value(value).scale, ranges.get((site, roles.get(value, Role.OUT)))
            if given is not None:
                found[value] = given
            elif seen is not None:
                found[value] = seen.scale(method)
    return found


def _errors(graph: Graph, image: dict[str, Array], wanted: set[str], units: Units) -> Iterator[tuple[str, str, float]]:
    """(value, method, error): squared, where the value is read, relative."""
    values: dict[str, Array] = {}
    kept = {node.output: inner for node, inner in steps(graph, image, values, inner=True)}
    producers, readers = {node.output: node for node in graph.nodes}, consumers(graph)
    for value in sorted(wanted):
        node = producers.get(value)
        known: dict[bytes, float] = {}
        for name, sizes in units.items():
            if value not in sizes:
                continue
            unit = np.asarray(sizes[value], np.float64)
            key = unit.tobytes()
            if key not in known:
                known[key] = _hidden(node, kept[value], unit) if isinstance(node, MoE) else _read(
                    _rounded(node, values[value], kept.get(value, []), unit), value, values, readers)
            yield value, name, known[key]


def _rounded(node: Node | None, x: Array, inner: Inner, unit: Array) -> Array:
    """What the value would be, if it were stored so."""
    if isinstance(node, LayerNorm):
        stored = next(array for role, array in inner if role is Role.NORM)
        return np.asarray(_image(stored, unit) * node.gamma + node.beta, np.float32)
    return _image(x, unit)


def _image(x: Array, unit: Array) -> Array:
    found: Array = (np.clip(np.rint(x / unit), INT8.lo, INT8.hi) * unit).astype(np.float32)
    return found


def _read(changed: Array, value: str, values: Mapping[str, Array], readers: Mapping[str, list[Node]]) -> float:
    """Over all that reads the value, some of its tokens included; of an output the error of itself."""
    total = 0.0
    for reader in readers[value]:
        result = reader.evaluate(*(changed if name == value else values[name] for name in reader.inputs)).astype(np.float32, copy=False)
        if reader.CHOOSES and readers[reader.output]:
            total += _read(result, reader.output, values, readers)
        else:
            total += _relative(result, values[reader.output])
    return total if readers[value] else _relative(changed, values[value])


def _hidden(node: MoE, inner: Inner, unit: Array) -> float:
    """Of the activations between the layers of experts: the error of the second layers."""
    total = power = 0.0
    for expert, hidden in enumerate(array for role, array in inner if role is Role.HIDDEN):
        own = unit[expert] if unit.ndim == 2 else unit
        total += float((((_image(hidden, own) - hidden) @ node.w2[expert]).astype(np.float64) ** 2).sum())
        power += float(((hidden @ node.w2[expert] + node.b2[expert]).astype(np.float64) ** 2).sum())
    return total / power if power else 0.0


def _relative(found: Array, right: Array) -> float:
    power = float((right.astype(np.float64) ** 2).sum())
    return float(((found - right).astype(np.float64) ** 2).sum()) / power if power else 0.0
