"""The engine's configuration: one record that generates the hardware, sizes the program and describes the driver."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
import hashlib
import json
import math

from .errors import CapacityError

NUM_CONTEXTS = 4         # instructions in flight between feed and retire
MAX_FUNCTIONS = 4        # activation functions, 2 bits of an instruction
NUM_PARAM_BANKS = 4      # column parameter banks (bias, multiplier, shift)
MIN_PASS = 8             # a tile is streamed for at least so many cycles (read-modify-write distance)
BURST_BEATS = 16         # longest read burst; 16 beats of up to 256 bytes stay within 4 KB
READ_BURSTS = 32         # in flight: at 64 bytes a beat 32 KB, which cover 500 cycles of latency at 64 bytes a cycle
OUT_WORDS = 16           # words of the output queue: the most tokens of an OUT instruction without ``mean``
LATER = ("wide", "causal", "operand_words", "rotate", "lengths", "bypass", "rms", "scores", "list_words", "mixes", "picks")   # of `EngineConfig`
LIST_LATENCY = 2         # from a token's place in a list to its number: every token takes it, where there are lists
NORM_LATENCY = 11        # pipeline of the LayerNorm coefficients; every token takes it


def lane_group(ti: int, to: int) -> int:
    """Lanes per memory bank of an array of ti x to."""
    return min(16, to if ti % to == 0 else 16)


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of one engine. Lane counts are powers of two times the group; words are addresses of one memory.

    A *chunk* is Ti channels of one token: one word of a memory. Channel c of token t of a tensor lies in word
    ``base + (c // Ti) * stride + t``, lane ``c % Ti``. Memories are banked by groups of ``group`` lanes so that a window of
    To lanes that starts at any group is written or read in one cycle.
    """

    ti: int                  # reduction lanes (array rows), 8 / 16 / 32 / 64
    to: int                  # output lanes (array columns), <= ti, multiple of group
    max_tokens: int          # accumulator depth, rows of the statistics memories
    act_words: int           # int8 activation memory, words of ti lanes
    kv_words: int            # int8 keys and values, words of ti lanes
    score_words: int         # int16 scores, words of ti lanes
    res_words: int           # int16 residual stream, words of ti lanes
    program_words: int       # instructions
    max_experts: int         # router width, <= to; 0 = no router in the hardware
    max_top_k: int
    axi_data_bits: int       # <= 32 * to
    fifo_beats: int          # depth of the weight stream FIFO, AXI beats
    activation: str = "gelu"  # functions the drain has tables for (`Act.value`), with spaces between
    packed: bool = False     # two products per DSP48E2
    fabric_columns: int = 0  # of a packed array: columns that multiply in look-up tables, even
    load_columns: int = 1    # columns of a stationary tile loaded per cycle: 1 or 2
    w4: bool = False         # the loader can unpack 4-bit weights
    read_bursts: int = READ_BURSTS      # read bursts outstanding at a time
    wide: bool = False       # operands of 16 bits can stream, in two passes of 8
    causal: bool = False     # a row of scores can see fewer keys than the row behind it
    operand_words: int = 0   # int16 operands of the drain, words of to lanes; 0 = none in the hardware
    rotate: bool = False     # they can turn pairs of lanes
    lengths: bool = False    # a run says how many tokens of the sequence there are
    bypass: bool = False     # words of the residual stream can go past the array to the drain
    rms: bool = False        # a token can be normalised without its mean
    scores: bool = False     # the router takes scores as they are, too, with a bias for the choice
    list_words: int = 0      # lists of tokens that are streamed, words of to numbers of 16 bits; 0 = none in the hardware
    mixes: bool = False      # activations can stream past tiles whose rows are tokens
    picks: bool = False      # tokens are chosen by their scores

    def __repr__(self) -> str:
        """What came later where it is so, as in `to_dict`."""
        return f"EngineConfig({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    @property
    def functions(self) -> tuple[str, ...]:
        """Activation functions by the number an instruction says."""
        return tuple(self.activation.split())

    @property
    def group(self) -> int:
        """Lanes per memory bank."""
        return lane_group(self.ti, self.to)

    @property
    def groups(self) -> int:
        """Banks of a memory word."""
        return self.ti // self.group

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector of the weight stream: what the loader takes per cycle."""
        return self.ti * self.load_columns

    @property
    def segment(self) -> int:
        """Rows of one DSP cascade."""
        return min(16, self.ti)

    @property
    def bypass_lanes(self) -> int:
        """Lanes of a tile that goes past the array: it lies within one word of the source."""
        return math.gcd(self.ti, self.to)

    @property
    def macs_per_cycle(self) -> int:
        return self.ti * self.to

    def __post_init__(self):
        def require(ok, text):
            if not ok:
                raise CapacityError(f"engine configuration: {text}", where=f"engine of {self.ti}x{self.to}",
                                    hint="choose Ti of 8, 16, 32 or 64 and To of at most Ti, in steps of 16 (or 8, 16, 32): --array TIxTO")
        require(self.ti in (8, 16, 32, 64), f"ti = {self.ti} is not 8, 16, 32 or 64")
        require(8 <= self.to <= self.ti and self.to % self.group == 0, f"to = {self.to} does not fit ti = {self.ti}")
        require(self.fabric_columns % 2 == 0 and 0 <= self.fabric_columns <= (self.to if self.packed else 0),
                f"{self.fabric_columns} columns in look-up tables do not fit {self.to} {'packed ' if self.packed else ''}columns")
        require(self.load_columns in (1, 2), f"{self.load_columns} columns loaded per cycle, 1 or 2 are possible")
        require(1 <= len(self.functions) <= MAX_FUNCTIONS, f"{len(self.functions)} activation functions, 1 to {MAX_FUNCTIONS} are possible")
        require(self.max_experts <= self.to, f"{self.max_experts} experts exceed the {self.to} output lanes")
        require(self.read_bursts >= 1, f"{self.read_bursts} read bursts outstanding, at least 1 is needed")
        require(self.axi_data_bits % 32 == 0 and 32 * self.to % self.axi_data_bits == 0,
                f"an output word of {32 * self.to} bits is not a whole number of {self.axi_data_bits}-bit beats")

    def to_dict(self) -> dict:
        """Every size; what came later where it is so: what an engine had no name for when it was made is not in its digest."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value}

    @property
    def digest(self) -> str:
        """16 hex digits that name this configuration (register CONFIG holds the first eight)."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


SIZES = ("max_tokens", "act_words", "kv_words", "score_words", "res_words", "program_words", "max_experts", "max_top_k", "read_bursts",
         "operand_words", "list_words")
CAN = ("w4", "wide", "causal", "rotate", "lengths", "bypass", "rms", "scores", "mixes", "picks")      # what another engine may not need


def covering(configs: Iterable[EngineConfig]) -> EngineConfig:
    """The smallest engine that can run a program of each: the largest of every size, all functions. Raises CapacityError where these do not fit
    one engine, and where arrays or streams differ."""
    first, *others = configs
    every = (first, *others)
    functions = tuple(dict.fromkeys(name for config in every for name in config.functions))
    one = replace(first, activation=" ".join(functions), **{name: max(getattr(config, name) for config in every) for name in SIZES},
                  **{name: any(getattr(config, name) for config in every) for name in CAN})
    for config in others:
        unlike = [f.name for f in fields(config) if f.name not in (*SIZES, *CAN, "activation") and getattr(config, f.name) != getattr(first, f.name)]
        if unlike:
            raise CapacityError(f"engines that differ in {', '.join(unlike)} have no common one", where=f"engine of {config.ti}x{config.to}",
                                hint="compile the networks for one array and one target")
    return one


def burst_beats(fifo_beats: int) -> int:
    """Beats of the longest read burst: two of them fit into the FIFO."""
    beats = BURST_BEATS
    while beats * 2 > fifo_beats:
        beats //= 2
    return beats


def retire_latency(config: EngineConfig) -> int:
    """Cycles from the issue of an instruction's last token to the issue of one that waits for its results."""
    return 2 + LIST_LATENCY * (config.list_words > 0) + (NORM_LATENCY + 1) + (config.segment + 6) + 10 + 2


def stream_latency(config: EngineConfig) -> int:
    """The same from the last word of a STREAM, which goes in at the drain."""
    return 2 + LIST_LATENCY * (config.list_words > 0) + 10 + 1
