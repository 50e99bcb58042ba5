"""Instructions of the engine: typed records, a fixed 512-bit encoding, and a disassembly a person can read.

One instruction is a whole layer: ``for n_tile: for k_tile: for token`` runs in the sequencer. docs/reference/engine.md
tells what each field does in the hardware. The field table below is the only definition of the encoding; the RTL decoder is
generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

from .errors import ModelError
from .foreign import comment


class Op(IntEnum):
    END = 0          # end of the frame
    STREAM = 1       # stream words -> drain (input tokens, residual table)
    MATMUL = 2       # stationary tiles x streamed tokens


class Src(IntEnum):
    """What the feed streams through the array (for STREAM: the width of an element)."""

    ACT = 0          # int8 words of the activation memory          (STREAM: int8)
    NORM = 1         # residual stream, normalised                   (STREAM: int16)
    EXP = 2          # scores, exp2(row max - s) - 128
    RES = 3          # residual stream, times a factor               (not for STREAM)


class Stat(IntEnum):
    """Where stationary tiles come from."""

    WEIGHTS = 0      # the weight stream: column parameters, then columns of Ti weights
    K_COLUMNS = 1    # kv memory, one key per column
    V_ROWS = 2       # kv memory, one key per row
    BYPASS = 3       # nothing: words of the residual stream go past the array to the drain; column parameters from the weight stream


class Dst(IntEnum):
    ACT = 0          # int8 -> activation memory
    KV = 1           # int8 -> key/value memory
    SCORE = 2        # int16 -> score memory, row maximum
    RES_SET = 3      # int16 -> residual stream, statistics start anew   (STREAM only)
    RES_ADD = 4      # residual stream += int16, statistics follow
    ROUTER = 5       # int16 logits -> router
    OUT = 6          # int32 accumulators + bias -> output stream
    OPERAND = 7      # int16 -> operand memory


class Half(IntEnum):
    """What of a 16-bit result the activation memory gets."""

    NONE = 0         # the result has 8 bits
    HIGH = 1         # its high half
    LOW = 2          # its low half, less 128


class Operand(IntEnum):
    """What the drain does with the words of the operand memory that go along with a result."""

    NONE = 0         # there are none
    MULTIPLY = 1     # int8 or int16 result = requantize(activation(r), or r of 16 bits; word; shift2)
    ADD = 2          # int16 result = saturate(r + word)
    ROTATE = 3       # lanes 2j and 2j + 1 are turned by cosine and sine in lanes 2j and 2j + 1 of the word, then as MULTIPLY


class Follow(IntEnum):
    """How an instruction works on a sequence that is shorter than the longest one."""

    NOT = 0          # as it stands
    ROWS = 1         # its tokens are those from ``first`` on: those that are there, and passed over when there are none
    LAST = 2         # its token is the last one, ``first`` the number of tokens of the longest sequence


FIELDS: tuple[tuple[str, int], ...] = (       # (name, bits), least significant first
    ("op", 4), ("pred", 1), ("task", 4), ("src", 2), ("stat", 2), ("dst", 3),
    ("gather", 1), ("scatter", 1), ("act", 1), ("row_scale", 1), ("column_params", 1), ("mean", 1), ("renorm", 1),
    ("keep", 1), ("w4", 1), ("to16", 1), ("slack", 3), ("load_slack", 3), ("expert", 8), ("top_k", 4), ("num_experts", 8),
    ("tokens", 16), ("step", 12), ("k_tiles", 12), ("n_tiles", 12), ("k_lo", 7), ("k_hi", 7), ("n_last", 7),
    ("src_base", 20), ("src_stride", 16), ("src_row", 16), ("dst_base", 20), ("dst_stride", 16), ("dst_group", 4),
    ("dst_row", 16), ("stat_base", 20), ("stat_stride", 16), ("stat_group", 4), ("stat_count", 16),
    ("mult", 16), ("shift", 6), ("mult2", 16), ("shift2", 6),
    ("norm_dim", 12), ("norm_eps", 48), ("inv_mult", 16), ("inv_shift", 6), ("norm_mult", 16), ("norm_shift", 6), ("function", 2),
    ("act_columns", 1), ("wide", 1), ("plane", 2), ("pre_frac", 2), ("score_frac", 2), ("limit", 16),
    ("operand", 2), ("op_base", 16), ("op_period", 4),
    ("follow", 2), ("keys_follow", 1), ("first", 12),
    ("rms", 1), ("biased", 1), ("list", 1), ("pick", 1), ("ranked", 1),
)
WORD_BITS = 512
LISTED = 14              # bits of the number of a token in a list
ABSENT = 1 << LISTED     # with it the token is all zeros; its number is that of a token all the same
ADDRESSES = 1 << dict(FIELDS)["dst_base"]
OFFSETS: dict[str, int] = {}
_position = 0
for _name, _bits in FIELDS:
    OFFSETS[_name] = _position
    _position += _bits
if _position > WORD_BITS:
    raise ValueError(f"the instruction fields need {_position} bits, a word has {WORD_BITS}")


@dataclass(frozen=True, slots=True)
class Instr:
    """One instruction. Unused fields are 0. ``note`` is for people and is not encoded.

    pred, task       run only when the frame's task is ``task``; a skipped instruction's weights are read and discarded
    tokens           tokens streamed per tile (with gather or scatter: taken from the expert's queue instead)
    step             distance of the streamed tokens in the source: 1, or the tokens of an image to take one token of each
    k_tiles, n_tiles reduction and output tiles
    k_lo, k_hi       valid lanes of the first / last reduction tile: lane >= k_lo in the first, < k_hi in the last
                     (K_COLUMNS: other rows are loaded as 0; EXP: other lanes give probability 0)
    n_last           valid lanes of the last output tile
    src_*            word of chunk 0, token 0; words per chunk; first row of the statistics (NORM: token, EXP: row max)
    dst_*            the same for the result; dst_group = first group of the window of output tile 0
    stat_*           kv memory: word of chunk 0, key 0; words per chunk; first group (V_ROWS); number of keys
    to16             first requantization saturates to 16 bits (else 8)
    column_params    bias, multiplier, shift per column from the stream; else mult / shift of the instruction, bias 0
    row_scale        multiplier and shift of the row: softmax_factor(row sum, mult, shift)
    act              result = requantize(activation(r), mult2, shift2, 8, with ``plane`` 16); function: which of the engine's functions
    pre_frac         fraction bits of r: 8, 10, 12 or 7 (numerics.PRE_ACT_FRACS)
    score_frac       EXP: fraction bits of the scores: 6, 8, 10 or 4 (numerics.SCORE_FRACS)
    limit            SCORE: only the first ``limit + t`` keys count for the maximum of row t; EXP: the others weigh 0; 0: all count
    follow, first    what its tokens are of a sequence whose length a run says (`Follow`, `followed`)
    keys_follow      and its keys are those of this sequence
    rms              NORM: the mean counts as 0 (numerics.norm_coefficients of a total of 0)
    act              ROUTER: the scores of the experts are the function's results, in 16 bits, unit 2**-15
    biased           ROUTER with act: the choice is by score plus the bias that a STREAM to ROUTER brought
    list             MATMUL with weights or past the array: token t of reduction tile k is the one whose number stands in the list memory, place t
                     of the row at word stat_base + k // stat_count * stat_stride: with `ABSENT` zeros. The source's words begin anew with
                     each row. STREAM to OPERAND: words go to the list memory
    pick             OPERAND: results are scores of tokens, of 16 bits, the one column of each token, or with BYPASS the columns of one token. The
                     numbers of the stat_count largest, from stat_base on, go to the list memory from word op_base on, the lower number first
                     among equals. The instruction behind it waits for it
    ranked           the largest first; else the lower number
    act_columns      mult2 is that of the column, from the stream, and shift2 odd
    keep             ROUTER with NORM: the normalised words are also written to the activation memory, dst_base + source word,
                     where the experts gather them (the residual stream changes under their feet)
    w4               the weights in the stream have 4 bits: a vector holds twice as many columns, low nibble first
    wide             the streamed operand has 16 bits: each tile is passed twice, by the high halves of all tokens, then by the low ones.
                     ACT: the low halves of a chunk are ``src_stride`` words behind the high ones
                     BYPASS: the words have 16 bits, and pass once
    plane            ACT: what is stored of a 16-bit result (`Half`)
    mean             OUT: accumulators of all tokens are added up, one word per output tile leaves; else one per token
    operand          what the words of the operand memory do to a result (`Operand`): those of output tile 0 from word op_base on, a word a
                     token, those of the next tile ``tokens`` words on. MULTIPLY, ROTATE: shift2; the table of act as it is
    op_base          with dst OPERAND where results go, in the same order
    op_period        after so many output tiles the words of the first one serve again; 0: never
    slack            the feed starts when at most ``slack`` earlier instructions have not retired (0..3)
    load_slack       the same for loading the first stationary tile from the kv memory
    """

    op: int = 0
    pred: int = 0
    task: int = 0
    src: int = 0
    stat: int = 0
    dst: int = 0
    gather: int = 0
    scatter: int = 0
    act: int = 0
    row_scale: int = 0
    column_params: int = 0
    mean: int = 0
    renorm: int = 0
    keep: int = 0
    w4: int = 0
    to16: int = 0
    slack: int = 0
    load_slack: int = 0
    expert: int = 0
    top_k: int = 0
    num_experts: int = 0
    tokens: int = 0
    step: int = 1
    k_tiles: int = 0
    n_tiles: int = 0
    k_lo: int = 0
    k_hi: int = 0
    n_last: int = 0
    src_base: int = 0
    src_stride: int = 0
    src_row: int = 0
    dst_base: int = 0
    dst_stride: int = 0
    dst_group: int = 0
    dst_row: int = 0
    stat_base: int = 0
    stat_stride: int = 0
    stat_group: int = 0
    stat_count: int = 0
    mult: int = 0
    shift: int = 0
    mult2: int = 0
    shift2: int = 0
    norm_dim: int = 0
    norm_eps: int = 0
    inv_mult: int = 0
    inv_shift: int = 0
    norm_mult: int = 0
    norm_shift: int = 0
    function: int = 0
    act_columns: int = 0
    wide: int = 0
    plane: int = 0
    pre_frac: int = 0
    score_frac: int = 0
    limit: int = 0
    operand: int = 0
    op_base: int = 0
    op_period: int = 0
    follow: int = 0
    keys_follow: int = 0
    first: int = 0
    rms: int = 0
    biased: int = 0
    list: int = 0
    pick: int = 0
    ranked: int = 0
    note: str = ""

    def encode(self) -> int:
        """The 512-bit word; raises ModelError when a field does not fit."""
        word = 0
        for name, bits in FIELDS:
            value = int(getattr(self, name))
            if not 0 <= value < 1 << bits:
                raise ModelError(f"instruction field {name} = {value} does not fit {bits} bits", where=self.note or None,
                                 hint="the network is larger than the engine's address space; use a smaller one")
            word |= value << OFFSETS[name]
        return word

    @classmethod
    def decode(cls, word: int, note: str = "") -> Instr:
        return cls(**{name: word >> OFFSETS[name] & (1 << bits) - 1 for name, bits in FIELDS}, note=note)

    def __str__(self) -> str:
        """One line: operation, shapes, then the fields that are not zero."""
        if self.op == Op.END:
            return "end"
        enums = {"op", "src", "stat", "dst"}
        head = f"{_kind(Op, self.op):7}{_kind(Dst, self.dst):8}<- {_kind(Src, self.src):5}"
        if self.op == Op.MATMUL:
            head += f"x {_kind(Stat, self.stat):10}"
        rest = " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self)
                        if f.name not in enums and f.name != "note" and getattr(self, f.name) != f.default)
        return f"{head} {rest}" + (f"    ; {comment(self.note)}" if self.note else "")


def followed(instr: Instr, length: int, ti: int, to: int) -> Instr | None:
    """What the engine does for a sequence of ``length`` tokens, 0 for the longest one; None when it passes over the instruction."""
    changes: dict[str, Any] = {}
    left = length - instr.first
    if not length:
        return instr
    if instr.follow == Follow.ROWS:
        if left <= 0:
            return None
        changes["tokens"] = min(instr.tokens, left)
    elif instr.follow == Follow.LAST:
        changes["src_base"] = instr.src_base + left
        if instr.src in (Src.NORM, Src.RES):
            changes["src_row"] = instr.src_row + left
    if instr.keys_follow and instr.stat_count > length:
        changes["stat_count"] = length
        size, tiles, lanes = (to, "n_tiles", "n_last") if instr.stat == Stat.K_COLUMNS else (ti, "k_tiles", "k_hi")
        changes |= {tiles: -(-length // size), lanes: (length - 1) % size + 1}
    return replace(instr, **changes)


def _kind(kind: type[IntEnum], value: int) -> str:
    """Of a kind; the number when there is no such kind."""
    return next((member.name.lower() for member in kind if member == value), str(value))


def words(instr: Instr) -> list[int]:
    """The sixteen 32-bit words of an instruction, least significant first (what the driver writes)."""
    word = instr.encode()
    return [word >> 32 * i & 0xFFFFFFFF for i in range(WORD_BITS // 32)]
