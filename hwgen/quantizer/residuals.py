"""Residual streams: what starts one, and LayerNorms whose result is added to one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Graph, Node
from ..ops import Add as Sum, AddConst, ConcatTokens, LayerNorm
from ..steps.format import WIDE
from ..steps.stages import Add, Constant, Identity, Requant
from ..steps.step import Keep, Step
from ..steps.tensor import Span, Tensor, View
from .structure import Stream, base, consumers

if TYPE_CHECKING:
    from .lowering import Lowering


def add_norm(to: Lowering, node: Node, term: str, value: str, tokens: Span | None, place: View, fresh: bool) -> None:
    """Add the norm ``term``, or some tokens of it, to a part of a residual stream, and call that ``value``; fresh: the part starts with it.

    The state is normalised on the way past the array, gamma and beta are the factors and biases of the channels. Where it has moved on,
    or is itself what is added to, its normalised words have been stored.
    """
    x = to.norms[term] if tokens is None else to.norms[term].of(tokens)
    if x.past is None or x.gamma is None or x.beta is None:
        raise ValueError(f"{term!r} is no norm")
    if to.versions[x.tensor.name] != x.past.version or x.tensor == place.tensor:
        linear = to.identity(term, x.tensor.channels)
        linear.lower_update(to, replace(x, tensor=x.past.words, past=None), value, place, False, fresh)
        return
    norm = to.producers[term]
    tile, factor = to.diagonal(norm, x.gamma, x.beta, x.past.unit, place.tensor.scale, f"{norm.output}.gamma")
    drain = (Requant(factor, WIDE),) if fresh else (Requant(factor, WIDE), Add(place))
    to.emit(Step(value, norm.name, x.past.feed, tile, (place,), x.view, drain, keeps=(Keep.MOMENTS,), about="norm as a value"))


def uses(graph: Graph) -> dict[str, tuple[bool, bool]]:
    """For each value: whether it, or some tokens of it, is a value of a residual stream or added to one; whether anything else reads it."""
    readers, producers = consumers(graph), {node.output: node for node in graph.nodes}
    left = {base(value, producers) for value in graph.outputs.values()}
    found: dict[str, tuple[bool, bool]] = {}
    for value in (*(node.output for node in reversed(graph.nodes)), *graph.inputs):
        kept, read = False, value in left
        for reader in readers[value]:
            if reader.CHOOSES:
                kept, read = kept or found[reader.output][0], read or found[reader.output][1]
            elif isinstance(reader, (Sum, AddConst, ConcatTokens, LayerNorm)):
                kept = True
            else:
                read = True
        found[value] = kept, read
    return found


def bare(to: Lowering, stream: Stream) -> bool:
    """Whether a stream needs no constant to start with: where its first term covers it, in networks with norms that are values; others are
    as they always were."""
    past = any(isinstance(node, LayerNorm) and to.uses[node.output][0] for node in to.graph.nodes)
    return past and not stream.table.any() and [places for _, places in stream.runs] == [Span(0, len(stream.table))]


def start(to: Lowering, stream: Stream, residual: Tensor, node: Node, value: str, *drain: Add) -> None:
    """The constant of a residual stream."""
    name = to.fresh(f"{value}.start")
    table = np.clip(np.rint(stream.table / residual.scale), WIDE.lo, WIDE.hi).astype(WIDE.dtype)
    to.emit(Step(name, node.name, Constant(to.pool.add(name, table)), Identity(), (residual.view(),), drain=drain, keeps=(Keep.MOMENTS,),
                 about="residual start"))
