"""A seeded fault for every stage: those of stages that no bench of a component has are seen by whole networks in the RTL."""

from __future__ import annotations

from functools import cache, partial

import network_faults
from network_faults import FAULTS
import pytest
from test_red import COMPONENT_FAULTS, SV_FAULTS

import hls_mutations
from hwgen.steps.stages import FEEDS, STAGES, TILES
import native_builds
import qgraphs

NOT_THERE = "there is nothing of it in this engine"
SEEN = {           # feed, tile, stage or variant -> its fault in the RTL (a text, or design and attribute, of test_red; or of network_faults), in HLS
    "Plain": ("GW'(b) + rgroup_q", "stale weight tile"),
    "Host": ("consume == LAST[AW-1:0]", "the last constant of a sequence is dropped"),
    "Constant": ("if (wen != fetch)", "the last constant of a sequence is dropped"),
    "Normalize": ("norm_coefficients RSQRT", "epsilon left out"),
    "Rescale": ("36'd2 <<", "a state that is read as it is, normalised"),
    "Exp2": ("i < 9 << FRAC", "exponential table off by one"),
    "Gather": ("a gated expert's factor is of all tokens", "a gated expert's factor is of all tokens"),
    "Stationary": ("loader_square NUM_PARAM_BANKS", "stale column parameters"),
    "Diagonal": ("BYPASS != 0 && through ?", "a channel of negative sign"),
    "Keys": ("j + half < 32'(c8.lanes)", "last key left out"),
    "Values": ("32'(data[j]) <<< 7", "values lie where keys do"),
    "Identity": ("wen & wmask[b]", "low half off by one"),
    "Requant": ("w[15:1]} + {15'd0, w[0]}", "rounding constant too small"),
    "Restore": ("32'(data[j]) <<< 7", NOT_THERE),
    "RowFactor": ("attention RECIP", "a row divided by another sum"),
    "Table": ("[35:15], 8'd127}", "GELU without interpolation"),
    "Multiply": ("c4.shift2[0] ? {other4[g], 1'b0}", "operand of another token"),
    "Rotate": ("j[0] ? half4 + turn4", "turned the wrong way"),
    "Bias": ("c4.operand == 2 ? other4[j] : 16'sd0", "bias of another head"),
    "Score": ("{summand[i], half[i]}", "swapped router scores"),
    "Add": ("-32'sd32767 : w;", "class token overwritten"),
    "Mean": ("mean1 && !first1", "only the last token of a mean"),
    "Route": ("value[i-1][j] < x)", "highest expert wins a tie"),
    "Choose": ("- bias1[j]", "a bias for all experts"),
    "Pick": ("picker_square before", "a score is greater than itself"),
    "16 bits": ("{WIDE != 0 && plane == 2, 7'd0} : act_i[i]", "high half counts too little"),
    "causal": ("feeder_causal at_most", "a key behind the query counts for the maximum"),
    "lists": ("feeder_lists next_row", "the tokens of the first tap for all"),
    "lengths": ("fetch_load_lengths more_than", "its keys are those of the longest"),
    "mixed tokens": ("loader_mixes FULL", "a bias of mixed tokens in other units"),
    "windows": ("feeder_narrow MIN_PASS", "keys lie as close as those of a window"),
    "gated experts": ("a gated expert's factor is of all tokens", "two layers of weights for gated experts"),
    "RMS norm": ("a mean taken off an RMS norm", "a mean taken off an RMS norm"),
    "norms of heads": ("heads have the statistics of the first one", "a head in other lanes"),
    "rows of a value": ("waddr + wstride", "rows of a value begin at the first one")}
OPTIONS = {"operand_words": 64, "bypass": True, "rms": True, "max_experts": 4, "max_top_k": 2}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_network_with_the_stage_sees_it_and_one_without_does_not(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(native_builds, "rtl_files", cache(partial(network_faults.files, fault, tmp_path / fault.module.__name__)))
    engine = native_builds.Engine(tmp_path, 8, 8, 64, OPTIONS)
    differing = []
    for options in (fault.seen, fault.unseen):
        model, images = qgraphs.random_qgraph(**options), qgraphs.random_images(qgraphs.random_model(**options), 1)
        differing.append(native_builds.differences(engine.run(engine.program(model), model, images, [0], native_builds.SLOW), model, images, [0]))
    assert differing[0] and not differing[1]


def test_every_stage_has_a_fault_in_both_engines():
    """A feed, tile or stage without one is missing in the table, a fault that is no more is left over."""
    assert {kind.__name__ for kind in (*FEEDS, *TILES, *STAGES)} <= SEEN.keys()
    rtl = {text for *_, text, _ in SV_FAULTS} | {f"{name} {attribute}" for name, _, attribute, _ in COMPONENT_FAULTS}
    rtl |= {fault.name for fault in FAULTS}
    hls = {mutation.name for mutation in hls_mutations.MUTATIONS} | {NOT_THERE}
    assert [name for name, (first, second) in SEEN.items() if first not in rtl or second not in hls] == []
