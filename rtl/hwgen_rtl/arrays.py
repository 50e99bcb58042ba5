"""Amaranth side of the SystemVerilog modules in rtl/sv: one function per module, ports as keyword arguments.

Each returns an Instance to be added as a submodule; the module's file documents ports, latency and arithmetic.
"""

from amaranth.hdl import C, ClockSignal, Const, Instance, Signal

from hwgen import numerics
from hwgen.engine import NUM_PARAM_BANKS, EngineConfig
from hwgen.knots import knots


def packed_table(values, bits=16) -> int:
    """A table as one wide constant, entry 0 in the lowest bits."""
    return sum(int(v) << bits * i for i, v in enumerate(values))


def signed_word(bits, values) -> int:
    """Signed numbers side by side, the first in the highest bits."""
    word = 0
    for width, value in zip(bits, values, strict=True):
        word = word << width | value & (1 << width) - 1
    return word


def _ports(inputs, outputs):
    return {f"i_{k}": v for k, v in inputs.items()} | {f"o_{k}": v for k, v in outputs.items()}


def pe_array(config: EngineConfig, *, clear, sum, taken, **inputs):
    """rtl/sv/pe_array.sv or pe_array_packed.sv: sum = SEG + 1 cycles after a."""
    name, fabric = ("pe_array_packed", {"p_FABRIC": C(config.fabric_columns // 2, 32)}) if config.packed else ("pe_array", {})
    return Instance(name, p_TI=C(config.ti, 32), p_TO=C(config.to, 32), p_SEG=C(config.segment, 32),
                    p_LC=C(config.load_columns, 32), **fabric, i_clk=ClockSignal(), i_rst=clear,
                    **_ports(inputs, {"sum": sum, "taken": taken}))


def accumulator(config: EngineConfig, *, acc, acc_valid, **inputs):
    """rtl/sv/accumulator.sv: acc = 2 cycles after sum."""
    return Instance("accumulator", p_TO=C(config.to, 32), p_DEPTH=C(config.max_tokens, 32), i_clk=ClockSignal(),
                    **_ports(inputs, {"acc": acc, "acc_valid": acc_valid}))


def feed_lanes(config: EngineConfig, *, a, b, psum, **inputs):
    """rtl/sv/feed_lanes.sv: a and b = 3, psum = 5 cycles after the input."""
    return Instance("feed_lanes", p_TI=C(config.ti, 32), p_FRAC=C(numerics.EXP_FRAC, 32), p_WIDE=C(int(config.wide), 32),
                    p_BYPASS=C(int(config.bypass), 32), p_LISTS=C(int(config.list_words > 0), 32), i_clk=ClockSignal(),
                    p_EXP_TABLE=Const(packed_table(numerics.EXP_P8), 16 * len(numerics.EXP_P8)),
                    **_ports(inputs, {"a": a, "b": b, "psum": psum}))


DRAIN_OUTPUTS = ("out_valid", "out_word", "valid8", "word8", "word16", "d_sum", "d_squares", "lane_max")


def drain_lanes(config: EngineConfig, **ports):
    """rtl/sv/drain_lanes.sv: words 8, statistics 9 cycles after acc."""
    tables = [knots(name) for name in config.functions]
    values = [[*table.value.tolist(), int(table.value[-1] + table.slope[-1])] for table in tables]
    ends = [signed_word((numerics.KNOT_BITS, numerics.END_BITS), (offset, slope)) for table in tables for slope, offset in table.ends]
    knot_bits, end_bits = numerics.KNOT_BITS + 1, numerics.KNOT_BITS + numerics.END_BITS        # the last knot may need one bit more
    outputs = {k: ports.pop(k) for k in DRAIN_OUTPUTS}
    number = ports.pop("which")
    which = number[:(len(tables) - 1).bit_length()] if len(tables) > 1 else C(0, 1)
    return Instance("drain_lanes", p_VB=C(config.vector_bytes, 32), p_TO=C(config.to, 32), p_BANKS=C(NUM_PARAM_BANKS, 32),
                    p_FUNCTIONS=C(len(tables), 32), p_FINE=C(3 if config.packed else 1, 32), p_WIDE=C(int(config.wide or config.scores), 32),
                    p_OPERAND=C(2 * config.rotate + (config.operand_words > 0), 32),
                    p_BYPASS=C(int(config.bypass), 32),
                    **{f"p_KNOTS_{n}": Const(packed_table((v & (1 << knot_bits) - 1 for v in knot), knot_bits), knot_bits * len(knot))
                       for n, knot in enumerate(values)},
                    p_ENDS=Const(packed_table(ends, end_bits), end_bits * len(ends)), i_clk=ClockSignal(), i_which=which, **_ports(ports, outputs))


def lane_window(config: EngineConfig, bits: int, window: int, *, bank_mask, bank_data, **inputs):
    """rtl/sv/lane_window.sv: ``window`` groups of lanes put to the banks of lane memories; combinational."""
    return Instance("lane_window", p_W=C(bits, 32), p_G=C(config.group, 32), p_GROUPS=C(config.groups, 32), p_WGROUPS=C(window, 32),
                    **_ports(inputs, {"bank_mask": bank_mask, "bank_data": bank_data}))


def lane_memory(config: EngineConfig, bits: int, depth: int, rotate: bool, *, rdata, **inputs):
    """rtl/sv/lane_memory.sv: a memory of words of Ti lanes, read from any group on if ``rotate``; rdata 1 cycle after raddr."""
    return Instance("lane_memory", p_W=C(bits, 32), p_G=C(config.group, 32), p_GROUPS=C(config.groups, 32),
                    p_ROTATE=C(int(rotate), 32), p_DEPTH=C(depth, 32), i_clk=ClockSignal(),
                    **_ports(inputs, {"rdata": rdata}))


def stream_fifo(depth: int, *, rst, rvalid, rdata, **inputs):
    """rtl/sv/stream_fifo.sv: a queue of ``depth`` words as wide as ``rdata``; ``rst`` empties it."""
    return Instance("stream_fifo", p_W=C(len(rdata), 32), p_DEPTH=C(depth, 32), i_clk=ClockSignal(), i_rst=rst,
                    **_ports(inputs, {"rvalid": rvalid, "rdata": rdata}))


def delayed(m, value, cycles: int, rst, name: str):
    """``value`` as it was ``cycles`` ago, through rtl/sv/delay.sv in slices of at most 64 bits; ``rst`` clears it."""
    if cycles == 0:
        return value
    result = Signal(len(value), name=name)
    for low in range(0, len(value), 64):
        part = result[low:low + 64]
        out = Signal(len(part), name=f"{name}_{low}")
        m.submodules[f"{name}_{low}_line"] = Instance(
            "delay", p_W=C(len(part), 32), p_N=C(cycles, 32), i_clk=ClockSignal(), i_rst=rst, i_d=value[low:low + 64], o_q=out)
        m.d.comb += part.eq(out)
    return result
