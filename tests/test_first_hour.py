"""bench/first_hour.py tells what it counts apart, and its exit code follows its figures."""

from __future__ import annotations

import sys

import pytest

from bench import first_hour


@pytest.mark.parametrize("code, found", [
    ("", "taken"), ("raise SystemExit(2)", "refused"), ("raise SystemExit(4)", "traceback"), ("raise ValueError", "traceback"),
    ("print('Traceback'); raise SystemExit(2)", "traceback"), ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "traceback"),
    ("import time; time.sleep(60)", "no end"), ("open('PWNED', 'w'); raise SystemExit(2)", "code run"),
    ("import os; os.mkdir('b'); open('b/PWNED', 'w')", "code run")])
def test_outcomes(tmp_path, code, found):
    assert first_hour.outcome([sys.executable, "-c", code], tmp_path, limit=2 if found == "no end" else 60) == found


def test_cpu_seconds_are_those_of_all_processes():
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    assert first_hour.cpu_seconds([sys.executable, "-c", child], first_hour.environment()) >= 0.5


def test_edited_builds_are_counted(tmp_path, monkeypatch, capsys):
    """A few of the edits; one that cannot be refused stands for a fault."""
    attacks = first_hour.attacks
    monkeypatch.setattr(attacks, "REFUSALS", dict(list(attacks.REFUSALS.items())[:2]))
    monkeypatch.setattr(attacks, "EFFECTLESS", {"code that ran": lambda b: (b.parent / first_hour.MARK).touch()})
    assert [(f.value, f.must) for f in first_hour.builds(tmp_path)] == [(0, 0), (0, 0), (1, 0)]
    assert capsys.readouterr().err == "code run: code that ran\n"


@pytest.mark.parametrize("value, code", [(1.0, 0), (2.5, 1)])
def test_exit_code(monkeypatch, capsys, tmp_path, value, code):
    monkeypatch.setattr(first_hour, "PARTS", {"compile": lambda folder: iter([first_hour.Figure("a", value, 2, "s")])})
    monkeypatch.setattr(sys, "argv", ["first_hour.py", "--json", str(tmp_path / "f.json")])
    assert first_hour.main() == code and ("MISSED" in capsys.readouterr().out) == bool(code) and (tmp_path / "f.json").exists()
