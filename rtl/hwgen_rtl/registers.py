"""AXI4-Lite control and status registers; the map itself is `hwgen.registers`."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.registers import (
    ADDRESS_BITS,
    BY_NAME,
    ID_VALUE,
    INSTRUCTION_BYTES,
    LENGTH_BITS,
    MAX_PROGRAM_WORDS,
    NUM_COUNTERS,
    NUM_TASK_SLOTS,
    PROGRAM_BASE,
    REGISTERS,
    VERSION_VALUE,
    StatusBit,
)

OKAY, SLVERR = 0, 2


class AxiLiteRegisters(wiring.Component):
    """AXI4-Lite slave: 32-bit data, 20-bit byte address, one transaction a direction at a time.

    aw*, w*, b*, ar*, r*   AXI4-Lite; address bits 1:0 are ignored; a write is taken when address and data are both there
    start          pulse, one cycle, only when not busy; ``tasks`` and ``frames`` (never 0) hold from here to the next start
    tasks          eight 4-bit task numbers, that of frame 0 in the low bits
    frames         of a run, never 0
    lengths        of an engine that has them: sampled like ``tasks``
    input_*, weight_*, output_*   the registers as they stand: to be sampled at ``start``
    done           pulse from the engine: busy falls, STATUS.DONE rises
    illegal        pulse; rd_error, wr_error: pulse or level, their rising edge sets the flag
    counters, frames_done   read as they stand
    busy           high from ``start`` until ``done``; irq: STATUS.DONE and IRQ_ENABLE, level
    prog_we        pulse: 32-bit granule ``prog_word`` of instruction ``prog_addr`` is ``prog_data``; never while busy
    prog_addr      number of the instruction that is written
    prog_word      which 32-bit granule of it
    prog_data      the granule

    Write: 1 cycle from both valids to ``bvalid``; read: 1 cycle to ``rvalid``; each at most every second cycle.
    Reset: every register 0. Cost: about 500 flip-flops and one read multiplexer, no memory, no DSP.
    """

    def __init__(self, program_words: int, config_id: int, lengths: bool = False):
        if not 0 < program_words <= MAX_PROGRAM_WORDS:
            raise ValueError(f"program_words = {program_words} is not within 1 to {MAX_PROGRAM_WORDS}")
        if not 0 <= config_id < 1 << 32:
            raise ValueError(f"config_id = {config_id:#x} is not a 32-bit number")
        self.program_words, self.config_id, self.has_lengths = program_words, config_id, lengths
        super().__init__({
            "awvalid": In(1), "awready": Out(1), "awaddr": In(ADDRESS_BITS), "wvalid": In(1), "wready": Out(1), "wdata": In(32),
            "wstrb": In(4), "bvalid": Out(1), "bready": In(1), "bresp": Out(2),
            "arvalid": In(1), "arready": Out(1), "araddr": In(ADDRESS_BITS), "rvalid": Out(1), "rready": In(1), "rdata": Out(32),
            "rresp": Out(2),
            "start": Out(1), "tasks": Out(32), "frames": Out(16), "input_addr": Out(64), "input_bytes": Out(32),
            "input_stride": Out(32), "weight_addr": Out(64), "weight_bytes": Out(32), "output_addr": Out(64),
            "output_stride": Out(32),
            "done": In(1), "illegal": In(1), "rd_error": In(1), "wr_error": In(1),
            "counters": In(32).array(NUM_COUNTERS), "frames_done": In(32), "busy": Out(1), "irq": Out(1),
            "prog_we": Out(1), "prog_addr": Out(range(max(2, program_words))), "prog_word": Out(4), "prog_data": Out(32),
            **({"lengths": Out(LENGTH_BITS * NUM_TASK_SLOTS)} if lengths else {})})

    def elaborate(self, platform):
        m = Module()
        tasks, frames, irq_enable = Signal(32), Signal(16), Signal()
        cycles, cycles_hi = Signal(64), Signal(32)
        done, error = Signal(), Signal(4)              # error bit n is STATUS bit START_WHILE_BUSY + n
        status = Cat(self.busy, done, Signal(6), error)
        storage = {
            "IRQ_ENABLE": irq_enable, "TASKS": tasks, "FRAMES": frames,
            "INPUT_ADDR_LO": self.input_addr[:32], "INPUT_ADDR_HI": self.input_addr[32:], "INPUT_BYTES": self.input_bytes,
            "INPUT_STRIDE": self.input_stride, "WEIGHT_ADDR_LO": self.weight_addr[:32], "WEIGHT_ADDR_HI": self.weight_addr[32:],
            "WEIGHT_BYTES": self.weight_bytes, "OUTPUT_ADDR_LO": self.output_addr[:32], "OUTPUT_ADDR_HI": self.output_addr[32:],
            "OUTPUT_STRIDE": self.output_stride}
        lengths = [Signal(32, name=f"lengths_{n}") for n in range(LENGTH_BITS * NUM_TASK_SLOTS // 32)] if self.has_lengths else []
        storage |= {f"LENGTHS_{n}": register for n, register in enumerate(lengths)}
        readable = {
            **storage, "ID": ID_VALUE, "VERSION": VERSION_VALUE, "CONFIG": self.config_id, "STATUS": status,
            "CYCLES_LO": cycles[:32], "CYCLES_HI": cycles_hi, "FRAMES_DONE": self.frames_done,
            **{f"COUNTER_{n}": self.counters[n] for n in range(NUM_COUNTERS)}}

        # events of the run
        rd_before, wr_before = Signal(), Signal()
        start = Signal()
        events = Signal(4)
        error_clear, done_clear = Signal(4), Signal()
        base = StatusBit.START_WHILE_BUSY
        m.d.comb += [events[StatusBit.ILLEGAL_INSTRUCTION - base].eq(self.illegal),
                     events[StatusBit.AXI_READ_ERROR - base].eq(self.rd_error & ~rd_before),
                     events[StatusBit.AXI_WRITE_ERROR - base].eq(self.wr_error & ~wr_before),
                     self.irq.eq(done & irq_enable)]
        m.d.sync += [rd_before.eq(self.rd_error), wr_before.eq(self.wr_error), self.start.eq(start), self.prog_we.eq(0),
                     error.eq((error & ~error_clear) | events), cycles.eq(cycles + self.busy), done.eq(done & ~done_clear)]
        with m.If(self.done & self.busy):
            m.d.sync += [self.busy.eq(0), done.eq(1)]
        with m.If(start):
            m.d.sync += [self.busy.eq(1), done.eq(0), cycles.eq(0), self.tasks.eq(tasks), self.frames.eq(Mux(frames == 0, 1, frames))]
            m.d.comb += error_clear.eq(-1)
            if lengths:
                m.d.sync += self.lengths.eq(Cat(lengths))

        # write channel
        write, full = Signal(), self.wstrb == 0xF
        m.d.comb += [write.eq(self.awvalid & self.wvalid & ~self.bvalid), self.awready.eq(write), self.wready.eq(write)]
        with m.If(self.bready):
            m.d.sync += self.bvalid.eq(0)
        with m.If(write):
            m.d.sync += [self.bvalid.eq(1), self.bresp.eq(SLVERR)]
            with m.If(self.wstrb == 0):
                m.d.sync += self.bresp.eq(OKAY)
            with m.Elif(full):
                with m.Switch(self.awaddr[2:]):
                    for name, target in storage.items():
                        with m.Case(BY_NAME[name].offset >> 2):
                            m.d.sync += [target.eq(self.wdata), self.bresp.eq(OKAY)]
                    with m.Case(BY_NAME["CONTROL"].offset >> 2):
                        m.d.sync += self.bresp.eq(OKAY)
                        m.d.comb += [start.eq(self.wdata[0] & ~self.busy), events[0].eq(self.wdata[0] & self.busy)]
                    with m.Case(BY_NAME["STATUS"].offset >> 2):
                        m.d.sync += self.bresp.eq(OKAY)
                        m.d.comb += [error_clear.eq(self.wdata[base:base + len(error)]), done_clear.eq(self.wdata[StatusBit.DONE])]
                index = self.awaddr[6:] - PROGRAM_BASE // INSTRUCTION_BYTES
                with m.If((self.awaddr >= PROGRAM_BASE) & (index < self.program_words) & ~self.busy):
                    m.d.sync += [self.bresp.eq(OKAY), self.prog_we.eq(1), self.prog_addr.eq(index),
                                 self.prog_word.eq(self.awaddr[2:6]), self.prog_data.eq(self.wdata)]

        # read channel
        read = Signal()
        m.d.comb += [read.eq(self.arvalid & ~self.rvalid), self.arready.eq(read)]
        with m.If(self.rready):
            m.d.sync += self.rvalid.eq(0)
        with m.If(read):
            m.d.sync += [self.rvalid.eq(1), self.rresp.eq(SLVERR), self.rdata.eq(0)]
            with m.Switch(self.araddr[2:]):
                for register in REGISTERS:
                    if register.name in readable:
                        with m.Case(register.offset >> 2):
                            m.d.sync += [self.rdata.eq(readable[register.name]), self.rresp.eq(OKAY)]
                            if register.name == "CYCLES_LO":
                                m.d.sync += cycles_hi.eq(cycles[32:])
        return m
