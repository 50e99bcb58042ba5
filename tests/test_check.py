"""`make check`: what it runs, what it says when something is wrong or missing; and that every package is looked at as strictly as promised."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import re
import subprocess
import sys
import tomllib
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STRICT = {"graph", "ops", "steps", "layout", "engines", "devices"}


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_script", ROOT / "scripts" / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ended(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """(exit code or message, standard output) of its ``main``."""
    with pytest.raises(SystemExit) as end:
        module.main()
    return end.value.code, re.sub(r"\d+ s$", "0 s", capsys.readouterr().out, flags=re.MULTILINE)


def test_a_finding_is_printed_and_fails(check, monkeypatch, capsys, tmp_path):
    """Every check is run to its end, the output of those that fail is shown."""
    (tmp_path / "good.py").write_text("print('nothing to say')\n")
    (tmp_path / "bad.py").write_text("import sys\nprint('line 3: wrong')\nsys.exit(1)\n")
    monkeypatch.setattr(check, "PINS", ())
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "CHECKS", {"first": ("bad",), "second": ("good",)})
    monkeypatch.setattr(check.run, "__defaults__", (tmp_path,))
    assert ended(check, capsys) == (True, "---- first: python -m bad\nline 3: wrong\nfirst, second: failed: first    0 s\n")
    monkeypatch.setattr(check, "CHECKS", {"second": ("good",)})
    assert ended(check, capsys) == (False, "second: ok    0 s\n")


def test_a_missing_tool_is_named_with_what_to_do(check, monkeypatch, capsys, tmp_path):
    """Also one of another version; nothing is run then."""
    (tmp_path / "tools.txt").write_text("# pinned\nnosuchtool==1.0   # why\npytest==0.1\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "PINS", ("tools.txt",))
    code, text = ended(check, capsys)
    assert text == "" and code == (f"error: not installed in {sys.prefix}: nosuchtool==1.0, pytest==0.1\n"
                                   f"  next: {sys.executable} scripts/install.py tools.txt")


def test_each_check_finds_what_it_is_for(check, tmp_path):
    """A file with an unused import and a wrong type, under the configuration of the repository."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "hwgen" / "steps").mkdir(parents=True)
    (tmp_path / "hwgen" / "__init__.py").write_text('"""A package."""\n')
    (tmp_path / "hwgen" / "steps" / "__init__.py").write_text('"""A part."""\nimport os\n\n\ndef size(x) -> int:\n    return "1"\n')
    if wrong := check.missing(ROOT / "requirements-dev.txt"):
        pytest.skip(f"{', '.join(wrong)}: make test installs what is missing")
    found = check.run({name: check.CHECKS[name] for name in ("ruff", "mypy")}, tmp_path)
    assert found["ruff"][0] == 1 and "F401" in found["ruff"][1]
    assert found["mypy"][0] == 1 and "no-untyped-def" in found["mypy"][1] and "return-value" in found["mypy"][1]


def test_the_named_packages_are_strict():
    """mypy knows `--strict` for everything only; the flags it stands for are written out."""
    words = subprocess.run([sys.executable, "-m", "mypy", "--help"], capture_output=True, text=True, check=False).stdout.split()
    if not words:
        pytest.skip("mypy is not installed: make test installs it")
    listed = "".join(words).split("enablesthefollowingflags:--")[1].split("--disable-error-code")[0].split(",--")
    names = {flag.replace("-", "_").replace("no_implicit_reexport", "implicit_reexport") for flag in listed}
    assert len(names) > 10
    [section] = [part for part in PYPROJECT["tool"]["mypy"]["overrides"] if "disallow_untyped_defs" in part]
    assert {*section["module"]} >= {f"hwgen.{name}.*" for name in STRICT}
    assert names <= {*section, *PYPROJECT["tool"]["mypy"]} and section["implicit_reexport"] is False


def test_nothing_is_waved_through():
    """No comment silences ruff; none of the strict packages is left out."""
    lines = [f"{path.relative_to(ROOT)}:{i}" for folder in ("hwgen", "rtl", "sim", "tests", "bench", "docs", "scripts", "examples")
             for path in sorted((ROOT / folder).rglob("*.py")) for i, line in enumerate(path.read_text().splitlines(), 1)
             if "# no" + "qa" in line]
    assert lines == []
    ignored = [name for part in PYPROJECT["tool"]["mypy"]["overrides"] if part.get("ignore_errors") for name in part["module"]]
    assert [name for name in ignored if name.split(".")[1] in STRICT] == []
