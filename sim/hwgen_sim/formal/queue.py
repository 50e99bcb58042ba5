"""rtl/sv/stream_fifo.sv: no word is lost, none comes twice, their order is kept."""

from types import ModuleType

from amaranth.hdl import Module, Mux, Signal

from .claims import Claim, Fault, Proof

BITS = 2


class Queue(Proof):
    """Beside the queue, the words that are in it, the oldest first."""

    def __init__(self, arrays: ModuleType, depth: int):
        self.arrays, self.depth = arrays, depth
        super().__init__({"wen": 1, "wdata": BITS, "ren": 1, "clear": 1}, ("only_what_was_written", "in_order", "after_two_cycles"),
                         ("room",))

    def watch(self, m: Module) -> None:
        rvalid, rdata, take = Signal(), Signal(BITS), Signal()
        m.submodules.fifo = self.arrays.stream_fifo(self.depth, rst=self.clear, wen=self.wen, wdata=self.wdata, ren=take, rvalid=rvalid,
                                                    rdata=rdata)
        words = [Signal(BITS, name=f"word{i}") for i in range(self.depth)]
        level, kept, waits = Signal(range(self.depth + 1)), Signal(range(self.depth + 1)), Signal(2)
        m.d.comb += [take.eq(self.ren & rvalid), kept.eq(level - take)]
        m.d.sync += [level.eq(Mux(self.clear, 0, kept + self.wen)), waits.eq(Mux((level != 0) & ~rvalid & ~self.clear, waits + 1, 0))]
        for i, word in enumerate(words):
            m.d.sync += word.eq(Mux(self.wen & (kept == i), self.wdata, Mux(take, words[min(i + 1, self.depth - 1)], word)))
        m.d.comb += [self.given_room.eq((kept != self.depth) | ~self.wen),
                     self.must_only_what_was_written.eq(~rvalid | (level != 0)),
                     self.must_in_order.eq(~rvalid | (rdata == words[0])),
                     self.must_after_two_cycles.eq(waits < 2)]


CLAIM = Claim(
    "a queue loses no word", "arrays", lambda arrays: Queue(arrays, 3), depth=9, induction=False, sv=("stream_fifo",),
    faults={"only_what_was_written": Fault("stream_fifo.sv", "if (fetch | ren)", "if (fetch)"),
            "in_order": Fault("stream_fifo.sv", "consume == LAST[AW-1:0]", "&consume"),
            "after_two_cycles": Fault("stream_fifo.sv", "level != 0 & (!rvalid | ren)", "level > 1 & (!rvalid | ren)")})
