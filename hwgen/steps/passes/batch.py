"""Pass: the images of a frame, one after the other in the token dimension, so that weights are read once for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...errors import CapacityError
from ..format import WIDE
from ..param import Param
from ..stages import Add, Bias, Constant, Exp2, Host, Keys, Mean, Multiply, Requant, Rotate, Values
from ..step import Network, Step
from ..taken import Kept, Taken
from ..tensor import Memory, Span, Tensor, View
from ..walk import with_tensors


def batch(network: Network, images: int) -> Network:
    """Every tensor gets the tokens of all images; attention stays within an image.

    The patches come with rows of zeros in front of each image's, one a class token, and the embedding covers them all: the start of the
    residual stream is less by what it adds there. Raises CapacityError when that leaves the 16-bit range, and where something else reads the
    patches too.
    """
    if images == 1:
        return network
    chosen = next((step for step in network.steps if isinstance(step.taken, Kept)), None)
    if chosen is not None:
        raise CapacityError("keeps the tokens with the largest scores, which are others in each image: that is not done for several images at once",
                            where=f"node {chosen.node!r}", hint="compile without --batch")
    embed, front = _embedding(network)
    patches = network.input[1]
    biases = {stage.view.tensor for step in network.steps for stage in step.drain if isinstance(stage, Bias)}          # of every image
    biases |= {step.source.tensor for step in network.steps if mixes(step)}

    def many(tensor: Tensor) -> Tensor:
        return tensor if tensor in biases else replace(tensor, tokens=images * (tensor.tokens + (front if tensor == patches else 0)))

    steps: list[Step] = []
    for step in network.steps:
        changed = replace(with_tensors(step, many), macs=step.macs * images)
        if step.sink.tensor in biases:
            steps.append(step)
        elif isinstance(step.feed, Host):
            steps.append(_all(changed))
        elif isinstance(step.feed, Constant):
            table = step.feed.table
            steps.append(replace(_all(changed), feed=Constant(
                _start(table, embed, front, images) if embed is not None and step.sink.tensor == embed.sink.tensor else _tiled(table, images))))
        elif isinstance(step.tile, (Keys, Values)):
            steps += [_image(step, changed, index) for index in range(images)]
        elif isinstance(step.taken, Taken):
            steps += _taken(step, changed, images, step.taken, front if step.source.tensor == patches else 0)
        elif step.sink.tensor.memory is Memory.OUT or not step.source.whole:
            steps += _some(step, changed, images)
        else:
            steps.append(_experts(_all(changed)))
    return replace(network, steps=tuple(_pairs(steps)))


def _embedding(network: Network) -> tuple[Step | None, int]:
    """The step that adds patches to a part of a residual stream, and how many rows are in front of it; (None, 0) where none does."""
    parts = [step for step in network.steps if step.sink.tensor.memory is Memory.RES and not step.sink.whole]
    if not parts:
        return None, 0
    embed, patches = parts[0], network.input[1]
    readers = [step for step in network.steps if step.source_view is not None and step.source.tensor == patches]
    if len(parts) > 1 or readers != parts or embed.sink.tokens.stop != embed.sink.tensor.tokens:
        raise CapacityError("adds a part of the tokens to a residual stream, which has to be an embedding of patches behind class tokens in a batch",
                            where=f"node {parts[-1].node!r}", hint="compile without --batch")
    return embed, embed.sink.tokens.start


def _tiled(table: Param, images: int) -> Param:
    return Param(f"{table.name} x{images}", np.tile(table.array, (images, 1)))


def _all(step: Step) -> Step:
    """The step for all tokens of its tensors."""
    def whole(view: View) -> View:
        return replace(view, tokens=Span(0, view.tensor.tokens))
    expert = step.expert and replace(step.expert, queue=whole(step.expert.queue))
    return replace(step, source_view=step.source_view and whole(step.source_view), sinks=tuple(map(whole, step.sinks)), expert=expert,
                   drain=tuple(replace(stage, view=whole(stage.view)) if isinstance(stage, (Add, Multiply, Rotate)) else stage
                               for stage in step.drain))


def _experts(step: Step) -> Step:
    """Multiply-accumulates of an expert follow from the tokens that are routed."""
    if step.expert is None or step.weights is None:
        return step
    return replace(step, macs=step.expert.routed * step.weights.weight.array.size // step.expert.of)


def _start(table: Param, embed: Step | None, front: int, images: int) -> Param:
    """The table of every image, less what the embedding of a row of zeros adds to the class tokens, so that they come out right."""
    if embed is None:
        return Param(f"{table.name} x{images}", np.tile(table.array, (images, 1)))
    tile, requant = embed.weights, embed.drain[0]
    if tile is None or not isinstance(requant, Requant):
        raise ValueError(f"step {embed.name!r} embeds without weights and a requantizer")
    changed = table.array.astype(np.int64)
    bias = tile.bias.array.astype(np.int64)
    changed[:front] -= requant.factor.apply(bias, WIDE)
    if not WIDE.holds(changed):
        raise CapacityError("the class token less the embedding's bias leaves the 16-bit range, a batch cannot be made",
                            where=f"node {embed.node!r}", hint="compile without --batch")
    return Param(f"{table.name} x{images} less {tile.bias.name}{requant.factor}", np.tile(changed.astype(table.array.dtype), (images, 1)))


def _image(step: Step, changed: Step, index: int) -> Step:
    """A step of attention for the tokens of one image."""
    def part(view: View, before: View) -> View:
        return replace(view, tokens=replace(before.tokens, start=before.tokens.start + index * before.tensor.tokens))
    tile = changed.tile
    if not isinstance(tile, (Keys, Values)) or not isinstance(step.tile, (Keys, Values)):
        raise TypeError(f"step {step.name!r} is none of attention")
    source = step.source if mixes(step) else part(changed.source, step.source)
    drain = tuple(Add(part(changed.sink, step.sink)) if isinstance(stage, Add) else stage for stage in changed.drain)
    return replace(changed, source_view=source, drain=drain, tile=replace(tile, view=part(tile.view, step.tile.view)),
                   sinks=(part(changed.sink, step.sink),), part=f"{step.part}.image{index}".lstrip("."), macs=step.macs,
                   about=f"{step.about}, image {index}")


def mixes(step: Step) -> bool:
    """Whether a constant streams past the tokens of an image."""
    return isinstance(step.tile, Values) and not isinstance(step.feed, Exp2)


def _pairs(steps: list[Step]) -> Iterator[Step]:
    """Scores and P V of an image next to each other."""
    waiting: list[Step] = []
    for step in steps:
        if isinstance(step.tile, Keys):
            waiting.append(step)
            continue
        if isinstance(step.feed, Exp2):
            yield waiting.pop(0)
        yield step


def _some(step: Step, changed: Step, images: int) -> list[Step]:
    """One token an image: all images at once, a word each. A mean, or several tokens: an image after the other."""
    tokens, first, rows = step.source.tensor.tokens, step.source.tokens, step.sink.tokens.count
    if first.count == 1:
        drain = tuple(stage for stage in changed.drain if not isinstance(stage, Mean))
        return [_moved(replace(changed, drain=drain), Span(first.start, images, tokens), Span(0, images))]
    return [replace(_moved(changed, replace(first, start=first.start + index * tokens), Span(index * rows, rows)),
                    part=f"{step.part}.image{index}".lstrip("."), macs=step.macs) for index in range(images)]


def _taken(step: Step, changed: Step, images: int, taken: Taken, front: int) -> list[Step]:
    """A step that takes its tokens by an order: all images at once where it is done for all tokens, else an image after the other."""
    if front:
        raise CapacityError("takes patches by an order, and puts them behind class tokens: that is not done for several images at once",
                            where=f"node {step.node!r}", hint="compile without --batch")
    if step.source.whole and step.sink.whole and step.sink.tensor.memory is not Memory.OUT:
        return [replace(_all(changed), taken=taken.images(images, step.source.tensor.tokens))]
    source, sink = step.source, step.sink
    return [replace(_moved(changed, replace(source.tokens, start=source.tokens.start + index * source.tensor.tokens),
                           replace(sink.tokens, start=sink.tokens.start + index * sink.tensor.tokens)),
                    part=f"{step.part}.image{index}".lstrip("."), macs=step.macs) for index in range(images)]


def _moved(step: Step, read: Span, written: Span) -> Step:
    """The step for other tokens."""
    sink = replace(step.sink, tokens=written)
    return replace(step, source_view=replace(step.source, tokens=read), sinks=(sink, *step.sinks[1:]),
                   drain=tuple(Add(sink) if isinstance(stage, Add) else stage for stage in step.drain))
