"""The notebook runs, cell by cell, and what is kept in it is what it gives."""

from __future__ import annotations

import base64
import json
from pathlib import Path
import re
import sys

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import notebook as notebooks

PATH = ROOT / "examples" / "notebook.ipynb"
KEPT = json.loads(PATH.read_text())


def code(cells: dict) -> list[dict]:
    return [cell for cell in cells["cells"] if cell["cell_type"] == "code"]


def texts(cell: dict) -> list[str]:
    """What a cell printed and showed, digits apart: figures may change with the engine, words and tables may not without a new run."""
    found = []
    for output in cell["outputs"]:
        parts = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
        found.append(re.sub(r"[\d.,]+|[ #<]+", "#", "".join(parts)))
    return found


def test_every_cell_runs_and_gives_what_is_kept():
    done = notebooks.executed(KEPT, PATH.parent)
    assert [texts(cell) for cell in code(done)] == [texts(cell) for cell in code(KEPT)]
    shown = [set(output.get("data", ())) for cell in code(done) for output in cell["outputs"]]
    assert sum("image/svg+xml" in kinds for kinds in shown) >= 3
    assert [cell["execution_count"] for cell in code(done)] == list(range(1, len(code(done)) + 1))


def test_pictures_are_kept_for_those_who_only_look():
    pictures = [output["data"]["image/png"] for cell in code(KEPT) for output in cell["outputs"] if "image/svg+xml" in output.get("data", ())]
    assert len(pictures) >= 3 and all(base64.b64decode(data).startswith(b"\x89PNG") for data in pictures)
    assert PATH.stat().st_size < 300_000 and "/tmp/" not in PATH.read_text()
    assert (KEPT["nbformat"], {cell["cell_type"] for cell in KEPT["cells"]}) == (4, {"code", "markdown"})


def test_a_cell_that_fails_is_seen(tmp_path):
    spoiled = {"cells": [{"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": []}, {"cell_type": "code", "source": ["y"], "outputs": []}]}
    with pytest.raises(NameError, match="'y' is not defined"):
        notebooks.executed(spoiled, tmp_path)
    spoiled["cells"].pop()
    (cell,) = notebooks.executed(spoiled, tmp_path)["cells"]
    assert cell["outputs"] == [{"output_type": "execute_result", "execution_count": 1, "data": {"text/plain": ["1"]}, "metadata": {}}]
