"""Mixtures whose scores are sigmoids of the logits, with a bias for the choice or without one, in the spellings of exporters; shared experts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_loops import LOOPS, pairs, places, zeros
from moe_spellings import SPELLINGS, Mix
from onnx_nets import DIM, EXPERTS, HIDDEN, TOKENS

BIAS = np.array([0.31, -0.2, 0.05, -0.33], np.float32)
Spelling = Callable[[Mix], str]
PLAIN: dict[str, Spelling] = {}             # no bias
BIASED: dict[str, Spelling] = {}


def spelling(kind: dict[str, Spelling]) -> Callable[[Spelling], Spelling]:
    def noted(function: Spelling) -> Spelling:
        kind[function.__name__.replace("_", " ")] = function
        return function
    return noted


def weighed(m: Mix, top: str, index: str, factor: float = 1.0) -> str:
    """The sum over the experts by scores [T, k], times ``factor`` behind the division, and places."""
    top = m.divided(top) if m.renormalize else top
    top = m.op("Mul", top, m.net.const(factor)) if factor != 1 else top
    scores = m.op("ScatterElements", m.net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
    return m.summed(lambda e: m.column(scores, e))


def top_of(m: Mix, values: str) -> tuple[str, str]:
    top, index = m.op("TopK", values, m.net.ints(m.k), outputs=2, axis=-1)
    return top, index


@spelling(PLAIN)
def sigmoids(m: Mix) -> str:
    return weighed(m, *top_of(m, m.op("Sigmoid", m.logits())))


@spelling(PLAIN)
def sigmoids_of_the_chosen(m: Mix) -> str:
    top, index = top_of(m, m.logits())
    return weighed(m, m.op("Sigmoid", top), index)


@spelling(PLAIN)
def one_over_one_plus_exp(m: Mix) -> str:
    """1 / (1 + exp(-x))"""
    one = m.net.const(1.0)
    return weighed(m, *top_of(m, m.op("Div", one, m.op("Add", one, m.op("Exp", m.op("Neg", m.logits()))))))


@spelling(PLAIN)
def reciprocal_of_exp(m: Mix) -> str:
    raised = m.op("Exp", m.op("Mul", m.logits(), m.net.const(-1.0)))
    return weighed(m, *top_of(m, m.op("Reciprocal", m.op("Add", raised, m.net.const(1.0)))))


@spelling(PLAIN)
def masked_by_the_kth(m: Mix) -> str:
    scores = m.op("Sigmoid", m.logits())
    top, _ = top_of(m, scores)
    kept = m.op("GreaterOrEqual", scores, m.op("Gather", top, m.net.ints(m.k - 1), axis=1))
    scores = m.op("Where", kept, scores, m.net.const(0.0))
    scores = m.divided(scores) if m.renormalize else scores
    return m.summed(lambda e: m.column(scores, e))


@spelling(BIASED)
def bias_added(m: Mix) -> str:
    scores = m.op("Sigmoid", m.logits())
    _, index = top_of(m, m.op("Add", scores, m.net.const(BIAS)))
    return weighed(m, m.op("GatherElements", scores, index, axis=1), index)


@spelling(BIASED)
def bias_taken_off(m: Mix) -> str:
    scores = m.op("Sigmoid", m.logits())
    _, index = top_of(m, m.op("Sub", scores, m.net.const(-BIAS[None])))
    return weighed(m, m.op("GatherElements", scores, index, axis=1), index)


@spelling(BIASED)
def deepseek(m: Mix) -> str:
    """DeepseekV3TopkRouter with one group: the mask of groups is there and keeps everything; each expert sees its own tokens."""
    net, scores = m.net, m.op("Sigmoid", m.logits())
    choice = m.op("Add", m.op("Reshape", scores, net.ints(-1, EXPERTS)), net.const(BIAS[None]))
    best, _ = m.op("TopK", m.op("Reshape", choice, net.ints(-1, 1, EXPERTS)), net.ints(2), outputs=2, axis=-1)
    _, group = m.op("TopK", m.op("ReduceSum", best, net.ints(-1), keepdims=0), net.ints(1), outputs=2, axis=-1)
    mask = m.op("ScatterElements", net.const(np.zeros((TOKENS, 1))), group, net.const(np.ones((TOKENS, 1))), axis=1)
    kept = m.op("Greater", m.op("Expand", mask, net.ints(TOKENS, EXPERTS)), net.const(0.0))
    _, index = m.op("TopK", m.op("Where", kept, choice, net.const(0.0)), net.ints(m.k), outputs=2, axis=-1)
    top, y = m.op("GatherElements", scores, index, axis=1), zeros(m)
    top = m.op("Div", top, m.op("Add", m.op("ReduceSum", top, net.ints(-1), keepdims=1), net.const(1e-20))) if m.renormalize else top
    for e in range(EXPERTS):
        token, place = places(m, m.op("Equal", index, net.const(e, np.int64)), 2)
        part = m.op("Mul", m.expert(e, m.op("Gather", m.rows, token, axis=0)), m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), net.ints(-1)))
        y = m.op("ScatterND", y, m.op("Unsqueeze", token, net.ints(-1)), part, reduction="add")
    return y


def two_groups(m: Mix) -> str:
    """The best of two groups of experts alone is chosen from."""
    net, scores = m.net, m.op("Sigmoid", m.logits())
    best = m.op("ReduceMax", m.op("Reshape", scores, net.ints(-1, 2, EXPERTS // 2)), net.ints(-1), keepdims=1)
    kept = m.op("Equal", best, m.op("ReduceMax", best, net.ints(1), keepdims=1))
    kept = m.op("Reshape", m.op("Expand", kept, net.ints(TOKENS, 2, EXPERTS // 2)), net.ints(TOKENS, EXPERTS))
    _, index = top_of(m, m.op("Where", kept, scores, net.const(0.0)))
    return weighed(m, m.op("GatherElements", scores, index, axis=1), index)


def scaled(m: Mix) -> str:
    """A factor behind the router (routed_scaling_factor)."""
    scores = m.op("Sigmoid", m.logits())
    _, index = top_of(m, m.op("Add", scores, m.net.const(BIAS)))
    top = m.op("GatherElements", scores, index, axis=1)
    return weighed(m, top, index, 2.5)


# ---------------------------------------------------------------- shared experts

def dense(m: Mix) -> str:
    """An expert that every token passes."""
    return m.net.linear(m.op("Gelu", m.net.linear(m.rows, DIM, HIDDEN)), HIDDEN, DIM)


def gated(m: Mix, bias: bool = False) -> str:
    """By a share of its own."""
    logit = m.net.linear(m.rows, DIM, 1) if bias else m.op("MatMul", m.rows, m.net.random(DIM, 1))
    return m.op("Mul", m.op("Sigmoid", logit), dense(m))


SHARED: dict[str, tuple[Spelling, int]] = {         # -> what is written, mixtures
    "behind the routed ones": (lambda m: m.op("Add", SPELLINGS["modules"](m), dense(m)), 1),
    "in front of them": (lambda m: m.op("Add", dense(m), SPELLINGS["stack"](m)), 1),
    "with a gate (Qwen-MoE)": (lambda m: m.op("Add", LOOPS["mixtral"](m), gated(m)), 2),
    "with a gate that has a bias, in front": (lambda m: m.op("Add", gated(m, True), SPELLINGS["modules"](m)), 2),
    "with a gate, beside sigmoids": (lambda m: m.op("Add", PLAIN["sigmoids"](m), gated(m)), 2),
    "with a gate, alone": (gated, 1),
    "beside a bias for the choice (DeepSeek)": (lambda m: m.op("Add", BIASED["deepseek"](m), dense(m)), 1)}
