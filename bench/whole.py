"""Whole networks at full size: every cycle of one image through the generated RTL, checked word for word, beside limits and figures.

    python bench/whole.py                                  every case, memory as in the figures and as boards have it
    python bench/whole.py --only m3vit_tiny/zcu104 --memory ideal --memory stalls --json whole.json

One case is a network of bench/networks on a board. It is compiled, calibrated with the network's seeded images; the native bench is
built; one image runs for task 0 at 300 MHz. Memory models: ``port`` (one port of the board, latency 200: what the RTL gets), ``ports``
(all ports of the board, latency 200: not built), ``latency`` (85 % of the board's peak bandwidth, 100 cycles: under which the project's
figures were set), ``ideal`` (no latency, a beat every cycle), ``stalls`` (20 cycles, each channel pauses in 30 % of the cycles). Speeds
of simulation and build are in CPU seconds. Builds and results are kept in
~/.cache/hwgen/whole under a digest of the network and of hwgen's own files, so the command can be stopped and called again. Exit code 1
when an output word differs or a figure is missed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, fields
import hashlib
import json
from pathlib import Path
import resource
import sys

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT), str(ROOT / "rtl")]      # works in a checkout without installing

from hwgen import api
from hwgen.devices.board import Board, load_board
from hwgen.devices.memory import LATENCY as BOARD_LATENCY, MemoryModel
from hwgen.engines.rtl import bench as rtl_bench, cost as resources
from hwgen.isa import Dst, Op, Src
from hwgen.run import simulate
from hwgen.steps.golden import trace
from hwgen.tools.cache import wanted
from networks import generate

CLOCK_MHZ = 300.0
LATENCY = 100                # of the memory "latency", and its share of the peak
EFFICIENCY = 0.85
SOURCES = ("hwgen", "rtl", "templates", "boards", "bench/networks")
MEMORIES = ("port", "ports", "latency", "ideal", "stalls")
DEFAULT = ("latency", "port", "ports")


@dataclass(frozen=True)
class Figure:
    """A figure of the project. ``key`` is a field of `Row`; ``at_least``: the limit is a lower one; ``of``: case it is a ratio to."""

    key: str
    must: float
    aim: float
    at_least: bool = False
    of: str = ""

    def value(self, row: Row, rows: list[Row]) -> float | None:
        """None: the case it is a ratio to was not run."""
        own = getattr(row, self.key)
        if not self.of:
            return own
        other = next((r for r in rows if r.case == self.of and r.memory == row.memory), None)
        return None if other is None else own / getattr(other, self.key)

    def reached(self, value: float) -> bool:
        return value >= self.must if self.at_least else value <= self.must

    def __str__(self) -> str:
        return f"{self.key} / that of {self.of}" if self.of else self.key


@dataclass(frozen=True)
class Case:
    """A network on a board. options: further arguments of `hwgen.compile`; published: what others report, as text."""

    network: str
    board: str
    figures: tuple[Figure, ...] = ()
    published: str = ""
    options: tuple[tuple[str, object], ...] = ()
    spec: generate.Spec | None = None          # of a network that bench/networks does not list

    @property
    def name(self) -> str:
        return "/".join([self.network, self.board, *(f"{key}={value}" for key, value in self.options)])


EVERY = (Figure("estimate_error_percent", 2.0, 0.5),)
HUANG = "ViT-T on ZCU102: Huang et al. (TCAS-I 2023, 300 MHz, 1268 DSP, INT8) 4.08 ms"
P2 = "P2-ViT (W8A8): DeiT-T 0.89, DeiT-S 0.92 GOPS per DSP"
MOE = "on ZCU102, 300 MHz: CoQMoE 6.47 ms (1754 DSP, 8/8/4 bits), UbiMoE 25.76 ms, Edge-MoE 34.64 ms"
CASES = (
    Case("deit_tiny", "zcu102", (Figure("array_use", 0.88, 0.92, True), Figure("cycles", 331.2e3, 320e3), Figure("attention_ratio", 1.03, 1.0),
                                 Figure("simulated_macs_per_second", 300e6, 1e9, True), Figure("seconds", 5, 5),
                                 Figure("build_seconds", 240, 240), *EVERY), f"{HUANG}; {P2}"),
    Case("deit_small", "zcu102", (Figure("array_use", 0.92, 0.95, True), Figure("gops_per_dsp", 0.95, 1.1, True), *EVERY), P2),
    Case("m3vit_tiny", "zcu102", (Figure("cycles", 389.3e3, 387.385e3), Figure("limit_ratio", 1.25, 1.05), *EVERY), MOE),
    Case("m3vit_tiny", "zcu104", (Figure("cycles", 430e3, 330e3), Figure("limit_ratio", 1.25, 1.05), *EVERY), MOE),
    Case("deit_tiny", "zcu104", (Figure("cycles", 500e3, 450e3), *EVERY), HUANG),
    Case("m3vit_small", "zcu102", EVERY),
    Case("m3vit_tiny", "zcu102", (Figure("cycles", 320e3, 260e3), *EVERY), MOE, (("precision", "w4a8"),)),
    Case("m3vit_tiny", "zcu102", (Figure("cycles", 0.75, 0.6, of="m3vit_tiny/zcu102"), *EVERY), MOE, (("batch", 4),)),
)


@dataclass(frozen=True)
class Layers:
    """Instructions of one kind: cycles from the start of each to that of the next, and what these held."""

    kind: str
    instructions: int
    cycles: int
    issue: int
    wait_tile: int
    wait_hazard: int
    wait_output: int
    useful_macs: int


@dataclass(frozen=True)
class Row:
    """What one case gave under one memory model. Cycles are of the RTL simulation, DSPs and limits are computed."""

    case: str
    memory: str
    bytes_per_cycle: float
    latency: int
    array: str
    mismatches: int
    words: int
    cycles: int
    ms: float
    useful_macs: int
    array_use: float             # useful MACs over what the array could do in these cycles
    array_limit: int             # cycles: useful MACs / MACs per cycle
    memory_limit: int            # cycles: weights and input / bytes per cycle
    limit_ratio: float           # cycles over the larger limit
    estimate: int                # cycles of the scheduler's model
    estimate_error_percent: float
    attention_ratio: float       # cycles of scores and P @ V over tokens x tiles
    simulated_macs_per_second: float
    seconds: float
    build_seconds: float
    dsp: int
    gops_per_dsp: float
    layers: list[Layers] = field(default_factory=list)


def memory_model(name: str, board: Board, beat: int) -> MemoryModel:
    planned = min(board.memory_gb_s * 1000 * EFFICIENCY / CLOCK_MHZ, beat)
    match name:
        case "ideal":
            return MemoryModel(latency=0, bytes_per_cycle=beat)
        case "stalls":
            return MemoryModel(latency=20, bytes_per_cycle=planned, stall=0.3)
        case "latency":
            return MemoryModel(latency=LATENCY, bytes_per_cycle=planned)
    ports = board.ports.number if name == "ports" else 1
    return MemoryModel(latency=BOARD_LATENCY, bytes_per_cycle=board.bytes_per_cycle(CLOCK_MHZ, ports))


# ---------------------------------------------------------------- one case

def cache_folder() -> Path:
    return wanted() / "whole"


def sources_digest() -> str:
    """Digest of everything a build depends on besides the network."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def network(case: Case, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """(ONNX file, its images), generated when it is not there or the generator has changed."""
    script = Path(generate.__file__).read_bytes()
    key = hashlib.sha256(script + repr(case.spec).encode()).hexdigest()[:12]
    place = folder / f"{case.network}-{key}"
    if not (place / f"{case.network}.npz").exists():
        generate.generate(case.network, place, spec=case.spec)
    with np.load(place / f"{case.network}.npz") as arrays:
        return place / f"{case.network}.onnx", dict(arrays)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def build(case: Case, cache: Path, digest: str, say) -> tuple[api.Accelerator, dict[str, np.ndarray], float]:
    """The compiled case with its native bench, its images, and the CPU seconds that hwgen's and Verilator's part took."""
    model, images = network(case, cache.parent / "networks")
    key = hashlib.sha256(f"{digest} {model.parent.name} {case.name}".encode()).hexdigest()[:12]
    place = cache / f"{case.network}_{case.board}-{key}"
    took = place / "seconds.json"
    if not took.exists():
        begin = cpu_seconds()
        say(f"{case.name}: compile")
        acc = api.compile(model, target=case.board, calib=images, out=place, **dict(case.options))
        say(f"{case.name}: build the bench")
        rtl_bench.build_bench(simulate.bench_files(acc.build), trace=False)
        took.write_text(json.dumps(cpu_seconds() - begin))
    return api.load(place), images, json.loads(took.read_text())


def dispatched(acc: api.Accelerator, image: np.ndarray, task: int) -> dict[int, int]:
    """Tokens each expert instruction streams for this image: {pc: tokens}, from the integer model."""
    program, graph = acc.build.program, acc.build.model.tasks[task]
    chosen = [value for name, value in trace(graph, image, detail=True).items() if name.endswith(".experts")]       # per mixture, in order
    result, mixture = {}, -1
    for pc, instr in enumerate(program.instrs):
        if instr.op == Op.MATMUL and instr.dst == Dst.ROUTER and (not instr.pred or instr.task == task):
            mixture += 1
        if instr.gather or instr.scatter:
            result[pc] = int((chosen[mixture] == instr.expert).any(-1).sum())
    return result


def kind(instr) -> str:
    """Which part of a network an instruction is."""
    if instr.op != Op.MATMUL:
        return "end" if instr.op == Op.END else "input"
    if instr.dst == Dst.SCORE:
        return "scores"
    if instr.src == Src.EXP:
        return "P @ V"
    if instr.gather or instr.scatter:
        return "experts, first" if instr.gather else "experts, second"
    match instr.dst:
        case Dst.ROUTER:
            return "router"
        case Dst.OUT:
            return "head"
        case Dst.RES_ADD:
            return "projection, second"
        case Dst.KV:
            return "k, v"
    return "first of MLP" if instr.act else "q"


def layers(acc: api.Accelerator, table: list[dict]) -> list[Layers]:
    """The per-instruction table of a simulation, added up by `kind`."""
    sums: dict[str, np.ndarray] = {}
    for row in table:
        values = sums.setdefault(kind(acc.build.program.instrs[row["pc"]]), np.zeros(7))
        values += (1, row["cycles"], row["issue"], row["wait_tile"], row["wait_hazard"], row["wait_output"], row["useful_macs"])
    return [Layers(name, *(int(v) for v in values)) for name, values in sums.items()]


def bare_matmul(instr) -> int:
    return instr.tokens * instr.k_tiles * instr.n_tiles


def measure(case: Case, memory: str, cache: Path, digest: str, say=lambda text: None) -> Row:
    """Run one case, or take its result from the cache."""
    acc, images, build_seconds = build(case, cache, digest, say)
    kept = acc.build.path / f"result_{memory}.json"
    if kept.exists():
        data = json.loads(kept.read_text())
        return Row(**data | {"layers": [Layers(**item) for item in data["layers"]]})
    program, board = acc.build.program, load_board(case.board)
    config = program.config
    model = memory_model(memory, board, config.axi_data_bits // 8)
    rate = model.bytes_per_cycle
    batch = getattr(program, "batch", 1)
    image = images["x"][:batch]
    say(f"{case.name}: simulate, memory {memory}")
    result = acc.simulate({"x": image}, task=0, memory=model)
    cycles, macs = result.cycles_per_image, result.useful_macs_per_image
    tokens = dispatched(acc, image, 0)
    estimate = program.estimate(model.bytes_per_cycle, model.latency, 0, tokens)[-1].stop / batch
    attention = [row for row in result.per_instruction if kind(program.instrs[row["pc"]]) in ("scores", "P @ V")]
    bare = sum(bare_matmul(program.instrs[row["pc"]]) for row in attention)
    limits = macs / config.macs_per_cycle, (len(program.image) + program.input_bytes) / batch / rate
    dsp = resources.estimate(config, board).dsp
    row = Row(
        case=case.name, memory=memory, bytes_per_cycle=rate, latency=model.latency, array=f"{config.ti}x{config.to}",
        mismatches=result.mismatches, words=result.words,
        cycles=round(cycles), ms=cycles / CLOCK_MHZ / 1000, useful_macs=macs, array_use=macs / (config.macs_per_cycle * cycles),
        array_limit=round(limits[0]), memory_limit=round(limits[1]), limit_ratio=cycles / max(limits), estimate=round(estimate),
        estimate_error_percent=100 * abs(estimate - cycles) / cycles,
        attention_ratio=sum(row["cycles"] for row in attention) / max(bare, 1),
        simulated_macs_per_second=macs * batch / result.cpu_seconds, seconds=result.cpu_seconds,
        build_seconds=build_seconds, dsp=dsp, gops_per_dsp=2 * macs * CLOCK_MHZ / cycles / 1000 / dsp, layers=layers(acc, result.per_instruction))
    kept.write_text(json.dumps(asdict(row)))
    return row


# ---------------------------------------------------------------- text

COLUMNS = (("case", "{r.case}"), ("memory", "{r.memory}"), ("B/cycle", "{r.bytes_per_cycle:.1f}"), ("latency", "{r.latency}"),
           ("array", "{r.array}"), ("differing", "{r.mismatches}/{r.words}"),
           ("cycles", "{r.cycles:,}"), ("ms", "{r.ms:.3f}"), ("array use", "{r.array_use:.3f}"), ("array limit", "{r.array_limit:,}"),
           ("memory limit", "{r.memory_limit:,}"), ("ratio", "{r.limit_ratio:.3f}"), ("estimate", "{r.estimate:,}"),
           ("off %", "{r.estimate_error_percent:.2f}"), ("attention", "{r.attention_ratio:.3f}"), ("DSP", "{r.dsp:,}"),
           ("GOPS/DSP", "{r.gops_per_dsp:.3f}"), ("MMAC/CPU s", "{m:.0f}"), ("sim CPU s", "{r.seconds:.1f}"),
           ("build CPU s", "{r.build_seconds:.0f}"))


def aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
                     for line in lines)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}".rstrip("0").rstrip(".")


def text(rows: list[Row]) -> str:
    """All tables: results, figures, layers of each case under the first memory model."""
    table = [[title for title, _ in COLUMNS]]
    table += [[cell.format(r=row, m=row.simulated_macs_per_second / 1e6) for _, cell in COLUMNS] for row in rows]
    parts = [aligned(table)]
    known = {case.name: case for case in CASES}
    timed = [row for row in rows if row.memory == "latency"]
    figures = [["figure", "measured", "must reach", "aim", ""]]
    for row in timed:
        for figure in known[row.case].figures if row.case in known else ():
            if (value := figure.value(row, rows)) is None:
                continue
            sign = ">=" if figure.at_least else "<="
            figures.append([f"{row.case} {figure}", number(value), f"{sign} {number(figure.must)}", number(figure.aim),
                            "reached" if figure.reached(value) else "MISSED"])
    if len(figures) > 1:
        parts.append(aligned(figures))
    parts += [f"{row.case}: {known[row.case].published}" for row in timed if row.case in known and known[row.case].published]
    for row in timed or rows:
        lines = [["layers, cycles", "instructions", *(f.name for f in fields(Layers)[2:-1]), "other", "array use"]]
        macs_per_cycle = np.prod([int(n) for n in row.array.split("x")])
        for part in row.layers:
            rest = part.cycles - part.issue - part.wait_tile - part.wait_hazard - part.wait_output
            use = part.useful_macs / (macs_per_cycle * part.cycles) if part.cycles else 0.0
            lines.append([part.kind, *(f"{n:,}" for n in (part.instructions, part.cycles, part.issue, part.wait_tile, part.wait_hazard,
                                                          part.wait_output, rest)), f"{use:.3f}"])
        parts.append(f"{row.case}, memory {row.memory}\n{aligned(lines)}")
    return "\n\n".join(parts) + "\n"


def failures(rows: list[Row]) -> list[str]:
    known = {case.name: case for case in CASES}
    wrong = [f"{row.case}, memory {row.memory}: {row.mismatches} output words differ" for row in rows if row.mismatches or not row.words]
    return wrong + [f"{row.case}: {figure} is {number(value)}, must be {number(figure.must)}"
                    for row in rows if row.memory == "latency" and row.case in known for figure in known[row.case].figures
                    if (value := figure.value(row, rows)) is not None and not figure.reached(value)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help=f"a case or a network, several times; {', '.join(c.name for c in CASES)}")
    parser.add_argument("--memory", action="append", choices=MEMORIES, help=f"several times; otherwise {', '.join(DEFAULT)}")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--text", type=Path, metavar="FILE", help="write the tables here too, after every case")
    args = parser.parse_args()
    chosen = [case for case in CASES if not args.only or case.name in args.only or case.network in args.only]
    if not chosen:
        parser.error(f"no case is called {args.only}; known are {', '.join(case.name for case in CASES)}")
    cache = cache_folder()
    digest = sources_digest()
    rows = []
    for case in chosen:
        for memory in args.memory or DEFAULT:
            rows.append(measure(case, memory, cache, digest, lambda line: print(line, file=sys.stderr, flush=True)))
        if args.text:
            args.text.write_text(text(rows))
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(text(rows), end="")
    missed = failures(rows)
    print(*missed, sep="\n", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
