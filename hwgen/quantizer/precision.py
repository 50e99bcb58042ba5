"""How many bits the weights and values of a network have, by kind of layer."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Bits of weights and activations. W4A8: the linear maps of all blocks and experts have 4-bit weights; embedding, gates and heads keep
    8. W4A8_EXPERTS: only the experts. W8A16: 16 bits for all that linear maps alone read. MIXED: 8 bits, and 16 where the recipe says so."""

    W8A8 = "w8a8"
    W4A8 = "w4a8"
    W4A8_EXPERTS = "w4a8-experts"
    W8A16 = "w8a16"
    MIXED = "mixed"

    @property
    def narrow_linear(self) -> bool:
        """Whether the linear maps of blocks have 4-bit weights."""
        return self is Precision.W4A8

    @property
    def narrow_experts(self) -> bool:
        """Whether the linear maps of experts have 4-bit weights."""
        return self in (Precision.W4A8, Precision.W4A8_EXPERTS)
