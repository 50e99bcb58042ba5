"""What is taken of a quantized file: scales of values and steps of weights as a recipe, and in words what cannot be taken as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json

import numpy as np

from ..errors import ModelError
from ..graph import Graph, Model, Node, Role
from ..matching.grid import Grid, Kept
from ..ops import Activation, Attention, AttentionPool, LayerNorm, Linear, MoE, Multiply, SoftMoE
from ..steps.format import INT8, WIDE
from .balance import widenable
from .calibration import Range, Site, sites
from .grid import SAME, Steps
from .precision import Precision
from .recipe import EMPTY, Recipe, Rule
from .structure import consumers

SHOWN = 3                # names in a note


def recipe(model: Model, kept: Kept, asked: Recipe = EMPTY, precision: Precision = Precision.W8A8,
           ranges: Mapping[Site, Range] | None = None) -> tuple[Recipe, list[str]]:
    """The recipe that takes scales from a file, and what it leaves out, for people. Raises ModelError when the file contradicts itself.

    asked: rules that go before it: a value that has 16 bits by them, or by the precision where 8 do not hold its grid, has those at the file's
    scale. ranges: of calibration, where they are known: a value that keeps within 127 units of the file's scale, whatever its zero point, has it.
    """
    rules: dict[str, Rule] = {}
    used: list[Grid] = []
    moved: list[Moved] = []
    held: list[Grid] = []
    norms: list[Grid] = []
    narrowed: list[Grid] = []
    for graph, known in zip(model.tasks, sites(model), strict=True):
        free = widenable(graph)
        producers, readers = {node.output: node for node in graph.nodes}, consumers(graph)
        for value in (*graph.inputs, *producers):
            grids = kept.grids.get(value, ())
            if not grids or value in rules or not _is_stored(graph, value, producers.get(value), readers[value]):
                continue
            node, grid = producers.get(value), grids[0]
            if isinstance(node, LayerNorm):
                if not _is_plain(node):
                    norms.append(grid)
                    used += grids
                    if grid.bits > INT8.bits and _may_be_wide(node, readers[value]):
                        rules[value] = Rule(bits=WIDE.bits)
                    continue
                grid = grid.times(1 / float(node.gamma[0]))
            elif isinstance(node, MoE):
                grid = max(grids, key=lambda grid: grid.step(INT8.bits))   # one scale for all experts
            elif (other := next((other for other in grids if not other.like(grid)), None)) is not None:
                raise ModelError(f"the file is quantized, and node {other.node!r} gives {value!r} the scale {other.scale:.6g} and zero point "
                                 f"{other.zero}, node {grid.node!r} the scale {grid.scale:.6g} and zero point {grid.zero}: a value has one",
                                 where=f"value {value!r}", hint="quantize the float model again, with one scale for all readers of a value")
            used += grids
            alike = all(other.like(grid) for other in grids)
            exact, mine = grid.exact(INT8.bits) and alike, asked.value(value)
            if grid.bits > INT8.bits:
                bits = mine.bits or (WIDE.bits if _may_be_wide(node, readers[value]) else INT8.bits)
                rules[value] = Rule(bits=None if bits == INT8.bits else bits, scale=grid.step(bits))
                narrowed += [grid] if grid.bits > bits else []
            elif mine.bits == WIDE.bits and not alike:
                rules[value] = Rule(bits=WIDE.bits)
            elif alike and (mine.bits == WIDE.bits or not exact and mine.bits is None and precision == Precision.W8A16 and value in free):
                rules[value] = Rule(bits=WIDE.bits, scale=grid.scale)
            elif not exact and alike and ranges is not None and _largest(ranges, known[value], node) <= (INT8.hi + 0.5) * grid.scale:
                rules[value] = Rule(scale=grid.scale)
                held.append(grid)
            else:
                rules[value] = Rule(scale=grid.step(INT8.bits))
                moved += [] if exact else [Moved(grid, node.name if node is not None and value in free else None)]
    return Recipe(rules, steps=Steps(kept.weights)), _notes(kept, used, moved, held, norms, narrowed)


@dataclass(frozen=True)
class Moved:
    """A value on another grid than the file's. remedy: the node that takes the file's with 16 bits, None where none does."""

    grid: Grid
    remedy: str | None

    def __str__(self) -> str:
        grid = self.grid
        return f"(zero point {grid.zero} of {grid.lo} to {grid.hi}: {grid.step(INT8.bits) / grid.scale:.3g} times the file's scale)"


def _largest(ranges: Mapping[Site, Range], site: int, node: Node | None) -> float:
    """Magnitude of what is stored for a value; infinite where calibration has not seen it."""
    role = Role.NORM if isinstance(node, LayerNorm) else Role.HIDDEN if isinstance(node, MoE) else Role.OUT
    found = ranges.get((site, role))
    return np.inf if found is None else found.maximum


def _is_stored(graph: Graph, value: str, node: Node | None, readers: Sequence[Node]) -> bool:
    """Whether the value is one of 8 bits in hardware: read by a matrix product, and neither residual stream nor pre-activation."""
    if isinstance(node, MoE):
        return True                                                  # the activations between its layers
    return (node is None or isinstance(node, (Linear, Activation, Attention, AttentionPool, LayerNorm, Multiply))) and bool(readers) \
        and value not in graph.outputs.values() and all(not isinstance(reader, (Activation, Multiply)) and not reader.TRUNK
                                                        or isinstance(reader, (Attention, AttentionPool, MoE, SoftMoE)) for reader in readers)


def _may_be_wide(node: Node | None, readers: Sequence[Node]) -> bool:
    """Whether the value may have 16 bits: an operand of linear maps alone, that is made as one."""
    return isinstance(node, (Activation, Attention, AttentionPool, LayerNorm, Multiply)) and all(isinstance(reader, Linear) for reader in readers)


def _is_plain(node: LayerNorm) -> bool:
    """Whether gamma is one number and beta zero: the normalised value is the result, but for a factor."""
    return bool(node.gamma[0] > 0 and np.allclose(node.gamma, node.gamma[0], rtol=SAME, atol=0) and not node.beta.any())


def _names(grids: Sequence[Grid], shown: Sequence[str] = ()) -> str:
    names = [repr(grid.value) for grid in grids[:SHOWN]]
    names = [f"{name} {text}" for name, text in zip(names, shown, strict=False)] if shown else names
    return ", ".join(names) + (" …" if len(grids) > SHOWN else "")


def _notes(kept: Kept, used: list[Grid], moved: list[Moved], held: list[Grid], norms: list[Grid], narrowed: list[Grid]) -> list[str]:
    found = list(kept.notes)
    if moved:
        moved = sorted(moved, key=lambda one: -one.grid.reach)
        found.append(f"quantized file: {len(moved)} values have ranges that are not symmetric; each is kept on the symmetric range that holds "
                     f"its own: {_names([one.grid for one in moved], [str(one) for one in moved])}{_remedy(moved)}")
    if held:
        found.append(f"quantized file: {len(held)} values have ranges that are not symmetric, but no calibration image leaves {INT8.hi} units around "
                     f"zero: they keep the scale of the file, and what is beyond is clipped: {_names(held)}")
    if narrowed:
        found.append(f"quantized file: {len(narrowed)} values that it rounds to {max(grid.bits for grid in narrowed)} bits have {INT8.bits} here, "
                     f"over the same range: {_names(narrowed)}")
    if norms:
        found.append(f"quantized file: {len(norms)} LayerNorm results are rounded before gamma and beta here, behind them in the file; their "
                     f"scales come from calibration: {_names(norms)}")
    nodes = {grid.node for grid in used}
    wider = [grid for grid in kept.rounded if grid.node not in nodes and not any(grid.like(other) for other in used)]
    if wider:
        found.append(f"quantized file: {len(wider)} values that it rounds to {max(grid.bits for grid in wider)} bits have 16 or more here (residual "
                     f"stream, scores, pre-activations, outputs) or are inside of an operator: {_names(wider)}")
    if kept.dynamic:
        shown_nodes = ", ".join(map(repr, kept.dynamic[:SHOWN])) + (" …" if len(kept.dynamic) > SHOWN else "")
        found.append(f"quantized file: {len(kept.dynamic)} nodes find a scale anew for every image; here each has one, from calibration: "
                     f"{shown_nodes}")
    return found


def _remedy(moved: list[Moved]) -> str:
    """What takes them as they are."""
    names = [one.remedy for one in moved if one.remedy is not None]
    if not names:
        return ""
    return (f"; with --precision w8a16 {len(names)} of them have 16 bits at the file's scale, which is exact, or one by one with --quant: "
            f"{json.dumps(names[0])}: {{bits: {WIDE.bits}}}")


def weight_notes(recipe: Recipe) -> list[str]:
    """In words, which weights are not on the steps of the file after all; of a network that was quantized with the recipe."""
    missed = recipe.steps.missed if recipe.steps is not None else {}
    if not missed:
        return []
    shown = ", ".join(f"{name!r} ({share:.0%} of channels)" for name, share in list(missed.items())[:SHOWN])
    text = (f"quantized file: {len(missed)} weights have scales of their own here (float in the file, or with a LayerNorm's gamma, blocks along "
            f"the rows or -128 in them): {shown}{' …' if len(missed) > SHOWN else ''}")
    return [text]
