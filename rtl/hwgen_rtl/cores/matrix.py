"""Cores of matrix products: the engine with a program of its own, whose inputs come in by streams and whose results leave by one."""

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engine import EngineConfig
from hwgen.isa import Dst, Instr, Op, Src, Stat
from hwgen.numerics import SCORE_FRACS

from ..engine import Engine
from .streams import Queue, position, receive_rows, send, stream_ports


class Programmed(wiring.Component):
    """An engine that runs one program, a frame at a time.

    s_*, m_axis_*   AXI4-Stream: a word is taken in a cycle with tvalid and tready; tlast with the last word of a frame
    error           a tlast came elsewhere than with the last word of a frame; stays until the reset

    The streams are taken one after another, in the order of ``sources`` (words of a frame by name). A frame begins when the results of the one
    before have left, for which there is a queue of a frame. Cost: that of the engine, and the queue.
    """

    def __init__(self, config: EngineConfig, program: tuple[Instr, ...], sources: dict[str, int], results: int, result_bits: int):
        self.config, self.program, self.sources, self.results, self.result_bits = config, program, sources, results, result_bits
        super().__init__({
            **{key: port for name in sources for key, port in stream_ports(name, In, 8 * config.ti).items()},
            **stream_ports("m_axis", Out, result_bits * config.to), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        c, wide = self.config, self.result_bits == 16
        engine, clear = Engine(c, self.program), Signal(init=1)
        m.submodules.engine = ResetInserter(clear)(engine)
        queue = Queue(m, "results", self.result_bits * c.to + 1, self.results)

        turn = Signal(range(len(self.sources) + 1))
        for number, (name, words) in enumerate(self.sources.items()):
            mine = Signal(name=f"{name}_turn")
            m.d.comb += mine.eq(turn == number)
            taken, _, last = receive_rows(m, self, words, mine & engine.vec_ready, name)
            with m.If(mine):
                m.d.comb += [engine.vec_valid.eq(getattr(self, f"{name}_tvalid")), engine.vec_data.eq(getattr(self, f"{name}_tdata"))]
            with m.If(taken & last):
                m.d.sync += turn.eq(number + 1)

        _, last = position(m, "result", self.results, engine.result_valid)
        m.d.comb += [queue.take.eq(engine.result_valid), queue.push.eq(engine.result_valid),
                     queue.data.eq(Cat(engine.result_word16 if wide else engine.result_word8, last)),
                     engine.clear.eq(clear), engine.frames.eq(1)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += clear.eq(0)
                with m.If(queue.empty & ~clear):
                    m.d.comb += engine.start.eq(1)
                    m.d.sync += turn.eq(0)
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(engine.frame_done):
                    m.d.sync += [clear.eq(1), turn.eq(len(self.sources))]
                    m.next = "IDLE"
        send(m, self, queue)
        return m


def _config(p, **sizes) -> EngineConfig:
    return EngineConfig(ti=p.lanes, to=p.lanes, max_tokens=max(2, p.tokens), program_words=8, max_experts=0, max_top_k=0, axi_data_bits=32,
                        fifo_beats=2, **{"act_words": 2, "kv_words": 2, "score_words": 2, "res_words": 2, "activation": "relu"} | sizes)


def _stream(p, words: int, dst: Dst, base: int = 0) -> Instr:
    return Instr(op=Op.STREAM, src=Src.ACT, dst=dst, tokens=p.tokens, n_tiles=words, n_last=p.lanes, dst_base=base, dst_stride=p.tokens)


class Linear(Programmed):
    """Weights times tokens, bias and requantization by columns: tokens to the activation memory, then a weight-stationary product."""

    def __init__(self, p):
        chunks, tiles = p.inputs // p.lanes, p.outputs // p.lanes
        product = Instr(op=Op.MATMUL, src=Src.ACT, stat=Stat.WEIGHTS, dst=Dst.OPERAND, column_params=1, to16=int(p.out_bits == 16), tokens=p.tokens,
                        k_tiles=chunks, k_hi=p.lanes, n_tiles=tiles, n_last=p.lanes, src_stride=p.tokens)
        super().__init__(_config(p, act_words=max(2, chunks * p.tokens)), (_stream(p, chunks, Dst.ACT), product, Instr()),
                         {"s_x": p.tokens * chunks, "s_w": tiles * (8 + p.inputs)}, p.tokens * tiles, p.out_bits)


class Attention(Programmed):
    """One head: scores of queries and keys with their row maxima, exponentials on the way back into the array, one division a row."""

    def __init__(self, p):
        chunks, words, tiles = p.head_dim // p.lanes, p.head_dim // p.lanes * p.tokens, -(-p.tokens // p.lanes)
        last, limit = p.tokens - (tiles - 1) * p.lanes, int(p.causal)
        score = Instr(op=Op.MATMUL, src=Src.ACT, stat=Stat.K_COLUMNS, dst=Dst.SCORE, to16=1, tokens=p.tokens, k_tiles=chunks, k_hi=p.lanes,
                      n_tiles=tiles, n_last=last, src_stride=p.tokens, stat_stride=p.tokens, stat_count=p.tokens, dst_stride=p.tokens,
                      mult=p.score_mult, shift=p.score_shift, limit=limit)
        weigh = Instr(op=Op.MATMUL, src=Src.EXP, score_frac=SCORE_FRACS.index(p.frac), stat=Stat.V_ROWS, dst=Dst.OPERAND, row_scale=1,
                      tokens=p.tokens, k_tiles=tiles, k_hi=last, n_tiles=chunks, n_last=p.lanes, src_stride=p.tokens, stat_base=words,
                      stat_stride=p.tokens, stat_count=p.tokens, mult=p.mult, shift=p.shift, limit=limit)
        config = _config(p, act_words=max(2, words), kv_words=max(2, 2 * words), score_words=max(2, tiles * p.tokens), causal=p.causal)
        inputs = _stream(p, chunks, Dst.ACT), _stream(p, chunks, Dst.KV), _stream(p, chunks, Dst.KV, words)
        super().__init__(config, (*inputs, score, weigh, Instr()), dict.fromkeys(("s_q", "s_k", "s_v"), words), words, 8)
