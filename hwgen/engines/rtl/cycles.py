"""Cycle model of the engine: loader, memory stream and feed, tile by tile. Needs no tools; its figures are estimates.

The model follows what `rtl/hwgen_rtl` does: a tile is loaded while the one before is streamed, a matmul waits
until all but ``slack`` instructions before it have retired, and a vector cannot be used before memory has delivered it. What memory
delivers follows from its bandwidth, its latency, and how many bursts may be in flight.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice, repeat

from ...engine import MIN_PASS, EngineConfig, burst_beats, retire_latency, stream_latency
from ...isa import Instr, Op, Src, Stat

LOAD_LATENCY = 3         # last vector of a tile -> the feed may take the tile
TAKE = 2                 # the array takes a loaded tile -> the loader starts the next
AHEAD = 2                # words of a STREAM that the loader has when the drain begins to take them
DELIVERY = 6             # a beat comes -> the loader may have its vector
EDGE = 1e-6              # cycles: far more than rounding, far less than a beat
PICK_LATENCY = 15        # of the list of tokens that are kept, beside its comparisons and its numbers
KEPT = 8                 # estimates: of the chosen engine, which are asked for again
BANK = 4                 # beats, as in templates/bench/main.cpp


@dataclass(frozen=True, slots=True)
class Timing:
    """First and last feed cycle of an instruction, and the cycles in which no token was issued for want of a tile or a hazard."""

    start: int
    stop: int
    wait_tile: int
    wait_hazard: int


class _Stream:
    """The weight stream as the read DMA and the memory behind it deliver it: when the loader has so many vectors more.

    A burst is asked for while fewer than ``read_bursts`` are in flight and the FIFO has room for it. Its first beat comes ``latency``
    cycles later, or after the burst before it; a beat a cycle at most, ``bytes_per_cycle`` in the long run: a memory that was idle may
    be `BANK` beats ahead of that.
    """

    def __init__(self, config: EngineConfig, bytes_per_cycle: float, latency: int):
        beat = config.axi_data_bits // 8
        self.latency, self.vector = latency, config.vector_bytes
        self.beats = burst_beats(config.fifo_beats)
        self.burst, self.room = beat * self.beats, beat * config.fifo_beats                 # bytes
        self.per_byte = 1 / min(bytes_per_cycle, beat)
        self.bank = BANK * beat * self.per_byte
        self.flight: deque[tuple[float, float]] = deque(maxlen=config.read_bursts)          # (asked for, last beat) of the last bursts
        self.asked = self.paid = 0.0            # when the last burst was asked for; until when the bandwidth is used up
        self.read = self.needed = 0             # bytes: of all bursts asked for, of all vectors taken
        self.taken = array("d")                 # when each vector was

    def take(self, count: int, now: float, cycles: int = 1) -> float:
        """The loader takes ``count`` vectors of ``cycles`` each from ``now`` on; returns the cycle after the last."""
        end = self.flight[-1][1] + DELIVERY if self.flight else 0.0
        while count:
            some = min(count, (self.read - self.needed) // self.vector)             # vectors of bursts that have been asked for
            if some <= 0:
                end = self._next_burst() + DELIVERY
                continue
            count -= some
            now = self._take_some(some, now, cycles, end)
        return now

    def _take_some(self, some: int, now: float, cycles: int, end: float) -> float:
        """The same for vectors of bursts whose last beat comes at ``end``: one waits for the one before it, or for its own beats."""
        left, vector, per_byte = self.read - self.needed - self.vector, self.vector, self.per_byte       # left: bytes behind the first one
        first, last = end - left * per_byte, end - (left - (some - 1) * vector) * per_byte
        self.needed += some * vector
        if first < now + cycles - EDGE and last < now + some * cycles - EDGE:                             # all are there already
            self.taken.extend(islice(accumulate(repeat(cycles, some), initial=now), 1, None))
        elif first > now + cycles and vector * per_byte > cycles + EDGE:                                  # all wait for memory
            self.taken.extend([end - (left - i * vector) * per_byte for i in range(some)])
        else:
            for i in range(some):
                now = max(now + cycles, end - (left - i * vector) * per_byte)
                self.taken.append(now)
        return self.taken[-1]

    def _next_burst(self) -> float:
        """Ask for one more; returns when its last beat comes."""
        free = self.flight[0][1] if len(self.flight) == self.flight.maxlen else 0.0
        behind = self.read + self.burst - self.room                 # so many bytes have left the FIFO before
        if behind > 0:
            free = max(free, self.taken[max(0, -(-behind // self.vector) - 2)])         # one vector waits behind the FIFO
        self.asked = max(self.asked, free) + 1
        first = self.asked + self.latency + 1
        self.paid = max(self.paid, first - self.bank) + self.burst * self.per_byte
        self.flight.append((self.asked, max(self.paid, first + self.beats)))
        self.read += self.burst
        return self.flight[-1][1]

    def answered(self, now: float) -> float:
        """When everything that has been asked for before ``now`` is there."""
        return max((end for asked, end in self.flight if asked <= now), default=now)


@lru_cache(maxsize=KEPT)
def estimate(config: EngineConfig, instrs: tuple[Instr, ...], rows: tuple[int, ...], task: int, bytes_per_cycle: float,
             latency: int) -> tuple[Timing, ...]:
    """Timing of every instruction of one frame of ``task``, from start = 0; rows: tokens streamed per tile (experts: dispatched)."""
    ti, to = config.ti, config.to
    load_cycles = to // config.load_columns                                     # of a column tile
    params = -(-8 * to // config.vector_bytes)
    retire, streamed = retire_latency(config), stream_latency(config)
    stream = _Stream(config, bytes_per_cycle, latency)
    loader, feed = 0.0, 0.0
    taken = 0.0                              # when the array has the tile that was loaded last
    passed: deque[float] = deque([0.0] * 2)          # when the two tiles before are through the array
    retired: list[float] = []
    result: list[Timing] = []

    def done(slack: int) -> float:
        """When all but ``slack`` instructions have retired."""
        index = len(retired) - slack
        return retired[index - 1] if index > 0 else 0.0

    for instr, tokens in zip(instrs, rows, strict=True):
        if instr.op == Op.END:
            start = max(feed, done(0))
            stop = max(start + 1 + latency / 2, stream.answered(start))              # outputs are written in half the latency
            result.append(Timing(round(start), round(stop), 0, round(start - feed)))
            continue
        wait_tile = wait_hazard = 0.0
        if instr.op == Op.STREAM:
            count = instr.tokens * instr.n_tiles * (1 if instr.src == 0 or 2 * to <= config.vector_bytes else 2)
            start = max(feed, done(0))
            feed = max(stream.take(count, max(loader + 2, start)), start)
            loader = feed - AHEAD
            retired.append(feed + streamed)
            result.append(Timing(round(start), round(feed), 0, 0))
            continue
        past = instr.stat == Stat.BYPASS
        if instr.pred and instr.task != task or instr.tokens == 0:           # its weights are read and discarded
            tiles = 0 if past else instr.k_tiles
            loader = stream.take(instr.n_tiles * (params * instr.column_params + tiles * (load_cycles >> instr.w4)), loader + 2, 1 + instr.w4)
            result.append(Timing(round(feed), round(feed), 0, 0))
            continue
        length = max(tokens, MIN_PASS) << (instr.wide and not past)             # an operand of 16 bits passes twice
        begin: float | None = None
        if instr.stat not in (Stat.WEIGHTS, Stat.BYPASS):
            loader = max(loader, done(instr.load_slack))
        loader += 2
        for _ in range(instr.n_tiles):
            for k in range(instr.k_tiles):
                room = max(loader, taken, passed.popleft())
                if past:
                    loader = max(stream.take(params, loader), room) + 1
                elif instr.stat == Stat.WEIGHTS:
                    if k == 0 and instr.column_params:
                        room = max(stream.take(params, loader), room)
                    loader = stream.take(load_cycles >> instr.w4, room, 1 + instr.w4)
                else:
                    loader = room + 1 + (to if instr.stat == Stat.K_COLUMNS else ti + (instr.src == Src.ACT))
                taken = loader + TAKE
                hazard = done(instr.slack) if begin is None else 0.0
                tile = max(feed, loader + LOAD_LATENCY, hazard)
                wait_hazard += max(0.0, min(hazard, tile) - feed)
                wait_tile += tile - max(feed, hazard)
                if begin is None:
                    begin = tile
                feed = tile + length
                passed.append(feed + retire - 16)
        retired.append(feed + retire - 1 + (_pick(config, instr, tokens) if instr.pick else 0))
        result.append(Timing(round(begin if begin is not None else feed), round(feed), round(wait_tile), round(wait_hazard)))
    return tuple(result)


def _pick(config: EngineConfig, instr: Instr, tokens: int) -> int:
    """Cycles from the last score to the list of the tokens that are kept (`hwgen_rtl.picker`)."""
    lanes = config.bypass_lanes
    count = (instr.n_tiles - 1) * lanes + instr.n_last if instr.stat == Stat.BYPASS else tokens
    return count * -(-count // lanes) + instr.stat_count + PICK_LATENCY
