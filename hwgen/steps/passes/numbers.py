"""Pass: tensors are called after their memory, the order in which they are needed, and their size, so that the same step of two tasks is
equal, and no two tensors of different tasks have one name unless they can share their words."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from ..step import Network
from ..tensor import Memory, Tensor
from ..walk import with_tensors

COUNTED = (Memory.ACT, Memory.KV, Memory.SCORE, Memory.OPERAND)


def number(network: Network) -> Network:
    """Of one value, results come before the scores on the way to them. Queues of one size are one resource; outputs keep their names."""
    names: dict[Tensor, str] = {}
    counted = 0
    for _, group in groupby(network.steps, lambda step: step.value):
        found: dict[Tensor, int] = {}
        for step in group:
            found |= {sink.tensor: step.half for sink in step.sinks if sink.tensor not in names}
        for tensor, half in sorted(found.items(), key=lambda item: item[0].memory is Memory.SCORE):
            size = f"{tensor.tokens}x{tensor.width}"
            if tensor.memory in COUNTED:
                counted += 1
                names[tensor] = f"{tensor.memory}{counted}.{size}" + (f".{half}" if tensor.memory is Memory.SCORE else "")
            elif tensor.memory is not Memory.OUT:
                others = sum(other.memory is tensor.memory for other in names) if tensor.memory is Memory.RES else 0
                names[tensor] = f"{tensor.memory}{others or ''}.{size}"

    def renamed(tensor: Tensor) -> Tensor:
        return replace(tensor, name=names.get(tensor, tensor.name))
    return replace(network, steps=tuple(with_tensors(step, renamed) for step in network.steps))
