"""Boards as data: one YAML file a board, read into a frozen record. Adding a board changes no Python.

docs/how-to/add-a-board.md explains the keys; the family of its chip is data too (`hwgen.devices.family`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import difflib
from pathlib import Path
from typing import Any

from ..engine import EngineConfig
from ..errors import CapacityError, TargetError
from ..paths import data_dir
from .family import Family, Vitis, families, load_family
from .record import Reader, Special, shown


@dataclass(frozen=True)
class Ports:
    """The ports through which the logic reaches the external memory. The RTL has one memory master and uses one of them."""

    number: int
    bits: int
    clock_mhz: float

    @property
    def gb_s(self) -> float:
        """Of one port, 1e9 bytes per second."""
        return self.bits / 8 * self.clock_mhz / 1000


BEST_EFFICIENCY = 0.85   # of the peak: 84 to 85 % on a KV260 (boards/kv260.yaml), the most that was measured on a board of the list


@dataclass(frozen=True)
class Board:
    """One target. Numbers are what the chip has; ``sources`` names the documents they come from."""

    name: str
    title: str
    part: str
    family: Family
    lut: int                     # of the kind that the family's costs count
    ff: int
    dsp: int                     # multipliers as the family describes one
    bram36: int                  # 36 kbit each
    uram: int                    # 288 kbit each
    memory_gb_s: float           # peak of the external memory, 1e9 bytes per second
    memory_efficiency: float     # share of the peak that a long sequential read gets
    ports: Ports                 # to the external memory
    axi_data_bits: int           # width of the engine's memory master
    clock_mhz: float             # default clock of the engine
    arrays: tuple[tuple[int, int], ...]     # (ti, to) to choose from; of equal ones the first
    packed: bool                 # two products per DSP
    fifo_kb: int                 # weight FIFO, 1024 bytes each: how far the stream may run ahead of the array
    sources: dict[str, str]      # key or group of keys -> where the numbers come from

    def to_dict(self) -> dict[str, Any]:
        """The fields of the file, JSON-able; the family by its name."""
        return {**asdict(self), "family": self.family.name}

    def usable(self, kind: str) -> int:
        """How many of a resource ("lut") an engine may take: the chip's, by the share that its family allows."""
        available: int = getattr(self, kind)
        share = self.family.usable[kind]
        return available if share == 1 else int(available * share)

    def vitis(self) -> Vitis:
        """What an HLS project's scripts name. Raises CapacityError: Vitis HLS has no devices of the family."""
        if self.family.vitis is None:
            raise CapacityError(f"Vitis HLS has no devices of the family {self.family.name}, as {self.name} is", hint="use --backend rtl")
        return self.family.vitis

    def bytes_per_cycle(self, clock_mhz: float | None = None, ports: int = 1) -> float:
        """What the external memory delivers per engine cycle through so many ports, at most one beat of the engine's master.

        The RTL has one master, behind one port; more ports than one are not built.
        """
        sustained = min(self.memory_gb_s * self.memory_efficiency, ports * self.ports.gb_s)
        return min(sustained * 1000 / (clock_mhz or self.clock_mhz), self.axi_data_bits / 8)

    def best_bytes_per_cycle(self) -> float:
        """The same through all ports of a memory as good as the best that was measured (`BEST_EFFICIENCY`): what no engine is fed faster
        than."""
        sustained = self.memory_gb_s * max(self.memory_efficiency, BEST_EFFICIENCY)
        return min(min(sustained, self.ports.number * self.ports.gb_s) * 1000 / self.clock_mhz, self.axi_data_bits / 8)

    def fifo_beats(self, to: int) -> int:
        """Depth of the weight FIFO for an engine with ``to`` output lanes, beats."""
        return self.fifo_kb * 1024 * 8 // self.axi_bits(to)

    def axi_bits(self, to: int) -> int:
        """Width for an engine with ``to`` output lanes: the port's, or less so that an output word is whole beats."""
        bits = self.axi_data_bits
        while 32 * to % bits:
            bits //= 2
        return bits


def load_board(target: str | Path) -> Board:
    """The board called ``target`` (see `boards`), or the one in the file ``target`` when that is a path to a .yaml file.

    Raises TargetError: unknown name (with the nearest known one), or a file that is missing or wrong.
    """
    text = str(target)
    if isinstance(target, Path) or text.endswith((".yaml", ".yml")):
        return _read(Path(target))
    files = _files()
    if text in files:
        return _read(files[text])
    near = difflib.get_close_matches(text.lower(), files, n=1, cutoff=0.5)
    known = "known: " + ", ".join(files) + "; or give a path to a .yaml file"
    raise TargetError(f"unknown target {text!r}" + (f", did you mean {near[0]!r}?" if near else ""), hint=known)


def boards() -> list[Board]:
    """All bundled boards, by name."""
    return [_read(path) for path in _files().values()]


def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(data_dir("boards").glob("*.yaml"))}


# ---------------------------------------------------------------- reading

PATTERN = "take boards/zcu104.yaml as a pattern"


def _read(path: Path) -> Board:
    family = Special(f"one of {', '.join(families())}; or a .yaml file beside the board's",
                     lambda key, value: load_family(value, path.parent) if isinstance(value, str) else None)
    reader = Reader(path, "board file", PATTERN, {Family: family})
    board = reader.read(Board)
    for name, least in (("number", 1), ("bits", 8)):
        if (value := getattr(board.ports, name)) < least:
            raise reader.wrong(f"key 'ports.{name}' is {value!r}", f"expected {least} or more")
    if board.memory_efficiency > 1:
        raise reader.wrong(f"key 'memory_efficiency' is {board.memory_efficiency!r}", "it is a share of the peak, at most 1")
    if board.packed and not board.family.packing:
        raise reader.wrong("key 'packed' is True", f"a multiplier of the family {board.family.name} is too narrow for two products: false")
    bits = board.axi_data_bits
    if not 32 <= bits <= 1024 or bits & (bits - 1):
        raise reader.wrong(f"key 'axi_data_bits' is {bits!r}", "expected a power of two from 32 to 1024")
    for ti, to in board.arrays:
        try:
            EngineConfig(ti=ti, to=to, max_tokens=16, act_words=16, kv_words=16, score_words=16, res_words=16, program_words=16,
                         max_experts=0, max_top_k=0, axi_data_bits=board.axi_bits(to) if to > 0 else bits, fifo_beats=16)
        except CapacityError as error:
            raise reader.wrong(f"key 'arrays' has {shown([ti, to])}", error.message) from error
    return board
