"""Icarus Verilog: the second simulator, for small designs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import re
import shutil

from ..errors import ToolError
from .process import run

MIN_VERSION = 11
INSTALL = "sudo apt-get install iverilog"


def find() -> Path:
    """iverilog on PATH, version 11 or later. Raises ToolError."""
    path = shutil.which("iverilog")
    if path is None or shutil.which("vvp") is None:
        raise ToolError("Icarus Verilog (iverilog, vvp) not found", hint=INSTALL)
    found = re.search(r"Icarus Verilog version (\d+)", run([path, "-V"]))
    if found is None or int(found[1]) < MIN_VERSION:
        raise ToolError(f"Icarus Verilog {MIN_VERSION} or later is needed, found {found[1] if found else 'an unknown version'}",
                        where=path, hint=INSTALL)
    return Path(path)


def build(files: Sequence[Path], top: str, output: Path, defines: Sequence[str] = ()) -> Path:
    """SystemVerilog files -> ``output`` for vvp. Returns it. Raises ToolError."""
    output.parent.mkdir(parents=True, exist_ok=True)
    run([find(), "-g2012", "-s", top, "-o", output, *(f"-D{define}" for define in defines), *files])
    return output


def simulate(program: Path, plusargs: Sequence[str] = (), cwd: Path | None = None, timeout: float | None = None) -> str:
    """Run a `build`; returns what it printed. Raises ToolError."""
    find()
    return run(["vvp", "-n", program, *(f"+{arg}" for arg in plusargs)], cwd=cwd, timeout=timeout)
