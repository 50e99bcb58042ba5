"""Pruning of tokens by score as ONNX files spell it: TopK, and whatever gathers tokens by its indices, found by what it computes.

What is between the indices and the result is evaluated on random tokens and indices, what is between a Linear and the indices on random logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import math

import numpy as np

from ..functions import Act
from ..graph import Array
from ..matching.opgraph import Const, Op, View
from ..matching.region import Region, Unprovable, moved, region
from ..matching.trial import Bound, Mismatch, Trial
from .activation import Activation
from .attended import Attended
from .attention import columns
from .heads import heads_of
from .linear import Linear
from .masks import scores_of

KINDS = ("Concat", "GatherElements", "Gather", "GatherND")             # what may give the tokens that are kept
LIMIT = 200                      # operators between a score and the tokens that are kept
DRAWS = 4
PROBES = 16
RISING = (Act("sigmoid"), Act("tanh"))             # functions that keep an order, as operators of their own
MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
# What is not the same for different scores if it changes with them at all.
NEVER_FLAT = MOVES | {"Add", "Atan", "Cast", "Div", "Elu", "Exp", "LeakyRelu", "Log", "LogSoftmax", "Mean", "Mul", "Neg", "Pow", "Reciprocal",
                      "ReduceMean", "ReduceSum", "Sigmoid", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh"}
FLOATS = (1, 10, 11, 16)            # of Cast


@dataclass(frozen=True, eq=False)
class Choice:
    """``front`` tokens of the ir value ``bound`` and ``keep`` of the others, as `Prune` has them; top: the TopK; ops: all that is between."""

    bound: Bound
    front: int
    keep: int
    ranked: bool
    top: Op
    ops: tuple[Op, ...]


def choice(op: Op, trial: Trial) -> Choice | None:
    """What tokens ``op`` gives, by a TopK; None when it is not that. Raises Mismatch where it gives tokens in another way."""
    near = region(trial.graph, op, lambda value: known(trial, value), LIMIT) if "TopK" in trial.graph.operators else None
    top = None if near is None else next((part for part in near.ops[:-1] if part.kind == "TopK"), None)
    if near is None or top is None or len(top.outputs) < 2 or any(shape is None for shape in (*top.shapes, *op.shapes)):
        return None
    index = top.outputs[1]
    moves = region(trial.graph, op, lambda value: value == index or known(trial, value), LIMIT)
    values = {value: trial.bound[value] for value in (moves.leaves if moves is not None else ()) if value != index and value in trial.bound}
    if moves is None or index not in moves.leaves or len(values) != len(moves.leaves) - 1 or len({bound.value for bound in values.values()}) != 1:
        return None
    bound = next(iter(values.values()))
    known_best = math.prod(top.shape(1))
    count = top.ref(0).shape[top.integer("axis", -1)]
    if len(bound.shape) != 2 or bound.affine is not None or math.prod(top.ref(0).shape) != count or op.shape(0)[-1:] != bound.shape[1:] \
            or math.prod(op.shape(0)) % bound.shape[1]:
        return None
    orders = _orders(count, known_best)
    rows = [_rows(moves, op, values, bound, index, top.shape(1), order, seed) for seed, order in enumerate(orders)]
    numbers = [row for row in rows if row is not None]
    if len(numbers) < len(rows):
        return None
    front = bound.shape[0] - count
    keep = len(numbers[0]) - front
    if not 1 <= keep <= known_best or any(not np.array_equal(row[:front], np.arange(front)) for row in numbers):
        raise Mismatch(f"gives {len(numbers[0])} tokens of {bound.value!r} {list(bound.shape)} by scores of {count}; supported are the tokens in "
                       "front that have no score, then those with the largest scores", op.name)
    ranked = all(np.array_equal(row[front:] - front, order[:keep]) for row, order in zip(numbers, orders, strict=True))
    if not ranked and any(not np.array_equal(row[front:] - front, np.sort(order[:keep])) for row, order in zip(numbers, orders, strict=True)):
        raise Mismatch(f"keeps {keep} of {count} tokens of {bound.value!r} in an order that is neither that of their scores nor their own", op.name)
    return Choice(bound, front, keep, ranked, top, near.ops)


def known(trial: Trial, value: str) -> bool:
    """Whether it is a value of the network."""
    bound = trial.bound.get(value)
    return bound is not None and (bound.node is not None or not bound.anchor)


def linear_score(trial: Trial, found: Choice) -> tuple[str, Array | None]:
    """The ir value whose one result is the score of each token, or rises with it; or a Linear, and the column [results] that it is times its
    weight. Raises Mismatch when it is made otherwise, and Unprovable."""
    part = region(trial.graph, found.top, lambda value: known(trial, value) and not _rises(trial.bound[value]), LIMIT)
    bounds = {value: trial.bound[value] for value in (part.leaves if part is not None else ()) if value in trial.bound}
    if part is None or len(bounds) != 1:
        raise Mismatch(f"keeps tokens by scores of {found.top.name!r} that are made of {len(bounds)} values; supported is what one Linear gives",
                       found.top.name)
    (value, bound), = bounds.items()
    count = found.bound.shape[0] - found.front
    if bound.node is None:
        raise Mismatch(f"keeps tokens by {value!r}, an input of the network; supported is what one Linear gives", found.top.name)
    if len(bound.shape) != 2 or not count <= bound.shape[0] <= found.bound.shape[0] or bound.affine is not None:
        raise Mismatch(f"keeps tokens by {value!r} {list(bound.shape)}, which is no score of each of {count} tokens", found.top.name)
    for column in _columns(bound.shape[1]):
        if all(_chooses(part, found, value, bound, column, seed) for seed in range(DRAWS)):
            _never_flat(part, found, value)
            if not all(_keeps_order(part, found, value, bound, column, seed) for seed in range(PROBES)):
                raise Mismatch(f"keeps tokens by a function of {value!r} that falls somewhere; one that rises is supported", found.top.name)
            if isinstance(bound.node, Linear):
                return bound.value, column
            if column.tolist() == [1.0]:
                return bound.value, None
            break
    raise Mismatch(f"keeps tokens by what is made of {value!r} {list(bound.shape)}, which is no result of a Linear, no difference of two and nothing "
                   "that rises with one", found.top.name)


def class_score(op: Op, trial: Trial, found: Choice) -> Attended | None:
    """The mean over the heads of what one token pays attention to, if that is the score. Raises Mismatch for other choices by attention weights,
    and Unprovable."""
    part = region(trial.graph, found.top, lambda value: known(trial, value), LIMIT)
    steps = () if part is None else part.ops
    row_wise = [step for step in steps if step.kind == "Softmax"]
    if len(row_wise) != 1 or not isinstance(row_wise[0].operand(0), View) or not any(step.kind == "MatMul" for step in steps):
        return None
    soft = row_wise[0]
    shape = soft.shape(0)
    if len(shape) < 3 or soft.integer("axis", -1) % len(shape) != len(shape) - 1:
        return None
    scores = scores_of(op, trial, soft.view(0))
    if scores.causal or scores.bias is not None:
        raise Mismatch(f"keeps tokens by the attention weights of {soft.name!r}, which have a mask or a bias", found.top.name)
    q, k = (heads_of(trial, ref, op, name, transposed) for ref, name, transposed in
            ((scores.query, "q", scores.swapped), (scores.key, "k", not scores.swapped)))
    if q is None or k is None or k.tokens != found.bound.shape[0] or len(q.columns) != len(k.columns):
        raise Mismatch(f"keeps tokens by the attention weights of {soft.name!r}, which are not those of the same tokens", found.top.name)
    behind = region(trial.graph, found.top, lambda value: value == soft.outputs[0] or known(trial, value), LIMIT)
    query = None if behind is None or behind.leaves != {soft.outputs[0]} else next(
        (row for row in range(q.tokens) if all(_looks(behind, found, soft.outputs[0], row, seed) for seed in range(DRAWS))), None)
    if behind is None or query is None:
        raise Mismatch(f"keeps tokens by the attention weights of {soft.name!r}, and not by the mean over the heads of those of one token",
                       found.top.name)
    _never_flat(behind, found, soft.outputs[0])
    factor = scores.scale * q.factor * k.factor
    if factor <= 0:
        raise Mismatch(f"keeps tokens by attention weights of scores that are multiplied by {factor:.6g}; a positive scale is supported",
                       found.top.name)
    queries, keys = (_shared(trial, columns(op, trial, heads, name)) for heads, name in ((q, "q"), (k, "k")))
    return Attended(op.name, trial.fresh(f"{found.top.outputs[1]}.score"), queries, keys, len(q.columns), factor, query, found.front)


def _shared(trial: Trial, value: str) -> str:
    """The value of an equal Linear that is there already, of the attention, instead of a new one."""
    new = trial.nodes[-1] if trial.nodes and trial.nodes[-1].output == value else None
    if not isinstance(new, Linear):
        return value
    for node in trial.made.values():
        if isinstance(node, Linear) and node.x == new.x and np.array_equal(node.weight, new.weight) and np.array_equal(node.bias, new.bias):
            trial.nodes.pop()
            return node.output
    return value


def _looks(part: Region, found: Choice, value: str, row: int, seed: int) -> bool:
    """Whether the indices are those of the largest of random weights of a query."""
    shape = part.graph.shapes[value] or ()
    weights = np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)
    index = part.run({value: weights}, {found.top.outputs[1]})[found.top.outputs[1]].ravel()[:found.keep]
    mean = weights.reshape(-1, *shape[-2:]).astype(np.float64).mean(0)[row, found.front:]
    right = np.argsort(-mean, kind="stable")[:found.keep]
    return np.array_equal(index, right) if found.ranked else np.array_equal(np.sort(index), np.sort(right))


def _columns(count: int) -> Iterator[Array]:
    """What of so many results may be the score: one of them, or less another one, or the other way round."""
    for first in range(min(count, 8)):
        for sign in (1.0, -1.0):
            column = np.zeros(count)
            column[first] = sign
            yield column
            for second in range(min(count, 8)):
                if first < second:
                    other = column.copy()
                    other[second] = -sign
                    yield other


def _chooses(part: Region, found: Choice, value: str, bound: Bound, column: Array, seed: int) -> bool:
    """Whether the indices are those of the largest of random results times the column."""
    results = np.random.default_rng(seed).normal(0, 1, bound.shape).astype(np.float32)
    flat = bound.onnx(results).astype(np.float32).reshape(part.graph.shapes[value])
    index = part.run({value: flat}, {found.top.outputs[1]})[found.top.outputs[1]].ravel()[:found.keep]
    count = found.bound.shape[0] - found.front
    right = np.argsort(-(results @ column)[len(results) - count:], kind="stable")[:found.keep]
    return np.array_equal(index, right) if found.ranked else np.array_equal(np.sort(index), np.sort(right))


def _rises(bound: Bound) -> bool:
    """Whether it is a function of what to look at instead: it keeps the order, or stands behind the scores laid out as a row."""
    return isinstance(bound.node, Activation) and (bound.node.kind in RISING or bound.shape[0] == 1)


def _never_flat(part: Region, found: Choice, value: str) -> None:
    """Raises Mismatch for what may be the same for different scores, or gives the tokens something of their own, where it may be too little for
    the random ones."""
    behind = {value}
    for op in part.ops[:-1]:
        if not any(isinstance(ref, View) and ref.base in behind for ref in op.inputs):
            continue
        behind.update(op.outputs)
        if op.kind not in NEVER_FLAT or op.kind == "Cast" and op.integer("to", 1) not in FLOATS:
            raise Mismatch(f"keeps tokens by a function of {value!r} that may be flat or fall somewhere, by {op.kind} node {op.name!r}; supported "
                           "are functions that rise everywhere, such as Sigmoid, Tanh and a Softmax of two", found.top.name)
        if op.kind not in MOVES and any(ref.array.size > 1 and np.ptp(ref.array) for ref in op.inputs if isinstance(ref, Const)):
            raise Mismatch(f"keeps tokens by scores with constants that are not the same for all tokens, of {op.kind} node {op.name!r}",
                           found.top.name)


def _keeps_order(part: Region, found: Choice, value: str, bound: Bound, column: Array, seed: int) -> bool:
    """Whether what the TopK reads does not fall where random results of any size, times the column, rise."""
    rng = np.random.default_rng(seed)
    results = (rng.choice([-1.0, 1.0], bound.shape) * 10 ** rng.uniform(-2, 4, bound.shape)).astype(np.float32)
    ref = found.top.ref(0)
    with np.errstate(all="ignore"):
        flat = bound.onnx(results).astype(np.float32).reshape(part.graph.shapes[value])
        made = moved(part.graph, ref, part.run({value: flat}, {ref.base} if isinstance(ref, View) else ())).ravel().astype(np.float64)
    own = results[len(results) - made.size:].astype(np.float64)
    order = np.argsort(own @ column, kind="stable")
    order = order[np.isfinite(made[order])]
    made, rounding = made[order], 4e-7 * np.abs(own).max(1)[order]
    step = np.diff(made) if found.top.integer("largest", 1) else -np.diff(made)
    slack = np.maximum(np.abs(made[1:]), np.abs(made[:-1])) * 1e-6 + np.maximum(rounding[1:], rounding[:-1])
    return bool((step >= -slack).all())


def _orders(count: int, keep: int) -> list[Array]:
    return [np.random.default_rng(seed).permutation(count)[:keep] for seed in range(DRAWS)]


def _rows(moves: Region, op: Op, values: Mapping[str, Bound], bound: Bound, index: str, shape: tuple[int, ...], order: Array,
          seed: int) -> Array | None:
    """Which token of random ones each row of the result is; None where one is none of them."""
    x = np.random.default_rng(seed).normal(0, 1, bound.shape).astype(np.float32)
    given = {value: one.onnx(x).reshape(moves.graph.shapes[value]) for value, one in values.items()}
    try:
        y = moves.run({**given, index: order.astype(np.int64).reshape(shape)}, {op.outputs[0]})[op.outputs[0]]
    except Unprovable:
        return None
    rows = np.asarray(y, np.float32).reshape(-1, bound.shape[1])
    places = {row.tobytes(): place for place, row in enumerate(np.ascontiguousarray(x * np.float32(bound.factor)))}
    numbers = [places.get(row.tobytes()) for row in np.ascontiguousarray(rows)]
    return None if None in numbers else np.array(numbers)
