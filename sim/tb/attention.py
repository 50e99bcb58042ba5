"""The fused attention path of a whole engine: Q K with the row maximum at the drain, exp at the feed, row sums, P V with the
division deferred to its drain, heads in turn as the compiler orders them. Judge: the integer model, of un-normalised
P V numerics.

The program brings q, k and v in through STREAM and results out through the array: a matmul by the identity (normalised), and P V
straight to the output queue (accumulators of the last head).
"""

from dataclasses import dataclass

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly
import numpy as np

from hwgen import numerics
from hwgen.engine import OUT_WORDS, EngineConfig
from hwgen.isa import Dst, Instr, Op, Src, Stat, words
from hwgen.steps.format import INT8, SCORES, Format
from hwgen.steps.golden import trace
from hwgen.steps.param import Factor
from hwgen.steps.stages import Exp2, Host, Identity, Keys, Plain, Requant, Restore, RowFactor, Values
from hwgen.steps.step import Keep, Network, Step
from hwgen.steps.tensor import Memory, Span, Tensor
from hwgen_sim.bench import config
from hwgen_sim.checker import BenchFailure, StreamChecker
from hwgen_sim.endpoints import sample, start
from hwgen_sim.lanes import pack, unpack
from hwgen_sim.stalls import PATTERNS

TIMEOUT_CYCLES = 20_000


@dataclass(frozen=True)
class Case:
    """One attention: q, k, v int8 [tokens, heads * dim]; factors (multiplier, shift) of scores and result; format of the scores; keys that the
    first token sees, each other one more than the token before (0: all see all)."""

    name: str
    heads: int
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    score: tuple[int, int]
    out: tuple[int, int]
    form: Format = SCORES[0]
    limit: int = 0

    @property
    def tokens(self) -> int:
        return self.q.shape[0]

    @property
    def dim(self) -> int:
        return self.q.shape[1] // self.heads


def golden(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(result int8 [tokens, heads * dim], scores [heads, tokens, tokens], un-normalised P V of the last head [tokens, dim])."""
    channels, tokens = case.heads * case.dim, case.tokens
    x, out = Tensor("x", INT8, tokens, 3 * channels, 1.0), Tensor("att", INT8, tokens, channels, 1.0)
    product = Tensor("scores", case.form, tokens, case.heads * tokens, memory=Memory.SCORE)
    q, k, v = (x.view(channels=Span(n * channels, channels)) for n in range(3))
    steps = (Step("x", "x", Host("x", None), Identity(), (x.view(),)),
             Step("att", "att", Plain(), Keys(k, case.limit), (product.view(),), q, (Requant(Factor(*case.score), case.form),), (Keep.ROW_MAX,),
                  part="scores", heads=case.heads),
             Step("att", "att", Exp2(case.limit), Values(v), (out.view(),), product.view(), (Restore(), RowFactor(Factor(*case.out))), heads=case.heads))
    values = trace(Network("attention", steps, ()), np.concatenate([case.q, case.k, case.v], axis=1)[None], detail=True)
    scores = values["att.scores"][0]
    last = np.where(np.arange(tokens) < (case.limit or tokens) + np.arange(tokens)[:, None], scores[-1], -(1 << 20))
    p = numerics.exp2_p8(last.max(-1, keepdims=True) - last, case.form.frac)
    return values["att"][0], scores, numerics.matmul(p, case.v[:, -case.dim:])


class Compiled:
    """A case as instructions and stream vectors for engine ``c``. Outputs [tile][token]: P V, then the result block by block."""

    def __init__(self, case: Case, c: EngineConfig):
        self.case, self.c = case, c
        self.pitch = -(-case.dim // c.group) * c.group           # a head of v or of the result begins at a group
        self.padded = case.heads * self.pitch
        self.chunks = -(-self.padded // c.ti)
        self.instrs: list[Instr] = []
        self.vectors: list[int] = []
        self._load()
        self._attend()
        self._read_back()
        self.instrs.append(Instr())

    def _place(self, base: int, channel: int) -> int:
        return base + channel // self.c.ti * self.case.tokens

    def _stream(self, table: np.ndarray, dst: Dst, base: int) -> None:
        tokens, channels = table.shape
        tiles = -(-channels // self.c.to)
        self.instrs.append(Instr(op=Op.STREAM, src=Src.ACT, dst=dst, tokens=tokens, n_tiles=tiles, dst_base=base,
                                 dst_stride=tokens, n_last=channels - (tiles - 1) * self.c.to))
        padded = np.zeros((tokens, tiles * self.c.to), np.int8)
        padded[:, :channels] = table
        self.vectors += [pack(row, 8) for j in range(tiles) for row in padded[:, j * self.c.to:(j + 1) * self.c.to]]

    def _load(self) -> None:
        """q -> activations 0.., k -> keys 0.., v -> behind them, every head at a group."""
        case = self.case
        spread = np.zeros((case.tokens, self.padded), np.int8)
        for h in range(case.heads):
            spread[:, h * self.pitch:h * self.pitch + case.dim] = case.v[:, h * case.dim:(h + 1) * case.dim]
        self.values = -(-case.k.shape[1] // self.c.ti) * case.tokens
        self.result = -(-case.q.shape[1] // self.c.ti) * case.tokens
        self._stream(case.q, Dst.ACT, 0)
        self._stream(case.k, Dst.KV, 0)
        self._stream(spread, Dst.KV, self.values)

    def _attend(self) -> None:
        """Scores one head ahead of P V, as the compiler orders them; slacks no larger than the data allow."""
        case, c = self.case, self.c
        tokens, tiles = case.tokens, -(-case.tokens // c.to)
        score_words = -(-tokens // c.ti) * tokens

        def score(h):
            first, last = h * case.dim, (h + 1) * case.dim - 1
            self.instrs.append(Instr(
                op=Op.MATMUL, src=Src.ACT, stat=Stat.K_COLUMNS, dst=Dst.SCORE, to16=1, tokens=tokens, slack=1, load_slack=1,
                k_tiles=last // c.ti - first // c.ti + 1, k_lo=first % c.ti, k_hi=last % c.ti + 1, n_tiles=tiles,
                n_last=tokens - (tiles - 1) * c.to, src_base=self._place(0, first), src_stride=tokens,
                stat_base=self._place(0, first), stat_stride=tokens, stat_count=tokens, dst_base=h % 2 * score_words,
                dst_stride=tokens, dst_row=h % 2 * c.max_tokens, mult=case.score[0], shift=case.score[1], limit=case.limit))

        score(0)
        for h in range(case.heads):
            if h + 1 < case.heads:
                score(h + 1)
            self.instrs.append(self._weigh(h, score_words, Dst.ACT, slack=int(h + 1 < case.heads)))
        if tokens <= OUT_WORDS:
            self.instrs.append(self._weigh(case.heads - 1, score_words, Dst.OUT, slack=1))

    def _weigh(self, h: int, score_words: int, dst: Dst, slack: int) -> Instr:
        case, c, place = self.case, self.c, h * self.pitch
        tiles, p_tiles = -(-case.dim // c.to), -(-case.tokens // c.ti)
        return Instr(
            op=Op.MATMUL, src=Src.EXP, score_frac=SCORES.index(case.form), stat=Stat.V_ROWS, dst=dst, row_scale=1, tokens=case.tokens,
            slack=slack, load_slack=1,
            k_tiles=p_tiles, k_hi=case.tokens - (p_tiles - 1) * c.ti, n_tiles=tiles, n_last=case.dim - (tiles - 1) * c.to,
            src_base=h % 2 * score_words, src_stride=case.tokens, src_row=h % 2 * c.max_tokens,
            stat_base=self._place(self.values, place), stat_stride=case.tokens, stat_group=place % c.ti // c.group,
            stat_count=case.tokens, dst_base=self._place(self.result, place), dst_stride=case.tokens,
            dst_group=place % c.ti // c.group, mult=case.out[0], shift=case.out[1], limit=case.limit)

    def _read_back(self) -> None:
        """The result by the identity to the output queue, as many tokens at a time as it holds."""
        c = self.c
        tiles = self.padded // c.to
        identity = np.zeros((self.chunks * c.ti, tiles * c.to), np.int8)
        np.fill_diagonal(identity, 1)
        for first in range(0, self.case.tokens, OUT_WORDS):
            self.instrs.append(Instr(op=Op.MATMUL, src=Src.ACT, dst=Dst.OUT, tokens=min(OUT_WORDS, self.case.tokens - first),
                                     k_tiles=self.chunks, k_hi=c.ti, n_tiles=tiles, n_last=c.to, src_base=self.result + first,
                                     src_stride=self.case.tokens))
            self.vectors += [pack(identity[k * c.ti:(k + 1) * c.ti, j * c.to + column], 8)
                             for j in range(tiles) for k in range(self.chunks) for column in range(c.to)]

    def expected(self) -> list[tuple[str, tuple[int, ...]]]:
        """Output words in order: (what it is, its valid lanes)."""
        case, c = self.case, self.c
        result, _, sums = golden(case)
        found = []
        if case.tokens <= OUT_WORDS:
            found += [(f"sums of token {t}, lane {j}..", tuple(map(int, sums[t, j:j + c.to])))
                      for j in range(0, case.dim, c.to) for t in range(case.tokens)]
        for first in range(0, case.tokens, OUT_WORDS):
            for column in range(0, self.padded, c.to):
                head, lane = divmod(column, self.pitch)
                at, stop = head * case.dim + lane, head * case.dim + min(case.dim, lane + c.to)
                found += [(f"head {head}, token {t}, lane {lane}..", tuple(map(int, result[t, at:stop])))
                          for t in range(first, min(first + OUT_WORDS, case.tokens))]
        return found


async def load(dut, instrs: list[Instr]) -> None:
    dut.prog_we.value = 1
    for n, instr in enumerate(instrs):
        for i, word in enumerate(words(instr)):
            dut.prog_addr.value, dut.prog_word.value, dut.prog_data.value = n, i, word
            await FallingEdge(dut.clk)
    dut.prog_we.value = 0


async def run_case(dut, case: Case, stream_stall, output_stall) -> None:
    """Load, start, feed the stream, take the outputs of one frame and compare them."""
    c = config()
    compiled = Compiled(case, c)
    await load(dut, compiled.instrs)
    dut.start.value, dut.frames.value = 1, 1
    checker, expected = StreamChecker(case.name), compiled.expected()
    for item in expected:
        checker.expect(item)
    place, offered, occupied = 0, False, 0
    for _ in range(TIMEOUT_CYCLES):
        offered = place < len(compiled.vectors) and (offered or not next(stream_stall))
        dut.vec_valid.value = int(offered)
        dut.vec_data.value = compiled.vectors[place] if offered else 0
        dut.out_free.value = OUT_WORDS - occupied
        await ReadOnly()
        done, taken = sample(dut.frame_done), offered and sample(dut.vec_ready)
        if sample(dut.illegal):
            raise BenchFailure(f"{case.name}: an illegal instruction")
        if sample(dut.out_valid):
            note, lanes = expected[min(checker.num_checked, len(expected) - 1)]
            checker.observe((note, tuple(unpack(sample(dut.out_word), 32, c.to)[:len(lanes)])))
            occupied += 1
        if occupied > OUT_WORDS:
            raise BenchFailure(f"{case.name}: the output queue has no room")
        if occupied and not next(output_stall):
            occupied -= 1
        await FallingEdge(dut.clk)
        dut.start.value = 0
        if taken:
            place, offered = place + 1, False
        if done:
            break
    else:
        raise BenchFailure(f"{case.name}: the frame does not end")
    dut.vec_valid.value = 0
    checker.finish()
    if place != len(compiled.vectors):
        raise BenchFailure(f"{case.name}: {len(compiled.vectors) - place} vectors were not taken")


def spread_case(rng: np.random.Generator, tokens: int, dim: int, heads: int, form: Format, limit: int = 0) -> Case:
    """Random values; scores of a few units, results over the int8 range."""
    q, k, v = (rng.integers(-127, 128, (tokens, heads * dim)) for _ in range(3))
    shift = 13 - form.frac + int(np.log2(127 * 127 * np.sqrt(dim)))           # standard deviation of a score: about two octaves
    return Case(f"{tokens} tokens, {heads} heads of {dim}, scores {form}, limit {limit}", heads, q, k, v, (40_000, shift), (50_000, 15), form, limit)


def corner_cases(rng: np.random.Generator) -> list[Case]:
    """Where the softmax is at its limits; what each must be is checked in `check_corners`."""
    tokens, dim = 9, 10
    v = rng.integers(-127, 128, (tokens, dim))
    q = rng.integers(1, 128, (tokens, dim))
    zero, ones = np.zeros((tokens, dim), np.int64), np.ones((tokens, dim), np.int64)
    dominant, lowest = -127 * ones, -127 * ones
    dominant[4] = 127
    near = zero.copy()
    near[:, 0] = np.arange(tokens)
    octave = 1 << numerics.SCORE_FRAC
    unit, large = (1 << 15, 15), (65_535, 1)             # factors 1 and 32767.5
    return [
        Case("all scores equal", 1, q, zero, v, unit, unit),
        *(Case("one dominant key", 1, 127 * ones, dominant, v, large, unit, form) for form in SCORES),      # the largest distance
        Case("all scores at -32767", 1, q, lowest, v, large, unit),
        Case("scores one apart", 1, ones, 8 * near, v, (1 << 12, 15), unit),
        Case("scores an octave apart", 1, octave // 4 * ones, 4 * near, v, unit, unit),
        Case("results that saturate", 1, q, zero, 127 * ones, unit, (65_535, 8)),
        Case("one token", 1, q[:1], q[:1], v[:1], unit, unit),
        Case("one token at -32767", 1, q[:1], lowest[:1], v[:1], large, unit),
        *([Case("causal, all scores at -32767", 1, q, lowest, v, large, unit, limit=1),
           Case("causal, the largest key unseen", 1, 127 * ones, dominant, v, large, unit, limit=1)] if config().causal else []),
    ]


def check_corners(case: Case) -> None:
    """The case is the corner its name says."""
    result, scores, _ = golden(case)
    ok = {
        "all scores equal": lambda: not scores.any(),
        "one dominant key": lambda: (scores[0, :, 4] == 32767).all() and (np.delete(scores[0], 4, 1) == -32767).all(),
        "all scores at -32767": lambda: (scores == -32767).all(),
        "causal, all scores at -32767": lambda: (scores == -32767).all(),
        "causal, the largest key unseen": lambda: (scores[0, :, 4] == 32767).all() and (result[0] == case.v[0]).all(),
        "scores one apart": lambda: (np.diff(scores[0]) == 1).all(),
        "scores an octave apart": lambda: (np.diff(scores[0]) == 1 << numerics.SCORE_FRAC).all(),
        "results that saturate": lambda: (result == 127).all(),
        "one token at -32767": lambda: (scores == -32767).all()}
    if not ok.get(case.name, lambda: True)():
        raise BenchFailure(f"the case is not what it is named: {case.name}")


SHAPES = ((1, 8, 1), (2, 3, 3), (8, 16, 2), (13, 6, 3), (16, 8, 2), (17, 5, 2), (31, 20, 1))          # tokens, head dim, heads


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize(pattern=["never", "often"])
async def matches_the_integer_model(dut, pattern):
    """Shapes one after the other, without a reset: what a run leaves behind does not matter. With stalls every second one."""
    rng = np.random.default_rng(61)
    await start(dut)
    for index, (tokens, dim, heads) in enumerate(SHAPES if pattern == "never" else SHAPES[1::2]):
        limit = (1, 0, 1, 4)[index % 4] if config().causal else 0
        await run_case(dut, spread_case(rng, tokens, dim, heads, SCORES[index % len(SCORES)], limit), PATTERNS[pattern](61), PATTERNS[pattern](67))


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def matches_at_the_corners(dut):
    cases = corner_cases(np.random.default_rng(71))
    await start(dut)
    for case in cases:
        check_corners(case)
        await run_case(dut, case, PATTERNS["seldom"](71), PATTERNS["bursts"](73))
