"""hwgen_rtl.axi.StreamDma: the rules of AXI for read requests, and that what comes back has a place.

The memory answers in order and as AXI says; how late, and what it answers, is its own affair. The queue behind is left out: it may show a
word whenever there is one (queue.py proves that it never shows more).
"""

from types import ModuleType

from amaranth.hdl import Module, Mux, Signal

from .claims import Claim, Fault, Opened, Proof

BITS, VECTOR_BYTES, FIFO_BEATS, BURSTS = 32, 8, 16, 2
PAGE_BEATS = 4096 // (BITS // 8)
STUB = """module stream_fifo #(parameter [31:0] W = 64, parameter [31:0] DEPTH = 16)
  (input clk, input rst, input wen, input [W-1:0] wdata, input ren, output rvalid, output [W-1:0] rdata);
  (* anyseq *) wire any_valid;
  (* anyseq *) wire [W-1:0] any_data;
  assign rvalid = any_valid;
  assign rdata = any_data;
endmodule
"""


class ReadDma(Proof):
    def __init__(self, axi: ModuleType):
        self.dma = axi.StreamDma(BITS, VECTOR_BYTES, FIFO_BEATS, BURSTS)
        settings = {name: member.shape for name, member in self.dma.signature.members.items()
                    if name in ("frames", "input_addr", "input_bytes", "input_stride", "weight_addr", "weight_bytes")}
        super().__init__(
            {**settings, "start": 1, "clear": 1, "abort": 1, "arready": 1, "rvalid": 1, "rresp": 2, "rdata": BITS, "vec_ready": 1},
            ("request_stable", "within_a_page", "length", "outstanding", "beats_have_a_place", "words_have_a_place", "vector_stable", "idle",
             "dropped_until_clear"),
            ("answer", "start_when_idle", "fifo"))

    def watch(self, m: Module) -> None:
        dma = self.dma
        m.submodules.dma = Opened(dma)
        for name in self.free:
            m.d.comb += getattr(dma, name).eq(getattr(self, name))
        asked, answered = dma.arvalid & dma.arready, Signal()

        # the memory: lengths of the bursts it has been asked for, the oldest first, less what it has sent of that one
        lengths = [Signal(range(dma.burst_beats + 1), name=f"length{i}") for i in range(BURSTS + 1)]
        bursts, kept, last = Signal(range(BURSTS + 2)), Signal(range(BURSTS + 2)), Signal()
        m.d.comb += [last.eq(lengths[0] == 1), dma.rlast.eq(last), self.given_answer.eq(~self.rvalid | (bursts != 0)),
                     answered.eq(self.rvalid & last), kept.eq(bursts - answered)]
        m.d.sync += bursts.eq(kept + asked)
        for i, length in enumerate(lengths):
            after = lengths[min(i + 1, BURSTS)]
            stays = Mux(answered, after, length - self.rvalid if i == 0 else length)
            m.d.sync += length.eq(Mux(asked & (kept == i), dma.arlen + 1, stays))
        coming = sum(Mux(bursts > i, length, 0) for i, length in enumerate(lengths)) + Mux(dma.arvalid, dma.arlen + 1, 0)

        # words in the queue
        words = Signal(range(FIFO_BEATS // dma.num_parts + 2))
        m.d.sync += words.eq(Mux(self.clear, 0, words + dma.entry_in - dma.pop))
        m.d.comb += self.given_fifo.eq(~dma.entry_valid | (words != 0))

        waiting, again, vector_waits = Signal(), Signal(), Signal()
        before = Signal(64 + 8), Signal(8 * VECTOR_BYTES)
        m.d.sync += [waiting.eq(dma.arvalid & ~dma.arready), before[0].eq(dma.araddr << 8 | dma.arlen),
                     vector_waits.eq(dma.vec_valid & ~dma.vec_ready & ~self.clear), before[1].eq(dma.vec_data)]
        with m.If(self.clear):              # a run that was broken off begins anew with a clear
            m.d.sync += again.eq(self.abort)
        with m.Elif(self.abort):
            m.d.sync += again.eq(1)
        m.d.comb += self.given_start_when_idle.eq((dma.idle | ~(self.start | self.clear)) & (~again | self.clear | ~self.start))
        beats = dma.arlen + 1
        place = dma.araddr[(BITS // 8).bit_length() - 1:12]
        m.d.comb += [
            self.must_request_stable.eq(~waiting | (dma.arvalid & (before[0] == (dma.araddr << 8 | dma.arlen)))),
            self.must_within_a_page.eq(~dma.arvalid | (place + beats <= PAGE_BEATS)),
            self.must_length.eq(~dma.arvalid | (beats <= dma.burst_beats)),
            self.must_outstanding.eq((dma.outstanding == bursts + dma.arvalid) & (dma.outstanding <= BURSTS)
                                     & ~((lengths[0] == 0) & (bursts > 0)) & ~((lengths[1] == 0) & (bursts > 1))),
            self.must_beats_have_a_place.eq(Mux(dma.dropping, 1, dma.credit + coming + words * dma.num_parts + dma.part == FIFO_BEATS)),
            self.must_words_have_a_place.eq(words <= FIFO_BEATS // dma.num_parts),
            self.must_vector_stable.eq(~vector_waits | (dma.vec_valid & (before[1] == dma.vec_data))),
            self.must_idle.eq(~dma.idle | (~dma.arvalid & (bursts == 0))),
            self.must_dropped_until_clear.eq(dma.dropping == again)]


CLAIM = Claim(
    "a read is asked for as AXI says, and its beats have a place", "axi", ReadDma, depth=2, induction=True, stubs={"stream_fifo": STUB},
    faults={"request_stable": Fault("axi.py", "& (~self.arvalid | self.arready)),\n            retire", "),\n            retire"),
            "within_a_page": Fault("axi.py", "room.eq(burst - (addr & (burst - 1)))", "room.eq(burst)"),
            "length": Fault("axi.py", "self.arlen.eq(length - 1)", "self.arlen.eq(20)"),
            "outstanding": Fault("axi.py", "(credit >= burst) & (outstanding != self.read_bursts)", "(credit >= burst)"),
            "beats_have_a_place": Fault("axi.py", "(credit >= burst)", "(credit != 0)"),
            "words_have_a_place": Fault("axi.py", "beat_in.eq(self.rvalid & ~dropping & ~self.abort)", "beat_in.eq(self.rvalid)"),
            "vector_stable": Fault("axi.py", "pop.eq(entry_valid & (~self.vec_valid | self.vec_ready))", "pop.eq(entry_valid)"),
            "idle": Fault("axi.py", "self.idle.eq(~active & ~self.arvalid & (outstanding == 0))", "self.idle.eq(~active & ~self.arvalid)"),
            "dropped_until_clear": Fault("axi.py", "dropping.eq(0), credit", "credit")})
