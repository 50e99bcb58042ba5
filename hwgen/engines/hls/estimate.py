"""Cycles and resources of the HLS engine, from its loop structure. Stage "estimate": no tool has seen the code.

Cycles: every pipelined loop takes its trip count (initiation interval 1, `experts.ROUTER_II` in the router's softmax) and `call.DEPTH` to fill;
the calls say how many (``cycles``).
Weights flow in a process of their own, through one port of the board (HP0), so a frame takes the longer of computing and reading them.
That process asks for the weights of a step when those of the step before are there, so each step waits once for the memory's latency.
Resources: what the unrolled loops multiply and the arrays hold, by the counts below; LUT and FF per lane are planning figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...devices.board import Board
from ...devices.memory import LATENCY, NEAR, conditions
from ...errors import CapacityError
from ...numerics import KNOTS
from ...steps.step import Quantized
from .call import ALL_TASKS
from .plan import Plan, plan as make_plan

WIDE = 2                      # DSP slices of a 32 x 16-bit or 16 x 16-bit-square product
BRAM36_BYTES = 4608
LUT_PER_MAC, FF_PER_MAC = 25, 30          # adder trees and operand registers of one multiplier
LUT_PER_PRODUCT = 70                      # an 8 x 8-bit multiplier without DSP: those of the attention unit
LUT_PER_LANE, FF_PER_LANE = 900, 1100     # requantizer, activation, saturation, byte selection
FULL = 0.8                                # of LUTs and flip-flops, place and route needs the rest
LUT_BASE, FF_BASE = 12_000, 16_000        # control, AXI masters, table of steps
FIFO_BYTES = 128 * 1024                   # weight stream: how far the loader runs ahead
KNOT_BYTES = 4.5                          # value and slope; two lanes read one table
LANES, QUERIES = (64, 32, 16, 8), (16, 8, 4, 2)


@dataclass(frozen=True)
class HlsResources:
    """Estimated use of a device."""

    lut: int
    ff: int
    dsp: int
    bram36: int


def frame_cycles(plan: Plan, bytes_per_cycle: float, latency: int, task: int = 0) -> int:
    """Cycles of one frame. bytes_per_cycle, latency: of the memory; a word of the stream a cycle at most."""
    active = [step for step in plan.steps if step.task in (ALL_TASKS, task)]
    streamed = [words for step in active if (words := step.weight_words(plan.lanes))]
    reading = len(streamed) * latency + sum(streamed) * plan.lanes / min(bytes_per_cycle, plan.lanes)
    return max(latency + sum(step.cycles(plan.lanes, plan.queries) for step in active), round(reading))


def resources(plan: Plan) -> HlsResources:
    """Estimated resources of the whole engine."""
    lanes, queries = plan.lanes, plan.queries
    attention = 2 * queries * lanes
    macs = lanes * lanes + attention
    linear_lane = 3 * WIDE + 1                  # two requantizers, router score; interpolation
    norm_lane = 2 * WIDE                        # square, requantizer
    attention_lane = WIDE                       # the division
    dsp = lanes * (lanes + linear_lane + norm_lane + attention_lane) + queries * WIDE + 40         # scores; router, Newton steps
    arrays = (                                  # words, banks, bytes
        (plan.act_words + plan.low_words, lanes, 1), (plan.residual_words, lanes, 2), (plan.logit_words, lanes, 2), (plan.max_tokens, lanes, 4),
        (plan.operand_words if plan.operand_words > 1 else 0, lanes, 2), (plan.list_size if plan.list_size > 1 else 0, 1, 2),
        (plan.head_words * plan.max_tokens, 2 * lanes, 1), (plan.max_tokens, queries, 2),
        (plan.max_tokens * plan.max_experts, 1, 4), (FIFO_BYTES // lanes, lanes // 8, 8),
        (len(plan.functions) * KNOTS, lanes // 2, KNOT_BYTES))
    lut = LUT_BASE + macs * LUT_PER_MAC + attention * LUT_PER_PRODUCT + lanes * LUT_PER_LANE
    ff = FF_BASE + macs * FF_PER_MAC + lanes * FF_PER_LANE
    return HlsResources(lut, ff, dsp, round(sum(_bram(words, width) * banks for words, banks, width in arrays)))


def _bram(words: int, width: float) -> float:
    """Block RAMs of 36 kbit for a bank of ``words`` of ``width`` bytes, in halves."""
    return -(-words * width // (BRAM36_BYTES // 2)) / 2


def choose(model: Quantized, board: Board) -> Plan:
    """The plan the estimate finds fastest on the board, by the rule of the RTL engine: of those within `NEAR` of the fastest through one
    port, the one that is fastest at the memory's best. Raises CapacityError when the smallest does not fit."""
    if not board.family.limits:
        return make_plan(model, 32, 8)
    board.vitis()
    found: list[tuple[int, int, Plan]] = []
    refusal: CapacityError | None = None
    for lanes in LANES:
        for queries in QUERIES:
            candidate = make_plan(model, lanes, queries)
            used = resources(candidate)
            over = [(name, getattr(used, name), getattr(board, name)) for name in ("lut", "ff", "dsp", "bram36")
                    if getattr(used, name) > getattr(board, name) * (FULL if name in ("lut", "ff") else 1)]
            if over:
                name, needed, there = over[-1]
                refusal = CapacityError(f"the HLS engine with {lanes} lanes needs {needed:,} {name}, {board.name} has {there:,}",
                                        hint="choose a larger board, a smaller network, or --backend rtl")
                continue
            found.append((frame_cycles(candidate, board.bytes_per_cycle(), LATENCY),
                          frame_cycles(candidate, board.best_bytes_per_cycle(), LATENCY), candidate))
    if not found and refusal is not None:
        raise refusal
    limit = NEAR * min(own for own, *_ in found)
    return min((item for item in found if item[0] <= limit), key=lambda item: item[1])[2]


def useful_macs(plan: Plan) -> int:
    """Multiply-accumulates of one image without padding, on the average of the tasks."""
    tasks = range(len(plan.outputs))
    return sum(step.macs for task in tasks for step in plan.steps if step.task in (ALL_TASKS, task)) // len(tasks)


def report(plan: Plan, board: Board) -> dict[str, Any]:
    """The part of report.json about the HLS engine."""
    used = resources(plan)
    ports = board.ports.number

    def through(ports: int) -> dict[str, Any]:
        cycles = frame_cycles(plan, board.bytes_per_cycle(ports=ports), LATENCY)
        return {"cycles_per_image": cycles, "latency_ms": cycles / board.clock_mhz / 1000, "memory": conditions(board, ports)}
    return dict(stage="estimate", lanes=plan.lanes, queries=plan.queries,
                macs_per_cycle=plan.lanes ** 2 + 2 * plan.lanes * plan.queries, useful_macs_per_image=useful_macs(plan), **through(1),
                all_ports=dict(built="built" if ports == 1 else "not built", **through(ports)), weight_bytes=len(plan.image),
                resources={name: getattr(used, name) for name in ("lut", "ff", "dsp", "bram36")})
