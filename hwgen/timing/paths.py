"""Longest paths between registers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
import re

from .delays import Delays
from .netlist import Arc, Netlist, Through

OWN_REGISTER = 2             # loads of a product's bit that has its register in the slice


@dataclass(frozen=True, slots=True)
class Path:
    """The longest path into the registers of one name. ns: by the delay model; luts, carries, products: what it goes through; most_luts: on
    any path into them."""

    start: str
    end: str
    pin: str
    ns: float
    luts: int
    carries: int
    products: int
    most_luts: int

    def __str__(self) -> str:
        return (f"{self.ns:6.2f} ns {self.luts:3d} LUTs {self.carries:2d} carry {self.products:2d} products (most LUTs {self.most_luts:2d})   "
                f"{self.start} -> {self.end}.{self.pin}")


def longest(net: Netlist, delays: Delays) -> list[Path]:
    """For registers of each name (numbers left out) and each pin the longest path, the longest of all first."""
    order = _order(net)
    times, before = _arrivals(net, order, lambda arc: arc.delay + _net(net, delays, arc), lambda bit: net.starts[bit][0])
    levels, _ = _arrivals(net, order, lambda arc: float(arc.through is Through.LUT), lambda bit: 0.0)
    found: dict[tuple[str, str], Path] = {}
    most: Counter[tuple[str, str]] = Counter()
    for end in net.ends:
        if end.bit not in times:
            continue
        key = _family(end.name), end.pin
        most[key] = max(most[key], int(levels[end.bit]))
        own = end.bit in net.products and end.pin == "D" and net.loads[end.bit] <= OWN_REGISTER
        ns = times[end.bit] + (0.0 if own else delays.net(net.loads[end.bit])) + end.setup
        if key not in found or ns > found[key].ns:
            first, through = _back(end.bit, before)
            found[key] = Path(net.starts[first][1], end.name, end.pin, ns, through[Through.LUT], through[Through.CARRY], through[Through.PRODUCT], 0)
    paths = [Path(p.start, p.end, p.pin, p.ns, p.luts, p.carries, p.products, most[key]) for key, p in found.items()]
    return sorted(paths, key=lambda path: -path.ns)


def _family(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _net(net: Netlist, delays: Delays, arc: Arc) -> float:
    """The net in front of an arc."""
    inside = arc.through is Through.PRODUCT and arc.source in net.starts and not net.starts[arc.source][1].startswith(("port", "memory", "lutram"))
    return 0.0 if arc.near or inside else delays.net(net.loads[arc.source])


def _order(net: Netlist) -> list[int]:
    """Bits, each behind those it depends on. A loop without a register is cut where it is met again."""
    order: list[int] = []
    seen: set[int] = set()
    for root in {end.bit for end in net.ends}:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(net.arcs.get(root, ())))]
        while stack:
            bit, arcs = stack[-1]
            unseen = next((arc.source for arc in arcs if arc.source not in seen), None)
            if unseen is None:
                order.append(bit)
                stack.pop()
            else:
                seen.add(unseen)
                stack.append((unseen, iter(net.arcs.get(unseen, ()))))
    return order


def _arrivals(net: Netlist, order: Iterable[int], cost: Callable[[Arc], float],
              launch: Callable[[int], float]) -> tuple[dict[int, float], dict[int, Arc]]:
    """({bit: largest cost of a path to it}, {bit: the last arc of that path})."""
    arrival: dict[int, float] = {}
    before: dict[int, Arc] = {}
    for bit in order:
        if bit in net.starts:
            arrival[bit] = launch(bit)
        for arc in net.arcs.get(bit, ()):
            if arc.source in arrival and (at := arrival[arc.source] + cost(arc)) > arrival.get(bit, -1.0):
                arrival[bit], before[bit] = at, arc
    return arrival, before


def _back(bit: int, before: dict[int, Arc]) -> tuple[int, Counter[Through]]:
    """The start of the longest path to a bit, and what that goes through."""
    through: Counter[Through] = Counter()
    while bit in before:
        through[before[bit].through] += 1
        bit = before[bit].source
    return bit, through
