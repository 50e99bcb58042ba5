"""Feeder: random programs against a model of the slots it must issue; around it loader, expert queue, drain and output FIFO.

Every slot is compared field by field and in order; apart from that the rules of time: no tile before it is loaded, no instruction
before its hazard has passed, no word the output FIFO has no room for, and at full speed no empty cycle.
"""

from collections import deque
from dataclasses import dataclass, replace
from itertools import product
import random

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from hwgen.engine import LIST_LATENCY, MIN_PASS, NUM_CONTEXTS, OUT_WORDS, EngineConfig
from hwgen.isa import ABSENT, Dst, Half, Instr, Op, Src, Stat
from hwgen_rtl.feeder import source_layout, token_layout
from hwgen_sim.bench import config
from hwgen_sim.checker import BenchFailure
from hwgen_sim.endpoints import sample, start
from hwgen_sim.lanes import pack
from hwgen_sim.stalls import PATTERNS, never, randomly

DRAIN = 9                # cycles from a token to its result, at least 1
ISSUE = 2                # cycles from issue to the token's record
CONTROL = ("valid", "tile_last", "param_last", "instr_last", "inject")       # what an empty slot must not have
IN_PADDING = (*CONTROL, "context", "first_k", "last_k", "first_n")   # what counts in a slot without a token

Queues = list[list[tuple[int, int]]]     # (token, score) of every expert


@dataclass(frozen=True)
class Slot:
    """One issued cycle."""

    fields: dict[str, int]   # those of TOKEN, of SOURCE as ``source_*``, and ``inject``
    tile: int | None         # its number since reset; None: a stream word
    output: bool             # a word leaves for the output FIFO


class Model:
    """Instruction by instruction -> slots. Keeps what lives on: parameter banks, contexts."""

    def __init__(self, c: EngineConfig, lists: list[list[int]]):
        self.c, self.lists, self.tiles, self.param_tiles, self.instrs = c, lists, 0, 0, 0

    def listed(self, instr: Instr, k: int, t: int) -> int:
        """What stands in the list memory for token t of reduction tile k."""
        word, lane = divmod(t, self.c.to)
        return self.lists[instr.stat_base + k // instr.stat_count * instr.stat_stride + word][lane]

    def slots(self, instr: Instr, queues: Queues) -> list[Slot]:
        c, stream, number = self.c, instr.op == Op.STREAM, self.instrs
        self.instrs += 1
        queue = queues[instr.expert] if instr.gather or instr.scatter else None
        count = instr.tokens if queue is None else len(queue)
        length, k_tiles = (count, 1) if stream else (max(count, MIN_PASS), instr.k_tiles)
        past = instr.stat == Stat.BYPASS and not stream
        lanes = c.bypass_lanes if past else c.to
        twice = instr.wide and not stream and not past
        result = []
        for j in range(instr.n_tiles):
            group = instr.dst_group + j * (lanes // c.group)
            chunk_past, part = divmod(j * (lanes // c.group), c.groups)
            chunk = instr.dst_base + group // c.groups * instr.dst_stride
            for k in range(k_tiles):
                last_k, last_tile = k == k_tiles - 1, j == instr.n_tiles - 1 and k == k_tiles - 1
                for high, t in product((1, 0) if twice else (0,), range(length)):
                    token, score = queue[t] if queue and t < count else (t, None)
                    target = token if instr.scatter else t
                    origin = token if instr.gather else t * instr.step
                    by_list = instr.list and not stream and t < count
                    entry = self.listed(instr, k, t) if by_list else 0
                    origin = entry % ABSENT if by_list else origin
                    end = t == length - 1 and not high
                    chunk_of = chunk_past if past else k
                    if instr.list and not stream and not past:
                        chunk_of = k % instr.stat_count
                    if instr.wide and instr.src == Src.ACT and not past:
                        chunk_of = 2 * chunk_of + 1 - high
                    fields = {
                        "valid": t < count, "tile_last": end and not stream,
                        "param_last": end and last_k and instr.column_params and not stream, "instr_last": end and last_tile,
                        "first_k": k == 0 and (high or not instr.wide or stream), "last_k": last_k and not high, "high": high, "first_n": j == 0, "first_token": t == 0,
                        "last_token": t == count - 1, "context": number % NUM_CONTEXTS, "slot": t,
                        "row": (instr.dst_row + target) % (1 << 16), "address": (chunk + target) % (1 << 20), "group": group % c.groups,
                        "lanes": seen(instr.n_last if j == instr.n_tiles - 1 else lanes, instr, Dst.SCORE, t - j * c.to), "inject": stream}
                    if "operand" in token_layout(c):
                        fields |= {"operand": (instr.op_base + (j % instr.op_period if instr.op_period else j) * instr.tokens + t) % (1 << 16)}
                    if score is not None and instr.scatter:
                        fields |= {"score": score}
                    if not stream:
                        fields |= {"source_mode": instr.src,
                                   "source_address": (instr.src_base + chunk_of * instr.src_stride + origin) % (1 << 20),
                                   "source_plane": (Half.HIGH if high else Half.LOW) if instr.wide else Half.NONE,
                                   "source_row": (instr.src_row + origin) % (1 << 16),
                                   "source_lanes": part if past else seen(instr.k_hi if last_k else c.ti, instr, Src.EXP, t - k * c.ti)}
                        if c.list_words:
                            fields |= {"source_none": entry >= ABSENT}
                        if instr.column_params:
                            fields |= {"param_bank": self.param_tiles % 4}
                    output = instr.dst == Dst.OUT and t < count and last_k and not high and (not instr.mean or t == count - 1)
                    values = {key: int(value) for key, value in fields.items()}
                    result.append(Slot(values, None if stream else self.tiles, output))
                if not stream:
                    self.tiles += 1
                    self.param_tiles += int(last_k and instr.column_params)
        return result


def seen(lanes: int, instr: Instr, by: Dst | Src, place: int) -> int:
    """Of the lanes of a tile, of scores or of exponentials, those that a row sees; place: of the row, counted from the tile's first lane."""
    limited = instr.limit and (instr.dst if isinstance(by, Dst) else instr.src) == by
    return min(lanes, max(0, instr.limit + place)) if limited else lanes


def random_instr(rng: random.Random, c: EngineConfig) -> Instr:
    """A MATMUL or STREAM with any tile counts, lengths on both sides of MIN_PASS, and any addresses."""
    op = Op.STREAM if rng.random() < 0.15 else Op.MATMUL
    dst = rng.choice((Dst.ACT, Dst.RES_SET) if op == Op.STREAM else
                     (Dst.ACT, Dst.KV, Dst.SCORE, Dst.RES_ADD, Dst.OUT, Dst.ROUTER))
    queued = rng.randrange(3) if op == Op.MATMUL and dst in (Dst.ACT, Dst.RES_ADD) else 0
    mean = int(dst == Dst.OUT and rng.random() < 0.5)
    src, wide = rng.choice(list(Src)), int(c.wide and rng.random() < 0.4)
    limited = c.causal and op == Op.MATMUL and not wide and (dst == Dst.SCORE) != (src == Src.EXP)
    past = c.bypass and op == Op.MATMUL and src in (Src.NORM, Src.RES) and not queued and rng.random() < 0.5
    if past:
        dst, mean = rng.choice((Dst.ACT, Dst.KV, Dst.RES_SET, Dst.RES_ADD)), 0
    tokens = rng.choice([1, 2, MIN_PASS - 1, MIN_PASS, MIN_PASS + 1, OUT_WORDS, 3 if dst == Dst.OUT and not mean else 21])
    k_tiles, by_list = 1 if past else rng.randint(1, 3), {}
    if c.list_words and op == Op.MATMUL and src != Src.EXP and not queued and not limited and rng.random() < 0.6:
        row, k_tiles, tiles = -(-tokens // c.to), 1 if past else rng.randint(1, 6), 1
        tiles = rng.choice([tiles for tiles in range(1, k_tiles + 1) if k_tiles % tiles == 0])
        stride = rng.randint(row, row + 2)
        by_list = {"list": 1, "stat_count": tiles, "stat_stride": stride, "stat_base": rng.randint(0, c.list_words - k_tiles // tiles * stride)}
    return Instr(
        **by_list, op=op, src=src, dst=dst, stat=Stat.BYPASS if past else Stat.WEIGHTS, mean=mean, gather=int(queued == 1), scatter=int(queued == 2),
        expert=rng.randrange(c.max_experts) if queued else rng.getrandbits(8), column_params=rng.randrange(2),
        tokens=tokens, step=rng.choice([1, 1, rng.randrange(1, 300)]), k_tiles=k_tiles, n_tiles=rng.randint(1, 5 if past else 3),
        k_hi=rng.randint(1, c.ti), n_last=rng.randint(1, c.to), src_base=rng.getrandbits(20), src_stride=rng.getrandbits(16),
        src_row=rng.getrandbits(16), dst_base=rng.getrandbits(20), dst_stride=rng.getrandbits(16), dst_row=rng.getrandbits(16),
        dst_group=rng.randrange(c.groups), slack=rng.randrange(NUM_CONTEXTS), wide=wide, limit=rng.randint(0, 3 * c.ti) if limited and not past else 0,
        op_base=rng.getrandbits(16) if "operand" in token_layout(c) else 0, op_period=rng.choice([0, 0, 1, 2]) if c.operand_words else 0)


def random_frame(rng: random.Random, c: EngineConfig, length: int) -> list[Instr]:
    """A router instruction, then ``length`` others, then END. One that reads the queues waits for the router's results."""
    router = Instr(op=Op.MATMUL, dst=Dst.ROUTER, k_tiles=1, n_tiles=1, n_last=4, k_hi=c.ti, tokens=rng.randint(1, 12))
    frame, last_router = [router], 0
    for n in range(1, length + 1):
        instr = random_instr(rng, c)
        if instr.gather or instr.scatter:
            instr = replace(instr, slack=min(instr.slack, n - last_router - 1))
        elif instr.dst == Dst.ROUTER:
            last_router = n
        frame.append(instr)
    return [*frame, Instr()]


def random_queues(rng: random.Random, c: EngineConfig) -> Queues:
    return [[(rng.getrandbits(16), rng.getrandbits(16)) for _ in range(rng.choice([0, 1, MIN_PASS, rng.randint(2, 20)]))]
            for _ in range(c.max_experts)]


def fail_unless(condition: object, what: str) -> None:
    if not condition:
        raise BenchFailure(what)


class Bench:
    """The feeder's surroundings, cycle by cycle. ``stalls``: name -> pattern for instr, tile, word, retire, output."""

    def __init__(self, dut, program: list[Instr], rng: random.Random, stalls: dict):
        self.dut, self.rng, self.c, self.program, self.stalls = dut, rng, config(), program, stalls
        self.lists = [[rng.getrandbits(15) for _ in range(self.c.to)] for _ in range(self.c.list_words)]
        self.list_word = 0
        self.model = Model(self.c, self.lists)
        self.queues: Queues = random_queues(rng, self.c)
        self.next_queues: deque[tuple[int, Queues]] = deque()        # (number of the router instruction, what it leaves behind)
        self.slots: deque[Slot] = deque()       # expected, not yet issued
        self.line = deque([None] * (ISSUE + LIST_LATENCY * (self.c.list_words > 0)))       # issued, record not yet seen
        self.place = 0                          # of the next instruction in the program
        self.started, self.retired, self.slots_seen = 0, 0, 0
        self.tiles_given, self.tiles_freed, self.tile_pulse = 0, 0, False
        self.done_at: deque[int] = deque()      # cycles from which instructions may retire, in order
        self.pushes: deque[int] = deque()       # cycles in which words arrive in the output FIFO
        self.occupied = 0
        self.read_queue = (0, 0)
        self.offering = self.word = False
        self.frames = 0
        self.first_issue = self.last_issue = None

    def drive(self, cycle: int) -> None:
        dut, stall = self.dut, self.stalls
        self.offering = self.place < len(self.program) and (self.offering or not next(stall["instr"]))
        dut.instr_valid.value = int(self.offering)
        dut.instr_word.value = self.program[self.place].encode() if self.offering else self.rng.getrandbits(512)
        self.tile_pulse = self.tiles_given - self.tiles_freed < 2 and not next(stall["tile"])
        dut.tile_ready.value = int(self.tile_pulse)
        self.word = self.word or not next(stall["word"])
        dut.word_valid.value = int(self.word)
        self.retire = bool(self.done_at and self.done_at[0] <= cycle and not next(stall["retire"]))
        dut.retire.value = int(self.retire)
        self.push = bool(self.pushes and self.pushes[0] <= cycle)
        dut.out_push.value, dut.out_free.value = int(self.push), OUT_WORDS - self.occupied
        expert, index = self.read_queue
        known = expert < len(self.queues) and index < len(self.queues[expert])
        token, score = self.queues[expert][index] if known else (self.rng.getrandbits(16), self.rng.getrandbits(16))
        dut.q_token.value, dut.q_score.value = token, score
        if self.lists:
            dut.list_data.value = pack(self.lists[self.list_word] if self.list_word < len(self.lists) else [0] * self.c.to, 16)
        dut.counts.value = pack((len(queue) for queue in self.queues), 16)

    def look(self, cycle: int) -> None:
        """The ports of this cycle, all before the clock edge."""
        dut = self.dut
        self.read_queue = sample(dut.q_expert), sample(dut.q_index)
        if self.lists:
            self.list_word = sample(dut.list_addr)
        fail_unless(sample(dut.retired) == self.retired % 256, f"retired is {sample(dut.retired)}, not {self.retired % 256}")
        fail_unless(sample(dut.drained) == (self.started == self.retired), f"drained is {sample(dut.drained)} at cycle {cycle}")
        issue, inject = sample(dut.issue), sample(dut.inject)
        waits = sum(sample(getattr(dut, f"wait_{name}")) for name in ("tile", "hazard", "output"))
        fail_unless(waits <= 1 - issue, f"{waits} reasons to wait in a cycle with issue {issue}")
        self.record(cycle, self.line.popleft(), inject)
        self.line.append(self.issued(cycle) if issue else None)
        fail_unless(not sample(dut.start_instr) or sample(dut.instr_ready) and self.offering, "an instruction not taken starts")
        self.begun(cycle)
        if sample(dut.word_ready) and self.word:
            fail_unless(self.line[-1] is not None and self.line[-1].tile is None, "a stream word was taken without a slot for it")
            self.word = False

    def begun(self, cycle: int) -> None:
        dut = self.dut
        if not (sample(dut.instr_ready) and self.offering):
            fail_unless(not sample(dut.frame_done) and not sample(dut.context_write), "frame_done or context_write by itself")
            return
        instr, pending = self.program[self.place], self.started - self.retired
        limit = min(instr.slack, NUM_CONTEXTS - 1) if instr.op == Op.MATMUL else 0
        fail_unless(pending <= limit, f"{instr} starts with {pending} instructions under way")
        fail_unless(sample(dut.frame_done) == int(instr.op == Op.END), f"frame_done is {sample(dut.frame_done)} with {instr}")
        is_router = instr.op == Op.MATMUL and instr.dst == Dst.ROUTER
        fail_unless(sample(dut.router_reset) == int(is_router), f"router_reset is {sample(dut.router_reset)} with {instr}")
        if instr.op == Op.END:
            self.frames += 1
            fail_unless(not self.slots, "the frame ended before its last slot")
        else:
            got = sample(dut.context_write), sample(dut.context_id), sample(dut.context_word)
            fail_unless(got == (1, self.started % NUM_CONTEXTS, instr.encode()), f"context {got[:2]} of {instr}")
            self.slots.extend(self.model.slots(instr, self.queues))
            if is_router:
                self.next_queues.append((self.started, random_queues(self.rng, self.c)))
            self.started += 1
        self.place, self.offering = self.place + 1, False

    def issued(self, cycle: int) -> Slot:
        fail_unless(bool(self.slots), f"a slot is issued at cycle {cycle} that no instruction has")
        slot = self.slots.popleft()
        fail_unless(slot.tile is None or slot.tile < self.tiles_given, f"tile {slot.tile} at cycle {cycle} is not loaded yet")
        self.first_issue = cycle if self.first_issue is None else self.first_issue
        self.last_issue = cycle
        return slot

    def record(self, cycle: int, slot: Slot | None, inject: int) -> None:
        """The token and source records against the slot issued two cycles ago, or a few more."""
        found, word, source = {"inject": inject}, sample(self.dut.token), sample(self.dut.source)
        for key, bits in token_layout(self.c).items():
            found[key], word = word & (1 << bits) - 1, word >> bits
        for key, bits in source_layout(self.c).items():
            found[f"source_{key}"], source = source & (1 << bits) - 1, source >> bits
        if slot is None:
            wrong = [key for key in CONTROL if found[key]]
            fail_unless(not wrong, f"{', '.join(wrong)} at cycle {cycle} without a slot")
            return
        self.slots_seen += 1
        for key, want in slot.fields.items():
            if slot.fields["valid"] or key in IN_PADDING:
                fail_unless(found[key] == want, f"{key} is {found[key]}, not {want} in slot {self.slots_seen} ({slot})")
        self.tiles_freed += slot.fields["tile_last"]
        if slot.output:
            self.pushes.append(cycle + DRAIN)
        if slot.fields["instr_last"]:
            self.done_at.append(cycle + DRAIN + 1)

    def after(self) -> None:
        """What this cycle's inputs change for the next."""
        self.tiles_given += self.tile_pulse
        if self.retire:
            self.done_at.popleft()
            if self.next_queues and self.next_queues[0][0] == self.retired:
                self.queues = self.next_queues.popleft()[1]
            self.retired += 1
        if self.push:
            self.pushes.popleft()
        self.occupied += self.push
        fail_unless(self.occupied <= OUT_WORDS, "a word for the output FIFO has no room")
        if self.occupied and not next(self.stalls["output"]):
            self.occupied -= 1

    async def run(self, limit: int) -> None:
        await start(self.dut)
        for cycle in range(limit):
            self.drive(cycle)
            await ReadOnly()
            self.look(cycle)
            self.after()
            await FallingEdge(self.dut.clk)
            if self.place == len(self.program):
                break
        fail_unless(self.place == len(self.program), f"{self.place} of {len(self.program)} instructions in {limit} cycles")
        fail_unless(self.frames == sum(instr.op == Op.END for instr in self.program), f"{self.frames} frames ended")
        fail_unless(self.slots_seen > 0, "nothing was checked")


ALL = ("instr", "tile", "word", "retire", "output")


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize((("slow", "pattern"),
                     [("none", "never"), ("all", "often"), ("all", "bursts"), *((name, "bursts") for name in ALL)]))
async def issues_every_slot(dut, slow, pattern):
    """Two frames of random instructions; one neighbour slow, all, or none."""
    rng = random.Random(f"{slow} {pattern}")
    stalls = {name: PATTERNS[pattern](n) if slow in (name, "all") else PATTERNS["never"](n) for n, name in enumerate(ALL)}
    program = [instr for _ in range(2) for instr in random_frame(rng, config(), 12)]
    await Bench(dut, program, rng, stalls).run(6_000)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def issues_without_a_bubble(dut):
    """Tiles loaded, hazards far away: one slot a cycle from the first to the last, over tiles and instructions."""
    rng, c = random.Random(53), config()
    base = Instr(op=Op.MATMUL, dst=Dst.ACT, n_last=c.to, k_hi=c.ti, slack=NUM_CONTEXTS - 1)
    program = [replace(base, tokens=rng.randint(MIN_PASS - 2, 20), k_tiles=rng.randint(1, 3), n_tiles=rng.randint(2, 3),
                       column_params=rng.randrange(2), wide=int(c.wide and rng.random() < 0.4)) for _ in range(12)]
    bench = Bench(dut, [*program, Instr()], rng, {name: never() for name in ALL})
    await bench.run(4_000)
    cycles = bench.last_issue - bench.first_issue + 1
    fail_unless(cycles == bench.slots_seen, f"{bench.slots_seen} slots took {cycles} cycles")


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def waits_for_retired_instructions(dut):
    """The widest hazard an instruction can ask for: as many under way as there are contexts, with a drain that answers late."""
    rng, c = random.Random(59), config()
    stalls = {name: never() for name in ALL} | {"retire": randomly(0.97, 59)}
    base = Instr(op=Op.MATMUL, dst=Dst.ACT, n_last=c.to, k_hi=c.ti, k_tiles=1, n_tiles=1)
    program = [replace(base, tokens=rng.randint(1, 9), slack=slack) for _ in range(3) for slack in (7, 7, 7, 7, 7, 3, 2, 1, 0)]
    await Bench(dut, [*program, Instr()], rng, stalls).run(4_000)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def reserves_room_for_every_word(dut):
    """Outputs back to back into a queue that is nearly always full: one word each (mean) and many, one reduction tile or two."""
    rng, c = random.Random(79), config()
    stalls = {name: never() for name in ALL} | {"output": randomly(0.97, 79)}
    base = Instr(op=Op.MATMUL, dst=Dst.OUT, n_last=c.to, k_hi=c.ti, slack=NUM_CONTEXTS - 1)
    program = [replace(base, tokens=rng.choice([1, 2, 5, OUT_WORDS]), mean=rng.randrange(2), k_tiles=rng.randint(1, 2),
                       n_tiles=rng.randint(1, 3)) for _ in range(16)]
    await Bench(dut, [*program, Instr()], rng, stalls).run(6_000)
