"""The memory that estimates and simulations assume behind a board's ports."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from .board import Board

# Cycles from the address of a read burst to its first beat, in estimates and simulations: no source was found for a loaded PS memory.
LATENCY = 200
NEAR = 1.05     # as fast, as far as a choice by estimates goes: the bandwidth of a board is not known better than that


def conditions(board: Board, ports: int = 1) -> dict[str, Any]:
    """The memory that a figure was made with, JSON-able."""
    return {"ports": ports, "bytes_per_cycle": board.bytes_per_cycle(ports=ports), "latency": LATENCY}


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The memory behind the AXI4 master. latency: cycles from a read burst's address to its first beat; bytes_per_cycle: None = what
    one port of the board delivers; stall: probability that a channel is not ready in a cycle; seed: of the stalls."""

    latency: int = LATENCY
    bytes_per_cycle: float | None = None
    stall: float = 0.0
    seed: int = 0

    def changed(self) -> list[str]:
        """Fields that differ from the default."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]
