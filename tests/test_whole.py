"""bench/whole.py on a tiny mixture of experts: one command from network to table, every word compared, results kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from hwgen.devices.board import load_board
from hwgen.errors import ToolError
from hwgen.run.simulate import verify_memories
from hwgen.tools import verilator
from test_networks import tiny
import whole

CASE = whole.Case("m3vit_tiny", "sim", (whole.Figure("estimate_error_percent", 2.0, 0.5),), "", (("array", (16, 16)),), tiny("m3vit_tiny"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    try:
        verilator.find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    return tmp_path_factory.mktemp("hwgen") / "whole"


@pytest.fixture(scope="module")
def row(cache):
    return whole.measure(CASE, "latency", cache, "digest")


def test_every_word_and_the_arithmetic(row):
    assert (row.mismatches, row.words, row.array) == (0, 40, "16x16")
    assert row.cycles > max(row.array_limit, row.memory_limit) and row.limit_ratio == pytest.approx(
        row.cycles / max(row.array_limit, row.memory_limit), rel=1e-3)
    assert row.array_use == pytest.approx(row.useful_macs / (256 * row.cycles), rel=1e-3)
    assert row.estimate_error_percent == pytest.approx(100 * abs(row.estimate - row.cycles) / row.cycles, abs=0.01)
    assert row.gops_per_dsp == pytest.approx(2 * row.useful_macs / (row.cycles / 0.3) / row.dsp, rel=1e-3)
    assert {part.kind for part in row.layers} >= {"input", "scores", "P @ V", "router", "experts, first", "experts, second", "head"}


def test_experts_are_counted_as_dispatched(cache):
    acc, images, _ = whole.build(CASE, cache, "digest", print)
    tokens = whole.dispatched(acc, images["x"][:1], 0)
    spec = CASE.spec
    per_layer = spec.tokens * spec.top_k * 2                                # first and second layer of each expert
    assert len(tokens) == 2 * 2 * spec.experts and sum(tokens.values()) == 2 * per_layer


def test_a_result_is_taken_from_the_cache(row, cache, monkeypatch):
    monkeypatch.setattr(whole.api.Accelerator, "simulate", None)            # any simulation would fail
    again = whole.measure(CASE, "latency", cache, "digest")
    assert again == row


def test_tables_and_figures(row, monkeypatch):
    monkeypatch.setattr(whole, "CASES", (CASE,))
    text = whole.text([row])
    assert f"{row.cycles:,}" in text and "0/40" in text and "estimate_error_percent" in text
    slow = replace(row, cycles=1000, mismatches=3)
    case = replace(CASE, figures=(whole.Figure("cycles", 900, 800), whole.Figure("cycles", 0.5, 0.4, of=row.case),
                                  whole.Figure("cycles", 0.5, 0.4, of="not run")))
    monkeypatch.setattr(whole, "CASES", (case,))
    assert whole.failures([slow]) == [f"{row.case}, memory latency: 3 output words differ", f"{row.case}: cycles is 1,000, must be 900",
                                      f"{row.case}: cycles / that of {row.case} is 1, must be 0.5"]
    assert "MISSED" in whole.text([slow])


def test_memory_models():
    board = load_board("zcu102")
    found = {name: whole.memory_model(name, board, 64) for name in whole.MEMORIES}
    assert {name: (m.latency, round(m.bytes_per_cycle, 1), m.stall) for name, m in found.items()} == {
        "port": (200, 16, 0), "ports": (200, 42.7, 0), "latency": (100, 48.4, 0), "ideal": (0, 64, 0), "stalls": (20, 48.4, 0.3)}
    assert found["ideal"] == verify_memories("verilator", 64)["ideal"]          # one name, one memory


def test_every_figure_is_a_field_of_a_row():
    names = {field.name for field in whole.fields(whole.Row)}
    figures = [figure for case in whole.CASES for figure in case.figures]
    assert len(figures) > 15 and {figure.key for figure in figures} <= names
    assert {figure.of for figure in figures if figure.of} <= {case.name for case in whole.CASES}
    assert len({case.name for case in whole.CASES}) == len(whole.CASES)


def test_the_digest_follows_the_sources(tmp_path, monkeypatch):
    for name in whole.SOURCES:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hwgen" / "x.py").write_text("a")
    monkeypatch.setattr(whole, "ROOT", tmp_path)
    first = whole.sources_digest()
    assert whole.sources_digest() == first
    (tmp_path / "hwgen" / "x.py").write_text("b")
    assert whole.sources_digest() != first
