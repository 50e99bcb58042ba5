"""What happens when: instructions and stalls on a line that can be zoomed, and what lies where in the memories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
from typing import Any

from ..engines.rtl.program import Program
from .charts import COLOURS, apart
from .svg import Markup, element, join, label, picture, rectangle, title
from .words import kilobytes, short

WIDTH = 960
CAUSES = {"wait_tile": "waiting for weights", "wait_hazard": "waiting for results", "wait_output": "waiting for the output"}
MEMORIES = {
    "act": ("activations", 8),
    "res": ("residual stream", 16),
    "score": ("scores", 16),
    "kv": ("keys and values", 8),
    "operand": ("operands", 16),
}


@dataclass(frozen=True)
class Slot:
    """An instruction of a frame, in cycles from the frame's start."""

    pc: int
    name: str
    node: str
    start: int
    cycles: int
    waits: Mapping[str, int]


def slots(data: Mapping[str, Any]) -> list[Slot]:
    """Of the first simulated frame, or as the cycle model estimates; empty without RTL. Instructions that a frame passes over are left out."""
    names = {row["pc"]: row for row in data.get("instructions", ())}
    rows = data.get("timeline") or list(names.values())
    return [
        Slot(
            row["pc"],
            names[row["pc"]]["instruction"],
            names[row["pc"]]["node"],
            row["start"],
            row["cycles"],
            {cause: row.get(cause, 0) for cause in CAUSES},
        )
        for row in rows
        if row["cycles"] > 0 and row["pc"] in names
    ]


def timeline(shown: Sequence[Slot]) -> Markup:
    """Instructions above, stalls below. The script of the page zooms it and says what the pointer is on; the layer table has the same figures."""
    if not shown:
        return Markup()
    total = max(slot.start + slot.cycles for slot in shown)
    colours = {node: apart(index) for index, node in enumerate(dict.fromkeys(slot.node for slot in shown))}
    paths: dict[str, list[str]] = defaultdict(list)
    for slot in shown:
        paths[colours[slot.node]].append(f"M{slot.start} 2h{slot.cycles}v34h-{slot.cycles}z")
        at = slot.start
        for cause, cycles in slot.waits.items():
            if drawn := min(round(cycles), slot.start + slot.cycles - at):
                paths[cause].append(f"M{at} 40h{drawn}v14h-{drawn}z")
                at += drawn
    drawing = element(
        "svg",
        title("Instructions above, stalls below, over the cycles of a frame"),
        *(element("path", d="".join(pieces), class_=kind) for kind, pieces in paths.items()),
        id="timeline-drawing",
        viewBox=f"0 0 {total} 56",
        preserveAspectRatio="none",
        width="100%",
        height=112,
        role="img",
        data_total=total,
    )
    names = list(dict.fromkeys((slot.name, slot.node) for slot in shown))
    index = {name: number for number, name in enumerate(names)}
    table = {
        "names": names,
        "slots": [[slot.start, slot.cycles, index[slot.name, slot.node], *(round(wait) for wait in slot.waits.values())] for slot in shown],
    }
    marks = join(element("span", short(total * part / 4)) for part in range(5))
    buttons = join(
        element("button", words, type="button", data_zoom=action, aria_label=about)
        for action, words, about in (
            ("in", "+", "zoom in"),
            ("out", "−", "zoom out"),
            ("left", "‹", "move left"),
            ("right", "›", "move right"),
            ("all", "all", "show all"),
        )
    )
    keys = join(element("li", element("i", class_=f"key {cause}"), words) for cause, words in CAUSES.items() if paths.get(cause))
    return join(
        (
            element(
                "div",
                buttons,
                element("output", "zoom with the buttons, or click and turn the wheel; drag to move", id="timeline-readout"),
                class_="controls",
            ),
            element("div", drawing, id="timeline-view", tabindex=0, role="group", aria_label="timeline; plus and minus zoom, arrows move"),
            element("div", marks, id="timeline-axis", class_="axis"),
            element("p", "cycles from the start of the frame; upper row: instructions, colours tell neighbours apart; lower row: stalls",
                    class_="small"),
            element("ul", keys, class_="legend"),
            Markup(f'<script type="application/json" id="timeline-data">{_json(table)}</script>'),
        )
    )


def _json(data: object) -> str:
    """JSON that can stand in a script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def memories(program: Program, shown: Sequence[Slot]) -> Markup:
    """What each memory holds from when to when: words over time."""
    config = program.config
    starts = {slot.pc: slot.start for slot in shown}
    total = max((slot.start + slot.cycles for slot in shown), default=1)
    when: list[int] = []  # start of each instruction, of those passed over the one before
    for pc in range(len(program.instrs)):
        when.append(starts.get(pc, when[-1] if when else 0))
    panels = []
    for memory, (name, bits) in MEMORIES.items():
        size = getattr(config, f"{memory}_words")
        buffers = [buffer for buffer in program.buffers if buffer.memory == memory and buffer.words]
        if not size or not buffers:
            continue
        lanes = config.to if memory == "operand" else config.ti
        height, left = 90, 130
        drawn = [
            label(0, 16, name, class_="strong"),
            label(0, 34, f"{size:,} words", class_="small"),
            label(0, 50, kilobytes(size * lanes * bits / 8), class_="small"),
            rectangle(left, 2, WIDTH - left, height - 8, class_="track"),
        ]
        for number, buffer in enumerate(buffers):
            x = left + (WIDTH - left) * when[buffer.first] / total
            until = when[buffer.last + 1] if buffer.last + 1 < len(when) else total
            width = max(1.0, left + (WIDTH - left) * until / total - x)
            y, tall = 2 + (height - 8) * (1 - (buffer.base + buffer.words) / size), max(1.0, (height - 8) * buffer.words / size)
            node = program.infos[buffer.first].node
            drawn.append(
                rectangle(
                    x,
                    y,
                    width,
                    tall,
                    title(
                        f"{buffer.name} of {node}: words {buffer.base:,} to {buffer.base + buffer.words - 1:,}, instructions "
                        f"{buffer.first} to {buffer.last}"
                    ),
                    class_=f"c{number % COLOURS} buffer",
                )
            )
        panels.append(picture(WIDTH, height, f"{name}: words in use over the cycles of a frame", *drawn, class_="chart"))
    axis = element("div", *(element("span", f"{int(total * part / 4 + 0.5):,}") for part in range(5)), class_="axis memories")
    return join((*panels, axis, element("p", "cycles from the start of the frame; height: words of the memory", class_="small")))
