"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re

from rich.console import Console

from hwgen import progress


def test_a_bar_is_shown_only_for_a_long_stage(monkeypatch):
    console = Console(width=100, force_terminal=True, record=True, stderr=True)
    now = [0.0]
    bars = progress.Bars(console)
    bars._bars.get_time = lambda: now[0]
    for task in bars._bars.tasks:
        task._get_time = bars._bars.get_time
    with bars:
        bars("short stage", 0, 10)
        now[0] += 0.5
        bars("long stage", 0, 10)
        now[0] += 5.0
        bars("long stage", 3, 10)
        assert not bars._bars.finished
    text = console.export_text()
    assert "long stage" in text and "short stage" not in text


def lines(stages, error=None) -> str:
    console = Console(file=io.StringIO(), width=40)
    try:
        with progress.Bars(console) as bars:
            for stage in stages:
                bars(*stage)
            if error:
                raise error
    except ValueError:
        pass
    return console.file.getvalue()


def test_elsewhere_a_line_says_how_long_a_stage_took():
    text = lines([("import", 0, 0), ("quantize [a] a very long name of a stage that does not fit", 0, 0), ("simulate", 1, 4), ("simulate", 2, 4)])
    assert re.fullmatch(r"import … \d+\.\d s\nquantize \[a\] a very long name of a stage that does not fit … \d+\.\d s\n"
                        r"simulate … \d+\.\d s\n", text)


def test_a_stage_that_fails_ends_its_line():
    assert lines([("import", 0, 0)], ValueError()) == "import …\n"
    assert lines([]) == ""
