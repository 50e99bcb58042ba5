"""A drawing of the engine with its sizes: memories, feed, array, drain, and what controls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine import EngineConfig
from .story import Story
from .svg import Markup, element, join, label, picture, rectangle, title
from .words import kilobytes, plural

WIDTH, HEIGHT = 960, 428


@dataclass(frozen=True)
class Box:
    """A unit: where it stands, its name, and one or two lines of sizes."""

    x: int
    y: int
    width: int
    height: int
    name: str
    lines: tuple[str, ...]
    kind: str = "unit"

    def draw(self, about: str = "") -> Markup:
        words = [
            label(self.x + self.width / 2, self.y + 20 + 16 * (index + 1), text, text_anchor="middle", class_="small")
            for index, text in enumerate(self.lines)
        ]
        return element(
            "g",
            title(about or " ".join((self.name, *self.lines))),
            rectangle(self.x, self.y, self.width, self.height, rx=6, class_=self.kind),
            label(self.x + self.width / 2, self.y + 20, self.name, text_anchor="middle", class_="strong"),
            *words,
        )


def rtl(story: Story, config: EngineConfig) -> Markup:
    """The engine of `rtl/hwgen_rtl`, sizes of this configuration."""
    ti, to = config.ti, config.to
    ports: Mapping[str, Any] = story.board.get("ports", {})
    bandwidth = story.data.get("board", {}).get("memory_bytes_per_cycle")

    beats = max(1, 8 * config.vector_bytes // config.axi_data_bits)      # of a word of the FIFO

    def words(count: int, bits: int) -> tuple[str, ...]:
        return f"{count:,} words of {ti} x {bits} bit", kilobytes(count * ti * bits / 8)

    boxes = [
        Box(
            10,
            20,
            150,
            76,
            "external memory",
            (f"{ports.get('number', 1)} ports of {ports.get('bits', '?')} bit", f"{bandwidth} B a cycle used"),
            "outside",
        ),
        Box(
            200,
            20,
            170,
            76,
            "FIFO",
            (
                "weights and inputs",
                f"{config.fifo_beats // beats:,} x {config.axi_data_bits * beats:,} bit",
                kilobytes(config.fifo_beats * config.axi_data_bits / 8),
            ),
            "memory",
        ),
        Box(410, 20, 170, 76, "loader", (f"{plural(config.load_columns, 'column')} a cycle", f"{config.vector_bytes} B a cycle")),
        Box(760, 20, 190, 76, "program, sequencer", (f"{config.program_words:,} words of 512 bit", "control of every unit"), "control"),
        Box(30, 150, 165, 58, "activations", words(config.act_words, 8), "memory"),
        Box(30, 214, 165, 58, "residual stream", words(config.res_words, 16), "memory"),
        Box(30, 278, 165, 58, "scores", words(config.score_words, 16), "memory"),
        Box(30, 342, 165, 58, "keys and values", words(config.kv_words, 8), "memory"),
        Box(244, 190, 140, 100, "feed", (f"{ti} lanes", "norm, exponential", "a token a cycle")),
        Box(
            410,
            150,
            170,
            180,
            f"array {ti} x {to}",
            (
                f"{config.macs_per_cycle:,} MAC a cycle",
                "weight stationary",
                "two products a slice" if config.packed else "one product a slice",
                *((f"{config.fabric_columns} columns in LUTs",) if config.fabric_columns else ()),
            ),
        ),
        Box(620, 190, 110, 100, "accumulators", (f"{config.max_tokens:,} rows", f"{to} x 32 bit"), "memory"),
        Box(
            770,
            170,
            180,
            140,
            "drain",
            (f"{to} lanes", "requantize, row sums", *config.functions[:2], *(("operands",) if config.operand_words else ())),
        ),
    ]
    if config.max_experts:
        boxes.append(
            Box(
                800,
                330,
                150,
                60,
                "router",
                (f"{config.max_experts} experts, top {config.max_top_k}", "queues for the feed"),
            )
        )
    arrows = [
        "M160 58H196", "M370 58H406", "M495 96V146",                                        # weights
        "M195 179H216V232H240", "M195 243H240", "M195 307H216V252H240", "M195 371H495V334",     # what the feed reads; keys and values
        "M384 240H406", "M580 240H616", "M730 240H766", "M855 96V166",
        "M785 310V430H10V179H26", "M10 243H26", "M10 307H26", "M10 371H26",                     # what the drain writes
        "M790 170V112H745V8H85V16",                                                         # results
        *(("M875 310V326",) if config.max_experts else ()),
    ]
    array = next(box for box in boxes if box.name.startswith("array"))
    cells = [rectangle(array.x + 19 + 11 * column, array.y + 102 + 11 * row, 9, 9, class_="cell") for row in range(6) for column in range(12)]
    about = (
        f"The engine: an array of {ti} by {to} between feed and drain, weights streaming in from external memory, activations kept on chip"
    )
    return picture(
        WIDTH,
        HEIGHT + 10,
        about,
        _arrow_head(),
        *(box.draw() for box in boxes),
        *cells,
        *(element("path", d=path, class_="arrow", marker_end="url(#head)") for path in arrows),
        label(600, 22, "results", class_="small"),
        class_="chart",
    )


def hls(story: Story) -> Markup:
    """The data-flow of the HLS project."""
    size = story.hls
    boxes = [
        Box(10, 60, 170, 76, "external memory", ("weights, activations",), "outside"),
        Box(240, 60, 200, 76, "linear", (f"{size['lanes']} lanes", f"{size['macs_per_cycle']:,} MAC a cycle")),
        Box(500, 60, 200, 76, "fused attention", (f"{size['queries']} queries at a time", "softmax on the way")),
        Box(760, 60, 190, 76, "drain", ("requantize, functions, residual",)),
    ]
    arrows = ["M180 98H236", "M440 98H496", "M700 98H756", "M855 136V170H95V140"]
    return picture(
        WIDTH,
        190,
        "The HLS kernels: linear layers and attention between external memory and the drain",
        _arrow_head(),
        *(box.draw() for box in boxes),
        *(element("path", d=path, class_="arrow", marker_end="url(#head)") for path in arrows),
        class_="chart",
    )


def _arrow_head() -> Markup:
    head = element(
        "marker",
        element("path", d="M0 0L8 4L0 8z", class_="head"),
        id="head",
        viewBox="0 0 8 8",
        refX=7,
        refY=4,
        markerWidth=7,
        markerHeight=7,
        orient="auto",
    )
    return element("defs", join((head,)))
