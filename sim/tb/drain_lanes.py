"""Drain lanes: every mode, mixed token by token, with column parameters loaded meanwhile."""

from dataclasses import dataclass
import random

import cocotb
import numpy as np

from hwgen import numerics
from hwgen.engine import NUM_PARAM_BANKS
from hwgen.isa import Half, Operand
from hwgen.knots import knots
from hwgen_sim.bench import config
from hwgen_sim.checker import TimedChecker
from hwgen_sim.endpoints import TimedDriver, run_timeline, start
from hwgen_sim.lanes import pack
from hwgen_sim.stalls import PATTERNS


@dataclass
class Columns:
    """Parameters of one bank: [to] each."""

    bias: np.ndarray
    mult: np.ndarray
    shift: np.ndarray
    code: np.ndarray        # of a multiplier behind an activation


def random_columns(rng: random.Random, to: int) -> Columns:
    return Columns(np.array([rng.randint(-(1 << 20), 1 << 20) for _ in range(to)]), np.array([rng.randint(0, 65535) for _ in range(to)]),
                   np.array([rng.choice([1, 47, rng.randint(1, 47), rng.randint(14, 30)]) for _ in range(to)]),
                   np.array([rng.choice([0, 63, 639, rng.randint(0, 639)]) for _ in range(to)]))


def plan_load(driver, c, cycle: int, bank: int, columns: Columns) -> int:
    per_vector = c.vector_bytes // 8
    for n in range(-(-c.to // per_vector)):
        words = [int(columns.bias[j]) & 0xFFFFFFFF | int(columns.mult[j]) << 32 | int(columns.shift[j]) << 48 | int(columns.code[j]) << 54
                 for j in range(n * per_vector, min(c.to, (n + 1) * per_vector))]
        driver.at(cycle, load_en=1, load_bank=bank, load_index=n, load_data=pack(words, 64))
        cycle += 1
    driver.at(cycle, load_en=0)
    return cycle


def accumulators(rng: random.Random, to: int) -> np.ndarray:
    size = rng.choice([8, 16, 24, 30])
    return np.array([rng.choice([rng.randint(-(1 << size), 1 << size), 0, (1 << size) - 1, rng.randint(-1200, 20)]) for _ in range(to)])


def edges(rng: random.Random, mult: np.ndarray, shift: np.ndarray, bits: int) -> np.ndarray:
    """Accumulators one of whose neighbours is rounded or saturated differently: [to], as far as 31 bits hold them."""
    limit = (1 << (bits - 1)) - 1
    half = [2 * rng.choice([limit, -limit - 1, limit - 1, -limit, 0, -1, rng.randint(-limit, limit)]) + 1 for _ in mult]
    return np.array([max(-(1 << 30), min(1 << 30, (h << int(s) - 1) // max(int(m), 1) + rng.choice([-1, 0, 0, 1])))
                     for h, m, s in zip(half, mult, shift, strict=True)])


OPERANDS = {False: (Operand.NONE, Operand.NONE, Operand.MULTIPLY, Operand.ADD), True: tuple(Operand)}


def turned(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pairs of lanes turned by the cosines and sines in ``other``, before the shift."""
    (a, b), (cos, sin) = x.reshape(-1, 2).T, other.reshape(-1, 2).T
    return np.stack([a * cos - b * sin, b * cos + a * sin], -1).ravel()


class Token:
    """Inputs of one token and what the golden functions make of them."""

    def __init__(self, rng: random.Random, c, tables: list[numerics.Knots], banks: list[Columns], usable: list[int]):
        self.stream, self.columns = rng.random() < 0.15, rng.random() < 0.6
        self.through = c.bypass and not self.stream and rng.random() < 0.3
        self.columns |= self.through
        self.bank = rng.choice(usable)
        self.act = rng.random() < 0.35 and not self.stream and not self.through
        self.which = rng.randrange(len(tables))
        table, self.frac = tables[self.which], rng.randrange(len(numerics.PRE_ACT_FRACS))
        frac = numerics.PRE_ACT_FRACS[self.frac]
        self.scatter = not self.act and rng.random() < 0.4
        self.to16 = self.act or rng.random() < 0.6
        self.operand = rng.choice(OPERANDS[c.rotate]) if c.operand_words and not self.stream else Operand.NONE
        if self.operand != Operand.NONE:
            self.scatter, self.to16, self.act = False, True, self.operand == Operand.MULTIPLY and rng.random() < 0.6
        self.scaled = self.operand in (Operand.MULTIPLY, Operand.ROTATE)
        self.other = np.array([rng.choice([-32767, 32767, rng.randint(-32767, 32767), rng.randint(-9, 9)]) for _ in range(c.to)])
        self.residual = rng.random() < 0.6 and not self.act and self.operand == Operand.NONE
        self.fresh = self.residual and rng.random() < 0.4
        self.out = rng.random() < 0.3
        self.plane = rng.choice(list(Half)) if c.wide and self.to16 and not self.residual and self.operand != Operand.ADD else Half.NONE
        act_bits = 8 if self.plane == Half.NONE else 16
        self.mult, self.shift = rng.randint(0, 65535), rng.choice([1, 47, rng.randint(10, 32)])
        self.mult2, self.shift2 = rng.randint(0, 65535), rng.choice([1, rng.randint(16, 40), 47]) if self.act else 16
        if self.scaled:
            self.shift2 = rng.choice([1, 2, 42, rng.randint(1, 42), rng.randint(14, 32), rng.randint(20, 26)])
            self.shift2 += self.shift2 % 2 if self.operand == Operand.ROTATE else 0
        self.lanes = rng.choice([c.to, rng.randint(1, c.to)])
        self.acc, self.data = accumulators(rng, c.to), np.array([rng.randint(-32767, 32767) for _ in range(c.to)])
        if self.act and not self.scaled and rng.random() < 0.5:     # where the activation is nearly 0, with a scale that shows its last bit
            self.columns, self.mult, self.shift, self.mult2, self.shift2 = False, 1 << 15, 15, rng.choice([1, 3]), 1
            self.acc = np.array([rng.choice([rng.randint(-5 << frac, -3 << frac), rng.randint(-40, 40)]) for _ in range(c.to)])
        if self.act and not self.scaled and rng.random() < 0.5:     # results of the activation around the limits of what is stored, at every shift
            self.columns, self.mult, self.shift, self.shift2 = False, 1 << 15, 15, rng.randint(1, 47)
            kind = rng.choice(["least", "largest", "vanishing", "any"])
            near = {"least": rng.randint(-3 << frac, -1 << frac - 3), "largest": rng.randint(16384, 32767), "vanishing": rng.randint(16384, 32767),
                    "any": rng.choice([rng.randint(-32767, 32767), rng.randint(-750, 750), rng.randint(0, 100), -16 << frac, 16 << frac])}[kind]
            size = max(1, abs(int(numerics.activation(near, table, frac))))
            doubled = rng.choice([1, 1 << act_bits, *((1 << act_bits) + k for k in (-3, -1, 1))])
            if kind in ("least", "largest"):    # -128, which is stored as -127, and 128, by the largest multiplier and shift that give it
                doubled = 1 << act_bits
                self.shift2 = max(s for s in range(1, 48) if s == 1 or (doubled << s) // (2 * size) < 65535)
            self.mult2 = min(65535, (doubled << self.shift2) // (2 * size) + rng.choice([0, 1]))
            if kind == "vanishing":             # the largest product is still 0 behind the largest shifts
                self.mult2, self.shift2 = rng.randint(60000, 65535), rng.randint(41, 47)
            self.acc = np.array([near + rng.randint(-2, 2) for _ in range(c.to)])
        elif rng.random() < 0.5:
            own = banks[self.bank]
            self.shift = rng.randint(1, 47)
            m, s = (own.mult, own.shift) if self.columns else (np.full(c.to, self.mult), np.full(c.to, self.shift))
            self.acc = edges(rng, m, s, 16 if self.to16 else 8) - (own.bias if self.columns else 0)
        self.act_columns = self.act and not self.scaled and rng.random() < 0.5
        if self.act_columns:
            self.shift2 = rng.choice([self.shift2 | 1, rng.randrange(15, 35, 2)])
        self.old = np.array([rng.choice([-32767, 32767, rng.randint(-32767, 32767), 0]) for _ in range(c.to)])
        p = banks[self.bank]
        self.sums = self.acc
        if self.through:                        # words of 16 bits, the complement of each where the column says so
            self.acc = np.where(p.code >> 9 & 1, ~self.data, self.data)
        self.biased = self.acc + (p.bias if self.columns else 0)
        bits = 16 if self.to16 else 8
        r = numerics.requantize(self.biased, p.mult if self.columns else self.mult, p.shift if self.columns else self.shift, bits)
        r = self.data if self.stream else r
        if self.scaled:
            x = numerics.activation(r, table, frac) if self.act else r
            r = numerics.sat(numerics.round_shift(turned(x, self.other) if self.operand == Operand.ROTATE else x * self.other, self.shift2), act_bits)
        elif self.act:
            second = numerics.short_multiplier(p.code) if self.act_columns else self.mult2
            r = numerics.requantize(numerics.activation(r, table, frac), second, self.shift2, act_bits)
        elif self.scatter:
            r = numerics.sat(numerics.weigh(r, self.mult2), 16)
        self.result = r if self.plane == Half.NONE else numerics.planes(r)[self.plane == Half.LOW]
        before = self.old if self.residual and not self.fresh else self.other if self.operand == Operand.ADD else np.zeros(c.to, np.int64)
        self.word = numerics.sat(before + r, 16)
        valid = np.arange(c.to) < self.lanes
        self.d_sum = int((self.word - before)[valid].sum())
        self.d_squares = int((self.word ** 2 - before ** 2)[valid].sum())
        self.lane_max = int(self.word[valid].max())

    def inputs(self) -> dict[str, int]:
        flags = {"column_params": self.columns, "to16": self.to16, "stream": self.stream, "act": self.act, "residual": self.residual,
                 "second": self.act or self.scatter, "through": self.through, "act_columns": self.act_columns, "fresh": self.fresh, "out": self.out}
        return {**{k: int(v) for k, v in flags.items()}, "acc": pack(self.sums, 32), "data": pack(self.data, 16), "bank": self.bank,
                "mult": self.mult, "shift": self.shift, "which": self.which, "frac": self.frac, "mult2": self.mult2, "shift2": self.shift2,
                "lanes": self.lanes, "plane": int(self.plane), "operand": int(self.operand)}

    def __str__(self) -> str:
        flags = "stream", "through", "columns", "act", "act_columns", "scatter", "to16", "residual", "fresh", "out"
        return f"({self.plane.name}, {self.operand.name}: {', '.join(flag for flag in flags if getattr(self, flag))})"


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often"])
async def matches_golden(dut, pattern):
    c = config()
    tables = [knots(name) for name in c.functions]
    rng, stall = random.Random(13), PATTERNS[pattern](13)
    driver, checker = TimedDriver(dut), TimedChecker()
    banks = [random_columns(rng, c.to) for _ in range(NUM_PARAM_BANKS)]
    first = 0
    for bank, columns in enumerate(banks):
        first = plan_load(driver, c, first, bank, columns)
    mean_sum, mean_left = None, 0
    loading, loading_bank = 0, 0               # first cycle after a load under way, and its bank
    for cycle in range(first, first + 700):
        checker.expect(cycle + 2, out_valid=0)
        if next(stall):
            driver.at(cycle, valid=0)
            checker.expect(cycle + 8, valid8=0)
            continue
        t = Token(rng, c, tables, banks, [b for b in range(len(banks)) if cycle >= loading or b != loading_bank])
        first_token = last_token = rng.random() < 0.5
        if t.out and mean_left == 0 and rng.random() < 0.5:
            mean_left, mean_sum = rng.randint(1, 5), np.zeros(c.to, np.int64)
            first_token = True
        elif mean_left:
            first_token = False
        if mean_left:
            t.out, mean_left, mean_sum = True, mean_left - 1, mean_sum + t.biased
            last_token = mean_left == 0
        driver.at(cycle, valid=1, mean=int(mean_sum is not None), first_token=int(first_token), last_token=int(last_token), **t.inputs())
        if t.out and (mean_sum is None or last_token):
            total = t.biased if mean_sum is None else mean_sum
            checker.expected[cycle + 2] = {"out_valid": (1, ""), "out_word": (pack(total, 32), str(t))}
        if mean_sum is not None and last_token:
            mean_sum = None
        driver.at(cycle + 3, other=pack(t.other, 16))
        driver.at(cycle + 7, old=pack(t.old, 16))
        checker.expect(cycle + 8, str(t), valid8=1, word8=pack(t.result, 8), word16=pack(t.word, 16))
        checker.expect(cycle + 9, str(t), d_sum=t.d_sum & 0xFFFFFFFF, d_squares=t.d_squares & (1 << 48) - 1, lane_max=t.lane_max & 0xFFFF)
        if cycle >= loading and rng.random() < 0.2 and t.columns:          # reload the bank that was just read
            banks[t.bank] = random_columns(rng, c.to)
            loading, loading_bank = plan_load(driver, c, cycle + 1, t.bank, banks[t.bank]), t.bank
    await start(dut)
    await run_timeline(dut, driver, checker)
