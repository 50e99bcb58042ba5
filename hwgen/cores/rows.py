"""Templates of rows and of elements: activation, softmax, layernorm, router."""

from __future__ import annotations

from types import SimpleNamespace

from ..errors import InputError
from ..functions import FAMILIES, FUNCTIONS
from .parameter import Parameter
from .template import LANES, OUT_BITS, Derived, Template, factor, table, words_of_row

CONSTANTS = (("LANES", "unsigned", "lanes"), ("OUT_BITS", "unsigned", "out_bits"), ("MULT", "std::uint16_t", "mult"),
             ("SHIFT", "std::uint8_t", "shift"))
WORDS = ("WORDS", "unsigned", "words")
FRAC = ("FRAC", "unsigned", "frac")
LENGTH = Parameter("length", 64, "elements of a row", low=1, high=4095)


def _elements(p: SimpleNamespace) -> dict[str, int]:
    return {"s_axis": 16 * p.lanes, "m_axis": p.out_bits * p.lanes}


def _activation(p: SimpleNamespace) -> Derived:
    function = f"{p.function}({p.alpha!r})" if p.function in FAMILIES else p.function
    try:
        knots = table(function)
    except ValueError as error:
        raise InputError(str(error), where="option --set", hint="choose a smaller alpha") from error
    mult, shift = factor(2.0 ** -16 / p.out_scale, "2**-16 / out_scale", "choose an out_scale of 2**-12 to 1")
    return {"mult": mult, "shift": shift, **knots, "function": function}


def _softmax(p: SimpleNamespace) -> Derived:
    fill = f"or fill rows up with -32768 to a multiple, which has weight 0 as long as the largest score of a row is {9 * 2 ** p.frac - 32767} or more"
    return {"words": words_of_row(p, fill), "mult": 1 << 15, "shift": 16 - p.out_bits}


def _norm(p: SimpleNamespace) -> Derived:
    words = words_of_row(p, "rows cannot be filled up, since what fills them counts in mean and variance")
    eps = max(1, round(p.length ** 2 * p.eps / p.in_scale ** 2))
    if eps >= 1 << 48:
        raise InputError(f"eps = {p.eps:g} is too large for in_scale = {p.in_scale:g} and length = {p.length}", where="option --set",
                         hint="length**2 * eps / in_scale**2 must be below 2**48")
    inv_mult, inv_shift = factor(16 / p.length, "16 / length", "choose another length")
    high = p.out_scale * (1 if p.out_bits == 8 else 256)
    mult, shift = factor(p.length / (16 * high), "length / (16 * scale of the high byte)", "choose a larger out_scale")
    least = 23 + ((eps.bit_length() - 15) // 2) + shift - 16            # of the shift behind the smallest variance
    if p.out_bits == 16 and least < 9:
        raise InputError(f"out_scale = {p.out_scale:g} is too small for rows of almost no variance", where="option --set",
                         hint="choose a larger out_scale or eps, or a smaller in_scale")
    return {"words": words, "eps_int": eps, "inv_mult": inv_mult, "inv_shift": inv_shift, "mult": mult, "shift": shift}


def _router(p: SimpleNamespace) -> Derived:
    if p.top_k > p.experts:
        raise InputError(f"top_k = {p.top_k} exceeds experts = {p.experts}", where="option --set", hint="choose a top_k of at most the experts")
    return {"lanes": 1}


NORM = (LENGTH, LANES, Parameter("in_scale", 2.0 ** -8, "unit of the input", low=2.0 ** -20, high=1.0),
        Parameter("eps", 1e-5, "added to the variance", low=0.0, high=1.0), OUT_BITS,
        Parameter("out_scale", 2.0 ** -4, "unit of the result", low=2.0 ** -14, high=1.0))

ACTIVATION = Template(
    "activation", "Element-wise function by a table of 1024 knots",
    (Parameter("function", "gelu", "which", choices=(*FUNCTIONS, *FAMILIES)),
     Parameter("alpha", 0.01, "of leaky_relu and elu", low=0.0, high=1.0), LANES,
     Parameter("frac", 8, "fraction bits of the input", choices=(7, 8, 10, 12)), OUT_BITS,
     Parameter("out_scale", 2.0 ** -4, "unit of the result", low=2.0 ** -15, high=1.0)),
    _activation, "activation", "Activation", ("drain_lanes", "delay", "stream_fifo"), "rows.hpp", "activation_core", (*CONSTANTS, FRAC),
    _elements, lambda p: 10, lambda p: 1)
SOFTMAX = Template(
    "softmax", "Softmax of rows, one division a row",
    (LENGTH, LANES, Parameter("frac", 6, "fraction bits of the scores, log2 domain", choices=(4, 6, 8, 10)), OUT_BITS),
    _softmax, "softmax", "Softmax", ("drain_lanes", "feed_lanes", "delay", "stream_fifo"), "rows.hpp", "softmax_core", (*CONSTANTS, FRAC, WORDS),
    _elements, lambda p: 33 + 2 * p.words, lambda p: int(p.words), rows=True)
LAYERNORM = Template(
    "layernorm", "LayerNorm of rows, or RMSNorm",
    (*NORM[:2], Parameter("rms", False, "no mean is taken off"), *NORM[2:]),
    _norm, "norm", "Norm", ("drain_lanes", "feed_lanes", "delay", "stream_fifo"), "rows.hpp", "norm_core",
    (*CONSTANTS, WORDS, ("EPS", "std::int64_t", "eps_int"), ("INV_MULT", "std::uint16_t", "inv_mult"), ("INV_SHIFT", "std::uint8_t", "inv_shift"),
     ("RMS", "bool", "rms")),
    _elements, lambda p: 26 + p.words, lambda p: int(p.words), rows=True)
ROUTER = Template(
    "moe-router", "Router of experts: softmax of a token's logits and the top_k largest",
    (Parameter("experts", 8, "logits of a token", low=1, high=64), Parameter("top_k", 2, "experts that a token goes to", low=1, high=15),
     Parameter("renormalize", True, "scores are shares of the chosen experts, not of all")),
    _router, "router", "TopK", ("router_chain", "delay", "stream_fifo"), "rows.hpp", "router_core",
    (("EXPERTS", "unsigned", "experts"), ("TOP_K", "unsigned", "top_k"), ("RENORMALIZE", "bool", "renormalize")),
    lambda p: {"s_axis": 16 * p.experts, "m_axis": 32 * p.top_k}, lambda p: 2 * max(p.experts, 4) + 10, lambda p: 1)
