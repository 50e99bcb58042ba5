"""Pass: a step whose 16-bit result goes to the activation memory is done twice, once for each half of its words."""

from __future__ import annotations

from dataclasses import replace

from ..format import WIDE
from ..step import Network, Step
from ..tensor import Memory, Plane


def split_planes(network: Network) -> Network:
    """A drain writes 8 bits a lane and cycle. The high half comes first; the low one counts no multiplications."""
    return replace(network, steps=tuple(part for step in network.steps for part in _halves(step)))


def _halves(step: Step) -> list[Step]:
    tensor = step.sink.tensor
    if tensor.memory is not Memory.ACT or tensor.format != WIDE:
        return [step]
    return [replace(step, plane=plane, part=f"{step.part}.{plane}".lstrip("."), macs=step.macs if plane is Plane.HIGH else 0,
                    about=f"{step.about}, {plane} half".lstrip(", ")) for plane in Plane]
