"""AXI4-Lite registers: every register's access rule, start, status bits, program window, counters."""

import random

import cocotb
from cocotb.triggers import FallingEdge
from cocotbext.axi import AxiResp

from hwgen.registers import (
    BY_NAME,
    ID_VALUE,
    INSTRUCTION_BYTES,
    NUM_COUNTERS,
    PROGRAM_BASE,
    REGISTERS,
    VERSION_VALUE,
    Access,
    Register,
    StatusBit,
)
from hwgen_sim.axi import lite_master
from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure
from hwgen_sim.endpoints import sample, start

from . import stream_dma

OKAY, SLVERR = AxiResp.OKAY, AxiResp.SLVERR


def present() -> list[Register]:
    """Those of the design."""
    return [register for register in REGISTERS if not register.needs or parameters()[register.needs]]


async def pulse(dut, name: str) -> None:
    """The bus model wakes at rising edges, the ports here change at falling ones."""
    await FallingEdge(dut.clk)
    await stream_dma.pulse(dut, name)


def check(got, want, what: str) -> None:
    if got != want:
        raise BenchFailure(f"{what} is {got!r}, not {want!r}")


class Bus:
    """Register access by name or address, through AXI4-Lite."""

    def __init__(self, master):
        self.master = master

    async def read(self, where: str | int, resp=OKAY) -> int:
        address = BY_NAME[where].offset if isinstance(where, str) else where
        answer = await self.master.read(address, 4)
        check(answer.resp, resp, f"response to a read of {where}")
        return int.from_bytes(answer.data, "little")

    async def write(self, where: str | int, value: int, resp=OKAY) -> None:
        address = BY_NAME[where].offset if isinstance(where, str) else where
        answer = await self.master.write(address, value.to_bytes(4, "little"))
        check(answer.resp, resp, f"response to a write of {where}")


async def prepare(dut, pattern="never") -> Bus:
    await start(dut)
    bus = Bus(lite_master(dut, pattern, 43))
    for _ in range(2):
        await FallingEdge(dut.clk)
    return bus


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often"])
async def obeys_access_rules(dut, pattern):
    rng, bus = random.Random(43), await prepare(dut, pattern)
    widths = {"IRQ_ENABLE": 1, "FRAMES": 16}
    constants = {"ID": ID_VALUE, "VERSION": VERSION_VALUE, "CONFIG": parameters()["config_id"]}
    written = {}
    for register in present():
        match register.access:
            case Access.RO:
                await bus.write(register.name, rng.getrandbits(32), SLVERR)
                check(await bus.read(register.name), constants.get(register.name, 0), register.name)
            case Access.RW:
                check(await bus.read(register.name), 0, f"{register.name} after reset")
                written[register.name] = rng.getrandbits(32) | 1
                await bus.write(register.name, written[register.name])
            case Access.WO:
                await bus.read(register.name, SLVERR)
            case Access.W1C:
                check(await bus.read(register.name), 0, f"{register.name} after reset")
    for name, value in written.items():
        check(await bus.read(name), value & (1 << widths.get(name, 32)) - 1, name)
    used = {register.offset for register in present()}
    for address in [a for a in range(0, 0x100, 4) if a not in used] + [0x8000, (1 << 20) - 4]:
        await bus.read(address, SLVERR)
        await bus.write(address, 1, SLVERR)
    partial = await bus.master.write(BY_NAME["INPUT_BYTES"].offset + 1, b"\0\0")
    check(partial.resp, SLVERR, "response to a write of two bytes")
    check(await bus.read("INPUT_BYTES"), written["INPUT_BYTES"], "INPUT_BYTES after a partial write")
    check(sample(dut.input_addr), written["INPUT_ADDR_LO"] | written["INPUT_ADDR_HI"] << 32, "port input_addr")
    check(sample(dut.output_stride), written["OUTPUT_STRIDE"], "port output_stride")


async def count_pulses(dut, name: str, seen: list[int]) -> None:
    while True:
        await FallingEdge(dut.clk)
        if sample(getattr(dut, name)):
            seen.append(sample(dut.frames) if name == "start" else
                        (sample(dut.prog_addr), sample(dut.prog_word), sample(dut.prog_data)))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def starts_and_finishes(dut):
    bus, starts = await prepare(dut), []
    task = cocotb.start_soon(count_pulses(dut, "start", starts))
    await bus.write("TASKS", 0x76543210)
    lengths = [register.name for register in present() if register.needs]
    for number, name in enumerate(lengths):
        await bus.write(name, 0x00120034 + number)
    await bus.write("IRQ_ENABLE", 1)
    for frames, sampled in ((0, 1), (5, 5)):
        await bus.write("FRAMES", frames)
        await bus.write("CONTROL", 0)
        check(await bus.read("STATUS") & 1 << StatusBit.BUSY, 0, "busy after a write of 0 to CONTROL")
        await bus.write("CONTROL", 1)
        check(await bus.read("STATUS"), 1 << StatusBit.BUSY, "STATUS while running")
        check((sample(dut.busy), sample(dut.irq)), (1, 0), "busy and irq")
        await bus.write("FRAMES", 9)                                   # for the next start
        for number, name in enumerate(lengths):
            await bus.write(name, 7)
            check(sample(dut.lengths) >> 32 * number & 0xFFFFFFFF, 0x00120034 + number if frames == 0 else 7, f"port lengths, {name}")
        check((sample(dut.frames), sample(dut.tasks)), (sampled, 0x76543210), "frames and tasks")
        await bus.write("CONTROL", 1)
        check(await bus.read("STATUS"), 1 << StatusBit.BUSY | 1 << StatusBit.START_WHILE_BUSY, "STATUS after a second start")
        await bus.write("STATUS", 1 << StatusBit.START_WHILE_BUSY)
        await pulse(dut, "illegal")
        dut.rd_error.value = dut.wr_error.value = 1
        errors = 1 << StatusBit.ILLEGAL_INSTRUCTION | 1 << StatusBit.AXI_READ_ERROR | 1 << StatusBit.AXI_WRITE_ERROR
        check(await bus.read("STATUS"), 1 << StatusBit.BUSY | errors, "STATUS with errors")
        await bus.write("STATUS", 1 << StatusBit.AXI_READ_ERROR)       # the level still stands, only its edge counts
        errors &= ~(1 << StatusBit.AXI_READ_ERROR)
        dut.rd_error.value = dut.wr_error.value = 0
        await pulse(dut, "done")
        await FallingEdge(dut.clk)
        check((sample(dut.busy), sample(dut.irq)), (0, 1), "busy and irq after done")
        check(await bus.read("STATUS"), 1 << StatusBit.DONE | errors, "STATUS after done")
        cycles = await bus.read("CYCLES_LO")
        check(await bus.read("CYCLES_LO"), cycles, "CYCLES_LO while idle")
        check(await bus.read("CYCLES_HI"), 0, "CYCLES_HI")
        if cycles < 10:
            raise BenchFailure(f"{cycles} busy cycles were counted")
        await bus.write("STATUS", 1 << StatusBit.DONE)
        check(sample(dut.irq), 0, "irq after done was cleared")
        check(await bus.read("STATUS"), errors, "STATUS: a start clears the rest")
    check(starts, [1, 5], "frames at each start")
    task.cancel()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def writes_the_program_and_reads_counters(dut):
    rng, bus, writes, expected = random.Random(47), await prepare(dut), [], []
    task = cocotb.start_soon(count_pulses(dut, "prog_we", writes))
    words = parameters()["program_words"]
    for index in (0, words - 1, rng.randrange(words)):
        for word in (0, 15, rng.randrange(16)):
            value = rng.getrandbits(32)
            await bus.write(PROGRAM_BASE + INSTRUCTION_BYTES * index + 4 * word, value)
            expected.append((index, word, value))
    await bus.write(PROGRAM_BASE + INSTRUCTION_BYTES * words, 1, SLVERR)
    await bus.read(PROGRAM_BASE, SLVERR)
    await bus.write("CONTROL", 1)
    await bus.write(PROGRAM_BASE, 1, SLVERR)                           # not while busy
    await pulse(dut, "done")
    for n in range(NUM_COUNTERS):
        value = rng.getrandbits(32)
        getattr(dut, f"counters_{n}").value = value
        check(await bus.read(f"COUNTER_{n}"), value, f"COUNTER_{n}")
    dut.frames_done.value = 0xCAFE
    check(await bus.read("FRAMES_DONE"), 0xCAFE, "FRAMES_DONE")
    for _ in range(3):
        await FallingEdge(dut.clk)
    check(writes, expected, "program writes")
    task.cancel()
