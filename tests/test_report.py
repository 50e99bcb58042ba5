"""Reports: what the numbers look like, and that a stage and a warning are never lost."""

from __future__ import annotations

import pytest
from rich.console import Console

from hwgen import report
from hwgen.errors import InputError


@pytest.mark.parametrize("key, value, shown", [
    ("cycles", 1234567, "1,234,567"), ("cycles", 1234.5, "1,234"), ("cycles", 12.3456, "12.35"), ("x", 0.000123456, "0.000123"),
    ("x", 0.0, "0.0"), ("utilization", 0.9312, "93.1 %"), ("bit_exact", True, "yes"), ("bit_exact", False, "no"), ("waves", None, "–"),
    ("tasks", ["digit", "parity"], "digit, parity"), ("inputs", {"x": [1, 8, 8]}, "x: 1, 8, 8"), ("x", float("inf"), "inf"),
    ("speed", 2.7e9, "2,700,000,000"), ("name", "a [b]", "a [b]")])
def test_text(key, value, shown):
    assert report.text(key, value) == shown


@pytest.mark.parametrize("key, shown", [("latency_ms", "latency [ms]"), ("clock_mhz", "clock [MHz]"), ("weight_bytes", "weight [bytes]"),
                                        ("cycles_per_image", "cycles per image")])
def test_label(key, shown):
    assert report.label(key) == shown


def test_sections_in_order_with_stage_and_share():
    data = {"records": [{"a": 1}, {"a": 2, "b": 3}], "version": "1", "empty": {},
            "resources": {"stage": "estimate", "used": {"dsp": 50, "uram": 0, "ff": 1}, "available": {"dsp": 200, "uram": 0, "ff": None}}}
    assert report.sections(data, "build") == [
        report.Section("build", (), (("version", "1"),)),
        report.Section("resources (estimate)", ("", "used", "available", "share"),
                       (("dsp", "50", "200", "25.0 %"), ("uram", "0", "0", "–"), ("ff", "1", "–", "–"))),
        report.Section("records", ("a", "b"), (("1", ""), ("2", "3")))]


def test_a_nested_fraction_is_a_percentage():
    [section] = report.sections({"accuracy": {"digit": 0.994}})
    assert section == report.Section("accuracy", (), (("digit", "99.4 %"),))


CLIPPING = {"quantization": {"stage": "golden models", "images": 8, "clipping": [{"node": "a", "clipped": 0.00012}, {"node": "b", "clipped": 0.0}]}}


def test_warnings_come_first_and_nested_records_are_a_table():
    data = {"version": "1", "warnings": ["x is y"], **CLIPPING}
    assert report.sections(data) == [
        report.Section("warnings", (), (("1", "x is y"),)),
        report.Section("build", (), (("version", "1"),)),
        report.Section("quantization (golden models)", (), (("images", "8"),)),
        report.Section("quantization clipping", ("node", "clipped"), (("a", "0.012 %"), ("b", "0 %")))]
    assert report.sections({"version": "1", "warnings": []}) == [report.Section("build", (), (("version", "1"),))]


def test_compile_shows_the_formats_that_clip():
    data = {"version": "1", "warnings": ["x is y"], "instructions": [{"pc": 0}], **CLIPPING}
    assert report.brief(data) == {"version": "1", "quantization": CLIPPING["quantization"] | {"clipping": [{"node": "a", "clipped": 0.00012}]}}
    assert report.brief({"version": "1"}) == {"version": "1"}


def test_a_section_by_its_short_name():
    data = {"version": "1", "memory": {"activations": 8}, "quantization": {"images": 8, "layers": [{"node": "a"}]}}
    [section] = report.named(data, "layers")
    assert section.title == "quantization layers" and report.named(data, "quantization_layers") == [section]
    assert [section.title for section in report.named(data | {"layers": [{"node": "b"}]}, "layers")] == ["layers"]      # of a simulation
    with pytest.raises(InputError, match="no section 'ayers'"):
        report.named(data, "ayers")


def test_compile_shows_the_layers_that_cost_most_by_themselves_first():
    rows = [{"node": node, "format": "s8", "snr_db": snr, "alone_db": alone} for node, snr, alone in
            [("sum", 28.0, None), ("a", 30.0, 51.0), ("b", 31.0, 44.0)]]
    shown = report.brief({"quantization": {"layers": rows}})["quantization"]["layers"]
    assert [row["node"] for row in shown] == ["b", "a", "sum"]


def test_show_takes_names_literally_and_leaves_out():
    with open("/dev/null", "w") as null:
        console = Console(width=80, record=True, file=null)
        report.show({"rows": [{"note": "[red]x[/red]"}], "long": [{"a": 1}]}, console, leave_out=("long",))
        text = console.export_text()
    assert "[red]x[/red]" in text and "long" not in text
