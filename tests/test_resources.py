"""Resource estimate: counted by hand where that can be done, monotonic elsewhere; refusals name both numbers and the unit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from hwgen.devices.board import boards, load_board
from hwgen.devices.family import bundled_families
from hwgen.engine import EngineConfig
from hwgen.engines.rtl import cost as resources
from hwgen.engines.rtl.cost import KINDS, check_fit
from hwgen.errors import CapacityError

# the example on a small engine, and DeiT-T on large ones
SMALL = EngineConfig(ti=16, to=16, max_tokens=32, act_words=256, kv_words=256, score_words=128, res_words=128, program_words=128,
                     max_experts=8, max_top_k=2, axi_data_bits=512, fifo_beats=512)
LARGE = EngineConfig(ti=64, to=64, max_tokens=256, act_words=4096, kv_words=1280, score_words=1664, res_words=640,
                     program_words=400, max_experts=0, max_top_k=0, axi_data_bits=512, fifo_beats=1024, packed=True)
ZCU102 = load_board("zcu102")        # no UltraRAM


def test_by_unit_adds_up():
    for config in (SMALL, LARGE):
        for board in boards():
            total = resources.estimate(config, board)
            for kind in KINDS:
                assert getattr(total, kind) == sum(getattr(r, kind) for r in total.by_unit.values())
                assert all(getattr(r, kind) >= 0 for r in total.by_unit.values())
            assert all(r.by_unit == {} for r in total.by_unit.values())


def test_dsps_by_hand():
    """Array 16*16; drain 16 lanes * (2 + 1 + 1 + 1); feed 16; router 6 of 8 experts, one of 2 places, reciprocal 2; coefficients:
    48x12 and 32x32 for the variance, 32x17 for the mean, seven small ones."""
    units = {unit: r.dsp for unit, r in resources.estimate(SMALL, ZCU102).by_unit.items() if r.dsp}
    assert units == {"array": 256, "drain": 80, "feed": 16, "router": 9, "coefficients": 3 + 4 + 2 + 7, "sequencer": 1}
    assert resources.estimate(LARGE, ZCU102).by_unit["array"].dsp == 64 * 64 // 2
    assert resources.estimate(replace(LARGE, packed=False), ZCU102).by_unit["array"].dsp == 64 * 64
    assert "router" not in resources.estimate(LARGE, ZCU102).by_unit


def test_lists_of_tokens():
    """A memory of To numbers of 16 bits a word, the registers of two words, and counters; nothing else changes."""
    plain, listed = (resources.estimate(replace(SMALL, list_words=words), ZCU102) for words in (0, 512))
    assert "lists" not in plain.by_unit and listed.by_unit["lists"].bram36 == 4
    assert 500 < listed.by_unit["lists"].lut < 3000 and listed.by_unit["lists"].ff > 16 * 16 * 3
    assert {unit: used for unit, used in listed.by_unit.items() if unit != "lists"} == plain.by_unit


def test_a_choice_of_tokens():
    """Its logic is within a half of what Yosys counts for 16 lanes (796 LUTs, 2,009 flip-flops; its scores lie in LUTs)."""
    plain, picks = (resources.estimate(replace(SMALL, list_words=64, picks=found), ZCU102) for found in (False, True))
    unit = picks.by_unit["choice of tokens"]
    assert 1100 < unit.lut < 2100 and 1400 < unit.ff < 2600 and unit.bram36 <= 1
    assert {name: used for name, used in picks.by_unit.items() if name != "choice of tokens"} == plain.by_unit


def test_dsps_of_the_ecp5():
    """18x18: the scale of a drain lane and the normalisation of a feed lane (21x18) take two multipliers; the nineteenth bit of a sum
    of eight experts takes none, the twentieth of nine and more another multiplier."""
    config = replace(SMALL, ti=8, to=8, axi_data_bits=32)
    units = resources.estimate(config, load_board("ulx3s-85f")).by_unit
    assert (units["array"].dsp, units["drain"].dsp, units["feed"].dsp, units["router"].dsp) == (64, 8 * 6, 8 * 2, 6 + 3)
    assert units["coefficients"].dsp + units["sequencer"].dsp == 17
    assert resources.estimate(config, load_board("ulx3s-85f")).dsp == 154, "as Yosys counts it (hwgen synth)"
    sixteen = replace(SMALL, max_experts=16, max_top_k=4)
    assert resources.estimate(sixteen, load_board("ulx3s-85f")).by_unit["router"].dsp == 14 * 2 + 5


@pytest.mark.parametrize("board, config, totals", [      # LUT, FF, DSP, BRAM36, UltraRAM, as when families were Python
    ("zcu102", SMALL, (21_580, 21_072, 378, 61, 0)), ("zcu102", LARGE, (90_980, 70_312, 2_449, 315, 0)),
    ("zcu104", LARGE, (90_980, 70_312, 2_449, 255, 8)), ("kv260", LARGE, (90_980, 70_312, 2_449, 113, 64)),
    ("sim", SMALL, (21_580, 21_072, 378, 61, 0)), ("sim", LARGE, (90_980, 70_312, 2_449, 315, 0)),
    ("ulx3s-85f", replace(SMALL, ti=8, to=8, axi_data_bits=32), (28_173, 18_048, 154, 40, 0)),
    ("ulx3s-85f", LARGE, (268_685, 204_456, 2_705, 315, 0)),
])
def test_totals_of_the_families(board, config, totals):
    found = resources.estimate(config, load_board(board))
    assert (found.lut, found.ff, found.dsp, found.bram36, found.uram) == totals


def test_a_zynq_7000_by_hand():
    """DSP48E1, 25x18: 16*8 for the array, 8 lanes * 5, 16, and 17 for coefficients and sequencer; a router of 8 experts and 2 places 9."""
    board = load_board("pynq-z2")
    config = replace(SMALL, to=8, axi_data_bits=64, fifo_beats=8192, max_experts=0, max_top_k=0)
    units = {unit: r.dsp for unit, r in resources.estimate(config, board).by_unit.items() if r.dsp}
    assert units == {"array": 128, "drain": 40, "feed": 16, "coefficients": 16, "sequencer": 1}
    assert check_fit(replace(config, max_experts=8, max_top_k=2), board).dsp == 210
    assert resources.estimate(config, board) == resources.estimate(config, load_board("zedboard"))


def test_a_cyclone_v_by_hand():
    """Halves of a DSP block, 18x18: a drain lane takes six, a feed lane two. M10K of 10 kbit, 3.6 to a block RAM of 36 kbit."""
    board = load_board("de10-nano")
    config = replace(SMALL, ti=8, to=8, axi_data_bits=256, fifo_beats=2048, max_experts=0, max_top_k=0)
    units = resources.estimate(config, board).by_unit
    assert {unit: r.dsp for unit, r in units.items() if r.dsp} == {"array": 64, "drain": 48, "feed": 16, "coefficients": 16, "sequencer": 1}
    assert units["weight FIFO"].bram36 == 15        # 256 bits of 2048 words: 52 M10K of 2048 x 5
    assert units["drain"].bram36 == 5               # 4 tables of 36 bits, 1024 words: 4 M10K of 1024 x 10 each
    assert units["accumulators"].lut == 8 * 32 + 13 * 10        # 256 bits of 32 words: 13 MLABs of 20 bits


def test_a_share_of_a_chip_is_not_used():
    board = load_board("pynq-z2")
    assert (board.usable("lut"), board.usable("dsp"), load_board("zcu102").usable("lut")) == (42_560, 220, 274_080)
    config = replace(SMALL, to=8, axi_data_bits=64)
    need = resources.estimate(config, board).lut
    assert check_fit(config, replace(board, lut=need * 5 // 4 + 1))
    with pytest.raises(CapacityError, match=rf"needs {need:,} LUTs, pynq-z2 has {need + 9:,}, of which {int((need + 9) * 0.8):,} can be used"):
        check_fit(config, replace(board, lut=need + 9))


def test_block_rams_by_hand():
    """Halves per bank of 128 bits: 1280 words = 4 wide, 3 deep (512 x 36); 4096 words = 15 wide, 2 deep (2048 x 9)."""
    units = {unit: r.bram36 for unit, r in resources.estimate(LARGE, ZCU102).by_unit.items()}
    assert units["keys and values"] == 4 * 4 * 3 / 2
    assert units["accumulators"] == 29             # 2048 bits of 256 words: 57 halves of 512 x 36
    assert units["program"] == 2 * 15 / 2         # 512 bits: 15 halves of 512 x 36
    assert units["activations"] == 4 * 15 * 2 / 2
    assert resources.estimate(LARGE, ZCU102).uram == 0


def test_no_memory_is_smaller_than_its_bits():
    memories = resources._memories(LARGE)
    for family in bundled_families():
        bits = max(width * depth for width, depth in family.block_ram.shapes)
        assert all(bits * resources._blocks(m, family.block_ram.shapes) >= m.width * m.depth for m in memories), family.name


def test_memories_of_the_engine_are_all_counted():
    """Every memory depth of the configuration changes the estimate."""
    base = resources.estimate(LARGE, ZCU102).bram36
    for field, factor in [("act_words", 2), ("kv_words", 2), ("score_words", 2), ("res_words", 4), ("program_words", 4),
                          ("fifo_beats", 4), ("max_tokens", 4)]:
        assert resources.estimate(replace(LARGE, **{field: factor * getattr(LARGE, field)}), ZCU102).bram36 > base, field


def test_uram_takes_the_deep_memories_and_no_more_than_there_are():
    board = load_board("zcu104")
    here, there = resources.estimate(LARGE, board), resources.estimate(LARGE, ZCU102)
    assert here.by_unit["activations"].uram == 4 * 2            # a bank of 128 x 4096 is two UltraRAMs
    assert here.by_unit["activations"].bram36 == 0
    assert here.bram36 < there.bram36 - 4 * here.uram + 1
    few = resources.estimate(LARGE, replace(board, uram=7, bram36=912))
    assert few.uram == 0 and few.by_unit["activations"].bram36 == 60
    assert resources.estimate(LARGE, load_board("zcu102")).uram == 0


def test_uram_takes_shallow_memories_where_block_ram_lacks():
    board = load_board("kv260")
    here, there = resources.estimate(replace(LARGE, to=32), board), resources.estimate(replace(LARGE, to=32), load_board("zcu104"))
    assert there.uram < here.uram <= board.uram
    assert here.bram36 <= board.bram36 < there.bram36


@pytest.mark.parametrize("field, value", [("to", 48), ("to", 32), ("ti", 64), ("max_experts", 16)])
def test_estimate_needs_no_tool_and_no_board(field, value):
    config = replace(LARGE, **{field: value}) if field != "max_experts" else replace(LARGE, max_experts=value, max_top_k=2)
    assert all(getattr(resources.estimate(config, ZCU102), kind) > 0 for kind in ("lut", "ff", "dsp", "bram36"))


def test_more_lanes_need_more():
    sizes = [(16, 16), (32, 16), (32, 32), (64, 32), (64, 48), (64, 64)]
    results = [resources.estimate(replace(LARGE, ti=ti, to=to), ZCU102) for ti, to in sizes]
    for smaller, larger in pairwise(results):
        assert smaller.dsp < larger.dsp and smaller.lut < larger.lut and smaller.ff < larger.ff


# ---------------------------------------------------------------- fit

def test_design_sizes_fit_their_boards():
    assert check_fit(LARGE, load_board("zcu102")).dsp > 2048
    assert check_fit(replace(LARGE, to=32), load_board("zcu104")).dsp > 1024
    assert check_fit(replace(LARGE, ti=32, to=32), load_board("kv260")).dsp > 512
    small = replace(SMALL, ti=8, to=8, axi_data_bits=32, max_experts=0, max_top_k=0)
    assert check_fit(small, load_board("ulx3s-85f")).dsp > 64
    assert check_fit(replace(LARGE, packed=False), load_board("sim")).dsp > 4096


def test_one_array_of_every_board_fits():
    """A small network, with the first array that fits: the way the compiler chooses."""
    def fits(board, ti, to):
        config = replace(SMALL, ti=ti, to=to, axi_data_bits=board.axi_bits(to), packed=board.packed)
        try:
            check_fit(config, board)
        except CapacityError:
            return False
        return True
    assert [board.name for board in boards() if not any(fits(board, ti, to) for ti, to in board.arrays)] == []


@pytest.mark.parametrize("board, change, message, where, hint", [
    ("zcu104", {}, r"an engine of 64x64 needs 2,\d{3} DSPs, zcu104 has 1,728", "most of them in: array (2,048)",
     "use an array smaller than 64x64 (--array), or a larger board"),
    ("zcu102", {"act_words": 65536}, r"an engine of 64x64 needs 1,\d{3} block RAMs, zcu102 has 912",
     "most of them in: activations (960)", "use a network with fewer tokens or narrower layers, or a board with more memory"),
    ("ulx3s-85f", {"ti": 8, "to": 8, "packed": False, "max_experts": 8, "max_top_k": 6, "axi_data_bits": 32},
     "an engine of 8x8 needs 158 DSPs, ulx3s-85f has 156", "most of them in: array (64)",
     "use a larger board: 8x8 is the smallest array"),
    ("ulx3s-85f", {"ti": 16, "to": 16, "packed": False}, r"needs \d{3} DSPs, ulx3s-85f has 156",
     "most of them in: array (256)", "use an array smaller than 16x16 (--array), or a larger board"),
])
def test_refusal_names_both_numbers_and_the_largest_unit(board, change, message, where, hint):
    with pytest.raises(CapacityError, match=message) as info:
        check_fit(replace(LARGE, **change), load_board(board))
    assert info.value.where == where
    assert info.value.hint == hint


@pytest.mark.parametrize("kind", KINDS)
def test_every_resource_is_checked(kind):
    board = load_board("zcu104")
    config = replace(LARGE, to=32)
    need = getattr(check_fit(config, board), kind)
    if kind == "uram":
        assert need <= board.uram
        return
    exact = replace(board, **{kind: need, "uram": 8})       # no UltraRAM to spare: none takes over for block RAM
    assert check_fit(config, exact) == check_fit(config, board)
    with pytest.raises(CapacityError, match=f"needs {need:,} {KINDS[kind]}, zcu104 has {need - 1:,}"):
        check_fit(config, replace(exact, **{kind: need - 1}))
