"""Chooses the engine for a board: array size, columns loaded per cycle, columns without DSP slices; or says why none fits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from ...devices.board import Board
from ...devices.memory import LATENCY, NEAR, conditions
from ...errors import CapacityError
from ...steps.step import Quantized
from ...steps.tensor import Memory
from . import cost as resources
from .cost import KINDS
from .plan import schedule
from .program import Program

BRAM36_BYTES, URAM_BYTES = 36 * 1024 // 8, 288 * 1024 // 8
TOKEN_BLOCKS = (4, 8, 16)     # two blocks are there at a time
MEMORY_NAMES = {Memory.ACT: "activations", Memory.KV: "keys or values", Memory.SCORE: "scores", Memory.RES: "the residual stream"}


def choose(model: Quantized, board: Board, array: tuple[int, int] | None = None, batch: int = 1) -> Program:
    """The program for the array of the board that the cycle model finds fastest, or for ``array``.

    Through one port many networks are bound by memory: all arrays take nearly as long, and the smallest would win by the padding it
    saves. So of those within `NEAR` of the fastest, the one that is fastest at the memory's best is taken. Two columns are loaded per cycle
    where that saves one cycle in a hundred there. Where none fits for want of memory, hidden values are there for a part of the tokens
    at a time. Raises CapacityError of the first candidate when none fits.
    """
    try:
        return _choose(model, board, array, batch)
    except CapacityError as refusal:
        if not _is_memory(refusal):
            raise
        tokens = batch * max(tensor.tokens for network in model.tasks for tensor in network.tensors())
        for blocks in TOKEN_BLOCKS:
            with suppress(CapacityError):
                return _choose(model, board, array, batch, -(-tokens // blocks))
        raise


def _choose(model: Quantized, board: Board, array: tuple[int, int] | None, batch: int, token_block: int = 0) -> Program:
    found: list[tuple[float, float, Program, Callable[..., Program]]] = []
    refusal: CapacityError | None = None
    for ti, to in (array,) if array else board.arrays:
        scheduled = partial(schedule, model, ti=ti, to=to, axi_data_bits=board.axi_bits(to), fifo_beats=board.fifo_beats(to), packed=board.packed,
                            batch=batch, token_block=token_block)
        try:
            sketch = _fitted(scheduled(sketch=True), board)
        except CapacityError as error:
            refusal = refusal or error
            continue
        for load_columns in (1, 2):
            program = replace(sketch, config=replace(sketch.config, load_columns=load_columns))
            best = program.estimate(board.best_bytes_per_cycle(), LATENCY)[-1].stop
            found.append((cycles(program, board), best, program, scheduled))
    if not found and refusal is not None:
        raise refusal
    limit = NEAR * min(own for own, *_ in found)
    near = [candidate for candidate in found if candidate[0] <= limit]
    chosen = near[0]
    for candidate in near[1:]:
        if candidate[1] < (0.99 if candidate[2].config.load_columns == 2 else 1) * chosen[1]:
            chosen = candidate
    *_, program, again = chosen
    return replace(again(load_columns=program.config.load_columns), config=program.config)


def cycles(program: Program, board: Board, ports: int = 1) -> int:
    """Of a frame, through so many ports of the board; stage "estimate"."""
    return program.estimate(board.bytes_per_cycle(ports=ports), LATENCY)[-1].stop


def all_ports(program: Program, board: Board) -> dict[str, Any]:
    """Section ``all_ports`` of the report: what the engine would do if its stream came through every port of the board."""
    found = cycles(program, board, board.ports.number)
    return {"stage": "estimate", "built": "built" if board.ports.number == 1 else "not built",
                "cycles_per_image": found / program.batch, "latency_ms": found / board.clock_mhz / 1000,
                "utilization": program.useful_macs() * program.batch / (program.config.macs_per_cycle * found),
                "memory": conditions(board, board.ports.number)}


def _fitted(program: Program, board: Board) -> Program:
    """The program for an engine that fits; up to an eighth of a packed array's columns may multiply in look-up tables where the board
    has too few DSP slices. Raises CapacityError."""
    config = program.config
    for columns in range(0, (config.to // 8 if config.packed else 0) + 1, 2):
        candidate = replace(config, fabric_columns=columns)
        try:
            resources.check_fit(candidate, board)
        except CapacityError as error:
            refusal = error
            continue
        return replace(program, config=candidate)
    raise _with_tensor(refusal, program, board)


def _is_memory(refusal: CapacityError) -> bool:
    """Whether it is memory that the board has too little of."""
    return any(KINDS[kind] in refusal.message for kind in ("bram36", "uram"))


def _with_tensor(refusal: CapacityError, program: Program, board: Board) -> CapacityError:
    """A refusal for want of memory also names the largest tensor that has to stay on chip, its bytes and the board's."""
    if not _is_memory(refusal):
        return refusal
    lanes = {Memory.ACT: 1, Memory.KV: 1, Memory.SCORE: 2, Memory.RES: 4}           # bytes a lane; the residual stream is kept twice
    largest = max(program.buffers, key=lambda b: b.words * lanes[Memory(b.memory)])
    memory = board.bram36 * BRAM36_BYTES + board.uram * URAM_BYTES
    return CapacityError(
        refusal.message,
        where=f"{refusal.where}; largest tensor: {MEMORY_NAMES[Memory(largest.memory)]} of node {program.infos[largest.first].node!r}, "
              f"{largest.words * lanes[Memory(largest.memory)] * program.config.ti:,} bytes of the board's {memory:,}",
        hint=refusal.hint)


def roofline(useful_macs: int, macs_per_cycle: int, stream_bytes: float, bytes_per_cycle: float) -> dict[str, Any]:
    """Least cycles of an image: by the array, and by the memory that delivers weights and input once. The larger one is the limit."""
    array, memory = useful_macs / macs_per_cycle, stream_bytes / bytes_per_cycle
    return {"array_limit_cycles": round(array), "memory_limit_cycles": round(memory), "bound_by": "array" if array >= memory else "memory"}
