"""hwgen_rtl.registers.AxiLiteRegisters: one answer to every request, and nothing changes under a run."""

from types import ModuleType

from amaranth.hdl import Module, Signal

from .claims import Claim, Fault, Opened, Proof


class Registers(Proof):
    def __init__(self, registers: ModuleType):
        self.registers = registers.AxiLiteRegisters(16, 0x12345678)
        inputs = {name: member for name, member in self.registers.signature.members.items()
                  if member.flow.name == "In" and not member.dimensions}
        super().__init__({name: member.shape for name, member in inputs.items()},
                         ("one_answer_a_write", "one_answer_a_read", "write_answer_stable", "read_answer_stable", "start_when_idle",
                          "run_keeps", "program_when_idle", "address_and_data_together"))

    def watch(self, m: Module) -> None:
        regs = self.registers
        m.submodules.registers = Opened(regs)
        for name in self.free:
            m.d.comb += getattr(regs, name).eq(getattr(self, name))
        wrote, asked = regs.awvalid & regs.awready, regs.arvalid & regs.arready
        writes, reads, was_busy, running = Signal(2), Signal(2), Signal(), Signal()
        write_waits, read_waits = Signal(), Signal()
        before = Signal(2), Signal(34), Signal(48)
        m.d.sync += [writes.eq(writes + wrote - (regs.bvalid & regs.bready)), reads.eq(reads + asked - (regs.rvalid & regs.rready)),
                     write_waits.eq(regs.bvalid & ~regs.bready), read_waits.eq(regs.rvalid & ~regs.rready), was_busy.eq(regs.busy),
                     before[0].eq(regs.bresp), before[1].eq(regs.rdata << 2 | regs.rresp), before[2].eq(regs.tasks << 16 | regs.frames)]
        with m.If(regs.start):
            m.d.sync += running.eq(1)
        with m.Elif(regs.done):
            m.d.sync += running.eq(0)
        m.d.comb += [
            self.must_one_answer_a_write.eq(writes == regs.bvalid), self.must_one_answer_a_read.eq(reads == regs.rvalid),
            self.must_write_answer_stable.eq(~write_waits | regs.bvalid & (before[0] == regs.bresp)),
            self.must_read_answer_stable.eq(~read_waits | regs.rvalid & (before[1] == (regs.rdata << 2 | regs.rresp))),
            self.must_start_when_idle.eq(~regs.start | regs.busy & ~was_busy),
            self.must_run_keeps.eq(~(regs.busy & was_busy) | (before[2] == (regs.tasks << 16 | regs.frames))),
            self.must_program_when_idle.eq(~regs.prog_we | ~was_busy),
            self.must_address_and_data_together.eq((regs.awready == regs.wready) & (~regs.awready | regs.awvalid & regs.wvalid))]


CLAIM = Claim(
    "one answer a request, and a run keeps what it was started with", "registers", Registers, depth=2, induction=True,
    faults={"one_answer_a_write": Fault("registers.py", "self.awvalid & self.wvalid & ~self.bvalid", "self.awvalid & self.wvalid"),
            "one_answer_a_read": Fault("registers.py", "self.arvalid & ~self.rvalid", "self.arvalid"),
            "write_answer_stable": Fault("registers.py", "with m.If(self.bready):\n            m.d.sync += self.bvalid.eq(0)",
                                         "with m.If(self.bready | self.arvalid):\n            m.d.sync += self.bvalid.eq(0)"),
            "read_answer_stable": Fault("registers.py", "m.d.sync += self.rvalid.eq(0)\n",
                                        "m.d.sync += self.rvalid.eq(0)\n        m.d.sync += self.rresp.eq(0)\n"),
            "start_when_idle": Fault("registers.py", "start.eq(self.wdata[0] & ~self.busy)", "start.eq(self.wdata[0])"),
            "run_keeps": Fault("registers.py", "        with m.If(self.done & self.busy):\n",
                               "        m.d.sync += self.tasks.eq(tasks)\n        with m.If(self.done & self.busy):\n"),
            "program_when_idle": Fault("registers.py", "(index < self.program_words) & ~self.busy", "(index < self.program_words)"),
            "address_and_data_together": Fault("registers.py", "self.wready.eq(write)", "self.wready.eq(self.wvalid)")})
