"""Sequencer of the feed: the tile loops, hazards and token addresses of the running instruction."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engine import LIST_LATENCY, MIN_PASS, NUM_CONTEXTS, EngineConfig
from hwgen.isa import LISTED, Dst, Op, Src, Stat

from .fields import WORD_BITS, Fields, Record

TOKEN = {            # what one streamed token carries from the feed to the write of its result
    "valid": 1,      # a real token (padding slots of short passes are 0)
    "tile_last": 1,  # last slot of a tile: the array takes the next one behind it
    "param_last": 1, # ... of the last reduction tile of a tile with column parameters
    "instr_last": 1, # last slot of the instruction
    "high": 1,       # high half of an operand of 16 bits
    "first_k": 1, "last_k": 1, "first_n": 1, "first_token": 1, "last_token": 1,
    "context": 2, "param_bank": 2,
    "slot": 12,      # accumulator row
    "row": 16,       # statistics row of the result
    "address": 20,   # word of the result
    "group": 3,      # its first group
    "lanes": 7,      # valid lanes of the output tile
    "score": 16,     # router score (scatter)
}
SOURCE = {           # what only the feed needs
    "mode": 2, "plane": 2, "address": 20, "row": 16,
    "lanes": 7,      # of exponentials; of words that go past the array the first group
}


def token_layout(config: EngineConfig) -> dict[str, int]:
    """`TOKEN`; with an operand memory also the word of the operand, or of the result that goes there, and so with a list memory."""
    return {**TOKEN, "operand": 16} if config.operand_words or config.list_words else TOKEN


def source_layout(config: EngineConfig) -> dict[str, int]:
    """`SOURCE`; with lists of tokens also whether all words of the token are 0."""
    return {**SOURCE, "none": 1} if config.list_words else SOURCE


def next_row(row, stride):
    """The word at which the row of the next tap begins."""
    return row + stride


def at_most(left, lanes):
    """``left``, signed, but not below 0 nor above ``lanes``, 7 bits."""
    return Mux(left < lanes, Mux(left < 0, 0, left[:7]), lanes)


def repeats(period, tile):
    """Whether the operands of the first tile serve again behind this one."""
    return (period != 0) & (tile == period - 1)


class Feeder(wiring.Component):
    """Issues one token per cycle as long as the next stationary tile is loaded; no bubble between tiles or instructions.

    instr_*      from its own `Fetch` (skipped instructions left out)
    token, source  records of `token_layout` and `source_layout`, 2 cycles after issue, when the queue read has answered; with lists
                 `LIST_LATENCY` later
    q_*          expert queue: address now, token and score 1 cycle later; counts: 16 bits per expert
    list_*       list memory, where there is one: address now, To numbers of tokens 1 cycle later
    word_*       STREAM words from the loader; ``inject``: `token` belongs to a stream word this cycle (enters at the drain)
    context_*    instruction word to store for context ``context_id``
    out_free     free words of the output FIFO; out_push: one was written
    retire       pulse: one instruction has written everything;  retired: their number modulo 256
    router_reset  pulse at the start of an instruction that fills the queues
    start_instr  an instruction is taken and starts;  frame_done: an END is taken, everything before it has retired
    drained      nothing is under way;  issue: a slot is issued
    wait_*       why no token is issued (counters)

    A tile of n tokens takes max(n, MIN_PASS) cycles, twice that with an operand of 16 bits, a stream word one. Latency: 1 cycle from
    instr_valid, 2 from tile_ready to the first issue, 2 more to ``token``, 4 with lists. Reset: idle, nothing under way. Cost: one instruction
    register (512 bits), counters and two pipeline stages of about 500 bits, no DSP.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.listed = config.list_words > 0
        numbers = {"list_addr": Out(20), "list_data": In(16 * config.to)} if self.listed else {}
        super().__init__({
            "instr_valid": In(1), "instr_ready": Out(1), "instr_word": In(WORD_BITS), **numbers,
            "tile_ready": In(1), "retire": In(1), "retired": Out(8),
            "q_expert": Out(8), "q_index": Out(12), "q_token": In(16), "q_score": In(16), "counts": In(16 * max(config.max_experts, 1)),
            "word_valid": In(1), "word_ready": Out(1), "inject": Out(1),
            "context_write": Out(1), "context_id": Out(2), "context_word": Out(WORD_BITS),
            "out_free": In(16), "out_push": In(1), "router_reset": Out(1),
            "token": Out(sum(token_layout(config).values())), "source": Out(sum(source_layout(config).values())),
            "issue": Out(1), "start_instr": Out(1), "frame_done": Out(1), "drained": Out(1),
            "wait_tile": Out(1), "wait_hazard": Out(1), "wait_output": Out(1)})

    def elaborate(self, platform):
        m = Module()
        c = self.config
        groups_out = c.to // c.group
        new, cur_word = Fields(self.instr_word), Signal(WORD_BITS)
        cur = Fields(cur_word)

        # hazards: instructions issued and not yet retired
        issued = Signal(8)
        self.pending = pending = Signal(8)
        m.d.comb += pending.eq(issued - self.retired)
        m.d.sync += self.retired.eq(self.retired + self.retire)
        m.d.comb += self.drained.eq(pending == 0)
        safe = Signal()
        m.d.comb += safe.eq((pending <= new.slack) & (pending < NUM_CONTEXTS))

        self.tiles = tiles = Signal(3)          # loaded tiles not yet taken
        take_tile = Signal()
        m.d.sync += tiles.eq(tiles + self.tile_ready - take_tile)
        have_tile = Signal()
        m.d.comb += have_tile.eq(tiles != 0)

        self.reserved = reserved = Signal(16)   # output words under way
        reserve = Signal(16)
        m.d.sync += reserved.eq(reserved + reserve - self.out_push)

        # the running tile
        busy = Signal()                         # a tile is being streamed
        more = Signal()                         # the instruction has further tiles
        k, j, t = Signal(12), Signal(12), Signal(16)
        row = Signal(16)                        # source row of token t: t * step
        count, length = Signal(16), Signal(16)
        param_bank = Signal(2)
        context = Signal(2)
        src_chunk, dst_chunk, dst_group = Signal(20), Signal(20), Signal(5)
        op_chunk, op_tile = Signal(16), Signal(4)           # of the operand memory: word of token 0, tile since the first word
        high = Signal()                         # the pass of the high halves, another one of the low halves follows
        turn, end = Signal(), Signal()
        m.d.comb += [turn.eq(busy & (t == length - 1)), end.eq(turn & ~high)]
        k_end, j_end = Signal(), Signal()
        m.d.comb += [k_end.eq(k == cur.k_tiles - 1), j_end.eq(j == cur.n_tiles - 1)]

        # candidate for the next tile: of this instruction, or the first one of the next
        nk_last = Signal()                      # the candidate is the last reduction tile
        new_count = Signal(16)
        with m.If(new.gather | new.scatter):
            m.d.comb += new_count.eq(self.counts.word_select(new.expert[:max(1, (max(c.max_experts, 1) - 1).bit_length())], 16))
        with m.Else():
            m.d.comb += new_count.eq(new.tokens)
        free_slot = Signal()
        m.d.comb += free_slot.eq(~busy | end)
        last_tile = Signal()
        m.d.comb += last_tile.eq(k_end & j_end)
        room = Signal()
        need = Signal(16)
        is_out, is_last = Signal(), Signal()
        m.d.comb += [
            is_out.eq(Mux(more, cur.dst == Dst.OUT, new.dst == Dst.OUT)),
            need.eq(Mux(more, Mux(cur.mean, 1, count), Mux(new.mean, 1, new_count))),
            is_last.eq(Mux(more, nk_last, new.k_tiles == 1)),
            nk_last.eq(Mux(k_end, cur.k_tiles == 1, k + 2 == cur.k_tiles)),
            room.eq(~is_out | ~is_last | (self.out_free >= reserved + need)),
        ]
        streaming = Signal()                    # a STREAM instruction runs
        remaining = Signal()                    # the current MATMUL is not finished
        m.d.comb += more.eq(remaining & ~last_tile)
        with m.If(self.start_instr):
            m.d.sync += remaining.eq(new.op == Op.MATMUL)
        with m.Elif(end & last_tile):
            m.d.sync += remaining.eq(0)

        if c.causal:                            # keys of the tile that token t sees, and that its first token sees
            left, first_left, next_left = Signal(signed(17)), Signal(signed(17)), Signal(signed(17))
            limited = Signal(2)                 # by them: the lanes that leave, the lanes that stream
            with m.If(~more):
                m.d.comb += next_left.eq(new.limit)
            with m.Elif(limited[0]):
                m.d.comb += next_left.eq(first_left - Mux(k_end, c.to, 0))
            with m.Else():
                m.d.comb += next_left.eq(Mux(k_end, cur.limit, first_left - c.ti))
            with m.If(self.start_instr):
                m.d.sync += limited.eq(Cat(new.dst == Dst.SCORE, new.src == Src.EXP) & (new.limit != 0).replicate(2))

        def seen(lanes, which: int):
            """``lanes``, or as many of them as the token sees."""
            return Mux(limited[which], at_most(left, lanes), lanes) if c.causal else lanes

        tile_groups, tile_lanes = groups_out, c.to
        if c.bypass:
            past, part = Signal(), Signal(3)    # words go past the array, each tile from one word; group of it in which the tile begins
            m.d.comb += past.eq((cur.stat == Stat.BYPASS) & ~streaming)
            tile_groups, tile_lanes = Mux(past, c.bypass_lanes // c.group, groups_out), Mux(past, c.bypass_lanes, c.to)

        if self.listed:                         # of the running tap: word of its row, reduction tile in it; of token t: word and place in it
            list_row, list_word, list_tile, list_lane = Signal(20), Signal(20), Signal(12), Signal(range(c.to))
            tap_end, row_next = Signal(), Signal(20)
            m.d.comb += [tap_end.eq(cur.list & (list_tile == cur.stat_count - 1)), self.list_addr.eq(list_word),
                         row_next.eq(Mux(k_end, cur.stat_base, Mux(tap_end, next_row(list_row, cur.stat_stride), list_row)))]

        def next_window():
            wrapped = dst_group + tile_groups >= c.groups
            m.d.sync += [dst_group.eq(Mux(wrapped, dst_group + tile_groups - c.groups, dst_group + tile_groups)),
                         dst_chunk.eq(dst_chunk + Mux(wrapped, cur.dst_stride, 0))]
            if "operand" in token_layout(c):
                again = repeats(cur.op_period, op_tile)
                m.d.sync += [op_tile.eq(Mux(again, 0, op_tile + 1)), op_chunk.eq(Mux(again, cur.op_base, op_chunk + cur.tokens))]

        def next_tile():
            with m.If(k_end):
                m.d.sync += [k.eq(0), j.eq(j + 1), src_chunk.eq(cur.src_base), param_bank.eq(param_bank + cur.column_params)]
                next_window()
                if c.bypass:
                    with m.If(past):
                        wrapped = part + tile_groups >= c.groups
                        m.d.sync += [part.eq(Mux(wrapped, 0, part + tile_groups)), src_chunk.eq(src_chunk + Mux(wrapped, cur.src_stride, 0))]
            with m.Else():
                m.d.sync += [k.eq(k + 1), src_chunk.eq(src_chunk + cur.src_stride)]
            if self.listed:
                m.d.sync += [list_row.eq(row_next), list_tile.eq(Mux(k_end | tap_end, 0, list_tile + 1))]
                with m.If(tap_end & ~k_end):
                    m.d.sync += src_chunk.eq(cur.src_base)

        def take():
            m.d.comb += take_tile.eq(1)
            if c.wide:
                twice = [f.wide & (f.stat != Stat.BYPASS) if c.bypass else f.wide for f in (cur, new)]
                m.d.sync += high.eq(Mux(more, *twice))
            if c.causal:
                m.d.sync += [left.eq(next_left), first_left.eq(next_left)]
            m.d.sync += [busy.eq(1), t.eq(0), row.eq(0)]
            if self.listed:
                m.d.sync += [list_word.eq(Mux(more, row_next, new.stat_base)), list_lane.eq(0)]
            with m.If(is_out & is_last):
                m.d.comb += reserve.eq(need)

        with m.If(busy):
            m.d.sync += [t.eq(t + 1), row.eq(row + cur.step)]
            if c.causal:
                m.d.sync += left.eq(left + 1)
            if self.listed:
                wrapped = list_lane == c.to - 1
                m.d.sync += [list_lane.eq(Mux(wrapped, 0, list_lane + 1)), list_word.eq(list_word + wrapped)]
        with m.If(turn & high):
            m.d.sync += [high.eq(0), t.eq(0), row.eq(0)]
            if self.listed:
                m.d.sync += [list_word.eq(list_row), list_lane.eq(0)]
            with m.If(cur.src == Src.ACT):          # the low halves of a chunk lie behind its high ones
                m.d.sync += src_chunk.eq(src_chunk + cur.src_stride)
        with m.If(free_slot):
            with m.If(more):
                with m.If(have_tile & room):
                    take()
                    next_tile()
                with m.Else():
                    m.d.sync += busy.eq(0)
                    m.d.comb += [self.wait_tile.eq(~busy & ~have_tile), self.wait_output.eq(~busy & have_tile)]
            with m.Else():
                m.d.sync += busy.eq(0)
                with m.If(self.instr_valid & ~streaming):
                    with m.If(new.op == Op.END):
                        with m.If((pending == 0) & ~busy):
                            m.d.comb += [self.instr_ready.eq(1), self.frame_done.eq(1)]
                        m.d.comb += self.wait_hazard.eq(~busy)
                    with m.Elif(new.op == Op.STREAM):
                        with m.If((pending == 0) & ~busy):
                            m.d.comb += [self.instr_ready.eq(1), self.start_instr.eq(1)]
                            m.d.sync += [streaming.eq(1), count.eq(new.tokens)]
                        with m.Else():
                            m.d.comb += self.wait_hazard.eq(~busy)
                    with m.Elif(safe & have_tile & room):
                        m.d.comb += [self.instr_ready.eq(1), self.start_instr.eq(1)]
                        take()
                        m.d.sync += [count.eq(new_count), length.eq(Mux(new_count < MIN_PASS, MIN_PASS, new_count))]
                    with m.Else():
                        m.d.comb += [self.wait_hazard.eq(~busy & ~safe), self.wait_tile.eq(~busy & safe & ~have_tile),
                                     self.wait_output.eq(~busy & safe & have_tile)]
        with m.If(self.start_instr):
            m.d.sync += [cur_word.eq(self.instr_word), issued.eq(issued + 1), context.eq(issued[:2]), k.eq(0), j.eq(0), t.eq(0),
                         src_chunk.eq(new.src_base), dst_chunk.eq(new.dst_base), dst_group.eq(new.dst_group)]
            if "operand" in token_layout(c):
                m.d.sync += [op_chunk.eq(new.op_base), op_tile.eq(0)]
            if self.listed:
                m.d.sync += [list_row.eq(new.stat_base), list_tile.eq(0)]
            if c.bypass:
                m.d.sync += part.eq(0)
            with m.If((new.op == Op.MATMUL) & new.column_params):
                m.d.sync += param_bank.eq(param_bank + 1)
            m.d.comb += self.router_reset.eq((new.op == Op.MATMUL) & (new.dst == Dst.ROUTER))
        m.d.comb += [self.context_write.eq(self.start_instr), self.context_id.eq(issued[:2]), self.context_word.eq(self.instr_word)]

        # stage 0: latch the issued slot; the queue is read with it
        lanes, wide, layout = Signal(7), Signal(), token_layout(c)
        m.d.comb += wide.eq(cur.wide & ~streaming if c.wide else 0)
        m.d.comb += lanes.eq(seen(Mux(j_end, cur.n_last, tile_lanes), 0))
        f0 = Record({**layout, "chunk": 20, "src_chunk": 20, "src_row": 16, "dst_row": 16, "gather": 1, "scatter": 1,
                     "k_lanes": 7, "mode": 2, "plane": 2, "inject": 1, "from_row": 16,
                     **({"list": 1, "list_lane": 6} if self.listed else {})}, "stage0")
        push = Signal()
        m.d.comb += [push.eq(streaming & self.word_valid), self.word_ready.eq(streaming)]
        stream_last = Signal()
        m.d.comb += stream_last.eq(t == count - 1)
        with m.If(push):
            m.d.sync += t.eq(t + 1)
            with m.If(stream_last):
                m.d.sync += [t.eq(0), j.eq(j + 1)]
                next_window()
                with m.If(j_end):
                    m.d.sync += streaming.eq(0)
        k_lanes = seen(Mux(k_end, cur.k_hi, c.ti), 1)
        value, statements = f0.pack(
            valid=push | (busy & (t < count)), tile_last=end, high=high, param_last=end & k_end & cur.column_params,
            instr_last=Mux(streaming, push & stream_last & j_end, end & last_tile), first_k=(k == 0) & (high | ~wide),
            last_k=(k_end & ~high) | streaming, first_n=j == 0, first_token=t == 0, last_token=t == count - 1, context=context,
            param_bank=param_bank - 1, slot=t, group=dst_group, lanes=lanes, chunk=dst_chunk, src_chunk=src_chunk, src_row=cur.src_row,
            dst_row=cur.dst_row, gather=cur.gather & ~streaming, scatter=cur.scatter & ~streaming, mode=cur.src,
            k_lanes=Mux(past, part, k_lanes) if c.bypass else k_lanes, inject=push, from_row=row, plane=Cat(high, wide & ~high),
            **({"operand": op_chunk} if "operand" in layout else {}),
            **({"list": cur.list & ~streaming, "list_lane": list_lane} if self.listed else {}))
        m.d.comb += statements
        m.d.sync += f0.word.eq(value)
        m.d.comb += [self.q_expert.eq(cur.expert), self.q_index.eq(t), self.issue.eq(busy | push)]

        f0, q_token, q_score, none = self._numbers(m, f0)

        # stage 1: addresses
        source_row, result_row = Signal(16), Signal(16)
        m.d.comb += [source_row.eq(Mux(f0.gather, q_token, f0.from_row)), result_row.eq(Mux(f0.scatter, q_token, f0.slot))]
        token, source = Record(layout, "token_out"), Record(source_layout(c), "source_out")
        value, statements = token.pack(
            **{key: getattr(f0, key) for key in TOKEN if key not in ("row", "address", "score")},
            row=f0.dst_row + result_row, address=f0.chunk + result_row, score=q_score,
            **({"operand": f0.operand + f0.slot} if "operand" in layout else {}))
        m.d.comb += statements
        m.d.sync += token.word.eq(value)
        value, statements = source.pack(mode=f0.mode, plane=f0.plane, address=f0.src_chunk + source_row, row=f0.src_row + source_row,
                                        lanes=f0.k_lanes, **none)
        m.d.comb += statements
        m.d.sync += [source.word.eq(value), self.inject.eq(f0.inject)]
        m.d.comb += [self.token.eq(token.word), self.source.eq(source.word)]
        return m

    def _numbers(self, m, f0):
        """(stage 0 once the number of its token is known, token and score of the queue then, what else the source record has): with lists a register
        behind the memory, and one behind the choice of a number in its word; without them at once."""
        if not self.listed:
            return f0, self.q_token, self.q_score, {}
        stages, queue = [f0], [Cat(self.q_token, self.q_score)]
        for index in range(LIST_LATENCY):
            stage, answer = Record(f0.layout, f"stage0_{index}"), Signal(32, name=f"queue_{index}")
            m.d.sync += [stage.word.eq(stages[-1].word), answer.eq(queue[-1])]
            stages.append(stage)
            queue.append(answer)
        numbers, number = Signal(16 * self.config.to), Signal(16)
        m.d.sync += numbers.eq(self.list_data)
        m.d.sync += number.eq(Array(numbers.word_select(lane, 16) for lane in range(self.config.to))[stages[1].list_lane])
        last = Record(f0.layout, "stage0_row")
        values = {key: getattr(stages[-1], key) for key in f0.layout}
        value, statements = last.pack(**values | {"from_row": Mux(stages[-1].list, number[:LISTED], stages[-1].from_row)})
        m.d.comb += [*statements, last.word.eq(value)]
        return last, queue[-1][:16], queue[-1][16:], {"none": stages[-1].list & number[LISTED]}
