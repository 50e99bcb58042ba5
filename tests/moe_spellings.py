"""One mixture of experts in the spellings of exporters: the same gate and experts, written in other operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from onnx_nets import DIM, EXPERTS, HIDDEN, TOKENS, Net

K = 2
SPELLINGS: dict[str, Callable[[Mix], str]] = {}


class Mix:
    """A network that is being written, the mixture's input ``x`` [1, T, D], and its weights as arrays; k of the experts are chosen."""

    def __init__(self, net: Net, x: str, renormalize: bool, k: int = K, seed: int = 5):
        rng = np.random.default_rng(seed)
        self.net, self.x, self.renormalize, self.k = net, x, renormalize, k
        self.gate = rng.normal(0, 1, (DIM, EXPERTS)).astype(np.float32)
        self.w1, self.w2 = (rng.normal(0, 0.3, (EXPERTS, *shape)).astype(np.float32) for shape in ((DIM, HIDDEN), (HIDDEN, DIM)))
        self.b1, self.b2 = (rng.normal(0, 0.1, (EXPERTS, n)).astype(np.float32) for n in (HIDDEN, DIM))
        self.w3 = self.b3 = None                     # of gated experts

    def op(self, *args, **kwargs):
        return self.net.op(*args, **kwargs)

    # ---------------------------------------------------------------- pieces

    @property
    def rows(self) -> str:
        return self.op("Reshape", self.x, self.net.ints(-1, DIM))

    def logits(self, x: str | None = None) -> str:
        return self.op("MatMul", x or self.rows, self.net.const(self.gate))

    def shares(self, x: str | None = None) -> str:
        return self.op("Softmax", self.logits(x), axis=-1)

    def top(self, x: str | None = None) -> tuple[str, str]:
        """Scores and places of the chosen experts, [T, k] both."""
        top, index = self.op("TopK", self.shares(x), self.net.ints(self.k), outputs=2, axis=-1)
        return (self.divided(top) if self.renormalize else top), index

    def divided(self, scores: str) -> str:
        return self.op("Div", scores, self.op("ReduceSum", scores, self.net.ints(-1), keepdims=1))

    def scores(self) -> str:
        """[T, E], zero for those not chosen."""
        top, index = self.top()
        return self.op("ScatterElements", self.net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)

    def expert(self, e: int, x: str) -> str:
        """Any number of rows [n, D]."""
        net = self.net
        hidden = self.op("Gelu", self.op("Add", self.op("MatMul", x, net.const(self.w1[e])), net.const(self.b1[e])))
        if self.w3 is not None:
            hidden = self.op("Mul", hidden, self.op("Add", self.op("MatMul", x, net.const(self.w3[e])), net.const(self.b3[e])))
        return self.op("Add", self.op("MatMul", hidden, net.const(self.w2[e])), net.const(self.b2[e]))

    def stacked(self) -> str:
        """Every expert on every token, [E, T, D]."""
        net = self.net
        hidden = self.op("Add", self.op("MatMul", self.op("Unsqueeze", self.rows, net.ints(0)), net.const(self.w1)), net.const(self.b1[:, None]))
        return self.op("Add", self.op("MatMul", self.op("Gelu", hidden), net.const(self.w2)), net.const(self.b2[:, None]))

    def column(self, scores: str, e: int) -> str:
        return self.op("Gather", scores, self.net.ints(e), axis=1)

    def summed(self, factor: Callable[[int], str]) -> str:
        """The sum over the experts as modules, each times ``factor`` of it."""
        rows, total = self.rows, None
        for e in range(EXPERTS):
            y = self.op("Mul", factor(e), self.expert(e, rows))
            total = y if total is None else self.op("Add", total, y)
        return total


def spelling(function: Callable[[Mix], str]) -> Callable[[Mix], str]:
    """Notes one; it returns [T, D] or [1, T, D]."""
    SPELLINGS[function.__name__.replace("_", " ")] = function
    return function


# ---------------------------------------------------------------- how experts are written

@spelling
def stack(m: Mix) -> str:
    scores = m.op("Unsqueeze", m.op("Transpose", m.scores(), perm=[1, 0]), m.net.ints(-1))
    return m.op("ReduceSum", m.op("Mul", m.stacked(), scores), m.net.ints(0), keepdims=0)


@spelling
def modules(m: Mix) -> str:
    scores = m.scores()
    return m.summed(lambda e: m.column(scores, e))


@spelling
def gemms(m: Mix) -> str:
    net, rows, parts, scores = m.net, m.rows, [], m.scores()
    for e in range(EXPERTS):
        hidden = m.op("Gelu", m.op("Gemm", rows, net.const(m.w1[e].T), net.const(m.b1[e]), transB=1))
        y = m.op("Gemm", hidden, net.const(m.w2[e].T), net.const(m.b2[e]), transB=1)
        parts.append(m.op("Mul", y, m.column(scores, e)))
    return m.op("Sum", *parts)


@spelling
def modules_side_by_side(m: Mix) -> str:
    """torch.stack of the experts' results, then a product of the scores with them."""
    rows = m.rows
    every = m.op("Concat", *(m.op("Unsqueeze", m.expert(e, rows), m.net.ints(1)) for e in range(EXPERTS)), axis=1)
    return m.op("Squeeze", m.op("MatMul", m.op("Unsqueeze", m.scores(), m.net.ints(1)), every), m.net.ints(1))


@spelling
def modules_chosen(m: Mix) -> str:
    """torch.gather of the chosen experts' results."""
    rows, (top, index) = m.rows, m.top()
    every = m.op("Concat", *(m.op("Unsqueeze", m.expert(e, rows), m.net.ints(1)) for e in range(EXPERTS)), axis=1)
    wide = m.op("Expand", m.op("Unsqueeze", index, m.net.ints(-1)), m.net.ints(TOKENS, m.k, DIM))
    chosen = m.op("GatherElements", every, wide, axis=1)
    return m.op("ReduceSum", m.op("Mul", chosen, m.op("Unsqueeze", top, m.net.ints(-1))), m.net.ints(1), keepdims=0)


@spelling
def einsum(m: Mix) -> str:
    net = m.net
    hidden = m.op("Add", m.op("Einsum", m.x, net.const(m.w1), equation="btd,edh->beth"), net.const(m.b1[:, None]))
    y = m.op("Add", m.op("Einsum", m.op("Gelu", hidden), net.const(m.w2), equation="beth,ehd->betd"), net.const(m.b2[:, None]))
    scores = m.op("Reshape", m.scores(), net.ints(1, TOKENS, EXPERTS))
    return m.op("Einsum", scores, y, equation="bte,betd->btd")


@spelling
def einsum_with_experts_last(m: Mix) -> str:
    net = m.net
    hidden = m.op("Add", m.op("Einsum", m.rows, net.const(m.w1.transpose(1, 2, 0)), equation="td,dhe->the"), net.const(m.b1.T))
    y = m.op("Add", m.op("Einsum", m.op("Gelu", hidden), net.const(m.w2.transpose(2, 1, 0)), equation="the,dhe->tde"), net.const(m.b2.T))
    return m.op("ReduceSum", m.op("Mul", y, m.op("Unsqueeze", m.scores(), net.ints(1))), net.ints(-1), keepdims=0)


@spelling
def weights_gathered(m: Mix) -> str:
    net, (top, index) = m.net, m.top()
    w1, b1, w2, b2 = (m.op("Gather", net.const(array), index, axis=0) for array in (m.w1, m.b1, m.w2, m.b2))
    hidden = m.op("Gelu", m.op("Add", m.op("Einsum", m.rows, w1, equation="td,tkdh->tkh"), b1))
    y = m.op("Add", m.op("Einsum", hidden, w2, equation="tkh,tkhd->tkd"), b2)
    return m.op("ReduceSum", m.op("Mul", y, m.op("Unsqueeze", top, net.ints(-1))), net.ints(1), keepdims=0)


@spelling
def weights_gathered_for_bmm(m: Mix) -> str:
    """Stored [E, N, K] as nn.Linear does, multiplied from the left."""
    net, (top, index) = m.net, m.top()
    w1, b1, w2, b2 = (m.op("Gather", net.const(array), m.op("Reshape", index, net.ints(-1)), axis=0)
                      for array in (m.w1.swapaxes(1, 2), m.b1[..., None], m.w2.swapaxes(1, 2), m.b2[..., None]))
    rows = m.op("Reshape", m.op("Expand", m.op("Unsqueeze", m.rows, net.ints(1)), net.ints(TOKENS, m.k, DIM)), net.ints(-1, DIM, 1))
    hidden = m.op("Gelu", m.op("Add", m.op("MatMul", w1, rows), b1))
    y = m.op("Reshape", m.op("Add", m.op("MatMul", w2, hidden), b2), net.ints(TOKENS, m.k, DIM))
    return m.op("Squeeze", m.op("MatMul", m.op("Unsqueeze", top, net.ints(1)), y), net.ints(1))


@spelling
def weights_gathered_choice_by_choice(m: Mix) -> str:
    net, (top, index), total = m.net, m.top(), None
    stored = [net.const(array) for array in (m.w1, m.b1[:, None], m.w2, m.b2[:, None])]
    for place in range(m.k):
        w1, b1, w2, b2 = (m.op("Gather", array, m.op("Gather", index, net.const(place, np.int64), axis=1), axis=0) for array in stored)
        hidden = m.op("Gelu", m.op("Add", m.op("MatMul", m.op("Unsqueeze", m.rows, net.ints(1)), w1), b1))
        y = m.op("Squeeze", m.op("Add", m.op("MatMul", hidden, w2), b2), net.ints(1))
        y = m.op("Mul", y, m.column(top, place))
        total = y if total is None else m.op("Add", total, y)
    return total


# ---------------------------------------------------------------- how factors are written

@spelling
def compared(m: Mix) -> str:
    """index == e, times the scores, over the choices."""
    top, index = m.top()

    def factor(e: int) -> str:
        mine = m.op("Cast", m.op("Equal", index, m.net.const(e, np.int64)), to=TensorProto.FLOAT)
        return m.op("ReduceSum", m.op("Mul", mine, top), m.net.ints(-1), keepdims=1)
    return m.summed(factor)


@spelling
def one_hot(m: Mix) -> str:
    top, index = m.top()
    hot = m.op("OneHot", index, m.net.const(EXPERTS, np.int64), m.net.const([0.0, 1.0]), axis=-1)
    scores = m.op("ReduceSum", m.op("Mul", hot, m.op("Unsqueeze", top, m.net.ints(-1))), m.net.ints(1), keepdims=0)
    return m.summed(lambda e: m.column(scores, e))


@spelling
def masked_by_the_kth_share(m: Mix) -> str:
    shares = m.shares()
    top, _ = m.op("TopK", shares, m.net.ints(m.k), outputs=2, axis=-1)
    kept = m.op("GreaterOrEqual", shares, m.op("Gather", top, m.net.ints(m.k - 1), axis=1))
    scores = m.op("Where", kept, shares, m.net.const(0.0))
    scores = m.divided(scores) if m.renormalize else scores
    return m.summed(lambda e: m.column(scores, e))


@spelling
def masked_by_a_scattered_mask(m: Mix) -> str:
    shares = m.shares()
    _, index = m.op("TopK", shares, m.net.ints(m.k), outputs=2, axis=-1)
    mask = m.op("ScatterElements", m.net.const(np.zeros((TOKENS, EXPERTS))), index, m.net.const(np.ones((TOKENS, m.k))), axis=-1)
    scores = m.op("Mul", shares, mask)
    scores = m.divided(scores) if m.renormalize else scores
    return m.summed(lambda e: m.column(scores, e))


@spelling
def shares_by_index(m: Mix) -> str:
    """A choice of places, and the shares gathered by it."""
    net, shares = m.net, m.shares()
    _, index = m.op("TopK", shares, net.ints(m.k), outputs=2, axis=-1)
    top = m.op("GatherElements", shares, index, axis=-1)
    top = m.divided(top) if m.renormalize else top
    scores = m.op("ScatterElements", net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
    return m.summed(lambda e: m.column(scores, e))


@spelling
def divided_at_the_end(m: Mix) -> str:
    """The sum of the experts, divided by the sum of the scores."""
    again = Mix(m.net, m.x, False, m.k)
    scores = again.scores()
    y = again.summed(lambda e: m.column(scores, e))
    return m.op("Div", y, m.op("ReduceSum", scores, m.net.ints(1), keepdims=1)) if m.renormalize else y


@spelling
def softmax_by_hand(m: Mix) -> str:
    net, logits = m.net, m.logits()
    powers = m.op("Exp", m.op("Sub", logits, m.op("ReduceMax", logits, net.ints(-1), keepdims=1)))
    shares = m.op("Div", powers, m.op("ReduceSum", powers, net.ints(-1), keepdims=1))
    top, index = m.op("TopK", shares, net.ints(m.k), outputs=2, axis=-1)
    top = m.divided(top) if m.renormalize else top
    scores = m.op("ScatterElements", net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
    return m.summed(lambda e: m.column(scores, e))


@spelling
def log_softmax(m: Mix) -> str:
    top, index = m.op("TopK", m.op("LogSoftmax", m.logits(), axis=-1), m.net.ints(m.k), outputs=2, axis=-1)
    top = m.op("Exp", top)
    top = m.divided(top) if m.renormalize else top
    scores = m.op("ScatterElements", m.net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
    return m.summed(lambda e: m.column(scores, e))


@spelling
def eps_in_the_division(m: Mix) -> str:
    top, index = m.op("TopK", m.shares(), m.net.ints(m.k), outputs=2, axis=-1)
    if m.renormalize:
        top = m.op("Div", top, m.op("Add", m.op("ReduceSum", top, m.net.ints(-1), keepdims=1), m.net.const(1e-9)))
    scores = m.op("ScatterElements", m.net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
    return m.summed(lambda e: m.column(scores, e))


def softmax_of_the_chosen(m: Mix) -> str:
    top, index = m.op("TopK", m.logits(), m.net.ints(m.k), outputs=2, axis=-1)
    scores = m.op("ScatterElements", m.net.const(np.zeros((TOKENS, EXPERTS))), index, m.op("Softmax", top, axis=-1), axis=1)
    return m.summed(lambda e: m.column(scores, e))


def softmax_of_the_others_at_minus_infinity(m: Mix) -> str:
    top, index = m.op("TopK", m.logits(), m.net.ints(m.k), outputs=2, axis=-1)
    scattered = m.op("ScatterElements", m.net.const(np.full((TOKENS, EXPERTS), -np.inf)), index, top, axis=1)
    scores = m.op("Softmax", scattered, axis=-1)
    return m.summed(lambda e: m.column(scores, e))


def logits_masked_before_the_softmax(m: Mix) -> str:
    logits = m.logits()
    top, _ = m.op("TopK", logits, m.net.ints(m.k), outputs=2, axis=-1)
    kept = m.op("Less", logits, m.op("Gather", top, m.net.ints(m.k - 1), axis=1))
    scores = m.op("Softmax", m.op("Where", kept, m.net.const(-1e9), logits), axis=-1)
    return m.summed(lambda e: m.column(scores, e))


RENORMALIZED = {function.__name__.replace("_", " "): function for function in (
    softmax_of_the_chosen, softmax_of_the_others_at_minus_infinity, logits_masked_before_the_softmax)}


def largest_and_its_place(m: Mix) -> str:
    shares = m.shares()
    best = m.op("ReduceMax", shares, m.net.ints(-1), keepdims=1)
    place = m.op("ArgMax", shares, axis=-1, keepdims=1)
    scores = m.op("ScatterElements", m.net.const(np.zeros((TOKENS, EXPERTS))), place, best, axis=-1)
    return m.summed(lambda e: m.column(scores, e))


def one_hot_of_the_largest(m: Mix) -> str:
    shares = m.shares()
    hot = m.op("OneHot", m.op("ArgMax", shares, axis=-1, keepdims=0), m.net.const(EXPERTS, np.int64), m.net.const([0.0, 1.0]), axis=-1)
    scores = m.op("Mul", shares, hot)
    return m.summed(lambda e: m.column(scores, e))


def equal_to_the_largest(m: Mix) -> str:
    shares = m.shares()
    mine = m.op("Equal", shares, m.op("ReduceMax", shares, m.net.ints(-1), keepdims=1))
    scores = m.op("Where", mine, shares, m.net.const(0.0))
    return m.summed(lambda e: m.column(scores, e))


def weights_of_the_largest(m: Mix) -> str:
    """One expert a token: there is nothing to sum."""
    net, shares = m.net, m.shares()
    place, best = m.op("ArgMax", shares, axis=-1, keepdims=0), m.op("ReduceMax", shares, net.ints(-1), keepdims=1)
    w1, b1, w2, b2 = (m.op("Gather", net.const(array), place, axis=0) for array in (m.w1, m.b1[:, None], m.w2, m.b2[:, None]))
    hidden = m.op("Gelu", m.op("Add", m.op("MatMul", m.op("Unsqueeze", m.rows, net.ints(1)), w1), b1))
    return m.op("Mul", m.op("Squeeze", m.op("Add", m.op("MatMul", hidden, w2), b2), net.ints(1)), best)


def dispatched(m: Mix, capacity: int = TOKENS) -> str:
    """GShard: a place for each token at its expert, by a running count; a product takes tokens there, another one brings results back."""
    net, shares = m.net, m.shares()
    best, index = m.op("TopK", shares, net.ints(1), outputs=2, axis=-1)
    values = net.const([0.0, 1.0])
    hot = m.op("Squeeze", m.op("OneHot", index, net.const(EXPERTS, np.int64), values, axis=-1), net.ints(1))
    place = m.op("Mul", m.op("Sub", m.op("CumSum", hot, net.const(0, np.int64)), net.const(1.0)), hot)
    hot = m.op("Mul", hot, m.op("Cast", m.op("Less", place, net.const(float(capacity))), to=TensorProto.FLOAT))
    place = m.op("Cast", m.op("ReduceSum", m.op("Mul", place, hot), net.ints(-1), keepdims=0), to=TensorProto.INT64)
    places = m.op("OneHot", place, net.const(capacity, np.int64), values, axis=-1)
    back = m.op("Mul", m.op("Unsqueeze", m.op("Mul", best, hot), net.ints(-1)), m.op("Unsqueeze", places, net.ints(1)))
    there = m.op("Cast", m.op("Greater", back, net.const(0.0)), to=TensorProto.FLOAT)
    rows = m.op("Einsum", there, m.rows, equation="tec,td->ecd")
    hidden = m.op("Gelu", m.op("Add", m.op("MatMul", rows, net.const(m.w1)), net.const(m.b1[:, None])))
    y = m.op("Add", m.op("MatMul", hidden, net.const(m.w2)), net.const(m.b2[:, None]))
    return m.op("Einsum", back, y, equation="tec,ecd->td")


def top_one_summed(m: Mix) -> str:
    """The sum over the one choice of a top-1."""
    return weights_gathered(m)


TOP_1 = {function.__name__.replace("_", " "): function for function in (
    largest_and_its_place, one_hot_of_the_largest, equal_to_the_largest, weights_of_the_largest, top_one_summed, dispatched)}
