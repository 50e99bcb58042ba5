"""Steps: instructions that still speak of buffers by name, before memory is laid out and tasks are merged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..isa import Instr
from ..qir import Weights

ACT, KV, SCORE, RES = "act", "kv", "score", "res"
ROUTER = "router"                   # the expert queues, a resource without words


@dataclass(frozen=True, slots=True)
class Buffer:
    """``channels`` x ``tokens`` values in one memory. channels counts positions: heads may be padded (see `HeadMap`)."""

    name: str
    memory: str
    tokens: int
    channels: int
    parity: int = 0                 # score buffers: which half of the row-maximum memory


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a buffer: first position and first token."""

    buffer: Buffer
    position: int = 0
    token: int = 0


@dataclass(frozen=True)
class Operand:
    """Stationary weights of a step: ``rows`` / ``columns`` give the position of each input / output channel.

    With ``raw`` only weight and bias count: the int32 accumulator leaves.
    """

    weights: Weights
    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class Step:
    """One instruction to be. ``instr`` has every field but the addresses.

    source, target, stationary   places read by the feed, written by the drain, read by the loader
    reads, loads, writes         names of the resources that order steps (see `order.slacks`): feed, loader, drain. The residual
                                 that the drain adds to is not among ``reads``: all drains have one latency
    operand                      stationary weights from the stream, or None
    constant                     int16 [T, D] that a STREAM step carries in the weight image
    macs                         useful multiply-accumulates, without padding
    """

    instr: Instr
    source: Place | None = None
    target: Place | None = None
    stationary: Place | None = None
    operand: Operand | None = None
    constant: np.ndarray | None = None
    reads: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    macs: int = 0
    rows: int = 0                   # tokens streamed per tile; for an expert the expected number
    node: str = ""                  # the ONNX node it came from
    output: tuple[str, int] | None = None   # a head: ONNX output and channels
    tap: tuple[str, int, int] | None = None     # a value that leaves for comparison: name, first token, channels

    @property
    def identity(self) -> tuple:
        """Equal for steps of two tasks that can be one instruction; the names of their nodes do not count."""
        w, constant = self.operand, self.constant
        return (replace(self.instr, note=""), self.source, self.target, self.stationary, self.reads, self.loads, self.writes, self.output, self.tap,
                None if w is None else (id(w.weights), w.rows.tobytes(), w.columns.tobytes()),
                None if constant is None else constant.tobytes())


@dataclass(frozen=True, slots=True)
class HeadMap:
    """Where channel ``h * dim + c`` lies when every head starts at a multiple of ``group`` lanes."""

    heads: int
    dim: int
    group: int

    @property
    def pitch(self) -> int:
        return -(-self.dim // self.group) * self.group

    @property
    def positions(self) -> np.ndarray:
        h, c = np.divmod(np.arange(self.heads * self.dim), self.dim)
        return h * self.pitch + c
