"""rtl/sv/pe_array.sv: every loaded tile is taken once, behind the last token of the one before, by all rows."""

from types import ModuleType

from amaranth.hdl import C, ClockSignal, Instance, Module, Mux, Signal

from .claims import Claim, Fault, Proof

SEG, ROWS = 2, 4


class Array(Proof):
    """Tiles are loaded as the loader does: one more than the array has taken, at most. The array's sums are no part of this."""

    def __init__(self, arrays: ModuleType):
        super().__init__({"load_done": 1, "last": 1}, ("taken_when_loaded", "taken_in_time"), ("loads_after_taken", "last_of_a_tile"))

    def watch(self, m: Module) -> None:
        taken, total = Signal(), Signal(64)
        m.submodules.array = Instance(
            "pe_array", p_TI=C(ROWS, 32), p_TO=C(2, 32), p_SEG=C(SEG, 32), p_LC=C(1, 32), p_IW=C(2, 32), i_clk=ClockSignal(), i_rst=C(0, 1),
            i_a=C(0, 8 * ROWS), i_last=self.last, i_load_en=C(0, 1), i_load_clear=C(0, 1), i_load_row=C(0, 1), i_load_wide=C(0, 1),
            i_load_done=self.load_done, i_load_index=C(0, 2), i_load_data=C(0, 8 * ROWS), o_taken=taken, o_sum=total)
        waiting, tiles, since = Signal(), Signal(2), Signal(3)      # a loaded tile; those at work, of which the last token has not come
        free = Signal()
        m.d.comb += [free.eq(tiles == 0), self.given_loads_after_taken.eq(~self.load_done | ~waiting),
                     self.given_last_of_a_tile.eq(~self.last | (tiles != 0))]
        m.d.sync += [waiting.eq(waiting & ~taken | self.load_done), tiles.eq(tiles + taken - self.last),
                     since.eq(Mux(waiting & free, since + (since != 7), 0))]
        m.d.comb += [self.must_taken_when_loaded.eq(~taken | waiting), self.must_taken_in_time.eq(since <= SEG + 1)]


CLAIM = Claim(
    "a tile is taken once", "arrays", Array, depth=16, induction=False, sv=("pe_array",),
    faults={"taken_when_loaded": Fault("pe_array.sv", "taken = swap != 0 && (tile", "taken = (tile"),
            "taken_in_time": Fault("pe_array.sv", "idle <= (at | idle) & ~swap;", "idle <= at & ~swap;")})
