"""Top level: AXI4-Lite registers, AXI4 read DMA, engine, AXI4 output writer, and the life of a run."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engine import OUT_WORDS, EngineConfig
from hwgen.registers import ADDRESS_BITS

from .axi import OutputWriter, StreamDma
from .engine import COUNTERS, Engine
from .registers import AxiLiteRegisters

SETTLE_CYCLES = 128      # after an illegal instruction, until what is in the pipelines has left them
STARVED_CYCLES = 64      # the stream has ended and the loader has waited so long: the program asks for more than there is

AXIL_PORTS = {
    "awvalid": In(1), "awready": Out(1), "awaddr": In(ADDRESS_BITS), "wvalid": In(1), "wready": Out(1), "wdata": In(32),
    "wstrb": In(4), "bvalid": Out(1), "bready": In(1), "bresp": Out(2),
    "arvalid": In(1), "arready": Out(1), "araddr": In(ADDRESS_BITS), "rvalid": Out(1), "rready": In(1), "rdata": Out(32),
    "rresp": Out(2),
}
READ_PORTS = ("arvalid", "arready", "araddr", "arlen", "arsize", "arburst", "rvalid", "rready", "rdata", "rresp", "rlast")
WRITE_PORTS = ("awvalid", "awready", "awaddr", "awlen", "awsize", "awburst", "wvalid", "wready", "wdata", "wstrb", "wlast",
               "bvalid", "bready", "bresp")
INPUTS = (*(f"s_axil_{name}" for name, member in AXIL_PORTS.items() if member.flow is In),      # all but clk and rst
          *(f"m_axi_{name}" for name in ("arready", "rvalid", "rdata", "rresp", "rlast", "rid", "awready", "wready", "bvalid", "bresp", "bid")))


class Top(wiring.Component):
    """The accelerator as a block of a system.

    clk, rst     one clock, synchronous reset (active high)
    s_axil_*     AXI4-Lite slave, 32 bits: `hwgen.registers`
    m_axi_*      AXI4 master, ``axi_data_bits`` wide, 64-bit addresses: reads input and weights, writes outputs. One ID: requests
                 carry 0, the IDs of answers are not looked at
    irq          level: STATUS.DONE and IRQ_ENABLE
    trace_*      for benches, may stay open: an instruction starts (its number in the program), one retires, a frame ends,
                 and why no token was issued this cycle (``trace_wait_tile``, ``trace_wait_hazard``, ``trace_wait_output``)

    A run: start clears engine and queues, the DMA streams input and weights of each frame, results are written as they
    leave; done when all frames have been written and every AXI transaction is answered. An illegal instruction, or a program
    that asks for more than the stream holds, sets STATUS.ILLEGAL_INSTRUCTION and ends the run the same way.
    One token per cycle, the cycles of a frame: `hwgen.engines.rtl.cycles`. Cost: `hwgen.engines.rtl.cost.estimate`.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.dma = StreamDma(config.axi_data_bits, config.vector_bytes, config.fifo_beats, config.read_bursts)
        self.writer = OutputWriter(config.axi_data_bits, 32 * config.to, OUT_WORDS)
        pc_bits = max(1, (config.program_words - 1).bit_length())
        super().__init__({
            **{f"s_axil_{name}": member for name, member in AXIL_PORTS.items()},
            **{f"m_axi_{name}": self.dma.signature.members[name] for name in READ_PORTS},
            **{f"m_axi_{name}": self.writer.signature.members[name] for name in WRITE_PORTS},
            "m_axi_arid": Out(1), "m_axi_rid": In(1), "m_axi_awid": Out(1), "m_axi_bid": In(1), "irq": Out(1),
            "trace_start": Out(1), "trace_pc": Out(pc_bits), "trace_retire": Out(1), "trace_frame": Out(1),
            "trace_issue": Out(1), "trace_wait_tile": Out(1), "trace_wait_hazard": Out(1), "trace_wait_output": Out(1)})

    def elaborate(self, platform):
        m = Module()
        c = self.config
        m.submodules.registers = regs = AxiLiteRegisters(c.program_words, int(c.digest[:8], 16), c.lengths)
        m.submodules.dma = dma = self.dma
        m.submodules.writer = writer = self.writer
        engine = Engine(c)
        clear = Signal()
        m.submodules.engine = ResetInserter(clear)(engine)

        for name, member in AXIL_PORTS.items():
            port, own = getattr(self, f"s_axil_{name}"), getattr(regs, name)
            m.d.comb += own.eq(port) if member.flow is In else port.eq(own)
        for unit, names in ((dma, READ_PORTS), (writer, WRITE_PORTS)):
            for name in names:
                port, own = getattr(self, f"m_axi_{name}"), getattr(unit, name)
                m.d.comb += own.eq(port) if unit.signature.members[name].flow is In else port.eq(own)

        go, abort, frames_done = Signal(), Signal(), Signal(16)
        starved, settle = Signal(range(STARVED_CYCLES + 1)), Signal(range(SETTLE_CYCLES + 1))
        underrun = starved == STARVED_CYCLES
        m.d.comb += [
            dma.frames.eq(regs.frames), dma.input_addr.eq(regs.input_addr), dma.input_bytes.eq(regs.input_bytes),
            dma.input_stride.eq(regs.input_stride), dma.weight_addr.eq(regs.weight_addr), dma.weight_bytes.eq(regs.weight_bytes),
            dma.start.eq(regs.start), dma.clear.eq(regs.start), dma.abort.eq(abort),
            writer.out_addr.eq(regs.output_addr), writer.out_stride.eq(regs.output_stride), writer.start.eq(regs.start),
            writer.clear.eq(regs.start), writer.in_valid.eq(engine.out_valid), writer.in_data.eq(engine.out_word),
            writer.next_frame.eq(engine.frame_done),
            engine.start.eq(go), engine.clear.eq(clear), clear.eq(regs.start), engine.frames.eq(regs.frames), engine.tasks.eq(regs.tasks),
            engine.prog_we.eq(regs.prog_we), engine.prog_addr.eq(regs.prog_addr), engine.prog_word.eq(regs.prog_word),
            engine.prog_data.eq(regs.prog_data), engine.vec_valid.eq(dma.vec_valid), engine.vec_data.eq(dma.vec_data),
            dma.vec_ready.eq(engine.vec_ready), engine.out_free.eq(writer.free),
            regs.rd_error.eq(dma.error), regs.wr_error.eq(writer.error), regs.frames_done.eq(frames_done), self.irq.eq(regs.irq),
            self.trace_start.eq(engine.trace_start), self.trace_pc.eq(engine.trace_pc), self.trace_retire.eq(engine.trace_retire),
            self.trace_frame.eq(engine.frame_done), self.trace_issue.eq(engine.count_issue),
            self.trace_wait_tile.eq(engine.count_wait_tile), self.trace_wait_hazard.eq(engine.count_wait_hazard),
            self.trace_wait_output.eq(engine.count_wait_output)]
        if c.lengths:
            m.d.comb += engine.lengths.eq(regs.lengths)
        for n, name in enumerate(COUNTERS):
            counter = Signal(32, name=f"counter_{name}")
            m.d.sync += counter.eq(counter + getattr(engine, f"count_{name}"))
            with m.If(regs.start):
                m.d.sync += counter.eq(0)
            m.d.comb += regs.counters[n].eq(counter)

        with m.FSM():
            with m.State("IDLE"):
                with m.If(regs.start):
                    m.d.sync += [frames_done.eq(0), starved.eq(0), settle.eq(0)]
                    m.next = "GO"
            with m.State("GO"):
                m.d.comb += go.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += starved.eq(starved + 1)
                with m.If(~dma.idle | dma.vec_valid | ~engine.starved):
                    m.d.sync += starved.eq(0)
                m.d.sync += frames_done.eq(frames_done + engine.frame_done)
                with m.If(engine.illegal | underrun):
                    m.d.comb += regs.illegal.eq(1)
                    m.next = "STOP"
                with m.Elif(engine.frame_done & (frames_done + 1 == regs.frames)):
                    m.d.sync += settle.eq(SETTLE_CYCLES)
                    m.next = "STOP"
            with m.State("STOP"):               # a stream longer than the program is cut off
                m.d.comb += abort.eq(1)
                m.d.sync += settle.eq(settle + (settle != SETTLE_CYCLES))
                with m.If((settle == SETTLE_CYCLES) & dma.idle & writer.idle):
                    m.d.comb += regs.done.eq(1)
                    m.next = "IDLE"
        return m
