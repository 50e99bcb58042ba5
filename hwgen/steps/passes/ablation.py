"""Pass: an engine without one of its techniques, as a network that computes the same words in more steps (bench/ablation.py).

The techniques are those of Edge-MoE (ICCAD 2023), whose own ablation gives the ratios to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..param import Columns, Param, ShortColumns
from ..stages import Exp2, Normalize, Requant, Stage, Stationary, Table, Values
from ..step import Network, Step
from ..tensor import Memory, Span


@dataclass(frozen=True, slots=True)
class Ablation:
    """What to do without; the default is nothing.

    query_block       attention without reordering: keys and values are loaded again for every ``query_block`` queries (0: once)
    softmax_passes    extra passes over the scores, as a softmax that finds maximum and sum before it normalises needs (0)
    serial            non-linearities in passes of their own (LayerNorm, activation), every layer waits for the one before it
    moe_block         patch order: every expert's weights are read again for every ``moe_block`` tokens (0: once)
    """

    query_block: int = 0
    softmax_passes: int = 0
    serial: bool = False
    moe_block: int = 0


def extra_steps(network: Network, ablation: Ablation, ti: int, to: int) -> Network:
    """The steps put in write, ahead of time, words that their layer writes again: results do not change. ti, to: lanes and columns."""
    steps: list[Step] = []
    for step in network.steps:
        tiles = 0
        if isinstance(step.feed, Exp2):
            tiles = ablation.softmax_passes
        elif ablation.serial and step.sink.tensor.memory in (Memory.ACT, Memory.KV) and step.weights is not None:
            tiles = int(isinstance(step.feed, Normalize))
            if any(isinstance(stage, Table) for stage in step.drain):       # over the hidden values: as many slots as they have words
                n_tiles, k_tiles = -(-step.sink.width // to), -(-step.source.width // ti)
                tiles += -(-n_tiles * to // ti // k_tiles)
        steps += [replace(_one_tile(step, to), part=f"{step.part}.pass{index}".lstrip(".")) for index in range(tiles)] + [step]
    return replace(network, steps=tuple(steps))


def _one_tile(step: Step, to: int) -> Step:
    """The step's first output tile alone."""
    keep = int(np.searchsorted(step.sink.positions - step.sink.position, to))
    channels = replace(step.sink.channels, count=keep)
    tile = step.tile
    if isinstance(tile, Values):
        tile = replace(tile, view=replace(tile.view, channels=Span(tile.view.channels.start, keep)))
    if isinstance(tile, Stationary):
        tile = replace(tile, weight=_cut(tile.weight, keep), bias=_cut(tile.bias, keep), scale=_cut(tile.scale, keep))
    drain = tuple(_first(stage, keep) for stage in step.drain)
    return replace(step, tile=tile, drain=drain, sinks=(replace(step.sink, channels=channels), *step.sinks[1:]), macs=0)


def _first(stage: Stage, columns: int) -> Stage:
    """The stage with the factors of the first columns."""
    match stage:
        case Requant(factor=Columns() as factor):
            return replace(stage, factor=Columns(_cut(factor.mult, columns), _cut(factor.shift, columns)))
        case Table(factor=ShortColumns() as factor):
            return replace(stage, factor=replace(factor, mult=_cut(factor.mult, columns)))
    return stage


def _cut(param: Param, columns: int) -> Param:
    return Param(f"{param.name}[:{columns}]", np.ascontiguousarray(param.array[..., :columns]))
