"""Passes over a network whose sequence can be shorter than the one it was made for: which tensors are as long as it, and the network of a length."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ...errors import ModelError
from ..param import Param
from ..stages import Add, Constant, Exp2, Keys, Mean, Rotate, Values
from ..stages.tile import pairs
from ..step import Network, Output, Step
from ..tensor import Span, Tensor, View
from ..walk import views, with_tensors, with_views

HINT = "compile without --lengths: each length needs a build of its own then"
KEPT = 16                       # networks of a length that are not made again


def sequenced(network: Network) -> Network:
    """Every tensor of as many tokens as the host sends, and made of them token by token, knows it (`Tensor.sequence`): a run may have fewer.

    Raises ModelError, with the node, for what has no meaning for fewer tokens.
    """
    host, sent = network.input
    if host.window is not None or host.front or sent.tokens < 2:
        found = "an image" if host.window is not None else f"{sent.tokens} tokens, {host.front} in front of them"
        raise ModelError(f"input {host.input!r} is {found}: a run-time length is that of a sequence of tokens, two at least",
                         where=f"network {network.name!r}", hint=HINT)
    known, before = {sent}, 0
    while len(known) > before:
        before = len(known)
        for step in network.steps:
            if _follows(step, known):
                known |= {sink.tensor for sink in step.sinks}
    known |= {stage.view.tensor for step in network.steps if step.sink.tensor in known for stage in step.drain if isinstance(stage, Rotate)}
    marked = _marked(network, known)
    keys: dict[Tensor, bool] = {}                   # scores -> whether their columns are the sequence
    for step in marked.steps:
        if isinstance(step.tile, Keys):
            keys[step.sink.tensor] = step.tile.view.tensor.sequence
        if wrong := _wrong(step, sent.tokens, keys):
            raise ModelError(wrong, where=f"node {step.node!r}", hint=HINT)
    for output in marked.outputs:
        if output.tensor.sequence and output.order is None and output.shape[1] != output.tensor.tokens:
            raise ModelError(f"output {output.name!r} {list(output.shape)} has the tokens of the sequence elsewhere than in its second dimension",
                             where=f"network {network.name!r}", hint=HINT)
    return marked


def _follows(step: Step, known: set[Tensor]) -> bool:
    """Whether the result has a token for each of the sequence."""
    if step.source_view is None or step.taken is not None or any(isinstance(stage, Mean) for stage in step.drain):
        return False
    follows = step.source.tensor in known or step.expert is not None and step.expert.queue.tensor in known
    return follows and step.sink.tokens == step.source.tokens == Span(0, step.source.tensor.tokens)


def _marked(network: Network, known: set[Tensor]) -> Network:
    def mark(tensor: Tensor) -> Tensor:
        return replace(tensor, sequence=True) if tensor in known else tensor
    return replace(network, steps=with_tensors(network.steps, mark),
                   outputs=tuple(replace(output, tensor=mark(output.tensor)) for output in network.outputs))


def _wrong(step: Step, tokens: int, keys: dict[Tensor, bool]) -> str | None:
    """What keeps a step from being done for fewer tokens, or None."""
    for view in (view for found in views(step) for view in found):
        if view.tensor.sequence and view.tokens not in (Span(0, tokens), Span(0, 1)) and not last_token(view):
            return f"takes tokens {view.tokens} of {view.tensor}: of a shorter sequence they may not be there"
    if step.taken is not None and step.source.tensor.sequence:
        return f"takes tokens of {step.source.tensor} by the order {step.taken}: of a shorter sequence they may not be there"
    if step.sink.tensor.sequence and step.sink.tokens != Span(0, tokens):
        return f"makes tokens {step.sink.tokens} of {step.sink.tensor}, the others come from elsewhere: they have no place in a shorter sequence"
    adds = any(isinstance(stage, Add) for stage in step.drain)
    if step.source_view is not None and adds and step.sink.tensor.sequence != (step.source.tensor.sequence or step.expert is not None):
        return f"adds {step.source} to {step.sink}: one of them has the tokens of the sequence, the other has not"
    for beside in (stage.operand for stage in step.drain if stage.operand is not None):
        if beside.tensor.sequence != step.sink.tensor.sequence:
            return f"computes {step.sink} with {beside}: one of them has the tokens of the sequence, the other has not"
    held = step.tile.stationary
    if held is not None and held.tensor.sequence and held.tokens != Span(0, tokens):
        return f"attends to tokens {held.tokens} of {held.tensor}: of a shorter sequence they may not be there"
    if isinstance(step.tile, Keys) and step.tile.limit and step.source.tensor.sequence != step.tile.view.tensor.sequence:
        return "is a causal attention of two sequences, of which only one can be shorter"
    if isinstance(step.tile, Values) and not isinstance(step.feed, Exp2):
        return "mixes the tokens of the sequence by a matrix, which is for all of them" if step.tile.view.tensor.sequence else None
    if isinstance(step.tile, Values) and keys[step.source.tensor] != step.tile.view.tensor.sequence:
        return f"weighs {step.tile.view} by keys of another sequence: only one of the two can be shorter"
    return None


def last_token(view: View) -> bool:
    """Whether it is the last token of the sequence, however long that is."""
    return view.tensor.sequence and view.tensor.tokens > 1 and view.tokens == Span(view.tensor.tokens - 1, 1)


@lru_cache(KEPT)
def shortened(network: Network, tokens: int) -> Network:
    """The network for the first so many tokens: the meaning of a run of this length. Raises ValueError where it has no such length."""
    longest = network.input[1].tokens
    if not network.input[1].sequence or not 1 <= tokens <= longest:
        raise ValueError(f"network {network.name!r} runs no sequence of {tokens} tokens")
    if tokens == longest:
        return network
    sizes: dict[str, Tensor] = {}
    for step in network.steps:
        for tensor in (sink.tensor for sink in step.sinks):
            sizes[tensor.name] = replace(tensor, tokens=tokens) if tensor.sequence else tensor
        if isinstance(step.tile, Keys):
            keys = tokens if step.tile.view.tensor.sequence else step.tile.view.tokens.count
            sizes[step.sink.name] = replace(sizes[step.sink.name], channels=step.heads * keys)

    def shorter(view: View) -> View:
        tensor, span = sizes[view.name], view.tokens
        if last_token(view):
            span = Span(tokens - 1, 1)
        elif view.tensor.sequence and span.count > 1:
            span = Span(0, tokens)
        return View(tensor, span, Span(0, tensor.channels) if view.all_channels else view.channels)

    averaged = {step.sink.name for step in network.steps if step.source_view is not None and step.source.tensor.sequence
                and step.source.tokens.count > 1 and any(isinstance(stage, Mean) for stage in step.drain)}
    steps = [_shorter(step, with_views(step, shorter), tokens, longest) for step in network.steps]
    return replace(network, steps=tuple(steps), outputs=tuple(
        _output(output, sizes[output.tensor.name], tokens if output.name in averaged else output.tokens) for output in network.outputs))


def _shorter(step: Step, made: Any, tokens: int, longest: int) -> Step:
    """The rest of a step whose views are those of ``made`` now."""
    changed: Step = made
    if isinstance(step.feed, Constant) and step.sink.tensor.sequence:
        table = step.feed.table
        changed = replace(changed, feed=Constant(Param(f"{table.name}[:{tokens}]", np.ascontiguousarray(table.array[:tokens]))))
    if isinstance(step.tile, (Keys, Values)):
        limit = step.tile.limit if isinstance(step.tile, Keys) else step.feed.limit if isinstance(step.feed, Exp2) else 0
        before, after = (pairs(limit, one.source.tokens.count, _held(one)) for one in (step, changed))
        return replace(changed, macs=step.macs // before * after)
    streams = step.source_view is not None and step.source.tensor.sequence and step.source.tokens.count > 1
    return replace(changed, macs=step.macs * tokens // longest) if streams or step.expert is not None else changed


def _held(step: Step) -> int:
    view = step.tile.stationary
    return 0 if view is None else view.tokens.count


def _output(output: Output, tensor: Tensor, summed: int) -> Output:
    if not tensor.sequence:
        return replace(output, tensor=tensor, tokens=summed)
    if output.order is None:
        return replace(output, tensor=tensor, tokens=summed, shape=(output.shape[0], tensor.tokens, *output.shape[2:]))
    words = tensor.tokens * tensor.channels                  # the first ones are those of the tokens that are there
    order = Param(f"{output.order.name}[:{words}]", output.order.array[output.order.array < words])
    return replace(output, tensor=tensor, tokens=summed, shape=(output.shape[0], words), order=order)
