"""Fetch: predicates, frames, tasks, stalls, what is illegal, a program without END; order, content and time of each offer."""

from dataclasses import replace
import random

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from hwgen.engine import OUT_WORDS
from hwgen.isa import Dst, Follow, Instr, Op, Stat, followed
from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure, StreamChecker
from hwgen_sim.endpoints import sample, start
from hwgen_sim.stalls import PATTERNS

QUIET = 60               # cycles without an offer after which nothing more is believed to come

ILLEGAL = (
    Instr(op=3), Instr(op=15), Instr(op=Op.MATMUL, k_tiles=1, tokens=1), Instr(op=Op.MATMUL, n_tiles=1, tokens=1),
    Instr(op=Op.STREAM, tokens=1), Instr(op=Op.STREAM, n_tiles=1),
    Instr(op=Op.MATMUL, k_tiles=1, n_tiles=1, tokens=OUT_WORDS + 1, dst=Dst.OUT),
)
LEGAL_EDGES = (
    Instr(op=Op.MATMUL, k_tiles=1, n_tiles=1, tokens=OUT_WORDS, dst=Dst.OUT),
    Instr(op=Op.MATMUL, k_tiles=1, n_tiles=1, tokens=OUT_WORDS + 1, dst=Dst.OUT, mean=1),
    Instr(op=Op.MATMUL, k_tiles=1, n_tiles=1, tokens=OUT_WORDS + 1, dst=Dst.ACT),
    Instr(op=Op.STREAM, k_tiles=0, n_tiles=1, tokens=OUT_WORDS + 1, dst=Dst.OUT),
)


LONGEST = 150            # of a sequence


def random_program(rng: random.Random, length: int) -> list[Instr]:
    """``length`` legal instructions, the last one END; about half of the others have a predicate, and in an engine for lengths follow them."""
    program = [replace(rng.choice(LEGAL_EDGES), pred=rng.randrange(2), task=rng.randrange(3), src_base=rng.randrange(LONGEST, 1 << 20),
                       slack=rng.randrange(4)) for _ in range(length - 1)]
    if parameters()["lengths"]:
        program = [instr if instr.op != Op.MATMUL or not rng.randrange(5) else _following(instr, rng) for instr in program]
    return [*program, Instr()]


def _following(instr: Instr, rng: random.Random) -> Instr:
    """The instruction as one of a sequence: some of its rows, its last one, its keys."""
    follow, stat = rng.choice(list(Follow)), rng.choice([Stat.WEIGHTS, Stat.K_COLUMNS, Stat.V_ROWS])
    rows = {"src": rng.randrange(4), "src_row": rng.randrange(LONGEST, 1 << 16), "stat": stat, "follow": follow}
    keys = {} if stat == Stat.WEIGHTS else {"keys_follow": rng.randrange(2), "stat_count": rng.randrange(1, LONGEST + 1), "k_tiles": 9, "n_tiles": 9,
                                            "k_hi": 3, "n_last": 5}
    first = LONGEST if follow == Follow.LAST else rng.choice([0, rng.randrange(LONGEST)]) if follow == Follow.ROWS else 0
    tokens = 1 if follow == Follow.LAST else rng.randrange(1, OUT_WORDS + 1)
    return replace(instr, **rows, **keys, first=first, tokens=tokens)


def splits(length: int) -> int:
    """Cycles in which the tiles of a sequence are counted."""
    return max(1, *(-(-length // size) for size in parameters()["lengths"]))


def walk(program: list[Instr], frames: int, tasks: list[int], lengths: list[int], skip: bool, legal: set[int]
         ) -> list[tuple[int, int, int, int]]:
    """What is offered: (word, active, pc, cycles since the offer before, or since the start less 1); ends at an instruction that is not in
    ``legal``."""
    offers = []
    tiles = parameters()["lengths"]
    for frame in range(frames):
        length = lengths[frame % len(lengths)]
        waited = 1 + splits(length) if tiles else 0
        for pc, instr in enumerate(program):
            if pc not in legal:
                return offers
            active = not instr.pred or instr.task == tasks[frame % len(tasks)]
            if skip and not active:
                waited += 2
                continue
            waited += 4 if tiles else 2
            done = followed(instr, length, *tiles) if tiles else instr
            if skip and done is None:
                continue
            offers.append((done.encode() if done is not None else None, int(active and done is not None), pc, waited))
            waited = 0
    return offers


async def run_program(dut, program: list[Instr], frames: int, tasks: list[int], stall, timed: bool,
                      illegal: int | None = None, lengths: list[int] | None = None) -> None:
    """Start, take every offer, and see that nothing follows. ``illegal``: place of the instruction that stops the walker."""
    skip = parameters()["skip"]
    memory = [instr.encode() for instr in program] + [0] * (parameters()["depth"] - len(program))
    lengths = lengths or [0] * 8
    offers = walk(program, frames, tasks, lengths, skip, set(range(len(program))) - {illegal})
    checker = StreamChecker(f"offers of {len(program)} instructions, {frames} frames")
    times = []
    for word, active, pc, waited in offers:
        checker.expect((pc, active, word))
        times.append((times[-1] if times else 1) + waited)
    dut.start.value, dut.frames.value = 1, frames
    dut.tasks.value = sum(task << 4 * i for i, task in enumerate(tasks))
    if parameters()["lengths"]:
        dut.lengths.value = sum(length << 16 * i for i, length in enumerate(lengths))
    address, waiting, cycle, quiet = sample(dut.mem_addr), None, 0, 0
    while quiet < QUIET:
        pause = next(stall)
        dut.ready.value = int(not pause)
        await ReadOnly()
        offer = (sample(dut.pc), sample(dut.active), sample(dut.word)) if sample(dut.valid) else None
        if waiting is not None and offer != waiting:
            raise BenchFailure(f"the offer of pc {waiting[0]} changed before it was taken")
        waiting = offer if pause else None
        if offer is not None and not pause:
            if timed and checker.num_checked < len(times) and cycle != times[checker.num_checked]:
                raise BenchFailure(f"pc {offer[0]} was offered {cycle} cycles after start, not {times[checker.num_checked]}")
            number = checker.num_checked
            hidden = number < len(offers) and offers[number][0] is None         # of an instruction that is passed over the weights count
            checker.observe((*offer[:2], None) if hidden else offer)
        quiet = 0 if offer is not None else quiet + 1
        address = sample(dut.mem_addr)
        await FallingEdge(dut.clk)
        dut.mem_data.value = memory[address]
        dut.start.value = 0
        cycle += 1
    if offers:
        checker.finish()
    if sample(dut.illegal) != int(illegal is not None):
        raise BenchFailure(f"illegal is {sample(dut.illegal)} with the illegal instruction at {illegal}")


async def reset(dut) -> None:
    dut.rst.value = 1
    await FallingEdge(dut.clk)
    dut.rst.value = 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=list(PATTERNS))
async def offers_the_program(dut, pattern):
    """Programs of every size, one after the other without a reset; more frames than the tasks register has places."""
    rng, stall = random.Random(43), PATTERNS[pattern](43)
    await start(dut)
    depth = parameters()["depth"]
    for length, frames in ((1, 1), (1, 3), (2, 9), (depth, 2), (depth // 2, 17), (5, 3)):
        tasks = [rng.randrange(3) for _ in range(8)]
        lengths = [rng.choice([0, 1, 16, 17, LONGEST, *(3 * [rng.choice(parameters()["lengths"] or [1])]), rng.randrange(1, LONGEST)]) for _ in range(8)]
        await run_program(dut, random_program(rng, length), frames, tasks, stall, timed=pattern == "never", lengths=lengths)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often"])
async def stops_at_an_illegal_instruction(dut, pattern):
    """Wherever it stands, skipped or not; also a program without END."""
    rng, stall = random.Random(47), PATTERNS[pattern](47)
    await start(dut)
    depth = parameters()["depth"]
    for bad in ILLEGAL:
        for place in (0, rng.randrange(1, depth - 1)):
            program = random_program(rng, depth)
            program[place] = replace(bad, pred=rng.randrange(2), task=7)
            await run_program(dut, program, 2, [0, 1, 2, 0, 1, 2, 0, 1], stall, pattern == "never", place)
            await reset(dut)
    endless = random_program(rng, depth)
    endless[-1] = LEGAL_EDGES[0]
    await run_program(dut, endless, 1, [0] * 8, stall, pattern == "never", depth - 1)
    await reset(dut)
    await run_program(dut, random_program(rng, depth), 2, [1] * 8, stall, pattern == "never")
