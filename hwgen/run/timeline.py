"""Where the cycles of a simulation went: a timeline for Perfetto and chrome://tracing, and sums for each layer.

Timeline: JSON in the Trace Event Format (Google, "Trace Event Format", complete events "X" and metadata "M"). Every frame is a process
with two threads, *feed* (one slice an instruction, from its start to the start of the next) and *stalls* (cycles in which no token was
issued, by cause). ``ts`` and ``dur`` are microseconds at the stated clock, ``args`` hold cycles.

The hardware counts stalls for each instruction, not their places: a hazard holds an instruction before its first token, so it is drawn
there; waits for tiles and for the output are drawn at the beginning of the instruction, as far as they did not come before its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..engines.rtl.program import Program

FEED, STALLS = 1, 2
CAUSES = ("wait_hazard", "wait_tile", "wait_output")
SUMS = ("cycles", "issue", "wait_tile", "wait_hazard", "wait_output", "useful_macs")


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a track: cycles from the start of the run, ``stop`` excluded."""

    name: str
    frame: int
    track: int
    start: int
    stop: int
    args: dict


def slices(program: Program, events: np.ndarray) -> list[Slice]:
    """The slices of one run (`bench.EVENT` records), by track in the order of time; those of a track do not overlap."""
    if not len(events):
        return []
    origin = int(events["start"][0])
    starts = [int(event["start"]) - origin for event in events] + [int(events["retire"][-1]) - origin]
    feed, stalls = [], []
    free = 0                                     # end of the last stall drawn
    before = 0                                   # of the waits of an instruction, those that came before its start
    for event, (start, stop), following in zip(events, pairwise(starts), [*events[1:], None], strict=True):
        pc = int(event["pc"])
        instr, info = program.instrs[pc], program.infos[pc]
        name = instr.note or ("end of frame" if pc == len(program.instrs) - 1 else f"instruction {pc}")
        waits = {cause: int(event[cause]) for cause in CAUSES}
        feed.append(Slice(name, int(event["frame"]), FEED, start, stop, dict(
            pc=pc, node=info.node, cycles=stop - start, issue=int(event["issue"]), **waits, useful_macs=info.macs, start=start,
            retire=int(event["retire"]) - origin)))
        at = max(free, start - before)
        for cause, cycles in waits.items():
            end = min(at + cycles, stop)
            if end > at:
                stalls.append(Slice(cause.replace("_", " for "), int(event["frame"]), STALLS, at, end,
                                    {"pc": pc, "node": info.node, "cycles": end - at}))
                at = end
        free = at
        inside = min(max(sum(waits.values()) - before, 0), stop - start)
        idle = max(stop - start - int(event["issue"]) - inside, 0)
        before = min(idle, sum(int(following[cause]) for cause in CAUSES)) if following is not None else 0
    return feed + stalls


def first_frame(program: Program, runs: Sequence[tuple[Sequence[int], np.ndarray]]) -> list[dict]:
    """Instructions of the first simulated frame, in cycles from its start: pc, start, cycles, and its waits by cause."""
    for _, events in runs:
        return [{"pc": piece.args["pc"], "start": piece.start, "cycles": piece.args["cycles"], **{cause: piece.args[cause] for cause in CAUSES}}
                for piece in slices(program, events) if piece.track == FEED and piece.frame == 0]
    return []


def timeline(program: Program, runs: list[tuple[list[int], np.ndarray]], clock_mhz: float) -> dict:
    """The trace of several runs, one after the other: runs are (task of each frame, events). JSON-able."""
    meta: list[dict] = []
    found: list[dict] = []
    first = 0                                    # frames of earlier runs
    offset = 0                                   # cycles of earlier runs
    for tasks, events in runs:
        for frame, task in enumerate(tasks):
            process = first + frame + 1
            meta.append(_named("process_name", process, 0, f"frame {first + frame}, task {task}"))
            meta += [_named("thread_name", process, track, name) for track, name in ((FEED, "feed"), (STALLS, "stalls"))]
        pieces = slices(program, events)
        for piece in pieces:
            found.append({"name": piece.name, "cat": "feed" if piece.track == FEED else "stall", "ph": "X", "pid": first + piece.frame + 1,
                          "tid": piece.track, "ts": (offset + piece.start) / clock_mhz, "dur": (piece.stop - piece.start) / clock_mhz,
                          "args": piece.args})
        first += len(tasks)
        offset += max((piece.stop for piece in pieces), default=0)
    found.sort(key=lambda event: event["ts"])
    return {"traceEvents": meta + found, "displayTimeUnit": "ns", "otherData": {"clock_mhz": clock_mhz, "cycles": offset, "frames": first}}


def _named(what: str, process: int, thread: int, name: str) -> dict:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "ts": 0, "args": {"name": name}}


def layers(per_instruction: list[dict], macs_per_cycle: int) -> list[dict]:
    """`SimulationResult.per_instruction` added up for each ONNX node, in the order of the program: of a frame, on the average of the tasks."""
    sums: dict[str, dict] = {}
    for row in per_instruction:
        found = sums.setdefault(row["node"], dict(node=row["node"] or "end of frame", instructions=0, **dict.fromkeys(SUMS, 0)))
        found["instructions"] += 1
        for key in SUMS:
            found[key] += row["share"] * row[key]
    return [row | {"utilization": row["useful_macs"] / (row["cycles"] * macs_per_cycle) if row["cycles"] else 0.0} for row in sums.values()]


def stalls(per_instruction: list[dict]) -> dict[str, float]:
    """Cycles of a frame, the tasks' average, by what they were for: a token issued, each cause of a stall, and the rest (transfers, pipeline)."""
    total = {key: sum(row["share"] * row[key] for row in per_instruction) for key in SUMS[:-1]}
    return total | {"other": total["cycles"] - sum(total[key] for key in SUMS[1:-1])}
