"""Resource estimate of an engine from its structure, before any tool has run; and whether it fits a board.

Stage: estimate. What it is made of, unit by unit (`rtl/sv`, `rtl/hwgen_rtl`):

Multipliers. `_products` lists every product of the RTL with the widths its operands can take (`hwgen.numerics`); `_tiles`
counts the multipliers a product is cut into: 27x18 signed on UltraScale+ (DSP48E2), 18x18 signed or unsigned on the ECP5. The array takes
one per int8 product, half as many when packed. A drain lane takes 5 (requantize in two parts, 17x17 and 15x18, with a multiplier shifted
for 27x18 up to 24 bits; activation scale or router score 24x18; interpolation 17x13; sum of squares 17x17), a feed lane 1 (normalise
21x18): Yosys finds the same products (tests/rtl/test_synthesis.py) and the same sums.

Memories. `_memories` lists width, depth and copies; every bank of a lane memory is cut separately. A block RAM of 36 kbit is
two halves of 512 x 36, 1024 x 18, 2048 x 9, ... bits (an ECP5 EBR is one half); 64 words or less go into LUTs. On a board with
UltraRAM (4096 x 72) the memories that free most block RAM per UltraRAM go there.

LUTs and flip-flops. `COSTS`: per processing element, lane, output column, ... as Yosys counted them, without the adders and registers
that a DSP48E2 holds (in_dsp of flows/yosys.toml). The ECP5 has LUT4 instead of LUT6 and bare multipliers: `COSTS_ECP5` where Yosys
counted, else `LUT4_PER_LUT6` times. Place and route needs room: 80 % of the LUTs of a chip is a full chip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from .board import Board, Family
from .engine import EngineConfig
from .errors import CapacityError
from .isa import WORD_BITS

OUT_WORDS = 16           # queue of the output writer
LUT4_PER_LUT6 = 1.8
LUTRAM_WORDS = 64        # memories of so many words or less go into LUTs: 8 LUTs hold 32 words of 14 bits (RAM32M16)
URAM_WIDTH, URAM_DEPTH = 72, 4096
URAM_LEAST_GAIN = 4      # block RAMs an UltraRAM must free, unless block RAM lacks; it holds as much as 8
BRAM_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))      # half a BRAM36: width, depth


@dataclass(frozen=True)
class _Multiplier:
    """Operands of one hard multiplier. A wider operand is cut into pieces of ``piece`` bits, lowest first, until the rest fits."""

    wide: int
    narrow: int
    piece: int
    signed_only: bool            # an unsigned operand takes a bit more


_DSP48E2 = _Multiplier(27, 18, 17, True)            # pieces as its cascade shifts
MULTIPLIER = {Family.ZYNQ_ULTRASCALE_PLUS: _DSP48E2, Family.SIM: _DSP48E2, Family.ECP5: _Multiplier(18, 18, 18, False)}

# unit: (LUT, flip-flops) of one, outside DSP slices. Counted with Yosys 0.70 (synth_xilinx -family xcup, tables filled), from the growth
# with one more of it: all but "control" and "stream byte", which are sums over the generated modules of 64x64 engines.
COSTS = {
    "processing element": (9.7, 8),          # load multiplexer, next weight; multiplier, adder and the weight at work in the DSP
    "fabric element": (54, 27),              # added to a processing element: its product by Booth digits, adder and registers
    "array row": (18, 2),
    "array column": (29, 47),
    "accumulator column": (32, 64),
    "drain lane": (434, 237),
    "feed lane": (95, 48),
    "router expert": (65, 175),
    "router place": (34, 21),                # of one expert
    "memory lane bit": (1, 0),               # rotation of a read word and of a written window
    "stream byte": (16, 24),                 # DMA, FIFO output, loader, load port
    "control": (6000, 9000),                 # sequencers, fetch, contexts, delay lines, registers, coefficients
}
COSTS_ECP5 = {"processing element": (38, 38), "drain lane": (905, 359), "feed lane": (372, 102)}      # (LUT4, flip-flops)


@dataclass(frozen=True)
class Resources:
    """Numbers of cells; ``by_unit`` splits them, its sums are the totals (block RAM rounded up per unit)."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram36: int = 0
    uram: int = 0
    by_unit: dict[str, Resources] = field(default_factory=dict)


KINDS = {"dsp": "DSPs", "bram36": "block RAMs", "uram": "UltraRAMs", "lut": "LUTs", "ff": "flip-flops"}   # order of `check_fit`


def estimate(config: EngineConfig, board: Board | None = None) -> Resources:
    """Cells of one engine. ``board`` decides on multiplier, LUT and UltraRAM; None: UltraScale+ without UltraRAM."""
    family = board.family if board else Family.ZYNQ_ULTRASCALE_PLUS
    lut, ff, dsp, halves, uram = ({} for _ in range(5))

    def add(table, unit, amount):
        table[unit] = table.get(unit, 0) + amount

    for unit, what, count in _logic(config):
        luts, flip_flops = COSTS[what]
        if family is Family.ECP5:
            luts, flip_flops = COSTS_ECP5.get(what, (LUT4_PER_LUT6 * luts, flip_flops))
        add(lut, unit, luts * count)
        add(ff, unit, flip_flops * count)
    for product in _products(config):
        add(dsp, product.unit, product.count * _tiles(product, MULTIPLIER[family]))
    factor = LUT4_PER_LUT6 if family is Family.ECP5 else 1
    memories = _memories(config)
    for memory, urams in zip(memories, _to_uram(memories, board)):
        if urams:
            add(uram, memory.unit, urams)
        elif memory.depth <= LUTRAM_WORDS:
            add(lut, memory.unit, memory.count * 8 * ceil(memory.width / 14) * ceil(memory.depth / 32) * factor)
        else:
            add(halves, memory.unit, memory.count * _bram_halves(memory.width, memory.depth))
    units = {unit: Resources(ceil(lut.get(unit, 0)), ff.get(unit, 0), dsp.get(unit, 0), ceil(halves.get(unit, 0) / 2),
                             uram.get(unit, 0)) for unit in {**lut, **ff, **dsp, **halves, **uram}}
    totals = {kind: sum(getattr(r, kind) for r in units.values()) for kind in KINDS}
    return Resources(**totals, by_unit=units)


def check_fit(config: EngineConfig, board: Board) -> Resources:
    """The estimate; raises CapacityError for the first resource of which the board has too little."""
    need = estimate(config, board)
    for kind, name in KINDS.items():
        needed, available = getattr(need, kind), getattr(board, kind)
        if needed > available:
            unit, part = max(((u, getattr(r, kind)) for u, r in need.by_unit.items()), key=lambda item: item[1])
            raise CapacityError(
                f"an engine of {config.ti}x{config.to} needs {needed:,} {name}, {board.name} has {available:,}",
                where=f"most of them in: {unit} ({part:,})",
                hint=_hint(config, kind))
    return need


def _hint(config: EngineConfig, kind: str) -> str:
    if kind in ("bram36", "uram"):
        return "use a network with fewer tokens or narrower layers, or a board with more memory"
    if config.ti == config.to == 8:
        return "use a larger board: 8x8 is the smallest array"
    return f"use an array smaller than {config.ti}x{config.to} (--array), or a larger board"


# ---------------------------------------------------------------- the engine's structure

@dataclass(frozen=True)
class _Product:
    unit: str
    count: int
    bits: tuple[int, int]        # of the operands
    signed: bool = True          # both, else neither


@dataclass(frozen=True)
class _Memory:
    unit: str
    count: int                   # banks x copies
    width: int                   # bits
    depth: int                   # words
    wide: bool = True            # may be an UltraRAM (whole words are written)


def _products(c: EngineConfig) -> list[_Product]:
    pairs = c.ti * (c.to - c.fabric_columns)
    scale = 23 if c.packed else 17                  # a multiplier shifted for the wide operand of a DSP48E2
    products = [
        _Product("array", ceil(pairs / 2) if c.packed else pairs, (8, 8)),
        _Product("drain", c.to, (17, scale), False), _Product("drain", c.to, (15, scale + 1)),      # requantize, lower and upper bits
        _Product("drain", c.to, (24, 18)),                                          # activation scale, router score
        _Product("drain", c.to, (17, 13)), _Product("drain", c.to, (17, 17)),        # interpolation; sum of squares
        _Product("feed", c.ti, (21, 18)),
        _Product("coefficients", 1, (48, 12), False), _Product("coefficients", 1, (32, 32)),               # variance
        _Product("coefficients", 1, (32, 17)),                                      # mean
        _Product("coefficients", 5, (16, 16), False), _Product("coefficients", 2, (18, 16), False),        # root, reciprocal, scale
        _Product("sequencer", 1, (16, 12), False),
    ]
    if c.max_experts:
        lanes = _router_lanes(c)
        products += [_Product("router", lanes - 2, (16 + (lanes - 1).bit_length(), 16), False),            # running sums
                     _Product("router", c.max_top_k, (16, 16), False), _Product("router", 1, (17, 16), False)]
    return products


def _memories(c: EngineConfig) -> list[_Memory]:
    bank = c.group
    router = [
        _Memory("router", c.max_experts, 32, c.max_tokens),                 # queues
        _Memory("router", ceil((_router_lanes(c) + c.max_top_k - 2) / 2), 17, 2048),        # exponentials, two ports a table
        _Memory("router", _router_lanes(c) + c.max_top_k // 2 + 1, 36, 512),                # what waits: short, in block RAM all the same
    ] if c.max_experts else []
    return [
        _Memory("activations", c.groups, 8 * bank, c.act_words),
        _Memory("keys and values", c.groups, 8 * bank, c.kv_words),
        _Memory("scores", c.groups, 16 * bank, c.score_words),
        _Memory("residual", 2 * c.groups, 16 * bank, c.res_words),          # one to feed, one to add to
        _Memory("accumulators", 1, 32 * c.to, c.max_tokens),
        _Memory("program", 2, WORD_BITS, c.program_words, wide=False),      # loader and feeder walk it apart; 32-bit writes
        _Memory("weight FIFO", 1, c.axi_data_bits, c.fifo_beats),
        _Memory("statistics", 2, 80, c.max_tokens), _Memory("statistics", 2, 16, 2 * c.max_tokens),
        _Memory("statistics", 1, 32, c.max_tokens), _Memory("statistics", 1, 22, c.max_tokens),
        _Memory("coefficients", 2, 16, 256),
        _Memory("output", 1, 32 * c.to, OUT_WORDS), _Memory("output", 1, 64, OUT_WORDS),
        _Memory("feed", ceil(c.ti / 2), 9, 1024, wide=False),               # exponentials, two lanes a table
        _Memory("drain", ceil(c.to / 2), 36, 1024, wide=False),             # knots of the activation, two lanes a table
        *router,
    ]


def _logic(c: EngineConfig) -> list[tuple[str, str, int]]:
    """(unit, entry of `COSTS`, how many)."""
    logic = [
        ("array", "processing element", c.ti * c.to), ("array", "array row", c.ti), ("array", "array column", c.to),
        ("array", "fabric element", c.ti * c.fabric_columns),
        ("accumulators", "accumulator column", c.to), ("drain", "drain lane", c.to), ("feed", "feed lane", c.ti),
        ("sequencer", "control", 1), ("weight FIFO", "stream byte", c.ti + c.axi_data_bits // 8),
    ]
    if c.groups > 1:        # written windows of 8 and of 16 bits, read ones of keys and values and of the residual
        logic += [(unit, "memory lane bit", bits * c.ti) for unit, bits in (("activations", 8), ("keys and values", 8), ("residual", 32))]
    if c.max_experts:
        logic += [("router", "router expert", _router_lanes(c)), ("router", "router place", c.max_top_k * _router_lanes(c))]
    return logic


def _router_lanes(c: EngineConfig) -> int:
    return max(c.max_experts, 4)


# ---------------------------------------------------------------- cells

def _tiles(product: _Product, m: _Multiplier) -> int:
    """Multipliers a product is cut into."""
    narrow, wide = sorted(bits + (m.signed_only and not product.signed) for bits in product.bits)
    return _pieces(wide, m.wide, m.piece) * _pieces(narrow, m.narrow, m.piece)


def _pieces(bits: int, most: int, piece: int) -> int:
    """Pieces of an operand that are multiplied: a rest of one bit is a row of AND gates."""
    whole = ceil(max(0, bits - most) / piece)
    return whole + (bits - whole * piece > 1)


def _bram_halves(width: int, depth: int) -> int:
    return min(ceil(width / w) * ceil(depth / d) for w, d in BRAM_SHAPES)


def _to_uram(memories: list[_Memory], board: Board | None) -> list[int]:
    """UltraRAMs of each memory, 0 for those that stay in block RAM: the best gain first, the rest while block RAM lacks."""
    result = [0] * len(memories)
    if board is None or board.family is not Family.ZYNQ_ULTRASCALE_PLUS:
        return result
    halves = [m.count * _bram_halves(m.width, m.depth) if m.depth > LUTRAM_WORDS else 0 for m in memories]
    urams = [m.count * ceil(m.width / URAM_WIDTH) * ceil(m.depth / URAM_DEPTH) for m in memories]
    movable = [i for i, m in enumerate(memories) if m.wide and halves[i]]
    available, missing = board.uram, sum(halves) / 2 - board.bram36
    for i in sorted(movable, key=lambda i: (-halves[i] / urams[i], i)):
        if urams[i] <= available and (halves[i] / 2 >= URAM_LEAST_GAIN * urams[i] or missing > 0):
            result[i], available, missing = urams[i], available - urams[i], missing - halves[i] / 2
    return result
