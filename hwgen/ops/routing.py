"""What a mixture of experts computes, found by evaluating it: its activation, which expert has which place in the router, and the routing.

The mixture is run on random tokens and, independent of them, on logits of our choice. Where one logit stands far above the others the result
is that expert's, which tells experts, and the order of dimensions in their weights, apart; on random logits the result is compared with every
routing the hardware has. Logits closer than an order of additions can turn are not compared: which expert is chosen then is nobody's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
import math

import numpy as np

from ..functions import FAMILIES, FUNCTIONS, Act, activate, softmax, titles
from ..graph import Array
from ..matching.opgraph import Const
from ..matching.trial import Mismatch, close, in_order, inverse
from .expert_weights import Weights
from .gating import Gating, halves
from .mixture import Expert, Layer, Mixture

ROWS = 48                        # of random logits, at least
APART = 1e-3                     # difference of scores, at least
FAR = 30.0                       # of a logit above all others
TOLERANCE = 1e-4                 # of the largest value
SIGMOIDS = ("Sigmoid", "Exp")    # operators that a sigmoid is made of
ABSENT = "an expert that no token chose when the network was traced"     # nobody can run what is not there


@dataclass(frozen=True, eq=False)
class Routing:
    """How experts are chosen, by the names of the operator MoE; choice: float64 [experts], or empty."""

    top_k: int
    renormalize: bool
    sigmoid: bool = False
    choice: Array = field(default_factory=lambda: np.zeros(0))

    def shares(self, logits: Array) -> tuple[Array, Array]:
        """Factors of all experts, [rows, experts], and how far apart what the choice is by lies at least, [rows]."""
        scores = FUNCTIONS["sigmoid"].f(logits) if self.sigmoid else softmax(logits)
        ranked = scores + self.choice if self.choice.size else scores
        apart = np.diff(np.sort(ranked, axis=-1), axis=-1).min(-1, initial=np.inf)
        chosen, best = np.zeros_like(scores), np.argsort(-ranked, axis=-1)[:, :self.top_k]
        np.put_along_axis(chosen, best, np.take_along_axis(scores, best, -1), -1)
        return chosen / chosen.sum(-1, keepdims=True) if self.renormalize else chosen, apart


@dataclass(frozen=True, eq=False)
class Routed:
    """The weights as the operator MoE has them, in the order of the router; factor: of the logits; positions: of `Match`."""

    weights: Weights
    act: Act
    routing: Routing
    positions: Array
    factor: float


def routed(found: Mixture, name: str) -> Routed:
    """Raises Mismatch with what does not fit, and Unprovable where an operator cannot be evaluated. name: of the result, for messages. What
    takes an exponential of the logits' opposite may be a sigmoid of them."""
    try:
        return Router(found, name).run()
    except Mismatch:
        if not found.has("Exp") or found.has("Softmax"):
            raise
        try:
            return Router(replace(found, logits=replace(found.logits, factor=-found.logits.factor)), name).run()
        except Mismatch:
            pass
        raise


class Router:
    """Runs a mixture. stack: experts in one constant; gating, is_gated: how the layers of an expert go together."""

    def __init__(self, found: Mixture, name: str):
        self.found, self.name = found, name
        bound = next(iter(found.xs.values()))
        self.tokens, self.dim = bound.shape
        self.count = self.stack = found.logits.bound.shape[-1]
        positions = None if bound.order is None else inverse(bound.order)
        self.positions = in_order(self.tokens, self.dim) if positions is None else positions.reshape(self.tokens, self.dim)
        self.rng = np.random.default_rng(0)
        self.result = found.region.ops[-1].outputs[0]
        self.gating, self.is_gated = Gating(), False

    def run(self) -> Routed:
        if not self.found.experts:
            raise Mismatch("has a router, but no experts: no two products with constants behind one another", self.name)
        act, t, factor = self.activation()
        x, y = self._samples(np.concatenate([self._favours(e) for e in range(self.count)]))
        summed = False
        for weights in self.readings(t, factor):
            results = weights.results(x, act).astype(np.float64)
            if (placed := self._places(results, y)) is not None:
                break
            summed |= _is_sum(results, y)
        else:
            raise Mismatch(self._no_expert(summed), self.name)
        places, scale = placed
        weights = weights.of(places)
        routing = self._routing(weights, act, scale)
        return Routed(weights.times(scale), act, routing, self.positions, self.found.logits.factor)

    # ---------------------------------------------------------------- running it

    def _samples(self, logits: Array) -> tuple[Array, Array]:
        """Random tokens and the results for them, [rows of logits, D] both; as many runs as it takes."""
        rows = -(-len(logits) // self.tokens) * self.tokens
        logits = np.resize(logits, (rows, self.count)).astype(np.float32)
        x = self.rng.standard_normal((rows, self.dim)).astype(np.float32)
        runs = [self.computed(x[start:start + self.tokens], logits[start:start + self.tokens]) for start in range(0, rows, self.tokens)]
        y = np.concatenate(runs)
        if not np.isfinite(y).all():
            raise Mismatch("has experts that give NaN or infinity on random tokens and logits", self.name)
        return x, y

    def _given(self, x: Array, logits: Array) -> dict[str, Array]:
        """What the region reads, as the ONNX values hold it."""
        values = {self.found.logits.value: (self.found.logits.bound, logits), **{value: (bound, x) for value, bound in self.found.xs.items()}}
        flat = {value: array.ravel() if bound.order is None else array.ravel()[bound.order] for value, (bound, array) in values.items()}
        return {value: array.reshape(self.found.region.graph.shapes[value]) for value, array in flat.items()}

    def computed(self, x: Array, logits: Array) -> Array:
        """What the mixture gives for these tokens and logits, float64 [tokens, D]."""
        y = self.found.region.run(self._given(x, logits), {self.result})[self.result]
        rows: Array = y.ravel()[self.positions].astype(np.float64)
        return rows

    # ---------------------------------------------------------------- the activation

    def activation(self) -> tuple[Act, float, float]:
        """(which function, t, f): what stands between the layers of an expert is f * function(t * x), element by element; times what the
        third layer gives, if there is one."""
        for gating in self._gatings():
            before, behind = self._hidden(gating)
            found = self._function(before, behind)
            if found is not None and (not self._gates(gating) or self._is_product(gating)):
                self.gating, self.is_gated = gating, self._gates(gating)
                return found
        expert = self.found.experts[0]
        raise Mismatch(f"has experts that compute no known function between {expert.before!r} and {expert.behind.base!r}; supported are "
                       f"{titles('and')}", self.name)

    def _gatings(self) -> Iterator[Gating]:
        """Each way the first layers may be a gate and what it multiplies."""
        experts, shapes = self.found.experts, self.found.region.graph.shapes
        if any(expert.third is not None for expert in experts):
            yield from (Gating(), Gating(third=True))
            return
        yield self.gating
        columns = {shape[-1] for expert in experts if (shape := shapes[expert.before])}
        if len(columns) == 1 and all(expert.behind.shape[-1:] == (size // 2,) for expert in experts for size in columns):
            yield from halves(columns.pop())

    def _gates(self, gating: Gating) -> bool:
        return gating.up is not None or self.found.experts[0].third is not None

    def _function(self, before: Array, behind: Array) -> tuple[Act, float, float] | None:
        largest = float(np.abs(behind).max(initial=0.0))
        repeated = np.repeat(before, len(behind) // max(1, len(before)))
        scales = [1.0, *(factor for factor in dict.fromkeys(self.found.scalars) if factor > 0 and factor != 1)]
        for t, act in product(scales, self._functions()):
            computed = np.sort(activate(t * repeated.astype(np.float64), act))
            if len(computed) != len(behind) or not computed.any():
                continue
            factor = float(computed @ behind / (computed @ computed))
            if np.abs(factor * computed - behind).max() <= TOLERANCE / 10 * largest:
                return act, t, self.exact(factor, t)
        return None

    def _hidden(self, gating: Gating, factor: float = 1.0) -> tuple[Array, Array]:
        """What goes into the activation and what comes out of it times ``factor``, each in order of size: it does not matter where elements stand."""
        rng = np.random.default_rng(1)

        def draw(array: Array) -> Array:
            return rng.normal(0, 3, array.shape).astype(np.float32)

        drawn = {name: how for expert in self.found.experts for name, how in gating.drawn(expert, draw, factor).items()}
        wanted = {*drawn, *(expert.behind.base for expert in self.found.experts)}
        x = rng.standard_normal((self.tokens, self.dim)).astype(np.float32)
        given = self._given(x, rng.standard_normal((self.tokens, self.count)).astype(np.float32))
        values = self.found.region.run(given, wanted, drawn)
        for expert in self.found.experts:
            if values[expert.before].size:
                break
        before, behind = gating.looked_up(expert, values).ravel(), values[expert.behind.base].ravel() * np.float32(expert.behind.scale)
        return np.sort(before), np.sort(behind)

    def _is_product(self, gating: Gating) -> bool:
        """Whether what multiplies the activation does: twice as much of the other sign gives twice as much of the other sign."""
        once, other = self._hidden(gating)[1], self._hidden(gating, -2.0)[1]
        return bool(np.abs(np.sort(-2 * once) - other).max(initial=0.0) <= TOLERANCE * np.abs(other).max(initial=0.0))

    def _functions(self) -> Iterator[Act]:
        yield from map(Act, FUNCTIONS)
        alphas = {float(str(np.float32(op.number("alpha", default)))) for op in self.found.region.ops
                  for kind, default in (("LeakyRelu", 0.01), ("Elu", 1.0)) if op.kind == kind}
        for family, alpha in product(FAMILIES, sorted({*alphas, *(float(str(np.float32(s))) for s in self.found.scalars if s > 0)})):
            yield Act(family, alpha)

    def exact(self, measured: float, t: float = 1.0) -> float:
        """The number of the file that a factor is: one, or one of the factors in it, or two of them."""
        scalars = list(dict.fromkeys(self.found.scalars))
        known = (1.0, 1 / t, *scalars, *(a * b for a, b in product(scalars, scalars)))
        return next((number for number in known if close(number, measured)), measured)

    # ---------------------------------------------------------------- the experts

    def _favours(self, expert: int) -> Array:
        """A row of logits where one stands far above the others, as many times as there are runs for all."""
        row = -1.0 * self.rng.permutation(self.count)
        if self.found.has(*SIGMOIDS):                        # of which all count, however far below the largest
            row -= FAR
        row[expert] = FAR
        return row[None] / self.found.logits.factor

    def readings(self, t: float, factor: float) -> Iterator[Weights]:
        """Each way to read the constants of the experts as weights."""
        experts = self.found.experts
        stacked = len(experts) == 1 and experts[0].second.weight.squeeze().ndim == 3
        count = self.stack if stacked else 1
        ways = [list(_read(expert, count, self.dim, t, factor, self.gating)) for expert in experts]
        for place in range(min(map(len, ways), default=0)):
            read = [way[place] for way in ways]
            if len({weights.w1.shape for weights in read}) == 1:
                yield Weights(*(np.concatenate([getattr(weights, key) for weights in read]) for key in ("w1", "b1", "w2", "b2", "w3", "b3")))

    def _places(self, results: Array, y: Array) -> tuple[list[int], float] | None:
        """(for each place of the router the expert it stands for, the factor of its result); None when a place has none."""
        places, factors = [], []
        for e in range(self.count):
            mine, want = results[:, e::self.count].reshape(len(results), -1), y[e::self.count].ravel()
            factor = mine @ want / np.maximum((mine * mine).sum(-1), 1e-300)
            error = np.abs(factor[:, None] * mine - want).max(-1)
            best = int(error.argmin())
            if not error[best] <= TOLERANCE * np.abs(want).max(initial=0.0) or not want.any():
                return None
            places.append(best)
            factors.append(float(factor[best]))
        if len(set(places)) < self.count or max(factors) - min(factors) > TOLERANCE * max(map(abs, factors)):
            return None
        return places, self.exact(float(np.median(factors)))

    def _no_expert(self, summed: bool) -> str:
        """Why no reading of the constants gives the results. summed: they are sums of the experts' results, all the same."""
        experts, found = self.found.experts, self.found
        if found.mixes:
            return "mixes tokens by the weights of its router before an expert sees them (soft MoE, or a dispatch with places): experts that " \
                   "see whole tokens are supported"
        single = all(expert.second.weight.squeeze().ndim == 2 for expert in experts)
        if single and len(experts) < self.count:
            return f"has {len(experts)} experts for {self.count} results of its router: {ABSENT} is not in the file"
        if single and len(experts) > self.count:
            return (f"has {len(experts)} experts for {self.count} results of its router: an expert that every token passes (a shared one) is read "
                    f"where its result is added behind the sum of the others")
        if found.changed is not None:
            return f"has experts that read what {found.changed.kind} node {found.changed.name!r} makes of {found.logits.gate.x!r}; they must read " \
                   "whole tokens, as the router does"
        if not summed:
            return "gives no sum of what its experts make of the same token: tokens change places, or something is done before the experts, to " \
                   "their results, or to the sum"
        return self._no_routing()

    # ---------------------------------------------------------------- the routing

    def _ways(self) -> Iterator[Routing]:
        """Every routing the hardware has, as far as the router has the operators for it."""
        sums = [(op.kind, ref.array.reshape(-1)) for op in self.found.region.ops if op.kind in ("Add", "Sub") for ref in op.inputs
                if isinstance(ref, Const) and ref.array.size == self.count > 1 and ref.array.dtype.kind == "f"]
        biases = [np.zeros(0), *(array.astype(np.float64) * (-1 if kind == "Sub" else 1) for kind, array in sums)]
        kinds = [(False, np.zeros(0)), *((True, bias) for bias in biases if self.found.has(*SIGMOIDS))]
        for (sigmoid, bias), k, renormalize in product(kinds, range(1, self.count + 1), (False, True)):
            yield Routing(k, renormalize, sigmoid, bias)

    def _routing(self, weights: Weights, act: Act, scale: float) -> Routing:
        alike = np.repeat(self.rng.normal(0, 1.5, (2, self.count)), self.tokens, 0)       # all tokens of a run choose the same: none may be dropped
        rest = self.rng.normal(0, 1.5, (-(-ROWS // self.tokens) * self.tokens, self.count))
        logits = np.concatenate([alike, rest]) / self.found.logits.factor
        x, y = self._samples(logits)
        read = np.resize(logits, (len(x), self.count)) * self.found.logits.factor
        results = scale * weights.results(x, act).astype(np.float64)
        for way in self._ways():
            chosen, apart = way.shares(read)
            settled = apart > APART
            error = np.abs(np.einsum("te,etd->td", chosen, results) - y)[settled]
            if error.max(initial=math.inf if not settled.any() else 0.0) <= TOLERANCE * np.abs(y).max():
                return way
        raise Mismatch(self._no_routing(), self.name)

    def _no_routing(self) -> str:
        found = self.found
        if found.has("CumSum"):
            why = "its router counts the tokens of an expert (capacity) and drops those beyond"
        elif found.has("Sigmoid"):
            why = "on random logits no k, no division by the sum of the chosen and no bias of the choice that it adds to sigmoids gives its result " \
                  "(groups of experts, of which some are left out, are no such choice)"
        elif not found.has("Softmax", "Exp"):
            why = "it has no softmax and no sigmoid"
        else:
            why = "on random logits no k and no division by the sum of the chosen gives its result"
        return f"the factors of its experts are those of no top-k of a softmax or of sigmoids: {why}"


def _read(expert: Expert, count: int, dim: int, t: float, factor: float, gating: Gating) -> Iterator[Weights]:
    """Each way to read the constants of one expert, or of a stack of them. t, factor: in front of the activation and behind it."""
    behind = np.float32(expert.second.scale * factor)
    for (w1, b1), third in product(*_firsts(expert, count, dim, gating)):
        hidden = w1.shape[-1]
        if third and third[0].shape != w1.shape:
            continue
        for w2, b2 in product(expert.second.weights(count, hidden), expert.second.biases(count, dim)):
            if w2.shape[-1] == dim:
                first, bias = (w1, b1) if t == 1 else (w1 * np.float32(t), b1 * np.float32(t))
                yield Weights(first, bias, w2 if behind == 1 else w2 * behind, b2, *third)


def _firsts(expert: Expert, count: int, dim: int, gating: Gating) -> tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]]:
    """Each way to read the layer in front of the activation, and what multiplies it, () where nothing does: weight and bias."""
    first = _layer(expert.first, count, dim)
    if gating.up is not None:
        wide = [(w, b) for w, b in first if w.shape[-1] == len(gating.up)]
        return [(w[..., ~gating.up], b[..., ~gating.up]) for w, b in wide], [(w[..., gating.up], b[..., gating.up]) for w, b in wide]
    if expert.third is None:
        return first, [()]
    third = _layer(expert.third, count, dim)
    return (third, first) if gating.third else (first, third)


def _layer(layer: Layer, count: int, dim: int) -> list[tuple[Array, ...]]:
    """Each way to read its weight, [count, dim, N], and bias."""
    scale = np.float32(layer.scale)
    return [(w if scale == 1 else w * scale, b) for w in layer.weights(count, dim) for b in layer.biases(count, w.shape[-1])]


def _is_sum(results: Array, y: Array) -> bool:
    """Whether each row is the sum of the experts' results for it, times some numbers. results: [experts, rows, D]."""
    rows = min(len(y), ROWS)
    rest = [y[row] - results[:, row].T @ np.linalg.lstsq(results[:, row].T, y[row], rcond=None)[0] for row in range(rows)]
    return bool(np.abs(rest).max() <= TOLERANCE * np.abs(y).max())
