"""The router: softmax and top-k of gate logits, and the queue of tokens of every expert."""

from amaranth.hdl import C, Cat, ClockSignal, Const, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen import numerics

from .arrays import packed_table

MIN_LANES = 4            # of rtl/sv/router_chain.sv
SCORE_LANES = 8          # of rtl/sv/router_scores.sv
MAX_EXPERTS = 64         # its sums are below 2**22
MAX_TOP_K = 15           # encoding of top_k


class Router(wiring.Component):
    """Logits in, token queues out; one token per cycle, no stall (numerics.route and numerics.route_scores, bit for bit).

    num_experts 8, top_k 4, renorm   set before the first token: 1 <= top_k <= num_experts <= max_experts, top_k <= max_top_k
    reset_queues   pulse: all queues are empty, before the first token
    valid, token 16, logits   a token and its max_experts x int16 logits (unit 2**-8, log2 domain)
    last           pulse with or after the last token of the instruction, valid or not
    bias           with ``scores``: pulse, ``logits`` are the bias of the choice from now on; with no token inside
    scored, biased  with ``scores``, set before the first token: logits are scores in unit 2**-15; the choice is by score and bias, not score alone
    done           pulse, `latency` cycles after last: all tokens are in the queues
    q_expert 8, q_index 12      place in a queue; q_token 16, q_score 16 (unit 2**-16) one cycle later
    counts         16 bits per expert: length of its queue

    A queue holds its tokens in the order they came, each at most once; no token is dropped. A token is in the queues
    ``latency`` = 2 max(max_experts, 4) + 10 cycles after it came (with ``scores`` 8 for 4). Reset: queues empty, tokens under way are lost.
    Cost: a multiplier per expert from the third on and per place from the second on, two for the reciprocal, a memory of
    max_tokens x 32 bits per expert.
    """

    def __init__(self, max_experts: int, max_top_k: int, max_tokens: int, scores: bool = False):
        if not 1 <= max_experts <= MAX_EXPERTS:
            raise ValueError(f"max_experts = {max_experts} is not within 1 to {MAX_EXPERTS}")
        if not 1 <= max_top_k <= min(max_experts, MAX_TOP_K):
            raise ValueError(f"max_top_k = {max_top_k} is not within 1 to {min(max_experts, MAX_TOP_K)}")
        self.max_experts, self.max_top_k, self.max_tokens = max_experts, max_top_k, max_tokens
        self.scores, self.lanes = scores, max(max_experts, SCORE_LANES if scores else MIN_LANES)
        self.latency = 2 * self.lanes + 10
        super().__init__({
            "num_experts": In(8), "top_k": In(4), "renorm": In(1), "reset_queues": In(1),
            "valid": In(1), "token": In(16), "last": In(1), "logits": In(16 * max_experts), "done": Out(1),
            "q_expert": In(8), "q_index": In(12), "q_token": Out(16), "q_score": Out(16), "counts": Out(16 * max_experts),
            **({"bias": In(1), "scored": In(1), "biased": In(1)} if scores else {})})

    def elaborate(self, platform):
        m = Module()
        steps = self.lanes * 2 + 8
        # the chain holds its state while nothing is inside
        token, logits, countdown, run = Signal(16), Signal(16 * self.lanes), Signal(range(steps + 2)), Signal()
        valid_line, last_line = Signal(steps + 1), Signal(steps + 1)
        m.d.sync += [valid_line.eq(Cat(self.valid, valid_line)), last_line.eq(Cat(self.last, last_line)), self.done.eq(last_line[-1])]
        with m.If(self.valid):
            m.d.sync += [token.eq(self.token), logits.eq(self.logits), countdown.eq(steps), run.eq(1)]
        with m.Elif(run):
            m.d.sync += [countdown.eq(countdown - 1), run.eq(countdown != 1)]
        out_token = Signal(16)
        experts, scores = Signal(8 * self.max_top_k), Signal(16 * self.max_top_k)
        if self.scores:
            soft_experts, soft_scores, hard_experts, hard_scores = (Signal.like(x) for x in (experts, scores) * 2)
            stored, used = Signal(16 * self.max_experts), Signal(16 * self.lanes)
            with m.If(self.bias):
                m.d.sync += stored.eq(self.logits)
            m.d.sync += used.eq(Mux(self.biased, stored, 0))
            m.submodules.scores = Instance(
                "router_scores", p_E=C(self.lanes, 32), p_K=C(self.max_top_k, 32), p_RECIP_TABLE=Const(packed_table(numerics.RECIP), 256 * 16),
                i_clk=ClockSignal(), i_num_experts=self.num_experts, i_top_k=self.top_k, i_renorm=self.renorm, i_scores=logits, i_bias=used,
                o_out_expert=hard_experts, o_out_score=hard_scores)
            m.d.comb += [experts.eq(Mux(self.scored, hard_experts, soft_experts)), scores.eq(Mux(self.scored, hard_scores, soft_scores))]
        m.submodules.chain = Instance(
            "router_chain", p_E=C(self.lanes, 32), p_K=C(self.max_top_k, 32), p_TW=C(16, 32),
            p_EXP_TABLE=Const(packed_table(numerics.EXP_Q15), 256 * 16), p_RECIP_TABLE=Const(packed_table(numerics.RECIP), 256 * 16),
            i_clk=ClockSignal(), i_run=run, i_num_experts=self.num_experts, i_top_k=self.top_k, i_renorm=self.renorm, i_token=token,
            i_logits=logits, o_out_token=out_token, o_out_expert=experts if not self.scores else soft_experts,
            o_out_score=scores if not self.scores else soft_scores)

        # one memory per expert: a token goes to several queues in one cycle, to each at most once
        number = (self.lanes - 1).bit_length()
        read_expert = Signal(number)
        m.d.sync += read_expert.eq(self.q_expert)
        words = []
        for e in range(self.max_experts):
            m.submodules[f"queue_{e}"] = queue = Memory(shape=32, depth=self.max_tokens, init=[])
            write, read = queue.write_port(), queue.read_port()
            length = Signal(range(self.max_tokens + 1), name=f"length_{e}")
            m.d.comb += self.counts.word_select(e, 16).eq(length)
            hits = Signal(self.max_top_k, name=f"hits_{e}")
            score = Signal(16, name=f"score_{e}")
            m.d.comb += score.eq(scores[:16])
            for j in range(self.max_top_k):
                m.d.comb += hits[j].eq((j < self.top_k) & (experts.word_select(j, 8)[:number] == e))
                if j > 0:
                    with m.If(hits[j]):
                        m.d.comb += score.eq(scores.word_select(j, 16))
            m.d.comb += [write.addr.eq(length), write.data.eq(Cat(out_token, score)), write.en.eq(valid_line[-1] & hits.any()),
                         read.addr.eq(self.q_index), read.en.eq(self.q_expert[:number] == e)]
            with m.If(self.reset_queues):
                m.d.sync += length.eq(0)
            with m.Elif(write.en):
                m.d.sync += length.eq(length + 1)
            words.append(Mux(read_expert == e, read.data, 0))
        word = words[0]
        for other in words[1:]:
            word = word | other
        m.d.comb += Cat(self.q_token, self.q_score).eq(word)
        return m
