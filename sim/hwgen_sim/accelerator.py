"""Runs a build directory in a cocotb bench: ``python -m hwgen_sim.accelerator OPTIONS.json``, what `hwgen simulate --engine icarus` starts.

OPTIONS.json: build (directory), simulator, folder (for logs), and the parameters of sim/tb/accelerator.py.
"""

import json
from pathlib import Path
import sys

from hwgen.errors import HwgenError
from hwgen_rtl.top import INPUTS

from .runner import Design, Simulator, run

TOP = "hwgen_top"


def design(build: Path) -> Design:
    """The RTL of a build directory."""
    names = (build / "rtl" / "filelist.f").read_text().split()
    return Design(TOP, {name: (build / "rtl" / name).read_text() for name in names}, INPUTS)


def main(options: dict) -> int:
    """Exit code: 0, or 3 with the reason on standard error."""
    build = Path(options.pop("build"))
    simulator, folder = Simulator(options.pop("simulator")), Path(options.pop("folder"))
    try:
        run(design(build), "tb.accelerator", simulator, folder, **options)
    except HwgenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
