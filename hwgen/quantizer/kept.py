"""What is taken of a quantized file: scales of values and steps of weights as a recipe, and in words what cannot be taken as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ModelError
from ..graph import Graph, Model, Node
from ..matching.grid import Grid, Kept
from ..ops import Activation, Attention, AttentionPool, LayerNorm, Linear, MoE
from ..steps.format import INT8, WIDE
from .grid import SAME, Steps
from .recipe import Recipe, Rule
from .structure import consumers

SHOWN = 3                # names in a note


def recipe(model: Model, kept: Kept) -> tuple[Recipe, list[str]]:
    """The recipe that takes scales from a file, and what it leaves out, for people. Raises ModelError when the file contradicts itself."""
    rules: dict[str, Rule] = {}
    used: list[Grid] = []
    moved: list[tuple[Grid, float]] = []
    norms: list[Grid] = []
    narrowed: list[Grid] = []
    for graph in model.tasks:
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
            bits = WIDE.bits if grid.bits > INT8.bits and _may_be_wide(node, readers[value]) else INT8.bits
            rules[value] = Rule(bits=None if bits == INT8.bits else bits, scale=grid.step(bits))
            used += grids
            if grid.bits > bits:
                narrowed.append(grid)
            elif not (grid.exact(bits) and all(other.like(grid) for other in grids)):
                moved.append((grid, grid.step(bits) / grid.scale))
    return Recipe(rules, steps=Steps(kept.weights)), _notes(kept, used, moved, norms, narrowed)


def _is_stored(graph: Graph, value: str, node: Node | None, readers: Sequence[Node]) -> bool:
    """Whether the value is one of 8 bits in hardware: read by a matrix product, and neither residual stream nor pre-activation."""
    if isinstance(node, MoE):
        return True                                                  # the activations between its layers
    return (node is None or isinstance(node, (Linear, Activation, Attention, AttentionPool, LayerNorm))) and bool(readers) \
        and value not in graph.outputs.values() and all(not isinstance(reader, Activation) and not reader.TRUNK
                                                        or isinstance(reader, (Attention, AttentionPool, MoE)) for reader in readers)


def _may_be_wide(node: Node | None, readers: Sequence[Node]) -> bool:
    """Whether the value may have 16 bits: an operand of linear maps alone, that is made as one."""
    return isinstance(node, (Activation, Attention, AttentionPool, LayerNorm)) and all(isinstance(reader, Linear) for reader in readers)


def _is_plain(node: LayerNorm) -> bool:
    """Whether gamma is one number and beta zero: the normalised value is the result, but for a factor."""
    return bool(node.gamma[0] > 0 and np.allclose(node.gamma, node.gamma[0], rtol=SAME, atol=0) and not node.beta.any())


def _names(grids: Sequence[Grid], shown: Sequence[str] = ()) -> str:
    names = [repr(grid.value) for grid in grids[:SHOWN]]
    names = [f"{name} {text}" for name, text in zip(names, shown, strict=False)] if shown else names
    return ", ".join(names) + (" …" if len(grids) > SHOWN else "")


def _notes(kept: Kept, used: list[Grid], moved: list[tuple[Grid, float]], norms: list[Grid], narrowed: list[Grid]) -> list[str]:
    found = list(kept.notes)
    if moved:
        shown = [f"(zero point {grid.zero} of {grid.lo} to {grid.hi}: {ratio:.3g} times the file's scale)" for grid, ratio in moved]
        found.append(f"quantized file: {len(moved)} values have ranges that are not symmetric; each is kept on the symmetric range that holds "
                     f"its own: {_names([grid for grid, _ in moved], shown)}")
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


def weight_notes(recipe: Recipe) -> list[str]:
    """In words, which weights are not on the steps of the file after all; of a network that was quantized with the recipe."""
    missed = recipe.steps.missed if recipe.steps is not None else {}
    if not missed:
        return []
    shown = ", ".join(f"{name!r} ({share:.0%} of channels)" for name, share in list(missed.items())[:SHOWN])
    text = (f"quantized file: {len(missed)} weights have scales of their own here (float in the file, or with a LayerNorm's gamma, blocks along "
            f"the rows or -128 in them): {shown}{' …' if len(missed) > SHOWN else ''}")
    return [text]
