"""Pass: a value that is read as data, as keys and as values is computed once for each, where an engine reads it from."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from ...errors import ModelError
from ..stages import Diagonal, Exp2, Keys, Values
from ..step import Network, Step
from ..tensor import HeadMap, Memory, Tensor
from ..walk import with_tensors
from .taps import is_tap


class Role(StrEnum):
    """How a step reads a value."""

    DATA = "data"
    KEYS = "keys"
    VALUES = "values"


def copies(network: Network, group: int) -> Network:
    """Products get a step for every role of their result; what nobody reads is not computed. Keys and values go to a memory of their
    own. Heads of values, and of what attention gives, start at multiples of ``group`` lanes; so do those of queries and keys that are normalised by
    themselves.

    Raises ModelError where attention itself would have to give keys or values.
    """
    roles = _roles(network)
    maps = {step.tile.view.tensor: HeadMap(step.heads, step.tile.view.channels.count // step.heads, group)
            for step in network.steps if isinstance(step.feed, Exp2) and isinstance(step.tile, Values)}
    padded = {step.sink.tensor: maps[step.tile.view.tensor] for step in network.steps
              if isinstance(step.feed, Exp2) and isinstance(step.tile, Values)}
    steps: list[Step] = []
    for step in network.steps:
        value = step.sink.tensor
        read = _read(step, padded, maps)
        if isinstance(step.feed, Exp2) and isinstance(step.tile, Values):
            if set(roles.get(value, ())) - {Role.DATA}:
                raise ModelError("its result is used as keys or values of another attention without a Linear in between",
                                 where=f"node {step.node!r}")
            steps.append(replace(read, sinks=(step.sink.of(replace(value, heads=padded[value])),)))
        elif (step.tile.by_columns or step.tile.by_rows) and value.memory is Memory.ACT and step.expert is None:
            for role in roles.get(value, ()):
                copy = _copy(value, role, maps)
                part = step.part if role is Role.DATA else f"{step.part}.{role}".lstrip(".")
                done = replace(read, sinks=(step.sink.of(copy),), part=part)
                if isinstance(step.tile, Diagonal) and step.tile.wrong(done):           # its channels lie apart
                    done = replace(done, tile=step.tile.as_matrix())
                steps.append(done)
        else:
            steps.append(read)
    apart = _apart(network, group)

    def place(tensor: Tensor) -> Tensor:
        return replace(tensor, heads=apart[tensor.name]) if tensor.name in apart and tensor.heads is None else tensor
    return replace(network, steps=with_tensors(tuple(steps), place))


def _apart(network: Network, group: int) -> dict[str, HeadMap]:
    """Queries, keys and keys that are data too, by name, of attentions in which one of the two is made head by head past the array: each head
    starts at a multiple of ``group`` lanes, of all."""
    made = {step.sink.tensor for step in network.steps if not step.tile.mixes and not step.sink.all_channels}
    found: dict[str, HeadMap] = {}
    for step in network.steps:
        if isinstance(step.tile, Keys) and step.source.all_channels and {step.source.tensor, step.tile.view.tensor} & made:
            heads = HeadMap(step.heads, step.source.channels.count // step.heads, group)
            found |= dict.fromkeys((step.source.name, step.tile.view.name, f"{step.tile.view.name}.{Role.KEYS}"), heads)
    return found


def _roles(network: Network) -> dict[Tensor, dict[Role, None]]:
    """The roles of each tensor in the order of their first use; taps come last."""
    roles: dict[Tensor, dict[Role, None]] = {}
    for step in sorted(network.steps, key=is_tap):
        if step.source_view is not None:
            roles.setdefault(step.source.tensor, {})[Role.DATA] = None
        if isinstance(step.tile, Keys):
            roles.setdefault(step.tile.view.tensor, {})[Role.KEYS] = None
        if isinstance(step.tile, Values):
            roles.setdefault(step.tile.view.tensor, {})[Role.VALUES] = None
    return roles


def _copy(value: Tensor, role: Role, maps: dict[Tensor, HeadMap]) -> Tensor:
    if role is Role.DATA:
        return value
    return replace(value, name=f"{value.name}.{role}", memory=Memory.KV, heads=maps.get(value) if role is Role.VALUES else None)


def _read(step: Step, padded: dict[Tensor, HeadMap], maps: dict[Tensor, HeadMap]) -> Step:
    """The step with every operand in its role and padding."""
    if isinstance(step.tile, (Keys, Values)):
        role = Role.KEYS if isinstance(step.tile, Keys) else Role.VALUES
        view = step.tile.view
        step = replace(step, tile=replace(step.tile, view=view.of(_copy(view.tensor, role, maps))))
    if step.source_view is not None and step.source.tensor in padded:
        step = replace(step, source_view=with_tensors(step.source, lambda tensor: replace(tensor, heads=padded[tensor])))
    return step
