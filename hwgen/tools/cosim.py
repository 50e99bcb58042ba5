"""Starts the cocotb bench of a whole accelerator (package ``hwgen_sim``) in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
import sys

from ..errors import ToolError
from ..paths import data_dir
from . import icarus
from .process import run


def simulate(build: Path, folder: Path, options: dict, simulator: str = "icarus") -> dict:
    """Run ``build`` with the parameters of sim/tb/accelerator.py; returns the result: {cycles, period_ns}. ``folder`` gets logs and files.

    Raises ToolError when a tool is missing or the bench fails.
    """
    if simulator == "icarus":
        icarus.find()
    for package in ("cocotb", "cocotbext.axi", "hwgen_sim"):
        if importlib.util.find_spec(package) is None:
            raise ToolError(f"the Python package {package!r} is not installed",
                            hint="pip install 'hwgen[sim]'; in a checkout use the environment of make test")
    result = folder / "result.json"
    file = folder / "options.json"
    file.write_text(json.dumps({**options, "build": str(build.resolve()), "simulator": simulator, "folder": str(folder), "result": str(result)}))
    benches = str(data_dir("sim/tb").parent)
    run([sys.executable, "-m", "hwgen_sim.accelerator", file], env={"PYTHONPATH": os.pathsep.join([benches, *filter(None, sys.path)])})
    return json.loads(result.read_text())
