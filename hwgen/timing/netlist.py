"""A netlist that Yosys wrote as JSON, as a graph for timing: where paths start, what they go through, where they end.

The cells are those of Xilinx families (UG974). A bit is a net, by its number in the file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
import re
from typing import Any

from ..errors import ToolError
from .delays import Delays


class Through(StrEnum):
    """What a path goes through."""

    LUT = "lut"
    MUX = "mux"
    CARRY = "carry"              # into a chain
    CHAIN = "chain"              # on along it
    LUTRAM = "lutram"
    PRODUCT = "product"
    WIRE = "wire"                # a buffer


@dataclass(frozen=True, slots=True)
class Arc:
    """From one bit to another. near: the net in front of it is within the cell or dedicated."""

    source: int
    delay: float
    through: Through
    near: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """Where a path ends: the bit, its set-up, the register or port with the pin."""

    bit: int
    setup: float
    name: str
    pin: str


@dataclass
class Netlist:
    """starts: bit -> (delay, register or port); arcs: bit -> those that lead to it; loads: of each bit; products: bits of DSP slices."""

    starts: dict[int, tuple[float, str]] = field(default_factory=dict)
    arcs: dict[int, list[Arc]] = field(default_factory=lambda: defaultdict(list))
    ends: list[End] = field(default_factory=list)
    loads: Counter[int] = field(default_factory=Counter)
    products: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)

    def name(self, bit: int) -> str:
        """Of a net, the shortest that people wrote."""
        return self.names.get(bit, f"net {bit}")


Cell = Mapping[str, Any]
REGISTER = re.compile(r"FD[RSCP]E(_1)?|LDCE|LDPE")
MEMORY = re.compile(r"RAMB(18|36)|URAM")
LUTRAM = re.compile(r"RAM\d|ROM\d")
ADDRESS = re.compile(r"DPRA|RADR|ADDR|A\d?")
PRODUCT_INPUTS = ("A", "B", "C", "D", "PCIN", "ACIN", "BCIN")


def read(design: Mapping[str, Any], top: str, delays: Delays) -> Netlist:
    """The flattened module ``top`` of a design in Yosys' JSON; paths start and end at modules within it. Raises ToolError for a cell
    that is not known."""
    module = design["modules"][top]
    net = Netlist(names=_names(module["netnames"]))
    for cell in module["cells"].values():
        for port, bits in cell["connections"].items():
            if cell.get("port_directions", {}).get(port) == "input":
                net.loads.update(_bits(bits))
    for name, cell in module["cells"].items():
        if not _add(net, name, cell, delays):
            if cell["type"] not in design["modules"]:
                raise ToolError(f"static timing does not know the cell {cell['type']} of the netlist", where=name)
            _border(net, name, cell, delays)
    for name, port in module["ports"].items():
        for bit in _bits(port["bits"]):
            if port["direction"] == "input":
                net.starts.setdefault(bit, (delays.launch, f"port {name}"))
            else:
                net.ends.append(End(bit, 0.0, f"port {name}", "out"))
    return net


def _names(netnames: Mapping[str, Any]) -> dict[int, str]:
    best: dict[int, tuple[tuple[int, int], str]] = {}
    for name, entry in netnames.items():
        for index, bit in enumerate(entry["bits"]):
            if isinstance(bit, int):
                text = f"{name}[{index}]" if len(entry["bits"]) > 1 else name
                rank = (text.count("$"), len(text))
                if bit not in best or rank < best[bit][0]:
                    best[bit] = rank, text
    return {bit: text for bit, (_, text) in best.items()}


def _bits(bits: list[int | str]) -> Iterator[int]:
    """Without constants."""
    return (bit for bit in bits if isinstance(bit, int))


def _pin(cell: Cell, *ports: str) -> Iterator[int]:
    for port in ports:
        yield from _bits(cell["connections"].get(port, []))


def _ports(cell: Cell, direction: str) -> Iterator[tuple[str, list[int]]]:
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] == direction:
            yield port, list(_bits(bits))


def _add(net: Netlist, name: str, cell: Cell, delays: Delays) -> bool:
    """Whether it is a cell that is known."""
    kind = cell["type"]
    if kind.startswith("LUT") or kind == "INV":
        _gate(net, cell, delays.lut, Through.LUT)
    elif kind.startswith("MUXF"):
        _gate(net, cell, delays.mux, Through.MUX)
    elif kind.startswith("CARRY"):
        _carry(net, cell, delays)
    elif REGISTER.fullmatch(kind):
        _register(net, cell, delays)
    elif kind.startswith("SRL"):
        for bit in _pin(cell, "Q", "Q31"):
            net.starts[bit] = delays.shift, f"shift {net.name(bit)}"
        into = net.name(next(_pin(cell, "Q", "Q31"), 0))
        net.ends += [End(bit, delays.setup, into, "D") for bit in _pin(cell, "D")] + [End(bit, delays.enable, into, "CE") for bit in _pin(cell, "CE")]
    elif MEMORY.match(kind):
        _memory(net, name, cell, delays)
    elif LUTRAM.match(kind):
        _lutram(net, name, cell, delays)
    elif kind.startswith("DSP48"):
        _product(net, cell, delays)
    elif kind in ("BUFG", "BUF", "IBUF", "OBUF"):
        _gate(net, cell, 0.0, Through.WIRE)
    else:
        return kind.startswith(("$scopeinfo", "GND", "VCC"))
    return True


def _border(net: Netlist, name: str, cell: Cell, delays: Delays) -> None:
    for port, bits in _ports(cell, "output"):
        net.starts |= {bit: (delays.launch, f"port {name}.{port}") for bit in bits}
    for port, bits in _ports(cell, "input"):
        if port != "clk":
            net.ends += [End(bit, 0.0, f"port {name}", port) for bit in bits]


def _gate(net: Netlist, cell: Cell, delay: float, through: Through) -> None:
    sources = [bit for _, bits in _ports(cell, "input") for bit in bits]
    for _, outputs in _ports(cell, "output"):
        for bit in outputs:
            net.arcs[bit] += [Arc(source, delay, through) for source in sources]


def _carry(net: Netlist, cell: Cell, delays: Delays) -> None:
    pins = cell["connections"]
    chain = list(_pin(cell, "CI", "CYINIT", "CI_TOP"))
    for port, along in (("O", delays.carry_out), ("CO", delays.carry)):
        for place, bit in enumerate(pins.get(port, [])):
            if isinstance(bit, int):
                net.arcs[bit] += [Arc(source, along, Through.CHAIN, near=True) for source in chain]
                net.arcs[bit] += [Arc(source, delays.carry_in, Through.CARRY) for operand in ("S", "DI")
                                  for source in _bits(pins[operand][:place + 1])]


def _register(net: Netlist, cell: Cell, delays: Delays) -> None:
    out = next(_pin(cell, "Q"), 0)
    net.starts[out] = delays.launch, net.name(out)
    net.ends += [End(bit, delays.setup, net.name(out), "D") for bit in _pin(cell, "D")]
    net.ends += [End(bit, delays.enable, net.name(out), pin) for pin in ("CE", "R", "S", "CLR", "PRE") for bit in _pin(cell, pin)]


def _memory(net: Netlist, name: str, cell: Cell, delays: Delays) -> None:
    for _, bits in _ports(cell, "output"):
        net.starts |= {bit: (delays.memory, f"memory {net.name(bit)}") for bit in bits}
    for port, bits in _ports(cell, "input"):
        if "CLK" not in port:
            net.ends += [End(bit, delays.memory_setup, f"memory {name}", port.rstrip("0123456789")) for bit in bits]


def _lutram(net: Netlist, name: str, cell: Cell, delays: Delays) -> None:
    address = [bit for port, bits in _ports(cell, "input") if ADDRESS.match(port) for bit in bits]
    for _, bits in _ports(cell, "output"):
        for bit in bits:
            net.arcs[bit] += [Arc(source, delays.lutram, Through.LUTRAM) for source in address]
            net.starts.setdefault(bit, (delays.shift, f"lutram {net.name(bit)}"))
    for port, bits in _ports(cell, "input"):
        if "CLK" not in port:
            net.ends += [End(bit, delays.setup, f"lutram {name}", port.rstrip("0123456789")) for bit in bits]


def _product(net: Netlist, cell: Cell, delays: Delays) -> None:
    """Yosys takes the multiplier alone into the slice. Registers right in front of it are its own: AREG, BREG."""
    inputs = list(dict.fromkeys(_pin(cell, *PRODUCT_INPUTS)))
    for bit in _pin(cell, "P", "PCOUT"):
        net.products.add(bit)
        net.arcs[bit] += [Arc(source, delays.product, Through.PRODUCT) for source in inputs]
