"""The AXI4-Lite register map: one list for the hardware, the driver and the documentation.

All registers are 32 bits, little endian, on a 20-bit byte address space. An access against ``access``, to an unmapped address,
or a write with some but not all byte strobes has no effect and answers SLVERR.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from .engine import EngineConfig

ADDRESS_BITS = 20
ID_VALUE = 0x48574731          # "HWG1"
VERSION_VALUE = 0x00000100     # major * 0x100 + minor
PROGRAM_BASE = 0x10000         # word w of instruction i at PROGRAM_BASE + 64 * i + 4 * w, write only, not while busy
INSTRUCTION_BYTES = 64
MAX_PROGRAM_WORDS = ((1 << ADDRESS_BITS) - PROGRAM_BASE) // INSTRUCTION_BYTES
NUM_COUNTERS = 8
NUM_TASK_SLOTS = 8             # of the TASKS register, and of LENGTHS
LENGTH_BITS = 16


class Access(Enum):
    """What the host may do; W1C: read, and write 1 to clear a bit."""

    RO = "RO"
    WO = "WO"
    RW = "RW"
    W1C = "W1C"


class StatusBit(IntEnum):
    """Bit numbers of STATUS. DONE and the errors hold until cleared by the host or by a start."""

    BUSY = 0
    DONE = 1
    START_WHILE_BUSY = 8
    ILLEGAL_INSTRUCTION = 9
    AXI_READ_ERROR = 10
    AXI_WRITE_ERROR = 11


@dataclass(frozen=True, slots=True)
class Register:
    """One 32-bit register at byte ``offset``. needs: of an `EngineConfig`, for engines that have it only."""

    name: str
    offset: int
    access: Access
    doc: str
    needs: str = ""


REGISTERS: tuple[Register, ...] = (
    Register("ID", 0x00, Access.RO, "0x48574731, the letters HWG1"),
    Register("VERSION", 0x04, Access.RO, "register map version, major * 0x100 + minor"),
    Register("CONFIG", 0x08, Access.RO, "first eight hex digits of the engine configuration's digest"),
    Register("CONTROL", 0x0C, Access.WO, "bit 0: start; ignored with STATUS bit 8 set while busy"),
    Register("STATUS", 0x10, Access.W1C, "bit 0 busy, 1 done, 8 start while busy, 9 illegal instruction, 10 AXI read error, "
             "11 AXI write error; write 1 clears all but busy, a start clears them too"),
    Register("IRQ_ENABLE", 0x14, Access.RW, "bit 0: the interrupt line is high while done is set"),
    Register("TASKS", 0x18, Access.RW, "eight 4-bit task numbers; frame f runs task (f mod 8); sampled by start"),
    Register("FRAMES", 0x1C, Access.RW, "frames of one run, 16 bits; 0 is taken as 1; sampled by start"),
    Register("INPUT_ADDR_LO", 0x20, Access.RW, "byte address of frame 0's input, low half; 4 KB aligned"),
    Register("INPUT_ADDR_HI", 0x24, Access.RW, "high half"),
    Register("INPUT_BYTES", 0x28, Access.RW, "bytes of one frame's input"),
    Register("INPUT_STRIDE", 0x2C, Access.RW, "bytes from one frame's input to the next"),
    Register("WEIGHT_ADDR_LO", 0x30, Access.RW, "byte address of the weight image, low half; 4 KB aligned"),
    Register("WEIGHT_ADDR_HI", 0x34, Access.RW, "high half"),
    Register("WEIGHT_BYTES", 0x38, Access.RW, "bytes of the weight image"),
    Register("OUTPUT_ADDR_LO", 0x3C, Access.RW, "byte address of frame 0's output, low half"),
    Register("OUTPUT_ADDR_HI", 0x40, Access.RW, "high half"),
    Register("OUTPUT_STRIDE", 0x44, Access.RW, "bytes from one frame's output to the next"),
    Register("CYCLES_LO", 0x50, Access.RO, "busy cycles of the last run, low half; reading it freezes CYCLES_HI"),
    Register("CYCLES_HI", 0x54, Access.RO, "high half at the last read of CYCLES_LO"),
    *(Register(f"COUNTER_{n}", 0x58 + 4 * n, Access.RO, f"engine event counter {n}") for n in range(NUM_COUNTERS)),
    Register("FRAMES_DONE", 0x80, Access.RO, "frames finished in the last run"),
    *(Register(f"LENGTHS_{n}", 0x84 + 4 * n, Access.RW, f"two 16-bit numbers, low half first: tokens of the sequence of frames f with f mod 8 = "
               f"{2 * n} and {2 * n + 1}, 0 for as many as were compiled; sampled by start", "lengths") for n in range(NUM_TASK_SLOTS // 2)),
)



def registers_of(config: EngineConfig) -> tuple[Register, ...]:
    """Those that an engine has."""
    return tuple(register for register in REGISTERS if not register.needs or getattr(config, register.needs))


BY_NAME: dict[str, Register] = {register.name: register for register in REGISTERS}
