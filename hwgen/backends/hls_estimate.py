"""Cycles and resources of the HLS engine, from its loop structure. Stage "estimate": no tool has seen the code.

Cycles: every pipelined loop takes its trip count (initiation interval 1, `ROUTER_II` in the router's softmax) and `DEPTH` to fill.
Weights flow in a process of their own, through one port of the board (HP0), so a frame takes the longer of computing and reading them.
That process asks for the weights of a step when those of the step before are there, so each step waits once for the memory's latency.
Resources: what the unrolled loops multiply and the arrays hold, by the counts below; LUT and FF per lane are planning figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..devices.board import Board
from ..errors import CapacityError
from ..qir import QModel
from ..sizing import LATENCY, NEAR, conditions
from .hls_plan import ALL_TASKS, Plan, Step, plan as make_plan

DEPTH = 20                    # cycles to fill a pipelined loop
MIN_PERIOD = 32               # of the attention unit, hls/include/hwgen/attention.hpp
ROUTER_II = 4                 # the running sum of the softmax: a multiplication and an addition before the next expert
WIDE = 2                      # DSP slices of a 32 x 16-bit or 16 x 16-bit-square product
BRAM36_BYTES = 4608
LUT_PER_MAC, FF_PER_MAC = 25, 30          # adder trees and operand registers of one multiplier
LUT_PER_PRODUCT = 70                      # an 8 x 8-bit multiplier without DSP: those of the attention unit
LUT_PER_LANE, FF_PER_LANE = 900, 1100     # requantizer, activation, saturation, byte selection
FULL = 0.8                                # of LUTs and flip-flops, place and route needs the rest
LUT_BASE, FF_BASE = 12_000, 16_000        # control, AXI masters, table of steps
FIFO_BYTES = 128 * 1024                   # weight stream: how far the loader runs ahead
LANES, QUERIES = (64, 32, 16, 8), (16, 8, 4, 2)


@dataclass(frozen=True)
class HlsResources:
    """Estimated use of a device."""

    lut: int
    ff: int
    dsp: int
    bram36: int


def step_cycles(step: Step, plan: Plan) -> int:
    """Cycles of one step, the weights being there in time. Experts: tokens spread evenly."""
    lanes = plan.lanes
    match step.kind:
        case "PATCHES":
            return step.dst.tokens * _words(step.dst.channels, lanes) + DEPTH
        case "RESIDUAL_INIT":
            tokens, channels = step.node.table.shape
            return 2 * tokens * _words(channels, lanes) + DEPTH
        case "LAYER_NORM":
            return 2 * step.dst.tokens * _words(step.dst.channels, lanes) + step.dst.tokens + 3 * DEPTH
        case "LINEAR":
            return _linear(step.rows, step.src.channels, step.out_channels, lanes)
        case "ROUTE":
            tokens, experts = step.src.tokens, step.out_channels
            choice = experts * ROUTER_II + 2 * step.node.top_k + 2 * DEPTH
            return _linear(tokens, step.src.channels, experts, lanes) + tokens * choice
        case "EXPERTS":
            experts = len(step.node.first)
            rows = -(-step.src.tokens * step.node.top_k // experts)
            hidden = step.dst.channels
            return experts * (_linear(rows, step.src.channels, hidden, lanes) + _linear(rows, hidden, step.src.channels, lanes))
    return _attention(step, plan)


def _words(channels: int, lanes: int) -> int:
    return -(-channels // lanes)


def _linear(rows: int, k: int, n: int, lanes: int) -> int:
    k_tiles, n_tiles = _words(k, lanes), _words(n, lanes)
    first = 8 + lanes + DEPTH
    inner = n_tiles * (k_tiles - 1) * (max(rows, lanes) + DEPTH) + (n_tiles - 1) * (max(rows, lanes + 8) + DEPTH) + rows + DEPTH
    return first + inner


def _attention(step: Step, plan: Plan) -> int:
    tokens, heads = step.src.tokens, step.node.num_heads
    dim = step.src.channels // heads
    period, blocks = max(tokens, plan.queries, MIN_PERIOD), -(-tokens // plan.queries)
    total = 0
    for h in range(heads):
        words = ((h + 1) * dim - 1) // plan.lanes - h * dim // plan.lanes + 1
        total += words * tokens + ((blocks + 1) * period + plan.queries) * words + 2 * DEPTH
    return total


def weight_words(step: Step, lanes: int) -> int:
    """Words of the weight stream a step takes, as the function of this name in hls/include/hwgen/engine.hpp."""
    def linear(k: int, n: int) -> int:
        return _words(n, lanes) * (8 + _words(k, lanes) * lanes)
    match step.kind:
        case "RESIDUAL_INIT":
            tokens, channels = step.node.table.shape
            return 2 * tokens * _words(channels, lanes)
        case "LINEAR" | "ROUTE":
            return linear(step.src.channels, step.out_channels)
        case "EXPERTS":
            width, hidden = step.src.channels, step.dst.channels
            return len(step.node.first) * (linear(width, hidden) + linear(hidden, width))
    return 0


def frame_cycles(plan: Plan, bytes_per_cycle: float, latency: int, task: int = 0) -> int:
    """Cycles of one frame. bytes_per_cycle, latency: of the memory; a word of the stream a cycle at most."""
    active = [step for step in plan.steps if step.task in (ALL_TASKS, task)]
    streamed = [words for step in active if (words := weight_words(step, plan.lanes))]
    reading = len(streamed) * latency + sum(streamed) * plan.lanes / min(bytes_per_cycle, plan.lanes)
    return max(latency + sum(step_cycles(step, plan) for step in active), round(reading))


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
        (plan.act_words, lanes, 1), (plan.residual_words, lanes, 2), (plan.logit_words, lanes, 2), (plan.max_tokens, lanes, 4),
        (plan.head_words * plan.max_tokens, 2 * lanes, 1), (plan.max_tokens, queries, 2),
        (plan.max_tokens * plan.max_experts, 1, 4), (FIFO_BYTES // lanes, lanes // 8, 8))
    lut = LUT_BASE + macs * LUT_PER_MAC + attention * LUT_PER_PRODUCT + lanes * LUT_PER_LANE
    ff = FF_BASE + macs * FF_PER_MAC + lanes * FF_PER_LANE
    return HlsResources(lut, ff, dsp, round(sum(_bram(words, width) * banks for words, banks, width in arrays)))


def _bram(words: int, width: int) -> float:
    """Block RAMs of 36 kbit for a bank of ``words`` of ``width`` bytes, in halves."""
    return -(-words * width // (BRAM36_BYTES // 2)) / 2


def choose(model: QModel, board: Board) -> Plan:
    """The plan the estimate finds fastest on the board, by the rule of `sizing.choose`: of those within `NEAR` of the fastest through one
    port, the one that is fastest at the memory's best. Raises CapacityError when the smallest does not fit."""
    if not board.family.limits:
        return make_plan(model, 32, 8)
    board.vitis()
    found: list[tuple[int, int, Plan]] = []
    refusal = None
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
    if not found:
        raise refusal
    limit = NEAR * min(own for own, *_ in found)
    return min((item for item in found if item[0] <= limit), key=lambda item: item[1])[2]


def report(plan: Plan, board: Board) -> dict:
    """The part of report.json about the HLS engine."""
    used = resources(plan)
    tasks = range(len(plan.outputs))
    macs = sum(step.macs for task in tasks for step in plan.steps if step.task in (ALL_TASKS, task)) // len(tasks)
    ports = board.ports.number

    def through(ports: int) -> dict:
        cycles = frame_cycles(plan, board.bytes_per_cycle(ports=ports), LATENCY)
        return dict(cycles_per_image=cycles, latency_ms=cycles / board.clock_mhz / 1000, memory=conditions(board, ports))
    return dict(stage="estimate", lanes=plan.lanes, queries=plan.queries,
                macs_per_cycle=plan.lanes ** 2 + 2 * plan.lanes * plan.queries, useful_macs_per_image=macs, **through(1),
                all_ports=dict(built="built" if ports == 1 else "not built", **through(ports)), weight_bytes=len(plan.image),
                resources={name: getattr(used, name) for name in ("lut", "ff", "dsp", "bram36")})
