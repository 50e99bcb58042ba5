"""OutputWriter over an AXI4 memory: frames at any beat address, stalls on all channels, bus errors."""

import random

import cocotb
from cocotb.triggers import FallingEdge

from hwgen_sim.axi import BurstWatcher, write_memory
from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure
from hwgen_sim.endpoints import sample, start
from hwgen_sim.stalls import PATTERNS

from .stream_dma import pulse, wait_for

SIZE = 1 << 16
HIGH = 0x5_0000_0000


async def write_frames(dut, rng, stall, address: int, stride: int, frames: list[int]) -> dict[int, bytes]:
    """Send frames of so many words; returns what must be in memory: address -> word."""
    p = parameters()
    word_bytes, expected = p["word_bits"] // 8, {}
    dut.out_addr.value, dut.out_stride.value = HIGH + address, stride
    await pulse(dut, "start")
    for f, num_words in enumerate(frames):
        together = rng.random() < 0.5 and num_words > 0              # next_frame with the last word, or after it
        for n in range(num_words):
            while next(stall) or sample(dut.free) == 0:
                dut.in_valid.value, dut.in_data.value = 0, rng.getrandbits(p["word_bits"])
                await FallingEdge(dut.clk)
            word = rng.randbytes(word_bytes)
            expected[address + f * stride + n * word_bytes] = word
            dut.in_valid.value, dut.in_data.value = 1, int.from_bytes(word, "little")
            dut.next_frame.value = int(together and n == num_words - 1)
            await FallingEdge(dut.clk)
            dut.in_valid.value, dut.next_frame.value = 0, 0
        if not together:
            await pulse(dut, "next_frame")
    await wait_for(dut, lambda: sample(dut.idle), "idle")
    return expected


def compare(memory, expected: dict[int, bytes]) -> None:
    if not expected:
        raise BenchFailure("nothing was written")
    for address, word in expected.items():
        if (got := memory.read(address, len(word))) != word:
            raise BenchFailure(f"memory at {address:#x} is {got.hex()}, not {word.hex()}")


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often", "bursts"], stall=["never", "bursts"])
async def writes_frames(dut, pattern, stall):
    p, rng, stalls = parameters(), random.Random(37), PATTERNS[stall](37)
    beat, word_bytes = p["axi_bits"] // 8, p["word_bits"] // 8
    await start(dut)
    memory, watcher = write_memory(dut, SIZE, pattern, 37), BurstWatcher(dut, "aw", p["axi_bits"] // 8)
    task = cocotb.start_soon(watcher.run())
    await FallingEdge(dut.clk)
    for address in (0, 4096 - beat, 4096 - 3 * word_bytes, *(rng.randrange(0, SIZE // 2, beat) for _ in range(3))):
        memory.write(0, bytes(SIZE))
        first = len(watcher.bursts)
        stride = 64 * word_bytes + beat * rng.randrange(4)
        expected = await write_frames(dut, rng, stalls, address, stride, [rng.choice([0, 1, 20]), 17, rng.randint(1, 30)])
        compare(memory, expected)
        written = {a + n for a, word in expected.items() for n in range(len(word))}
        stray = [a for a, byte in enumerate(memory.read(0, SIZE)) if byte and a not in written]
        if stray:
            raise BenchFailure(f"memory at {stray[0]:#x} was written")
        beats = sum(b.num_beats for b in watcher.bursts[first:])
        if beats * beat != len(written):
            raise BenchFailure(f"{beats} beats for {len(written)} bytes")
        if sample(dut.error) or sample(dut.free) != p["fifo_words"]:
            raise BenchFailure(f"error is {sample(dut.error)}, free is {sample(dut.free)} at the end of a run")
    task.cancel()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reports_bus_errors(dut):
    rng, stalls = random.Random(41), PATTERNS["seldom"](41)
    await start(dut)
    memory = write_memory(dut, SIZE, "seldom", 41)
    await FallingEdge(dut.clk)
    memory.bad = range(HIGH + 4096, HIGH + 4097)
    await write_frames(dut, rng, stalls, 4096, 0, [4])
    if not sample(dut.error):
        raise BenchFailure("the bus error was not reported")
    await pulse(dut, "clear")
    if sample(dut.error):
        raise BenchFailure("clear did not clear the error")
    compare(memory, await write_frames(dut, rng, stalls, 8192, 0, [4]))
    if sample(dut.error):
        raise BenchFailure("error without a bus error")
