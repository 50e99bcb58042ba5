"""hwgen_rtl.fetch.Fetch: what is offered stays until it is taken, and behind an error nothing is offered."""

from types import ModuleType

from amaranth.hdl import Module, Signal

from hwgen.isa import WORD_BITS, Op
from hwgen_rtl.fields import Fields

from .claims import Claim, Fault, Opened, Proof

DEPTH = 8


class Fetch(Proof):
    """Any program: the memory shows the same word as long as it is asked for the same one."""

    def __init__(self, fetch: ModuleType):
        self.fetch = fetch.Fetch(DEPTH, True)
        super().__init__({"start": 1, "frames": 16, "tasks": 32, "mem_data": WORD_BITS, "ready": 1},
                         ("offer_stable", "error_stays", "nothing_behind_an_error", "only_what_is_known"),
                         ("memory", "start_when_idle", "run_keeps"))

    def watch(self, m: Module) -> None:
        fetch = self.fetch
        m.submodules.fetch = Opened(fetch)
        for name in self.free:
            m.d.comb += getattr(fetch, name).eq(getattr(self, name))
        addresses = Signal.like(fetch.mem_addr), Signal.like(fetch.mem_addr)        # of the last cycle and of the one before
        data, seen = Signal(WORD_BITS), Signal(2)
        waits, offer, was_illegal = Signal(), Signal(WORD_BITS), Signal()
        started, settings = Signal(), Signal(48)
        m.d.sync += [addresses[0].eq(fetch.mem_addr), addresses[1].eq(addresses[0]), data.eq(self.mem_data), seen.eq(seen << 1 | 1),
                     waits.eq(fetch.valid & ~self.ready), offer.eq(fetch.word), was_illegal.eq(fetch.illegal),
                     started.eq(started | self.start), settings.eq(self.frames << 32 | self.tasks)]
        op = Fields(fetch.word).op
        m.d.comb += [
            self.given_memory.eq((seen != 3) | (addresses[0] != addresses[1]) | (data == self.mem_data)),
            self.given_start_when_idle.eq(~self.start | ~started),
            self.given_run_keeps.eq(~started | (settings == (self.frames << 32 | self.tasks)) & (self.frames != 0)),
            self.must_offer_stable.eq(~waits | fetch.valid & (offer == fetch.word)),
            self.must_error_stays.eq(~was_illegal | fetch.illegal),
            self.must_nothing_behind_an_error.eq(~(was_illegal & fetch.valid) | waits),
            self.must_only_what_is_known.eq(~fetch.valid | (op <= Op.MATMUL))]


CLAIM = Claim(
    "an instruction is offered whole, and none behind an error", "fetch", Fetch, depth=10, induction=False,
    faults={"offer_stable": Fault("fetch.py", "with when(~self.valid | self.ready):", "with when(1):"),
            "error_stays": Fault("fetch.py", "m.State(\"HALT\"):\n                pass",
                                 "m.State(\"HALT\"):\n                m.d.sync += self.illegal.eq(0)"),
            "nothing_behind_an_error": Fault("fetch.py", "m.d.sync += self.illegal.eq(1)\n                    m.next = \"HALT\"",
                                             "m.d.sync += [self.illegal.eq(1), pc.eq(pc + 1)]\n                    m.next = \"READ\""),
            "only_what_is_known": Fault("fetch.py", "bad.eq((data.op > Op.MATMUL)", "bad.eq((data.op > Op.MATMUL + 1)")})
