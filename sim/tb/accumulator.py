"""Accumulators: interleaved sums at random addresses, the same address again after two cycles; some sums count 256 times."""

import random

import cocotb

from hwgen_sim.bench import config
from hwgen_sim.checker import TimedChecker
from hwgen_sim.endpoints import TimedDriver, run_timeline, start
from hwgen_sim.lanes import pack
from hwgen_sim.stalls import PATTERNS

EXTREMES = (-(1 << 31), (1 << 31) - 1, -1, 0, 1)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=list(PATTERNS))
async def adds_up(dut, pattern):
    c = config()
    rng, stall = random.Random(3), PATTERNS[pattern](3)
    driver, checker, sums, last_use = TimedDriver(dut), TimedChecker(), {}, {}
    for cycle in range(600):
        checker.expect(cycle + 2, acc_valid=0)
        values = [rng.choice(EXTREMES) if rng.random() < 0.1 else rng.getrandbits(32) for _ in range(c.to)]
        close = [a for a, used in last_use.items() if cycle - used == 2 and a in sums]
        addr = rng.choice(close) if close and rng.random() < 0.5 else rng.randrange(c.max_tokens)
        valid = not next(stall) and cycle - last_use.get(addr, -9) >= 2
        first, last = addr not in sums or rng.random() < 0.1, rng.random() < 0.3
        high = rng.random() < 0.3
        driver.at(cycle, valid=int(valid), high=int(high), first=int(first), last=int(last), addr=addr, sum=pack(values, 32))
        if not valid:
            continue
        total = [(v << 8 if high else v) + (0 if first else s) for v, s in zip(values, sums.get(addr, values), strict=True)]
        last_use[addr] = cycle
        if last:
            sums.pop(addr, None)                # what is left in the memory is the old sum: the next use must be `first`
            checker.expected[cycle + 2] = {"acc_valid": (1, ""), "acc": (pack(total, 32), f"(address {addr})")}
        else:
            sums[addr] = total
    await start(dut)
    await run_timeline(dut, driver, checker)
