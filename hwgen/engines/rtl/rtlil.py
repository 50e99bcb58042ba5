"""RTLIL text -> RTLIL text in which every operator has operands as wide as its result.

Yosys' cells extend and cut their operands by themselves, and its Verilog writer leaves that to Verilog's context rules: 33 bits
receive ``a + 4'hf``, and lint rightly asks whether that was meant. `explicit_widths` writes the same function with the extension
and the cut in the signals: zeros or copies of the sign bit in a concatenation, a slice. Values do not change.

Only what Yosys writes after ``proc`` is understood; anything else is refused. Grammar and cells: Yosys manual, "RTLIL" and
"Internal cell library".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
import re

from ...errors import ToolError

Bit = str | tuple[str, int]              # "0", "1", "x", "z", or bit of a wire
Signal = tuple[Bit, ...]                 # lowest bit first

ARITHMETIC = frozenset({"$add", "$sub", "$mul", "$and", "$or", "$xor", "$xnor", "$not", "$neg", "$pos"})
COMPARE = frozenset({"$eq", "$ne", "$eqx", "$nex", "$lt", "$le", "$gt", "$ge"})
LOGIC = frozenset({"$logic_not", "$logic_and", "$logic_or"})
REDUCE = frozenset({"$reduce_and", "$reduce_or", "$reduce_xor", "$reduce_xnor", "$reduce_bool"})
LEFT = frozenset({"$shl", "$sshl"})
RIGHT = frozenset({"$shr", "$sshr", "$shift"})
# widths are equal by definition
_ZEROS = re.compile(r"^(    parameter \\INIT) \d+'0+\n", re.MULTILINE)
AS_THEY_ARE = frozenset({"$mux", "$bmux", "$dff", "$dffe", "$sdff", "$sdffe", "$sdffce", "$mem_v2"})

_WIRE = re.compile(r"  wire (.*?)([\\$]\S+)\n")
_CELL = re.compile(r"  cell (\S+) (\S+)\n")
_FIELD = re.compile(r"    (parameter|connect) (\\\S+) (.*)\n")
_TOKEN = re.compile(r"\s*(?:(?P<open>\{)|(?P<close>\})|(?P<const>\d+'[01xz-]*)|(?P<slice>\[\d+(?::\d+)?\])|(?P<int>-?\d+)"
                    r"|(?P<wire>[\\$]\S+))")


@dataclass(frozen=True, slots=True)
class Cell:
    """An operator. parameters: A_SIGNED, Y_WIDTH, ...; ports: A, B, Y, ..."""

    type: str
    name: str
    parameters: dict[str, int]
    ports: dict[str, Signal]

    def signed(self, *ports: str) -> bool:
        return all(self.parameters.get(f"{port}_SIGNED", 0) for port in ports)

    def with_port(self, port: str, signal: Signal) -> Cell:
        return replace(self, ports=self.ports | {port: signal}, parameters=self.parameters | {f"{port}_WIDTH": len(signal)})


def parse_signal(text: str, wires: dict[str, int]) -> Signal:
    """A sigspec. wires: name -> bits. Raises ToolError for a form Yosys does not write."""
    parts: list[list[Signal]] = [[]]
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ToolError(f"RTLIL signal not understood: {text!r}")
        kind = str(token.lastgroup)
        position, word = token.end(), token[kind]
        match kind:
            case "open":
                parts.append([])
            case "close":
                inner = parts.pop()
                parts[-1].append(tuple(bit for part in reversed(inner) for bit in part))
            case "slice":
                high, _, low = word[1:-1].partition(":")
                parts[-1][-1] = parts[-1][-1][int(low or high):int(high) + 1]
            case "const":
                parts[-1].append(tuple(word.partition("'")[2].replace("-", "x")[::-1]))
            case "int":
                parts[-1].append(tuple(f"{int(word) & 0xffffffff:032b}"[::-1]))
            case "wire":
                parts[-1].append(tuple((word, i) for i in range(wires[word])))
    ((signal,),) = parts
    return signal


def format_signal(signal: Signal) -> str:
    """The sigspec of a signal, constants and neighbouring bits joined."""
    chunks: list[tuple[str, int, int] | str] = []            # highest first: (wire, high, low) or constant digits
    for bit in reversed(signal):
        last = chunks[-1] if chunks else None
        if isinstance(bit, str):
            if isinstance(last, str):
                chunks[-1] = last + bit
            else:
                chunks.append(bit)
        elif isinstance(last, tuple) and (last[0], last[2] - 1) == bit:
            chunks[-1] = (last[0], last[1], bit[1])
        else:
            chunks.append((bit[0], bit[1], bit[1]))
    texts = [f"{len(c)}'{c}" if isinstance(c, str) else f"{c[0]} [{c[1]}:{c[2]}]" for c in chunks]
    return texts[0] if len(texts) == 1 else "{ " + " ".join(texts) + " }"


def resized(signal: Signal, width: int, signed: bool) -> Signal:
    """Cut to ``width`` bits, or extended with zeros or the sign bit."""
    return signal[:width] + (signal[-1] if signed else "0",) * (width - len(signal))


def without_zeros(text: str) -> str:
    """Memories that begin with zeros begin with anything: what is not a table is written before it is read, and a chip's large memories
    cannot be set."""
    return _ZEROS.sub(r"\1 1'x\n", text)


def explicit_widths(text: str) -> str:
    """Every operator of every module with explicit widths. Wires lose their ``signed`` mark: cells alone say what is signed.

    Raises ToolError when a cell has no rule.
    """
    lines = text.splitlines(keepends=True)
    result: list[str] = []
    wires: dict[str, int] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("module "):
            wires = _wires(lines, at)
        if wire := _WIRE.fullmatch(line):
            line = f"  wire {wire[1].replace('signed ', '')}{wire[2]}\n"
        cell = _CELL.fullmatch(line)
        if cell is None or not cell[1].startswith("$") or cell[1] in AS_THEY_ARE or "\\" in cell[1]:
            result.append(line)
            continue
        stop = lines.index("  end\n", at)
        result += _lines(explicit(_cell(cell[1], cell[2], lines[at:stop], wires)))
        at = stop + 1
    return "".join(result)


def _wires(lines: list[str], at: int) -> dict[str, int]:
    """Widths of the wires of the module whose body starts at line ``at``."""
    found = {}
    for line in lines[at:lines.index("end\n", at)]:
        if wire := _WIRE.fullmatch(line):
            width = re.search(r"\bwidth (\d+)", wire[1])
            found[wire[2]] = int(width[1]) if width else 1
            if re.search(r"\b(upto|offset)\b", wire[1]):
                raise ToolError(f"RTLIL wire {wire[2]} does not count its bits from 0 up")
    return found


def _cell(kind: str, name: str, lines: list[str], wires: dict[str, int]) -> Cell:
    parameters, ports = {}, {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise ToolError(f"RTLIL of cell {name} not understood: {line.strip()!r}")
        signal = parse_signal(field[3], wires)
        if field[1] == "connect":
            ports[field[2][1:]] = signal
        else:
            parameters[field[2][1:]] = sum((bit == "1") << i for i, bit in enumerate(signal))
    return Cell(kind, name, parameters, ports)


def _lines(cells: tuple[Cell | tuple[Signal, Signal], ...]) -> Iterator[str]:
    """RTLIL of cells and of connections (target, source); wires named after a cell (`_inner`) are declared before their use."""
    declared = set()
    for item in cells:
        for signal in item.ports.values() if isinstance(item, Cell) else item:
            for name in dict.fromkeys(bit[0] for bit in signal if isinstance(bit, tuple) and bit[0].endswith("$width")):
                if name not in declared:
                    declared.add(name)
                    width = 1 + max(bit[1] for bit in signal if isinstance(bit, tuple) and bit[0] == name)
                    yield f"  wire width {width} {name}\n"
        if isinstance(item, Cell):
            yield f"  cell {item.type} {item.name}\n"
            yield from (f"    parameter \\{name} {value}\n" for name, value in item.parameters.items())
            yield from (f"    connect \\{name} {format_signal(signal)}\n" for name, signal in item.ports.items())
            yield "  end\n"
        else:
            yield f"  connect {format_signal(item[0])} {format_signal(item[1])}\n"


def _inner(cell: Cell, port: str, width: int) -> Signal:
    """A new wire for a port of ``cell``."""
    return tuple((f"{cell.name}${port}$width", i) for i in range(width))


def _with_result(cell: Cell, width: int) -> tuple[Cell | tuple[Signal, Signal], ...]:
    """The cell with a result of ``width`` bits; its Y of another width is connected to that, cut or with zeros above."""
    y = cell.ports["Y"]
    if len(y) == width:
        return (cell,)
    inner = _inner(cell, "Y", width)
    return cell.with_port("Y", inner), (y, resized(inner, len(y), False))


def explicit(cell: Cell) -> tuple[Cell | tuple[Signal, Signal], ...]:
    """Cells and connections (target, source) that do what ``cell`` does with explicit widths. Raises ToolError without a rule."""
    ports = [port for port in ("A", "B") if port in cell.ports]
    signed = cell.signed(*ports)
    width = {port: len(signal) for port, signal in cell.ports.items()}
    kind = cell.type
    if kind in ARITHMETIC:                     # all of them modulo 2**Y: high bits of wider operands do not matter
        for port in ports:
            cell = cell.with_port(port, resized(cell.ports[port], width["Y"], signed))
        return (cell,)
    if kind in COMPARE:
        for port in ports:
            cell = cell.with_port(port, resized(cell.ports[port], max(width["A"], width["B"]), signed))
        return _with_result(cell, 1)
    if kind == "$logic_not" and width["A"] > 1:
        zero = dict(cell.parameters, A_SIGNED=0, B_SIGNED=0)
        return explicit(replace(cell, type="$eq", parameters=zero).with_port("B", ("0",) * width["A"]))
    if kind in LOGIC:
        reduced: list[Cell | tuple[Signal, Signal]] = []
        for port in ports:
            if width[port] > 1:
                bit = _inner(cell, port, 1)
                reduced.append(Cell("$reduce_bool", f"{cell.name}${port}", {"A_SIGNED": 0, "A_WIDTH": width[port], "Y_WIDTH": 1},
                                    {"A": cell.ports[port], "Y": bit}))
                cell = cell.with_port(port, bit)
        return *reduced, *_with_result(cell, 1)
    if kind in REDUCE:
        return _with_result(cell, 1)
    if kind in LEFT:
        return (cell.with_port("A", resized(cell.ports["A"], width["Y"], cell.signed("A"))),)
    if kind in RIGHT:
        if kind == "$shift":
            if cell.signed("A") or cell.signed("B"):
                raise ToolError(f"no rule for the widths of a signed $shift: {cell.name}")
            cell = replace(cell, type="$shr")
        wide = max(width["A"], width["Y"])
        return _with_result(cell.with_port("A", resized(cell.ports["A"], wide, cell.signed("A"))), wide)
    raise ToolError(f"no rule for the widths of the cell type {kind}: {cell.name}")
