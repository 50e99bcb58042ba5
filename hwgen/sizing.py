"""Chooses the engine for a board: array size, columns loaded per cycle, columns without DSP slices; or says why none fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from . import resources
from .board import Board
from .errors import CapacityError
from .qir import QModel
from .schedule import ACT, KV, RES, SCORE, Program, schedule

LATENCY = 100            # cycles of memory latency assumed by estimates
BRAM36_BYTES, URAM_BYTES = 36 * 1024 // 8, 288 * 1024 // 8
MEMORY_NAMES = {ACT: "activations", KV: "keys or values", SCORE: "scores", RES: "the residual stream"}


def choose(model: QModel, board: Board, array: tuple[int, int] | None = None, batch: int = 1) -> Program:
    """The program for the array of the board that the cycle model finds fastest, or for ``array``; two columns are loaded per cycle
    where that saves one cycle in a hundred.

    Raises CapacityError of the first candidate when none fits.
    """
    best: tuple[float, Program] | None = None
    refusal: CapacityError | None = None
    for (ti, to), load_columns in product((array,) if array else board.arrays, (1, 2)):
        try:
            program = schedule(model, ti=ti, to=to, axi_data_bits=board.axi_bits(to), fifo_beats=board.fifo_beats(to), packed=board.packed,
                               batch=batch, load_columns=load_columns)
            program = _fitted(program, board)
        except CapacityError as error:
            refusal = refusal or error
            continue
        cycles = program.estimate(board.bytes_per_cycle(), LATENCY)[-1].stop
        if best is None or cycles < (0.99 if load_columns == 2 else 1) * best[0]:
            best = cycles, program
    if best is None:
        raise refusal
    return best[1]


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


def _with_tensor(refusal: CapacityError, program: Program, board: Board) -> CapacityError:
    """A refusal for want of memory also names the largest tensor that has to stay on chip, its bytes and the board's."""
    if not any(name in refusal.message for name in ("block RAM", "UltraRAM")):
        return refusal
    lanes = {ACT: 1, KV: 1, SCORE: 2, RES: 4}           # bytes a lane; the residual stream is kept twice
    largest = max(program.buffers, key=lambda b: b.words * lanes[b.memory])
    memory = board.bram36 * BRAM36_BYTES + board.uram * URAM_BYTES
    return CapacityError(
        refusal.message,
        where=f"{refusal.where}; largest tensor: {MEMORY_NAMES[largest.memory]} of node {program.infos[largest.first].node!r}, "
              f"{largest.words * lanes[largest.memory] * program.config.ti:,} bytes of the board's {memory:,}",
        hint=refusal.hint)
