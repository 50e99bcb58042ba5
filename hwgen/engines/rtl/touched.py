"""What an instruction reads and writes, word by word, as docs/reference/engine.md tells it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ...engine import EngineConfig
from ...isa import ADDRESSES, Dst, Instr, Op, Operand, Src, Stat

SOURCES = {Src.ACT: "act", Src.NORM: "res", Src.EXP: "score", Src.RES: "res"}
TARGETS = {Dst.ACT: "act", Dst.KV: "kv", Dst.SCORE: "score", Dst.RES_SET: "res", Dst.RES_ADD: "res"}
PLACED = ("act", "kv", "score", "res", "operand", "list")
MAXIMA, MOMENTS, QUEUES, BIAS = "row maxima", "token statistics", "router queues", "bias of the router's choice"


@dataclass(frozen=True, slots=True)
class Area:
    """Words of a memory: ``chunks`` rows, ``stride`` apart, of ``tokens`` words, ``step`` apart, or of the words ``some`` in order."""

    memory: str
    base: int
    chunks: int
    stride: int
    tokens: int
    step: int = 1
    some: tuple[int, ...] = ()

    @property
    def row(self) -> int:
        """Words from the first to the last of a row."""
        return self.step * (self.tokens - 1) + 1

    @property
    def last(self) -> int:
        return self.base + self.stride * (self.chunks - 1) + self.row - 1

    @property
    def words(self) -> np.ndarray:
        row = np.array(self.some) if self.some else self.step * np.arange(self.tokens)
        return np.asarray((self.base + self.stride * np.arange(self.chunks)[:, None] + row).ravel())


def sizes_of(config: EngineConfig) -> dict[str, int]:
    """Words of every memory."""
    return {"act": config.act_words, "kv": config.kv_words, "score": config.score_words, "res": config.res_words, "operand": config.operand_words,
            "list": config.list_words, MAXIMA: 2 * config.max_tokens, MOMENTS: config.max_tokens, QUEUES: max(1, config.max_experts), BIAS: 1}


@dataclass(frozen=True)
class Touched:
    """What an instruction touches. fed: read by the feed; loaded: by the loader; added: read by the drain, which needs no slack; written."""

    fed: list[Area] = field(default_factory=list)
    loaded: list[Area] = field(default_factory=list)
    added: list[Area] = field(default_factory=list)
    written: list[Area] = field(default_factory=list)

    @property
    def all(self) -> list[Area]:
        """Every area, repetitions included."""
        return [*self.fed, *self.loaded, *self.added, *self.written]

    @classmethod
    def by(cls, config: EngineConfig, instr: Instr, some: tuple[int, ...] = ()) -> Touched:
        """some: the tokens of the source that are in the instruction's list, where it is known; else they are all."""
        if instr.op == Op.END:
            return cls()
        loaded: list[Area] = []
        if instr.op == Op.MATMUL and instr.stat in (Stat.K_COLUMNS, Stat.V_ROWS):
            chunks = instr.k_tiles if instr.stat == Stat.K_COLUMNS else _window(config, instr, instr.stat_group)
            loaded.append(Area("kv", instr.stat_base, chunks, instr.stat_stride, instr.stat_count))
        written = list(_written(config, instr))
        added = [_operand(instr, instr.op_period or instr.n_tiles)] if instr.operand != Operand.NONE else []
        added += [Area(BIAS, 0, 1, 0, 1)] if instr.biased else []
        return cls(list(_fed(config, instr, some)), loaded, written + added if instr.dst == Dst.RES_ADD else added, written)


def _fed(config: EngineConfig, instr: Instr, some: tuple[int, ...]) -> Iterator[Area]:
    if instr.op != Op.MATMUL:
        return
    planes = 2 if instr.wide and instr.src == Src.ACT else 1
    chunks = instr.k_tiles if instr.stat != Stat.BYPASS else -(-columns(config, instr) // config.ti)
    if instr.list:
        rows, chunks = instr.k_tiles // instr.stat_count, instr.stat_count if instr.stat != Stat.BYPASS else chunks
        yield Area("list", instr.stat_base, 1, 0, (rows - 1) * instr.stat_stride + -(-instr.tokens // config.to))
        yield Area(SOURCES[Src(instr.src)], instr.src_base, chunks * planes, instr.src_stride, instr.src_stride, 1, some)
        if instr.src == Src.NORM:
            yield Area(MOMENTS, instr.src_row, 1, 0, instr.src_stride, 1, some)
        return
    yield Area(SOURCES[Src(instr.src)], instr.src_base, chunks * planes, instr.src_stride, instr.tokens, instr.step)
    if instr.src == Src.EXP:
        yield Area(MAXIMA, instr.src_row, 1, 0, instr.tokens, instr.step)
    elif instr.src == Src.NORM:
        yield Area(MOMENTS, instr.src_row, 1, 0, instr.tokens, instr.step)
    if instr.gather or instr.scatter:
        yield Area(QUEUES, instr.expert, 1, 0, 1)


def _written(config: EngineConfig, instr: Instr) -> Iterator[Area]:
    if instr.dst == Dst.ROUTER and instr.op == Op.STREAM:
        yield Area(BIAS, 0, 1, 0, 1)
    elif instr.dst == Dst.ROUTER:
        yield Area(QUEUES, 0, 1, 0, instr.num_experts)
        if instr.keep:
            yield Area("act", (instr.dst_base + instr.src_base) % ADDRESSES, instr.k_tiles, instr.src_stride, instr.tokens, instr.step)
    elif instr.pick:
        yield Area("list", instr.op_base, 1, 0, -(-instr.stat_count // config.to))
    elif instr.dst == Dst.OPERAND:
        yield replace(_operand(instr, instr.n_tiles), memory="list" if instr.op == Op.STREAM and instr.list else "operand")
    elif instr.dst != Dst.OUT:
        yield Area(TARGETS[Dst(instr.dst)], instr.dst_base, _window(config, instr, instr.dst_group), instr.dst_stride, instr.tokens)
        if instr.dst == Dst.SCORE:
            yield Area(MAXIMA, instr.dst_row, 1, 0, instr.tokens)
        elif instr.dst in (Dst.RES_SET, Dst.RES_ADD):
            yield Area(MOMENTS, instr.dst_row, 1, 0, instr.tokens)


def _operand(instr: Instr, tiles: int) -> Area:
    """Words of the operand memory, one a token and output tile."""
    return Area("operand", instr.op_base, 1, 0, tiles * instr.tokens)


def _window(config: EngineConfig, instr: Instr, first_group: int) -> int:
    """Chunks that the output channels of an instruction reach into."""
    return -(-(first_group * config.group + columns(config, instr)) // config.ti)


def stream_bytes(config: EngineConfig, instr: Instr) -> int:
    """That an instruction takes from its stream: weights, or words of a constant or of the host."""
    vector = config.vector_bytes
    if instr.op == Op.STREAM:
        return instr.tokens * instr.n_tiles * (vector if instr.src == Src.ACT else -(-2 * config.to // vector) * vector)
    if instr.op != Op.MATMUL or instr.stat not in (Stat.WEIGHTS, Stat.BYPASS):
        return 0
    tiles = instr.k_tiles if instr.stat == Stat.WEIGHTS else 0
    return instr.n_tiles * (-(-8 * config.to // vector) * vector + tiles * (config.to * config.ti >> instr.w4))


def columns(config: EngineConfig, instr: Instr) -> int:
    """Output channels of an instruction."""
    return (instr.n_tiles - 1) * (config.bypass_lanes if instr.stat == Stat.BYPASS else config.to) + instr.n_last
