"""The documents say what is true: generated pages are up to date, every field is explained, links lead somewhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import re

import pytest

from hwgen import errors, isa
from hwgen.devices.board import Board, boards
from hwgen.devices.family import RESOURCES, UNITS, BlockRam, Family, LargeRam, LutRam, Multiplier, Processor, Vitis, Yosys, bundled_families

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["registers.md", "cli.md", "encoding.md", "models.md"])
def test_generated_pages_are_up_to_date(name):
    assert (ROOT / "docs" / "reference" / name).read_text() == generator().PAGES[name](), "run: python docs/generate.py"


def test_every_instruction_field_is_explained():
    text = (ROOT / "docs" / "reference" / "engine.md").read_text()
    assert [name for name, _ in isa.FIELDS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not link.startswith("http") and not (page.parent / link).exists()] == []


def test_decisions_have_the_same_parts():
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        text = page.read_text()
        assert re.match(r"\d{4}-[a-z0-9-]+\.md", page.name), page.name
        assert [h for h in ("## Why", "## What it costs") if h not in text] == [], page.name


def test_contributing_knows_every_folder_and_every_target():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    packages = {f"hwgen/{path.parent.name}" for path in (ROOT / "hwgen").glob("*/__init__.py")}
    others = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))} - {
        "hwgen", "scripts", "build", "dist", "hwgen.egg-info"}
    assert {name for name in packages | others if f"`{name}`" not in text} == set()
    assert {name for name in re.findall(r"`(hwgen/\w+)`", text) if name not in packages} == set()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= targets


def test_no_figure_is_left_open():
    assert [f"{page.relative_to(ROOT)}: {mark}" for page in PAGES for mark in re.findall(r"\[\[FILL [^]]*\]\]", page.read_text())] == []


def test_the_error_tree_in_the_docstring_is_the_real_one():
    drawn = set(re.findall(r"(\w+Error)\b", errors.__doc__))
    assert drawn == {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}


def test_every_key_of_a_family_is_explained():
    text = (ROOT / "docs" / "reference" / "devices.md").read_text()
    keys = {f for record in (Family, Multiplier, LutRam, BlockRam, LargeRam, Yosys, Vitis, Processor) for f in record.__dataclass_fields__}
    assert sorted(key for key in {*keys, *UNITS, *RESOURCES} if f"`{key}`" not in text) == []


def test_the_table_of_families_is_what_is_bundled():
    rows = re.findall(r"(?m)^\| `(.+?)` \| (`.+?`) \| (.+?) \| (yes|no) \| (yes|no)", (ROOT / "docs" / "reference" / "devices.md").read_text())
    told = {name: (boards, "not measured" in costs, synth == "yes", hls == "yes") for name, boards, costs, synth, hls in rows}
    assert told == {family.name: (", ".join(f"`{board.name}`" for board in boards() if board.family == family), bool(family.not_measured),
                                  bool(family.yosys), bool(family.vitis)) for family in bundled_families()}


def test_every_key_of_a_board_is_explained():
    text = (ROOT / "docs" / "how-to" / "add-a-board.md").read_text()
    assert [f for f in Board.__dataclass_fields__ if f"`{f}`" not in text] == []


def test_messages_that_the_docs_quote_are_messages():
    """The table of refusals: what stands in back quotes is text of the sources (parts of a string that is broken over lines are joined)."""
    sources = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in sorted((ROOT / "hwgen").rglob("*.py"))))
    table = (ROOT / "docs/how-to/bring-your-own-model.md").read_text()
    quoted = [text.strip(". ") for text in re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)]
    assert len(quoted) >= 5
    assert [text for text in quoted if text not in sources] == []


def test_scripts_in_the_how_to_are_python():
    """They need torch, which the tests do not have; that they parse is seen here."""
    text = (ROOT / "docs" / "how-to" / "bring-your-own-model.md").read_text()
    scripts = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(scripts) > 5
    for script in scripts:
        compile(script, "bring-your-own-model.md", "exec")
