"""The checks that take seconds: ruff, mypy, who imports whom, what the stages print. They run beside one another.

Standard library only: the tools may be missing.  Usage: make check, or VENV/bin/python scripts/check.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
import subprocess
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
PINS = ("requirements.txt", "requirements-dev.txt")
CHECKS = {
    "ruff": ("ruff", "check", "--quiet", "--output-format", "concise"),
    "mypy": ("mypy",),
    "tests": ("pytest", "-q", "-n", "0", "tests/test_architecture.py", "tests/test_snapshots.py"),
}


def missing(lock: Path) -> list[str]:
    """The packages pinned in ``lock`` that this environment does not have in that version."""
    pins = [line.split("#")[0].strip() for line in lock.read_text().splitlines()]
    return [pin for pin in pins if pin and _installed(pin.partition("==")[0]) != pin.partition("==")[2]]


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def run(checks: Mapping[str, Sequence[str]], folder: Path = ROOT) -> dict[str, tuple[int, str]]:
    """Run Python modules with arguments in ``folder``, all at a time: {name: (exit code, output)}."""
    started = {name: subprocess.Popen([sys.executable, "-m", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
               for name, words in checks.items()}
    outputs = {name: process.communicate()[0] for name, process in started.items()}
    return {name: (started[name].returncode, output) for name, output in outputs.items()}


def main() -> None:
    for name in PINS:
        if lacking := missing(ROOT / name):
            sys.exit(f"error: not installed in {sys.prefix}: {', '.join(lacking)}\n  next: {sys.executable} scripts/install.py {name}")
    begin = time.monotonic()
    results = run(CHECKS)
    for name, (code, output) in results.items():
        if code:
            print(f"---- {name}: python -m {' '.join(CHECKS[name])}\n{output.rstrip()}")
    failed = [name for name, (code, _) in results.items() if code]
    print(f"{', '.join(CHECKS)}: {'failed: ' + ', '.join(failed) if failed else 'ok'}    {time.monotonic() - begin:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
