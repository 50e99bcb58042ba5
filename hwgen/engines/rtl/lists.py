"""Lists of tokens as an instruction sees them: what is wrong with its fields, and which tokens stand in what the weight image brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...engine import EngineConfig
from ...isa import ABSENT, Dst, Instr, Op, Src, Stat
from .touched import columns, stream_bytes

if TYPE_CHECKING:
    from .program import Program


def wrong_list(instr: Instr, config: EngineConfig) -> str | None:
    """What is wrong with how an instruction takes tokens by a list, or brings one, or None."""
    if not instr.list:
        return None
    if not config.list_words:
        return "has a list of tokens, the engine has no memory for them"
    if instr.op == Op.STREAM:
        return None if instr.dst == Dst.OPERAND and instr.src == Src.NORM else "brings a list that is not words of 16 bits"
    if instr.stat not in (Stat.WEIGHTS, Stat.BYPASS) or instr.src == Src.EXP or instr.gather or instr.scatter or instr.keep or instr.follow:
        return "takes tokens by a list, which products with weights do, of all tokens, and words that go past the array"
    if instr.step != 1 or not instr.stat_count or instr.k_tiles % instr.stat_count or instr.stat_stride * config.to < instr.tokens:
        return (f"takes {instr.tokens} tokens by a list of {instr.stat_stride} words a row, {instr.step} apart, and {instr.k_tiles} reduction tiles, "
                f"{instr.stat_count} a row")
    return None


class Lists:
    """The list memory while a program runs, int16 [words, To]. most: the largest number that may stand in a word of a list that is made on the
    way, -1 in others."""

    def __init__(self, program: Program):
        config = program.config
        self.words = np.zeros((config.list_words, config.to), "<i2")
        self.most = np.full(config.list_words, -1, np.int32)
        self.config = config
        self.vector, self.image = config.vector_bytes, program.image
        host = program.instrs[0].op == Op.STREAM
        sizes = [0 if host and not pc else stream_bytes(config, instr) for pc, instr in enumerate(program.instrs)]
        self.places = np.cumsum([0, *sizes])

    def bring(self, pc: int, instr: Instr) -> None:
        """An instruction that brings or makes a list has run."""
        if instr.pick:
            count = columns(self.config, instr) if instr.stat == Stat.BYPASS else instr.tokens
            self.most[instr.op_base:instr.op_base + -(-instr.stat_count // self.config.to)] = instr.stat_base + count - 1
        if instr.op != Op.STREAM or not instr.list:
            return
        to, count = self.words.shape[1], instr.tokens * instr.n_tiles
        rows = np.frombuffer(self.image, np.uint8, count * -(-2 * to // self.vector) * self.vector, int(self.places[pc])).reshape(count, -1)
        self.most[instr.op_base:instr.op_base + count] = -1
        self.words[instr.op_base:instr.op_base + count] = np.ascontiguousarray(rows[:, :2 * to]).view("<i2")

    def tokens(self, instr: Instr) -> tuple[int, ...]:
        """Those in the list of an instruction, each once; none where it has no list, or one whose numbers come while the engine runs."""
        if instr.op != Op.MATMUL or not instr.list or self.most[instr.stat_base] >= 0:
            return ()
        first = instr.stat_base + instr.stat_stride * np.arange(instr.k_tiles // instr.stat_count)
        rows = self.words[first[:, None] + np.arange(-(-instr.tokens // self.words.shape[1]))].reshape(len(first), -1)[:, :instr.tokens]
        return tuple(int(token) for token in np.unique(rows & ABSENT - 1))

    def beyond(self, instr: Instr, tokens: tuple[int, ...]) -> str | None:
        """What is wrong with the tokens in the list of an instruction, or None."""
        if instr.op != Op.MATMUL or not instr.list:
            return None
        last = tokens[-1] if tokens else int(self.most[instr.stat_base])
        return f"takes token {last} of a source of {instr.src_stride} tokens" if last >= instr.src_stride else None
