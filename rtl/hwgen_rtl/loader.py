"""Stationary loader: fills the array's next tile and the drain's parameter banks ahead of the feed."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engine import NUM_PARAM_BANKS, EngineConfig
from hwgen.isa import Op, Src, Stat

from .fields import WORD_BITS, Fields

FULL = 127               # of the rows behind tokens that are mixed, but the first one


class Loader(wiring.Component):
    """Walks the program like the feed, one tile ahead of the one at work in the array.

    instr_*      from its own `Fetch` (skipped instructions included: their weights are read and discarded)
    vec_*        weight stream, one vector of Ti * load_columns bytes per cycle
    kv_*         read port of the key/value memory, 1 cycle latency
    load_*       array load port (rtl/sv/pe_array.sv), par_* drain parameters (rtl/sv/drain_lanes.sv)
    tile_ready   with the last write of a tile; tile_taken: the array can take another; par_free: gives one parameter bank back
    word_*       assembled words of a STREAM instruction for the drain: To x int16
    retired      instructions retired so far, modulo 256

    One vector or one key per cycle: To / load_columns cycles a column tile (To for keys), Ti cycles a row tile. A row tile past which
    activations stream takes one more: its column sums are cleared again; behind the last key it has a row of 1, then rows of 127 up to
    the last lane that counts. 4-bit weights take two cycles a vector. starved: waits for a vector. Latency: a vector is on load_* one
    cycle after it is taken, a key two after its address. Reset: idle, nothing loaded. Cost: an instruction register (512 bits), a vector
    register, a product of 16 x 12 bits.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        c = config
        index = (c.ti - 1).bit_length()
        super().__init__({
            "instr_valid": In(1), "instr_ready": Out(1), "instr_word": In(WORD_BITS), "instr_active": In(1),
            "vec_valid": In(1), "vec_ready": Out(1), "vec_data": In(8 * c.vector_bytes),
            "kv_ren": Out(1), "kv_addr": Out(20), "kv_stride": Out(20), "kv_group": Out(4), "kv_data": In(8 * c.ti),
            "load_en": Out(1), "load_clear": Out(1), "load_row": Out(1), "load_wide": Out(1), "load_index": Out(index),
            "load_data": Out(8 * c.vector_bytes), "tile_ready": Out(1), "tile_taken": In(1),
            "par_en": Out(1), "par_bank": Out(2), "par_index": Out(7), "par_data": Out(8 * c.vector_bytes), "par_free": In(1),
            "word_valid": Out(1), "word_ready": In(1), "word": Out(16 * c.to),
            "retired": In(8), "starved": Out(1)})

    def elaborate(self, platform):
        m = Module()
        c = self.config
        groups_out = c.to // c.group
        word = Signal(WORD_BITS)
        f, g = Fields(word), Fields(self.instr_word)
        active, index = Signal(), Signal(8)
        j, k = Signal(12), Signal(12)
        self.count = n = Signal(7)              # of the tile's or bank's words: the next one
        self.free = free = Signal(init=1)       # the array has room for a tile
        par_bank = Signal(2)
        self.banks = par_free = Signal(3, init=NUM_PARAM_BANKS)
        take_tile, take_par = Signal(), Signal()
        m.d.sync += [free.eq((free | self.tile_taken) & ~take_tile), par_free.eq(par_free + self.par_free - take_par)]

        # registered load port: every source lands here, one cycle before the array
        load_data = Signal(8 * c.vector_bytes)
        load_en, load_row, load_wide, clear, ready = Signal(), Signal(), Signal(init=1), Signal(), Signal()
        load_index = Signal.like(self.load_index)
        m.d.sync += [self.load_en.eq(load_en), self.load_clear.eq(clear), self.load_row.eq(load_row), self.load_wide.eq(load_wide),
                     self.load_index.eq(load_index), self.tile_ready.eq(ready)]
        with m.If(load_en):
            m.d.sync += self.load_data.eq(load_data)
        m.d.comb += [self.par_bank.eq(par_bank), self.par_index.eq(n), self.par_data.eq(self.vec_data)]

        # key/value reads: address now, data (masked) one cycle later
        mask = Signal(c.ti)
        m.d.comb += mask.eq(((C(1, c.ti + 1) << Mux(k == f.k_tiles - 1, f.k_hi, c.ti)) - 1)
                            & ~((C(1, c.ti + 1) << Mux(k == 0, f.k_lo, 0)) - 1))
        chunk = Signal(20)                      # word of key 0 of this tile's channels
        group = Signal(5)
        key = Signal(17)
        kv_valid, kv_row, kv_last, kv_inside = Signal(), Signal(), Signal(), Signal()
        kv_index, kv_mask = Signal.like(self.load_index), Signal(c.ti)
        kv_first = Signal()
        m.d.sync += kv_valid.eq(0)
        m.d.comb += [self.kv_addr.eq(chunk + key), self.kv_stride.eq(f.stat_stride), self.kv_group.eq(group)]
        columns = f.stat == Stat.K_COLUMNS
        if c.mixes:                             # a row tile past which activations stream
            ended, plain, kv_fill = Signal(), Signal(), Signal(7)
            mixes = (f.stat == Stat.V_ROWS) & (f.src == Src.ACT)
            m.d.sync += plain.eq(0)

        def end_of_tile():
            """Advance (k, j); for the kv memory also the chunk, group and key walkers."""
            m.d.sync += [n.eq(0), k.eq(k + 1)]
            with m.If(columns):
                m.d.sync += [chunk.eq(chunk + f.stat_stride), key.eq(key - (c.to - 1))]
            with m.Else():
                m.d.sync += key.eq(key + 1)
            with m.If(k == f.k_tiles - 1):
                m.d.sync += [k.eq(0), j.eq(j + 1)]
                with m.If(columns):
                    m.d.sync += [chunk.eq(f.stat_base), key.eq(key + 1)]
                with m.Else():
                    m.d.sync += key.eq(0)
                    wrapped = Signal()
                    m.d.comb += wrapped.eq(group + groups_out >= c.groups)
                    m.d.sync += [group.eq(Mux(wrapped, group + groups_out - c.groups, group + groups_out)),
                                 chunk.eq(chunk + Mux(wrapped, f.stat_stride, 0))]

        params = -(-8 * c.to // c.vector_bytes)
        halves = Signal()                       # of a vector of 4-bit weights: the upper one is next
        left = Signal(32)
        half = Signal()
        with m.If(self.word_valid & self.word_ready):
            m.d.sync += self.word_valid.eq(0)
        with m.FSM() as fsm:
            self.keys = fsm.ongoing("KV") | fsm.ongoing("DEPENDENCY")
            with m.State("IDLE"):
                m.d.comb += self.instr_ready.eq(1)
                with m.If(self.instr_valid):
                    m.d.sync += [word.eq(self.instr_word), active.eq(self.instr_active), j.eq(0), k.eq(0), n.eq(0),
                                 left.eq(g.tokens * g.n_tiles), half.eq(0), chunk.eq(g.stat_base), group.eq(g.stat_group), key.eq(0)]
                    with m.If(g.op == Op.STREAM):
                        m.next = "STREAM"
                    with m.Elif(g.op == Op.MATMUL):
                        with m.If(g.stat.matches(Stat.WEIGHTS, Stat.BYPASS) if c.bypass else g.stat == Stat.WEIGHTS):
                            m.next = "PARAMS"
                        with m.Elif(self.instr_active):
                            m.next = "DEPENDENCY"
            with m.State("STREAM"):             # To values of 8 or 16 bits per word
                two = 1 if 2 * c.to > c.vector_bytes else 0
                last_half = Signal()
                m.d.comb += last_half.eq(half | (f.src == Src.ACT) | (not two))
                m.d.comb += self.vec_ready.eq(~self.word_valid | self.word_ready)
                with m.If(self.vec_valid & self.vec_ready):
                    m.d.sync += half.eq(~last_half)
                    with m.If(f.src == Src.ACT):
                        for i in range(c.to):
                            m.d.sync += self.word[16 * i:16 * i + 16].eq(self.vec_data[8 * i:8 * i + 8].as_signed())
                    with m.Elif(half):
                        m.d.sync += self.word[8 * c.vector_bytes:].eq(self.vec_data)
                    with m.Else():
                        m.d.sync += self.word[:8 * c.vector_bytes].eq(self.vec_data)
                    with m.If(last_half):
                        m.d.sync += [left.eq(left - 1), self.word_valid.eq(active)]
                        with m.If(left == 1):
                            m.d.sync += index.eq(index + active)
                            m.next = "IDLE"
            with m.State("PARAMS"):
                with m.If(~f.column_params):
                    m.next = "COLUMNS"
                with m.Else():
                    m.d.comb += self.vec_ready.eq(~active | (par_free != 0))
                    with m.If(self.vec_valid & self.vec_ready):
                        m.d.comb += self.par_en.eq(active)
                        m.d.sync += n.eq(n + 1)
                        with m.If(n == params - 1):
                            m.d.comb += take_par.eq(active)
                            m.d.sync += [n.eq(0), par_bank.eq(par_bank + active)]
                            m.next = "COLUMNS"
                            if c.bypass:
                                with m.If(f.stat == Stat.BYPASS):
                                    m.next = "NO TILE"
            if c.bypass:
                with m.State("NO TILE"):        # the array goes on to one of which nothing is used
                    with m.If(~active | free):
                        m.d.comb += [ready.eq(active), take_tile.eq(active)]
                        m.d.sync += j.eq(j + 1)
                        m.next = "PARAMS"
                        with m.If(j == f.n_tiles - 1):
                            m.d.sync += index.eq(index + active)
                            m.next = "IDLE"
            with m.State("COLUMNS"):
                space = Signal()
                m.d.comb += [space.eq(~active | free), self.vec_ready.eq(space & ((~f.w4 | halves) if c.w4 else 1)),
                             load_data.eq(self.vec_data), load_index.eq(n * c.load_columns)]
                if c.w4:
                    nibbles = self.vec_data.word_select(halves, 4 * c.vector_bytes)
                    with m.If(f.w4):
                        m.d.comb += load_data.eq(Cat(Cat(nibble, nibble[3].replicate(4)) for nibble in
                                                     (nibbles[4 * i:4 * i + 4] for i in range(c.vector_bytes))))
                with m.If(self.vec_valid & space):
                    m.d.comb += [load_en.eq(active), clear.eq(active & (n == 0))]
                    m.d.sync += [n.eq(n + 1), halves.eq(f.w4 & ~halves)]
                    with m.If(n == c.to // c.load_columns - 1):
                        m.d.comb += [ready.eq(active), take_tile.eq(active)]
                        m.d.sync += [n.eq(0), k.eq(k + 1)]
                        with m.If(k == f.k_tiles - 1):
                            m.d.sync += [k.eq(0), j.eq(j + 1)]
                            m.next = "PARAMS"
                            with m.If(j == f.n_tiles - 1):
                                m.d.sync += index.eq(index + active)
                                m.next = "IDLE"
            with m.State("DEPENDENCY"):
                waiting = Signal(8)
                m.d.comb += waiting.eq(index - self.retired)
                with m.If(waiting <= f.load_slack):
                    m.next = "KV"
            with m.State("KV"):
                last = Signal()
                m.d.comb += last.eq(n == Mux(columns, c.to - 1, c.ti - 1))
                with m.If(free | (n != 0)):
                    inside = Signal()
                    m.d.comb += [inside.eq(key < f.stat_count), self.kv_ren.eq(inside)]
                    m.d.sync += [kv_valid.eq(1), kv_row.eq(~columns), kv_index.eq(n), kv_last.eq(last & ~mixes if c.mixes else last),
                                 kv_inside.eq(inside), kv_mask.eq(Mux(columns, mask, -1)), kv_first.eq(n == 0), n.eq(n + 1),
                                 key.eq(key + 1)]
                    with m.If(last):
                        m.d.comb += take_tile.eq(1)
                        end_of_tile()
                        with m.If((k == f.k_tiles - 1) & (j == f.n_tiles - 1)):
                            m.d.sync += index.eq(index + 1)
                            m.next = "FLUSH"
                        if c.mixes:
                            m.d.sync += ended.eq((k == f.k_tiles - 1) & (j == f.n_tiles - 1))
                            with m.If(mixes):
                                m.next = "SUMS"
                    if c.mixes:
                        used = (k != f.k_tiles - 1) | (n < f.k_hi)          # lanes of what streams; others may hold anything
                        m.d.sync += kv_fill.eq(Mux(mixes & ~inside & used, Mux(key == f.stat_count, 1, FULL), 0))
            if c.mixes:
                with m.State("SUMS"):           # nothing was taken off what streams, so nothing is given back
                    m.d.sync += plain.eq(1)
                    m.next = "KV"
                    with m.If(ended):
                        m.next = "FLUSH"
            with m.State("FLUSH"):              # the last key is still on its way to the load port
                m.next = "IDLE"
        with m.If(kv_valid):
            m.d.comb += [load_en.eq(1), load_row.eq(kv_row), load_wide.eq(0), load_index.eq(kv_index), clear.eq(kv_first), ready.eq(kv_last)]
            for i in range(c.ti):
                m.d.comb += load_data[8 * i:8 * i + 8].eq(Mux(kv_mask[i] & kv_inside, self.kv_data[8 * i:8 * i + 8], kv_fill if c.mixes else 0))
        if c.mixes:
            with m.If(plain):
                m.d.comb += [clear.eq(1), ready.eq(1)]
        m.d.comb += self.starved.eq(self.vec_ready & ~self.vec_valid)
        return m
