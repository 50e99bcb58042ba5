"""Templates of matrix products: attention, linear. In RTL each is the engine with a program of its own."""

from __future__ import annotations

import math
from types import SimpleNamespace

from ..errors import InputError
from .parameter import Parameter
from .template import OUT_BITS, Derived, Template, factor

ARRAYS = ("accumulator", "delay", "drain_lanes", "feed_lanes", "lane_memory", "lane_window", "pe_array", "stream_fifo")
LANES = Parameter("lanes", 8, "rows and columns of the array, channels a word", choices=(8, 16, 32, 64))
MOST_WORDS = 1 << 16     # of one memory
TOKENS = Parameter("tokens", 16, "of a frame", low=1, high=1024)


def _divided(p: SimpleNamespace, *names: str) -> None:
    for name in names:
        if getattr(p, name) % p.lanes:
            raise InputError(f"lanes = {p.lanes} does not divide {name} = {getattr(p, name)}", where="option --set",
                             hint=f"choose a multiple of the lanes, and fill up with zeros; lanes may be {LANES.range}")


def _room(words: int, what: str) -> None:
    """Raises InputError for a memory that is too long."""
    if words > MOST_WORDS:
        raise InputError(f"{what} takes {words:,} words, at most {MOST_WORDS:,} are possible", where="option --set",
                         hint="choose more lanes, fewer tokens or fewer channels")


def _linear(p: SimpleNamespace) -> Derived:
    _divided(p, "inputs", "outputs")
    _room(p.tokens * p.inputs // p.lanes, "a frame of tokens")
    _room(p.tokens * p.outputs // p.lanes, "a frame of results")
    return {"words": p.tokens * p.outputs // p.lanes}


def _attention(p: SimpleNamespace) -> Derived:
    _divided(p, "head_dim")
    _room(2 * p.tokens * p.head_dim // p.lanes, "a frame of k and v")
    _room(-(-p.tokens // p.lanes) * p.tokens, "a frame of scores")
    score = p.q_scale * p.k_scale * math.log2(math.e) / math.sqrt(p.head_dim) * 2.0 ** p.frac
    hint = "choose other scales"
    score_mult, score_shift = factor(score, "the factor of the scores", hint)
    mult, shift = factor(p.v_scale / p.out_scale, "v_scale / out_scale", hint)
    return {"words": p.tokens * p.head_dim // p.lanes, "score_mult": score_mult, "score_shift": score_shift, "mult": mult, "shift": shift,
            "out_bits": 8}


def _scale(name: str, meaning: str) -> Parameter:
    return Parameter(name, 2.0 ** -5, f"unit of {meaning}", low=2.0 ** -20, high=16.0)


COMMON = (("LANES", "unsigned", "lanes"), ("TOKENS", "unsigned", "tokens"))
LINEAR = Template(
    "linear", "Matrix of weights times tokens, with bias and factor of each column",
    (TOKENS, Parameter("inputs", 32, "channels of a token", low=8, high=8192), Parameter("outputs", 32, "channels of a result", low=8, high=8192),
     LANES, OUT_BITS),
    _linear, "linear", "Linear", ARRAYS, "matrix.hpp", "linear_core",
    (*COMMON, ("INPUTS", "unsigned", "inputs"), ("OUTPUTS", "unsigned", "outputs"), ("OUT_BITS", "unsigned", "out_bits")),
    lambda p: {"s_x": 8 * p.lanes, "s_w": 8 * p.lanes, "m_axis": p.out_bits * p.lanes}, lambda p: None, lambda p: int(p.words), rows=True)
ATTENTION = Template(
    "attention", "One head of attention: q, k, v in, context out",
    (TOKENS, Parameter("head_dim", 32, "channels of q, k, v and the result", low=8, high=512), LANES,
     Parameter("causal", False, "a token sees itself and those before it"),
     Parameter("frac", 6, "fraction bits of the scores, log2 domain", choices=(4, 6, 8, 10)), _scale("q_scale", "q"), _scale("k_scale", "k"),
     _scale("v_scale", "v"), _scale("out_scale", "the result")),
    _attention, "attention", "Attention", ARRAYS, "matrix.hpp", "attention_core",
    (*COMMON, ("HEAD_DIM", "unsigned", "head_dim"), ("CAUSAL", "bool", "causal"), ("FRAC", "unsigned", "frac"),
     ("SCORE_MULT", "std::uint16_t", "score_mult"), ("SCORE_SHIFT", "std::uint8_t", "score_shift"), ("MULT", "std::uint16_t", "mult"),
     ("SHIFT", "std::uint8_t", "shift")),
    lambda p: {name: 8 * p.lanes for name in ("s_q", "s_k", "s_v", "m_axis")}, lambda p: None, lambda p: int(p.words), rows=True)
