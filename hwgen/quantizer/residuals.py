"""Residual streams: what starts one, what is added to it, LayerNorms among that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Graph, Node
from ..ops import Add as Sum, AddConst, ConcatTokens, LayerNorm, MoE, Prune, TokenMix
from ..ops.operator import SUPPORTED
from ..steps.format import WIDE
from ..steps.stages import Add, Constant, Identity, Requant, Rescale
from ..steps.stages.rescale import EXACT
from ..steps.step import Keep, Step
from ..steps.tensor import Span, Tensor, View
from .lowered import Lowered
from .structure import Stream, base, consumers

if TYPE_CHECKING:
    from .lowering import Lowering


def advance(to: Lowering, node: Node) -> None:
    """The steps that make a state of a residual stream."""
    stream, residual = to.residuals[node.output]
    terms, first = stream.terms[node.output], node.output == stream.start
    runs = [(Span(0, residual.tokens), Span(0, residual.tokens))]
    fresh = False
    if first and stream.source is None:
        embed, runs = to.producers[terms[0]], stream.runs
        fresh = not stream.table.any() if isinstance(embed, Prune) else bare(to, stream) and not isinstance(embed, MoE)
        if not fresh:
            start(to, stream, residual, embed, embed.output)
    to.versions[residual.name] += 1
    value = node.output if node.output not in to.operands else to.fresh(f"{node.output}.int16")
    parts = [(term, *run) for term in terms for run in runs]
    for left, (term, tokens, rows) in enumerate(parts, 1 - len(parts)):
        some = tokens if len(runs) > 1 else None
        _add(to, node, term, to.fresh(f"{value}.{-left}") if left else value, some, residual.view(rows), first and len(terms) == 1, fresh)
        fresh = False
    to.states[node.output] = Lowered(residual)
    if node.output in to.raw - to.operands.keys():
        as_it_is(to, node, node.output, residual)


def as_it_is(to: Lowering, node: Node, state: str, residual: Tensor, tokens: Span | None = None) -> None:
    """A state of a residual stream becomes an operand of 16 bits: what reads it without a LayerNorm."""
    words = to.activations(to.fresh(f"{state}.operand"), residual.tokens, residual.channels, residual.scale, WIDE)
    to.emit(Step(words.name, node.name, Rescale(EXACT), Identity(), (words.view(),), residual.view(), about="residual stream as it is"))
    to.define(state, words, tokens=tokens)


def _add(to: Lowering, node: Node, term: str, value: str, tokens: Span | None, place: View, start: bool, fresh: bool) -> None:
    """Add ``term``, or some tokens of it, to a part of a residual stream, and call that ``value``; fresh: the part starts with it."""
    producer, x = to.producers.get(term), to.result(term)
    if term in to.norms:
        _add_norm(to, node, term, value, tokens, place, fresh)
    elif isinstance(producer, MoE) and tokens is None:
        producer.lower_update(to, value, place)
    elif isinstance(producer, Prune) and tokens is None:
        producer.lower_update(to, value, place, fresh)
    elif x is None or x.linear is None:
        raise node.fail(f"adds {term!r} of {type(producer).__name__}, which is inside another step", hint=SUPPORTED)
    elif x.mean:
        raise to.no_mean(node, term)
    else:
        x.linear.lower_update(to, x if tokens is None else x.of(tokens), value, place, start, fresh)


def _add_norm(to: Lowering, node: Node, term: str, value: str, tokens: Span | None, place: View, fresh: bool) -> None:
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
    """For each value: whether it, or some tokens of it, is a value of a residual stream, added to one or mixed with other tokens, so that a norm
    goes past the array; whether anything else reads it."""
    readers, producers = consumers(graph), {node.output: node for node in graph.nodes}
    left = {base(value, producers) for value in graph.outputs.values()}
    found: dict[str, tuple[bool, bool]] = {}
    for value in (*(node.output for node in reversed(graph.nodes)), *graph.inputs):
        kept, read = False, value in left
        for reader in readers[value]:
            if reader.CHOOSES:
                kept, read = kept or found[reader.output][0], read or found[reader.output][1]
            elif isinstance(reader, (Sum, AddConst, ConcatTokens, LayerNorm, TokenMix)):
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
