"""Which scores of an attention its softmax hears: masks by whatever operators, judged by what they compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np

from ..graph import Array
from ..matching.opgraph import Const, Op, Ref, View
from ..matching.trial import Mismatch, Trial

BY_ELEMENT = ("Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip")
HIDDEN = -1e5             # a score that a mask has left
LEAST = -1e3                # a score less by this weighs nothing beside any that a network gives
PROBE = 64.0                # what scores become that are tried lies within plus and minus it
SAME = 1e-4                 # relative
ALL = "over all tokens, or over those up to its own (causal), or with a constant added to the scores,"


@dataclass(frozen=True, eq=False)
class Scores:
    """The product of queries and keys behind a softmax, or of keys and queries (``swapped``): ``scale`` times it goes in, of all keys or of those
    up to the query's own. bias: float32 [heads or 1, queries, keys], added to that, `HIDDEN` where a key is hidden; None where nothing is."""

    product: Op
    swapped: bool
    scale: float
    causal: bool = False
    bias: Array | None = None

    @property
    def query(self) -> Ref | None:
        return self.product.operand(1 if self.swapped else 0)

    @property
    def key(self) -> Ref | None:
        return self.product.operand(0 if self.swapped else 1)


def scores_of(op: Op, trial: Trial, given: View) -> Scores:
    """What the softmax of the attention ``op`` reads. Raises Mismatch where that is no product, or one that is changed otherwise."""
    chain: list[tuple[Op, View]] = []
    at = given
    while (step := trial.producer(at, *BY_ELEMENT)) is not None:
        views = [ref for ref in step.inputs if isinstance(ref, View)]
        if len(views) != 1:
            raise Mismatch(f"masks the scores in {step.kind} node {step.name!r} by something that is computed; only attention {ALL} is supported",
                           op.name)
        chain.append((step, at))
        at = views[0]
    straight = trial.producer(at, "MatMul")
    product = straight or _turned(trial, at)
    if product is None:
        raise Mismatch(_not_scores(trial, at), op.name)
    trial.absorb(product, at)
    found = Scores(product, straight is None, at.scale)
    if not chain:
        return found
    for step, view in chain:
        trial.absorb(step, view)
    return _judged(op, trial, found, [*reversed(chain)], given)


def _turned(trial: Trial, scores: View) -> Op | None:
    """The MatMul whose whole result the scores are, with rows and columns changed; None for others."""
    if len(scores.shape) < 2:
        return None
    index = scores.positions().swapaxes(-1, -2)
    return trial.producer(replace(scores, shape=index.shape, index=index), "MatMul")


def _not_scores(trial: Trial, scores: View) -> str:
    """Why what goes into the softmax is not a product of q and k."""
    producer = trial.graph.producers.get(scores.base)
    if producer is None:
        return "has a softmax that reads no product of q and k"
    return f"has a softmax that reads {producer.kind} node {producer.name!r}, not a product of q and k"


def operator_mask(op: Op, queries: int, keys: int) -> tuple[bool, Array | None]:
    """Whether the Attention operator is causal, False where each query sees all keys; and the bias of `Scores`. Raises Mismatch for anything else."""
    mask = op.constant(3)
    mask = np.ones((queries, keys), np.bool_) if mask is None else mask
    if mask.ndim == 0 or mask.shape[-1] != keys:                    # of fewer keys it hides the others (operator set 24)
        raise Mismatch(f"has an attention mask {list(mask.shape)} for {keys} keys; only attention {ALL} is supported", op.name)
    added = np.zeros(mask.shape) if mask.dtype == np.bool_ else mask.astype(np.float64)
    hidden = ~mask if mask.dtype == np.bool_ else added <= LEAST
    if op.integer("is_causal", 0):
        hidden = hidden | ~np.tri(queries, keys, dtype=np.bool_)
    shape = np.broadcast_shapes(hidden.shape, (queries, keys))
    return _meant(op, np.broadcast_to(hidden, shape), np.broadcast_to(added, shape), op.name)


def _meant(op: Op, hidden: Array, added: Array, blame: str) -> tuple[bool, Array | None]:
    """Whether the keys behind the query's own are hidden, bool [..., queries, keys]; and the bias that is left: None where nothing else is hidden
    and what is ``added`` to the scores of a query is one number, which a softmax does not hear. Raises Mismatch where a query sees no key."""
    rows = hidden.reshape(-1, *hidden.shape[-2:])
    sums = np.where(hidden, np.nan, added).reshape(rows.shape)
    if (none := np.argwhere(rows.all(-1))).size:
        raise Mismatch(f"masks the scores in {blame!r}, which hides all keys from query {int(none[0, 1])}; each has to see one at least", op.name)
    low, high = np.nanmin(sums, -1, keepdims=True), np.nanmax(sums, -1, keepdims=True)
    behind = ~np.tri(*rows.shape[-2:], dtype=np.bool_)
    causal = bool(behind.any() and rows[:, behind].all())
    if (high - low <= SAME * np.maximum(1, np.abs(high))).all() and (rows == (behind if causal else False)).all():
        return causal, None
    bias = np.where(rows, HIDDEN, sums - (high + low) / 2).astype(np.float32)
    return causal, bias[:1] if (bias == bias[:1]).all() else bias


def _judged(op: Op, trial: Trial, found: Scores, chain: list[tuple[Op, View]], given: View) -> Scores:
    """By what becomes of two lots of scores. Raises Mismatch where that is more than a factor and a mask."""
    scores, weights, blame = found.product.shape(0), chain[-1][0].shape(0), chain[0][0]
    if math.prod(weights) != math.prod(scores):
        raise Mismatch(f"has {list(scores)} scores and {list(weights)} weights; only one for each is supported", op.name)
    heads, (queries, keys) = scores[:-2], scores[:-3:-1] if found.swapped else scores[-2:]
    if all(math.prod(ref.shape[:-2]) == 1 for step, _ in chain for ref in step.inputs if isinstance(ref, Const)):
        heads = (1,) * len(heads)                                       # one stands for all
    rng, plain = np.random.default_rng(11), given.scale * math.prod(ref.scale for step, _ in chain for ref in step.inputs if isinstance(ref, View))
    x, x2 = ((rng.uniform(-PROBE, PROBE, (*heads, queries, keys)) / abs(plain or 1)).astype(np.float32) for _ in range(2))
    y, y2 = (_evaluated(trial, chain, lot, given).reshape(x.shape) for lot in (x, x2))
    hidden = (y <= LEAST) & (y2 <= LEAST)
    rise, run = (two[~hidden].astype(np.float64) - one[~hidden] for one, two in ((y, y2), (x, x2)))
    scale = float(rise @ run / (run @ run)) if run.size else 0.0
    if not scale or not np.abs(rise - scale * run).max() <= SAME * PROBE:
        raise Mismatch(f"masks the scores in {blame.kind} node {blame.name!r} and does more than that; only attention {ALL} is supported", op.name)
    causal, bias = _meant(op, hidden, y - scale * x, blame.name)
    return replace(found, scale=plain if math.isclose(scale, plain, rel_tol=SAME) else scale, causal=causal, bias=bias)


def _as(scores: Array, ref: View) -> Array:
    """The scores in the shape in which an operand has them, if they are all there."""
    return scores.reshape(ref.shape) if scores.size == math.prod(ref.shape) else scores


def _evaluated(trial: Trial, chain: list[tuple[Op, View]], scores: Array, given: View) -> Array:
    """What goes into the softmax for these scores."""
    for step, _ in chain:
        operands = [ref.array if isinstance(ref, Const) else None if ref is None else _as(scores, ref) * scores.dtype.type(ref.scale)
                    for ref in step.inputs]
        results = trial.graph.evaluate(step, operands) if trial.graph.evaluate is not None else None
        if results is None:
            raise Mismatch(f"changes its scores in {step.kind} node {step.name!r}, which cannot be evaluated", trial.op.name)
        (scores,) = results
    return np.asarray(scores * scores.dtype.type(given.scale))
