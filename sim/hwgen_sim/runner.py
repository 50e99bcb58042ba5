"""Build a design for a simulator and run a cocotb bench on it. Builds are kept in a cache, so that an unchanged design is built once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
import fcntl
import hashlib
import json
import os
from pathlib import Path
import sys
from xml.etree import ElementTree

from cocotb_tools.runner import Runner, Verilator, get_runner

from hwgen.errors import ToolError
from hwgen.tools import cache, icarus, verilator

from .bench import VARIABLE


class Simulator(Enum):
    VERILATOR = "verilator"
    ICARUS = "icarus"

    def version(self) -> str:
        """Of the installed tool. Raises ToolError when it is missing."""
        return str(verilator.find().version) if self is Simulator.VERILATOR else str(icarus.find())

    @property
    def build_args(self) -> list[str]:
        if self is Simulator.ICARUS:
            return []
        # -O1 of the C++: benches are short, so compiling is most of the time; unused bits and the like are of no interest here
        return ["--unroll-count", "0", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-CFLAGS", "-O1", "--no-timing"]


class _PortsOnly(Verilator):
    """cocotb's Verilator runner without ``--public-flat-rw``: a public signal in every module makes a model ten times as long to compile."""

    def _build_command(self):
        return [[word for word in command if word != "--public-flat-rw"] for command in super()._build_command()]


@dataclass(frozen=True)
class Design:
    """What to simulate: file name -> text, the top module, its input ports but clk and rst."""

    top: str
    files: Mapping[str, str]
    inputs: tuple[str, ...]


def cache_folder() -> Path:
    """$HWGEN_SIM_CACHE, or a folder beside the repaired Verilator."""
    return Path(os.environ.get("HWGEN_SIM_CACHE") or cache.folder() / "cocotb")


@contextmanager
def _environment(simulator: Simulator) -> Iterator[None]:
    """cocotb's runner looks at os.environ only."""
    added = verilator.find().environment if simulator is Simulator.VERILATOR else {}
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(design: Design, module: str, simulator: Simulator, folder: Path, waves: bool = False, seed: int = 1, **parameters) -> int:
    """Run bench ``module`` (``tb.x``) on ``design``; returns the number of tests that passed.

    ``parameters`` (JSON values) and the design's inputs reach the bench through `bench.parameters`. ``folder`` gets results.xml, the
    log and the waves. Raises ToolError when a tool is missing, the build fails, a test fails, or no test ran.
    """
    version = simulator.version()
    text = json.dumps(["ports only", design.top, sorted(design.files.items()), simulator.value, version, simulator.build_args, waves, sys.prefix])
    build_dir = cache_folder() / f"{design.top}_{simulator.value}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    build_dir.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {VARIABLE: json.dumps({**parameters, "inputs": design.inputs}), "COCOTB_ANSI_OUTPUT": "0"}
    name, results = f"bench {module} on {simulator.value}", folder.resolve() / "results.xml"
    with _environment(simulator):
        runner: Runner = _PortsOnly() if simulator is Simulator.VERILATOR else get_runner(simulator.value)
        with _locked(build_dir):                # two processes may want the same design
            sources = _sources(design, simulator, build_dir)
            done = build_dir / "built"
            if not done.exists():
                try:
                    runner.build(sources=sources, hdl_toplevel=design.top, build_dir=build_dir, build_args=simulator.build_args,
                                 timescale=("1ns", "1ps"), waves=waves, log_file=folder / "build.log")
                except (RuntimeError, SystemExit) as error:
                    raise ToolError(f"{name}: the build failed: {error}\n{_tail(folder / 'build.log')}", where=str(build_dir)) from error
                done.touch()
        try:
            runner.test(test_module=module, hdl_toplevel=design.top, hdl_toplevel_lang="verilog", build_dir=build_dir, seed=seed,
                        test_dir=folder, results_xml=str(results), extra_env=environment, waves=waves, log_file=folder / "run.log",
                        timescale=("1ns", "1ps"))
        except SystemExit:                      # a test failed: told below, with its name
            pass
        except RuntimeError as error:
            raise ToolError(f"{name}: {error}\n{_tail(folder / 'run.log')}", where=str(folder)) from error
    return read_results(results, name)


def _sources(design: Design, simulator: Simulator, build_dir: Path) -> list[Path]:
    """Writes the design's files; what is there already stays."""
    sources = []
    for name, content in design.files.items():
        path = build_dir / name
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
        sources.append(path)
    if simulator is Simulator.VERILATOR:        # what a bench looks at: the signals of the top module
        public = build_dir / "public.vlt"
        public.write_text(f'`verilator_config\npublic_flat_rw -module "{design.top}" -var "*"\n')
        sources.append(public)
    return sources


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_results(path: Path, name: str) -> int:
    """Number of tests in a results.xml of cocotb. Raises ToolError if one failed, or none ran, or there is no file."""
    if not path.exists():
        raise ToolError(f"{name} ended without results\n{_tail(path.parent / 'run.log')}", where=str(path))
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    skipped = [case for case in cases if case.find("skipped") is not None]
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    if failed:
        log = path.parent / "run.log"
        reasons = [line.strip() for line in log.read_text(errors="replace").splitlines() if "BenchFailure: " in line] if log.exists() else []
        raise ToolError(f"{name}: {len(failed)} of {len(cases)} tests failed: {', '.join(failed)}\n" + ("\n".join(reasons) or _tail(log)),
                        where=str(path.parent))
    if len(cases) == len(skipped):
        raise ToolError(f"{name}: no test ran", where=str(path))
    return len(cases) - len(skipped)


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
