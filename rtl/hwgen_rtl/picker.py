"""The choice of tokens: those with the largest scores of a sequence, as a list of their numbers."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

GROUP = 8                # comparisons that are added up in a cycle
STAGES = 11              # from the address of a word of scores to the place of a token in the list


def before(lane, own):
    """Whether a lane of the word in which a token's own score stands is in front of it: it wins a tie."""
    return lane < own


class Picker(wiring.Component):
    """Scores in, numbers of tokens out: numerics.best, bit for bit.

    start        pulse: ``keep``, ``first``, ``base``, ``ranked`` and ``by_row`` are taken; no scores are there
    keep 16      tokens that go on
    first 16     number of the first token
    base 16      word of the list where it starts
    ranked       the list is in the order of the scores
    by_row       scores come a word of them at a time
    valid, index 16, count 7, data   the int16 score of token ``index`` in lane 0; with ``by_row`` word ``index`` of the scores, ``count`` of its
                 lanes
    last         with the last of them, or behind it
    write, address 16, word   to the list memory: To numbers of 16 bits
    done         pulse: the list is written

    Every score is compared with each word of scores, one word a cycle: that many are greater, or equal and in front, is its place. Behind the
    last score tokens x words + keep + `STAGES` + 4 cycles, words of ``lanes`` scores. Reset: none needed, ``start`` is one. Cost: two memories of
    max_tokens x 16 bits, the one of scores with two ports to read; a comparison of 16 bits a lane.
    """

    def __init__(self, lanes: int, to: int, max_tokens: int):
        self.lanes, self.to, self.max_tokens = lanes, to, max_tokens
        super().__init__({
            "start": In(1), "keep": In(16), "first": In(16), "base": In(16), "ranked": In(1), "by_row": In(1),
            "valid": In(1), "index": In(16), "count": In(7), "data": In(16 * lanes), "last": In(1),
            "write": Out(1), "address": Out(16), "word": Out(16 * to), "done": Out(1)})

    def elaborate(self, platform):
        m = Module()
        lanes, bits = self.lanes, (self.lanes - 1).bit_length()
        keep, first, base, ranked, by_row = Signal(16), Signal(16), Signal(16), Signal(), Signal()
        total, final = Signal(16), Signal(16)           # scores, and the last of their numbers
        m.submodules.scores = scores = Memory(shape=16 * lanes, depth=max(2, -(-self.max_tokens // lanes)), init=[])
        store, words, owns = scores.write_port(granularity=16), scores.read_port(), scores.read_port()
        with m.If(self.start):
            m.d.sync += [keep.eq(self.keep), first.eq(self.first), base.eq(self.base), ranked.eq(self.ranked), by_row.eq(self.by_row), total.eq(0)]
        with m.Elif(self.valid):
            m.d.sync += total.eq(total + Mux(by_row, self.count, 1))
        m.d.comb += [store.addr.eq(Mux(by_row, self.index, self.index >> bits)),
                     store.data.eq(Mux(by_row, self.data, self.data[:16].replicate(lanes))),
                     store.en.eq(Mux(self.valid, Mux(by_row, (1 << lanes) - 1, 1 << self.index[:bits]), 0)), final.eq(total - 1)]

        # token by token, word by word: the addresses
        run, token, word = Signal(), Signal(16), Signal(16)
        turn, end = Signal(), Signal()
        m.d.comb += [turn.eq(word == final >> bits), end.eq(turn & (token == final)), words.addr.eq(word), owns.addr.eq(token >> bits)]
        with m.If(self.last):
            m.d.sync += [run.eq(1), token.eq(0), word.eq(0)]
        with m.Elif(run):
            m.d.sync += [word.eq(Mux(turn, 0, word + 1)), token.eq(token + turn), run.eq(~end)]

        # what goes along with a word: whether it is there, the first and the last of the token, behind which all is done; token; and the word's
        # place beside the token's own
        flags = [Cat(run, word == 0, turn, end, word == token >> bits, word < token >> bits, token)]
        for stage in range(STAGES - 1):
            after = Signal(len(flags[0]), name=f"flags{stage + 1}")
            m.d.sync += after.eq(Mux(self.start, 0, flags[-1]))
            flags.append(after)
        word2, own2, word3, own3 = Signal(16 * lanes), Signal(16 * lanes), Signal(16 * lanes), Signal(signed(16))
        greater4, equal4, there4, front4, counted5 = (Signal(lanes, name=name) for name in ("greater4", "equal4", "there4", "front4", "counted5"))
        m.d.sync += [word2.eq(words.data), own2.eq(owns.data), word3.eq(word2),
                     own3.eq(Array(own2.word_select(lane, 16) for lane in range(lanes))[flags[2][6:6 + bits]])]
        same3, less3, own_lane3 = flags[3][4], flags[3][5], flags[3][6:6 + bits]
        for lane in range(lanes):
            score = word3.word_select(lane, 16).as_signed()
            m.d.sync += [greater4[lane].eq(score > own3), equal4[lane].eq(score == own3), there4[lane].eq(~flags[3][2] | (lane <= final[:bits])),
                         front4[lane].eq(less3 | same3 & before(lane, own_lane3))]
        m.d.sync += counted5.eq(there4 & (greater4 | equal4 & front4))
        parts6, sum7, rank8 = [], Signal(7), Signal(16)
        for group in range(0, lanes, GROUP):
            part = Signal(4, name=f"part{group}")
            m.d.sync += part.eq(sum(counted5[group:group + GROUP]))
            parts6.append(part)
        m.d.sync += [sum7.eq(sum(parts6)), rank8.eq(Mux(flags[7][1], 0, rank8) + sum7)]

        # the token's place in the list, if it has one
        chosen9, place9, number9, kept = Signal(), Signal(16), Signal(16), Signal(16)
        m.d.sync += [chosen9.eq(flags[8][0] & flags[8][2] & (rank8 < keep)), place9.eq(rank8), number9.eq(first + flags[8][6:])]
        with m.If(self.start):
            m.d.sync += kept.eq(0)
        with m.Elif(chosen9):
            m.d.sync += kept.eq(kept + 1)
        m.submodules.order = order = Memory(shape=16, depth=max(2, self.max_tokens), init=[])
        put, get = order.write_port(), order.read_port()
        m.d.comb += [put.addr.eq(Mux(ranked, place9, kept)), put.data.eq(number9), put.en.eq(chosen9)]

        # the list, in words of To numbers
        copy, place, lane, full = Signal(), Signal(16), Signal(range(self.to)), Signal()
        copy1, lane1, full1, last1 = Signal(), Signal(range(self.to)), Signal(), Signal()
        last2, written = Signal(), Signal(16)
        m.d.comb += [get.addr.eq(place), full.eq((lane == self.to - 1) | (place == keep - 1)), self.address.eq(base + written)]
        with m.If(flags[STAGES - 1][0] & flags[STAGES - 1][3]):
            m.d.sync += [copy.eq(1), place.eq(0), lane.eq(0), written.eq(0)]
        with m.Elif(copy):
            m.d.sync += [place.eq(place + 1), lane.eq(Mux(lane == self.to - 1, 0, lane + 1)), copy.eq(place != keep - 1)]
        m.d.sync += [copy1.eq(copy), lane1.eq(lane), full1.eq(copy & full), last1.eq(copy & (place == keep - 1)),
                     self.write.eq(full1), last2.eq(last1), self.done.eq(last2)]
        with m.If(copy1):
            m.d.sync += self.word.word_select(lane1, 16).eq(get.data)
        with m.If(self.write):
            m.d.sync += written.eq(written + 1)
        return m
