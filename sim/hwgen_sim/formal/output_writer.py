"""hwgen_rtl.axi.OutputWriter: bursts as AXI says, no word lost, none made up."""

from types import ModuleType

from amaranth.hdl import Module, Mux, Signal

from .claims import Claim, Fault, Opened, Proof

BITS, WORD_BEATS, WORDS, BURSTS = 32, 3, 2, 2          # a word of three beats crosses a page now and then
PAGE_BEATS = 4096 // (BITS // 8)


class OutputWriter(Proof):
    """``chosen`` is the number of any burst and of any word: the burst's length by its address is that of its data, the word leaves as it
    came."""

    def __init__(self, axi: ModuleType):
        self.writer = axi.OutputWriter(BITS, WORD_BEATS * BITS, WORDS, BURSTS)
        super().__init__(
            {"start": 1, "out_addr": 64, "out_stride": 32, "in_valid": 1, "in_data": WORD_BEATS * BITS, "next_frame": 1, "clear": 1,
             "awready": 1, "wready": 1, "bvalid": 1, "bresp": 2, "chosen": 5},
            ("address_stable", "data_stable", "within_a_page", "data_behind_its_address", "as_long_as_asked", "every_word", "outstanding",
             "idle"),
            ("room", "answer", "start_when_idle"), ("chosen",))

    def watch(self, m: Module) -> None:
        writer = self.writer
        m.submodules.writer = Opened(writer)
        for name in self.free.keys() - {"chosen"}:
            m.d.comb += getattr(writer, name).eq(getattr(self, name))
        address, data = writer.awvalid & writer.awready, writer.wvalid & writer.wready
        offered, begun, answered, pushed = (Signal(5, name=name) for name in ("offered", "begun", "answered", "pushed"))
        asked, sent = Signal(), Signal()                            # the chosen burst's address was offered, its data have begun
        length, count, total = Signal(9), Signal(9), Signal(8)
        was_address, was_data = Signal(), Signal()
        before = Signal(64 + 8), Signal(BITS + 1)
        m.d.sync += [was_address.eq(writer.awvalid & ~writer.awready), was_data.eq(writer.wvalid & ~writer.wready),
                     before[0].eq(writer.awaddr << 8 | writer.awlen), before[1].eq(Mux(writer.wlast, 1 << BITS, 0) | writer.wdata)]
        m.d.sync += [offered.eq(offered + address), begun.eq(begun + (data & writer.wlast)), answered.eq(answered + (self.bvalid)),
                     pushed.eq(pushed + (self.in_valid & (writer.free != 0))), total.eq(total + data)]
        with m.If(address & (offered == self.chosen)):
            m.d.sync += [asked.eq(1), length.eq(writer.awlen + 1)]
        with m.If(data & (begun == self.chosen)):
            m.d.sync += count.eq(count + 1)
            with m.If(writer.wlast):
                m.d.sync += sent.eq(1)
        word, beat = Signal(WORD_BEATS * BITS), Signal(8)
        m.d.comb += beat.eq(total - WORD_BEATS * self.chosen)
        with m.If(self.in_valid & (pushed == self.chosen)):
            m.d.sync += word.eq(self.in_data)
        done = Mux(begun < offered, begun, offered)
        place = writer.awaddr[(BITS // 8).bit_length() - 1:12]
        m.d.comb += [
            self.given_room.eq(~self.in_valid | (writer.free != 0)), self.given_answer.eq(~self.bvalid | (answered < done)),
            self.given_start_when_idle.eq(writer.idle & ~self.in_valid | ~(self.start | self.clear)),
            self.must_address_stable.eq(~was_address | (writer.awvalid & (before[0] == (writer.awaddr << 8 | writer.awlen)))),
            self.must_data_stable.eq(~was_data | (writer.wvalid & (before[1] == (Mux(writer.wlast, 1 << BITS, 0) | writer.wdata)))),
            self.must_within_a_page.eq(~writer.awvalid | (place + writer.awlen < PAGE_BEATS)),
            self.must_data_behind_its_address.eq(~writer.wvalid | (begun < offered + writer.awvalid)),
            self.must_as_long_as_asked.eq(~(asked & sent) | (length == count)),
            self.must_every_word.eq(~writer.wvalid | (beat >= WORD_BEATS) | (writer.wdata == word.word_select(beat[:2], BITS))),
            self.must_outstanding.eq(offered + writer.awvalid - answered <= BURSTS),
            self.must_idle.eq(~writer.idle | ((offered == begun) & (begun == answered)))]


CLAIM = Claim(
    "what is written is written as AXI says, and whole", "axi", OutputWriter, depth=9, induction=False,
    faults={"address_stable": Fault("axi.py", "offer.eq(addrs.r_rdy & (~self.awvalid | self.awready)", "offer.eq(addrs.r_rdy"),
            "data_stable": Fault("axi.py", "beat_out.eq(words.r_rdy & (~self.wvalid | self.wready)", "beat_out.eq(words.r_rdy"),
            "within_a_page": Fault("axi.py", "first.eq(Mux(to_page < num_beats, to_page, num_beats))", "first.eq(num_beats)"),
            "data_behind_its_address": Fault("axi.py", "(~head | (ahead != 0))", "1"),
            "as_long_as_asked": Fault("axi.py", "(part == num_beats - 1) | (part + 1 == w_first)", "part == num_beats - 1"),
            "every_word": Fault("axi.py", "words.r_data[:width].word_select(part,", "words.r_data[:width].word_select(0,"),
            "outstanding": Fault("axi.py", " & (outstanding != self.write_bursts)", ""),
            "idle": Fault("axi.py", "(num_addrs == 0) & (outstanding == 0) &", "(num_addrs == 0) &")})
