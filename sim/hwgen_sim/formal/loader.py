"""hwgen_rtl.loader.Loader: a tile is written only where the array has room, parameters only into a bank that is free."""

from types import ModuleType

from amaranth.hdl import Module, Mux, Signal

from hwgen.engine import NUM_PARAM_BANKS
from hwgen.isa import WORD_BITS

from .claims import Claim, Fault, Opened, Proof
from .feeder import SMALL


class Loader(Proof):
    """Any program and any stream of vectors. The array takes a tile that is loaded whenever it likes."""

    def __init__(self, loader: ModuleType):
        self.loader = loader.Loader(SMALL)
        super().__init__({"instr_valid": 1, "instr_word": WORD_BITS, "instr_active": 1, "vec_valid": 1, "vec_data": 8 * SMALL.vector_bytes,
                          "kv_data": 8 * SMALL.ti, "tile_taken": 1, "par_free": 1, "word_ready": 1, "retired": 8},
                         ("array_has_room", "one_tile_at_a_time", "bank_is_free", "word_stable"), ("taken", "given_back"))

    def watch(self, m: Module) -> None:
        loader = self.loader
        m.submodules.loader = Opened(loader)
        for name in self.free:
            m.d.comb += getattr(loader, name).eq(getattr(self, name))
        loaded, waits, word = Signal(), Signal(), Signal.like(loader.word)          # loaded: a tile waits to be taken
        m.d.sync += [loaded.eq(loaded & ~self.tile_taken | loader.tile_ready), waits.eq(loader.word_valid & ~self.word_ready),
                     word.eq(loader.word)]
        m.d.comb += [
            self.given_taken.eq(~self.tile_taken | loaded), self.given_given_back.eq(~self.par_free | (loader.banks != NUM_PARAM_BANKS)),
            self.must_array_has_room.eq(~loaded | ~(loader.load_en | loader.load_clear)),
            self.must_one_tile_at_a_time.eq((~loaded | ~loader.tile_ready)
                                            & Mux(loader.free, ~loaded & ~loader.tile_ready, ~loader.keys | (loader.count == 0))),
            self.must_bank_is_free.eq((loader.banks <= NUM_PARAM_BANKS) & (~loader.par_en | (loader.banks != 0))),
            self.must_word_stable.eq(~waits | loader.word_valid & (word == loader.word))]


CLAIM = Claim(
    "a tile is loaded where there is room", "loader", Loader, depth=4, induction=True,
    faults={"array_has_room": Fault("loader.py", "space.eq(~active | free)", "space.eq(1)"),
            "one_tile_at_a_time": Fault("loader.py", "with m.If(free | (n != 0)):", "with m.If(1):"),
            "bank_is_free": Fault("loader.py", "self.vec_ready.eq(~active | (par_free != 0))", "self.vec_ready.eq(1)"),
            "word_stable": Fault("loader.py", "self.vec_ready.eq(~self.word_valid | self.word_ready)", "self.vec_ready.eq(1)")})
