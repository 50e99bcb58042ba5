"""Lane memory: windows written at any group and lane mask, words read from any group, against a dictionary of groups."""

import random

import cocotb

from hwgen_sim.bench import config, parameters
from hwgen_sim.checker import TimedChecker
from hwgen_sim.endpoints import TimedDriver, run_timeline, start
from hwgen_sim.lanes import pack
from hwgen_sim.stalls import PATTERNS


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "bursts"])
async def keeps_windows(dut, pattern):
    c, bits, depth, window, rotate = config(), *(parameters()[name] for name in ("bits", "depth", "window", "rotate"))
    group_bits = bits * c.group
    rng, stall = random.Random(11), PATTERNS[pattern](11)
    driver, checker = TimedDriver(dut), TimedChecker()
    stored = {(word, g): rng.getrandbits(group_bits) for word in range(depth) for g in range(c.groups)}
    for cycle, ((word, g), data) in enumerate(stored.items()):           # fill it, one group a cycle
        driver.at(cycle, wen=1, waddr=word, wstride=0, wgroup=g, wmask=1, wdata=data)

    def places(word, stride, first, count):
        """(word, group) of ``count`` groups from ``first`` on; those past the end of the word are in word + stride."""
        return [((word + stride * ((first + n) // c.groups)) % depth, (first + n) % c.groups) for n in range(count)]

    for cycle in range(len(stored), len(stored) + 600):
        write, read = not next(stall), rng.random() < 0.7
        word, stride, first = rng.randrange(depth), rng.choice([1, 4, rng.randrange(depth)]), rng.randrange(c.groups)
        raddr, rstride, rfirst = rng.randrange(depth), rng.choice([1, 4, rng.randrange(depth)]), rng.randrange(c.groups)
        if not rotate:
            rfirst = 0
        mask = rng.choice([(1 << window) - 1, rng.randrange(1 << window)])
        data = [rng.getrandbits(group_bits) for _ in range(window)]
        targets = places(word, stride, first, window)
        sources = places(raddr, rstride, rfirst, c.groups)
        read = read and not (write and set(targets) & set(sources))       # a word being written is not read
        driver.at(cycle, wen=int(write), waddr=word, wstride=stride, wgroup=first, wmask=mask, wdata=pack(data, group_bits),
                  ren=int(read), raddr=raddr, rstride=rstride,
                  rgroup=rfirst if rotate else rng.randrange(c.groups))
        if read:
            checker.expect(cycle + 1, f"(word {raddr}, group {rfirst})", rdata=pack((stored[s] for s in sources), group_bits))
        if write:
            stored.update({t: d for n, (t, d) in enumerate(zip(targets, data, strict=True)) if mask >> n & 1})
    await start(dut)
    await run_timeline(dut, driver, checker)
