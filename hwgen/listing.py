"""A stage of the compiler as text for a screen: one aligned line an entry, long names cut in the middle, repetitions folded.

`graph.text`, `steps.text`, `engines.rtl.text` and `importer.text` say what stands in a line; `hwgen show` and the snapshots print it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import difflib
from itertools import groupby

from .errors import InputError
from .foreign import visible

WIDTH = 140                             # columns of a line
NUMBER = 5                              # of them for its number
NAMES = (60, 50, 40, 30, 24, 20, 16, 12)    # lengths that the names of a line are cut to until it fits
ALIGNED = 64                            # a wider cell pushes what is behind it
SAVED = 3                               # lines that folding has to save
KNOWN = 8                               # names in an error


@dataclass(frozen=True)
class Line:
    """``cells`` stand in columns. node: the ONNX node; kind: equal for lines that differ in names only, which may be folded;
    full: the entry in words of its own, all names whole; detail: gives everything that is known of it."""

    cells: tuple[str, ...]
    node: str
    kind: Hashable
    full: str
    detail: Callable[[], dict[str, str]]


@dataclass(frozen=True)
class Part:
    """One network, or the program of all. lines: for names of at most so many characters; before, after: lines of the whole width."""

    before: str
    lines: Callable[[int], list[Line]]
    after: tuple[str, ...] = field(default=())


def short(name: str, length: int) -> str:
    """A name in at most so many characters, its middle left out: it is the ends that tell names apart."""
    name = visible(name)
    if len(name) <= length:
        return name
    head = (length - 1) // 3
    return f"{name[:head]}…{name[len(name) - (length - 1 - head):]}"


def text(parts: Sequence[Part], *, everything: bool = False) -> str:
    """All lines, but for repetitions and what a later part has in common with the first; with ``everything`` those as well."""
    result: list[str] = []
    first: list[Line] = []
    for part in parts:
        lines, shown = _fitted(part)
        result.append(_cut(part.before))
        result += shown if everything else [_cut(item) if isinstance(item, str) else shown[item] for item in _selected(first, lines)]
        result += map(_cut, part.after)
        first = first or lines
    return "\n".join(result) + "\n"


def detailed(parts: Sequence[Part], chosen: Collection[str]) -> str:
    """Everything about the entries of these ONNX nodes."""
    result: list[str] = []
    for part in parts:
        found = [(number, line) for number, line in enumerate(part.lines(NAMES[0])) if line.node in chosen]
        result += [_cut(part.before)] * bool(found)
        for number, line in found:
            known = line.detail()
            width = max(map(len, known), default=0)
            result += [f"{number:4} {visible(line.full)}", *(f"     {key:{width}}  {visible(value)}" for key, value in known.items())]
    return "\n".join(result) + "\n"


def nodes(parts: Sequence[Part], node: str, became: Mapping[str, str]) -> set[str]:
    """Names of ONNX nodes that have lines: this one, else all with it in their name. became: ONNX nodes without lines -> the one they are part
    of. Raises InputError with near names when there are none."""
    lines = {line.node: line.node for part in parts for line in part.lines(NAMES[0]) if line.node}
    known = {name: lines[owner] for name, owner in became.items() if owner in lines} | lines
    found = {known[node]} if node in known else {known[name] for name in known if node and node in name}
    if not found:
        near = difflib.get_close_matches(node, known, KNOWN, 0.4) or list(known)[:KNOWN]
        raise InputError(f"no line is of an ONNX node {node!r}", where="option --node",
                         hint=f"near names are {', '.join(map(visible, near))}; without --node every line ends with its node's name")
    return found


def data(parts: Sequence[Part], chosen: Collection[str] | None) -> list[dict[str, object]]:
    """The same for programs: every line's number, node, text and detail, or those of the chosen ONNX nodes."""
    return [{"part": place, "number": number, "node": line.node, "text": line.full, "detail": line.detail()}
            for place, part in enumerate(parts) for number, line in enumerate(part.lines(NAMES[0])) if chosen is None or line.node in chosen]


def _cut(line: str) -> str:
    return visible(line, limit=WIDTH)


def _fitted(part: Part) -> tuple[list[Line], list[str]]:
    """The lines, and as text: in each the names are as long as there is room."""
    lines = part.lines(NAMES[-1])
    texts = [[visible(cell) for cell in line.cells] for line in lines]
    widths = [max((len(cell) for cell in column if len(cell) <= ALIGNED), default=0) for column in zip(*texts, strict=True)]
    shown: dict[int, str] = {}
    for length in NAMES:
        for number, line in enumerate(part.lines(length) if len(shown) < len(lines) else ()):
            cells = [visible(cell) for cell in line.cells]
            over = len(_joined(cells, widths)) - (WIDTH - NUMBER)
            if over > 0 and length == NAMES[-1]:                # the node, which is last, stays
                beyond = [len(cell) - width for cell, width in zip(cells[:-1], widths, strict=False)]
                widest = beyond.index(max(beyond))
                cells[widest] = cells[widest][:len(cells[widest]) - max(min(over, beyond[widest]), 0) - 1] + "…"
                over = 0
            if over <= 0:
                shown.setdefault(number, _cut(f"{number:4} {_joined(cells, widths)}"))
    return lines, [shown[number] for number in range(len(lines))]


def _joined(cells: list[str], widths: list[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True) if width or cell).rstrip()


def _selected(first: list[Line], lines: list[Line]) -> Iterator[int | str]:
    """Numbers of the lines to show, and notes on those that are left out."""
    same = [number < len(first) and first[number].full == line.full for number, line in enumerate(lines)]
    kinds: dict[Hashable, int] = {}
    codes = [kinds.setdefault(line.kind, len(kinds)) for line in lines]
    for equal, group in groupby(range(len(lines)), lambda number: same[number]):
        numbers = list(group)
        if equal and len(numbers) > SAVED:
            yield f"     … lines {numbers[0]} to {numbers[-1]} are those of the first"
        else:
            yield from _folded(lines, codes, numbers[0], numbers[-1] + 1)


def _folded(lines: list[Line], codes: list[int], start: int, stop: int) -> Iterator[int | str]:
    """What repeats itself stands once, and a note on the other times; inside of it the same holds."""
    while start < stop:
        period, times = _repetition(codes, start, stop)
        if period * (times - 1) <= SAVED:
            yield start
            start += 1
            continue
        yield from _folded(lines, codes, start, start + period)
        end = start + period * times
        named = [line.node for line in (lines[start + period], lines[end - 1]) if line.node]
        yield (f"     … {f'these {period} lines' if period > 1 else 'this line'} {times - 1} more time{'s' * (times > 2)}, up to line {end - 1}"
               + (f" (nodes {' to '.join(dict.fromkeys(short(name, NAMES[2]) for name in named))})" if named else ""))
        start = end


def _repetition(codes: list[int], start: int, stop: int) -> tuple[int, int]:
    """(period, times) of the repetition from ``start`` on that reaches furthest, (1, 1) if there is none."""
    best = 1, 1
    for period in range(1, (stop - start) // 2 + 1):
        if codes[start] != codes[start + period]:
            continue
        length = next((i for i in range(stop - start - period) if codes[start + i] != codes[start + period + i]), stop - start - period)
        times = 1 + length // period
        if times > 1 and period * times > best[0] * best[1]:
            best = period, times
    return best
