"""Instruction fetch: walks the program once per frame and offers one decoded instruction at a time."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engine import OUT_WORDS
from hwgen.isa import Dst, Follow, Op, Stat
from hwgen.registers import LENGTH_BITS, NUM_TASK_SLOTS

from .fields import BITS, WORD_BITS, Fields


def from_first(length, first):
    """Tokens of a sequence from its token ``first`` on."""
    return length - first


def more_than(rest, size: int):
    """Whether what is left of a sequence does not end with this tile."""
    return rest > size


class Fetch(wiring.Component):
    """One walker over the program memory; the engine has two (loader and feeder).

    start        pulse while idle: begins at frame 0
    frames       16, at least 1; tasks: 4 bits a frame, used again from the ninth on; both hold during the run
    mem_*        program memory, 1 cycle latency
    valid, ready, word, pc   the offered instruction and its place; holds until taken
    active       it is not skipped by its task predicate; with ``skip`` skipped instructions are not offered
    lengths      of an engine for sequences whose length a run says, (Ti, To): tokens of the sequence, 16 bits a frame like ``tasks``, 0 for
                 the longest; what follows them is offered as `hwgen.isa.followed` says, or is skipped
    illegal      unknown operation, an empty tile loop, more than OUT_WORDS tokens to OUT without ``mean``, or a program without
                 END; held until reset; nothing more is offered

    Latency 3 cycles from start to the first valid; an instruction every second cycle, a skipped one takes two cycles; the one
    behind an instruction that waits follows it at once. With lengths an instruction takes four cycles, and each frame begins a cycle later for
    every tile that the sequence has. Reset: idle. Cost: one instruction register (512 bits), no DSP.
    """

    def __init__(self, depth: int, skip: bool, lengths: tuple[int, int] | None = None):
        self.depth, self.skip, self.tiles = depth, skip, lengths
        address_bits = max(1, (depth - 1).bit_length())
        super().__init__({
            "start": In(1), "frames": In(16), "tasks": In(32), "mem_addr": Out(address_bits), "mem_data": In(WORD_BITS),
            "valid": Out(1), "ready": In(1), "word": Out(WORD_BITS), "active": Out(1), "pc": Out(address_bits),
            "illegal": Out(1), **({"lengths": In(LENGTH_BITS * NUM_TASK_SLOTS)} if lengths else {})})

    def elaborate(self, platform):
        m = Module()
        frame = Signal(16)
        pc = Signal.like(self.mem_addr)
        data = Fields(self.mem_data)
        m.d.comb += self.mem_addr.eq(pc)
        task = Signal(4)
        m.d.comb += task.eq(self.tasks.word_select(frame[:3], 4))
        active = Signal()
        m.d.comb += active.eq(~data.pred | (data.task == task))
        begin, offered, there = "READ", self.mem_data, active
        if self.tiles:
            begin, offered, there = "LENGTH", *self._followed(m, data, active, frame)
        with m.If(self.valid & self.ready):
            m.d.sync += self.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [frame.eq(0), pc.eq(0)]
                    m.next = begin
            if self.tiles:
                with m.State("LENGTH"):
                    m.d.comb += self.sample.eq(1)
                    m.next = "SPLIT"
                with m.State("SPLIT"):
                    with m.If(self.is_split):
                        m.next = "READ"
            with m.State("READ"):
                m.next = "DECODE"
            with m.State("DECODE"):
                bad = Signal()
                m.d.comb += bad.eq((data.op > Op.MATMUL) | ((data.op == Op.MATMUL) & ((data.n_tiles == 0) | (data.k_tiles == 0)))
                                   | ((data.op == Op.STREAM) & ((data.n_tiles == 0) | (data.tokens == 0)))
                                   | ((data.op == Op.MATMUL) & (data.dst == Dst.OUT) & ~data.mean & (data.tokens > OUT_WORDS))
                                   | ((data.op != Op.END) & (pc == self.depth - 1)))
                with m.If(bad):
                    m.d.sync += self.illegal.eq(1)
                    m.next = "HALT"
                with m.Elif(~active & (1 if self.skip else 0)):
                    m.d.sync += pc.eq(pc + 1)
                    m.next = "READ"
                if self.tiles:
                    with m.Else():
                        m.next = "COMPARE"
                else:
                    self._offer(m, m.Elif, offered, there, frame, pc, begin)
            if self.tiles:
                with m.State("COMPARE"):            # the memory still shows the instruction
                    m.next = "FOLLOW"
                with m.State("FOLLOW"):
                    with m.If(~there & (1 if self.skip else 0)):
                        m.d.sync += pc.eq(pc + 1)
                        m.next = "READ"
                    self._offer(m, m.Elif, offered, there, frame, pc, begin)
            with m.State("HALT"):
                pass
        return m

    def _offer(self, m, when, word, active, frame, pc, begin: str) -> None:
        """Into the register, if it is free; then on to the next instruction, or to the next frame (state ``begin``)."""
        with when(~self.valid | self.ready):
            m.d.sync += [self.valid.eq(1), self.word.eq(word), self.active.eq(active), self.pc.eq(pc)]
            with m.If(Fields(self.mem_data).op == Op.END):
                m.d.sync += [frame.eq(frame + 1), pc.eq(0)]
                with m.If(frame + 1 == self.frames):
                    m.next = "IDLE"
                with m.Else():
                    m.next = begin
            with m.Else():
                m.d.sync += pc.eq(pc + 1)
                m.next = "READ"

    def _followed(self, m, data, active, frame):
        """(word, active) of the instruction for the length of the frame, two cycles after the memory shows it. ``sample`` takes the length;
        ``is_split``: its tiles are counted."""
        self.sample, self.is_split = Signal(), Signal()
        length, left = Signal(LENGTH_BITS), Signal(signed(LENGTH_BITS + 1))
        fewer = Signal()                            # the sequence has fewer keys than the instruction
        tiles, rests = [Signal(12, name=f"{name}_tiles") for name in ("k", "n")], [Signal(LENGTH_BITS, name=f"{name}_rest") for name in ("k", "n")]
        above = [more_than(rest, size) for rest, size in zip(rests, self.tiles, strict=True)]
        m.d.comb += self.is_split.eq(~(above[0] | above[1]))
        for count, rest, over, size in zip(tiles, rests, above, self.tiles, strict=True):
            with m.If(over):
                m.d.sync += [rest.eq(rest - size), count.eq(count + 1)]
        with m.If(self.sample):
            m.d.sync += length.eq(self.lengths.word_select(frame[:3], LENGTH_BITS))
            for count, rest in zip(tiles, rests, strict=True):
                m.d.sync += [rest.eq(self.lengths.word_select(frame[:3], LENGTH_BITS)), count.eq(1)]
        m.d.sync += [left.eq(from_first(length, data.first)), fewer.eq((length != 0) & data.keys_follow & (data.stat_count > length))]
        there, cut, keys, columns, rows = Signal(), Signal(), Signal(), Signal(), Signal()     # a cycle later
        base, row = Signal.like(data.src_base), Signal.like(data.src_row)
        last = (length != 0) & (data.follow == Follow.LAST)
        m.d.comb += rows.eq((length != 0) & (data.follow == Follow.ROWS))
        m.d.sync += [there.eq(active & ~(rows & (left <= 0))), cut.eq(rows & (data.tokens > left)), keys.eq(fewer & (data.stat != Stat.K_COLUMNS)),
                     columns.eq(fewer & (data.stat == Stat.K_COLUMNS)), base.eq(data.src_base + Mux(last, left, 0)),
                     row.eq(data.src_row + Mux(last & data.src[0], left, 0))]            # NORM and RES have one
        changes = {
            "tokens": Mux(cut, left[:16], data.tokens), "src_base": base, "src_row": row, "stat_count": Mux(keys | columns, length, data.stat_count),
            "n_tiles": Mux(columns, tiles[1], data.n_tiles), "n_last": Mux(columns, rests[1][:7], data.n_last),
            "k_tiles": Mux(keys, tiles[0], data.k_tiles), "k_hi": Mux(keys, rests[0][:7], data.k_hi)}
        parts = [changes.get(name, getattr(data, name)) for name in BITS]
        return Cat(parts, data.word[sum(BITS.values()):]), there
