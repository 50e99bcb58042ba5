"""Activations written out in other operators, whichever: recognised by what they compute, element by element, of one value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..functions import Act, activate
from ..graph import Array
from ..matching.opgraph import Const, Op, View
from ..matching.region import Unprovable, region
from ..matching.trial import Trial

MAX_OPERATORS = 16
CURVED = {"Clip", "Erf", "Exp", "HardSigmoid", "Max", "Min", "Relu", "Sigmoid", "Softplus", "Tanh"}
BY_ELEMENT = CURVED | {"Abs", "Add", "Div", "Log", "Mul", "Pow", "Reciprocal", "Sqrt", "Sub"}
TRIED = ((Act.GELU, 1.0), (Act.GELU_TANH, 1.0), (Act.SILU, 1.0), (Act.SILU, 1.702), (Act("hard_swish"), 1.0), (Act("mish"), 1.0), (Act.RELU, 1.0),
         (Act("softplus"), 1.0))
"""Functions, and what they may be applied to: as many times the value."""
RANGE = 9.0                         # of the values that are tried
EXACT = 1e-5                        # of the largest result


@dataclass(frozen=True, eq=False)
class Curve:
    """``factor * kind(t * x)``. parts: the operators, the last one excepted."""

    kind: Act
    x: View
    t: float
    factor: float
    parts: tuple[Op, ...]


def spelled_activation(op: Op, trial: Trial) -> Curve | None:
    """The function that ``op`` is of one value; None when it is none that is known."""
    if CURVED.isdisjoint(trial.graph.operators):
        return None
    producers = trial.graph.producers
    near = region(trial.graph, op, lambda value: value not in producers or not _is_by_element(producers[value]), MAX_OPERATORS)
    if near is None or len(near.leaves) != 1 or not _is_by_element(op) or not any(part.kind in CURVED for part in near.ops):
        return None
    (leaf,) = near.leaves
    shape = trial.graph.shapes.get(leaf)
    x = next((ref for part in near.ops for ref in part.inputs if isinstance(ref, View) and ref.base == leaf and ref.shape == op.shapes[0]), None)
    if x is None or shape is None:
        return None
    values = np.random.default_rng(0).uniform(-RANGE, RANGE, shape).astype(np.float32)
    try:
        with np.errstate(all="ignore"):
            y = near.run({leaf: values}, op.outputs[:1])[op.outputs[0]].astype(np.float64)
    except Unprovable:
        return None
    given = values.ravel()[x.positions()].astype(np.float64)
    for kind, t in TRIED:
        factor = _factor(activate(t * given, kind), y)
        if factor is not None:
            return Curve(kind, x, t, factor, near.ops[:-1])
    return None


def _is_by_element(op: Op) -> bool:
    return op.kind in BY_ELEMENT and all(ref.array.size == 1 for ref in op.inputs if isinstance(ref, Const))


def _factor(base: Array, y: Array) -> float | None:
    """How many times the base y is; None when it is something else."""
    if base.shape != y.shape or not np.isfinite(y).all() or not base.any():
        return None
    factor = float((y * base).sum() / (base * base).sum())
    factor = 1.0 if abs(factor - 1) < EXACT else factor
    return factor if factor and np.abs(y - factor * base).max() <= EXACT * np.abs(y).max() else None
