"""Factors and offsets of constants, one a channel, that go into the weights of the node whose result they change."""

from __future__ import annotations

import numpy as np

from ..matching.opgraph import Op
from ..matching.trial import Match, Trial, inverse, split_operands
from .operands import rescaled
from .operator import Spellings


def scale_and_shift(op: Op, trial: Trial) -> Match | None:
    """Add, Sub, Mul or Div by one constant a channel: the bias of a Linear, LayerScale, gamma and beta of a norm."""
    found = split_operands(op)
    if found is None or (op.kind in ("Div", "Sub") and op.constant(1) is None):
        return None
    view, const = found
    bound, producer = trial.bound.get(view.base), trial.graph.producers.get(view.base)
    if producer is None or bound is None or bound.node is None:
        return None
    vector = trial.per_channel(const, view)
    if vector is None:
        return None
    vector = vector.astype(np.float64)
    scale, shift = np.full(len(vector), bound.factor * view.scale), np.zeros(len(vector))
    with np.errstate(divide="ignore", invalid="ignore"):             # a division by zero is refused with its weights
        match op.kind:
            case "Add":
                shift = vector
            case "Sub":
                shift = -vector
            case "Mul":
                scale = scale * vector
            case "Div":
                scale = scale / vector
    node, where = rescaled(trial, bound.node, scale, shift, name=op.name, output=op.outputs[0]), trial.where(view)
    positions = None if where is None else inverse(where[1])         # of the operand, and so of the result, in the ir value
    if node is None or positions is None:
        return None
    trial.absorb(producer, view)
    return Match((node,), positions.reshape(bound.shape))


SPELLINGS = Spellings({kind: (scale_and_shift,) for kind in ("Add", "Sub", "Mul", "Div")}, {"Mul": "a scale behind a Linear"})
