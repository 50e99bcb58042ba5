"""Router: several instructions with different numbers of experts, ties, every stall pattern; queues read back and compared. With scores:
logits and scores in turn, with a bias for the choice and without one."""

from collections import defaultdict
import random

import cocotb
from cocotb.triggers import FallingEdge
import numpy as np

from hwgen import numerics
from hwgen_rtl.router import MIN_LANES, SCORE_LANES
from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure, StreamChecker
from hwgen_sim.endpoints import sample, start
from hwgen_sim.lanes import pack, unpack
from hwgen_sim.stalls import PATTERNS

DONE_WITHIN = 1000       # cycles
ONE = 1 << numerics.LOGIT_FRAC


def stairs(rng: random.Random, num_experts: int) -> list[int]:
    """A row whose neighbours are about a whole number of octaves (ONE) apart: there the exponential changes its shift, or ends."""
    row = [rng.randint(-200, 200)]
    while len(row) < num_experts:
        row.append(max(row) + rng.choice([1, -1, -1]) * (ONE * rng.choice([0, 1, 4, 4, 8, 16, 16, 16]) + rng.choice([-1, 0, 0, 1])))
    return [min(max(x, -32767), 32767) for x in row]


def random_logits(rng: random.Random, num_tokens: int, num_experts: int) -> np.ndarray:
    """[tokens, experts] int16: near each other, ties, rising, falling, extremes, octaves apart."""
    rows = []
    for _ in range(num_tokens):
        spread = rng.choice([1, 3, 300, 3000, 32767])
        row = [rng.randint(-spread, spread) for _ in range(num_experts)]
        match rng.randrange(7):
            case 0: row.sort()
            case 1: row.sort(reverse=True)
            case 2: row = [rng.choice([-32767, 32767])] * num_experts
            case 3: row = [rng.choice([-32767, 32767]) for _ in range(num_experts)]
            case 4: row = stairs(rng, num_experts)
        rows.append(row)
    return np.array(rows)


def random_scores(rng: random.Random, num_tokens: int, num_experts: int) -> np.ndarray:
    """[tokens, experts] 0 .. 32767: near each other, ties, all very small, extremes."""
    rows = []
    for _ in range(num_tokens):
        low, high = sorted((rng.randint(0, 32767), rng.choice([0, 1, 3, 300, 32767])))
        row = [rng.randint(low, high) for _ in range(num_experts)]
        match rng.randrange(6):
            case 0: row.sort()
            case 1: row = [rng.choice([0, 1, 32767])] * num_experts
            case 2: row = [rng.choice([0, 32767]) for _ in range(num_experts)]
            case 3: row = [rng.choice([0, 0, 0, 1, 2]) for _ in range(num_experts)]
        rows.append(row)
    return np.array(rows)


async def send_bias(dut, rng, num_experts: int) -> np.ndarray:
    """A bias for the choice, [experts]."""
    spread = rng.choice([1, 100, 10_000, 32767])
    bias = [rng.randint(-spread, spread) for _ in range(num_experts)]
    junk = [rng.randint(-32768, 32767) for _ in range(parameters()["max_experts"] - num_experts)]
    dut.bias.value, dut.logits.value = 1, pack([*bias, *junk], 16)
    await FallingEdge(dut.clk)
    dut.bias.value = 0
    return np.array(bias)


async def run_instruction(dut, rng, stall, num_experts: int, top_k: int, renorm: bool, last_alone: bool, scored: bool = False) -> None:
    """One instruction from the queue reset to the comparison of all queues."""
    p = parameters()
    bias = np.zeros(num_experts, int)
    if p["scores"]:
        dut.scored.value, dut.biased.value = int(scored), int(biased := scored and rng.random() < 0.7)
        if rng.random() < 0.5 or biased:                             # the last one stays, for a choice that does not ask for it
            sent = await send_bias(dut, rng, num_experts)
            bias = sent if biased else bias
    num_tokens = rng.choice([1, 2, p["max_tokens"]])
    ids = rng.sample(range(1 << 16), num_tokens)
    logits = (random_scores if scored else random_logits)(rng, num_tokens, num_experts)
    dut.num_experts.value, dut.top_k.value, dut.renorm.value = num_experts, top_k, int(renorm)
    dut.reset_queues.value = 1
    await FallingEdge(dut.clk)
    dut.reset_queues.value = 0
    for n in range(num_tokens):
        while next(stall):
            dut.valid.value, dut.token.value, dut.logits.value = 0, rng.getrandbits(16), rng.getrandbits(16 * p["max_experts"])
            await FallingEdge(dut.clk)
        junk = [rng.randint(-32768, 32767) for _ in range(p["max_experts"] - num_experts)]
        dut.valid.value, dut.token.value, dut.logits.value = 1, ids[n], pack([*logits[n], *junk], 16)
        dut.last.value = int(n == num_tokens - 1 and not last_alone)
        await FallingEdge(dut.clk)
    dut.valid.value, dut.last.value = 0, int(last_alone)
    cycles = 0 if last_alone else 1
    while sample(dut.done) == 0 and cycles < DONE_WITHIN:
        await FallingEdge(dut.clk)
        dut.last.value = 0
        cycles += 1
    latency = 2 * max(p["max_experts"], SCORE_LANES if p["scores"] else MIN_LANES) + 10
    if cycles != latency:
        raise BenchFailure(f"done came {cycles} cycles after last, not {latency}")

    experts, scores = numerics.route_scores(logits, bias, top_k, renorm) if scored else numerics.route(logits, top_k, renorm)
    queues = defaultdict(list)
    for token, chosen, weights in zip(ids, experts, scores, strict=True):
        for e, score in zip(chosen, weights, strict=True):
            queues[int(e)].append((token, int(score)))
    counts = unpack(sample(dut.counts), 16, p["max_experts"], signed=False)
    if counts != [len(queues[e]) for e in range(p["max_experts"])]:
        raise BenchFailure(f"counts are {counts}, not {[len(queues[e]) for e in range(p['max_experts'])]}")
    checker = StreamChecker(f"queues ({num_experts} experts, top {top_k}, renorm {renorm}, scored {scored})")
    for e, queue in list(queues.items()):
        for index, entry in enumerate(queue):
            dut.q_expert.value, dut.q_index.value = e, index
            await FallingEdge(dut.clk)
            checker.expect((e, index, *entry))
            dut.q_expert.value = rng.getrandbits(8)                  # the answer belongs to the address of the cycle before
            checker.observe((e, index, sample(dut.q_token), sample(dut.q_score)))
    checker.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(pattern=list(PATTERNS))
async def fills_queues(dut, pattern):
    p, rng, stall = parameters(), random.Random(17), PATTERNS[pattern](17)
    await start(dut)
    for renorm in (False, True):
        for last_alone in (False, True):
            for num_experts in sorted({1, p["max_experts"], rng.randint(1, p["max_experts"])}):
                for top_k in sorted({1, min(p["max_top_k"], num_experts)}):
                    for scored in (False, True)[:1 + p["scores"]]:
                        await run_instruction(dut, rng, stall, num_experts, top_k, renorm, last_alone, scored)
