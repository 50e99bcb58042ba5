"""Cores of rows and of elements: activation, softmax, norm, router."""

from amaranth.hdl import C, Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen import numerics

from .. import arrays
from ..coefficients import MEAN_BITS, SUM_BITS, NormCoefficients, SoftmaxFactor
from .streams import SLACK, Lanes, Queue, idle_drain, idle_feed, late, position, receive, receive_rows, send, stream_ports

DRAIN, STATISTICS, FEED, PSUM = 8, 9, 3, 5          # cycles from the input of the lanes to their results


def drain(m: Module, lanes: int, name: str, config=None, **inputs):
    """rtl/sv/drain_lanes.sv with these inputs, all others idle; its outputs by name."""
    widths = {"out_valid": 1, "out_word": 32 * lanes, "valid8": 1, "word8": 8 * lanes, "word16": 16 * lanes, "d_sum": signed(32),
              "d_squares": signed(48), "lane_max": signed(16)}
    outputs = {key: Signal(width, name=f"{name}_{key}") for key, width in widths.items()}
    m.submodules[name] = arrays.drain_lanes(config or Lanes(lanes), **idle_drain(lanes) | inputs, **outputs)
    return outputs


class Core(wiring.Component):
    """A core with one stream in and one out, of ``lanes`` elements a word; one word a cycle.

    s_axis_*, m_axis_*   AXI4-Stream: a word is taken in a cycle with tvalid and tready; tlast with the last word of a row
    error                with ``rows``: a tlast came elsewhere than with the last word of a row; stays until the reset. Else tlast goes along
    """

    def __init__(self, p, bits_in: int, bits_out: int, rows: bool = False):
        self.p = p
        super().__init__({**stream_ports("s_axis", In, bits_in), **stream_ports("m_axis", Out, bits_out), **({"error": Out(1)} if rows else {})})


class Activation(Core):
    """An element-wise function by its table: f(x) in units of the result (numerics.activation, numerics.requantize).

    10 cycles from a word to its result. Cost: the activation path of ``lanes`` drain lanes, a queue of 16 words.
    """

    def __init__(self, p):
        super().__init__(p, 16 * p.lanes, p.out_bits * p.lanes)

    def elaborate(self, platform):
        m = Module()
        p = self.p
        results = Queue(m, "results", p.out_bits * p.lanes + 1, SLACK)
        taken = receive(m, self, results.room)
        wide = p.out_bits == 16
        config = Lanes(p.lanes, activation=p.function, wide=wide)
        data = [self.s_axis_tdata.word_select(g, 16) for g in range(p.lanes)]
        acc = Cat(Cat(x, x[15].replicate(16)) for x in data)
        out = drain(m, p.lanes, "function_unit", config, valid=taken, acc=acc, mult=C(1 << 15, 16), shift=C(15, 6), to16=C(1, 1), act=C(1, 1),
                    frac=C(numerics.PRE_ACT_FRACS.index(p.frac), 2), second=C(1, 1), mult2=C(p.mult, 16), shift2=C(p.shift, 6),
                    plane=C(1 if wide else 0, 2))
        last_late, = late(m, "last_line", DRAIN, self.s_axis_tlast)
        m.d.comb += [results.take.eq(taken), results.push.eq(out["valid8"]), results.data.eq(Cat(out["word16" if wide else "word8"], last_late))]
        send(m, self, results)
        return m


class Softmax(Core):
    """Softmax of rows: maximum and exponentials in two passes through queues, the one division of a row in a third.

    From the first word of a row to its first result: 33 cycles and two for each word of a row. Cost: ``lanes`` feed lanes, the product of as
    many drain lanes, a maximum of lanes, two queues of a row, the reciprocal.
    """

    def __init__(self, p):
        super().__init__(p, 16 * p.lanes, p.out_bits * p.lanes, rows=True)

    def elaborate(self, platform):
        m = Module()
        p, lanes = self.p, self.p.lanes
        scores = Queue(m, "scores", 16 * lanes, p.words + SLACK)
        tops = Queue(m, "tops", 16, SLACK)
        shares = Queue(m, "shares", 8 * lanes, p.words + SLACK)
        factors = Queue(m, "factors", 22, SLACK)
        results = Queue(m, "results", p.out_bits * lanes + 1, SLACK)

        # a word in: its largest lane, and the row's
        taken, first, last = receive_rows(m, self, p.words, scores.room & tops.room)
        seen = drain(m, lanes, "maximum_unit", valid=taken, stream=C(1, 1), data=self.s_axis_tdata, to16=C(1, 1))
        first_late, last_late, valid_late = late(m, "maximum_line", STATISTICS, first, last, taken)
        top, best = Signal(signed(16)), Signal(signed(16))
        m.d.comb += [best.eq(seen["lane_max"]), scores.take.eq(taken), scores.push.eq(seen["valid8"]), scores.data.eq(seen["word16"]),
                     tops.take.eq(taken & first), tops.push.eq(valid_late & last_late), tops.data.eq(best)]
        with m.If(~first_late & (top > seen["lane_max"])):
            m.d.comb += best.eq(top)
        with m.If(valid_late):
            m.d.sync += top.eq(best)

        # the row's exponentials and their sum
        starts, ends, go = Signal(), Signal(), Signal()
        first, last = position(m, "exp", p.words, go)
        m.d.comb += [go.eq(scores.valid & tops.valid & shares.room & factors.room), starts.eq(go & first), ends.eq(go & last),
                     scores.pop.eq(go), tops.pop.eq(ends), shares.take.eq(go), factors.take.eq(starts)]
        a, b, psum = Signal(8 * lanes), Signal(16 * lanes), Signal(32)
        half = 1 << max(0, p.frac - numerics.EXP_FRAC) >> 1
        inputs = idle_feed(lanes) | {"mode": C(2, 2), "frac": C(numerics.SCORE_FRACS.index(p.frac), 2)}
        m.submodules.feed_unit = arrays.feed_lanes(Lanes(lanes), a=a, b=b, psum=psum, valid=go, score=scores.head,
                                               **{k: v for k, v in inputs.items() if k not in ("score", "top")},
                                               top=(tops.head.as_signed() + half)[:17])
        go_late, = late(m, "share_line", FEED, go)
        m.d.comb += [shares.push.eq(go_late), shares.data.eq(a ^ C(int("80" * lanes, 16), 8 * lanes))]
        summed, sum_starts, sum_ends = late(m, "sum_line", PSUM, go, starts, ends)
        total, row_sum = Signal(SUM_BITS), Signal(SUM_BITS)
        m.d.comb += row_sum.eq(psum)
        with m.If(~sum_starts):
            m.d.comb += row_sum.eq(psum + total)
        with m.If(summed):
            m.d.sync += total.eq(row_sum)
        m.submodules.factor = factor = SoftmaxFactor()
        m.d.comb += [factor.row_sum.eq(row_sum), factor.mult.eq(p.mult), factor.shift.eq(p.shift)]
        known, = late(m, "factor_line", SoftmaxFactor.LATENCY, sum_ends)
        m.d.comb += [factors.push.eq(known), factors.data.eq(Cat(factor.multiplier, factor.out_shift))]

        # divided
        weigh = Signal()
        _, last = position(m, "divide", p.words, weigh)
        m.d.comb += [weigh.eq(shares.valid & factors.valid & results.room), shares.pop.eq(weigh), factors.pop.eq(weigh & last),
                     results.take.eq(weigh)]
        acc = Cat(Cat(shares.head.word_select(g, 8), C(0, 24)) for g in range(lanes))
        out = drain(m, lanes, "divide_unit", valid=weigh, acc=acc, mult=factors.head[:16], shift=factors.head[16:], to16=C(int(p.out_bits == 16), 1))
        last_late, = late(m, "last_line", DRAIN, last)
        m.d.comb += [results.push.eq(out["valid8"]), results.data.eq(Cat(out["word16" if p.out_bits == 16 else "word8"], last_late))]
        send(m, self, results)
        return m


class Norm(Core):
    """LayerNorm or RMSNorm of rows (numerics.norm_coefficients, normalize): sums on the way into a queue, the result on the way out.

    From the first word of a row to its first result: 26 cycles and one for each word of a row. Cost: sums of ``lanes`` drain lanes, as many
    feed lanes, a queue of a row, the coefficients.
    """

    def __init__(self, p):
        super().__init__(p, 16 * p.lanes, p.out_bits * p.lanes, rows=True)

    def elaborate(self, platform):
        m = Module()
        p, lanes = self.p, self.p.lanes
        words = Queue(m, "words", 16 * lanes, p.words + 2 * SLACK)
        coefficients = Queue(m, "coefficients", MEAN_BITS + 22, 2 * SLACK)
        results = Queue(m, "results", p.out_bits * lanes + 1, SLACK)

        taken, first, last = receive_rows(m, self, p.words, words.room & coefficients.room)
        seen = drain(m, lanes, "sums_unit", valid=taken, stream=C(1, 1), data=self.s_axis_tdata, to16=C(1, 1), residual=C(1, 1), fresh=C(1, 1))
        m.d.comb += [words.take.eq(taken), words.push.eq(seen["valid8"]), words.data.eq(seen["word16"]), coefficients.take.eq(taken & first)]
        first_late, last_late, valid_late = late(m, "sums_line", STATISTICS, first, last, taken)
        total, squares, total_before, squares_before = Signal(signed(32)), Signal(48), Signal(signed(32)), Signal(48)
        m.d.comb += [total.eq(seen["d_sum"]), squares.eq(seen["d_squares"])]
        with m.If(~first_late):
            m.d.comb += [total.eq(seen["d_sum"] + total_before), squares.eq(seen["d_squares"] + squares_before)]
        with m.If(valid_late):
            m.d.sync += [total_before.eq(total), squares_before.eq(squares)]
        m.submodules.norm = norm = NormCoefficients(rms=p.rms)
        m.d.comb += [norm.total.eq(total), norm.squares.eq(squares), norm.dim.eq(p.length), norm.eps.eq(p.eps_int), norm.inv_mult.eq(p.inv_mult),
                     norm.inv_shift.eq(p.inv_shift), norm.mult.eq(p.mult), norm.shift.eq(p.shift)]
        known, = late(m, "norm_line", NormCoefficients.LATENCY, valid_late & last_late)
        m.d.comb += [coefficients.push.eq(known), coefficients.data.eq(Cat(norm.mean, norm.multiplier, norm.out_shift))]

        go = Signal()
        _, last = position(m, "out", p.words, go)
        m.d.comb += [go.eq(words.valid & coefficients.valid & results.room), words.pop.eq(go), coefficients.pop.eq(go & last), results.take.eq(go)]
        a, b, psum = Signal(8 * lanes), Signal(16 * lanes), Signal(32)
        head, wide = coefficients.head, p.out_bits == 16
        inputs = idle_feed(lanes) | {"mode": C(1, 2), "plane": C(2 if wide else 0, 2), "res": words.head, "mean": head[:MEAN_BITS],
                                     "mult": head[MEAN_BITS:MEAN_BITS + 16], "shift": head[MEAN_BITS + 16:]}
        m.submodules.feed_unit = arrays.feed_lanes(Lanes(lanes, wide=wide, bypass=wide), a=a, b=b, psum=psum, valid=go, **inputs)
        go_late, last_late = late(m, "last_line", FEED, go, last)
        m.d.comb += [results.push.eq(go_late), results.data.eq(Cat(b if wide else a, last_late))]
        send(m, self, results)
        return m


class TopK(Core):
    """Softmax and top-k of the logits of a token a word (numerics.route).

    2 max(experts, 4) + 10 cycles from a word to its result. Cost: rtl/sv/router_chain.sv, a queue of as many words.
    """

    def __init__(self, p):
        super().__init__(p, 16 * p.experts, 32 * p.top_k)

    def elaborate(self, platform):
        m = Module()
        p = self.p
        lanes = max(p.experts, 4)
        latency = 2 * lanes + 8
        results = Queue(m, "results", 32 * p.top_k + 1, latency + SLACK)
        taken = receive(m, self, results.room)
        logits = [self.s_axis_tdata.word_select(e, 16) for e in range(p.experts)]
        clipped = Cat(Cat(x[0] | (x == 0x8000), x[1:]) for x in logits)
        experts, scores = Signal(8 * p.top_k), Signal(16 * p.top_k)
        m.submodules.chain = Instance(
            "router_chain", p_E=C(lanes, 32), p_K=C(p.top_k, 32), p_TW=C(1, 32),
            p_EXP_TABLE=Const(arrays.packed_table(numerics.EXP_Q15), 256 * 16), p_RECIP_TABLE=Const(arrays.packed_table(numerics.RECIP), 256 * 16),
            i_clk=ClockSignal(), i_run=C(1, 1), i_num_experts=C(p.experts, 8), i_top_k=C(p.top_k, 4), i_renorm=C(int(p.renormalize), 1),
            i_token=C(0, 1), i_logits=Cat(clipped, C(0, 16 * (lanes - p.experts))), o_out_token=Signal(),
            o_out_expert=experts, o_out_score=scores)
        done, last_late = late(m, "chain_line", latency, taken, self.s_axis_tlast)
        word = Cat(Cat(experts.word_select(j, 8), C(0, 8), scores.word_select(j, 16)) for j in range(p.top_k))
        m.d.comb += [results.take.eq(taken), results.push.eq(done), results.data.eq(Cat(word, last_late))]
        send(m, self, results)
        return m
