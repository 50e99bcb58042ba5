"""The page of a build: its parts, its figures against the report, what a build leaves open, and that names stay text."""

from __future__ import annotations

from html.parser import HTMLParser
import json
from xml.etree import ElementTree

import pytest

from hwgen.errors import BuildVersionError, InputError
from hwgen.page import Made, Story, drawing, page, summary
from hwgen.page.network import nodes_of
from hwgen.page.svg import Markup, element, text
from hwgen.page.time import slots, timeline
from hwgen.page.words import decibels, digits, kilobytes, percent, short, tail
from hwgen.quantizer import quantize
from qgraphs import random_model

MADE = Made("hwgen compile m.onnx", "2026-11-27 01:36 UTC", "2026-11-27 01:37 UTC", "build", "0123456789abcdef" * 4)
PARTS = [
    "summary",
    "cycles",
    "roofline",
    "resources",
    "error",
    "engine",
    "network",
    "timeline",
    "memory",
    "layers",
    "assumptions",
    "cite",
    "details",
]
ROWS = [
    {
        "pc": 0,
        "instruction": "input",
        "node": "a",
        "task": None,
        "start": 0,
        "cycles": 100,
        "wait_tile": 60,
        "wait_hazard": 0,
        "useful_macs": 0,
    },
    {
        "pc": 1,
        "instruction": "b",
        "node": "b",
        "task": None,
        "start": 100,
        "cycles": 300,
        "wait_tile": 0,
        "wait_hazard": 20,
        "useful_macs": 64_000,
    },
]
DATA = {
    "version": "0.1.0",
    "precision": "w8a8",
    "batch": 1,
    "network": {"name": "net", "useful_macs_per_image": 64_000},
    "board": {"name": "zcu104", "clock_mhz": 200.0, "ports": {"number": 4, "bits": 128}},
    "array": {"ti": 16, "to": 16, "macs_per_cycle": 256},
    "estimate": {"cycles_per_image": 400, "memory": {"ports": 1, "bytes_per_cycle": 16.0, "latency": 200}},
    "limits": {"array_limit_cycles": 250, "memory_limit_cycles": 320, "bound_by": "memory"},
    "resources": {"used": {"lut": 500, "dsp": 90}, "available": {"lut": 1000, "dsp": 100}, "units": {"array": {"lut": 500, "dsp": 90}}},
    "onnx_cosine": 0.9999999,
    "quantization": {
        "images": 8,
        "output_error": {"y": 0.01},
        "layers": [
            {"node": "a", "value": "a", "format": "s8", "clipped": 0.0, "snr_db": 30.0, "alone_db": 44.0},
            {"node": "b", "value": "b", "format": "s8", "clipped": 0.0, "snr_db": 28.0, "alone_db": 51.0},
        ],
    },
    "instructions": ROWS,
}


class Reader(HTMLParser):
    """Ids of sections with the text in them, attributes that lead outside, and that every tag is closed."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.outside: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        if tag == "section":
            self.sections[given["id"]] = ""
        self.outside += [
            f"{tag} {name}={value}" for name, value in attributes if name in ("src", "href") and not value.startswith(("#", "data:"))
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.sections and self.open[-1:] not in (["script"], ["style"]):
            self.sections[next(reversed(self.sections))] += data.strip()


@pytest.mark.parametrize(
    "value, shown",
    [(17658.375, "17,658"), (0.05886, "0.0589"), (16.0, "16"), (49.302, "49.3"), (0.0, "0"), (999.96, "1000"), (float("inf"), "inf")],
)
def test_digits(value, shown):
    assert digits(value) == shown


def test_other_words():
    assert (percent(0.9312), percent(0.9999), percent(1.0), percent(0.000166)) == ("93.1 %", "99.9 %", "100 %", "0.0166 %")
    assert (short(17_700), short(2.4e6), short(12), kilobytes(4096), kilobytes(2_097_152)) == (
        "17.7 k",
        "2.40 M",
        "12",
        "4.10 kB",
        "2.10 MB",
    )
    assert (tail("/a/blocks.0/attn/MatMul"), tail("node"), tail("x" * 40, 5)) == ("attn/MatMul", "node", "…xxxx")
    assert decibels(0.01) == pytest.approx(40) and decibels(0.0) == 200.0


def test_the_six_answers():
    fast, fits, limit, accurate, worst, under = Story(DATA).answers
    assert fast.short == "2 µs an image, 500,000 images a second" and "never simulated" in fast.long and fast.stage == "estimate"
    assert fits.short == "yes, by estimate: 90 % of the DSP slices"
    assert limit.short == "memory bandwidth" and "takes 25 % more than that" in limit.long
    assert accurate.short == "40 dB" and "1 % of its size" in accurate.long
    assert "leaves place and route little room" in fits.long
    assert worst.short == "a" and "44 dB" in worst.long  # not b, whose error came from before it
    assert (
        "200 MHz" in under.long and "16 bytes a cycle (1 of 4 ports) after 200 cycles" in under.long and "no tool has shown" in under.long
    )


def test_routers_and_ties_are_said():
    first, second = DATA["quantization"]["layers"]
    routers = [{"flips": 5, "decisions": 136}, {"flips": 4, "decisions": 136}]
    story = Story(DATA | {"quantization": DATA["quantization"] | {"routers": routers, "layers": [first, second | {"alone_db": 44.03}]}})
    assert "Of 272 router decisions 9 (3.31 %) choose other experts" in story.accuracy.long and "needs labels" in story.accuracy.long
    assert "practically tied with b (44.03)" in story.worst_layer.long
    assert "tied" not in Story(DATA).worst_layer.long and "router" not in Story(DATA).accuracy.long


def test_nodes_of_other_tasks_are_skipped_and_the_end_is_no_node():
    more = [{**ROWS[1], "node": "other", "task": 1, "useful_macs": 0}, {**ROWS[1], "node": "", "useful_macs": 0}]
    data = DATA | {"instructions": ROWS + more}
    assert [row["skipped"] for row in Story(data).cycles_by_node] == [False, False, True, False]
    shown = Reader(page(data, "t", MADE)).sections["layers"]
    assert "3 nodes with cycles" in shown and "other: skipped (other task)" in shown and "end of frame (no node)" in shown


def test_a_node_without_cycles_has_its_error_in_the_table():
    norm = {"node": "norm", "value": "norm", "format": "s8", "clipped": 0.0, "snr_db": 29.0, "alone_db": 43.5}
    first, second = DATA["quantization"]["layers"]
    shown = Reader(page(DATA | {"quantization": DATA["quantization"] | {"layers": [first, norm, second], "layer_images": 2}}, "t", MADE)).sections
    assert shown["layers"].index("norm") < shown["layers"].index("b300") and "43.5" in shown["layers"]
    assert "layers on 2 calibration images, outputs on 8" in shown["error"] and "norm" in shown["error"]        # named at its mark


def test_a_simulation_takes_the_place_of_the_estimate():
    simulated = DATA | {
        "simulation": {
            "cycles_per_image": 410.0,
            "images": 3,
            "bit_exact": True,
            "memory": {"bytes_per_cycle": 8.0, "latency": 9, "stall": 0.3},
        },
        "stalls": {"cycles": 410, "issue": 250, "wait_tile": 100, "wait_hazard": 40, "wait_output": 0, "other": 20},
    }
    story = Story(simulated)
    assert story.how_fast.stage == "rtl simulation" and "RTL simulation of 3 images, every output word equal" in story.how_fast.long
    assert "stalling in 30 % of the cycles" in story.assumptions.long
    assert "ports" not in story.assumptions.long and sum(story.cycles_by_cause.values()) == 410


@pytest.mark.parametrize(
    "without, question, answer",
    [
        ("estimate", "How fast is it?", "not known"),
        ("limits", "What limits it?", "not known"),
        ("quantization", "How accurate is it?", "unknown"),
        ("quantization", "Which layer is worst?", "not known"),
        ("resources", "Does it fit?", "no limits stated"),
    ],
)
def test_what_a_report_does_not_hold_is_said_to_be_unknown(without, question, answer):
    story = Story({key: value for key, value in DATA.items() if key != without})
    assert next(a.short for a in story.answers if a.question == question).startswith(answer)
    assert set(PARTS) <= Reader(page(story.data, "t", MADE)).sections.keys()


def test_a_simulation_through_as_much_memory_as_planned_names_the_ports():
    simulated = {"cycles_per_image": 410.0, "images": 3, "bit_exact": True, "memory": {"bytes_per_cycle": 16.0, "latency": 9}}
    assert "16 bytes a cycle (1 of 4 ports) after 9 cycles" in Story(DATA | {"simulation": simulated}).assumptions.long


def test_every_part_has_an_id_and_content():
    reader = Reader(page(DATA, "t", MADE))
    assert list(reader.sections) == PARTS and all(reader.sections.values()) and reader.outside == []


def test_in_the_terminal_25_lines():
    lines = summary(Story(DATA))
    assert len(lines) <= 25 and "waiting for weights" in "\n".join(lines) and lines[-1].startswith("under: 200 MHz")


def test_names_stay_text():
    hostile = "</script><script>alert(1)</script>&\x1b"
    data = json.loads(json.dumps(DATA).replace('"b"', json.dumps(hostile)))
    content = page(data, hostile, MADE)
    assert content.count("<script") == 2 and "alert(1)</" not in content and "\x1b" not in content  # the timeline's data and the page's own
    assert Reader(content).sections["layers"]
    assert (
        text("<a>") == "&lt;a&gt;"
        and text(Markup("<a>")) == "<a>"
        and element("p", "x", class_='"', data_x=1.0) == '<p class="&quot;" data-x="1">x</p>'
    )


def test_the_timeline_covers_the_frame_and_its_data_are_the_report():
    shown = slots(DATA)
    assert [(slot.start, slot.cycles) for slot in shown] == [(0, 100), (100, 300)]
    drawing = timeline(shown)
    table = json.loads(drawing.split('id="timeline-data">')[1].split("</script>")[0])
    assert table["slots"] == [[0, 100, 0, 60, 0, 0], [100, 300, 1, 0, 20, 0]] and 'viewBox="0 0 400 56"' in drawing


def test_the_graph_goes_from_input_to_output():
    network = quantize(random_model(30), None, random=True).tasks[0]
    nodes = nodes_of(network)
    order = list(nodes)
    assert nodes[order[0]].reads == [] and all(nodes[name].reads for name in order[1:])
    assert all(nodes[read].rank < node.rank for node in nodes.values() for read in node.reads)


@pytest.mark.parametrize(
    "broken",
    [{"estimate": {"cycles_per_image": "9"}}, {"instructions": [1]}, {"limits": {"bound_by": 3}}, {"quantization": {"layers": [{}]}}, {"board": 3}],
)
def test_a_report_that_hwgen_did_not_write_is_refused(broken):
    with pytest.raises(BuildVersionError, match="something else than this hwgen writes"):
        page(DATA | broken, "t", MADE)


def test_a_drawing_by_itself(tmp_path):
    """Valid XML with its own style, which reaches nothing outside of it."""
    found = drawing("cycles", DATA, MADE, None, None)
    found.save(tmp_path / "x.svg")
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    style = root.find("{http://www.w3.org/2000/svg}style").text
    assert root.get("class") == "hwgen-drawing" and "var(--c0)" in style
    assert all(part.strip().startswith(".hwgen-drawing") for rule in style.splitlines() for part in rule.partition("{")[0].split(","))
    with pytest.raises(InputError, match="no drawing 'memory'") as error:
        drawing("memory", DATA, MADE, None, None)
    assert "cycles" in error.value.hint
