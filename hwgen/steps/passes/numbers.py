"""Pass: tensors are called after their memory and the order in which they are written, so that the same step of two tasks is equal."""

from __future__ import annotations

from dataclasses import replace

from ..step import Network
from ..tensor import Memory, Tensor
from ..walk import with_tensors


def number(network: Network) -> Network:
    """Outputs keep their names."""
    names: dict[Tensor, str] = {}
    for tensor in network.tensors():
        if tensor.memory is not Memory.OUT:
            names[tensor] = f"{tensor.memory}{len(names)}"

    def renamed(tensor: Tensor) -> Tensor:
        return replace(tensor, name=names.get(tensor, tensor.name))
    return replace(network, steps=tuple(with_tensors(step, renamed) for step in network.steps))
