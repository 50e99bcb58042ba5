"""The rules of a test run themselves: where tools are required a skip fails, and a run in which nothing passed is no good run."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

SKIPS = "import pytest\n@pytest.mark.skip(reason='no iverilog here')\ndef test_a(): pass\n"
IN_TEST = "import pytest\ndef test_a(): pytest.skip('no iverilog here')\n"
FILE = "import pytest\npytest.skip('no iverilog here', allow_module_level=True)\n"
XFAIL = "import pytest\n@pytest.mark.xfail\ndef test_a(): raise ValueError\n"
GOOD = "def test_good(): pass\n"


def run(folder: Path, required: bool, *args: str, **files: str) -> tuple[int, str]:
    """Exit code and output of pytest on these files with this conftest."""
    shutil.copy(Path(__file__).parent / "conftest.py", folder)
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    env = {k: v for k, v in os.environ.items() if k not in ("HWGEN_REQUIRE_TOOLS", "PYTEST_ADDOPTS")}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *args, str(folder)],
                          env=env | ({"HWGEN_REQUIRE_TOOLS": "1"} if required else {}), cwd=folder, capture_output=True, text=True,
                          check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("text", [SKIPS, IN_TEST, FILE], ids=["mark", "in the test", "whole file"])
def test_a_skip_fails_where_tools_are_required(tmp_path, text):
    assert run(tmp_path, False, skips=text, good=GOOD)[0] == 0
    code, output = run(tmp_path, True, skips=text, good=GOOD)
    assert code != 0 and "HWGEN_REQUIRE_TOOLS=1 allows no skip" in output and "no iverilog here" in output


@pytest.mark.parametrize("required", [False, True])
def test_a_run_in_which_nothing_passed_fails(tmp_path, required):
    assert run(tmp_path, required, skips=SKIPS)[0] != 0
    assert run(tmp_path, required, "-k", "nothing", good=GOOD)[0] == 5


def test_what_is_expected_to_fail_is_no_skip(tmp_path):
    assert run(tmp_path, True, xfail=XFAIL, good=GOOD)[0] == 0
