"""Every bench turns red when its design is broken: one small fault each, on Icarus Verilog."""

from dataclasses import replace

import pytest

from hwgen.errors import ToolError

pytest.importorskip("cocotb_tools")

from amaranth.hdl import C, Mux

from hwgen import numerics
from hwgen.engine import EngineConfig
from hwgen_rtl import axi, coefficients, engine, feeder, fetch, loader, picker, registers
from hwgen_sim.designs import BY_NAME, DESIGNS
from hwgen_sim.runner import Simulator, run

SV_FAULTS = (            # design, file, text, what it becomes
    ("pe_array_narrow", "pe_array.sv", "32'(data[j]) <<< 7", "32'(data[j]) <<< 6"),                     # column correction
    ("pe_array_tall", "pe_array.sv", "i = 2*SEG-1; i < TI", "i = 3*SEG-1; i < TI"),                     # second segment
    ("pe_array_packed_narrow", "pe_array_packed.sv", "32'(p[i][j][18]) : 32'd0", "32'd0 : 32'd0"),      # borrow
    ("pe_array_packed_fabric", "pe_array_packed.sv", "4'b0, bits[8], 1'b0", "6'b0"),         # Booth: last digit negative
    ("pe_array_packed_tall", "pe_array_packed.sv", "if (!load_index[0])", "if (!load_index[1])"),
    ("pe_array_narrow", "pe_array.sv", "(at | idle) & ~swap", "at | idle"),                             # a row that takes a tile twice
    ("pe_array_packed_narrow", "pe_array_packed.sv", "if (swap[SEG])", "if (swap[SEG-1])"),             # column correction too early
    ("accumulator_square", "accumulator.sv", "first_q ? 32'd0", "last_q ? 32'd0"),
    ("feed_lanes_square", "feed_lanes.sv", "i < 9 << FRAC", "i < 8 << FRAC"),                                     # ninth octave
    ("feed_lanes_square", "feed_lanes.sv", "s[i][0] & ~|u[i][6:2]", "1'b0 & ~|u[i][6:2]"),                 # -128
    ("feed_lanes_square", "feed_lanes.sv", "{coarse1 != 3,", "{coarse1 < 2,"),                     # product beyond the window
    ("feed_lanes_square", "feed_lanes.sv", "36'd2 <<", "36'd1 <<"),                                      # rounding
    ("feed_lanes_tall", "feed_lanes.sv", "quad3[4*i + 3]", "quad3[3]"),
    ("drain_lanes_square", "drain_lanes.sv", "w[15:1]} + {15'd0, w[0]}", "w[15:1]}"),                      # rounding
    ("drain_lanes_square", "drain_lanes.sv", "31'h7FFFFFFF <<", "31'h7FFFFF00 <<"),                     # bits above the result
    ("drain_lanes_square", "drain_lanes.sv", "r[15] & size == limit", "1'b0"),                          # -128
    ("drain_lanes_square", "drain_lanes.sv", "[35:15], 8'd127}", "[35:15], 8'd0}"),                      # interpolation
    ("drain_lanes_square", "drain_lanes.sv", "e5 = !(c4.act | OPERAND != 0 & c4.operand[0]) ? 5'd7 : pairs > 20 ? 5'd20",
     "e5 = !(c4.act | OPERAND != 0 & c4.operand[0]) ? 5'd7 : pairs > 20 ? 5'd19"),                                                   # largest shifts
    ("drain_lanes_square", "drain_lanes.sv", "over = |(fine3[j][20:17] ^ {4{fine3[j][16]}})", "over = 1'b0"),        # beyond the knots
    ("drain_lanes_square", "drain_lanes.sv", "{second4[j], 1'b0} : m_all", "m_all : m_all"),                   # multiplier of a column
    ("drain_lanes_square", "drain_lanes.sv", "{{5{r3[g][15]}}, r3[g][15:0]}", "{{4{r3[g][15]}}, r3[g][15:0], 1'b0}"),     # 12 fraction bits
    ("feed_lanes_square", "feed_lanes.sv", "(frac1 != 2) & |d1", "(frac1 == 1) & |d1"),                  # far distances
    ("feed_lanes_square", "feed_lanes.sv", "far1[g] = |d1[g][16:14]", "far1[g] = |d1[g][16:15]"),            # far distances
    ("drain_lanes_tall", "drain_lanes.sv", "ends[{c3.which, ", "ends[{FW'(0), "),                      # ends of another function
    ("drain_lanes_square", "drain_lanes.sv", "over = !e6[4] & |(x[41:39]", "over = 1'b0 & |(x[41:39]"),    # products of more than 39 bits
    ("drain_lanes_square", "drain_lanes.sv", "!e6[2] & |(t[16:13]", "(e6[2:1] == 0) & |(t[16:13]"),
    ("drain_lanes_square", "drain_lanes.sv", "negative & w[6:0] == 0", "1'b0"),                         # -128 of the activation
    ("drain_lanes_square", "drain_lanes.sv", "over | negative & w[6:0] == 0", "negative & w[6:0] == 0"),     # saturation
    ("drain_lanes_square", "drain_lanes.sv", "mean1 && !first1", "mean1"),
    ("drain_lanes_wide", "drain_lanes.sv", "c4.shift2[0] ? {other4[g], 1'b0}", "1'b0 ? {other4[g], 1'b0}"),    # an odd shift behind an operand
    ("drain_lanes_wide", "drain_lanes.sv", "c4.operand == 2 ? other4[j] : 16'sd0", "other4[j]"),              # added to what has none to add
    ("drain_lanes_tall", "drain_lanes.sv", "j[0] ? half4 + turn4", "1'b1 ? half4 + turn4"),                        # the sense of a rotation
    ("drain_lanes_tall", "drain_lanes.sv", "c4.operand != 3 ? half4", "!c4.operand[0] ? half4"),
    ("drain_lanes_square", "drain_lanes.sv", "-32'sd32767 : w;", "-32'sd32768 : w;"),
    ("drain_lanes_tall", "drain_lanes.sv", "j < 32'(c7.lanes) ? t", "1 ? t"),                           # sums
    ("feed_lanes_lists", "feed_lanes.sv", "{upper[i][5:0], u[i][9:8]}", "{upper[i][5:0], u[i][8:7]}"),      # high byte of a word past the array
    ("feed_lanes_lists", "feed_lanes.sv", "upper[i] = sat[i] ?", "upper[i] = 1'b0 ?"),                   # its saturation
    ("feed_lanes_lists", "feed_lanes.sv", "{WIDE != 0 && plane == 2, 7'd0} : act_i[i]", "8'd0 : act_i[i]"),    # zeros of a low half
    ("feed_lanes_lists", "feed_lanes.sv", "mult1 = below >= 36 || LISTS != 0 && none", "mult1 = below >= 36"),          # zeros of a normalised token
    ("drain_lanes_tall", "drain_lanes.sv", "data_i[j] ^ {16{turn_0[j]}}", "data_i[j]"),                  # a column of negative sign
    ("drain_lanes_bypass", "drain_lanes.sv", "BYPASS != 0 && through ?", "1'b0 ?"),
    ("lane_memory_one", "lane_memory.sv", "wen & wmask[b]", "wen"),
    ("lane_memory_two", "lane_memory.sv", "waddr + wstride", "waddr"),
    ("lane_memory_four", "lane_memory.sv", "GW'(b) + rgroup_q", "GW'(b) + rgroup"),
    ("lane_memory_four", "lane_window.sv", "32'(index) < WGROUPS && mask", "mask[0] && mask"),
    ("lane_memory_straight", "lane_memory.sv", " && ROTATE != 0", ""),
    ("stream_fifo_five", "stream_fifo.sv", "consume == LAST[AW-1:0]", "&consume"),                       # depth no power of two
    ("stream_fifo_two", "stream_fifo.sv", "if (wen != fetch)", "if (wen | fetch)"),
    ("stream_fifo_sixteen", "stream_fifo.sv", "if (fetch | ren)", "if (fetch)"),                          # the word stays
    ("dma_join", "stream_fifo.sv", "if (rst)", "if (1'b0)"),
    ("attention", "drain_lanes.sv", "j + half < 32'(c8.lanes)", "1"),                                    # row maximum over no key
    ("attention", "pe_array.sv", "32'(data[j]) <<< 7", "32'(data[j]) <<< 6"),                           # p - 128 made good
    ("router_five", "router_chain.sv", "value[i-1][j] < x)", "value[i-1][j] <= x)"),                    # ties
    ("router_five", "router_chain.sv", "j < 32'(top_k)) next_chosen", "j < K) next_chosen"),
    ("router_sixteen", "router_chain.sv", "{summand[i], half[i]}", "{summand[i], 1'b0}"),               # rounding
    ("router_sixteen", "router_chain.sv", "far1[i-1] = !on ||", "far1[i-1] ="),
    ("router_sixty_four", "router_chain.sv", "(SB+15)'({plus[i], 14'd0})", "35'({plus[i], 14'd0}) & 36'h7ffffffff"),
    ("router_all", "router_chain.sv", "t[15:12] != {4{t[16]}}", "t[15:12] == 7 - 15 * t[16]"),          # 16 octaves
    ("router_all", "router_chain.sv", "i == 1023 ? 17'd4095 :", ""),
    ("router_scores_of_nine", "router_scores.sv", "value[i-1][j] < x)", "value[i-1][j] <= x)"),                    # ties
    ("router_scores_of_nine", "router_scores.sv", "- bias1[j]", ""),                                               # the score without the bias
    ("router_scores_of_nine", "router_scores.sv", "+ (33'd16384 << ex11)", ""),                                    # rounding
    ("router_scores_of_nine", "router_scores.sv", "2*i < 32'(top_k) ?", "1 ?"),                                    # sum of the chosen
    ("router_scores_of_nine", "router_scores.sv", "renorm && length7 < 16 ?", "length7 < 16 ?"),                     # shares as they are
    ("router_all", "router_chain.sv", "~{top[15], top};\n        a_next[11*i", "~{top[15], top} + 17'd1;\n        a_next[11*i"),
)


def must_fail(design, bench, folder):
    try:
        Simulator.ICARUS.version()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    with pytest.raises(ToolError, match="tests failed"):
        run(design, bench.module, Simulator.ICARUS, folder, **bench.parameters)


@pytest.mark.parametrize("name, file, text, fault", SV_FAULTS)
def test_faults_of_the_arrays_are_seen(name, file, text, fault, tmp_path):
    bench = BY_NAME[name]
    design = bench.design()
    source = design.files[file]
    assert source.count(text) == 1, f"{text!r} is not in {file} once"
    must_fail(replace(design, files={**design.files, file: source.replace(text, fault)}), bench, tmp_path)


COMPONENT_FAULTS = (     # design, module, attribute of it, wrong value while the design is made
    ("norm_coefficients", numerics, "RSQRT", numerics.RSQRT + (numerics.RSQRT > 60000)),
    ("norm_coefficients", numerics, "MAX_SHIFT", 46),
    ("softmax_factor", numerics, "RECIP", numerics.RECIP - 600 * (numerics.RECIP > 64000)),
    ("router_one", numerics, "RECIP", numerics.RECIP - 600 * (numerics.RECIP > 64000)),
    ("attention", numerics, "RECIP", numerics.RECIP - 2048),                                            # deferred division
    ("fetch_feed", fetch, "OUT_WORDS", 17),
    ("fetch_feed_lengths", fetch, "from_first", lambda length, first: length),                     # blocks of queries
    ("fetch_load_lengths", fetch, "more_than", lambda rest, size: rest >= size),                   # a whole last tile
    ("registers_lengths", registers, "LENGTH_BITS", 8),
    ("feeder_narrow", feeder, "MIN_PASS", 7),
    ("feeder_operands", feeder, "repeats", lambda period, tile: C(0)),                                      # operands of the first tile again
    ("feeder_lists", feeder, "next_row", lambda row, stride: row),                                       # the first tap again
    ("feeder_causal", feeder, "at_most", lambda left, lanes: Mux(left < lanes, left[:7], lanes)),              # tiles behind a row's last key
    ("attention_causal", feeder, "at_most", lambda left, lanes: Mux(left < 0, 0, lanes)),                   # the tile it lies in
    ("attention_causal", engine, "sees_any", lambda lanes: C(1)),                                           # maximum over no key
    ("feeder_bypass_three_quarters", EngineConfig, "bypass_lanes", 48),                                 # a tile of two words
    ("norm_coefficients_rms", coefficients, "Mux", lambda *parts: Mux(*parts) if len(parts[0]) != 1 or "centred" not in repr(parts[0]) else parts[1]),
    ("feeder_three_quarters", feeder, "NUM_CONTEXTS", 5),                                               # contexts overwritten
    ("picker_square", picker, "before", lambda lane, own: C(0)),                                        # ties within a word
    ("picker_three_quarters", picker, "GROUP", 16),                                                     # a sum of 16 in four bits
    ("dma_equal", axi, "INCR", 2),
    ("dma_rate_32", axi, "burst_beats", lambda fifo_beats: 4),                                          # too little in flight
    ("writer_four", axi, "PAGE_BYTES", 8192),
    ("registers", registers, "SLVERR", 0),
    ("loader_square", loader, "NUM_PARAM_BANKS", 5),
    ("loader_mixes", loader, "FULL", 126),                                                              # a bias of tokens
)


@pytest.mark.parametrize("name, owner, attribute, value", COMPONENT_FAULTS)
def test_faults_of_the_components_are_seen(name, owner, attribute, value, tmp_path, monkeypatch):
    bench = BY_NAME[name]
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, value)
        design = bench.design()
    must_fail(design, bench, tmp_path)


def test_every_bench_has_a_fault():
    broken = {name for name, *_ in SV_FAULTS + COMPONENT_FAULTS}
    assert {design.module for design in DESIGNS} == {BY_NAME[name].module for name in broken}
