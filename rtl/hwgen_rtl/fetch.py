"""Instruction fetch: walks the program once per frame and offers one decoded instruction at a time."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engine import OUT_WORDS
from hwgen.isa import Dst, Op

from .fields import WORD_BITS, Fields


class Fetch(wiring.Component):
    """One walker over the program memory; the engine has two (loader and feeder).

    start        pulse while idle: begins at frame 0
    frames       16, at least 1; tasks: 4 bits a frame, used again from the ninth on; both hold during the run
    mem_*        program memory, 1 cycle latency
    valid, ready, word, pc   the offered instruction and its place; holds until taken
    active       it is not skipped by its task predicate; with ``skip`` skipped instructions are not offered
    illegal      unknown operation, an empty tile loop, more than OUT_WORDS tokens to OUT without ``mean``, or a program without
                 END; held until reset; nothing more is offered

    Latency 3 cycles from start to the first valid; an instruction every second cycle, a skipped one takes two cycles; the one
    behind an instruction that waits follows it at once. Reset: idle. Cost: one instruction register (512 bits), no DSP.
    """

    def __init__(self, depth: int, skip: bool):
        self.depth, self.skip = depth, skip
        address_bits = max(1, (depth - 1).bit_length())
        super().__init__({
            "start": In(1), "frames": In(16), "tasks": In(32), "mem_addr": Out(address_bits), "mem_data": In(WORD_BITS),
            "valid": Out(1), "ready": In(1), "word": Out(WORD_BITS), "active": Out(1), "pc": Out(address_bits),
            "illegal": Out(1)})

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
        with m.If(self.valid & self.ready):
            m.d.sync += self.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [frame.eq(0), pc.eq(0)]
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
                with m.Elif(~self.valid | self.ready):
                    m.d.sync += [self.valid.eq(1), self.word.eq(self.mem_data), self.active.eq(active), self.pc.eq(pc)]
                    with m.If(data.op == Op.END):
                        m.d.sync += [frame.eq(frame + 1), pc.eq(0)]
                        with m.If(frame + 1 == self.frames):
                            m.next = "IDLE"
                        with m.Else():
                            m.next = "READ"
                    with m.Else():
                        m.d.sync += pc.eq(pc + 1)
                        m.next = "READ"
            with m.State("HALT"):
                pass
        return m
