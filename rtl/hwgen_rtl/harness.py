"""Components as tops of their own benches: the SystemVerilog arrays as the engine instantiates them, and AXI port names."""

from collections.abc import Callable

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.engine import NUM_PARAM_BANKS, EngineConfig

from . import arrays


class ArrayTop(wiring.Component):
    """Arrays of `arrays` as a top: ``make(**signals)`` gives the Instance or module, ``inputs`` and ``outputs`` are port widths by name.

    Wires only: latency, interval and cost are those of the module (rtl/sv).
    """

    def __init__(self, make: Callable, inputs: dict[str, int], outputs: dict[str, int]):
        self.make, self.names = make, (*inputs, *outputs)
        super().__init__({**{k: In(v) for k, v in inputs.items()}, **{k: Out(v) for k, v in outputs.items()}})

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = self.make(**{name: getattr(self, name) for name in self.names})
        return m


def pe_array(c: EngineConfig) -> ArrayTop:
    index = (c.ti - 1).bit_length()
    return ArrayTop(lambda **ports: arrays.pe_array(c, **ports),
                    {"clear": 1, "a": 8 * c.ti, "last": 1, "load_en": 1, "load_clear": 1, "load_row": 1, "load_wide": 1, "load_done": 1,
                     "load_index": index, "load_data": 8 * c.vector_bytes}, {"sum": 32 * c.to, "taken": 1})


def accumulator(c: EngineConfig) -> ArrayTop:
    return ArrayTop(lambda **ports: arrays.accumulator(c, **ports),
                    {"valid": 1, "high": 1, "first": 1, "last": 1, "addr": (c.max_tokens - 1).bit_length(), "sum": 32 * c.to},
                    {"acc": 32 * c.to, "acc_valid": 1})


def feed_lanes(c: EngineConfig) -> ArrayTop:
    return ArrayTop(lambda **ports: arrays.feed_lanes(c, **ports),
                    {"valid": 1, "mode": 2, "plane": 2, "act": 8 * c.ti, "res": 16 * c.ti, "score": 16 * c.ti, "mean": 21, "mult": 16, "shift": 6,
                     "top": 17, "frac": 2, "lanes": 7, "none": 1}, {"a": 8 * c.ti, "b": 16 * c.ti, "psum": 32})


def drain_lanes(c: EngineConfig) -> ArrayTop:
    bank = (NUM_PARAM_BANKS - 1).bit_length()
    return ArrayTop(lambda **ports: arrays.drain_lanes(c, **ports),
                    {"load_en": 1, "load_bank": bank, "load_index": 7, "load_data": 8 * c.vector_bytes, "valid": 1, "acc": 32 * c.to, "bank": bank,
                     "column_params": 1, "mult": 16, "shift": 6, "to16": 1, "stream": 1, "data": 16 * c.to, "through": 1, "act": 1,
                     "which": max(1, (len(c.functions) - 1).bit_length()), "frac": 2, "second": 1,
                     "mult2": 16, "shift2": 6, "act_columns": 1, "plane": 2, "operand": 2, "other": 16 * c.to, "residual": 1, "fresh": 1,
                     "lanes": 7, "out": 1, "mean": 1,
                     "first_token": 1, "last_token": 1, "old": 16 * c.to},
                    {"out_valid": 1, "out_word": 32 * c.to, "valid8": 1, "word8": 8 * c.to, "word16": 16 * c.to, "d_sum": 32,
                     "d_squares": 48, "lane_max": 16})


def lane_memory(c: EngineConfig, bits: int, depth: int, window: int, rotate: bool) -> ArrayTop:
    address, group = (depth - 1).bit_length(), max(1, (c.groups - 1).bit_length())

    def make(*, wgroup, wmask, wdata, **ports):
        m = Module()
        mask, data = Signal(c.groups), Signal(bits * c.ti)
        m.submodules.window = arrays.lane_window(c, bits, window, group=wgroup, mask=wmask, data=wdata, bank_mask=mask, bank_data=data)
        m.submodules.memory = arrays.lane_memory(c, bits, depth, rotate, wgroup=wgroup, wmask=mask, wdata=data, **ports)
        return m
    return ArrayTop(make,
                    {"wen": 1, "waddr": address, "wstride": address, "wgroup": group, "wmask": window, "wdata": bits * c.group * window,
                     "ren": 1, "raddr": address, "rstride": address, "rgroup": group}, {"rdata": bits * c.ti})


def stream_fifo(bits: int, depth: int) -> ArrayTop:
    return ArrayTop(lambda *, clear, **ports: arrays.stream_fifo(depth, rst=clear, **ports),
                    {"clear": 1, "wen": 1, "wdata": bits, "ren": 1}, {"rvalid": 1, "rdata": bits})


class AxiTop(wiring.Component):
    """A component whose AXI channels (``channels``: "ar", "r", ...) get the ports ``prefix`` + name, so that bus models find them.

    An array of ports becomes ports ``name_0``, ``name_1``, ... With ``ids`` the channels also have a one-bit ID:
    requests send 0, IDs of answers are not looked at. Wires only: no latency, no cells.
    """

    def __init__(self, inner: wiring.Component, channels: tuple[str, ...], prefix: str, ids: bool):
        self.inner, self.ports = inner, {}
        longest = sorted(channels, key=len, reverse=True)
        members = {}
        for name, member in inner.signature.members.items():
            channel = next((ch for ch in longest if name in (ch + "valid", ch + "ready") or name.startswith(ch) and name[len(ch):] in
                            ("addr", "len", "size", "burst", "data", "strb", "resp", "last", "prot")), None)
            outside = prefix + name if channel else name
            for index in range(member.dimensions[0]) if member.dimensions else (None,):
                key = outside if index is None else f"{outside}_{index}"
                self.ports[key] = name, index
                members[key] = member.flow(member.shape)
        self.ids = [prefix + ch + "id" for ch in channels if ids and ch != "w"]
        members |= {name: (Out if name[len(prefix)] == "a" else In)(1) for name in self.ids}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = self.inner
        for outside, (name, index) in self.ports.items():
            inside, port = getattr(self.inner, name), getattr(self, outside)
            inside = inside if index is None else inside[index]
            if self.inner.signature.members[name].flow == Out:
                m.d.comb += port.eq(inside)
            else:
                m.d.comb += inside.eq(port)
        return m
