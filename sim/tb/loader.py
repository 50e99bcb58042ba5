"""Loader: random instructions; every tile, parameter set and stream word it produces against what the instruction asks for."""

from collections import deque
import random

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly
import numpy as np

from hwgen.engine import NUM_PARAM_BANKS
from hwgen.isa import Instr, Op, Src, Stat
from hwgen_sim.bench import config
from hwgen_sim.checker import BenchFailure, StreamChecker
from hwgen_sim.endpoints import sample, start
from hwgen_sim.lanes import pack, unpack
from hwgen_sim.stalls import PATTERNS, bursts

NO_TILE = "none"         # a tile of which nothing is used: nothing is loaded for it
LONGEST_HOLD = 60        # cycles in which no tile is taken; parameter banks wait ten times as long


class Model:
    """The vectors an instruction takes from the weight stream, and what must come out for it."""

    def __init__(self, c, rng: random.Random):
        self.c, self.rng = c, rng
        self.kv = np.array([[rng.randint(-127, 127) for _ in range(c.ti)] for _ in range(c.kv_words)], np.int8)      # [word, lane]
        self.vectors: deque[int] = deque()                   # packed
        self.tiles, self.parameters, self.words = StreamChecker("tiles"), StreamChecker("parameters"), StreamChecker("stream words")

    def vector(self) -> list[int]:
        values = [self.rng.randint(-127, 127) for _ in range(self.c.vector_bytes)]
        self.vectors.append(pack(values, 8))
        return values

    def kv_word(self, word: int, stride: int, group: int) -> np.ndarray:
        """Lanes from ``group`` on; those past the end of the word are of word + stride."""
        if group >= self.c.groups:
            raise BenchFailure(f"group {group} of {self.c.groups} was read")
        first = group * self.c.group
        return np.concatenate([self.kv[word % self.c.kv_words][first:], self.kv[(word + stride) % self.c.kv_words][:first]])

    def instruction(self) -> tuple[Instr, bool]:
        """A random instruction and whether it runs (else: skipped); fills the expectations."""
        c, rng = self.c, self.rng
        active = rng.random() < 0.7
        if rng.random() < 0.25:
            instr = Instr(op=Op.STREAM, src=rng.choice([Src.ACT, Src.NORM]), tokens=rng.randint(1, 5), n_tiles=rng.randint(1, 2))
            self.expect_words(instr, active)
            return instr, active
        stat = rng.choice([stat for stat in Stat if c.bypass or stat is not Stat.BYPASS])
        src = rng.choice([Src.ACT, Src.EXP]) if c.mixes else Src.EXP
        size = {"op": Op.MATMUL, "stat": stat, "src": src, "k_tiles": rng.randint(1, 3), "n_tiles": rng.randint(1, 3), "load_slack": rng.randint(0, 3)}
        match stat:
            case Stat.WEIGHTS:
                instr = Instr(**size, column_params=rng.randint(0, 1), w4=rng.randint(0, 1) if c.w4 else 0)
                self.expect_weights(instr, active)
            case Stat.BYPASS:
                instr = Instr(**size | {"k_tiles": 1}, column_params=1)
                self.expect_weights(instr, active)
            case Stat.K_COLUMNS | Stat.V_ROWS:
                instr = Instr(**size, k_lo=rng.choice([0, rng.randrange(c.ti // 2)]),
                              k_hi=rng.choice([c.ti, rng.randint(c.ti // 2 + 1, c.ti)]),
                              stat_base=rng.randrange(c.kv_words), stat_stride=rng.randint(1, 40), stat_count=rng.randint(1, 3 * c.to),
                              stat_group=rng.randrange(c.groups) if stat is Stat.V_ROWS else 0)
                if active:
                    self.expect_kv(instr)
        return instr, active

    def expect_words(self, instr, active) -> None:
        c = self.c
        for _ in range(instr.tokens * instr.n_tiles):
            if instr.src == Src.ACT:
                values = self.vector()[:c.to]
            else:
                data = pack([v for _ in range(2 if 2 * c.to > c.vector_bytes else 1) for v in self.vector()], 8)
                values = unpack(data, 16, c.to)
            if active:
                self.words.expect(tuple(values))

    def expect_weights(self, instr, active) -> None:
        c = self.c
        for _ in range(instr.n_tiles):
            if instr.column_params:
                data = tuple(pack(self.vector(), 8) for _ in range(-(-8 * c.to // c.vector_bytes)))
                if active:
                    self.parameters.expect(data)
            if instr.stat == Stat.BYPASS:
                if active:
                    self.tiles.expect(NO_TILE)
                continue
            for _ in range(instr.k_tiles):
                data = np.concatenate([self.vector() for _ in range(c.to // c.load_columns // (2 if instr.w4 else 1))])
                if instr.w4:                                 # two weights in a byte, low nibble first
                    nibbles = np.stack([data & 15, data >> 4 & 15], axis=1).ravel()
                    data = np.where(nibbles > 7, nibbles - 16, nibbles)
                tile = data.reshape(c.to, c.ti).T
                if active:
                    self.tiles.expect((False, False, tile.tobytes()))

    def expect_kv(self, instr) -> None:
        """Tiles [ti, to] by column of keys, or by row."""
        c = self.c
        for j in range(instr.n_tiles):
            for k in range(instr.k_tiles):
                tile = np.zeros((c.ti, c.to), np.int64)
                if instr.stat == Stat.K_COLUMNS:
                    low, high = instr.k_lo if k == 0 else 0, instr.k_hi if k == instr.k_tiles - 1 else c.ti
                    for n in range(min(c.to, instr.stat_count - j * c.to)):
                        word = instr.stat_base + k * instr.stat_stride + j * c.to + n
                        tile[low:high, n] = self.kv[word % c.kv_words][low:high]
                else:
                    chunk, group = divmod(instr.stat_group + j * (c.to // c.group), c.groups)
                    for n in range(min(c.ti, instr.stat_count - k * c.ti)):
                        tile[n] = self.kv_word(instr.stat_base + chunk * instr.stat_stride + k * c.ti + n, instr.stat_stride, group)[:c.to]
                    if instr.src == Src.ACT:
                        behind = [1, *[127] * c.ti]
                        for n in range(max(0, instr.stat_count - k * c.ti), instr.k_hi if k == instr.k_tiles - 1 else c.ti):
                            tile[n] = behind[min(k * c.ti + n - instr.stat_count, 1)]
                self.tiles.expect((instr.stat == Stat.V_ROWS, instr.stat == Stat.V_ROWS and instr.src == Src.EXP, tile.tobytes()))


class Array:
    """Stands for array and drain: takes loads, compares a whole tile, gives room for the next after a while (parameters only when all are full)."""

    def __init__(self, dut, model: Model, hold, parameter_hold: int):
        c = model.c
        self.dut, self.model, self.hold, self.parameter_hold, self.age = dut, model, hold, parameter_hold, 0
        self.tile, self.rows, self.sums, self.full, self.loaded = np.zeros((c.ti, c.to), np.int64), False, False, False, False
        self.parameters, self.parameter_bank, self.parameters_full = [], 0, 0

    def drive(self) -> None:
        ready = not next(self.hold)
        all_full = self.parameters_full == NUM_PARAM_BANKS
        self.age = self.age + 1 if all_full else 0
        taken, parameter_free = ready and self.full, all_full and self.age > self.parameter_hold
        self.full, self.parameters_full = self.full and not taken, self.parameters_full - parameter_free
        self.dut.tile_taken.value, self.dut.par_free.value = int(taken), int(parameter_free)

    def look(self) -> None:
        dut, c = self.dut, self.model.c
        if sample(dut.load_clear):
            self.sums = bool(sample(dut.load_en) and sample(dut.load_row))        # without a write: cleared again
            if sample(dut.load_en):
                self.tile[:], self.rows, self.loaded = 0, self.sums, True
        if sample(dut.load_en):
            if self.full:
                raise BenchFailure("a tile is overwritten before the array has taken it")
            index, data = sample(dut.load_index), np.frombuffer(sample(dut.load_data).to_bytes(c.vector_bytes, "little"), np.int8)
            if self.rows:
                self.tile[index] = data[:c.to]
            else:
                for n in range(c.load_columns if sample(dut.load_wide) else 1):
                    self.tile[:, index + n] = data[c.ti * n:c.ti * (n + 1)]
        if sample(dut.tile_ready):
            self.model.tiles.observe((self.rows, self.sums, self.tile.tobytes()) if self.loaded else NO_TILE)
            self.full, self.loaded = True, False
        if sample(dut.par_en):
            bank, index = sample(dut.par_bank), sample(dut.par_index)
            if self.parameters_full == NUM_PARAM_BANKS or (bank, index) != (self.parameter_bank, len(self.parameters)):
                raise BenchFailure(f"parameter load {index} of bank {bank} while {self.parameters_full} banks are full")
            self.parameters.append(sample(dut.par_data))
            if len(self.parameters) == -(-8 * c.to // c.vector_bytes):
                self.model.parameters.observe(tuple(self.parameters))
                self.parameters, self.parameters_full = [], self.parameters_full + 1
                self.parameter_bank = (self.parameter_bank + 1) % NUM_PARAM_BANKS


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "seldom", "often"])
async def loads_what_instructions_ask_for(dut, pattern):
    c, rng = config(), random.Random(53)
    model = Model(c, rng)
    program = deque(model.instruction() for _ in range(max(20, 60 * 8 // c.to)))
    program += [(Instr(op=Op.STREAM, src=Src.ACT, tokens=1, n_tiles=1), True),
                (Instr(op=Op.MATMUL, stat=Stat.WEIGHTS, column_params=1, k_tiles=1, n_tiles=1), True)]
    model.expect_words(*program[-2])
    model.expect_weights(*program[-1])
    stalls = [PATTERNS[pattern](seed) for seed in range(5)]
    array = Array(dut, model, *((stalls[0], 0) if pattern == "never" else (bursts(LONGEST_HOLD, 59), 10 * LONGEST_HOLD)))
    running, num_active, retired, kv, given, offered = None, 0, 0, None, False, None
    await start(dut)
    checkers = (model.tiles, model.parameters, model.words)
    while program or model.vectors or any(checker.expected for checker in checkers):
        array.drive()
        dut.kv_data.value = rng.getrandbits(8 * c.ti) if kv is None else int.from_bytes(model.kv_word(*kv).tobytes(), "little")
        if retired < num_active - 1 and not next(stalls[1]):
            retired += 1
        dut.retired.value = retired
        offered = program[0] if program and (given or not next(stalls[2])) else None
        dut.instr_valid.value = int(offered is not None)
        if offered is not None:
            dut.instr_word.value, dut.instr_active.value = offered[0].encode(), int(offered[1])
        vector = bool(model.vectors) and not next(stalls[3])
        dut.vec_valid.value = int(vector)
        dut.vec_data.value = model.vectors[0] if vector else rng.getrandbits(8 * c.vector_bytes)
        word_ready = not next(stalls[4])
        dut.word_ready.value = int(word_ready)
        await ReadOnly()
        array.look()
        if word_ready and sample(dut.word_valid):
            model.words.observe(tuple(unpack(sample(dut.word), 16, c.to)))
        if vector and sample(dut.vec_ready):
            model.vectors.popleft()
        given = offered is not None and not sample(dut.instr_ready)
        kv = (sample(dut.kv_addr), sample(dut.kv_stride), sample(dut.kv_group)) if sample(dut.kv_ren) else None
        if kv is not None and num_active - 1 - retired > running.load_slack:
            raise BenchFailure(f"key/value memory read with {num_active - 1 - retired} instructions to retire, allowed {running.load_slack}")
        if offered is not None and sample(dut.instr_ready):
            running, active = program.popleft()
            num_active += active
        await FallingEdge(dut.clk)
    for checker in checkers:
        checker.finish()
