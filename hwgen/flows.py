"""Synthesis of a build's RTL: ``flows/<name>.toml`` says how, the board's family with which commands; this module runs it and adds up.

A flow goes module kind by module kind, some at a time, so that a 64x64 engine ends in minutes: the generated control is synthesized with
the arrays of rtl/sv as black boxes; each array once per set of parameters. A regular array larger than the flow's ``cut`` is synthesized at the
corners of the cut, and the counts are continued linearly in each parameter (every lane is like the next); such rows are marked
``scaled``. Counts are those of the tool, per cell type of the family; results are kept under a digest of commands and sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
import itertools
import json
import os
from pathlib import Path
import re
import tomllib

from .devices.board import Board
from .devices.family import RESOURCES, Yosys, bundled_families
from .errors import InputError, ToolError
from .paths import data_dir
from .tools import cache, process, yosys

KINDS = RESOURCES
TOP = "hwgen_top"
WORKERS = 4              # Yosys processes at a time, at most: one may need 2 GB
ZERO = re.compile(r"^ +\S+ ?\[\d+\] = \d+'h0+;\n", re.MULTILINE)
"""An initial value 0 of a memory word of the generated control. A block RAM starts with 0 anyway, and Yosys's reader is slow with them."""

Counts = dict[str, float]
Instances = dict[tuple[str, tuple[tuple[str, int], ...]], int]      # of rtl/sv: (module, parameters) -> how many
Corners = dict[tuple[int, ...], Future[Counts]]
Say = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Kind:
    """One module with one set of parameters. each: cells of one instance; in_dsp: those of them that fit into its DSP slices."""

    module: str
    parameters: dict[str, int]
    unit: str
    instances: int
    scaled: bool
    each: Counts
    in_dsp: Counts


@dataclass(frozen=True)
class Synthesis:
    """What a flow counted. units: unit -> cells; total: their sum; in_dsp: LUTs and flip-flops of it that fit into the DSP slices;
    nonlinear: share of the design (without those) that the non-linear units have, per resource; estimate: what `hwgen.engines.rtl.cost` said."""

    flow: str
    stage: str
    board: str
    units: dict[str, Counts]
    total: Counts
    in_dsp: Counts
    available: Counts
    nonlinear_units: tuple[str, ...]
    nonlinear: Counts
    notes: tuple[str, ...]
    estimate: Counts
    modules: list[Kind] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Synthesis {self.flow} for {self.board}: {', '.join(f'{n:,} {kind}' for kind, n in self.total.items())}>"

    def to_dict(self) -> dict:
        """JSON-able; see docs/reference/json.md."""
        shares = {f"{kind}_percent": 100 * share for kind, share in self.nonlinear.items()}
        return {
            "flow": self.flow, "board": self.board, "resources": {"stage": self.stage, "used": self.total, "available": self.available},
            "estimate": dict(stage="estimate", **self.estimate), "in_dsp": self.in_dsp, "nonlinear": dict(units=list(self.nonlinear_units), **shares),
            "notes": list(self.notes), "units": [dict(unit=unit, **counts) for unit, counts in self.units.items()],
            "modules": [dict(module=k.module, parameters={name: value for name, value in k.parameters.items() if value < 1 << 32}, unit=k.unit,
                          instances=k.instances, scaled=k.scaled, **k.each) for k in self.modules]}


def flows() -> dict[str, Path]:
    """Name -> file of every flow."""
    return {path.stem: path for path in sorted(data_dir("flows").glob("*.toml"))}


def synthesize(sources: Mapping[str, str], board: Board, name: str = "yosys", say: Say | None = None,
               estimate: Counts | None = None) -> Synthesis:
    """Synthesize the RTL of a build, {file name: text}. Raises InputError (no such flow, a family the flow does not know), ToolError."""
    known = flows()
    if name not in known:
        raise InputError(f"there is no flow {name!r}", hint=f"choose one of {', '.join(known)}")
    flow = tomllib.loads(known[name].read_text())
    if board.family.yosys is None:
        raise InputError(f"the flow {name} does not know the family of the board {board.name}: {board.family.name}",
                         hint=f"compile for a board of {', '.join(family.name for family in bundled_families() if family.yosys)}")
    run = _Run(flow, board.family.yosys, bool(board.uram), sources, say or _silent)
    return run.run(name, board, estimate or {})


def count(sources: Mapping[str, str], top: str, board: Board) -> Counts:
    """Cells of one small design of the files ``sources`` with top module ``top``, flattened, so that what it does not use of its units is left out.

    Raises InputError for a family that Yosys does not synthesize for, ToolError.
    """
    if board.family.yosys is None:
        raise InputError(f"Yosys does not synthesize for the family of the board {board.name}: {board.family.name}", where="option --target",
                         hint=f"choose a board of {', '.join(family.name for family in bundled_families() if family.yosys)}")
    run = _Run({}, board.family.yosys, bool(board.uram), sources, _silent)
    commands = [*(f"read_verilog -sv {name}" for name in sources), f"hierarchy -top {top}", "proc", "flatten", *run._commands(top)]
    stat = json.loads(_yosys(commands, sources, ("stat.json",), run.children)["stat.json"])
    return _rounded(run._counts(stat["design"]["num_cells_by_type"], top))


def _silent(stage: str, done: float = 0, total: float = 0) -> None:
    """Progress that nobody watches."""


class _Run:
    def __init__(self, flow: dict, family: Yosys, uram: bool, sources: Mapping[str, str], say: Say):
        self.flow, self.family, self.sources, self.say = flow, family, sources, say
        self.children = process.Children()
        self.uram = " -uram" if uram else ""
        self.arrays = {Path(file).stem for file in sources} - {TOP}

    def run(self, name: str, board: Board, estimate: Counts) -> Synthesis:
        self.say("read the design", 0, 0)
        instances = self._instances()
        pool = ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1))
        try:
            control = pool.submit(self._control)
            arrays = [(module, dict(parameters), count, self._corners(pool, module, dict(parameters)))
                      for (module, parameters), count in instances.items()]
            self.say("synthesize the control", 0, len(arrays) + 1)
            kinds = control.result()
            for n, (module, parameters, count, corners) in enumerate(arrays, 1):
                self.say(f"synthesize {module}", n, len(arrays) + 1)
                kinds += self._kinds(module, parameters, count, corners)
        finally:                                # an error or Ctrl-C ends what still runs
            pool.shutdown(wait=False, cancel_futures=True)
            self.children.stop()
        units = {kind.unit: _zero() for kind in kinds}
        in_dsp = {kind.unit: _zero() for kind in kinds}
        for kind in kinds:
            for resource in KINDS:
                units[kind.unit][resource] += kind.instances * kind.each[resource]
                in_dsp[kind.unit][resource] += kind.instances * kind.in_dsp[resource]
        total, inside = _sum(list(units.values())), _sum(list(in_dsp.values()))
        nonlinear = tuple(unit for unit in self.flow["report"]["nonlinear"] if unit in units)
        share = {resource: sum(units[unit][resource] - in_dsp[unit][resource] for unit in nonlinear) / max(total[resource] - inside[resource], 1)
                 for resource in ("lut", "ff", "dsp")}
        rounded = {unit: _rounded(counts) for unit, counts in units.items()}
        return Synthesis(name, self.flow["stage"], board.name, rounded, _rounded(total), _rounded(inside),
                         {k: getattr(board, k) for k in KINDS}, nonlinear, share, self.family.notes, estimate, kinds)

    def _top(self) -> dict[str, str]:
        return {f"{TOP}.sv": ZERO.sub("", self.sources[f"{TOP}.sv"])}

    def _instances(self) -> Instances:
        commands = [f"read_verilog -sv {TOP}.sv", f"hierarchy -top {TOP}", "proc", "write_json design.json"]
        design = json.loads(_yosys(commands, self._top(), ("design.json",), self.children)["design.json"])
        found: Instances = {}
        for cell in (cell for module in design["modules"].values() for cell in module["cells"].values()):
            if cell["type"] in self.arrays:
                key = cell["type"], tuple(sorted((k, int(v, 2)) for k, v in cell["parameters"].items()))
                found[key] = found.get(key, 0) + 1
        return found

    def _control(self) -> list[Kind]:
        """The generated modules, arrays left out."""
        commands = [f"read_verilog -sv {TOP}.sv", f"hierarchy -top {TOP}", "proc", *self._commands(TOP)]
        stats = json.loads(_yosys(commands, self._top(), ("stat.json",), self.children)["stat.json"])["modules"]
        rules = self.flow["generated"]
        kinds = []
        for module, stat in stats.items():
            module = module.removeprefix("\\")
            own = {cell: n for cell, n in stat["num_cells_by_type"].items() if cell not in self.arrays and not cell.startswith(TOP)}
            rule = rules.get(module.split(".")[-1], rules["other"])
            kinds.append(self._kind(module, {}, rule["unit"], 1, False, self._counts(own, module), rule))
        return kinds

    def _rule(self, module: str, parameters: dict[str, int]) -> tuple[dict, dict[str, list[int]]]:
        """(what the flow's file says of a module, parameters at which it is cut)."""
        rule = self.flow["modules"].get(module, {"unit": module})
        return rule, {k: sizes for k, sizes in rule.get("cut", {}).items() if parameters.get(k, 0) > sizes[1]}

    def _corners(self, pool: ThreadPoolExecutor, module: str, parameters: dict[str, int]) -> tuple[Corners, list[tuple[str, dict, Corners]]]:
        """Synthesis at the corners of the cut: of the whole, and without each part that counts elsewhere (its unit, its rule)."""
        rule, cut = self._rule(module, parameters)
        small = parameters | {k: v for k, v in rule.get("fixed", {}).items() if k in parameters and cut}

        def without(tied: list[str]) -> Corners:
            return {corner: pool.submit(self._one, module, small | dict(zip(cut, corner, strict=True)), tuple(tied))
                    for corner in itertools.product(*cut.values())}
        return without([]), [(unit, part, without(part["inputs"])) for unit, part in rule.get("tied", {}).items()]

    def _kinds(self, module: str, parameters: dict[str, int], instances: int,
               corners: tuple[Corners, list[tuple[str, dict, Corners]]]) -> list[Kind]:
        """The kind, and one more for each part of it that is counted under another unit."""
        rule, cut = self._rule(module, parameters)

        def continued(at: Corners) -> Counts:
            found = {corner: future.result() for corner, future in at.items()}
            sizes, wanted = list(cut.values()), [parameters[k] for k in cut]
            return {kind: _continued(sizes, wanted, {corner: counts[kind] for corner, counts in found.items()}) for kind in KINDS}
        whole, parts = continued(corners[0]), corners[1]
        kinds = []
        for unit, part, at in parts:
            left = continued(at)
            name = f"{module}: {', '.join(part['inputs'])}"
            kinds.append(self._kind(name, parameters, unit, instances, bool(cut), _minus(whole, left), part))
            whole = left
        return [self._kind(module, parameters, rule["unit"], instances, bool(cut), whole, rule), *kinds]

    def _kind(self, module: str, parameters: dict[str, int], unit: str, instances: int, scaled: bool, each: Counts, rule: dict) -> Kind:
        per_dsp = rule.get("in_dsp", {}) if self.family.in_dsp else {}
        in_dsp = {kind: per_dsp.get(kind, 0) * each["dsp"] for kind in KINDS}
        return Kind(module, parameters, unit, instances, scaled, each, in_dsp)

    def _one(self, module: str, parameters: dict[str, int], tied: tuple[str, ...]) -> Counts:
        """Cells of one module as it stands. Long parameters (tables) are given as well."""
        sets = " ".join(f"-set {k} {max(v.bit_length(), 32)}'h{v:x}" for k, v in sorted(parameters.items()))
        tie = [line for name in tied for line in (f"cd {module}", f"delete -input w:{name}", f"connect -set {name} 1'0", "cd ..")]
        commands = [f"read_verilog -sv {module}.sv", f"chparam {sets} {module}", f"hierarchy -top {module}", "proc", *tie,
                    *self._commands(module)]
        outputs = _yosys(commands, {f"{module}.sv": self.sources[f"{module}.sv"]}, ("stat.json",), self.children)
        stat = json.loads(outputs["stat.json"])["design"]["num_cells_by_type"]
        return self._counts(stat, module)

    def _commands(self, top: str) -> list[str]:
        commands = (command.replace("{top}", top).replace("{uram}", self.uram) for command in self.family.commands)
        return [*self.family.libraries, *commands, "tee -q -o stat.json stat -json"]

    def _counts(self, cells: dict[str, int], module: str) -> Counts:
        known = self.family.cells
        if unknown := sorted(cell for cell in cells if cell not in known and not cell.startswith("$scopeinfo")):
            raise ToolError(f"Yosys left cells that the flow does not count: {', '.join(unknown)}", where=f"module {module}",
                            hint="add them to the family's file under yosys.cells")
        return {kind: float(sum(n * known[cell].get(kind, 0) for cell, n in cells.items() if cell in known)) for kind in KINDS}


def _zero() -> Counts:
    return dict.fromkeys(KINDS, 0.0)


def _sum(counts: list[Counts]) -> Counts:
    return {kind: sum(c[kind] for c in counts) for kind in KINDS}


def _minus(a: Counts, b: Counts) -> Counts:
    return {kind: a[kind] - b[kind] for kind in KINDS}


def _rounded(counts: Counts) -> Counts:
    return {kind: max(0, round(n)) for kind, n in counts.items()}


def _continued(sizes: list[list[int]], wanted: list[int], corners: dict[tuple[int, ...], float]) -> float:
    """The function linear in each parameter that has the value of each corner, at ``wanted``."""
    total = 0.0
    for corner, value in corners.items():
        for (low, high), size, at in zip(sizes, wanted, corner, strict=True):
            value *= (size - low) / (high - low) if at == high else (high - size) / (high - low)
        total += value
    return total


def _yosys(commands: list[str], inputs: Mapping[str, str], outputs: tuple[str, ...], children: process.Children) -> dict[str, str]:
    """`yosys.script`, its outputs kept in the cache."""
    def run() -> str:
        return json.dumps(yosys.script(commands, inputs, outputs, children)[0])

    def good(text: str) -> bool:
        try:
            found = json.loads(text)
        except ValueError:
            return False
        return isinstance(found, dict) and found.keys() == set(outputs) and all(isinstance(value, str) for value in found.values())
    key = cache.key("synth", yosys.version(), *commands, sorted((name, text.encode()) for name, text in inputs.items()), *outputs)
    return json.loads(cache.text("synth", key, run, good))
