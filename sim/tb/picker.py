"""Picker: sequences of different lengths, ties and extremes, scores one by one and side by side, every stall pattern; the list is compared."""

import random

import cocotb
from cocotb.triggers import FallingEdge
import numpy as np

from hwgen import numerics
from hwgen_rtl.picker import STAGES
from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure, StreamChecker
from hwgen_sim.endpoints import sample, start
from hwgen_sim.lanes import pack, unpack
from hwgen_sim.stalls import PATTERNS

DONE_WITHIN = 5000       # cycles


def random_scores(rng: random.Random, count: int) -> list[int]:
    """int16: near each other, ties, rising, falling, extremes."""
    spread = rng.choice([0, 1, 3, 300, 32767])
    scores = [rng.randint(-spread, spread) for _ in range(count)]
    match rng.randrange(5):
        case 0: scores.sort()
        case 1: scores.sort(reverse=True)
        case 2: scores = [rng.choice([-32767, 32767, 0]) for _ in range(count)]
    return scores


async def choose(dut, rng, stall, count: int, keep: int, ranked: bool, by_row: bool, last_alone: bool) -> None:
    """One instruction, from its start to the comparison of the list."""
    p = parameters()
    lanes, to = p["lanes"], p["to"]
    scores, first, base = random_scores(rng, count), rng.randrange(1 << 12), rng.randrange(1 << 12)
    for name, value in (("keep", keep), ("first", first), ("base", base), ("ranked", int(ranked)), ("by_row", int(by_row))):
        getattr(dut, name).value = value
    dut.start.value = 1
    await FallingEdge(dut.clk)
    dut.start.value = 0
    for name in ("keep", "first", "base", "ranked", "by_row"):                       # they are taken at the start
        getattr(dut, name).value = 0
    parts = [scores[at:at + lanes] for at in range(0, count, lanes)] if by_row else [[score] for score in scores]
    for place, part in enumerate(parts):
        while next(stall):
            dut.valid.value, dut.index.value, dut.data.value = 0, rng.getrandbits(16), rng.getrandbits(16 * lanes)
            await FallingEdge(dut.clk)
        junk = [rng.randint(-32768, 32767) for _ in range(lanes - len(part))]
        dut.valid.value, dut.index.value, dut.count.value, dut.data.value = 1, place, len(part), pack([*part, *junk], 16)
        dut.last.value = int(place == len(parts) - 1 and not last_alone)
        await FallingEdge(dut.clk)
    dut.valid.value, dut.last.value = 0, int(last_alone)
    cycles, words = 0, []
    while sample(dut.done) == 0 and cycles < DONE_WITHIN:
        if sample(dut.write):
            words.append((sample(dut.address), unpack(sample(dut.word), 16, to, signed=False)))
        await FallingEdge(dut.clk)
        dut.last.value = 0
        cycles += 1
    most = count * -(-count // lanes) + keep + STAGES + 4 + last_alone
    if not 0 < cycles <= most:
        raise BenchFailure(f"done came {cycles} cycles after last, {most} at most are told")
    right = (first + numerics.best(np.array(scores), keep, ranked)).tolist()
    checker = StreamChecker(f"list of {keep} of {count}, ranked {ranked}, by row {by_row}")
    for place in range(0, keep, to):
        checker.expect((base + place // to, *right[place:place + to]))
    for place, (address, word) in enumerate(words):
        checker.observe((address, *word[:min(to, keep - place * to)]))
    checker.finish()


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize(pattern=list(PATTERNS))
async def makes_lists(dut, pattern):
    p, rng, stall = parameters(), random.Random(23), PATTERNS[pattern](23)
    await start(dut)
    for by_row in (False, True):
        for ranked in (False, True):
            for last_alone in (False, True):
                for count in sorted({1, p["lanes"], p["max_tokens"], rng.randint(2, p["max_tokens"])}):
                    await choose(dut, rng, stall, count, rng.choice([1, count, rng.randint(1, count)]), ranked, by_row, last_alone)
