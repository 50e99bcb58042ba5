"""Mixed precision: the cheapest set of values to keep in 16 bits, so that the integer network reaches a target.

Values are ordered by what their rounding alone does to the outputs (`layers`), for each multiply-accumulate that 16 bits cost more; as many
are widened as the target needs, which the integer network itself says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .errors import InputError, ModelError
from .graph import Graph
from .layers import LayerError
from .ops import Linear
from .quantizer import Recipe, Rule
from .steps.format import WIDE
from .steps.step import Network, Quantized

NAMED = 3                # nodes in a message


@dataclass(frozen=True)
class Point:
    """The network with so many values in 16 bits. figure: what was reached; cycles: of an image, stage "estimate", None without an engine that
    knows."""

    values: int
    figure: float
    cycles: int | None


@dataclass(frozen=True)
class Mixed:
    """what: the unit of figures, "snr_db" or "accuracy"; widened: the ONNX nodes whose results have 16 bits, the most urgent first; curve: what was
    tried, by number of values."""

    what: str
    target: float
    widened: tuple[str, ...]
    curve: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A value that can have 16 bits. noise: energy of its rounding at the worst output, relative; macs: what 16 bits cost more."""

    value: str
    node: str
    noise: float
    macs: int


def candidates(graphs: Sequence[Graph], networks: Sequence[Network], errors: Sequence[LayerError]) -> list[Candidate]:
    """The values that only linear maps read, the most urgent first. errors: with `LayerError.alone_db`."""
    allowed: set[str] = set()
    refused: set[str] = set()
    for graph in graphs:
        for node in graph.nodes:
            for value in node.inputs:
                (allowed if isinstance(node, Linear) else refused).add(value)
    extra: dict[str, int] = {}
    for network in networks:
        for step in network.steps:
            if step.source_view is not None:
                extra[step.source.name] = extra.get(step.source.name, 0) + step.macs
            if step.tile.multiplies and step.weights is not None:          # the high bytes and the low ones are stored by a pass each
                extra[step.sink.name] = extra.get(step.sink.name, 0) + step.macs
    found = [Candidate(error.value, error.node, 10 ** (-error.alone_db / 10), max(1, extra.get(error.value, 0)))
             for error in errors if error.alone_db is not None and error.value in allowed - refused]
    return sorted(found, key=lambda one: -one.noise / one.macs)


def search(base: Recipe, ordered: Sequence[Candidate], make: Callable[[Recipe], Quantized], measure: Callable[[Quantized], float],
           cycles: Callable[[Quantized], int | None], what: str, target: float) -> tuple[Recipe, Quantized, Mixed]:
    """The recipe with the fewest of the ordered values in 16 bits that reaches ``target``, its network, and the curve.

    base: the rules that hold already; values with bits or a scale of their own stay as they are. Raises InputError when all of them do not
    reach it.
    """
    free = [one for one in ordered if base.value(one.value).bits is None and base.value(one.value).scale is None]
    points: dict[int, tuple[Point, Recipe, Quantized]] = {}

    def point(count: int) -> float:
        if count not in points:
            rules = _widened(base, free[:count])
            network = make(rules)
            points[count] = Point(count, measure(network), cycles(network)), rules, network
        return points[count][0].figure

    free = _possible(base, free, make)
    low, high = 0, len(free)
    if point(low) >= target:
        high = low
    elif point(high) < target:
        raise InputError(f"no set of layers reaches {_amount(what, target)}: with {len(free)} values in 16 bits the network reaches "
                         f"{point(high):.4g}, with none {point(low):.4g}",
                         where="option --target-snr" if what == "snr_db" else "option --target-accuracy",
                         hint=_holds(ordered, free, max(point(low), point(high))))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if point(middle) >= target else (middle, high)
    _, rules, network = points[high]
    return rules, network, Mixed(what, target, tuple(one.node for one in free[:high]), tuple(points[count][0] for count in sorted(points)))


def _widened(base: Recipe, values: Sequence[Candidate]) -> Recipe:
    wide: Mapping[str, Rule] = {one.value: replace(base.value(one.value), bits=WIDE.bits) for one in values}
    return replace(base, values={**base.values, **wide})


def _possible(base: Recipe, free: list[Candidate], make: Callable[[Recipe], Quantized]) -> list[Candidate]:
    """Those that the engine takes in 16 bits: where it does not take all of them, they are tried one by one."""
    try:
        make(_widened(base, free))
        return free
    except ModelError:
        kept = []
        for one in free:
            try:
                make(_widened(base, [one]))
            except ModelError:
                continue
            kept.append(one)
        return kept


def _amount(what: str, target: float) -> str:
    return f"{target:g} dB" if what == "snr_db" else f"an accuracy of {target:g}"


def _holds(ordered: Sequence[Candidate], free: Sequence[Candidate], reached: float) -> str:
    """What keeps the network from more."""
    names = {one.value for one in free}
    rest = sorted((one for one in ordered if one.value not in names), key=lambda one: -one.noise)[:NAMED]
    held = f"8 bits stay at {', '.join(repr(one.node) for one in rest)}, and " if rest else "8 bits stay "
    return f"ask for {reached:.4g} or less; {held}at weights, keys, values and attention weights"
