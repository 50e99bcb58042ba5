"""What the stages print of small networks: tests/snapshots/NAME.onnx -> NAME.expect, the same on every machine.

The first line of an .expect holds the options of `hwgen show`; what follows is graph, steps and program, or the error. ``pytest
tests/test_snapshots.py --update`` writes it anew: read the difference before it is committed. No line has a number that calibration chose:
ranges come out of a float BLAS, which differs between machines in the last bit, and factors are rounded from them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen import api
from hwgen.arrays import parse_array
from hwgen.errors import HwgenError
from hwgen.listing import WIDTH
import snapshot_nets

FOLDER = Path(__file__).parent / "snapshots"
CASES = sorted(path.stem for path in FOLDER.glob("*.onnx"))
KINDS = {"--array": ("array", parse_array), "--precision": ("precision", str), "--batch": ("batch", int)}


def options(line: str) -> dict[str, object]:
    """``options: --array 8x8 --batch 2`` -> what `api.show` takes."""
    words = line.removeprefix("options:").split()
    return {KINDS[name][0]: KINDS[name][1](value) for name, value in zip(words[::2], words[1::2], strict=True)}


def printed(name: str, first: str) -> str:
    """What an .expect should hold."""
    wanted = options(first)
    text = [first]
    try:
        for stage in ("graph", "steps", "program"):
            text += [f"\n== {stage}", str(api.show(f"{name}.onnx", stage, everything=True, **wanted)).rstrip("\n")]
    except HwgenError as error:
        text += [f"\n== {type(error).__name__}", str(error)]
    return "\n".join(text) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_snapshot(name, request, monkeypatch):
    monkeypatch.chdir(FOLDER)
    expect = FOLDER / f"{name}.expect"
    old = expect.read_text()
    new = printed(name, old.splitlines()[0])
    if request.config.getoption("--update"):
        expect.write_text(new)
    assert new == expect.read_text(), f"{expect.name}: if the change is wanted, run pytest tests/test_snapshots.py --update and read the difference"


def test_the_cases_are_those_that_can_be_made():
    assert sorted(snapshot_nets.NETS) == CASES and all((FOLDER / f"{name}.onnx").stat().st_size < 50_000 for name in CASES)
    assert {path.stem for path in FOLDER.iterdir()} == set(CASES)


def test_snapshots_show_no_number_of_calibration():
    """Other ranges, the same text: what stands there is the same wherever they were found."""
    rng = np.random.default_rng(1)
    for name in ("two_tasks", "batch"):
        text = (FOLDER / f"{name}.expect").read_text()
        images = (3 * rng.standard_normal((4, 1, 8, 8))).astype(np.float32)
        for stage in ("steps", "program"):
            shown = api.show(FOLDER / f"{name}.onnx", stage, everything=True, calib={"x": images}, **options(text.splitlines()[0]))
            assert str(shown) in text


def test_every_line_fits_the_screen():
    listed = [stage for name in CASES for stage in (FOLDER / f"{name}.expect").read_text().split("\n== ")[1:] if "Error" not in stage.splitlines()[0]]
    assert len(listed) > 20 and max(len(line) for stage in listed for line in stage.splitlines()) <= WIDTH
