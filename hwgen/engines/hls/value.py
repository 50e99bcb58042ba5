"""What the functions in hls/include/hwgen/step.hpp take: values in the activation memory, factors."""

from __future__ import annotations

from dataclasses import dataclass

from ...steps.format import WIDE
from ...steps.param import Columns, Factor
from ...steps.tensor import Memory, Tensor
from .names import identifier


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the activation memory: ``tokens`` rows of ``channels`` from word ``address`` on. name: of the integer network. wide: of 16
    bits, the low halves lie at the same words of a second memory. memory: that of activations, or of operands."""

    name: str
    address: int
    tokens: int
    channels: int
    wide: bool = False
    memory: Memory = Memory.ACT

    @classmethod
    def of(cls, tensor: Tensor) -> Value:
        """The tensor, which has no address yet."""
        return cls(tensor.name, 0, tensor.tokens, tensor.channels, tensor.format == WIDE and tensor.memory is Memory.ACT, tensor.memory)

    @property
    def shape(self) -> tuple[int, int]:
        return self.tokens, self.channels

    @property
    def code(self) -> str:
        """In C++."""
        return f"values::{identifier(self.name)}"

    def words(self, lanes: int) -> int:
        """What it takes of the activation memory."""
        return self.tokens * words(self.channels, lanes)

    def __str__(self) -> str:
        return f"{'int16' if self.wide or self.memory is Memory.OPERAND else 'int8'} [{self.tokens}, {self.channels}]"


def words(channels: int, lanes: int) -> int:
    """Words of a token."""
    return -(-channels // lanes)


def braces(factor: Factor | Columns) -> str:
    """A factor in C++."""
    return f"{{{factor.mult}, {factor.shift}}}"
