"""Families of chips as data: one YAML file a family, read into a frozen record. Adding a family changes no Python.

A family decides what a multiplier, a look-up table and a memory can hold (`hwgen.engines.rtl.cost`), how Yosys synthesizes for it
(`hwgen.flows`) and what the scripts of an HLS project name (`hwgen.engines.hls`). docs/reference/devices.md explains the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
import re

from ..paths import data_dir
from .record import Amount, Count, Reader, shown

RESOURCES = ("lut", "ff", "dsp", "bram36", "uram")
UNITS = (                    # of the engine's logic: keys of `Family.costs`
    "processing element",    # load multiplexer, next weight; multiplier, adder and the weight at work in the DSP
    "fabric element",        # added to a processing element: its product by Booth digits, adder and registers
    "array row", "array column", "accumulator column", "drain lane", "feed lane", "router expert",
    "router place",          # of one expert
    "memory lane bit",       # rotation of a read word and of a written window
    "stream byte",           # DMA, FIFO output, loader, load port
    "control",               # sequencers, fetch, contexts, delay lines, registers, coefficients
)


@dataclass(frozen=True)
class Multiplier:
    """Operands of one hard multiplier. A wider operand is cut into pieces of ``piece`` bits, lowest first, until the rest fits."""

    wide: Count
    narrow: Count
    piece: Count
    signed_only: bool            # an unsigned operand takes a bit more


@dataclass(frozen=True)
class LutRam:
    """``luts`` look-up tables hold ``depth`` words of ``width`` bits. Memories of at most ``words`` words go there."""

    words: int
    luts: float
    width: Count
    depth: Count


@dataclass(frozen=True)
class BlockRam:
    """A block in each of its shapes, (width, depth); ``per_bram36`` of them are what a board counts as one block RAM of 36 kbit."""

    per_bram36: float
    shapes: tuple[tuple[Count, Count], ...]


@dataclass(frozen=True)
class LargeRam:
    """A memory of one shape beside block RAM (UltraRAM). What frees ``least_gain`` block RAMs or more by each of them goes there, and what
    else fits while block RAM lacks."""

    width: Count
    depth: Count
    least_gain: float


@dataclass(frozen=True)
class Yosys:
    """How Yosys synthesizes. In commands ``{top}`` is the module, ``{uram}`` the option `` -uram`` where a board has UltraRAM.

    cells: what a cell of the netlist counts, resource -> number. in_dsp: the adders and registers that a flow lists under this name fit
    into the family's DSP slices. notes: printed with the counts.
    """

    libraries: tuple[str, ...]
    commands: tuple[str, ...]
    cells: dict[str, dict[str, Amount]]
    in_dsp: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Processor:
    """The processing system in a block design of Vivado: its IP and how the engine is joined to it."""

    title: str
    ip: str
    automation: dict[str, str]           # options of its automation rule
    settings: dict[str, int]             # of the IP, without CONFIG.
    clock_setting: str                   # frequency of the clock, MHz
    clock: str                           # pin
    control: str                         # master port
    memory: tuple[str, ...]              # slave ports: weights, input, output
    interrupt: str                       # pin

    def options(self) -> str:
        """Of the automation rule, as a list of Tcl."""
        return "{" + " ".join(f"{name} {{{value}}}" if " " in value else f"{name} {value}" for name, value in self.automation.items()) + "}"

    def properties(self, clock_mhz: str) -> str:
        """Of the IP, as lines of Tcl, three to a line."""
        words = [f"CONFIG.{name} {value}" for name, value in [*self.settings.items(), (self.clock_setting, clock_mhz)]]
        return " \\\n    ".join(" ".join(words[i:i + 3]) for i in range(0, len(words), 3))


@dataclass(frozen=True)
class Vitis:
    """What the scripts of an HLS project name. stand_in: the part, where a board is no chip."""

    stand_in: str | None
    processor: Processor


@dataclass(frozen=True)
class Family:
    """One family of chips."""

    name: str
    title: str
    limits: bool                         # false: no chip, whatever is needed is there
    not_measured: tuple[str, ...]        # what of the costs below no synthesis has counted; shown wherever estimates are
    multiplier: Multiplier
    packing: bool                        # two products of 8 bits share a multiplier: 27 x 18 behind a pre-adder
    costs: dict[str, tuple[Amount, Amount]]              # of `UNITS`: LUTs and flip-flops outside DSP slices
    lutram: LutRam
    block_ram: BlockRam
    large_ram: LargeRam | None
    usable: dict[str, float]             # resource -> share of a chip that an engine may take
    yosys: Yosys | None                  # None: no synthesis
    vitis: Vitis | None                  # None: Vitis HLS has no devices of it
    sources: dict[str, str]


def families() -> dict[str, Path]:
    """Name -> file of every bundled family."""
    return {path.stem: path for path in sorted((data_dir("boards") / "families").glob("*.yaml"))}


def bundled_families() -> list[Family]:
    """All bundled families, by name."""
    return [_bundled(path) for path in families().values()]


def load_family(name: str, beside: Path) -> Family | None:
    """The bundled family ``name``, or the one in the file ``name`` (.yaml) of the folder ``beside``; None when there is none of that name.

    Raises TargetError: the file is missing or wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(beside / name)
    known = families()
    return _bundled(known[name]) if name in known else None


@cache
def _bundled(path: Path) -> Family:
    return _read(path)


def _read(path: Path) -> Family:
    reader = Reader(path, "family file", "take a file of boards/families as a pattern", {})
    family = reader.read(Family)
    reader.check_known(family.costs, list(UNITS), "costs.")
    reader.check_known(family.usable, list(RESOURCES), "usable.")
    for key, known, given, expected in (("costs", UNITS, family.costs, "a pair of numbers: LUTs and flip-flops of one"),
                                        ("usable", RESOURCES, family.usable, "a share, above 0 and at most 1")):
        if missing := [name for name in known if name not in given]:
            raise reader.wrong(f"key {f'{key}.{missing[0]}'!r} is missing", f"expected {expected}")
    for name, share in family.usable.items():
        if share > 1:
            raise reader.wrong(f"key {f'usable.{name}'!r} is {share!r}", "it is a share of the chip, at most 1")
    if family.packing and (family.multiplier.wide < 27 or family.multiplier.narrow < 8):
        raise reader.wrong("key 'packing' is True", f"a packed product takes 27 x 8 bits, the multiplier has {family.multiplier.wide} x "
                                                    f"{family.multiplier.narrow}")
    if family.yosys:
        _check_yosys(reader, family.yosys)
    if family.vitis:
        _check_names(reader, family.vitis.processor)
    return family


# A family may come from a stranger: its text must not become another command of a tool.
_COMMAND = re.compile(r"(read_verilog|synth_\w+)([ \w+./:{}-]*)", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
NAMES = "expected names of letters, digits and underscores"
_NAMES = re.compile(r"\w+(, \w+)*", re.ASCII)


def _check_yosys(reader: Reader, yosys: Yosys) -> None:
    for key, commands in (("libraries", yosys.libraries), ("commands", yosys.commands)):
        for command in commands:
            if not _COMMAND.fullmatch(command):
                raise reader.wrong(f"key {f'yosys.{key}'!r} has {shown(command)}",
                                   "expected a command read_verilog or synth_..., with options and files and nothing else")
    for cell, counts in yosys.cells.items():
        reader.check_known(counts, list(RESOURCES), f"yosys.cells.{cell}.")


def _check_names(reader: Reader, processor: Processor) -> None:
    for key, names in (("ip", [processor.ip]), ("automation", processor.automation), ("settings", processor.settings),
                       ("clock_setting", [processor.clock_setting]), ("clock", [processor.clock]), ("control", [processor.control]),
                       ("memory", processor.memory), ("interrupt", [processor.interrupt])):
        if bad := [name for name in names if not _NAME.fullmatch(name)]:
            raise reader.wrong(f"key {f'vitis.processor.{key}'!r} has {shown(bad[0])}", NAMES)
    if bad := [value for value in processor.automation.values() if not _NAMES.fullmatch(value)]:
        raise reader.wrong(f"key 'vitis.processor.automation' has {shown(bad[0])}", NAMES)
    if len(processor.memory) != 3:
        raise reader.wrong(f"key 'vitis.processor.memory' is {shown(list(processor.memory))}", "expected three names: for weights, input and output")
