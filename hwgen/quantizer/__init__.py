"""Post-training quantizer: float `Model` + calibration images -> integer `steps.Quantized`, checked by `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import CalibrationError, ModelError, combined
from ..graph import Graph, Model, Role, evaluate
from ..steps import golden, host
from ..steps.format import WIDE
from ..steps.param import Params
from ..steps.stages import Stationary
from ..steps.step import Network, Quantized
from ..steps.verify import verify
from . import bias, calibration as calib
from .balance import balanced, widened
from .findings import Clip, Findings, clip_warnings, clipping, input_warnings, joined_warnings, large_values, output_warnings
from .lowering import Lowering
from .precision import Precision
from .recipe import EMPTY, METHODS, Recipe, Rule, known_methods
from .rotation import rotated
from .selection import few, nearest
from .structure import Stream, find_residuals

__all__ = ["EMPTY", "METHODS", "Clip", "Findings", "Precision", "Recipe", "Rule", "accept", "balanced", "chosen", "from_ranges", "known_methods",
           "output_warnings", "quantize", "rotated", "with_findings"]

RESIDUAL_TOP = 28000     # int16 value of the largest residual magnitude seen in calibration: headroom of 17 %


def quantize(model: Model, calibration: dict[str, np.ndarray] | None, *, method: str = "minmax",
             random: bool = False, precision: str = Precision.W8A8, recipe: Recipe = EMPTY) -> Quantized:
    """Quantize every task of a network; weights the tasks share stay one object.

    calibration: {input name: float [images, ...]}, or None together with ``random`` (seeded normal images: no accuracy is
    promised). method: how an int8 range is taken from the histogram, one of `METHODS`; the largest value gives the smallest error where
    networks have tokens that stand out (bench/vit_s14.py). recipe: what overrides that for a value or for weights.
    Raises CalibrationError (set missing or unfit) and ModelError (a structure the engine has no step for).
    """
    return with_findings(model, calibration, method=method, random=random, precision=precision, recipe=recipe)[0]


def with_findings(model: Model, calibration: dict[str, np.ndarray] | None, *, method: str = "minmax",
                  random: bool = False, precision: str = Precision.W8A8, recipe: Recipe = EMPTY,
                  ranges: dict[calib.Site, calib.Range] | None = None) -> tuple[Quantized, Findings]:
    """`quantize`, and what calibration found on the way: what leaves its format, and what looks wrong. ranges: where they are known already."""
    if method not in METHODS:
        raise ValueError(f"method {method!r} is none of {METHODS}")
    model.verify()
    recipe.verify(model)
    model = rotated(model, recipe)
    if precision == Precision.W8A16:
        recipe = widened(model, recipe)
    streams = find_residuals(model.tasks)
    images = calib.checked(model, calibration, random)
    ranges = ranges or calib.collect(model, images)
    recipe = recipe.decided(Precision(precision), random)
    asked, recipe = recipe, chosen(model, ranges, images, method, precision, recipe)
    quantized = from_ranges(model, ranges, method=method, precision=precision, calibration="random" if random else "data",
                            recipe=balanced(model, ranges, method, recipe), images=images)
    sites = calib.sites(model)
    clips = clipping(model, streams, sites, ranges, residual_scales(model, streams, ranges, sites), recipe)
    warnings = [] if random else [w for name, array in images.items() for w in input_warnings(name, array)]
    warnings += [] if random else joined_warnings(model, images, quantized.tasks[0].input[1].format.bits)
    warnings += large_values(model, sites, ranges) + clip_warnings(clips)
    methods = {value: rule.method for value, rule in recipe.values.items() if rule.method and rule.method != asked.value(value).method}
    return quantized, Findings(tuple(clips), tuple(warnings), methods)


def chosen(model: Model, ranges: dict[calib.Site, calib.Range], images: dict[str, np.ndarray], method: str, precision: str,
           recipe: Recipe) -> Recipe:
    """The recipe with a method for every value that has `auto`, by its rule or by ``method``: `nearest`, or min-max for all of them where the
    integer network is nearer to the float one then. model, ranges: as they are quantized; images: float32."""
    best = nearest(model, ranges, images, method, recipe)
    if best is recipe:
        return recipe
    opened = {value for value, rule in best.values.items() if rule.method != recipe.value(value).method}
    plain = replace(best, values={value: replace(rule, method="minmax") if value in opened else rule for value, rule in best.values.items()})
    some = few(model, images)

    def error(rules: Recipe) -> float:
        network = from_ranges(model, ranges, method=method, precision=precision, recipe=balanced(model, ranges, method, rules))
        return sum(_error(graph, integers, some) for graph, integers in zip(model.tasks, network.tasks, strict=True))

    return min(best, plain, key=error)


def _error(graph: Graph, network: Network, images: dict[str, np.ndarray]) -> float:
    """Of the outputs: squared, relative, all added up."""
    found = host.dequantize(network, golden.run(network, next(iter(images.values()))))
    return sum(float(((found[name] - value) ** 2).sum(dtype=np.float64) / max(float((value ** 2).sum(dtype=np.float64)), 1e-30))
               for name, value in evaluate.run(graph, images).items())


def accept(model: Model) -> None:
    """Raises ModelError, about a node where it can be, when there are no steps for the network, whatever its calibration."""
    find_residuals(model.tasks)
    try:
        from_ranges(model, calib.collect(model, {name: array[:1] for name, array in calib.checked(model, None, True).items()}))
    except CalibrationError:                        # of noise: the real images will tell
        return


def from_ranges(model: Model, ranges: dict[calib.Site, calib.Range], *, method: str = "minmax", precision: str = Precision.W8A8,
                calibration: str = "data", recipe: Recipe = EMPTY, images: dict[str, np.ndarray] | None = None) -> Quantized:
    """The second half of `quantize`: a network that verifies, and the range of every site, however it was come by. images: float32, on which
    biases are corrected where the recipe says so; without them none is."""
    streams = find_residuals(model.tasks)
    sites = calib.sites(model)
    scales = residual_scales(model, streams, ranges, sites)
    pool = Params()
    tasks: list[Network] = []
    targets: dict[Stationary, bias.Target] = {}
    used: set[tuple[str, str]] = set()
    wrong: list[ModelError] = []
    for graph, found, known in zip(model.tasks, streams, sites, strict=True):
        try:
            lowering = Lowering(graph, found, scales[:len(found)], ranges, known, method, pool, Precision(precision), recipe)
            tasks.append(lowering.run())
            used |= lowering.used
            targets = lowering.targets | targets
            verify(tasks[-1])
        except ModelError as error:
            wrong.append(error)
    if wrong:
        raise combined(wrong)
    if unused := sorted((what, names) for what, names in recipe.exact if not any((what, name) in used for name in names)):
        what, (name, *_) = unused[0]
        node = next(node for graph in model.tasks for node in graph.nodes if name in (node.output, node.name))
        raise node.fail("a rule is given for its weights, and it has none that are stored by themselves" if what == "weights" else
                        "a rule is given for its result, which is not stored: it is added to the residual stream, leaves the engine, or goes "
                        "on to an activation function",
                        hint="give it to the node that reads this one; hwgen show MODEL.onnx --stage quant prints what is stored")
    if images and targets:
        tasks = bias.corrected(model.tasks, tasks, targets, bias.enough(images, tasks), pool)
        for network in tasks:
            verify(network)
    return Quantized(tuple(tasks), calibration)


def residual_scales(model: Model, streams: Sequence[Sequence[Stream]], ranges: dict[calib.Site, calib.Range],
                    sites: list[dict[str, int]]) -> list[float]:
    """Real value of a unit of each residual stream, by their order; the tasks have it in common: it holds the largest state with some headroom, and
    what is there on the way to a state. Raises ModelError for a stream that is zero."""
    scales = []
    for place in range(max(map(len, streams))):
        tops = [float(np.abs(found[place].table).max()) for found in streams if place < len(found)]
        tops += [ranges[known[value], Role.OUT].maximum for known, found in zip(sites, streams, strict=True) if place < len(found)
                 for value in filter(None, (*found[place].values, found[place].source))]
        if max(tops) == 0.0:
            raise ModelError("the residual stream is zero for every calibration image", where=f"graph {model.tasks[0].name!r}",
                             hint="give calibration images like the ones the model was trained on")
        between = [bound for known, found in zip(sites, streams, strict=True) if place < len(found)
                   for bound in found[place].between({value: ranges[site, Role.OUT].maximum for value, site in known.items()})]
        scales.append(max(max(tops) / RESIDUAL_TOP, max(between, default=0.0) / WIDE.hi))
    return scales
