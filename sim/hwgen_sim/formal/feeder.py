"""hwgen_rtl.feeder.Feeder: no token is issued without a tile, a place for its result and a context for its instruction."""

from types import ModuleType

from amaranth.hdl import Module, Signal

from hwgen.engine import NUM_CONTEXTS, EngineConfig
from hwgen.isa import WORD_BITS

from .claims import Claim, Fault, Opened, Proof

SMALL = EngineConfig(ti=8, to=8, max_tokens=16, act_words=32, kv_words=32, score_words=32, res_words=32, program_words=16, max_experts=0,
                     max_top_k=0, axi_data_bits=64, fifo_beats=32)
END = "                            m.d.comb += [self.instr_ready.eq(1), self.frame_done"
QUEUE, TILES = 40, 2          # words of the output queue; tiles that are loaded and not taken


class Feeder(Proof):
    """Any program. Results come and instructions retire in any order and time, but none that was not issued."""

    def __init__(self, feeder: ModuleType):
        self.feeder = feeder.Feeder(SMALL)
        free = {"instr_valid": 1, "instr_word": WORD_BITS, "tile_ready": 1, "retire": 1, "word_valid": 1, "out_push": 1, "read": 1}
        super().__init__(free, ("results_have_a_place", "tiles_are_there", "contexts_are_free", "frame_ends_when_all_is_done"),
                         ("offer_stays", "tile", "retires", "pushes"))

    def watch(self, m: Module) -> None:
        feeder = self.feeder
        m.submodules.feeder = Opened(feeder)
        for name in self.free.keys() - {"read"}:
            m.d.comb += getattr(feeder, name).eq(getattr(self, name))
        used, waiting, word = Signal(range(QUEUE + 2)), Signal(), Signal(WORD_BITS)
        m.d.comb += feeder.out_free.eq(QUEUE - used)
        m.d.sync += [used.eq(used + self.out_push - (self.read & (used != 0))), waiting.eq(self.instr_valid & ~feeder.instr_ready),
                     word.eq(self.instr_word)]
        m.d.comb += [
            self.given_offer_stays.eq(~waiting | self.instr_valid & (word == self.instr_word)),
            self.given_tile.eq(~self.tile_ready | (feeder.tiles < TILES)),
            self.given_retires.eq(~self.retire | (feeder.pending != 0)),
            self.given_pushes.eq(~self.out_push | (feeder.reserved != 0)),
            self.must_results_have_a_place.eq((used <= QUEUE) & (feeder.reserved <= feeder.out_free)),
            self.must_tiles_are_there.eq(feeder.tiles <= TILES),
            self.must_contexts_are_free.eq(feeder.pending <= NUM_CONTEXTS),
            self.must_frame_ends_when_all_is_done.eq(~feeder.frame_done | (feeder.pending == 0))]


CLAIM = Claim(
    "a token is issued when its tile, its place and its context are there", "feeder", Feeder, depth=2, induction=True,
    faults={"results_have_a_place": Fault("feeder.py", "(self.out_free >= reserved + need)", "(self.out_free >= need)"),
            "tiles_are_there": Fault("feeder.py", "with m.If(have_tile & room):", "with m.If(room):"),
            "contexts_are_free": Fault("feeder.py", "(pending < NUM_CONTEXTS)", "(pending <= NUM_CONTEXTS)"),
            "frame_ends_when_all_is_done": Fault("feeder.py", "== 0) & ~busy):\n" + END, "== 0) | ~busy):\n" + END)})
