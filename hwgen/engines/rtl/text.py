"""A program as text: one line an instruction, for `hwgen show`, messages and snapshots. `Program.disassembly` has every field."""

from __future__ import annotations

from dataclasses import fields

from ...isa import FIELDS, Dst, Instr, Op, Operand, Src, Stat
from ...listing import Line, Part, short, text as listing
from .program import BufferInfo, InstrInfo, Program
from .touched import SOURCES, TARGETS, columns

FLAGS = tuple(name for name, bits in FIELDS if bits == 1 and name not in ("pred", "column_params", "list"))     # column_params: with weights
DEFAULTS = {entry.name: entry.default for entry in fields(Instr)}


def line(pc: int, instr: Instr) -> str:
    """An instruction with its place and its disassembly, for messages."""
    return f"{pc} {instr}"


def text(program: Program, *, everything: bool = False) -> str:
    """The program in aligned lines that fit a screen: places, sizes and hazards, no numbers that calibration chose."""
    return listing([part(program)], everything=everything)


def part(program: Program) -> Part:
    """The same as a part of a listing."""
    config = program.config

    def rows(length: int) -> list[Line]:
        return [_row(pc, program, length) for pc in range(len(program.instrs))]
    tasks = f"{program.num_tasks} task{'s' * (program.num_tasks > 1)}"
    held = ("act", "kv", "score", "res", *(name for name in ("operand", "list") if getattr(config, f"{name}_words")))
    words = ", ".join(f"{name} {getattr(config, f'{name}_words')}" for name in held)
    return Part(f"program: {len(program.instrs)} instructions, {tasks}, batch {program.batch}, array {config.ti}x{config.to}, "
                f"{len(program.image):,} bytes of weights, words of memory: {words}", rows)


def _row(pc: int, program: Program, length: int) -> Line:
    instr, info = program.instrs[pc], program.infos[pc]
    note = "" if instr.op == Op.END else f"; {short(info.node, length)}{instr.note.removeprefix(info.node)}"
    flags = [f"task {instr.task}"] if instr.pred else []
    flags += [program.config.functions[instr.function] if name == "act" else name for name in FLAGS if getattr(instr, name)]
    flags += [f"top {instr.top_k} of {instr.num_experts}"] if instr.num_experts else []
    flags += [f"every {instr.step}"] if instr.step > 1 else []
    flags += [f"{instr.k_tiles // instr.stat_count} taps by list @{instr.stat_base}"] if instr.list and instr.op == Op.MATMUL else []
    flags += [f"keys {instr.limit}+row"] if instr.limit else []
    flags += [f"{Operand(instr.operand).name.lower()} @{instr.op_base}"] if instr.operand else []
    last = "  ".join(filter(None, [" ".join(flags), note]))
    cells = (_source(instr), _stationary(instr), _target(instr), _tiles(instr, program), _slack(instr), last)
    kind = (instr.op, instr.pred, instr.src, instr.stat, instr.dst, instr.tokens, instr.step, instr.k_tiles, instr.n_tiles, instr.n_last,
            tuple(name for name in FLAGS if getattr(instr, name)), instr.function, instr.top_k, instr.num_experts, instr.limit > 0, instr.operand)
    return Line(cells, info.node, kind, str(instr), lambda: _detail(instr, info, pc, program.buffers))


def _source(instr: Instr) -> str:
    match instr.op:
        case Op.MATMUL:
            return f"{SOURCES[Src(instr.src)]} @{instr.src_base}"
        case Op.STREAM:
            return "stream"
    return "end"


def _stationary(instr: Instr) -> str:
    if instr.op != Op.MATMUL:
        return ""
    if instr.stat == Stat.WEIGHTS:
        return "x weights"
    if instr.stat == Stat.BYPASS:
        return "past the array"
    return f"x {'keys' if instr.stat == Stat.K_COLUMNS else 'values'} @{instr.stat_base}"


def _target(instr: Instr) -> str:
    if instr.op == Op.END:
        return ""
    if instr.dst in (Dst.ROUTER, Dst.OUT):
        return f"-> {Dst(instr.dst).name.lower()}" + (f", act @{instr.dst_base}" if instr.keep else "")
    if instr.dst == Dst.OPERAND:
        return f"-> {'list' if instr.op == Op.STREAM and instr.list else 'operand'} @{instr.op_base}"
    add = "+=" if instr.dst == Dst.RES_ADD else "->"
    return f"{add} {TARGETS[Dst(instr.dst)]} @{instr.dst_base}" + (f"+{instr.dst_group}g" if instr.dst_group else "")


def _tiles(instr: Instr, program: Program) -> str:
    """Tokens x rows -> columns, padding of the first and last tile left out."""
    if instr.op == Op.END:
        return ""
    given = columns(program.config, instr)
    if instr.op == Op.STREAM:
        return f"[{instr.tokens}, {given}]"
    if instr.stat == Stat.BYPASS:
        return f"[{instr.tokens}, {given}] -> {given}"
    return f"[{instr.tokens}, {(instr.k_tiles - 1) * program.config.ti + instr.k_hi - instr.k_lo}] -> {given}"


def _slack(instr: Instr) -> str:
    if instr.op != Op.MATMUL:
        return ""
    return f"slack {instr.slack}" + (f"/{instr.load_slack}" if instr.stat in (Stat.K_COLUMNS, Stat.V_ROWS) else "")


def _detail(instr: Instr, info: InstrInfo, pc: int, buffers: tuple[BufferInfo, ...]) -> dict[str, str]:
    """Every field that is not at rest, what is known besides, and the buffers that are alive."""
    found = {"node": info.node, "useful macs": f"{info.macs:,}", "rows": str(info.rows)} if info.node else {}
    found |= {name: str(getattr(instr, name)) for name, _ in FIELDS if getattr(instr, name) != DEFAULTS[name]}
    for enum, name in ((Op, "op"), (Src, "src"), (Stat, "stat"), (Dst, "dst")):
        if instr.op != Op.END:
            found[name] = enum(getattr(instr, name)).name.lower()
    alive = [f"{b.memory} {b.base}..{b.base + b.words - 1} {b.name}" for b in buffers if b.first <= pc <= b.last]
    return found | ({"alive": ", ".join(alive)} if alive else {})
