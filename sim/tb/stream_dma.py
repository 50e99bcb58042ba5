"""StreamDma over an AXI4 memory: regions of every length, frames, stalls on all channels, bus errors, abort."""

from itertools import repeat
import random

import cocotb
from cocotb.triggers import FallingEdge

from hwgen_sim.axi import BurstWatcher, read_memory
from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure, StreamChecker
from hwgen_sim.endpoints import StreamMonitor, sample, start
from hwgen_sim.stalls import PATTERNS

SIZE = 1 << 16
HIGH = 0x3_0000_0000     # above 32 bits; the memory looks at the low bits only
LIMIT = 20000            # cycles


async def pulse(dut, *names: str) -> None:
    for name in names:
        getattr(dut, name).value = 1
    await FallingEdge(dut.clk)
    for name in names:
        getattr(dut, name).value = 0


async def wait_for(dut, condition, what: str) -> None:
    for _ in range(LIMIT):
        if condition():
            return
        await FallingEdge(dut.clk)
    raise BenchFailure(f"waited {LIMIT} cycles for {what}")


class Bench:
    """Memory with random content, watcher, monitor and checker around one DMA."""

    def __init__(self, dut, pattern: str, stall: str, seed: int):
        p = parameters()
        self.dut, self.rng = dut, random.Random(seed)
        self.beat, self.vector = p["axi_bits"] // 8, p["vector_bytes"]
        self.memory = read_memory(dut, SIZE, pattern, seed)
        self.memory.write(0, self.rng.randbytes(SIZE))
        self.watcher, self.checker = BurstWatcher(dut, "ar", self.beat), StreamChecker("vectors")
        self.monitor = StreamMonitor(dut, "vec_", self.checker.observe, PATTERNS[stall](seed + 9))
        self.tasks = [cocotb.start_soon(self.watcher.run()), cocotb.start_soon(self.monitor.run())]

    def region(self, max_vectors: int) -> tuple[int, int]:
        """(address, bytes) anywhere in the memory."""
        unit = max(self.beat, self.vector)
        num_bytes = self.vector * self.rng.choice([0, 1, 2, self.rng.randint(1, max_vectors)])
        return self.rng.randrange(0, SIZE // 2, unit) // self.beat * self.beat, num_bytes

    def set(self, frames: int, given: tuple[int, int], weights: tuple[int, int], stride: int) -> list[tuple[int, int]]:
        """Drive the settings; returns the regions that will be read, in order."""
        d = self.dut
        d.frames.value, d.input_stride.value = frames, stride
        d.input_addr.value, d.input_bytes.value = HIGH + given[0], given[1]
        d.weight_addr.value, d.weight_bytes.value = HIGH + weights[0], weights[1]
        return [region for f in range(frames) for region in ((given[0] + f * stride, given[1]), weights)]

    def expect(self, regions) -> None:
        for address, num_bytes in regions:
            data = self.memory.read(address, num_bytes)
            for at in range(0, num_bytes, self.vector):
                self.checker.expect(int.from_bytes(data[at:at + self.vector], "little"))

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often", "bursts"], stall=["never", "bursts"])
async def streams_regions(dut, pattern, stall):
    await start(dut)
    bench = Bench(dut, pattern, stall, 23)
    await FallingEdge(dut.clk)
    runs = [(2, (0, 4 * bench.beat * bench.vector), (4096 - bench.beat, 6 * bench.beat * bench.vector)),
            (0, (0, bench.vector), (64, bench.vector))]
    runs += [(bench.rng.randint(1, 3), bench.region(40), bench.region(80)) for _ in range(6)]
    for frames, given, weights in runs:
        regions = bench.set(frames, given, weights, bench.beat * bench.rng.randrange(32))
        bench.expect(regions)
        first = len(bench.watcher.bursts)
        await pulse(dut, "start", *(["clear"] if bench.rng.random() < 0.5 else []))
        await wait_for(dut, lambda: not bench.checker.expected and sample(dut.idle), "the end of the run")
        for _ in range(10):
            await FallingEdge(dut.clk)
        beats = sum(b.num_beats for b in bench.watcher.bursts[first:])
        if beats != sum(-(-n // bench.beat) for _, n in regions):
            raise BenchFailure(f"{beats} beats were read for {regions}")
        if sample(dut.error):
            raise BenchFailure("error without a bus error")
    bench.checker.finish()
    bench.close()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reports_bus_errors(dut):
    await start(dut)
    bench = Bench(dut, "seldom", "seldom", 29)
    await FallingEdge(dut.clk)
    regions = bench.set(1, (0, 16 * bench.vector), (4096, 8 * bench.vector), 0)
    bench.memory.bad = range(HIGH + 4096, HIGH + 4096 + bench.beat)
    total = sum(n for _, n in regions) // bench.vector
    seen = []
    bench.monitor.report = seen.append          # the data of a failed access is anything
    await pulse(dut, "start")
    await wait_for(dut, lambda: len(seen) == total and sample(dut.idle), "all vectors")
    if not sample(dut.error):
        raise BenchFailure("the bus error was not reported")
    await pulse(dut, "clear")
    await FallingEdge(dut.clk)
    if sample(dut.error):
        raise BenchFailure("clear did not clear the error")
    bench.close()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def aborts_and_starts_again(dut):
    await start(dut)
    bench = Bench(dut, "often", "often", 31)
    await FallingEdge(dut.clk)
    for wait, stuck in ((1, False), (7, False), (40, False), (60, True), (90, False), (120, True)):
        stall = bench.monitor.stall
        if stuck:                                   # words are left in the queue: clear drops them
            bench.monitor.stall = repeat(True)
        bench.set(3, (0, 64 * bench.vector), (8192, 64 * bench.vector), 1024)
        bench.monitor.report = lambda word: None
        await pulse(dut, "start")
        for _ in range(wait):
            await FallingEdge(dut.clk)
        dut.abort.value, bench.monitor.may_drop = 1, True         # clear drops the word that waits
        await wait_for(dut, lambda: sample(dut.idle), "idle after abort")
        dut.abort.value = 0
        await pulse(dut, "clear")
        await FallingEdge(dut.clk)
        bench.monitor.may_drop, bench.monitor.stall = False, stall
        bench.monitor.report = bench.checker.observe
        bench.expect(bench.set(1, bench.region(30), (4096, 20 * bench.vector), 0))
        await pulse(dut, "start")
        await wait_for(dut, lambda: not bench.checker.expected and sample(dut.idle), "the run after an abort")
    bench.checker.finish()
    bench.close()
