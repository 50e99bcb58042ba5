"""Finds the residual stream of a float graph: how it starts and what is added to it. Everything else hangs off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ModelError, combined
from ..graph import Graph, Node
from ..ops import Add, AddConst, ConcatTokens, LayerNorm, Linear, MoE, PatchEmbed
from ..ops.operator import SUPPORTED


@dataclass(frozen=True, eq=False)
class ResidualStream:
    """``values``: names of the stream's states in order, the first one after the embedding.

    table: constant [T, D] of the start (position embedding, class tokens). updates: output of an Add -> (the state it
    reads, the Linear or MoE node whose result it adds).
    """

    embed: PatchEmbed | Linear
    table: np.ndarray
    first_token: int
    values: tuple[str, ...]
    start_nodes: frozenset[str]
    updates: dict[str, tuple[str, Linear | MoE]]


def consumers(graph: Graph) -> dict[str, list[Node]]:
    """Nodes that read each value (twice if they read it twice)."""
    readers: dict[str, list[Node]] = {name: [] for name in graph.inputs}
    for node in graph.nodes:
        readers.setdefault(node.output, [])
        for value in node.inputs:
            readers[value].append(node)
    return readers


def find_residuals(graphs: Sequence[Graph]) -> list[ResidualStream]:
    """`find_residual` of every task; raises ModelError with what is wrong in any."""
    found: list[ResidualStream] = []
    wrong: list[ModelError] = []
    for graph in graphs:
        try:
            found.append(find_residual(graph))
        except ModelError as error:
            wrong.append(error)
    if wrong:
        raise combined(wrong)
    return found


def find_residual(graph: Graph) -> ResidualStream:
    """Follow the stream from the input; raises ModelError with the nodes where the structure departs from a pre-norm encoder."""
    readers, shapes = consumers(graph), graph.shapes()
    producers = {node.output: node for node in graph.nodes}
    if len(graph.inputs) != 1:
        raise ModelError(f"the network has {len(graph.inputs)} inputs {sorted(graph.inputs)}, one is supported",
                         where=f"graph {graph.name!r}", hint="make the other inputs constants before export")
    (source,) = graph.inputs
    first = readers[source]
    if source in graph.outputs.values() or not first:
        raise ModelError(f"input {source!r} goes to {'an output' if not first else 'an output too'} as it is", where=f"graph {graph.name!r}",
                         hint=SUPPORTED)
    if len(first) != 1 or not isinstance(first[0], (PatchEmbed, Linear)):
        raise ModelError(f"input {source!r} is read by {[type(n).__name__ for n in first]}, not by one patch embedding or Linear",
                         where=f"graph {graph.name!r}", hint=SUPPORTED).about(first[0].name)
    embed, state, start_nodes = first[0], first[0].output, {first[0].output}
    table = np.zeros(shapes[state], np.float64)
    if table.ndim != 2:
        raise embed.fail(f"the embedding gives {shapes[state]}, not a token sequence", hint=SUPPORTED)
    first_token = 0
    while len(readers[state]) == 1 and isinstance(node := readers[state][0], (ConcatTokens, AddConst)):
        if isinstance(node, ConcatTokens):
            table = np.concatenate([node.tokens.astype(np.float64), table])
            first_token += len(node.tokens)
        else:
            table = table + node.value
        state = node.output
        start_nodes.add(state)
    values, updates = [state], {}
    wrong: list[ModelError] = []
    while adds := [node for node in readers[state] if isinstance(node, Add)]:
        if len(adds) > 1:
            raise combined([*wrong, adds[1].fail(f"value {state!r} is added to several values: the residual stream forks", hint=SUPPORTED)])
        (add,) = adds
        other = add.y if add.x == state else add.x
        branch = producers.get(other)
        if isinstance(branch, LayerNorm):
            wrong.append(add.fail(f"adds the LayerNorm result {other!r}: post-norm is not supported", hint=SUPPORTED))
        elif not isinstance(branch, (Linear, MoE)):
            wrong.append(add.fail(f"adds {other!r} from {type(branch).__name__} to the residual stream; only the result of a "
                                  "Linear or MoE can be added", hint=SUPPORTED))
        elif len(readers[other]) > 1 or other in graph.outputs.values():
            wrong.append(branch.fail(f"its result {other!r} is added to the residual stream and used elsewhere too",
                                     hint="compute it twice in the model, or take the other use from the sum"))
        else:
            updates[add.output] = (state, branch)
        state = add.output
        values.append(state)
    if wrong:
        raise combined(wrong)
    if not updates:
        raise ModelError(f"no residual connection starts at {state!r}: it is read by "
                         f"{[type(n).__name__ for n in readers[state]]}", where=f"graph {graph.name!r}",
                         hint=SUPPORTED).about(readers[state][0].name if readers[state] else None)
    return ResidualStream(embed, table, first_token, tuple(values), frozenset(start_nodes), updates)
