"""The memory that estimates and simulations assume behind a board's ports."""

from __future__ import annotations

from typing import Any

from .board import Board

# Cycles from the address of a read burst to its first beat, in estimates and simulations: no source was found for a loaded PS memory.
LATENCY = 200
NEAR = 1.05     # as fast, as far as a choice by estimates goes: the bandwidth of a board is not known better than that


def conditions(board: Board, ports: int = 1) -> dict[str, Any]:
    """The memory that a figure was made with, JSON-able."""
    return {"ports": ports, "bytes_per_cycle": board.bytes_per_cycle(ports=ports), "latency": LATENCY}
