"""Timelines: slices by hand, and what holds for any events."""

from __future__ import annotations

from itertools import pairwise
import json
from types import SimpleNamespace

from hypothesis import given, strategies as st
import numpy as np
import pytest

from hwgen.engines.rtl.bench import EVENT
from hwgen.engines.rtl.choose import roofline
from hwgen.run import timeline as trace


def program(count: int):
    """Instructions 0 .. count - 1, the last one without a note."""
    names = [f"layer {i}" for i in range(count - 1)] + [""]
    return SimpleNamespace(instrs=[SimpleNamespace(note=name) for name in names], infos=[SimpleNamespace(node=name, macs=8) for name in names])


def test_by_hand():
    # frame, pc, start, retire, issue, tile, hazard, output: layer 0 streams 10 tokens and waits 2 cycles for tiles; layer 1 starts 5 cycles
    # after its end because of a hazard; the end of the frame follows at once
    events = np.array([(0, 0, 100, 140, 10, 2, 0, 0), (0, 1, 117, 160, 20, 0, 5, 0), (0, 2, 137, 150, 0, 0, 0, 0)], EVENT)
    found = [(s.name, s.track, s.start, s.stop) for s in trace.slices(program(3), events)]
    assert found == [("layer 0", trace.FEED, 0, 17), ("layer 1", trace.FEED, 17, 37), ("end of frame", trace.FEED, 37, 50),
                     ("wait for tile", trace.STALLS, 0, 2), ("wait for hazard", trace.STALLS, 12, 17)]
    assert trace.slices(program(3), events)[1].args == {
        "pc": 1, "node": "layer 1", "cycles": 20, "issue": 20, "wait_hazard": 5, "wait_tile": 0, "wait_output": 0, "useful_macs": 8,
        "start": 17, "retire": 60}


def test_runs_follow_one_another():
    events = np.array([(0, 0, 7, 20, 4, 0, 0, 0), (0, 1, 17, 27, 0, 0, 0, 0), (1, 0, 37, 50, 4, 0, 0, 0), (1, 1, 47, 57, 0, 0, 0, 0)], EVENT)
    made = trace.timeline(program(2), [([0, 1], events), ([1, 1], events)], clock_mhz=100.0)
    assert json.loads(json.dumps(made)) == made
    names = {e["pid"]: e["args"]["name"] for e in made["traceEvents"] if e["name"] == "process_name"}
    assert names == {1: "frame 0, task 0", 2: "frame 1, task 1", 3: "frame 2, task 1", 4: "frame 3, task 1"}
    slices = [e for e in made["traceEvents"] if e["ph"] == "X"]
    assert [(e["pid"], e["ts"], e["dur"]) for e in slices] == [
        (1, 0.0, 0.1), (1, 0.1, 0.2), (2, 0.3, 0.1), (2, 0.4, 0.1), (3, 0.5, 0.1), (3, 0.6, 0.2), (4, 0.8, 0.1), (4, 0.9, 0.1)]
    assert made["otherData"] == {"clock_mhz": 100.0, "cycles": 100, "frames": 4}


def test_a_run_without_events():
    assert trace.slices(program(2), np.zeros(0, EVENT)) == []
    assert trace.timeline(program(2), [], 300.0)["traceEvents"] == []


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 5), min_size=1, max_size=12))
def test_tracks_are_ordered_and_cover_the_run(rows):
    """(issue, tile, hazard, output, idle) of each instruction; its waits fall before or after its start."""
    events = np.zeros(len(rows), EVENT)
    now = 1000
    for i, (issue, tile, hazard, output, idle) in enumerate(rows):
        now += hazard
        events[i] = (0, i, now, 0, issue, tile, hazard, output)
        now += issue + tile + output + idle
        events["retire"][i] = now + 5
    found = trace.slices(program(len(rows)), events)
    feed, stalls = ([s for s in found if s.track == track] for track in (trace.FEED, trace.STALLS))
    total = int(events["retire"][-1] - events["start"][0])
    assert (feed[0].start, feed[-1].stop) == (0, total) and all(a.stop == b.start for a, b in pairwise(feed))
    assert all(a.stop <= b.start for a, b in pairwise(stalls)) and all(0 <= s.start < s.stop <= total for s in stalls)
    for cause in trace.CAUSES:
        drawn = sum(s.stop - s.start for s in stalls if s.name == cause.replace("_", " for "))
        assert drawn <= events[cause].sum()
    inside = int((events["wait_tile"] + events["wait_output"] + events["wait_hazard"])[1:].sum())
    assert sum(s.stop - s.start for s in stalls) >= inside - int(events["wait_hazard"].sum())


def test_layers_and_stalls():
    row = {"share": 1, "issue": 10, "wait_tile": 1, "wait_hazard": 2, "wait_output": 0, "useful_macs": 100, "cycles": 20}
    rows = [row | {"node": "a"}, row | {"node": "b", "cycles": 0}, row | {"node": "a"}, row | {"node": "", "useful_macs": 0}]
    a, b, end = trace.layers(rows, macs_per_cycle=8)
    assert (a["node"], a["instructions"], a["cycles"], a["utilization"]) == ("a", 2, 40, pytest.approx(200 / 320))
    assert (b["utilization"], end["node"]) == (0.0, "end of frame")
    assert trace.stalls(rows) == {"cycles": 60, "issue": 40, "wait_tile": 4, "wait_hazard": 8, "wait_output": 0, "other": 8}
    rows[2] |= {"share": 0.5}                                       # one of two tasks has it
    assert trace.stalls(rows)["cycles"] == 50 and trace.layers(rows, macs_per_cycle=8)[0]["cycles"] == 30


def test_roofline():
    assert roofline(1000, 10, 300, 2.0) == {"array_limit_cycles": 100, "memory_limit_cycles": 150, "bound_by": "memory"}
    assert roofline(2000, 10, 300, 2.0)["bound_by"] == "array"
