"""The verifier of steps: names, shapes, formats and views; every word read was written; intervals prove that nothing overflows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import math

import numpy as np

from ..errors import ModelError
from ..foreign import visible
from .format import ACCUMULATOR, INT8, OPERANDS, SCORES, SHARE, WIDE, Format
from .stages import Add, Exp2, Feed, Identity, Keys, Mean, Pick, Route, Stage, Tile
from .stages.base import Interval
from .step import Expert, Keep, Network, Output, Step
from .taken import Kept, Taken
from .tensor import Memory, Tensor, View
from .text import line
from .walk import views
from .written import Written

OVERFLOW = "the layer is too wide or its bias too large for int32 accumulators"
HELD: dict[Memory, tuple[Format, ...]] = {Memory.ACT: OPERANDS, Memory.KV: (INT8,), Memory.SCORE: SCORES, Memory.RES: (WIDE,),
                                          Memory.OPERAND: (WIDE,), Memory.LIST: (WIDE,), Memory.ROUTER: (SHARE, WIDE), Memory.OUT: (ACCUMULATOR,)}
KEPT = {Memory.RES: (Keep.MOMENTS,), Memory.SCORE: (Keep.ROW_MAX,)}


def verify(network: Network) -> dict[str, float]:
    """Check everything an engine relies on; returns {step: worst accumulator over what int32 holds} for the steps that multiply.

    Raises ModelError with the step printed.
    """
    seen = _Seen()
    usage = {}
    for step in network.steps:
        if (step.value, step.part) in seen.steps:
            raise failure(step, f"there are two steps {step.name!r}")
        try:
            worst = _check(step)
            _refers(step, seen)
        except ValueError as error:
            raise failure(step, str(error)) from error
        seen.steps[step.value, step.part] = step
        if not isinstance(step.tile, Identity):
            usage[step.name] = worst / ACCUMULATOR.hi
    try:
        host, tensor = network.input
        if not tensor.scale > 0 or not math.isfinite(tensor.scale):
            raise ValueError(f"input {host.input!r} has the scale {tensor.scale!r}")
        if len({output.name for output in network.outputs}) != len(network.outputs) or not network.outputs:
            raise ValueError("there are no outputs, or two of one name")
        for output in network.outputs:
            _leaves(output, seen)
    except ValueError as error:
        raise ModelError(str(error), where=f"network {network.name!r}") from error
    return usage


def failure(step: Step, message: str, hint: str | None = None) -> ModelError:
    """The error about a step, which is printed."""
    return ModelError(message, where=f"node {step.node!r}, step {visible(line(step))}", hint=hint)


# ---------------------------------------------------------------- within a step

def _check(step: Step) -> int:
    """Everything within the step; returns the largest magnitude an accumulator can have. Raises ValueError, ModelError."""
    if not 1 <= len(step.sinks) <= 2:
        raise ValueError(f"has {len(step.sinks)} sinks")
    if step.heads < 1 or step.half not in (0, 1) or step.macs < 0:
        raise ValueError(f"has {step.heads} heads, half {step.half}, {step.macs} multiplications")
    for view in (*views(step)[0], *step.sinks):
        _within(view)
    if step.feed.brings != (step.source_view is None):
        raise ValueError(f"the feed {step.feed.name} streams {'no tensor' if step.source_view is None else 'a tensor'}")
    if len({type(stage) for stage in step.drain}) != len(step.drain):
        raise ValueError("has a stage twice")
    records: tuple[Feed | Tile | Stage, ...] = (step.feed, step.tile, *step.drain)
    for record in records:
        if wrong := record.wrong(step):
            raise ValueError(wrong)
    if step.taken is not None and (wrong := _takes(step, step.taken)):
        raise ValueError(wrong)
    rows, columns = step.tile.shape(step)
    streams = 0 if step.source_view is None else step.source_view.channels.count * (1 if step.taken is None else step.taken.taps)
    if step.source_view is not None and streams != rows * step.heads:
        raise ValueError(f"streams {streams} channels into a tile of {rows} rows, {step.heads} heads")
    shape = step.tokens, columns * step.heads
    for stage in step.drain:
        shape = stage.shape(*shape)
    room = step.sink.tokens.count, step.sink.channels.count
    if shape[1] != room[1] or step.expert is None and shape[0] != room[0]:
        raise ValueError(f"the result is {list(shape)}, its place {list(room)}")
    worst, form = _prove(step)
    if step.plane is not None and (form != WIDE or step.sink.tensor.memory is not Memory.ACT):
        raise ValueError(f"stores the {step.plane} half of {form} in {step.sink}")
    if step.sink.tensor.format != form:
        raise ValueError(f"the result is {form}, {step.sink} holds {step.sink.tensor.format}")
    _stores(step, rows)
    return worst


def _takes(step: Step, taken: Taken | Kept) -> str | None:
    """What keeps a step from taking its tokens by an order, or None."""
    if step.source_view is None or not step.tile.by_columns:
        return f"takes tokens by the order {taken}, which a product with weights does, not {step.feed.name} x {step.tile.brief}"
    if isinstance(step.feed, Exp2) or step.expert is not None or step.heads != 1 or len(step.sinks) > 1:
        return f"takes tokens by the order {taken}, and by heads, experts or scores, or keeps what it streams"
    return taken.wrong(step.source_view)


def _prove(step: Step) -> tuple[int, Format]:
    """(largest magnitude of an accumulator, format of the result)."""
    seen = step.feed.format(step)
    form = seen if isinstance(step.tile, Identity) else ACCUMULATOR
    interval: Interval = step.tile.interval(step)
    worst = max(abs(end) for end in interval)
    for stage in step.drain:
        if form == ACCUMULATOR:
            _fits(step, interval)
        form, interval = stage.format(form, step), stage.interval(interval, step)
        if form == ACCUMULATOR:
            worst = max(worst, *(abs(end) for end in interval))
    if form == ACCUMULATOR:
        _fits(step, interval)
    return worst, form


def _fits(step: Step, interval: Interval) -> None:
    bound = max(abs(end) for end in interval)
    if bound > ACCUMULATOR.hi:
        raise failure(step, f"the accumulator can reach {bound}, an int32 holds {ACCUMULATOR.hi}", OVERFLOW)


def _stores(step: Step, rows: int) -> None:
    """Memories, statistics, and the second sink."""
    memory = step.sink.tensor.memory
    if step.keeps != KEPT.get(memory, ()):
        raise ValueError(f"keeps {[*map(str, step.keeps)]} of what it stores in {step.sink}, not {[*map(str, KEPT.get(memory, ()))]}")
    if memory is Memory.RES and not step.sink.all_channels and not any(isinstance(stage, Add) for stage in step.drain):
        raise ValueError(f"starts some channels of {step.sink}, whose tokens start as a whole")
    for copy in step.sinks[1:]:
        found, form = (copy.tokens.count, copy.channels.count), step.feed.format(step)
        if found != (step.tokens, rows * step.heads) or copy.tensor.format != form or step.expert is not None:
            raise ValueError(f"the words it streams are {form} {[step.tokens, rows * step.heads]}, {copy} has no room for them")


def _within(view: View) -> None:
    """The view lies within its tensor, and the tensor has a memory for its format."""
    tensor = view.tensor
    for span, size in ((view.tokens, tensor.tokens), (view.channels, tensor.channels)):
        if span.start < 0 or span.count < 1 or span.step < 1 or span.stop > size:
            raise ValueError(f"{view} does not lie within {tensor}")
    if tensor.format not in (held := HELD[tensor.memory]):
        raise ValueError(f"{tensor} lies in the memory {tensor.memory} of {' or '.join(map(str, held))}")
    if tensor.heads is not None and (tensor.heads.group < 1 or tensor.heads.heads * tensor.heads.dim != tensor.channels):
        raise ValueError(f"{tensor} has {tensor.heads.heads} heads of {tensor.heads.dim}, in groups of {tensor.heads.group}")
    if not math.isfinite(tensor.scale) or tensor.scale < 0:
        raise ValueError(f"{tensor} has the scale {tensor.scale!r}")
    if tensor.ratio is not None and (tensor.ratio.array.shape != (tensor.channels,) or tensor.ratio.array.dtype != np.float64
                                     or not np.isfinite(tensor.ratio.array).all() or not (tensor.ratio.array > 0).all()):
        raise ValueError(f"{tensor} has the ratios {tensor.ratio.name}, which are not {tensor.channels} positive numbers")


# ---------------------------------------------------------------- between steps

@dataclass
class _Seen:
    """What the steps so far have done. written: parts of tensors; made: the step that wrote a tensor last, by the tensor's name; tensors: by
    name."""

    steps: dict[tuple[str, str], Step] = field(default_factory=dict)
    written: Written = field(default_factory=Written)
    made: dict[str, Step] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def _refers(step: Step, seen: _Seen) -> None:
    """What the step reads was written before, by steps that left it as this one needs it; then it has written. Raises ValueError."""
    read, sinks = views(step)
    for view in (*read, *sinks):
        known = seen.tensors.setdefault(view.name, view.tensor)
        if any(getattr(known, key) != getattr(view.tensor, key) for key in ("format", "tokens", "channels", "memory", "heads")):
            raise ValueError(f"{view.tensor} was {known} before")
    for view in read:
        if step.feed.gathers and step.expert is not None and view == step.source_view:
            view = replace(view, tokens=step.expert.queue.tokens)           # other tokens are not in the queue
        if not seen.written.holds(view):
            raise ValueError(f"reads {str(view)!r} before it is defined")
        owner = _owner(seen.made[view.name], view)
        if owner is not None and owner != step.expert:
            raise ValueError(f"reads {view}, which holds the tokens of expert {owner}")
    if isinstance(step.feed, Exp2) and seen.made[step.source.name].half != step.half:
        raise ValueError(f"the row maxima of {step.source} are in the other half")
    if isinstance(step.feed, Exp2) and isinstance(tile := seen.made[step.source.name].tile, Keys) and tile.limit != step.feed.limit:
        raise ValueError(f"weighs by {step.feed}, the row maxima of {step.source} are those of {tile}")
    if step.expert is not None:
        _chosen(step, step.expert, seen)
    if isinstance(step.taken, Kept):
        maker = seen.made[step.taken.place.name]
        pick = next((stage for stage in maker.drain if isinstance(stage, Pick)), None)
        if pick is None or pick.first + pick.scores(maker) > step.source.tokens.count:
            raise ValueError(f"takes tokens of {step.source} by {step.taken}, which does not choose among them")
    if step.sink.tensor.memory is Memory.RES and not any(isinstance(stage, Add) for stage in step.drain) and seen.written.holds(step.sink):
        raise ValueError(f"overwrites {step.sink}, which is only added to")
    for view in sinks:
        seen.written.add(view)
        seen.made[view.name] = step


def _owner(step: Step, view: View) -> Expert | None:
    """Whose queue a tensor is as long as."""
    return None if view.tensor.memory is Memory.RES else step.expert


def _chosen(step: Step, expert: Expert, seen: _Seen) -> None:
    """The expert's queue is a router's; the step reads tokens by the queue, or what another step of the expert made."""
    router = seen.made[expert.queue.name]
    if not any(isinstance(stage, Route) for stage in router.drain) or not 0 <= expert.index < expert.of == router.columns:
        raise ValueError(f"is done for expert {expert}, which is none of a router")
    if not step.feed.gathers and _owner(seen.made[step.source.name], step.source) is None:
        raise ValueError(f"streams {step.source} for an expert without gathering its tokens")
    indexed = step.source if step.feed.gathers else step.sink if step.sink.tensor.memory is Memory.RES else expert.queue
    if not indexed.all_channels or indexed.tensor.tokens != expert.queue.tensor.tokens:
        raise ValueError(f"the queue of {expert.queue.tensor} says nothing about the tokens of {indexed}")


def _leaves(output: Output, seen: _Seen) -> None:
    """The output is what a step sends out. Raises ValueError."""
    tensor, scale = output.tensor, output.scale.array
    step = seen.made.get(tensor.name)
    if step is None or tensor.memory is not Memory.OUT or output.name != tensor.name or step.value != output.name \
            or scale.shape != (tensor.channels,):
        raise ValueError(f"output {output.name!r} is {tensor}, which no step makes, or has {scale.shape} scales")
    summed = step.tokens if any(isinstance(stage, Mean) for stage in step.drain) else 1
    if not seen.written.holds(tensor.view()):
        raise ValueError(f"output {output.name!r} is {tensor}, not all of which is made")
    count = tensor.tokens * tensor.channels
    if output.order is not None and not np.array_equal(np.sort(output.order.array, axis=None), np.arange(count)):
        raise ValueError(f"output {output.name!r} is no order of the {count} words of {tensor}")
    if output.tokens != summed or math.prod(output.shape[1:]) != tensor.tokens * tensor.channels:
        raise ValueError(f"output {output.name!r} has the shape {list(output.shape)} and {output.tokens} tokens, {tensor} is made of {summed}")
    if scale.dtype != np.float64 or not np.isfinite(scale).all() or not (scale > 0).all():
        raise ValueError(f"output {output.name!r} has a scale that is not positive")
