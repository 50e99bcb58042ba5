"""The C++ compiler: clang++ where there is one (faster models in half the build time), else g++."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
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


def find_make() -> Path:
    """make on PATH. Raises ToolError."""
    if path := shutil.which("make"):
        return Path(path)
    raise ToolError("make not found", hint="sudo apt-get install make")


def cache_prefix() -> tuple[str, ...]:
    """("ccache",) where it exists."""
    return ("ccache",) if shutil.which("ccache") else ()


def compile(sources: Sequence[Path], output: Path, flags: Sequence[str] = ("-O2",), includes: Sequence[Path] = ()) -> Path:
    """C++ sources -> executable ``output``; objects beside it, through ccache. Returns ``output``. Raises ToolError."""
    compiler, prefix = find(), cache_prefix()
    output.parent.mkdir(parents=True, exist_ok=True)
    objects = []
    for n, source in enumerate(sources):
        objects.append(output.parent / f"{n}_{Path(source).stem}.o")
        run([*prefix, compiler, *flags, *(f"-I{include}" for include in includes), "-c", source, "-o", objects[-1]])
    part = output.parent / f"{output.name}.part"            # an interrupted linker leaves no program that looks whole
    run([compiler, *flags, *objects, "-o", part])
    os.replace(part, output)
    return output
