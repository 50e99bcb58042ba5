"""Charts of a report: where the cycles go, the roofline, cells of the board, the error of each layer. Widths and heights in CSS pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

from .story import KINDS, NO_LOSS, Story
from .svg import Markup, element, join, label, line, picture, rectangle, title
from .words import digits, percent, short, tail

WIDTH = 960
DARK = ("c0", "c3", "c4")         # words on these are white
LAYERS = ("c0", "c2", "c4", "c6")
CAUSES = {"waiting for weights": "c1", "waiting for results": "c3", "waiting for the output": "c5", "input, output, pipeline": "c7"}      # others: c0
COLOURS = 8  # classes c0 .. c7 of page.css
NAMED = 4                # circles of the roofline that have a name beside them
LETTER = 7.2  # pixels, about
LEAST = 0.06  # share of a strip whose name is written inside
MOST_LABELS = 12


def colour(index: int) -> str:
    """Class of the so-manieth of things that are told apart: eight colours, then the same ones pale."""
    return f"c{index % COLOURS}{' pale' * (index // COLOURS % 2)}"


def apart(index: int) -> str:
    """Class of a layer beside others: colours that stand for no cause of waiting."""
    return LAYERS[index % len(LAYERS)]


@dataclass(frozen=True)
class Piece:
    """Of a strip: what it is called, how much it is, what is shown when the pointer rests on it, its colour (a class)."""

    name: str
    amount: float
    about: str
    kind: str

def strip(pieces: Sequence[Piece], about: str, height: int = 34) -> Markup:
    """One bar cut into its pieces, in their order."""
    total = sum(piece.amount for piece in pieces) or 1.0
    x, drawn = 0.0, []
    for piece in pieces:
        width = WIDTH * piece.amount / total
        ground = "inside" if piece.kind in DARK else "on-light"
        fits = piece.amount / total > LEAST and len(piece.name) * LETTER + 12 <= width
        inside = label(x + 6, height / 2 + 5, piece.name, class_=ground) if fits else ""
        drawn.append(element("g", title(piece.about), rectangle(x, 0, width, height, class_=piece.kind), inside))
        x += width
    return picture(WIDTH, height, about, *drawn, class_="chart")


def legend(pieces: Sequence[Piece], unit: str) -> Markup:
    """The pieces as a list in words, with their colours, amounts and shares."""
    total = sum(piece.amount for piece in pieces) or 1.0
    rows = [
        element(
            "li",
            element("i", class_=f"key {piece.kind}"),
            f"{piece.name}: {short(piece.amount)} {unit} ({percent(piece.amount / total)})",
        )
        for piece in pieces
    ]
    return element("ul", *rows, class_="legend")


def causes(story: Story) -> Markup:
    """Cycles of an image by what they were for."""
    pieces = [Piece(name, amount, f"{name}: {digits(amount)} cycles", CAUSES.get(name, "c0"))
              for name, amount in story.cycles_by_cause.items() if amount > 0]
    return Markup(strip(pieces, "Cycles of a frame by what they were for") + legend(pieces, "cycles"))


def nodes(story: Story) -> Markup:
    """Cycles of an image by ONNX node, in the order of the program."""
    rows = [row for row in story.cycles_by_node if row["cycles"] > 0]
    pieces = [
        Piece(tail(row["node"]), row["cycles"], f"{row['node']}: {digits(row['cycles'])} cycles, array used {percent(row['utilization'])}",
              apart(index))
        for index, row in enumerate(rows)
    ]
    return strip(pieces, "Cycles of a frame by ONNX node, in the order of the program", 26)


# ---------------------------------------------------------------- cells


def cells(story: Story) -> Markup:
    """Cells used of those the board has, a bar a kind, cut into units where they are known."""
    units: dict[str, dict[str, float]] = story.data.get("resources", {}).get("units", {})
    names = list(units)
    height, drawn = 34, []
    for row, (kind, (used, of)) in enumerate(story.used.items()):
        y, scale = row * height, (WIDTH - 350) / max(of or used, used, 1)
        drawn += [label(0, y + 18, KINDS[kind]), rectangle(150, y + 4, (of or used) * scale, 20, class_="track")]
        x = 150.0
        for index, name in enumerate(names or ["engine"]):
            amount = units[name].get(kind, 0) if names else used
            if amount:
                drawn.append(rectangle(x, y + 4, amount * scale, 20, title(f"{name}: {amount:,} {KINDS[kind]}"), class_=colour(index)))
                x += amount * scale
        share = f" of {of:,.0f}, {percent(used / of)}" if of else ""
        drawn.append(label(WIDTH - 192, y + 18, f"{used:,.0f}{share}"))
    bars = picture(WIDTH, height * len(story.used), "Cells of the engine by kind, against those of the board", *drawn, class_="chart")
    keys = [element("li", element("i", class_=f"key {colour(index)}"), name) for index, name in enumerate(names)]
    return Markup(bars + (element("ul", *keys, class_="legend") if keys else ""))


# ---------------------------------------------------------------- error


def errors(story: Story) -> Markup:
    """Signal to noise of every value, and of the outputs if it alone were in integers, over the order of the network."""
    layers = [layer for layer in story.layers if layer.snr_db < NO_LOSS]
    if not layers:
        return Markup()
    height, left, bottom = 260, 46, 26
    known = [value for layer in layers for value in (layer.snr_db, layer.alone_db) if value is not None and value < NO_LOSS]
    low, high = 10 * math.floor(min(known) / 10), 10 * math.ceil(max(known) / 10 + 0.01)

    def at(value: float) -> float:
        return 10 + (height - 10 - bottom) * (high - min(value, high)) / (high - low)

    step = (WIDTH - left - 20) / max(1, len(layers))
    drawn = [
        join((line(left, at(mark), WIDTH, at(mark), class_="grid"), label(left - 6, at(mark) + 4, f"{mark} dB", text_anchor="end")))
        for mark in range(low, high + 1, 10)
    ]
    for index, layer in enumerate(layers):
        x = left + (index + 0.5) * step
        kind = "output" if layer.format == "output" else "worst" if layer is story.worst else "point"
        about = f"{layer.node} ({layer.format}): {digits(layer.snr_db)} dB, errors of earlier layers included"
        drawn.append(element("circle", title(about), cx=x, cy=at(max(layer.snr_db, low)), r=4.0, class_=kind))
        if layer.format == "output":
            drawn.append(label(x - 8, at(max(layer.snr_db, low)) + 4, f"{layer.value}: {digits(layer.snr_db)} dB", text_anchor="end", class_="halo"))
        if layer is story.worst:
            place = at(max(layer.snr_db if layer.alone_db is None else layer.alone_db, low))
            side = (x - 9, "end") if x > WIDTH / 2 else (x + 9, "start")
            drawn.append(label(side[0], place + 4, tail(layer.node), text_anchor=side[1], class_="halo"))
        if layer.alone_db is not None and layer.alone_db < NO_LOSS:
            drawn.append(
                rectangle(
                    x - 3,
                    at(layer.alone_db) - 3,
                    6,
                    6,
                    title(f"{layer.node}: {digits(layer.alone_db)} dB at the outputs, by itself"),
                    class_="alone worst" if layer is story.worst else "alone",
                )
            )
    drawn.append(label(left, height - 6, "first layer"))
    drawn.append(label(WIDTH, height - 6, "last layer", text_anchor="end"))
    chart = picture(
        WIDTH,
        height,
        "Signal to noise ratio of each layer's integers against the float network, in dB; higher is better",
        *drawn,
        class_="chart",
    )
    keys = (
        ("point", "at this layer, errors of earlier layers included"),
        *((("alone", "at the outputs, if this layer alone were in integers"),) if any(layer.alone_db for layer in layers) else ()),
        ("worst", "the worst layer"),
        ("output", "an output"),
    )
    return Markup(
        chart + element("ul", *(element("li", element("i", class_=f"key {kind}"), words) for kind, words in keys), class_="legend")
    )


# ---------------------------------------------------------------- roofline


@dataclass(frozen=True)
class Spot:
    """A layer in the roofline. intensity: useful multiply-accumulates a byte it reads, None where it reads none."""

    node: str
    intensity: float | None
    macs_per_cycle: float
    cycles: float


def roofline(story: Story, spots: Sequence[Spot]) -> Markup:
    """Multiply-accumulates a cycle over multiply-accumulates a byte, both logarithmic; the roofs are memory bandwidth and the array."""
    bandwidth = float(story.speed.memory["bytes_per_cycle"]) if story.speed and story.speed.memory.get("bytes_per_cycle") else 0.0
    peak = story.macs_per_cycle
    shown = [spot for spot in spots if spot.macs_per_cycle > 0]
    if not (bandwidth and peak and shown):
        return Markup()
    height, left, bottom, right = 320, 60, 40, 90
    ridge = peak / bandwidth
    known = [spot.intensity for spot in shown if spot.intensity]
    x_low, x_high = _decades(min([*known, ridge]) / 2, max([*known, ridge]) * 2)
    y_low, y_high = _decades(min(spot.macs_per_cycle for spot in shown) / 1.5, peak * 1.2)

    def x_at(value: float) -> float:
        return left + (WIDTH - left - right) * (math.log10(value) - x_low) / (x_high - x_low)

    def y_at(value: float) -> float:
        return 10 + (height - 10 - bottom) * (y_high - math.log10(value)) / (y_high - y_low)

    drawn = [
        join(
            (
                line(x_at(10.0**d), 10, x_at(10.0**d), height - bottom, class_="grid"),
                label(x_at(10.0**d), height - bottom + 16, f"{10.0**d:,g}", text_anchor="middle"),
            )
        )
        for d in range(x_low, x_high + 1)
    ]
    drawn += [
        join(
            (
                line(left, y_at(10.0**d), WIDTH, y_at(10.0**d), class_="grid"),
                label(left - 6, y_at(10.0**d) + 4, f"{10.0**d:,g}", text_anchor="end"),
            )
        )
        for d in range(y_low, y_high + 1)
    ]
    start = max(10.0**x_low, 10.0**y_low / bandwidth)
    roof = f"M{x_at(start):.1f} {y_at(start * bandwidth):.1f}L{x_at(ridge):.1f} {y_at(peak):.1f}L{WIDTH} {y_at(peak):.1f}"
    drawn += [
        element("path", title(f"{digits(bandwidth)} bytes a cycle, {peak:,} multiply-accumulates a cycle"), d=roof, class_="roof"),
        label(WIDTH - 4, y_at(peak) - 6, f"array: {peak:,} MAC a cycle", text_anchor="end"),
        label((x_at(start) + x_at(ridge)) / 2 + 14, (y_at(start * bandwidth) + y_at(peak)) / 2 + 14, f"memory: {digits(bandwidth)} B a cycle",
              class_="halo"),
    ]
    most = max(spot.cycles for spot in shown)
    named: list[tuple[float, float]] = []
    for spot in sorted(shown, key=lambda s: -s.cycles):
        where = WIDTH - right / 2 if spot.intensity is None else x_at(spot.intensity)
        reads = "reads no weights" if spot.intensity is None else f"{digits(spot.intensity)} MAC a byte"
        drawn.append(
            element(
                "circle",
                title(f"{spot.node}: {reads}, {digits(spot.macs_per_cycle)} MAC a cycle, {digits(spot.cycles)} cycles"),
                cx=where,
                cy=y_at(max(spot.macs_per_cycle, 10.0**y_low)),
                r=3 + 9 * math.sqrt(spot.cycles / most),
                class_="spot",
            )
        )
        place = (where, y_at(max(spot.macs_per_cycle, 10.0**y_low)))
        slope = spot.intensity is not None and spot.macs_per_cycle < spot.intensity * bandwidth and where < WIDTH - right - 200  # left of it
        if len(named) < NAMED and all(abs(place[1] - y) > 18 or abs(place[0] - x) > 240 for x, y in named):
            named.append(place)
            drawn.append(label(place[0] + (14 if slope else -14), place[1] + 5, tail(spot.node, 26), text_anchor="start" if slope else "end",
                               class_="small halo"))
    drawn += [
        label(left, height - 6, "useful MAC for each byte read"),
        label(WIDTH - right / 2, height - 6, "no weights", text_anchor="middle"),
        label(left + 6, 24, "useful MAC a cycle", class_="small"),
    ]
    return picture(WIDTH, height, "Roofline: layers as circles (area: cycles) under the limits of memory and array", *drawn, class_="chart")


def _decades(low: float, high: float) -> tuple[int, int]:
    """Powers of ten round two positive numbers."""
    return math.floor(math.log10(low)), max(math.floor(math.log10(low)) + 1, math.ceil(math.log10(high)))
