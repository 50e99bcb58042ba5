"""AXI4 masters of the engine: the read DMA that feeds the vector stream, and the writer of output words.

Source: AMBA AXI protocol, IHI 0022, A3.2 (handshake), A3.4.1 (INCR bursts, 4 KB rule). One ID, so no ID ports; read data
and write responses come back in order.
"""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hwgen.engine import READ_BURSTS, burst_beats

from . import arrays

MAX_WRITES = 8            # bursts outstanding: an output word leaves now and then
PAGE_BYTES = 4096         # no burst crosses a multiple of this
INCR = 1                  # AxBURST


def _power_of_two(value):
    return value > 0 and value & (value - 1) == 0


class StreamDma(wiring.Component):
    """AXI4 read master -> stream of vectors: for each frame its input region, then the weight region, without a gap.

    Bursts are INCR, aligned to their longest length (``burst_beats``), so none crosses 4 KB. A burst is issued only when the
    FIFO has room for it (credits), so ``rready`` is always high. Up to ``read_bursts`` are outstanding: what is in flight must cover
    latency times bandwidth. Reading runs on into the next frame as far as the FIFO allows.

    start          pulse while idle: samples the settings below and begins; may come together with ``clear``
    frames         16: number of frames, 0 reads nothing
    input_addr 64    of the input of frame 0, a multiple of a beat
    input_stride 32  from the input of a frame to that of the next, a multiple of a beat
    input_bytes 32   of the input of a frame, a multiple of vector_bytes, may be 0
    weight_addr 64   of the weights, which are read again for each frame; a multiple of a beat
    weight_bytes 32  a multiple of vector_bytes, may be 0
    ar*, r*        AXI4 read channels, one ID
    vec_valid, vec_ready, vec_data   8 * vector_bytes, first byte in the low bits; data holds until taken
    idle           nothing outstanding and nothing more to read (vectors may still be in the FIFO)
    error          sticky: an ``rresp`` was not OKAY (its data is delivered all the same)
    abort          level: issue no more bursts, drop what is outstanding, then idle; needs ``clear`` before the next start
    clear          pulse while idle: empties FIFO and counters, clears error

    Beats past the end of a region's last vector are dropped: the stream has exactly bytes / vector_bytes vectors a region.
    One vector per cycle from the FIFO, which a burst fills with one beat per cycle; one bubble cycle between regions if a vector is
    shorter than a beat. From ``rvalid`` to ``vec_valid``: 3 cycles and the beats of the vector.
    Reset: idle, FIFO empty. Cost: one memory of fifo_beats x axi_data_bits, no DSP.
    """

    def __init__(self, axi_data_bits: int, vector_bytes: int, fifo_beats: int, read_bursts: int = READ_BURSTS):
        beat = axi_data_bits // 8
        if axi_data_bits % 8 or not _power_of_two(beat) or beat > 128:
            raise ValueError(f"axi_data_bits = {axi_data_bits} is not 8, 16, ... 1024")
        if not _power_of_two(vector_bytes):
            raise ValueError(f"vector_bytes = {vector_bytes} is not a power of two")
        if fifo_beats < 2 * max(1, vector_bytes // beat) or fifo_beats % max(1, vector_bytes // beat):
            raise ValueError(f"fifo_beats = {fifo_beats} is not at least 2 whole vectors")
        if read_bursts < 1:
            raise ValueError(f"read_bursts = {read_bursts} is less than 1")
        self.beat_bytes, self.vector_bytes, self.fifo_beats, self.read_bursts = beat, vector_bytes, fifo_beats, read_bursts
        self.burst_beats = burst_beats(fifo_beats)
        super().__init__({
            "start": In(1), "frames": In(16), "input_addr": In(64), "input_bytes": In(32), "input_stride": In(32),
            "weight_addr": In(64), "weight_bytes": In(32), "abort": In(1), "clear": In(1), "idle": Out(1), "error": Out(1),
            "arvalid": Out(1), "arready": In(1), "araddr": Out(64), "arlen": Out(8), "arsize": Out(3), "arburst": Out(2),
            "rvalid": In(1), "rready": Out(1), "rdata": In(axi_data_bits), "rresp": In(2), "rlast": In(1),
            "vec_valid": Out(1), "vec_ready": In(1), "vec_data": Out(8 * vector_bytes)})

    def elaborate(self, platform):
        m = Module()
        burst, beat = self.burst_beats, self.beat_bytes
        shift = beat.bit_length() - 1
        self.num_parts = num_parts = max(1, self.vector_bytes // beat)      # beats of an entry of the FIFO
        beat_in = Signal()
        self.pop = pop = Signal()
        self.entry_in = entry_in = Signal()
        self.entry_valid = entry_valid = Signal()
        entry = Signal(8 * beat * num_parts)
        entry_data = Signal(8 * beat * num_parts)
        m.submodules.fifo = arrays.stream_fifo(self.fifo_beats // num_parts, rst=ResetSignal() | self.clear, wen=entry_in, wdata=entry_data,
                                               ren=pop, rvalid=entry_valid, rdata=entry)

        # issue: regions alternate input, weight, input, ...; addresses count beats
        self.active = active = Signal()
        on_weight, frames_left = Signal(init=1), Signal(16)
        input_base, weight_base, addr = Signal(64 - shift), Signal(64 - shift), Signal(64 - shift)
        stride = Signal(32 - shift)
        input_beats, weight_beats, left = Signal(33 - shift), Signal(33 - shift), Signal(33 - shift)
        self.credit = credit = Signal(range(self.fifo_beats + 1), init=self.fifo_beats)
        self.outstanding = outstanding = Signal(range(self.read_bursts + 1))
        self.dropping = dropping = Signal()
        room, length = Signal(range(burst + 1)), Signal(range(burst + 1))
        issue, retire = Signal(), Signal()
        m.d.comb += [
            room.eq(burst - (addr & (burst - 1))),
            length.eq(Mux(left < room, left, room)),
            issue.eq(active & ~self.abort & ~dropping & (left != 0) & (credit >= burst) & (outstanding != self.read_bursts)
                     & (~self.arvalid | self.arready)),
            retire.eq(self.rvalid & self.rlast),
            self.arsize.eq(shift), self.arburst.eq(INCR), self.rready.eq(1),
            self.idle.eq(~active & ~self.arvalid & (outstanding == 0)),
            beat_in.eq(self.rvalid & ~dropping & ~self.abort),
        ]
        m.d.sync += [outstanding.eq(outstanding + issue - retire), credit.eq(credit - Mux(issue, length, 0) + Mux(pop, num_parts, 0))]
        if num_parts == 1:
            m.d.comb += [entry_data.eq(self.rdata), entry_in.eq(beat_in)]
        else:
            self.part = part = Signal(range(num_parts))
            held = Signal(8 * beat * (num_parts - 1))
            m.d.comb += [entry_data.eq(Cat(held, self.rdata)), entry_in.eq(beat_in & (part == num_parts - 1))]
            with m.If(beat_in):
                m.d.sync += part.eq(part + 1)
                for n in range(num_parts - 1):
                    with m.If(part == n):
                        m.d.sync += held[8 * beat * n:8 * beat * (n + 1)].eq(self.rdata)
            with m.If(self.clear):
                m.d.sync += part.eq(0)
        with m.If(self.arready):
            m.d.sync += self.arvalid.eq(0)
        with m.If(issue):
            m.d.sync += [self.arvalid.eq(1), self.araddr.eq(Cat(addr[:0], addr) << shift), self.arlen.eq(length - 1),
                         addr.eq(addr + length), left.eq(left - length)]
        with m.If(active & (left == 0)):
            with m.If(~on_weight):
                m.d.sync += [on_weight.eq(1), addr.eq(weight_base), left.eq(weight_beats)]
            with m.Elif(frames_left != 0):
                m.d.sync += [on_weight.eq(0), addr.eq(input_base), left.eq(input_beats), input_base.eq(input_base + stride),
                             frames_left.eq(frames_left - 1)]
            with m.Else():
                m.d.sync += active.eq(0)
        with m.If(self.rvalid & (self.rresp != 0)):
            m.d.sync += self.error.eq(1)
        with m.If(self.clear):
            m.d.sync += [self.error.eq(0), dropping.eq(0), credit.eq(self.fifo_beats)]
        with m.If(self.abort):
            m.d.sync += [dropping.eq(1), active.eq(0), left.eq(0)]
        with m.Elif(self.start):
            m.d.sync += [active.eq(1), on_weight.eq(1), left.eq(0), frames_left.eq(self.frames), stride.eq(self.input_stride >> shift),
                         input_base.eq(self.input_addr >> shift), weight_base.eq(self.weight_addr >> shift),
                         input_beats.eq((self.input_bytes + (beat - 1)) >> shift),
                         weight_beats.eq((self.weight_bytes + (beat - 1)) >> shift)]
        if self.vector_bytes < beat:
            self._split_beats(m, entry_valid, entry, pop)
        else:
            self._whole_entries(m, entry_valid, entry, pop)
        return m

    def _whole_entries(self, m, entry_valid, entry, pop):
        """An entry of the FIFO is a vector."""
        m.d.comb += pop.eq(entry_valid & (~self.vec_valid | self.vec_ready))
        with m.If(self.vec_ready):
            m.d.sync += self.vec_valid.eq(0)
        with m.If(pop):
            m.d.sync += [self.vec_valid.eq(1), self.vec_data.eq(entry)]
        with m.If(self.clear):
            m.d.sync += self.vec_valid.eq(0)

    def _split_beats(self, m, entry_valid, entry, pop):
        """A beat is several vectors; the vectors of a region are counted, so that the rest of its last beat is dropped."""
        num_parts = self.beat_bytes // self.vector_bytes
        shift = self.vector_bytes.bit_length() - 1
        frames_left, on_weight = Signal(16), Signal(init=1)
        input_vectors, weight_vectors, left = Signal(32 - shift), Signal(32 - shift), Signal(32 - shift)
        part = Signal(range(num_parts))
        take = Signal()
        m.d.comb += [take.eq(entry_valid & (left != 0) & (~self.vec_valid | self.vec_ready)),
                     pop.eq(take & ((part == num_parts - 1) | (left == 1)))]
        with m.If(self.vec_ready):
            m.d.sync += self.vec_valid.eq(0)
        with m.If(take):
            m.d.sync += [self.vec_valid.eq(1), self.vec_data.eq(entry.word_select(part, 8 * self.vector_bytes)),
                         part.eq(Mux(pop, 0, part + 1)), left.eq(left - 1)]
        with m.If(left == 0):
            with m.If(~on_weight):
                m.d.sync += [on_weight.eq(1), left.eq(weight_vectors)]
            with m.Elif(frames_left != 0):
                m.d.sync += [on_weight.eq(0), left.eq(input_vectors), frames_left.eq(frames_left - 1)]
        with m.If(self.clear):
            m.d.sync += [self.vec_valid.eq(0), part.eq(0), left.eq(0), frames_left.eq(0), on_weight.eq(1)]
        with m.If(self.start & ~self.abort):
            m.d.sync += [frames_left.eq(self.frames), on_weight.eq(1), left.eq(0), input_vectors.eq(self.input_bytes >> shift),
                         weight_vectors.eq(self.weight_bytes >> shift)]


class OutputWriter(wiring.Component):
    """Words -> AXI4 write bursts at rising addresses, frame f from out_addr + f * out_stride on.

    start          pulse while idle: out_addr and out_stride are sampled, frame 0 begins
    out_addr 64    where frame 0 goes, a multiple of a beat
    out_stride 32  from a frame to the next, a multiple of a beat
    in_valid, in_data   one word of word_bits per cycle; the sender looks at ``free`` first, a word without room is lost
    free           words the queue can take
    next_frame     pulse with or after the last word of a frame: following words go to the next frame
    aw*, w*, b*    AXI4 write channels, one ID, ``wstrb`` all ones
    idle           queue empty and every response received
    error          sticky: a ``bresp`` was not OKAY
    clear          pulse while idle: clears error and counters

    A word is one INCR burst of word_bits / axi_data_bits beats; a word that would cross 4 KB (only if its size is no power
    of two or its address is not aligned to it) is two. Addresses are computed as words are pushed, so frames may follow at
    once. AW and W run independently, W data never before its address is offered. Up to ``write_bursts`` outstanding; one beat per cycle.
    From ``in_valid`` to ``awvalid`` 3 cycles, to the first ``wvalid`` 4. Reset: idle, queue empty.
    Cost: one memory of fifo_words x word_bits, one of fifo_words x 64.
    """

    def __init__(self, axi_data_bits: int, word_bits: int, fifo_words: int, write_bursts: int = MAX_WRITES):
        beat = axi_data_bits // 8
        if axi_data_bits % 8 or not _power_of_two(beat) or beat > 128:
            raise ValueError(f"axi_data_bits = {axi_data_bits} is not 8, 16, ... 1024")
        if word_bits % axi_data_bits or not 0 < word_bits // axi_data_bits <= 256 or word_bits // 8 > PAGE_BYTES:
            raise ValueError(f"word_bits = {word_bits} is not 1 to 256 beats of {axi_data_bits} bits within 4 KB")
        if fifo_words < 2:
            raise ValueError(f"fifo_words = {fifo_words} is less than 2")
        if write_bursts < 1:
            raise ValueError(f"write_bursts = {write_bursts} is less than 1")
        self.beat_bytes, self.num_beats, self.fifo_words, self.write_bursts = beat, word_bits // axi_data_bits, fifo_words, write_bursts
        super().__init__({
            "start": In(1), "out_addr": In(64), "out_stride": In(32), "in_valid": In(1), "in_data": In(word_bits),
            "free": Out(range(fifo_words + 1)), "next_frame": In(1), "idle": Out(1), "error": Out(1), "clear": In(1),
            "awvalid": Out(1), "awready": In(1), "awaddr": Out(64), "awlen": Out(8), "awsize": Out(3), "awburst": Out(2),
            "wvalid": Out(1), "wready": In(1), "wdata": Out(axi_data_bits), "wstrb": Out(beat), "wlast": Out(1),
            "bvalid": In(1), "bready": Out(1), "bresp": In(2)})

    def elaborate(self, platform):
        m = Module()
        beat, num_beats = self.beat_bytes, self.num_beats
        shift = beat.bit_length() - 1
        page_beats = PAGE_BYTES // beat
        width = len(self.in_data)

        # push side: addresses in beats; `first` = beats of the first burst, all unless the word crosses 4 KB
        addr, base, stride, next_base = Signal(64 - shift), Signal(64 - shift), Signal(32 - shift), Signal(64 - shift)
        to_page, first = Signal(range(page_beats + 1)), Signal(range(num_beats + 1))
        m.d.comb += [next_base.eq(base + stride), to_page.eq(page_beats - (addr & (page_beats - 1))),
                     first.eq(Mux(to_page < num_beats, to_page, num_beats))]
        words = SyncFIFOBuffered(width=width + len(first), depth=self.fifo_words)
        addrs = SyncFIFOBuffered(width=len(addr) + len(first), depth=self.fifo_words)
        m.submodules.words = ResetInserter(self.clear)(words)       # queue of words that wait for the bus, with the beats of their first burst
        m.submodules.addrs = ResetInserter(self.clear)(addrs)       # queue of their addresses in beats, with the same
        num_words, num_addrs = Signal(range(self.fifo_words + 1)), Signal(range(self.fifo_words + 1))
        push = Signal()
        m.d.comb += [self.free.eq(self.fifo_words - Mux(num_words > num_addrs, num_words, num_addrs)),
                     push.eq(self.in_valid & (self.free != 0)), words.w_en.eq(push), addrs.w_en.eq(push),
                     words.w_data.eq(Cat(self.in_data, first)), addrs.w_data.eq(Cat(addr, first))]
        with m.If(push):
            m.d.sync += addr.eq(addr + num_beats)
        with m.If(self.next_frame):
            m.d.sync += [addr.eq(next_base), base.eq(next_base)]
        with m.If(self.start):
            m.d.sync += [addr.eq(self.out_addr >> shift), base.eq(self.out_addr >> shift), stride.eq(self.out_stride >> shift)]
        m.d.sync += [num_words.eq(num_words + push - words.r_en), num_addrs.eq(num_addrs + push - addrs.r_en)]

        # AW
        outstanding, ahead = Signal(range(self.write_bursts + 1)), Signal(range(self.write_bursts + 1))
        second, offer, retire, begin = Signal(), Signal(), Signal(), Signal()
        aw_addr, aw_first = addrs.r_data[:len(addr)], addrs.r_data[len(addr):]
        split = aw_first != num_beats
        m.d.comb += [offer.eq(addrs.r_rdy & (~self.awvalid | self.awready) & (outstanding != self.write_bursts)),
                     addrs.r_en.eq(offer & (second | ~split)), retire.eq(self.bvalid),
                     self.awsize.eq(shift), self.awburst.eq(INCR), self.bready.eq(1), self.wstrb.eq((1 << beat) - 1)]
        with m.If(self.awready):
            m.d.sync += self.awvalid.eq(0)
        with m.If(offer):
            m.d.sync += [self.awvalid.eq(1), second.eq(~second & split),
                         self.awaddr.eq(Mux(second, aw_addr + aw_first, aw_addr) << shift),
                         self.awlen.eq(Mux(second, num_beats - aw_first, aw_first) - 1)]
        m.d.sync += [outstanding.eq(outstanding + offer - retire), ahead.eq(ahead + offer - begin)]

        # W
        part = Signal(range(num_beats + 1))
        w_first = words.r_data[width:]
        head, beat_out = Signal(), Signal()
        m.d.comb += [head.eq((part == 0) | (part == w_first)),
                     beat_out.eq(words.r_rdy & (~self.wvalid | self.wready) & (~head | (ahead != 0))),
                     begin.eq(beat_out & head), words.r_en.eq(beat_out & (part == num_beats - 1))]
        with m.If(self.wready):
            m.d.sync += self.wvalid.eq(0)
        with m.If(beat_out):
            m.d.sync += [self.wvalid.eq(1), self.wdata.eq(words.r_data[:width].word_select(part, 8 * beat)),
                         self.wlast.eq((part == num_beats - 1) | (part + 1 == w_first)),
                         part.eq(Mux(part == num_beats - 1, 0, part + 1))]

        m.d.comb += self.idle.eq((num_words == 0) & (num_addrs == 0) & (outstanding == 0) & ~self.awvalid & ~self.wvalid)
        with m.If(self.bvalid & (self.bresp != 0)):
            m.d.sync += self.error.eq(1)
        with m.If(self.clear):
            m.d.sync += [self.error.eq(0), num_words.eq(0), num_addrs.eq(0), ahead.eq(0), part.eq(0), second.eq(0)]
        return m
