"""Installs pinned packages into the environment that runs this, with one progress line; hwgen itself after those it needs.

Standard library only: nothing is installed yet.  Usage: VENV/bin/python scripts/install.py [requirements-dev.txt]
"""

from pathlib import Path
import subprocess
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.txt"
WIDTH = 30


def show(done: int, total: int, text: str, start: float) -> None:
    """Redraws the line on a terminal; elsewhere nothing, so that logs stay short."""
    if sys.stdout.isatty():
        bar = "#" * (WIDTH * done // total)
        print(f"\r[{bar:{WIDTH}}] {done:3}/{total}  {time.monotonic() - start:4.0f} s  {text:40.40}", end="", flush=True)


def pip(*arguments: str, steps: int) -> None:
    """Runs pip; every package it names is one step. Its whole output is shown when it fails."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off", *arguments]
    lines, done, start = [], 0, time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith(("Collecting", "Requirement already")):
                done = min(done + 1, steps)
            words = line.split()
            show(done, steps, " ".join(words[:2]) if words and not line.startswith("WARNING") else "", start)
    if sys.stdout.isatty():
        print()
    if process.returncode:
        sys.exit("".join(lines) + f"error: pip failed with exit code {process.returncode}\n"
                 "  next: check the network and the package index, then run make again")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else LOCK
    lock = ROOT / name
    packages = sum("==" in line for line in lock.read_text().splitlines())
    print(f"installing {packages} pinned packages into {sys.prefix}")
    pip("-r", str(lock), steps=packages)
    if name == LOCK:
        pip("--no-deps", "--no-build-isolation", "--editable", str(ROOT), steps=1)


if __name__ == "__main__":
    main()
