"""A whole accelerator over AXI4 and AXI4-Lite: loads a build, runs frames, and hands back the output memory.

Parameters: program, weights, input (files), input_bytes, input_stride, output_bytes, frames, tasks (register), lengths (registers, if any), pattern, stall_seed, runs,
output (file written: the output memory of the last run), result (file written: JSON with cycles and status), and for the tests of this
project faults = true, which adds the tests of error flags.
"""

import json
from pathlib import Path

import cocotb
from cocotb.triggers import FallingEdge, First, RisingEdge, Timer

from hwgen.registers import INSTRUCTION_BYTES, PROGRAM_BASE, StatusBit
from hwgen_sim.axi import BurstWatcher, lite_master, read_memory, write_memory
from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure
from hwgen_sim.endpoints import PERIOD_NS, start

from .registers import Bus, check

PAGE = 4096
FAULTS = parameters().get("faults", False)
TIMEOUT_MS = parameters().get("timeout_ms", 100)


class Accelerator:
    """The device under test with its memories and a bus to its registers."""

    def __init__(self, dut, pattern: str, seed: int):
        p = self.p = parameters()
        self.dut = dut
        weights, frames = Path(p["weights"]).read_bytes(), Path(p["input"]).read_bytes()
        self.weight_bytes, self.input_address = len(weights), -(-len(weights) // PAGE) * PAGE
        size = 1 << (self.input_address + len(frames) + PAGE).bit_length()
        self.memory = read_memory(dut, size, pattern, seed)
        self.memory.write(0, weights)
        self.memory.write(self.input_address, frames)
        self.output_bytes = p["output_bytes"] * p["frames"]
        self.results = write_memory(dut, 1 << max(12, (self.output_bytes + PAGE).bit_length()), pattern, seed + 5)
        self.bus = Bus(lite_master(dut, pattern, seed + 11))
        watchers = (BurstWatcher(dut, "ar", len(dut.m_axi_rdata) // 8), BurstWatcher(dut, "aw", len(dut.m_axi_wdata) // 8))
        self.watchers = [cocotb.start_soon(watcher.run()) for watcher in watchers]

    async def load(self, program: bytes) -> None:
        """Write the program, one register at a time."""
        for i in range(0, len(program), 4):
            await self.bus.write(PROGRAM_BASE + i, int.from_bytes(program[i:i + 4], "little"))

    async def configure(self, weight_bytes: int | None = None) -> None:
        p = self.p
        for name, value in (("TASKS", p["tasks"]), ("FRAMES", p["frames"]), ("INPUT_ADDR_LO", self.input_address), ("INPUT_ADDR_HI", 0),
                            ("INPUT_BYTES", p["input_bytes"]), ("INPUT_STRIDE", p["input_stride"]), ("WEIGHT_ADDR_LO", 0),
                            ("WEIGHT_ADDR_HI", 0), ("WEIGHT_BYTES", self.weight_bytes if weight_bytes is None else weight_bytes),
                            ("OUTPUT_ADDR_LO", 0), ("OUTPUT_ADDR_HI", 0), ("OUTPUT_STRIDE", p["output_bytes"]), ("IRQ_ENABLE", 1)):
            await self.bus.write(name, value)
        for number, value in enumerate(p.get("lengths", ())):
            await self.bus.write(f"LENGTHS_{number}", value)

    async def start(self) -> None:
        self.results.write(0, b"\xA5" * self.output_bytes)
        await self.bus.write("CONTROL", 1)

    async def finish(self) -> int:
        """Wait for the interrupt; returns STATUS and clears it."""
        if not int(self.dut.irq.value):
            done = await First(RisingEdge(self.dut.irq), Timer(TIMEOUT_MS * 9 // 10, "ms"))
            if isinstance(done, Timer):
                raise BenchFailure("no interrupt")
        await FallingEdge(self.dut.clk)
        status = await self.bus.read("STATUS")
        await self.bus.write("STATUS", 0xFFFFFFFF)
        return status

    def output(self) -> bytes:
        return bytes(self.results.read(0, self.output_bytes))


async def prepare(dut, pattern: str, seed: int = 1) -> Accelerator:
    await start(dut)
    accelerator = Accelerator(dut, pattern, seed)
    for _ in range(2):
        await FallingEdge(dut.clk)
    return accelerator


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def runs(dut):
    """Every run (without a reset in between) gives the same output, which goes to the caller."""
    p = parameters()
    a = await prepare(dut, p["pattern"], p["stall_seed"])
    await a.load(Path(p["program"]).read_bytes())
    await a.configure()
    found = []
    for _ in range(p["runs"]):
        await a.start()
        check(await a.finish(), 1 << StatusBit.DONE, "STATUS")
        check(await a.bus.read("FRAMES_DONE"), p["frames"], "FRAMES_DONE")
        found.append(a.output())
    check(found[-1] == found[0], True, "the last run's output equal to the first's")
    cycles = await a.bus.read("CYCLES_LO") + (await a.bus.read("CYCLES_HI") << 32)
    Path(p["output"]).write_bytes(found[-1])
    Path(p["result"]).write_text(json.dumps({"cycles": cycles, "period_ns": PERIOD_NS}))


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms", skip=not FAULTS)
async def errors_set_a_flag_and_never_hang(dut):
    """Start while busy, an unknown instruction, a program without end, a stream too short, a bus error; a good run follows each."""
    p = parameters()
    a = await prepare(dut, p["pattern"], p["stall_seed"])
    good = Path(p["program"]).read_bytes()
    await a.load(good)
    await a.configure()
    await a.start()
    await a.bus.write("CONTROL", 1)
    check(await a.finish(), 1 << StatusBit.DONE | 1 << StatusBit.START_WHILE_BUSY, "STATUS after a start while busy")
    right = a.output()

    async def good_run(after: str) -> None:
        await a.load(good)
        await a.configure()
        await a.start()
        check(await a.finish(), 1 << StatusBit.DONE, f"STATUS of the run after {after}")
        check(a.output() == right, True, f"right output after {after}")

    await good_run("a start while busy")
    count = len(good) // INSTRUCTION_BYTES
    for where in (0, count // 2, count - 1):            # op 15 is no instruction; the last one is END
        bad = bytearray(good)
        bad[where * INSTRUCTION_BYTES] |= 15
        await a.load(bytes(bad))
        await a.start()
        check(await a.finish(), 1 << StatusBit.DONE | 1 << StatusBit.ILLEGAL_INSTRUCTION, f"STATUS, instruction {where} unknown")
        await good_run(f"an unknown instruction {where}")
    await a.configure(weight_bytes=a.weight_bytes // 2 // PAGE * PAGE)
    await a.start()
    check(await a.finish(), 1 << StatusBit.DONE | 1 << StatusBit.ILLEGAL_INSTRUCTION, "STATUS, half of the weights")
    await good_run("half of the weights")
    await a.configure(weight_bytes=a.weight_bytes + PAGE)
    await a.start()
    check(await a.finish(), 1 << StatusBit.DONE, "STATUS, more weights than the program takes")
    await good_run("more weights than the program takes")
    a.memory.bad = range(PAGE, PAGE + 64)
    await a.start()
    check(await a.finish(), 1 << StatusBit.DONE | 1 << StatusBit.AXI_READ_ERROR, "STATUS, a read error")
    a.memory.bad = range(0)
    a.results.bad = range(4)
    await a.start()
    check(await a.finish(), 1 << StatusBit.DONE | 1 << StatusBit.AXI_WRITE_ERROR, "STATUS, a write error")
    a.results.bad = range(0)
    await good_run("bus errors")
