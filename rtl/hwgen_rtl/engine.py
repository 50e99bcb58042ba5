"""The engine: program memory, loader, feed, array, accumulators, drain, router and memories wired together.

Time is counted from the cycle in which the feeder's token record is valid (T = 0); docs/reference/engine.md has the picture:

    0           statistics read            L0 = 1 + norm latency   lanes in      L0 + 3           array in
    L0 + 5      row sum                    D0 = L0 + SEG + 6       drain in      D0 + 8           results written
    D0 + 9      statistics written         D0 + 10                 retired
"""

from collections.abc import Sequence

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen import numerics
from hwgen.engine import LIST_LATENCY, EngineConfig
from hwgen.isa import WORD_BITS, Dst, Half, Instr, Operand, Src, Stat
from hwgen.registers import LENGTH_BITS, NUM_TASK_SLOTS

from . import arrays
from .arrays import delayed
from .coefficients import NormCoefficients, SoftmaxFactor
from .feeder import Feeder, source_layout, token_layout
from .fetch import Fetch
from .fields import BITS, Fields, Record
from .loader import Loader
from .picker import Picker
from .router import Router

COUNTERS = ("issue", "wait_tile", "wait_hazard", "wait_output", "starved", "loader_tiles", "instructions", "spare")


def sees_any(lanes):
    """Whether a row sees keys of a tile: if not, it has no largest score there."""
    return lanes != 0


class Engine(wiring.Component):
    """Runs ``frames`` frames of the program from the vector stream; results leave on ``out_*``.

    start        pulse; the engine must have been cleared (one cycle of `clear` and reset) since the last run
    prog_*       write one 32-bit word of the program memory
    vec_*        weight stream (valid/ready, Ti * load_columns bytes)
    out_*        valid and To x int32; out_free = free words of the receiving FIFO (no ready: space is reserved ahead)
    frame_done   pulse when every result of a frame has left
    illegal      an unknown instruction was met; the engine stands still until cleared
    starved      the loader waits for a vector;  count_*: one pulse per event, for the counters of `Top`
    trace_*      for benches: pc of the instruction that starts, index (modulo 256) of the one that retires
    result_*     with ``program``, which is then in the memory from the start on: results that go to the operands, as they come

    One token per cycle. From the issue of an instruction's last token to that of one that waits for it:
    `hwgen.engine.retire_latency` cycles, and those of the router behind a ROUTER. Reset: ``clear`` empties the delay lines, the
    domain's reset (`Top` gives both at once) all other control state; memories keep their contents.
    Cost: `hwgen.engines.rtl.cost.estimate`, unit by unit.
    """

    def __init__(self, config: EngineConfig, program: Sequence[Instr] = ()):
        self.config, self.program = config, program
        self.pc_bits = max(1, (config.program_words - 1).bit_length())
        super().__init__({
            "start": In(1), "clear": In(1), "frames": In(16), "tasks": In(32),
            **({"lengths": In(LENGTH_BITS * NUM_TASK_SLOTS)} if config.lengths else {}),
            "prog_we": In(1), "prog_addr": In(self.pc_bits), "prog_word": In(4), "prog_data": In(32),
            "vec_valid": In(1), "vec_ready": Out(1), "vec_data": In(8 * config.vector_bytes),
            "out_valid": Out(1), "out_word": Out(32 * config.to), "out_free": In(16),
            "frame_done": Out(1), "illegal": Out(1), "starved": Out(1),
            "trace_start": Out(1), "trace_pc": Out(self.pc_bits), "trace_retire": Out(1), "trace_retired": Out(8),
            **{f"count_{name}": Out(1) for name in COUNTERS},
            **({"result_valid": Out(1), "result_word8": Out(8 * config.to), "result_word16": Out(16 * config.to)} if program else {})})

    def plane_of(self, fields):
        """What of a 16-bit result goes to the activation memory; the scores of a router are 16 bits behind an activation function too."""
        plane = fields.plane if self.config.wide else C(0, 2)
        return Mux(fields.dst == Dst.ROUTER, Half.HIGH, plane) if self.config.scores else plane

    def elaborate(self, platform):
        m = Module()
        c = self.config
        group_bits = max(1, (c.groups - 1).bit_length())

        # ---------------------------------------------------------------- program, fetch, sequencers
        lengths = (c.ti, c.to) if c.lengths else None
        m.submodules.feed_fetch = feed_fetch = Fetch(c.program_words, True, lengths)
        m.submodules.load_fetch = load_fetch = Fetch(c.program_words, False, lengths)
        for name, fetch in (("feed", feed_fetch), ("load", load_fetch)):
            m.submodules[f"{name}_program"] = memory = Memory(shape=WORD_BITS, depth=c.program_words, init=[instr.encode() for instr in self.program])
            write, read = memory.write_port(granularity=32), memory.read_port()
            m.d.comb += [write.addr.eq(self.prog_addr), write.data.eq(self.prog_data.replicate(WORD_BITS // 32)),
                         write.en.eq(self.prog_we << self.prog_word),
                         read.addr.eq(fetch.mem_addr), read.en.eq(1), fetch.mem_data.eq(read.data),
                         fetch.start.eq(self.start), fetch.frames.eq(self.frames), fetch.tasks.eq(self.tasks)]
            if lengths:
                m.d.comb += fetch.lengths.eq(self.lengths)
        m.submodules.loader = loader = Loader(c)
        m.submodules.feeder = feeder = Feeder(c)
        m.d.comb += [
            loader.instr_valid.eq(load_fetch.valid), load_fetch.ready.eq(loader.instr_ready), loader.instr_word.eq(load_fetch.word),
            loader.instr_active.eq(load_fetch.active), loader.retired.eq(feeder.retired),
            feeder.instr_valid.eq(feed_fetch.valid), feed_fetch.ready.eq(feeder.instr_ready), feeder.instr_word.eq(feed_fetch.word),
            loader.vec_valid.eq(self.vec_valid), loader.vec_data.eq(self.vec_data), self.vec_ready.eq(loader.vec_ready),
            feeder.tile_ready.eq(loader.tile_ready), feeder.word_valid.eq(loader.word_valid), loader.word_ready.eq(feeder.word_ready),
            feeder.out_free.eq(self.out_free), feeder.out_push.eq(self.out_valid),
            self.frame_done.eq(feeder.frame_done), self.illegal.eq(feed_fetch.illegal | load_fetch.illegal),
            self.trace_start.eq(feeder.start_instr), self.trace_pc.eq(feed_fetch.pc), self.trace_retire.eq(feeder.retire),
            self.trace_retired.eq(feeder.retired), self.starved.eq(loader.starved),
            self.count_issue.eq(feeder.issue), self.count_wait_tile.eq(feeder.wait_tile), self.count_wait_hazard.eq(feeder.wait_hazard),
            self.count_wait_output.eq(feeder.wait_output), self.count_starved.eq(loader.starved),
            self.count_loader_tiles.eq(loader.tile_ready), self.count_instructions.eq(feeder.start_instr)]

        # instruction contexts: what later stages need to know about the instruction of a token
        kept = ("src", "dst", "act", "row_scale", "column_params", "mean", "to16", "scatter", "mult", "shift", "mult2", "shift2",
                "act_columns", "function", "pre_frac", "score_frac",
                "norm_dim", "norm_eps", "inv_mult", "inv_shift", "norm_mult", "norm_shift", "dst_base", "dst_stride", "keep",
                *(("plane",) if c.wide else ()), *(("operand",) if c.operand_words else ()), *(("stat",) if c.bypass else ()),
                *(("rms",) if c.rms else ()), *(("list",) if c.list_words else ()), *(("pick",) if c.picks else ()))
        contexts = [Record({k: BITS[k] for k in kept}, f"context{i}") for i in range(4)]
        word = Fields(feeder.context_word)
        for i, context in enumerate(contexts):
            with m.If(feeder.context_write & (feeder.context_id == i)):
                m.d.sync += context.word.eq(Cat(getattr(word, k) for k in kept))

        def context_fields(select, name, *keys):
            record = Record({k: BITS[k] for k in keys}, name)
            m.d.comb += record.word.eq(Array(Cat(getattr(x, k) for k in keys) for x in contexts)[select])
            return record

        def at(value, cycles, name):
            return delayed(m, value, cycles, self.clear, name)

        def as_record(layout, value, name):
            record = Record(layout, name)
            m.d.comb += record.word.eq(value)
            return record

        # ---------------------------------------------------------------- feed
        m.submodules.norm = norm = NormCoefficients(c.wide, c.rms)
        wait, pipe = NormCoefficients.LATENCY, token_layout(c)
        token0 = as_record(pipe, feeder.token, "token0")
        source = source_layout(c)
        source0 = as_record(source, feeder.source, "source0")
        feed_valid = token0.valid & ~feeder.inject
        m.submodules.statistics = statistics = Memory(shape=80, depth=c.max_tokens, init=[])
        stat_feed, stat_old, stat_write = statistics.read_port(), statistics.read_port(), statistics.write_port()
        m.d.comb += [stat_feed.addr.eq(source0.row), stat_feed.en.eq(feed_valid & (source0.mode == Src.NORM))]
        context1 = Signal(2)
        m.d.sync += context1.eq(token0.context)
        coefficient = context_fields(context1, "norm_fields", "norm_dim", "norm_eps", "inv_mult", "inv_shift", "norm_mult", "norm_shift",
                                     *(("rms",) if c.rms else ()))
        m.d.comb += [
            norm.total.eq(stat_feed.data[:32]), norm.squares.eq(stat_feed.data[32:]), norm.dim.eq(coefficient.norm_dim),
            norm.eps.eq(coefficient.norm_eps), norm.inv_mult.eq(coefficient.inv_mult), norm.inv_shift.eq(coefficient.inv_shift),
            norm.mult.eq(coefficient.norm_mult), norm.shift.eq(coefficient.norm_shift)]
        if c.rms:
            m.d.comb += norm.centred.eq(~coefficient.rms)
        if c.wide:
            mode1 = Signal(2)
            m.d.sync += mode1.eq(source0.mode)
            m.d.comb += norm.raw.eq(mode1 == Src.RES)

        feed_layout = {"valid": 1, **source}
        feed_row = as_record(feed_layout, at(Cat(feed_valid, source0.word), wait - 1, "feed_row_line"), "feed_row")
        feed_address = as_record(feed_layout, at(feed_row.word, 1, "feed_address_line"), "feed_address")
        lane = as_record(feed_layout, at(feed_address.word, 1, "feed_lane_line"), "feed_lane")
        words = {}
        writes = {}
        for name, bits, depth in (("act", 8, c.act_words), ("score", 16, c.score_words), ("res", 16, c.res_words),
                                  ("old", 16, c.res_words), ("kv", 8, c.kv_words)):
            address_bits = max(1, (depth - 1).bit_length())
            ports = {"wen": Signal(name=f"{name}_wen"), "waddr": Signal(address_bits, name=f"{name}_waddr"),
                     "wstride": Signal(address_bits, name=f"{name}_wstride"), "wgroup": Signal(group_bits, name=f"{name}_wgroup"),
                     "wmask": Signal(c.groups, name=f"{name}_wmask"), "wdata": Signal(bits * c.ti, name=f"{name}_wdata"),
                     "ren": Signal(name=f"{name}_ren"), "raddr": Signal(address_bits, name=f"{name}_raddr"),
                     "rstride": Signal(address_bits, name=f"{name}_rstride"), "rgroup": Signal(group_bits, name=f"{name}_rgroup")}
            words[name] = Signal(bits * c.ti, name=f"{name}_word")
            m.submodules[f"{name}_memory"] = arrays.lane_memory(c, bits, depth, name in ("kv", "old"), rdata=words[name], **ports)
            writes[name] = ports
        for name, modes in (("act", (Src.ACT,)), ("score", (Src.EXP,)), ("res", (Src.NORM, Src.RES))):
            m.d.comb += [writes[name]["ren"].eq(feed_address.valid & feed_address.mode.matches(*modes)),
                         writes[name]["raddr"].eq(feed_address.address)]
        m.d.comb += [writes["kv"]["ren"].eq(loader.kv_ren), writes["kv"]["raddr"].eq(loader.kv_addr),
                     writes["kv"]["rstride"].eq(loader.kv_stride), writes["kv"]["rgroup"].eq(loader.kv_group),
                     loader.kv_data.eq(words["kv"])]
        m.submodules.row_maximum = row_maximum = Memory(shape=signed(16), depth=2 * c.max_tokens, init=[])
        max_feed, max_old, max_write = row_maximum.read_port(), row_maximum.read_port(), row_maximum.write_port()
        m.d.comb += [max_feed.addr.eq(feed_row.row), max_feed.en.eq(feed_row.valid & (feed_row.mode == Src.EXP))]
        # a cycle before the scores, for half of what their distances lose when they are brought to the unit of the exponentials
        score_fields = context_fields(at(token0.context, wait, "score_line"), "score_fields", "score_frac")
        halves = [1 << max(0, frac - numerics.EXP_FRAC) >> 1 for frac in numerics.SCORE_FRACS]
        top, score_frac = Signal(signed(17)), Signal(2)
        m.d.sync += [top.eq(max_feed.data + Array(halves)[score_fields.score_frac]), score_frac.eq(score_fields.score_frac)]

        a, b, psum, sums = Signal(8 * c.ti), Signal(16 * c.ti), Signal(32), Signal(32 * c.to)
        m.submodules.feed_lanes = arrays.feed_lanes(
            c, a=a, b=b, psum=psum, valid=lane.valid, mode=lane.mode, plane=lane.plane, act=words["act"], res=words["res"], score=words["score"],
            mean=norm.mean, mult=norm.multiplier, shift=norm.out_shift, top=top, frac=score_frac, lanes=lane.lanes,
            none=lane.none if c.list_words else C(0, 1))

        # ---------------------------------------------------------------- array and accumulators
        lane_at = wait + 1
        tagged = Mux(feeder.inject, 0, feeder.token)       # a stream word enters at the drain, not here
        entry = as_record(pipe, at(tagged, lane_at + 3, "array_line"), "array_token")
        m.submodules.array = arrays.pe_array(
            c, clear=self.clear, a=a, last=entry.tile_last, load_en=loader.load_en, load_clear=loader.load_clear, load_row=loader.load_row,
            load_wide=loader.load_wide, load_done=loader.tile_ready, load_index=loader.load_index, load_data=loader.load_data,
            taken=loader.tile_taken, sum=sums)
        total = as_record(pipe, at(entry.word, c.segment + 1, "sum_line"), "sum_token")
        acc, acc_valid = Signal(32 * c.to), Signal()
        token_bits = max(1, (c.max_tokens - 1).bit_length())
        m.submodules.accumulator = arrays.accumulator(
            c, valid=total.valid, high=total.high, first=total.first_k, last=total.last_k, addr=total.slot[:token_bits], sum=sums,
            acc=acc, acc_valid=acc_valid)

        # ---------------------------------------------------------------- row sums of the attention probabilities
        m.submodules.factor = factor = SoftmaxFactor()
        m.submodules.row_sum = row_sum = Memory(shape=32, depth=c.max_tokens, init=[])
        m.submodules.row_factor = row_factor = Memory(shape=22, depth=c.max_tokens, init=[])
        sum_read, sum_write = row_sum.read_port(), row_sum.write_port()
        factor_read, factor_write = row_factor.read_port(), row_factor.write_port()
        row_layout = {"valid": 1, "exp": 1, "first_k": 1, "last_k": 1, "context": 2, "slot": 12}
        row_in = Cat(feed_valid, source0.mode == Src.EXP, token0.first_k, token0.last_k, token0.context, token0.slot)
        row4 = as_record(row_layout, at(row_in, lane_at + 4, "row_line"), "row4")
        row5 = as_record(row_layout, at(row4.word, 1, "row5_line"), "row5")
        row_total = Signal(32)
        row_fields = context_fields(row5.context, "row_fields", "mult", "shift")
        m.d.comb += [sum_read.addr.eq(row4.slot), sum_read.en.eq(row4.valid & row4.exp),
                     row_total.eq(psum + Mux(row5.first_k, 0, sum_read.data)),
                     sum_write.addr.eq(row5.slot), sum_write.data.eq(row_total), sum_write.en.eq(row5.valid & row5.exp),
                     factor.row_sum.eq(row_total), factor.mult.eq(row_fields.mult), factor.shift.eq(row_fields.shift)]
        row_done = as_record(row_layout, at(row5.word, SoftmaxFactor.LATENCY, "row_done_line"), "row_done")
        m.d.comb += [factor_write.addr.eq(row_done.slot), factor_write.data.eq(Cat(factor.multiplier, factor.out_shift)),
                     factor_write.en.eq(row_done.valid & row_done.exp & row_done.last_k)]
        if c.segment <= SoftmaxFactor.LATENCY:
            raise ValueError(f"softmax factor latency {SoftmaxFactor.LATENCY} exceeds the array's {c.segment - 1} cycles")

        # ---------------------------------------------------------------- drain
        before = as_record(pipe, at(total.word, 1, "before_line"), "before_token")     # D0 - 1
        arrived = as_record(pipe, at(before.word, 1, "drain_line"), "arrived_token")
        m.d.comb += [factor_read.addr.eq(before.slot), factor_read.en.eq(before.valid & before.last_k)]
        drain = Record(pipe, "drain_token")
        m.d.comb += drain.word.eq(Mux(feeder.inject, feeder.token, arrived.word))
        stream_word = Signal(16 * c.to)         # stream data waits the cycles its token spends in the feeder
        stream_wait = Signal(16 * c.to)
        with m.If(loader.word_valid & loader.word_ready):
            m.d.sync += stream_wait.eq(loader.word)
        if c.list_words:
            m.d.sync += stream_word.eq(at(stream_wait, LIST_LATENCY, "stream_line"))
        else:
            m.d.sync += stream_word.eq(stream_wait)
        through = None
        if c.bypass:                            # words that go past the array: those of a tile, as late as its sums would come
            part = at(lane.lanes, 3, "part_line")[(c.bypass_lanes // c.group).bit_length() - 1:]        # its place in the word, in tiles
            through = at(b.word_select(part[:max(1, (c.ti // c.bypass_lanes - 1).bit_length())], 16 * c.bypass_lanes), c.segment + 3, "through_line")
        fields = context_fields(drain.context, "drain_fields", "dst", "act", "row_scale", "column_params", "mean", "to16", "scatter",
                                "mult", "shift", "mult2", "shift2", "act_columns", "dst_stride", "function", "pre_frac",
                                *(("plane",) if c.wide else ()), *(("operand",) if c.operand_words else ()), *(("stat",) if c.bypass else ()),
                                *(("list",) if c.list_words else ()), *(("pick",) if c.picks else ()))
        drain_valid = Signal()
        m.d.comb += drain_valid.eq(drain.valid & drain.last_k)
        outputs = {"out_valid": self.out_valid, "out_word": self.out_word, "valid8": Signal(), "word8": Signal(8 * c.to),
                   "word16": Signal(16 * c.to), "d_sum": Signal(signed(32)), "d_squares": Signal(signed(48)), "lane_max": Signal(signed(16))}
        operand, operand_word = C(0, 2), C(0, 16 * c.to)
        if c.operand_words:                     # words of the operand memory: asked for in cycle 1 of the drain, there in cycle 3
            m.submodules.operands = operands = Memory(shape=16 * c.to, depth=c.operand_words, init=[])
            operand_read, operand_write = operands.read_port(), operands.write_port()
            operand, operand_word = Mux(feeder.inject, Operand.NONE, fields.operand), Signal(16 * c.to)
            wanted = Cat(drain_valid & (operand != Operand.NONE), drain.operand)
            asked = as_record({"valid": 1, "address": 16}, at(wanted, 1, "operand_line"), "asked")
            m.d.comb += [operand_read.addr.eq(asked.address), operand_read.en.eq(asked.valid)]
            m.d.sync += operand_word.eq(operand_read.data)
        scaled, columns = fields.act | operand[0], fields.column_params & (~fields.row_scale if c.picks else 1)
        is_residual = (fields.dst == Dst.RES_ADD) | (fields.dst == Dst.RES_SET)
        m.submodules.drain_lanes = arrays.drain_lanes(
            c, load_en=loader.par_en, load_bank=loader.par_bank, load_index=loader.par_index, load_data=loader.par_data,
            valid=drain_valid, acc=acc, bank=drain.param_bank, column_params=columns & ~feeder.inject,
            mult=Mux(fields.row_scale, factor_read.data[:16], fields.mult), shift=Mux(fields.row_scale, factor_read.data[16:], fields.shift),
            to16=fields.to16, stream=feeder.inject, data=stream_word if through is None else Mux(feeder.inject, stream_word, through),
            through=(fields.stat == Stat.BYPASS) & ~feeder.inject if c.bypass else C(0, 1),
            act=fields.act & ~feeder.inject, which=fields.function, frac=fields.pre_frac,
            second=(fields.act | fields.scatter) & ~feeder.inject, mult2=Mux(fields.act, fields.mult2, drain.score),
            shift2=Mux(scaled, fields.shift2, 16), act_columns=fields.act_columns & ~feeder.inject,
            plane=self.plane_of(fields), operand=operand, other=operand_word, residual=is_residual,
            fresh=fields.dst == Dst.RES_SET, lanes=drain.lanes,
            out=fields.dst == Dst.OUT, mean=fields.mean, first_token=drain.first_token, last_token=drain.last_token,
            old=words["old"][:16 * c.to], **outputs)

        # a stream word for the router is a bias, no token
        more = {**({"operand": 16} if "operand" in pipe else {}), **({"bias": 1} if c.scores else {}), **({"list": 1} if c.list_words else {}),
                **({"pick": 1} if c.picks else {})}
        done_layout = {"valid": 1, "instr_last": 1, "first_n": 1, "dst": 3, "stride": 16, "row": 16, "address": 20, "group": 3, "lanes": 7, **more}
        at_drain = Cat(drain_valid, drain.instr_last & (drain.last_k | ~drain.valid), drain.first_n, fields.dst, fields.dst_stride, drain.row,
                       drain.address, drain.group, drain.lanes, *((drain.operand,) if "operand" in pipe else ()),
                       *((feeder.inject,) if c.scores else ()), *((fields.list & feeder.inject,) if c.list_words else ()),
                       *((fields.pick & ~feeder.inject,) if c.picks else ()))
        m.d.comb += loader.par_free.eq(arrived.param_last)
        read_old = as_record(done_layout, at(at_drain, 6, "old_line"), "read_old")
        done = as_record(done_layout, at(read_old.word, 2, "done_line"), "done")
        post = as_record(done_layout, at(done.word, 1, "post_line"), "post")
        m.d.comb += [writes["old"]["ren"].eq(read_old.valid & (read_old.dst == Dst.RES_ADD)), writes["old"]["raddr"].eq(read_old.address),
                     writes["old"]["rstride"].eq(read_old.stride), writes["old"]["rgroup"].eq(read_old.group)]
        residual = (done.dst == Dst.RES_ADD) | (done.dst == Dst.RES_SET)
        banked = {}
        for bits in (8, 16):
            mask, data = banked[bits] = Signal(c.groups, name=f"bank_mask{bits}"), Signal(bits * c.ti, name=f"bank_data{bits}")
            m.submodules[f"window{bits}"] = arrays.lane_window(
                c, bits, c.to // c.group, group=done.group[:group_bits], mask=Cat(c.group * i < done.lanes for i in range(c.to // c.group)),
                data=outputs[f"word{bits}"], bank_mask=mask, bank_data=data)
        for name, when, bits in (("act", done.dst == Dst.ACT, 8), ("kv", done.dst == Dst.KV, 8), ("score", done.dst == Dst.SCORE, 16),
                                 ("res", residual, 16), ("old", residual, 16)):
            m.d.comb += [writes[name]["wen"].eq(done.valid & when), writes[name]["waddr"].eq(done.address),
                         writes[name]["wstride"].eq(done.stride), writes[name]["wgroup"].eq(done.group), writes[name]["wmask"].eq(banked[bits][0]),
                         writes[name]["wdata"].eq(banked[bits][1])]

        if self.program:
            m.d.comb += [self.result_valid.eq(done.valid & (done.dst == Dst.OPERAND)), self.result_word8.eq(outputs["word8"]),
                         self.result_word16.eq(outputs["word16"])]
        if c.operand_words:
            m.d.comb += [operand_write.addr.eq(done.operand), operand_write.data.eq(outputs["word16"]),
                         operand_write.en.eq(done.valid & (done.dst == Dst.OPERAND) & (~done.list if c.list_words else 1)
                                             & (~done.pick if c.picks else 1))]
        if c.list_words:
            m.submodules.lists = lists = Memory(shape=16 * c.to, depth=c.list_words, init=[])
            list_read, list_write = lists.read_port(), lists.write_port()
            m.d.comb += [list_read.addr.eq(feeder.list_addr), feeder.list_data.eq(list_read.data), list_read.en.eq(1),
                         list_write.addr.eq(done.operand), list_write.data.eq(outputs["word16"]),
                         list_write.en.eq(done.valid & (done.dst == Dst.OPERAND) & done.list)]
        if c.picks:                             # scores of tokens; the list of those that are kept comes later, nothing else is under way then
            m.submodules.picker = picker = Picker(c.bypass_lanes, c.to, c.max_tokens)
            picks, by_row = (done.dst == Dst.OPERAND) & done.pick, word.stat == Stat.BYPASS
            picking_row, picker_base = Signal(), Signal(16)
            m.d.comb += [
                picker.start.eq(feeder.context_write & word.pick), picker.keep.eq(word.stat_count), picker.first.eq(word.stat_base),
                picker.base.eq(word.op_base), picker.ranked.eq(word.ranked), picker.by_row.eq(by_row),
                picker.valid.eq(done.valid & picks), picker.count.eq(done.lanes), picker.last.eq(picks & done.instr_last),
                picker.data.eq(outputs["word16"][:16 * c.bypass_lanes]), picker.index.eq(Mux(picking_row, done.operand - picker_base, done.row))]
            with m.If(picker.start):
                m.d.sync += [picking_row.eq(by_row), picker_base.eq(word.op_base)]
            with m.If(picker.write):
                m.d.comb += [list_write.addr.eq(picker.address), list_write.data.eq(picker.word), list_write.en.eq(1)]

        # the gate's normalised tokens, kept for the experts
        if c.max_experts:
            kept_address = at(lane.address, 3, "keep_line")
            keep_fields = context_fields(entry.context, "keep_fields", "keep", "dst_base")
            with m.If(entry.valid & entry.first_n & keep_fields.keep):
                m.d.comb += [writes["act"]["wen"].eq(1), writes["act"]["waddr"].eq(keep_fields.dst_base + kept_address),
                             writes["act"]["wgroup"].eq(0), writes["act"]["wmask"].eq(-1), writes["act"]["wdata"].eq(a)]

        # statistics: sum and sum of squares of the residual, row maxima of the scores
        post_residual = (post.dst == Dst.RES_ADD) | (post.dst == Dst.RES_SET)
        fresh = (post.dst == Dst.RES_SET) & post.first_n
        scored = post.valid & (post.dst == Dst.SCORE)
        if c.causal:
            scored &= sees_any(post.lanes)
        m.d.comb += [
            stat_old.addr.eq(done.row), stat_old.en.eq(done.valid & residual),
            stat_write.addr.eq(post.row), stat_write.en.eq(post.valid & post_residual),
            stat_write.data.eq(Cat((Mux(fresh, 0, stat_old.data[:32]) + outputs["d_sum"])[:32],
                                   (Mux(fresh, 0, stat_old.data[32:]) + outputs["d_squares"])[:48])),
            max_old.addr.eq(done.row), max_old.en.eq(done.valid & (done.dst == Dst.SCORE)),
            max_write.addr.eq(post.row), max_write.en.eq(scored),
            max_write.data.eq(Mux(post.first_n | (outputs["lane_max"] > max_old.data), outputs["lane_max"], max_old.data))]

        # ---------------------------------------------------------------- router, retire
        retire, late = Signal(), picker.done if c.picks else 0
        m.d.sync += retire.eq(post.instr_last & ((post.dst != Dst.ROUTER) | (post.bias if c.scores else 0) if c.max_experts else 1)
                              & (~post.pick if c.picks else 1))
        if c.max_experts:
            m.submodules.router = router = Router(c.max_experts, c.max_top_k, c.max_tokens, c.scores)
            routed = (done.dst == Dst.ROUTER) & ~done.bias if c.scores else done.dst == Dst.ROUTER
            if c.scores:
                with m.If(feeder.router_reset):
                    m.d.sync += [router.scored.eq(word.act), router.biased.eq(word.biased)]
                m.d.comb += router.bias.eq(done.valid & done.bias & (done.dst == Dst.ROUTER))
            with m.If(feeder.router_reset):
                m.d.sync += [router.num_experts.eq(word.num_experts), router.top_k.eq(word.top_k), router.renorm.eq(word.renorm)]
            m.d.comb += [router.reset_queues.eq(feeder.router_reset), router.valid.eq(done.valid & routed),
                         router.token.eq(done.row), router.last.eq(done.instr_last & routed),
                         router.logits.eq(outputs["word16"][:16 * c.max_experts]),
                         router.q_expert.eq(feeder.q_expert), router.q_index.eq(feeder.q_index), feeder.q_token.eq(router.q_token),
                         feeder.q_score.eq(router.q_score), feeder.counts.eq(router.counts), feeder.retire.eq(retire | router.done | late)]
        else:
            m.d.comb += feeder.retire.eq(retire | late)
        return m
