"""Cycle model of the engine: loader, memory stream and feed, tile by tile. Needs no tools; its figures are estimates.

The model follows what `rtl/hwgen_rtl` does: a tile is loaded while the one before is streamed, a matmul waits
until all but ``slack`` instructions before it have retired, and a vector cannot be used before memory has delivered it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..engine import MIN_PASS, EngineConfig, retire_latency
from ..program import Instr, Op, Stat

LOAD_LATENCY = 3         # last vector of a tile -> the feed may take the tile
TAKE = 2                 # the array takes a loaded tile -> the loader starts the next
STREAM_START = 60        # from start to the first vector with an ideal memory


@dataclass(frozen=True, slots=True)
class Timing:
    """First and last feed cycle of an instruction, and the cycles in which no token was issued for want of a tile or a hazard."""

    start: int
    stop: int
    wait_tile: int
    wait_hazard: int


def estimate(config: EngineConfig, instrs: list[Instr], rows: list[int], task: int, bytes_per_cycle: float,
             latency: int = 100) -> list[Timing]:
    """Timing of every instruction of one frame of ``task``, from start = 0; rows: tokens streamed per tile (experts: dispatched)."""
    ti, to = config.ti, config.to
    vector = config.vector_bytes
    vector_cycles = vector / min(bytes_per_cycle, config.axi_data_bits / 8)      # of the memory
    load_cycles = to // config.load_columns                                     # of a column tile
    params = -(-8 * to // vector)
    retire = retire_latency(config)
    depth = config.fifo_beats * (config.axi_data_bits // 8) // vector
    delivered = 0.0 + latency + 8           # when the next vector can be there
    taken: deque[float] = deque(maxlen=max(1, depth))
    loader, feed = 0.0, 0.0
    passed: deque[float] = deque([0.0] * 2)          # when the two tiles before are through the array
    retired: list[float] = []
    result = []

    def vectors(count: int, now: float, cycles: int = 1) -> float:
        """The loader takes ``count`` vectors of ``cycles`` each from ``now`` on; returns the cycle after the last."""
        nonlocal delivered
        for _ in range(count):
            if len(taken) == taken.maxlen:
                delivered = max(delivered, taken[0] + latency)
            delivered += vector_cycles
            now = max(now + cycles, delivered)
            taken.append(now)
        return now

    def done(slack: int) -> float:
        """When all but ``slack`` instructions have retired."""
        index = len(retired) - slack
        return retired[index - 1] if index > 0 else 0.0

    for instr, tokens in zip(instrs, rows):
        if instr.op == Op.END:
            start = max(feed, done(0))
            result.append(Timing(round(start), round(start) + 1, 0, round(start - feed)))
            continue
        wait_tile = wait_hazard = 0.0
        if instr.op == Op.STREAM:
            count = instr.tokens * instr.n_tiles * (1 if instr.src == 0 or 2 * to <= vector else 2)
            start = max(feed, done(0))
            loader = vectors(count, max(loader + 2, start))
            feed = max(loader, start)
            retired.append(feed + retire - 20)
            result.append(Timing(round(start), round(feed), 0, 0))
            continue
        if instr.pred and instr.task != task:           # its weights are read and discarded
            loader = vectors(instr.n_tiles * (params * instr.column_params + instr.k_tiles * (load_cycles >> instr.w4)), loader + 2,
                             1 + instr.w4)
            result.append(Timing(round(feed), round(feed), 0, 0))
            continue
        length = max(tokens, MIN_PASS)
        begin = None
        if instr.stat != Stat.WEIGHTS:
            loader = max(loader, done(instr.load_slack))
        loader += 2
        for n in range(instr.n_tiles):
            for k in range(instr.k_tiles):
                room = max(loader + TAKE, passed.popleft())
                if instr.stat == Stat.WEIGHTS:
                    if k == 0 and instr.column_params:
                        room = max(vectors(params, loader), room)
                    loader = vectors(load_cycles >> instr.w4, room, 1 + instr.w4)
                else:
                    loader = room + 1 + (to if instr.stat == Stat.K_COLUMNS else ti)
                hazard = done(instr.slack) if begin is None else 0.0
                tile = max(feed, loader + LOAD_LATENCY, hazard)
                wait_hazard += max(0.0, min(hazard, tile) - feed)
                wait_tile += tile - max(feed, hazard)
                if begin is None:
                    begin = tile
                feed = tile + length
                passed.append(feed + retire - 16)
        retired.append(feed + retire)
        result.append(Timing(round(begin), round(feed), round(wait_tile), round(wait_hazard)))
    return result
