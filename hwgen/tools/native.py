"""Runs a compiled native bench (templates/bench/main.cpp): options in, one line of JSON out, a line per finished frame before it."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import resource
import shlex

from ..errors import ToolError
from .process import started


def run(executable: Path, options: dict[str, object], on_frame: Callable[[int], None] | None = None) -> dict:
    """Start ``executable --key value ...`` (underscores become dashes); ``on_frame`` is called with the number of frames done.

    Returns the JSON of the last line, and ``cpu_seconds`` of the process. Raises ToolError when the bench fails, with what it printed.
    """
    words, before = [str(executable)], _cpu_seconds()
    for key, value in options.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    lines: list[str] = []
    with started(words) as child:
        for line in child.stdout or ():
            if line.startswith("frame "):
                if on_frame is not None:
                    on_frame(int(line.split()[1]))
            else:
                lines.append(line.rstrip())
        child.wait()
    if child.returncode != 0 or not lines:
        raise ToolError("\n".join([f"the simulation failed with exit code {child.returncode}", *lines[-10:]]), where=shlex.join(words))
    return json.loads(lines[-1]) | {"cpu_seconds": _cpu_seconds() - before}


def _cpu_seconds() -> float:
    """User and system time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
