"""An independent check of a program: it is replayed word by word, as docs/reference/engine.md tells what an instruction does.

It knows nothing of steps. An instruction is good when every field is in the range of the hardware it names, and when, for every task, what
it reads was written before, by instructions far enough back for its slack, in buffers that are alive and share no word with another one.
"""

from __future__ import annotations

import numpy as np

from ... import numerics
from ...engine import OUT_WORDS, EngineConfig
from ...errors import ModelError
from ...isa import ABSENT, FIELDS, Dst, Follow, Half, Instr, Op, Operand, Src, Stat, followed
from .hazards import MAX_SLACK
from .lists import Lists, wrong_list
from .program import BufferInfo, Program
from .text import line
from .touched import MAXIMA, PLACED, Area, Touched, columns, sizes_of, stream_bytes

ENUMS = {"op": len(Op), "src": len(Src), "stat": len(Stat), "dst": len(Dst), "plane": len(Half), "follow": len(Follow)}
NEVER = -1


def verify(program: Program) -> None:
    """Raises ModelError with the instruction printed."""
    config = program.config
    if not program.instrs or len(program.instrs) != len(program.infos) or len(program.instrs) > config.program_words:
        raise ModelError(f"the program has {len(program.instrs)} instructions and {len(program.infos)} notes on them, its memory holds "
                         f"{config.program_words}", where="program")
    sizes = sizes_of(config)
    for pc, instr in enumerate(program.instrs):
        if wrong := _range(program, pc, instr) or _reach(sizes, config, instr):
            raise failure(pc, instr, wrong)
    if wrong := _streams(program):
        raise ModelError(wrong, where="program")
    for task in range(program.num_tasks):
        _replay(program, task, 0)
        for length in _lengths(program):
            _replay(program, task, length)


def _lengths(program: Program) -> list[int]:
    """Of a sequence, with which the engine does other instructions than with the one before: shorter ones only do less of each."""
    if not program.config.lengths:
        return []
    return sorted({instr.first + 1 for instr in program.instrs if instr.follow == Follow.ROWS} | {1})


def failure(pc: int, instr: Instr, message: str) -> ModelError:
    """The error about an instruction, which is printed."""
    return ModelError(message, where=f"instruction {line(pc, instr)}")


def limits(program: Program) -> list[tuple[int, int]]:
    """(slack, load_slack) of every instruction that are just allowed: what it reads was written by nothing nearer, in any task."""
    found = [(MAX_SLACK, MAX_SLACK)] * len(program.instrs)
    replays = [_Replay(program.config) for _ in range(program.num_tasks)]
    for pc, instr in enumerate(program.instrs):
        touched = Touched.by(program.config, instr)
        for task, replay in enumerate(replays):
            if not instr.pred or instr.task == task:
                pair = replay.distance(touched.fed), replay.distance(touched.loaded)
                found[pc] = min(found[pc][0], pair[0]), min(found[pc][1], pair[1])
                replay.write(touched)
    return found


# ---------------------------------------------------------------- fields

def _range(program: Program, pc: int, instr: Instr) -> str | None:
    """What is wrong with the fields of one instruction, or None."""
    config, last = program.config, pc == len(program.instrs) - 1
    for name, bits in FIELDS:
        value = getattr(instr, name)
        if not 0 <= value < min(1 << bits, ENUMS.get(name, 1 << bits)):
            return f"{name} = {value} is none of {ENUMS[name]} kinds" if name in ENUMS else f"{name} = {value} does not fit {bits} bits"
    if (instr.op == Op.END) != last:
        return "the program ends with END, and nowhere else"
    if instr.op == Op.END:
        return None
    if instr.pred and instr.task >= program.num_tasks:
        return f"runs for task {instr.task} of {program.num_tasks}"
    bounds = {"tokens": (1, config.max_tokens), "n_tiles": (1, None), "n_last": (1, config.to), "step": (1, None), "slack": (0, MAX_SLACK),
              "load_slack": (0, MAX_SLACK), "dst_group": (0, config.groups - 1), "stat_group": (0, config.groups - 1),
              "function": (0, len(config.functions) - 1)}
    if instr.op == Op.MATMUL:
        bounds |= {"k_tiles": (1, None), "k_lo": (0, config.ti - 1), "k_hi": (1, config.ti)}
    for name in ("shift", "shift2", "inv_shift", "norm_shift"):
        bounds[name] = (0, numerics.MAX_SHIFT)
    for name, (low, high) in bounds.items():
        value = getattr(instr, name)
        if value < low or high is not None and value > high:
            return f"{name} = {value} is not in {low}..{'' if high is None else high}"
    if wrong := wrong_list(instr, config):
        return wrong
    if (instr.pick or instr.ranked) and (wrong := _picks(instr, config)):
        return wrong
    if instr.op == Op.STREAM:
        if instr.dst != Dst.OPERAND and instr.src == Src.NORM and instr.tokens == 1 and instr.n_tiles > 1:
            return "streams words of one token to the residual stream one after the other: its statistics are written later than they are read"
        if instr.dst == Dst.ROUTER:
            alone = instr.src == Src.NORM and instr.tokens == instr.n_tiles == 1 and config.scores
            return None if alone else "streams a bias of the router's choice that is no word of 16 bits, or the engine takes none"
        wanted = {(Src.ACT, Dst.ACT), (Src.NORM, Dst.RES_SET), (Src.NORM, Dst.RES_ADD), (Src.ACT, Dst.OPERAND), (Src.NORM, Dst.OPERAND)}
        return None if (instr.src, instr.dst) in wanted else f"streams {Src(instr.src).name} words to {Dst(instr.dst).name}"
    return _kinds(instr, config)


def _kinds(instr: Instr, config: EngineConfig) -> str | None:
    """What does not go together in a matrix product, or None."""
    if instr.stat == Stat.BYPASS and (wrong := _past(instr, config)):
        return wrong
    if instr.k_tiles == 1 and instr.k_lo >= instr.k_hi:
        return f"lanes {instr.k_lo} to {instr.k_hi} of the one reduction tile are none"
    loaded = instr.stat in (Stat.K_COLUMNS, Stat.V_ROWS)
    if bool(instr.column_params) == loaded or instr.w4 and (instr.stat != Stat.WEIGHTS or not config.w4):
        return "column parameters and 4-bit weights come with the weight stream, of an engine that has them"
    held = config.ti * instr.k_tiles if instr.stat == Stat.V_ROWS else config.to * instr.n_tiles
    if loaded and not 1 <= instr.stat_count <= held:
        return f"{instr.stat_count} keys do not fit its tiles"
    mixes = config.mixes and instr.src == Src.ACT and not instr.wide and instr.stat == Stat.V_ROWS
    each = config.picks and instr.src == Src.EXP and instr.stat == Stat.WEIGHTS and instr.to16 and instr.dst in (Dst.RES_SET, Dst.RES_ADD)
    if bool(instr.row_scale) != (instr.src == Src.EXP) or (instr.src == Src.EXP) != (instr.stat == Stat.V_ROWS) and not (mixes or each):
        return "exponentials, values and the division by the sum of a row go together, or the engine does not mix tokens"
    if (instr.gather or instr.scatter) and (instr.expert >= config.max_experts or instr.gather and instr.src != Src.ACT
                                            or instr.scatter and instr.dst != Dst.RES_ADD):
        return f"takes tokens of expert {instr.expert} of {config.max_experts}: gathers activations, scatters into the residual stream"
    if instr.dst == Dst.ROUTER:
        logits = columns(config, instr)
        if instr.n_tiles != 1 or logits != instr.num_experts or logits > config.max_experts \
                or not 1 <= instr.top_k <= min(logits, config.max_top_k):
            return (f"routes to {instr.top_k} of {instr.num_experts} experts by {logits} logits, the engine does {config.max_top_k} of "
                    f"{config.max_experts}")
        if (instr.act or instr.biased) and not config.scores or instr.biased and not instr.act:
            return "routes by scores or by a bias of the choice, and the engine does not, or by a bias of logits"
    elif instr.num_experts or instr.top_k or instr.keep or instr.renorm or instr.biased:
        return "has fields of a router and is none"
    if instr.keep and instr.src != Src.NORM:
        return "keeps normalised words, and has none"
    if (instr.wide or instr.plane or instr.src == Src.RES) and not config.wide:
        return "has operands or results of 16 bits, the engine has none"
    if instr.wide and (loaded or instr.keep):
        return "multiplies 16 bits with what are no weights, or keeps them"
    if instr.plane and (instr.dst != Dst.ACT or not instr.to16):
        return "stores a half of what has no 16 bits, or elsewhere than with the activations"
    if instr.limit and (not config.causal or instr.dst != Dst.SCORE and instr.src != Src.EXP):
        return f"its first row sees {instr.limit} keys, and it makes no scores or exponentials or the engine has no such limit"
    if wrong := _follows(instr, config):
        return wrong
    if instr.rms and (not config.rms or instr.src != Src.NORM):
        return "leaves the mean out, and does not normalise or the engine always takes it off"
    if instr.function and not instr.act:
        return f"names function {instr.function} and applies none"
    if wrong := _operands(instr, config):
        return wrong
    if instr.act_columns and not (instr.act and instr.column_params and instr.shift2 % 2):
        return "multipliers of columns behind an activation come with the weight stream, and their shift is odd"
    if instr.mean and instr.dst != Dst.OUT or instr.dst == Dst.OUT and not instr.mean and instr.tokens > OUT_WORDS:
        return f"only what leaves is added up; without that at most {OUT_WORDS} tokens leave"
    return None


def _picks(instr: Instr, config: EngineConfig) -> str | None:
    """What keeps an instruction from choosing tokens by its results, or None."""
    if not config.picks or not config.list_words:
        return "chooses tokens by their scores, the engine does not"
    row = instr.stat == Stat.BYPASS
    fits = instr.tokens == 1 if row else instr.stat == Stat.WEIGHTS and instr.n_tiles == instr.n_last == 1
    if instr.op != Op.MATMUL or instr.dst != Dst.OPERAND or not instr.to16 or not fits or not instr.pick \
            or instr.list or instr.gather or instr.scatter or instr.act or instr.operand or instr.follow or instr.src == Src.EXP:
        return "chooses tokens by what is no score of 16 bits of each, one behind the other or side by side"
    count = columns(config, instr) if row else instr.tokens
    if not 1 <= instr.stat_count <= count <= config.max_tokens or instr.stat_base + count > ABSENT:
        return f"keeps {instr.stat_count} of {count} tokens from number {instr.stat_base} on, the engine chooses among {config.max_tokens}"
    return None


def _operands(instr: Instr, config: EngineConfig) -> str | None:
    """What is wrong with how an instruction uses the operand memory, or None."""
    wanted = {Operand.MULTIPLY: (Dst.ACT, Dst.KV), Operand.ADD: (Dst.SCORE,), Operand.ROTATE: (Dst.ACT, Dst.KV)}
    if instr.dst == Dst.OPERAND and not instr.pick and not (config.operand_words and instr.to16):
        return "stores operands, which have 16 bits, or the engine has no memory for them"
    if instr.operand == Operand.NONE:
        return "repeats operands and has none" if instr.op_period else None
    if not config.operand_words or instr.operand == Operand.ROTATE and not config.rotate:
        return f"has operands to {Operand(instr.operand).name}, the engine has none"
    if not instr.to16 or instr.act and instr.operand != Operand.MULTIPLY or instr.act_columns or instr.scatter:
        return f"has operands to {Operand(instr.operand).name} for a result that is none of 16 bits without another multiplier"
    if instr.operand == Operand.ROTATE and instr.shift2 % 2:
        return f"shift2 = {instr.shift2}, behind a rotation it is even"
    if instr.dst not in wanted[Operand(instr.operand)]:
        return f"has operands to {Operand(instr.operand).name}, and a result for {Dst(instr.dst).name}"
    return None


def _follows(instr: Instr, config: EngineConfig) -> str | None:
    """What is wrong with how a product follows the length of the sequence, or None."""
    if not (instr.follow or instr.keys_follow):
        return f"first = {instr.first}, and follows no sequence" if instr.first else None
    if not config.lengths:
        return "follows the length of a sequence, the engine knows none"
    if instr.keys_follow and instr.stat == Stat.WEIGHTS:
        return "has keys of a sequence, and multiplies with weights"
    if instr.follow == Follow.ROWS and instr.dst == Dst.OUT and not instr.mean:
        return "follows a sequence with words that leave one by one: those behind them would change their places"
    if instr.follow == Follow.LAST and (instr.tokens != 1 or not 1 <= instr.first <= instr.src_base + 1):
        return f"takes the last of {instr.first} tokens from word {instr.src_base} on, {instr.tokens} of them"
    return None


def _past(instr: Instr, config: EngineConfig) -> str | None:
    """What keeps words from going past the array, or None."""
    if not config.bypass:
        return "goes past the array, the engine has no such way"
    if instr.src not in (Src.NORM, Src.RES) or instr.k_tiles != 1 or instr.gather or instr.scatter or instr.keep or instr.act:
        return "goes past the array, which words of the residual stream do, alone and without an activation"
    if instr.dst not in (Dst.ACT, Dst.KV, Dst.RES_SET, Dst.RES_ADD) and not instr.pick:
        return f"goes past the array to {Dst(instr.dst).name}"
    return f"the last of its tiles of {config.bypass_lanes} lanes has {instr.n_last}" if instr.n_last > config.bypass_lanes else None


def _streams(program: Program) -> str | None:
    """What is wrong with the bytes that the instructions take from the stream and give, or None."""
    config, given = program.config, [0] * program.num_tasks
    sizes, host = [stream_bytes(config, instr) for instr in program.instrs], program.instrs[0].op == Op.STREAM       # the host's words come first
    taken = {"input": sum(sizes[:host]), "image": sum(sizes[host:])}
    for instr in program.instrs:
        if instr.op == Op.MATMUL and instr.dst == Dst.OUT:
            for task in range(program.num_tasks):
                if not instr.pred or instr.task == task:
                    given[task] += 4 * config.to * instr.n_tiles * (1 if instr.mean else instr.tokens)
    for what, wanted, found in (("input", program.input_bytes, taken["input"]), ("weight image", len(program.image), taken["image"]),
                                ("output", program.output_bytes, max(given))):
        if wanted != found:
            return f"the {what} has {wanted:,} bytes, the instructions use {found:,}"
    for outputs, size in zip(program.outputs, given, strict=True):
        for o in outputs:
            if o.word + o.step * (-(-o.channels // config.to) - 1) >= size // (4 * config.to):
                return f"output {o.name!r} lies behind the {size:,} bytes that its task gives"
    return None


# ---------------------------------------------------------------- words

def _reach(sizes: dict[str, int], config: EngineConfig, instr: Instr) -> str | None:
    """What an instruction touches lies in the memories, every word once."""
    for area in Touched.by(config, instr).all:
        if area.last >= sizes[area.memory]:
            return f"touches word {area.last} of {area.memory}, which has {sizes[area.memory]}"
        if area.chunks > 1 and area.stride < area.row:
            return f"touches rows of {area.row} words of {area.memory}, which are {area.stride} apart"
    return None


def _replay(program: Program, task: int, length: int) -> None:
    """The frame of one task, with a sequence of ``length`` tokens if not 0. Raises ModelError."""
    born: dict[int, list[int]] = {}
    gone: dict[int, list[BufferInfo]] = {}
    for place, buffer in enumerate(program.buffers):
        born.setdefault(buffer.first, []).append(place)
        gone.setdefault(buffer.last, []).append(buffer)
    replay, lists, behind = _Replay(program.config, length), Lists(program), False
    owner = {memory: np.full(len(replay.writer[memory]), NEVER, np.int32) for memory in PLACED}
    for pc, instr in enumerate(program.instrs):
        for place in born.get(pc, []):
            if wrong := _begin(program.buffers[place], place, owner, replay):
                raise failure(pc, instr, wrong)
        done = followed(instr, length, program.config.ti, program.config.to)
        if done is not None and (not instr.pred or instr.task == task):
            tokens = lists.tokens(done)
            touched = Touched.by(program.config, done, tokens)
            if behind and done.slack and done.op == Op.MATMUL:
                raise failure(pc, instr, f"slack = {done.slack} behind an instruction that chooses tokens, which is under way for longer than others")
            lists.bring(pc, done)
            behind = bool(done.pick)
            if wrong := lists.beyond(done, tokens) or next(filter(None, (_dead(area, program, owner) for area in touched.all)), None) \
                    or replay.run(done, touched):
                raise failure(pc, instr, wrong + (f", in a sequence of {length} tokens" if length else ""))
        for buffer in gone.get(pc, []):
            owner[buffer.memory][buffer.base:buffer.base + buffer.words] = NEVER


def _begin(buffer: BufferInfo, place: int, owner: dict[str, np.ndarray], replay: _Replay) -> str | None:
    """A buffer comes to life: its words are in the memory, no other buffer has them, and what they held is forgotten."""
    if buffer.memory not in owner or buffer.words < 1 or buffer.last < buffer.first or buffer.base + buffer.words > len(owner[buffer.memory]):
        return f"the buffer {buffer.name!r} of words {buffer.base} to {buffer.base + buffer.words - 1} does not lie in the memory {buffer.memory}"
    span = slice(buffer.base, buffer.base + buffer.words)
    if (owner[buffer.memory][span] != NEVER).any():
        return f"the buffer {buffer.name!r} of {buffer.memory} words {span.start} to {span.stop - 1} shares words with one that is alive"
    owner[buffer.memory][span] = place
    replay.writer[buffer.memory][span] = NEVER
    return None


def _dead(area: Area, program: Program, owner: dict[str, np.ndarray]) -> str | None:
    """What keeps it from lying in one buffer that is alive, each of its rows in one row of the buffer; or None."""
    if area.memory not in owner:
        return None
    place = int(owner[area.memory][area.base])
    if place == NEVER:
        return f"touches word {area.base} of {area.memory}, where no buffer is alive"
    buffer = program.buffers[place]
    stride = area.stride if area.chunks > 1 else buffer.words
    if area.last >= buffer.base + buffer.words or (area.base - buffer.base) % max(1, stride) + area.row > stride:
        return (f"touches {area.chunks} rows of {area.row} words of {area.memory} from word {area.base} on, the buffer {buffer.name!r} there has the "
                f"words {buffer.base} to {buffer.base + buffer.words - 1}" + (f" in rows of {stride}" if area.chunks > 1 else ""))
    return None


class _Replay:
    """The frame of one task. writer: of each word, the number of the instruction that wrote it last; limit: of each row maximum. length: tokens
    of a shorter sequence; behind them outputs are of words that nothing wrote, which the host does not read."""

    def __init__(self, config: EngineConfig, length: int = 0):
        self.length = length
        self.limit = np.zeros(2 * config.max_tokens, np.int32)
        self.writer = {memory: np.full(size, NEVER, np.int32) for memory, size in sizes_of(config).items()}
        self.number = 0

    def distance(self, read: list[Area]) -> int:
        """How many instructions before this one may be under way when it reads."""
        last = max((int(self.writer[area.memory][area.words].max()) for area in read), default=NEVER)
        return MAX_SLACK if last == NEVER else min(MAX_SLACK, self.number - 1 - last)

    def write(self, touched: Touched) -> None:
        for area in touched.written:
            self.writer[area.memory][area.words] = self.number
        self.number += 1

    def run(self, instr: Instr, touched: Touched) -> str | None:
        """What is wrong, or None."""
        leaves = self.length and instr.dst == Dst.OUT and not instr.mean and instr.op == Op.MATMUL
        for area in (*(() if leaves else touched.fed), *touched.loaded, *touched.added):
            unknown = self.writer[area.memory][area.words] == NEVER
            if unknown.any():
                return f"reads word {int(area.words[unknown][0])} of {area.memory}, which was never written"
        for name, read, slack in (("slack", touched.fed, instr.slack), ("load_slack", touched.loaded, instr.load_slack)):
            allowed = self.distance(read)
            if instr.op == Op.MATMUL and slack > allowed:
                return (f"{name} = {slack}, what it reads was written {allowed + 1} instruction{'s' * (allowed > 0)} before: at most {allowed} "
                        "may be under way")
        for area in touched.fed:
            if area.memory == MAXIMA and (self.limit[area.words] != instr.limit).any():
                return f"limit = {instr.limit}: has row maxima of other keys than its exponentials"
        for area in touched.written:
            if area.memory == MAXIMA:
                self.limit[area.words] = instr.limit
        self.write(touched)
        return None
