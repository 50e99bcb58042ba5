"""The code in docs/how-to/add-an-operator.md is that of the files it names."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "how-to" / "add-an-operator.md").read_text()
FILE = re.compile(r"`((?:hwgen|tests)/[\w/]+\.py)`")


def blocks() -> list[tuple[str, str]]:
    """(file named last before it, code) of every block."""
    found = []
    for block in re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL):
        found.append((FILE.findall(TEXT[:block.start()])[-1], block[1]))
    return found


def test_there_are_blocks_of_each_file():
    assert len(blocks()) >= 10 and {file for file, _ in blocks()} == {
        "hwgen/functions.py", "hwgen/ops/activation.py", "tests/test_numerics.py", "tests/test_importer_activation.py"}


@pytest.mark.parametrize("file, code", blocks())
def test_the_code_is_in_the_file(file, code):
    assert code.rstrip("\n") in (ROOT / file).read_text()


def test_every_file_and_folder_exists():
    named = re.findall(r"`((?:hwgen|tests)/[\w/.]+)`", TEXT)
    assert len(named) >= 8 and [path for path in named if not (ROOT / path).exists()] == []
