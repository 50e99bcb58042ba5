"""The first hour with hwgen, in figures: compiling the bundled model, the second `make demo`, build directories that somebody has edited.

    python bench/first_hour.py                               all of it, about ten minutes the first time
    python bench/first_hour.py --only compile --json first_hour.json

compile: CPU seconds of `hwgen compile` for the ZCU104, all its processes, with an empty cache and again (Yosys has been started before: the
wheel writes machine code at its first start). demo: seconds by the clock of the second of two runs of what `make demo` runs; other processes
make it longer. builds: every edit of tests/test_build_attacks.py on a copy of a small build, which `hwgen report` and, where it is not refused,
`hwgen simulate` (golden and Verilator) then get; counted are tracebacks (any exit code but 0 and 2 too), commands without an end within
`LIMIT` seconds, and files that code of the build has written. Exit code 1 when a figure misses its limit.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "sim"), str(ROOT / "tests")]      # works in a checkout without installing

from hwgen.engines.rtl.plan import schedule
from hwgen.tools import cache
import native_builds
from qgraphs import random_images, random_model, random_qgraph
import test_build_attacks as attacks

EXAMPLE = ROOT / "examples" / "m3vit_digits"
LIMIT = 120              # seconds for one command on an edited build
MARK = "PWNED"           # the file that the edits' code would write
BAD = ("traceback", "no end", "code run")


@dataclass(frozen=True)
class Figure:
    """must: the largest value that reaches the limit."""

    name: str
    value: float
    must: float
    unit: str = ""

    @property
    def reached(self) -> bool:
        return self.value <= self.must


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:4])} | more


def hwgen(*words: object) -> list[str]:
    return [sys.executable, "-m", "hwgen", *map(str, words)]


def cpu_seconds(command: list[str], env: dict[str, str]) -> float:
    """Of the command and its children. Raises CalledProcessError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compiling(folder: Path) -> Iterator[Figure]:
    """The bundled model with an empty cache, and again."""
    started = os.environ.get("YOWASP_CACHE_DIR", str(cache.wanted().parent / "YoWASP"))
    start = [sys.executable, "-c", "from hwgen.tools import yosys; yosys.script(['log started'], {}, ())"]
    subprocess.run(start, env=environment(), check=True)                                        # machine code, the user's
    env = environment(XDG_CACHE_HOME=str(folder / "cache"), YOWASP_CACHE_DIR=started)
    subprocess.run(start, env=env, check=True)                                                  # the empty cache knows of it
    command = hwgen("compile", EXAMPLE / "model.onnx", "--target", "zcu104", "--calib", EXAMPLE / "calib.npz", "-o", folder / "build")
    yield Figure("hwgen compile, bundled model, zcu104, empty cache", cpu_seconds(command, env), 5, "CPU s")
    yield Figure("the same again", cpu_seconds(command, env), 2, "CPU s")


def demo(folder: Path) -> Iterator[Figure]:
    """What `make demo` runs, the second time."""
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--output", str(folder / "demo")]
    for _ in range(2):
        begin = time.monotonic()
        subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield Figure("make demo, second time", time.monotonic() - begin, 30, "s")


def outcome(command: list[str], folder: Path, limit: float = LIMIT) -> str:
    """"taken", "refused" or one of `BAD`, of a command that runs in ``folder``."""
    try:
        done = subprocess.run(command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=limit)
    except subprocess.TimeoutExpired:
        return "no end"
    if any(folder.rglob(MARK)):
        return "code run"
    if b"Traceback" in done.stdout + done.stderr or done.returncode not in (0, 2):
        return "traceback"
    return "refused" if done.returncode else "taken"


def builds(folder: Path) -> Iterator[Figure]:
    """Edited builds; the good one has to be taken."""
    model = random_qgraph(**attacks.OPTIONS)
    good = native_builds.write(folder / "good", model, schedule(model, ti=16, to=8, axi_data_bits=128)).path
    np.savez(folder / "x.npz", x=random_images(random_model(**attacks.OPTIONS), 2))
    counts: Counter[str] = Counter()
    for name, edit in {"none": lambda b: None, **attacks.REFUSALS, **attacks.EFFECTLESS}.items():
        place = folder / "edited"
        place.mkdir()
        build = Path(shutil.copytree(good, place / "b"))
        edit(build)
        found = outcome(hwgen("report", build, "--html", "r.html", "--json", "r.json"), place)
        for engine in ("golden", "verilator"):
            if found == "taken":
                found = outcome(hwgen("simulate", build, "--input", folder / "x.npz", "--engine", engine), place)
        shutil.rmtree(place)
        if name == "none" and found != "taken":
            sys.exit(f"the build without an edit: {found}")
        counts[found] += name != "none"
        if found in BAD:
            print(f"{found}: {name}", file=sys.stderr)
    edits = counts.total()
    yield from (Figure(f"{edits} edited builds ({counts['refused']} refused): {kind}", counts[kind], 0) for kind in BAD)


PARTS = {"compile": compiling, "demo": demo, "builds": builds}


def main() -> int:
    """Print the figures; 1 if one misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="several times; otherwise all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    figures = []
    for part in args.only or PARTS:
        with tempfile.TemporaryDirectory(prefix="hwgen_first_") as folder:
            for figure in PARTS[part](Path(folder)):
                figures.append(figure)
                print(f"{figure.name:60} {figure.value:8.3g} {figure.unit:5} <= {figure.must:<4g}{'' if figure.reached else ' MISSED'}", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    return int(not all(figure.reached for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
