"""AXI endpoints of the benches: cocotbext-axi memories with stall patterns, and a watcher of the bursts a master issues."""

from dataclasses import dataclass

from cocotb.triggers import FallingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiRamRead, AxiRamWrite, AxiReadBus, AxiWriteBus

from .checker import BenchFailure
from .endpoints import sample
from .stalls import stalls

PAGE_BYTES = 4096
INCR = 1


class ReadMemory(AxiRamRead):
    """AXI4 read memory; an access that touches ``bad`` (a range of byte addresses) is answered with SLVERR."""

    bad = range(0)

    async def _read(self, address, length):
        if address < self.bad.stop and address + length > self.bad.start:
            raise ValueError("bad address")
        return await super()._read(address, length)


class WriteMemory(AxiRamWrite):
    """AXI4 write memory; the same."""

    bad = range(0)

    async def _write(self, address, data):
        if address < self.bad.stop and address + len(data) > self.bad.start:
            raise ValueError("bad address")
        await super()._write(address, data)


def read_memory(dut, size: int, pattern: str, seed: int) -> ReadMemory:
    """On the ports m_axi_ar*, m_axi_r*; both channels stall on their own."""
    memory = ReadMemory(AxiReadBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=size)
    for n, channel in enumerate((memory.ar_channel, memory.r_channel)):
        channel.set_pause_generator(stalls(pattern, seed + n))
    return memory


def write_memory(dut, size: int, pattern: str, seed: int) -> WriteMemory:
    """On the ports m_axi_aw*, m_axi_w*, m_axi_b*."""
    memory = WriteMemory(AxiWriteBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=size)
    for n, channel in enumerate((memory.aw_channel, memory.w_channel, memory.b_channel)):
        channel.set_pause_generator(stalls(pattern, seed + n))
    return memory


def lite_master(dut, pattern: str, seed: int) -> AxiLiteMaster:
    """On the ports s_axil_*; every channel stalls on its own."""
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    write, read = master.write_if, master.read_if
    for n, channel in enumerate((write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)):
        channel.set_pause_generator(stalls(pattern, seed + n))
    return master


@dataclass(frozen=True)
class Burst:
    address: int
    num_beats: int


class BurstWatcher:
    """Collects the address phases of channel ``ar`` or ``aw`` and checks size, type, the 4 KB rule, and that a request holds."""

    def __init__(self, dut, channel: str, beat_bytes: int):
        self.dut, self.channel, self.beat_bytes = dut, channel, beat_bytes
        self.bursts: list[Burst] = []
        self.held: tuple | None = None

    def _port(self, name: str) -> int:
        return sample(getattr(self.dut, f"m_axi_{self.channel}{name}"))

    async def run(self) -> None:
        """Endless: for ``cocotb.start_soon``."""
        while True:
            await FallingEdge(self.dut.clk)
            request = tuple(self._port(name) for name in ("addr", "len", "size", "burst")) if self._port("valid") else None
            if self.held is not None and request != self.held:
                raise BenchFailure(f"{self.channel}: request {self.held} was not kept until it was taken")
            self.held = None if self._port("ready") else request
            if request is not None and self.held is None:
                self._check(*request)

    def _check(self, address: int, length: int, size: int, burst: int) -> None:
        if 1 << size != self.beat_bytes or burst != INCR or address % self.beat_bytes:
            raise BenchFailure(f"{self.channel}: size {size}, burst {burst}, address {address:#x} for beats of {self.beat_bytes} bytes")
        last = address + (length + 1) * self.beat_bytes - 1
        if address // PAGE_BYTES != last // PAGE_BYTES:
            raise BenchFailure(f"{self.channel}: burst {address:#x}..{last:#x} crosses {PAGE_BYTES} bytes")
        self.bursts.append(Burst(address, length + 1))
