"""The verifier of steps: names, shapes, formats and views; every word read was written; intervals prove that nothing overflows."""

from __future__ import annotations

import numpy as np

from ..errors import ModelError
from .format import ACCUMULATOR, Format
from .stages import Identity
from .stages.base import Interval
from .step import Network, Step
from .tensor import Tensor, View
from .text import line
from .walk import views

OVERFLOW = "the layer is too wide or its bias too large for int32 accumulators"


def verify(network: Network) -> dict[str, float]:
    """Check everything an engine relies on; returns {step: worst accumulator over what int32 holds} for the steps that multiply.

    Raises ModelError with the step printed.
    """
    written: dict[str, np.ndarray] = {}
    tensors: dict[str, Tensor] = {}
    seen: set[str] = set()
    usage = {}
    for step in network.steps:
        if step.name in seen:
            raise failure(step, f"there are two steps {step.name!r}")
        seen.add(step.name)
        try:
            worst = _check(step)
        except ValueError as error:
            raise failure(step, str(error)) from error
        read, sinks = views(step)
        for view in (*read, *sinks):
            _consistent(step, view, tensors)
        for view in read:
            part = written.get(view.name)
            if part is None or not part[view.tokens.slice, view.channels.slice].all():
                raise failure(step, f"reads {str(view)!r} before it is defined")
        for view in sinks:
            written.setdefault(view.name, np.zeros((view.tensor.tokens, view.tensor.channels), bool))[
                view.tokens.slice, view.channels.slice] = True
        if not isinstance(step.tile, Identity):
            usage[step.name] = worst / ACCUMULATOR.hi
    for output in network.outputs:
        if output.tensor.name not in written or output.scale.array.shape != (output.tensor.channels,):
            raise ModelError(f"output {output.name!r} is {output.tensor}, which no step makes, or has {output.scale.array.shape} scales",
                             where=f"network {network.name!r}")
    return usage


def failure(step: Step, message: str, hint: str | None = None) -> ModelError:
    """The error about a step, which is printed."""
    return ModelError(message, where=f"node {step.node!r}, step {line(step)}", hint=hint)


def _check(step: Step) -> int:
    """Everything within the step; returns the largest magnitude an accumulator can have. Raises ValueError, ModelError."""
    if not step.sinks:
        raise ValueError("has no sink")
    for record in (step.feed, step.tile, *step.drain):
        if wrong := record.wrong(step):
            raise ValueError(wrong)
    rows, columns = step.tile.shape(step)
    if step.source_view is not None and step.source_view.channels.count != rows * step.heads:
        raise ValueError(f"streams {step.source_view.channels.count} channels into a tile of {rows} rows, {step.heads} heads")
    shape = step.tokens, columns * step.heads
    for stage in step.drain:
        shape = stage.shape(*shape)
    room = step.sink.tokens.count, step.sink.channels.count
    if shape[1] != room[1] or step.expert is None and shape[0] != room[0]:
        raise ValueError(f"the result is {list(shape)}, its place {list(room)}")
    form = step.feed.format(step) if isinstance(step.tile, Identity) else ACCUMULATOR
    step.feed.format(step)
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
    _stores(step, form)
    return worst


def _fits(step: Step, interval: Interval) -> None:
    bound = max(abs(end) for end in interval)
    if bound > ACCUMULATOR.hi:
        raise failure(step, f"the accumulator can reach {bound}, an int32 holds {ACCUMULATOR.hi}", OVERFLOW)


def _stores(step: Step, form: Format) -> None:
    if step.sink.tensor.format != form:
        raise ValueError(f"the result is {form}, {step.sink} holds {step.sink.tensor.format}")


def _consistent(step: Step, view: View, tensors: dict[str, Tensor]) -> None:
    """The view lies within its tensor, and one name means one tensor."""
    tensor = view.tensor
    known = tensors.setdefault(tensor.name, tensor)
    if (known.format, known.tokens, known.channels) != (tensor.format, tensor.tokens, tensor.channels):
        raise failure(step, f"{tensor} was {known} before")
    for span, size in ((view.tokens, tensor.tokens), (view.channels, tensor.channels)):
        if span.start < 0 or span.count < 1 or span.step < 1 or span.stop > size:
            raise failure(step, f"{view} does not lie within {tensor}")
