"""What the folder of a core holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
import json
import os
from pathlib import Path
import sys

import numpy as np

from .. import __version__
from ..devices.board import Board
from ..engines.hls.project import tables
from ..engines.rtl.verilog import WAIVERS, file_list, to_verilog
from ..errors import OutputError
from ..foreign import visible
from ..output import OutputDir, check_target, sha256, work_folder, written
from ..paths import PACKAGE, data_dir
from ..render import render
from ..tools import icarus
from ..tools.process import run
from . import Core, facts
from .parameter import shown
from .template import constants

SEED = 1
LICENCE = "SPDX-License-Identifier: Apache-2.0"
COMMENTS = {".sv": "//", ".hpp": "//", ".cpp": "//", ".h": "//", ".py": "#", ".tcl": "#"}
VITIS = "vitis_hls.tcl"             # of a core in C++ alone
SHOWN = 4                           # names in a message
OWN_IMPORT, STANDALONE = "from ... import numerics as nx\nfrom .words import", "import numerics as nx\nfrom words import"


def write(core: Core, out: str | Path, board: Board, cells: Mapping[str, float] | None = None, measured: Mapping[str, int] | None = None) -> None:
    """The core's folder, whole or not at all. cells: what synthesis counted; measured: what simulation did. Raises OutputError, ToolError."""
    made = files(core, board, cells, measured)
    check(core, out, made)
    with OutputDir(out, core=True) as folder:
        for name, content in made.items():
            folder.write(name, content)
        folder.manifest(core=core.name)


def simulate(core: Core, board: Board) -> dict[str, int]:
    """Runs the core's own bench without pauses, in Icarus Verilog: {latency, cycles, words}. Raises ToolError."""
    icarus.find()
    with work_folder("hwgen_core_") as work:
        for name, content in files(core, board).items():
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_text(content)
        run([sys.executable, work / "run.py", "--only", "never/behind=never"])
        found: dict[str, int] = json.loads((work / "sim_icarus" / "measured.json").read_text())
    return found


def check(core: Core, out: str | Path, names: Iterable[str] = ()) -> None:
    """That the core can be written to ``out``: it may hold the same core, with any parameters, as long as nobody has changed it.

    names: of files to be written. Raises OutputError for a folder with another core, with a changed one or with files that are not the core's
    under these names, and for a place where nothing can be written.
    """
    check_target(out, core=True)
    root = Path(out)
    manifest = written(root)
    if manifest is None:
        return
    held, backend = str(manifest["core"]), "hls" if VITIS in manifest["files"] else "rtl"
    if (held, backend) != (core.name, core.backend):
        raise OutputError(f"the output directory holds another core: {visible(held)}, backend {backend}", where=str(out),
                          hint="choose another directory with -o, or delete this one")
    listed = {name: digest for name, digest in manifest["files"].items() if os.path.lexists(root / name)}
    edited = [name for name, digest in listed.items() if not _unchanged(root / name, digest)]
    edited += [name for name in names if name not in listed and os.path.lexists(root / name)]
    if edited:
        more = f" and {len(edited) - SHOWN} more" if len(edited) > SHOWN else ""
        raise OutputError(f"the core in the output directory was changed, which would be lost: {', '.join(map(visible, edited[:SHOWN]))}{more}",
                          where=str(out), hint="choose another directory with -o, or delete this one")


def _unchanged(path: Path, digest: object) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and sha256(path) == digest
    except OSError:
        return False


def files(core: Core, board: Board, cells: Mapping[str, float] | None = None, measured: Mapping[str, int] | None = None) -> dict[str, str]:
    """All files by name."""
    made = rtl(core) if core.backend == "rtl" else hls(core)
    own = (PACKAGE / "cores" / "golden" / f"{core.template.golden}.py").read_text()
    bench = {"test_core.py": "test_core.py", "run.py": "run_rtl.py"} if core.backend == "rtl" else {"run.py": "run_hls.py"}
    found = {**made, "core.json": facts(core), "golden.py": own.replace(OWN_IMPORT, STANDALONE),
             "numerics.py": (PACKAGE / "numerics.py").read_text(), "words.py": (PACKAGE / "cores" / "golden" / "words.py").read_text(),
             **{name: (data_dir("templates") / "cores" / file).read_text() for name, file in bench.items()},
             "README.md": readme(core, board, cells, measured)}
    return {name: licensed(name, content) for name, content in found.items()}


def licensed(name: str, content: str) -> str:
    """With the licence in the first line, where a file of this kind has comments."""
    mark = COMMENTS.get(Path(name).suffix)
    return content if mark is None else f"{mark} {LICENCE}\n{content}"


def rtl(core: Core) -> dict[str, str]:
    """Verilog, the list of its files, waivers for Verilator's lint."""
    component = getattr(import_module(f"hwgen_rtl.cores.{core.template.header.removesuffix('.hpp')}"), core.template.rtl)(core.p)
    arrays = {f"rtl/{name}.sv": (data_dir("rtl/sv") / f"{name}.sv").read_text() for name in core.template.arrays}
    made = {**arrays, f"rtl/{core.top}.sv": to_verilog(component, core.top)}
    return {**made, **file_list(made), f"rtl/{WAIVERS}": render("cores/waivers.vlt.j2", top=core.top)}


def hls(core: Core) -> dict[str, str]:
    """The C++ function, the kernels it is made of, their tables, a bench and a script for Vitis HLS."""
    kernels, template = data_dir("hls"), core.template
    inputs = [{"name": name, "bits": bits} for name, bits in core.ports.items() if name != "m_axis"]
    function = core.p.function if template.golden == "activation" else "gelu"
    common = {"version": __version__, "top": core.top, "inputs": inputs, "output": {"bits": core.ports["m_axis"]}, "title": template.title,
              "command": core.command.removeprefix("hwgen core "), "guard": f"CORE_{core.top.upper()}_HPP", "header": template.header,
              "function": template.function, "constants": constants(template, core.p),
              "note": ["One call: " + calls(core)]}
    return {
        **{f"{core.top}.{kind}" if kind != "csim.cpp" else kind: render(f"cores/{'top.' * (kind != 'csim.cpp')}{kind}.j2", **common)
           for kind in ("hpp", "cpp", "csim.cpp")},
        VITIS: render("cores/vitis_hls.tcl.j2", **common), template.header: (kernels / "cores" / template.header).read_text(),
        "hwgen_tables.hpp": tables((str(function),)),
        **{f"{folder}/{path.name}": path.read_text() for folder in ("include/hwgen", "stub") for path in sorted((kernels / folder).iterdir())}}


def calls(core: Core) -> str:
    """What a call of the C++ function takes and gives."""
    count = core.template.words_per_call(core.p)
    return f"{count} result{'s' * (count > 1)} on m_axis, for as many words as golden.py says on the other streams."


def accuracy(core: Core) -> list[tuple[str, float, float]]:
    """(case, largest, mean absolute error) against floating point, limited to what a result can be."""
    golden, rng = core.golden, np.random.default_rng(SEED)
    rows = []
    for name, arrays in golden.cases(core.p, rng).items():
        got, exact = golden.real(core.p, golden.golden(core.p, *arrays)), golden.reference(core.p, *arrays)
        if "out_bits" in vars(core.p):
            limit = golden.real(core.p, np.array((1 << core.p.out_bits - 1) - 1))
            exact = np.clip(exact, -limit, limit)
        error = np.abs(got - exact)
        rows.append((name, float(error.max()), float(error.mean())))
    return rows


def readme(core: Core, board: Board, cells: Mapping[str, float] | None, measured: Mapping[str, int] | None) -> str:
    """README.md."""
    template = core.template
    about = (core.golden.__doc__ or "").strip()
    parameters = [{"name": p.name, "value": shown(core.settings[p.name]), "range": p.range, "meaning": p.meaning} for p in template.parameters]
    return render(
        "cores/README.md.j2", version=__version__, title=template.title, top=core.top, name=core.name, backend=core.backend, command=core.command,
        about=about, parameters=parameters, ports=[{"name": n, "bits": b} for n, b in core.ports.items() if n != "error"],
        error="error" in core.ports, rows=template.rows, latency=template.latency(core.p), measured=measured,
        accuracy=[(n, f"{a:.3g}", f"{b:.3g}") for n, a, b in accuracy(core)],
        limited="out_bits" in vars(core.p), board=board.name, cells=None if cells is None else {k: f"{n:,.0f}" for k, n in cells.items()},
        calls=calls(core), sources=[f"rtl/{name}.sv" for name in template.arrays])
