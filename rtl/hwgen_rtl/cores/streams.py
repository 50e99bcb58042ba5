"""What cores are put together from: AXI4-Stream ports, queues that count their free places, positions in a row.

The units of the engine never stall: a word that is in comes out a fixed number of cycles later. A core lets a word in when the queue behind the
unit has a place for it, so it stalls for as long as anybody wants and loses nothing, at one word a cycle otherwise.
"""

from itertools import pairwise

from amaranth.hdl import C, Cat, Module, ResetSignal, Signal
from amaranth.lib.wiring import In, Out

from hwgen.engine import EngineConfig

from ..arrays import delayed, stream_fifo

SLACK = 16               # places of a queue beyond the words that must be in it: those on their way through a unit


class Lanes(EngineConfig):
    """Sizes of units without an array: ``lanes`` of each, any number."""

    def __init__(self, lanes: int, **more):
        super().__init__(ti=lanes, to=lanes, max_tokens=2, act_words=2, kv_words=2, score_words=2, res_words=2, program_words=2, max_experts=0,
                         max_top_k=0, axi_data_bits=32, fifo_beats=2, **more)

    def __post_init__(self):
        """Not those of an engine: nothing is asked of them."""

    @property
    def vector_bytes(self) -> int:
        """Column parameters, of which there are none, arrive one at a time."""
        return 8


def stream_ports(name: str, flow, bits: int) -> dict:
    """Ports of an AXI4-Stream into the core (``In``) or out of it (``Out``)."""
    back = Out if flow is In else In
    return {f"{name}_tvalid": flow(1), f"{name}_tready": back(1), f"{name}_tdata": flow(bits), f"{name}_tlast": flow(1)}


class Queue:
    """rtl/sv/stream_fifo.sv that counts its free places.

    empty      all are free;  room: there is one;  take: it is taken, by a word that is on its way
    push, data the word arrives, in whatever cycle
    valid, head   the oldest word;  pop: it leaves, and its place is free
    """

    def __init__(self, m: Module, name: str, bits: int, depth: int):
        names = ("take", "push", "pop", "valid", "room", "empty")
        self.take, self.push, self.pop, self.valid, self.room, self.empty = (Signal(name=f"{name}_{what}") for what in names)
        self.data, self.head = Signal(bits, name=f"{name}_data"), Signal(bits, name=f"{name}_head")
        free = Signal(range(depth + 1), init=depth, name=f"{name}_free")
        m.d.sync += free.eq(free - self.take + self.pop)
        m.d.comb += [self.room.eq(free != 0), self.empty.eq(free == depth)]
        m.submodules[name] = stream_fifo(depth, rst=ResetSignal(), rvalid=self.valid, rdata=self.head, wen=self.push, wdata=self.data, ren=self.pop)


def late(m: Module, name: str, cycles: int, *signals) -> list:
    """Signals as they were ``cycles`` ago."""
    line = delayed(m, Cat(*signals), cycles, ResetSignal(), name)
    places = [sum(len(s) for s in signals[:n]) for n in range(len(signals) + 1)]
    return [line[low:high] for low, high in pairwise(places)]


def position(m: Module, name: str, words: int, step) -> tuple:
    """(first, last) of a row of ``words`` words, of which ``step`` says that one passes."""
    place = Signal(range(max(words, 2)), name=f"{name}_place")
    first, last = Signal(name=f"{name}_first"), Signal(name=f"{name}_last")
    m.d.comb += [first.eq(place == 0), last.eq(place == words - 1)]
    with m.If(step):
        m.d.sync += place.eq(place + 1)
        with m.If(last):
            m.d.sync += place.eq(0)
    return first, last


def receive(m: Module, core, may, name: str = "s_axis"):
    """Takes a word whenever ``may``; whether one is taken, in this cycle."""
    taken = Signal(name=f"{name}_taken")
    m.d.comb += [getattr(core, f"{name}_tready").eq(may), taken.eq(getattr(core, f"{name}_tvalid") & may)]
    return taken


def receive_rows(m: Module, core, words: int, may, name: str = "s_axis"):
    """The same of rows of ``words`` words: (taken, first, last). A TLAST at another word than the last of a row, or none there, sets ``core.error``
    until the reset."""
    taken = receive(m, core, may, name)
    first, last = position(m, name, words, taken)
    with m.If(taken & (getattr(core, f"{name}_tlast") != last)):
        m.d.sync += core.error.eq(1)
    return taken, first, last


def send(m: Module, core, queue: Queue) -> None:
    """A queue of TDATA and, above it, TLAST, to the master port."""
    m.d.comb += [core.m_axis_tvalid.eq(queue.valid), Cat(core.m_axis_tdata, core.m_axis_tlast).eq(queue.head),
                 queue.pop.eq(queue.valid & core.m_axis_tready)]


def idle_drain(lanes: int) -> dict:
    """Inputs of rtl/sv/drain_lanes.sv for what a core does not ask of it."""
    bits = {"load_en": 1, "load_bank": 2, "load_index": 7, "load_data": 64, "acc": 32 * lanes, "bank": 2, "column_params": 1, "mult": 16, "shift": 6,
            "to16": 1, "stream": 1, "data": 16 * lanes, "through": 1, "act": 1, "which": 1, "frac": 2, "second": 1, "mult2": 16, "shift2": 6,
            "act_columns": 1, "plane": 2, "operand": 2, "other": 16 * lanes, "residual": 1, "fresh": 1, "lanes": 7, "out": 1, "mean": 1,
            "first_token": 1, "last_token": 1, "old": 16 * lanes}
    return {name: C(1 if name in ("shift", "shift2") else lanes if name == "lanes" else 0, width) for name, width in bits.items()}


def idle_feed(lanes: int) -> dict:
    """The same of rtl/sv/feed_lanes.sv."""
    bits = {"mode": 2, "plane": 2, "act": 8 * lanes, "res": 16 * lanes, "score": 16 * lanes, "mean": 21, "mult": 16, "shift": 6, "top": 17, "frac": 2,
            "lanes": 7, "none": 1}
    return {name: C(1 if name == "shift" else lanes if name == "lanes" else 0, width) for name, width in bits.items()}
