"""Stream FIFO: words written while there is room, read with stalls, against a list; `rvalid` comes when it should, `clear` empties it."""

from collections import deque
import random

import cocotb
from cocotb.triggers import FallingEdge

from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure
from hwgen_sim.endpoints import sample, start
from hwgen_sim.stalls import PATTERNS

CYCLES = 1500


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(writes=["never", "often", "bursts"], reads=["never", "often", "bursts"])
async def keeps_order(dut, writes, reads):
    bits, depth = parameters()["bits"], parameters()["depth"]
    rng, pause_write, pause_read = random.Random(37), PATTERNS[writes](37), PATTERNS[reads](38)
    await start(dut, clear=1)             # what the test before left
    stored: deque[int] = deque()          # in the memory, oldest first
    waiting: int | None = None            # at the output
    most = taken = 0
    for cycle in range(CYCLES):
        seen = sample(dut.rdata) if sample(dut.rvalid) else None
        if sample(dut.rvalid) is None or seen != waiting:
            raise BenchFailure(f"cycle {cycle}: the output is {seen}, not {waiting}; {len(stored)} words behind it")
        write = not next(pause_write) and len(stored) + (waiting is not None) < depth
        read, clear, word = not next(pause_read), rng.random() < 0.005, rng.getrandbits(bits)
        dut.wen.value, dut.wdata.value, dut.ren.value, dut.clear.value = int(write), word, int(read), int(clear)
        if waiting is None or read:
            taken += waiting is not None
            waiting = stored.popleft() if stored else None
        if write:
            stored.append(word)
        most = max(most, len(stored) + (waiting is not None))
        if clear:
            stored.clear()
            waiting = None
        await FallingEdge(dut.clk)
    if most < depth and writes == "never" and reads != "never" or not taken:
        raise BenchFailure(f"the bench filled {most} of {depth} words and took {taken}")
