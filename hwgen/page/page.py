"""The page itself: its parts in order, each an HTML section with an id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..engines.rtl.program import Program
from ..errors import InputError
from ..isa import Op, Stat
from ..paths import data_dir
from ..render import render
from ..steps.step import Network
from . import charts, machine, network as networks, time
from .charts import Spot
from .drawing import Drawing, alone
from .nodes import END, SKIPPED, counted
from .story import Story, readable
from .svg import Markup, element, join, text
from .words import digits, percent, plural

BYTES_OF_PARAMS = 8  # bias, multiplier and shift of a column in the weight stream
NO_RTL = "The build has no RTL, and the HLS estimate is not split: compile with --backend rtl or both."


@dataclass(frozen=True)
class Part:
    """A section. what: a sentence that says how to read it; body: never empty."""

    id: str
    heading: str
    what: str
    body: Markup


@dataclass(frozen=True)
class Made:
    """Where a page comes from. command: what made the build; date: when; written: when the page was made; build: its directory."""

    command: str
    date: str
    written: str
    build: str
    digest: str


def when(seconds: float) -> str:
    """A moment (seconds since 1970) as people write it: 2026-11-27 01:36 UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def page(
    data: Mapping[str, Any],
    title: str,
    made: Made,
    program: Program | None = None,
    network: Network | None = None,
    details: Sequence[Any] = (),
) -> str:
    """One HTML page of a report, without outside resources.

    data: what ``hwgen report --json`` writes. program, network: of the build, where it has RTL, and of its first task. details: the report's
    sections as tables (`hwgen.report.Section`). Raises BuildVersionError when the report is none that this hwgen wrote.
    """
    story = Story(data)
    with readable(made.build):
        return _rendered(story, title, made, program, network, details)


def _rendered(story: Story, title: str, made: Made, program: Program | None, network: Network | None, details: Sequence[Any]) -> str:
    return render(
        "page.html.j2",
        title=title,
        story=story,
        parts=parts(story, made, program, network),
        details=details,
        made=made,
        unbroken=unbroken,
        warnings=list(story.data.get("warnings", ())),
        **style(),
    )


def unbroken(words: str) -> Markup:
    """Text whose percentages keep to one line."""
    return Markup(text(words).replace(" %", "&nbsp;%"))


def style() -> dict[str, Markup]:
    """Style and script of every page, as its template names them."""
    return {name: Markup((data_dir("templates") / file).read_text()) for name, file in (("style", "page.css"), ("script", "page.js"))}


def parts(story: Story, made: Made, program: Program | None, network: Network | None) -> list[Part]:
    """Every part of the page, also where a build has nothing to show in it: then it says why."""
    slots = time.slots(story.data)
    drawn: tuple[tuple[str, str, str, Callable[[], Markup], str], ...] = (
        (
            "cycles",
            "Where the cycles go",
            f"Cycles of a frame, {story.speed.stage if story.speed else ''}: first by what they were for, then by ONNX node in order.",
            lambda: Markup(charts.causes(story) + charts.nodes(story)) if story.cycles_by_cause else Markup(),
            NO_RTL,
        ),
        (
            "roofline",
            "Roofline",
            ("Each circle is a layer, its area the cycles it takes. Under the slope the memory is the limit, under the flat roof the array. "
            "Weights are read ahead: a layer stands above the slope when its weights came while an earlier one ran."),
            lambda: charts.roofline(story, spots(story, program)) if program else Markup(),
            NO_RTL,
        ),
        (
            "resources",
            "Cells of the chip",
            "Estimate from the structure of the engine; no synthesis has run for this page (hwgen synth counts the cells).",
            lambda: charts.cells(story) if story.used else Markup(),
            "The report holds no numbers of cells.",
        ),
        (
            "error",
            "Error by layer",
            f"Signal to noise ratio of the integers against the float network: {_measured(story)}; higher is better, 6 dB are one bit.",
            lambda: charts.errors(story),
            "Not known: calibrated with seeded noise. Give real images with --calib FILE.npz.",
        ),
        (
            "engine",
            "The engine",
            "What was generated, with its sizes. Green: memories; blue: arithmetic; violet: control.",
            lambda: machine.rtl(story, program.config) if program else machine.hls(story) if story.hls else Markup(),
            "The report does not say what was generated.",
        ),
        (
            "network",
            "The network",
            ("ONNX nodes of the first task from input to output, with cycles, share of the frame and error; the box scrolls. Redder: more of the "
             "cycles, full from 8 % on. Red bar on the left: less than 40 dB, full from 20 dB down."),
            lambda: networks.graph(story, network) if network else Markup(),
            "The page was made from a report without its build.",
        ),
        (
            "timeline",
            "Timeline",
            f"Instructions and stalls of a frame, {'first simulated frame' if story.data.get('timeline') else 'estimate'}.",
            lambda: time.timeline(slots),
            NO_RTL,
        ),
        (
            "memory",
            "What lies where",
            "Words of the on-chip memories that are in use, over the cycles of a frame; colours only tell neighbours apart.",
            lambda: time.memories(program, slots) if program else Markup(),
            NO_RTL,
        ),
        (
            "layers",
            "Layers",
            (f"{plural(len(counted(story.cycles_by_node)), 'node')} with cycles; press a heading to sort. A wait may begin in the node before. An "
             f"error is given where a value is stored ({_measured(story)}); a node with – as its cycles works inside the one behind or before it. "
             "The box scrolls."),
            lambda: layers(story),
            NO_RTL,
        ),
        (
            "assumptions",
            "Assumptions and provenance",
            "What the figures hold for, and what made them.",
            lambda: provenance(story, made),
            "",
        ),
        ("cite", "Cite", "To name this build in a paper.", lambda: element("pre", citation(story, made)), ""),
    )
    return [
        Part(name, heading, what, draw() or element("p", otherwise, class_="missing")) for name, heading, what, draw, otherwise in drawn
    ]


def _measured(story: Story) -> str:
    """On how many images which errors were taken."""
    found = story.data.get("quantization", {})
    if not found.get("images"):
        return "not known"
    inner = plural(found["layer_images"], "calibration image") if "layer_images" in found else "calibration images"
    return f"layers on {inner}, outputs on {found['images']:,}"


def drawing(name: str, data: Mapping[str, Any], made: Made, program: Program | None, network: Network | None) -> Drawing:
    """The drawing of one part by itself. Raises InputError for a part that there is not, or that this build has nothing for."""
    story = Story(data)
    with readable(made.build):
        found = {part.id: part.body for part in parts(story, made, program, network) if "<svg" in part.body}
    if name not in found:
        raise InputError(f"there is no drawing {name!r} of this build", hint=f"there are {', '.join(found)}")
    return alone(found[name])


def spots(story: Story, program: Program) -> list[Spot]:
    """Every ONNX node that multiplies: how many bytes of the weight stream it reads, and how fast it is."""
    config, read = program.config, defaultdict[str, int](int)
    params = -(-BYTES_OF_PARAMS * config.to // config.vector_bytes) * config.vector_bytes
    for instr, info in zip(program.instrs, program.infos, strict=True):
        if instr.op == Op.MATMUL:
            tiles = instr.k_tiles * config.ti * config.to >> instr.w4 if instr.stat == Stat.WEIGHTS else 0
            read[info.node] += instr.n_tiles * (params * instr.column_params + tiles)
    return [
        Spot(
            row["node"],
            row["useful_macs"] / read[row["node"]] if read[row["node"]] else None,
            row["useful_macs"] / row["cycles"],
            row["cycles"],
        )
        for row in story.cycles_by_node
        if row["useful_macs"] and row["cycles"]
    ]


COLUMNS = (
    ("node", "ONNX node", False),
    ("cycles", "cycles", True),
    ("share", "share of the frame (%)", True),
    ("utilization", "array used (%)", True),
    ("wait_tile", "waits for weights (cycles)", True),
    ("wait_hazard", "waits for results (cycles)", True),
    ("useful_macs", "useful MAC", True),
    ("error", "error, all before included (dB)", True),
    ("alone", "error by itself (dB)", True),
)


def _with_errors(story: Story) -> list[dict[str, Any]]:
    """`Story.cycles_by_node`, and between them those that have an error but no cycles of their own: before the node whose value comes next."""
    rows: list[dict[str, Any]] = list(story.cycles_by_node)
    names, place = {row["node"] for row in rows}, len(counted(rows))
    for layer in reversed(story.layers):
        if layer.node not in names:
            rows.insert(place, {"node": layer.node})
            names.add(layer.node)
        place = next(index for index, row in enumerate(rows) if row["node"] == layer.node)
    return rows


def layers(story: Story) -> Markup:
    """The layer table: a row an ONNX node, every figure with its unit in the heading."""
    rows = _with_errors(story)
    if not story.cycles_by_node:
        return Markup()
    total = sum(row["cycles"] for row in story.cycles_by_node) or 1
    snr = {layer.node: layer.snr_db for layer in story.layers}
    alone = {layer.node: layer.alone_db for layer in story.layers}
    body = []
    for row in rows:
        node = row["node"]
        known = "cycles" in row
        values = (
            row.get("cycles"),
            100 * row["cycles"] / total if known else None,
            100 * row["utilization"] if known else None,
            row.get("wait_tile"),
            row.get("wait_hazard"),
            row.get("useful_macs"),
            snr.get(node),
            alone.get(node),
        )
        cells = (
            element("td", "–" if value is None else digits(value), data_value=-1 if value is None else f"{value:.6g}") for value in values
        )
        name = f"{node}: {SKIPPED}" if row.get("skipped") else f"{END} (no node)" if node == END else node
        body.append(element("tr", element("th", name, scope="row"), *cells))
    head = [
        element("th", element("button", heading, type="button", data_column=index), scope="col", aria_sort="none")
        for index, (_, heading, _) in enumerate(COLUMNS)
    ]
    return element(
        "div",
        element("table", element("thead", element("tr", *head)), element("tbody", *body), id="layer-table"),
        class_="scroll",
        tabindex=0,
        role="group",
        aria_label="layer table, scrolls",
    )


def provenance(story: Story, made: Made) -> Markup:
    """Conditions as a list, then who made what from what."""
    source = story.data.get("source", {})
    rows = (
        ("command", made.command),
        ("build", made.build),
        ("built", made.date),
        ("page written", made.written),
        ("hwgen", story.data.get("version", "?")),
        ("ONNX file", source.get("file", "?")),
        ("its SHA-256", source.get("sha256", "?")),
        ("build digest", made.digest),
        ("compared with the ONNX file by", story.data.get("onnx", {}).get("runtime", "?")),
        ("energy", "not known: no power estimate exists for this build"),
        ("clock", "not known: no timing analysis or place-and-route stands behind the clock"),
    )
    return join(
        (
            element("ul", *(element("li", line) for line in story.conditions)),
            element(
                "table", *(element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows), class_="plain"
            ),
        )
    )


def citation(story: Story, made: Made) -> str:
    """A BibTeX entry of this build."""
    speed = f", {digits(story.speed.cycles)} cycles an image ({story.speed.stage})" if story.speed else ""
    use = f", array used {percent(story.utilization)}" if story.utilization else ""
    title = f"{story.name} on {story.board_name}, generated by hwgen {story.version}"
    note = f"build {made.digest[:12]}, {story.data.get('precision', '?')}{speed}{use}"
    return f"@misc{{hwgen:{made.digest[:12]},\n  title = {{{title}}},\n  note  = {{{note}}},\n  year  = {{{made.date[:4]}}}\n}}\n"
