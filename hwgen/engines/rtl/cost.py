"""Resource estimate of an engine from its structure, before any tool has run; and whether it fits a board.

Stage: estimate. What it is made of, unit by unit (`rtl/sv`, `rtl/hwgen_rtl`); what a cell holds is the family's (`hwgen.devices.family`):

Multipliers. `_products` lists every product of the RTL with the widths its operands can take (`hwgen.numerics`); `_tiles`
counts the multipliers a product is cut into. The array takes one per int8 product, half as many when packed. A drain lane takes 5 products
(requantize in two parts, 17x17 and 15x18, with a multiplier shifted for 27x18 up to 24 bits; activation scale or router score 25x18;
interpolation 18x18; sum of squares 17x17), a feed lane 1 (normalise 21x18): Yosys finds the same products (tests/rtl/test_synthesis.py)
and the same sums.

Memories. `_memories` lists width, depth and copies; every bank of a lane memory is cut separately into blocks of the shape that takes
fewest; a few words go into LUTs. Where there is a larger kind of memory, those that free most block RAM by it go there.

LUTs and flip-flops. The family's costs: per processing element, lane, output column, ... Place and route needs room; how much of a chip
may be used is the family's too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil

from ...devices.board import Board
from ...devices.family import Multiplier
from ...engine import EngineConfig
from ...errors import CapacityError
from ...isa import WORD_BITS

OUT_WORDS = 16           # queue of the output writer
WIDE_FEED, WIDE_DRAIN = 0.15, 0.08       # what operands of 16 bits add to a lane of the feed and of the drain
PAST_FEED, PAST_DRAIN = 0.35, 0.1         # what words that go past the array add to a lane: their high bits; their way to the drain
SCORE_EXPERT, SCORE_PLACE, SCORE_TOP = 0.4, 1.15, 5      # what a router of scores adds: experts, their places, and places alone, in router parts
CAUSAL = 0.014           # what a limit of keys adds to the control: 80 LUTs, 52 flip-flops
LISTS = 0.1              # counters of a list and stages of the feeder; the registers of its words, and of what a stream brings, are bytes of a stream
PICKS, PICK_LANE = 0.05, 3   # what chooses tokens (Yosys: 796 LUTs and 2,009 flip-flops at 16 lanes): its counters; a lane, in bytes of a stream
LENGTHS = 0.12           # what run-time lengths do: 700 LUTs, 520 flip-flops, half of them registers and their reading


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


def estimate(config: EngineConfig, board: Board) -> Resources:
    """Cells of one engine: of the board's family, and in larger memories as far as the board has them."""
    family = board.family
    lut: defaultdict[str, float] = defaultdict(float)
    ff: defaultdict[str, float] = defaultdict(float)
    dsp: defaultdict[str, int] = defaultdict(int)
    blocks: defaultdict[str, int] = defaultdict(int)
    uram: defaultdict[str, int] = defaultdict(int)
    for unit, what, count in _logic(config):
        luts, flip_flops = family.costs[what]
        lut[unit] += luts * count
        ff[unit] += flip_flops * count
    for product in _products(config):
        dsp[product.unit] += product.count * _tiles(product, family.multiplier)
    memories = _memories(config)
    for memory, large in zip(memories, _to_large(memories, board), strict=True):
        if large:
            uram[memory.unit] += large
        elif memory.depth <= family.lutram.words:
            copies = memory.count * ceil(memory.width / family.lutram.width) * ceil(memory.depth / family.lutram.depth)
            lut[memory.unit] += copies * family.lutram.luts
        else:
            blocks[memory.unit] += memory.count * _blocks(memory, family.block_ram.shapes)
    per_bram36 = family.block_ram.per_bram36
    units = {unit: Resources(ceil(lut[unit]), ceil(ff[unit]), dsp[unit], ceil(blocks[unit] / per_bram36), uram[unit])
             for unit in {**lut, **ff, **dsp, **blocks, **uram}}
    totals = {kind: sum(getattr(r, kind) for r in units.values()) for kind in KINDS}
    return Resources(**totals, by_unit=units)


def check_fit(config: EngineConfig, board: Board) -> Resources:
    """The estimate; raises CapacityError for the first resource of which the board has too little."""
    need = estimate(config, board)
    for kind, name in KINDS.items():
        needed, available, usable = getattr(need, kind), getattr(board, kind), board.usable(kind)
        if needed > usable:
            unit, part = max(((u, getattr(r, kind)) for u, r in need.by_unit.items()), key=lambda item: item[1])
            share = f", of which {usable:,} can be used" if usable < available else ""
            raise CapacityError(
                f"an engine of {config.ti}x{config.to} needs {needed:,} {name}, {board.name} has {available:,}{share}",
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
    wide: bool = True            # may be in the larger kind (whole words are written)


def _products(c: EngineConfig) -> list[_Product]:
    pairs = c.ti * (c.to - c.fabric_columns)
    scale = 23 if c.packed else 17                  # a multiplier shifted for the wide operand of a slice
    products = [
        _Product("array", ceil(pairs / 2) if c.packed else pairs, (8, 8)),
        _Product("drain", c.to, (17, scale), False), _Product("drain", c.to, (15, scale + 1)),      # requantize, lower and upper bits
        _Product("drain", c.to, (25, 18)),                                          # activation scale, router score
        _Product("drain", c.to, (18, 18)), _Product("drain", c.to, (17, 17)),        # interpolation; sum of squares
        *([_Product("drain", c.to, (17, 16))] if c.rotate else []),                 # the other lane of a pair that is turned
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
    if c.scores:
        products += [_Product("router", c.max_top_k + 1, (16, 16), False), _Product("router", 1, (17, 16), False)]
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
        *([_Memory("operands", 1, 16 * c.to, c.operand_words)] if c.operand_words else []),
        *([_Memory("lists", 1, 16 * c.to, c.list_words)] if c.list_words else []),
        _Memory("accumulators", 1, 32 * c.to, c.max_tokens),
        _Memory("program", 2, WORD_BITS, c.program_words, wide=False),      # loader and feeder walk it apart; 32-bit writes
        _Memory("weight FIFO", 1, c.axi_data_bits, c.fifo_beats),
        _Memory("statistics", 2, 80, c.max_tokens), _Memory("statistics", 2, 16, 2 * c.max_tokens),
        _Memory("statistics", 1, 32, c.max_tokens), _Memory("statistics", 1, 22, c.max_tokens),
        _Memory("coefficients", 2, 16, 256),
        _Memory("output", 1, 32 * c.to, OUT_WORDS), _Memory("output", 1, 64, OUT_WORDS),
        _Memory("feed", ceil(c.ti / 2), 9, 1024, wide=False),               # exponentials, two lanes a table
        _Memory("drain", ceil(c.to / 2), 36, 1024 * len(c.functions), wide=False),         # knots of the activations, two lanes a table
        *router,
        *([_Memory("choice of tokens", 2 * c.bypass_lanes, 16, ceil(c.max_tokens / c.bypass_lanes)),       # scores, two ports to read
           _Memory("choice of tokens", 1, 16, c.max_tokens)] if c.picks else []),
    ]


def _logic(c: EngineConfig) -> list[tuple[str, str, float]]:
    """(unit, entry of the family's costs, how many)."""
    logic: list[tuple[str, str, float]] = [
        ("array", "processing element", c.ti * c.to), ("array", "array row", c.ti), ("array", "array column", c.to),
        ("array", "fabric element", c.ti * c.fabric_columns),
        ("accumulators", "accumulator column", c.to), ("drain", "drain lane", c.to * (1 + (c.wide or c.scores) * WIDE_DRAIN + c.bypass * PAST_DRAIN)),
        ("feed", "feed lane", c.ti * (1 + c.wide * WIDE_FEED + c.bypass * PAST_FEED)),
        ("sequencer", "control", 1 + c.causal * CAUSAL + c.lengths * LENGTHS), ("weight FIFO", "stream byte", c.ti + c.axi_data_bits // 8),
        *([("lists", "control", LISTS), ("lists", "stream byte", 6 * c.to)] if c.list_words else []),
    ]
    if c.picks:
        logic += [("choice of tokens", "control", PICKS), ("choice of tokens", "stream byte", PICK_LANE * c.bypass_lanes + c.to)]
    if c.groups > 1:        # written windows of 8 and of 16 bits, read ones of keys and values and of the residual
        logic += [(unit, "memory lane bit", bits * c.ti) for unit, bits in (("activations", 8), ("keys and values", 8), ("residual", 32))]
    if c.max_experts:
        lanes = _router_lanes(c)
        logic += [("router", "router expert", lanes * (1 + c.scores * SCORE_EXPERT)),
                  ("router", "router place", c.max_top_k * (lanes * (1 + c.scores * SCORE_PLACE) + c.scores * SCORE_TOP))]
    return logic


def _router_lanes(c: EngineConfig) -> int:
    return max(c.max_experts, 8 if c.scores else 4)


# ---------------------------------------------------------------- cells

def _tiles(product: _Product, m: Multiplier) -> int:
    """Multipliers a product is cut into."""
    narrow, wide = sorted(bits + (m.signed_only and not product.signed) for bits in product.bits)
    return _pieces(wide, m.wide, m.piece) * _pieces(narrow, m.narrow, m.piece)


def _pieces(bits: int, most: int, piece: int) -> int:
    """Pieces of an operand that are multiplied: a rest of one bit is a row of AND gates."""
    whole = ceil(max(0, bits - most) / piece)
    return whole + (bits - whole * piece > 1)


def _blocks(memory: _Memory, shapes: Iterable[tuple[int, int]]) -> int:
    """Blocks of one copy, in the shape (width, depth) that takes fewest."""
    return min(ceil(memory.width / width) * ceil(memory.depth / depth) for width, depth in shapes)


def _to_large(memories: list[_Memory], board: Board) -> list[int]:
    """Large memories (UltraRAM) of each memory, 0 for those that stay in block RAM: the best gain first, the rest while block RAM lacks."""
    result = [0] * len(memories)
    family = board.family
    large, per_bram36 = family.large_ram, family.block_ram.per_bram36
    if large is None:
        return result
    blocks = [m.count * _blocks(m, family.block_ram.shapes) if m.depth > family.lutram.words else 0 for m in memories]
    needed = [m.count * ceil(m.width / large.width) * ceil(m.depth / large.depth) for m in memories]
    movable = [i for i, m in enumerate(memories) if m.wide and blocks[i]]
    available, missing = board.uram, sum(blocks) / per_bram36 - board.bram36
    for i in sorted(movable, key=lambda i: (-blocks[i] / needed[i], i)):
        if needed[i] <= available and (blocks[i] / per_bram36 >= large.least_gain * needed[i] or missing > 0):
            result[i], available, missing = needed[i], available - needed[i], missing - blocks[i] / per_bram36
    return result
