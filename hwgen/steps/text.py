"""Steps as text: one line a step, for `hwgen show`, messages and snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from .step import Network, Step
from .tensor import View


def line(step: Step) -> str:
    """``sinks = source | feed x tile | stages``, and what else the step says of itself."""
    source = "" if step.source_view is None else f"{_described(step.source_view)} "
    chain = " | ".join([f"{source}{step.feed} x {step.tile}", *map(str, step.drain)])
    extras = [f"heads={step.heads}"] if step.heads > 1 else []
    extras += [f"expert={step.expert}"] if step.expert is not None else []
    extras += [f"keeps={keep}" for keep in step.keeps]
    extras += [f"half={step.half}"] if step.half else []
    return f"{', '.join(map(_described, step.sinks))} = {chain}" + (f"  ({', '.join(extras)})" if extras else "")


def lines(network: Network) -> Iterator[str]:
    """The whole network: the steps with their numbers and ONNX nodes, then the outputs."""
    yield f"network {network.name}"
    for index, step in enumerate(network.steps):
        yield f"{index:4} {line(step)}    ; {step.note}"
    for output in network.outputs:
        yield f"     output {output.name} = {output.tensor} * {output.scale.name} / {output.tokens}, shape {list(output.shape)}"


def _described(view: View) -> str:
    """A view with the format and the size of what it shows."""
    return f"{view} {view.tensor.format} [{view.tokens.count}, {view.channels.count}]"
