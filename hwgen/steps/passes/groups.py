"""Pass: a convolution in which columns see a few channels only (in groups, or depthwise) does without the tiles of zeros."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np

from ..param import Param
from ..stages import Add, Plain
from ..step import Network, Step
from ..tensor import Memory, Span
from .products import of_columns

LEAST = 2               # times fewer tiles that a step has to have afterwards: each part is an instruction more


def split_groups(network: Network, lanes: int) -> Network:
    """lanes: channels of a reduction tile. A step becomes one for each run of columns that see the same tiles, and streams only these."""
    return replace(network, steps=tuple(part for step in network.steps for part in _parts(step, lanes)))


def _parts(step: Step, lanes: int) -> list[Step]:
    tile = step.weights
    if tile is None or not _apart(step):
        return [step]
    channels = step.source.channels.count
    weight = tile.weight.array.reshape(-1, channels, step.columns)
    runs = _runs((weight != 0).any(0), lanes)
    tiles = sum(-(-columns.count // lanes) * -(-seen.count // lanes) for columns, seen in runs)
    if tiles * LEAST > -(-step.columns // lanes) * -(-channels // lanes):
        return [step]
    return [_part(step, weight, columns, seen) for columns, seen in runs]


def _apart(step: Step) -> bool:
    """Whether it can be done for some of its channels and columns."""
    memory = step.sink.tensor.memory
    if step.taken is None or not isinstance(step.feed, Plain) or not step.source.all_channels or any(stage.operand for stage in step.drain) \
            or step.source.tensor.heads is not None or step.sink.tensor.heads is not None:
        return False
    return memory in (Memory.ACT, Memory.KV) or memory is Memory.RES and any(isinstance(stage, Add) for stage in step.drain)


def _runs(used: np.ndarray, lanes: int) -> list[tuple[Span, Span]]:
    """(columns, channels that they see, in whole tiles) of every run of columns; used: bool [channels, columns]."""
    channels, columns = used.shape

    def seen(block: int) -> Span:
        found = np.flatnonzero(used[:, block * lanes:(block + 1) * lanes].any(1))
        low, high = (int(found[0]) // lanes, int(found[-1]) // lanes + 1) if found.size else (0, 1)
        return Span(low * lanes, min(channels, high * lanes) - low * lanes)
    runs = [(span, list(blocks)) for span, blocks in groupby(range(-(-columns // lanes)), seen)]
    return [(Span(blocks[0] * lanes, min(columns, (blocks[-1] + 1) * lanes) - blocks[0] * lanes), span) for span, blocks in runs]


def _part(step: Step, weight: np.ndarray, columns: Span, seen: Span) -> Step:
    part = of_columns(step, columns)
    if part.weights is None:
        raise TypeError(f"step {step.name!r} has no weights")
    array = np.ascontiguousarray(weight[:, seen.slice, columns.slice].reshape(-1, columns.count))
    tile = replace(part.weights, weight=Param(f"{part.weights.weight.name} of {seen}", array))
    return replace(part, tile=tile, source_view=replace(step.source, channels=seen), macs=part.macs * seen.count // step.source.channels.count)
