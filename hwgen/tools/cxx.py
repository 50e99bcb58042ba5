"""The C++ compiler: clang++ where there is one (faster models in half the build time), else g++."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import os
from pathlib import Path
import platform
import shutil

from ..errors import ToolError
from .process import run

CANDIDATES = ("clang++", "g++", "c++")


def find() -> Path:
    """$CXX if set, else the first of clang++, g++, c++ on PATH. Raises ToolError."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else CANDIDATES:
        if path := shutil.which(name):
            return Path(path)
    if wanted:
        raise ToolError(f"the C++ compiler {wanted!r} named by CXX does not exist", hint="unset CXX, or: sudo apt-get install g++")
    raise ToolError("no C++ compiler found", hint="sudo apt-get install g++")


def version() -> str:
    """What the compiler that `find` finds calls itself, and where it is. Raises ToolError."""
    return _version(find())


@functools.cache
def _version(compiler: Path) -> str:
    return f"{compiler} {run([compiler, '--version'])}"


@functools.cache
def processor() -> str:
    """The machine that ``-march=native`` means: architecture and instruction sets (a home may be shared by several)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")


def jobs() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_make() -> Path:
    """make on PATH. Raises ToolError."""
    if path := shutil.which("make"):
        return Path(path)
    raise ToolError("make not found", hint="sudo apt-get install make")


def cache_prefix() -> tuple[str, ...]:
    """("ccache",) where it exists."""
    return ("ccache",) if shutil.which("ccache") else ()


def compile(sources: Sequence[str | Path], output: str | Path, flags: Sequence[str] = ("-O2",), includes: Sequence[Path] = (),
            cwd: Path | None = None) -> Path:
    """C++ sources -> executable ``output``; objects beside it, through ccache. Returns its path. Raises ToolError.

    Names may be relative to ``cwd``: then nothing of where it lies gets into the result.
    """
    compiler, prefix = find(), cache_prefix()
    made = Path(cwd or ".", output)
    made.parent.mkdir(parents=True, exist_ok=True)
    objects = []
    for n, source in enumerate(sources):
        objects.append(Path(output).parent / f"{n}_{Path(source).stem}.o")
        run([*prefix, compiler, *flags, *(f"-I{include}" for include in includes), "-c", source, "-o", objects[-1]], cwd=cwd)
    run([compiler, *flags, *objects, "-o", output], cwd=cwd)
    return made
