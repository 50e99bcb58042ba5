"""Boards as data: one YAML file a board, read into a frozen record. Adding a board changes no Python.

This is the only module that knows YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
import difflib
from enum import StrEnum
from pathlib import Path
import reprlib
import typing

import yaml

from .engine import EngineConfig
from .errors import CapacityError, TargetError
from .paths import data_dir


class Family(StrEnum):
    """Decides what a multiplier and a look-up table can hold (`hwgen.resources`)."""

    ZYNQ_ULTRASCALE_PLUS = "zynq-ultrascale+"
    ECP5 = "ecp5"
    SIM = "sim"


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
    lut: int                     # LUT6, on the ECP5 LUT4
    ff: int
    dsp: int                     # DSP48E2, on the ECP5 18x18 multipliers
    bram36: int                  # 36 kbit each, on the ECP5 pairs of EBR blocks
    uram: int                    # 288 kbit each
    memory_gb_s: float           # peak of the external memory, 1e9 bytes per second
    memory_efficiency: float     # share of the peak that a long sequential read gets
    ports: Ports                 # to the external memory
    axi_data_bits: int           # width of the engine's memory master
    clock_mhz: float             # default clock of the engine
    arrays: tuple[tuple[int, int], ...]     # (ti, to) in order of preference
    packed: bool                 # two products per DSP
    fifo_kb: int                 # weight FIFO, 1024 bytes each: how far the stream may run ahead of the array
    sources: dict[str, str]      # key or group of keys -> where the numbers come from

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

LARGEST = 1_000_000_000_000          # of any number of a board
_KINDS = {int: "a whole number, 0 or more", float: "a number above 0", str: "text", bool: "true or false", dict: "a map of texts",
          Ports: "a map of number, bits and clock_mhz", tuple: "a list of pairs of whole numbers, not empty",
          Family: "one of " + ", ".join(f.value for f in Family)}


PATTERN = "take boards/zcu104.yaml as a pattern"


def _read(path: Path) -> Board:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(f"board file {path.name!r} cannot be read: {error.strerror}", where=str(path), hint=PATTERN) from error
    except RecursionError as error:
        raise TargetError(f"board file {path.name!r} is nested too deeply", where=str(path), hint=PATTERN) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:          # ValueError: bytes that are no UTF-8, a date that is none
        raise TargetError(f"board file {path.name!r} is not YAML: {' '.join(str(error).split())[:300]}", where=str(path), hint=PATTERN) from error
    if not isinstance(data, dict):
        raise TargetError(f"board file {path.name!r} holds {type(data).__name__}, expected a map of keys", where=str(path),
                          hint=PATTERN)
    hints = {key: typing.get_origin(hint) or hint for key, hint in typing.get_type_hints(Board).items()}
    known = [f.name for f in fields(Board)]
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise _wrong(path, f"key {_shown(key)} is unknown", f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
    values = {}
    for key in known:
        if key in data:
            values[key] = _convert(path, key, data[key], hints[key])
        else:
            raise _wrong(path, f"key {key!r} is missing", f"expected {_KINDS[hints[key]]}")
    board = Board(**values)
    if board.memory_efficiency > 1:
        raise _wrong(path, f"key 'memory_efficiency' is {board.memory_efficiency!r}", "it is a share of the peak, at most 1")
    bits = board.axi_data_bits
    if not 32 <= bits <= 1024 or bits & (bits - 1):
        raise _wrong(path, f"key 'axi_data_bits' is {bits!r}", "expected a power of two from 32 to 1024")
    for ti, to in board.arrays:
        try:
            EngineConfig(ti=ti, to=to, max_tokens=16, act_words=16, kv_words=16, score_words=16, res_words=16, program_words=16,
                         max_experts=0, max_top_k=0, axi_data_bits=board.axi_bits(to) if to > 0 else bits, fifo_beats=16)
        except CapacityError as error:
            raise _wrong(path, f"key 'arrays' has {_shown([ti, to])}", error.message) from error
    return board


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxstring, _BRIEF.maxlong = 2, 8, 6, 80, 80


def _shown(value) -> str:
    """Any value for a message: short, also where YAML's aliases make a few lines into a tree without end."""
    return _BRIEF.repr(value)


def _wrong(path: Path, what: str, hint: str) -> TargetError:
    return TargetError(f"board file {path.name!r}: {what}", where=str(path), hint=hint)


def _convert(path: Path, key: str, value, kind: type):
    """``value`` as the type ``kind`` of the field ``key``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int and type(value) is int and 0 <= value <= LARGEST or kind in (str, bool) and type(value) is kind:
        return value
    if kind is float and number and 0 < value <= LARGEST:
        return float(value)
    if kind is Family and value in [f.value for f in Family]:
        return Family(value)
    if kind is Ports and isinstance(value, dict) and value.keys() == {f.name for f in fields(Ports)}:
        number, bits = (_convert(path, f"ports.{name}", value[name], int) for name in ("number", "bits"))
        if number < 1 or bits < 8:
            raise _wrong(path, f"key {key!r} is {_shown(value)}", "expected one port or more, of 8 bits or more")
        return Ports(number, bits, _convert(path, "ports.clock_mhz", value["clock_mhz"], float))
    if kind is dict and isinstance(value, dict) and all(isinstance(x, str) for pair in value.items() for x in pair):
        return value
    if kind is tuple and isinstance(value, list) and value and all(
            isinstance(pair, list) and len(pair) == 2 and all(type(x) is int for x in pair) for pair in value):
        return tuple((ti, to) for ti, to in value)
    raise _wrong(path, f"key {key!r} is {_shown(value)}", f"expected {_KINDS[kind]}")
