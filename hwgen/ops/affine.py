"""Factors and offsets of constants, one a channel, that go into the weights of the node whose result they change, or of the next one.

A bias, LayerScale, gamma and beta of a norm, a BatchNormalization. Behind a node without weights of its own (an activation, an attention, a
pooled token) they wait, as `Bound.affine`, for a Linear or experts that read the result.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph import Array
from ..matching.opgraph import Const, Op, View
from ..matching.trial import Affine, Bound, Match, Mismatch, Trial, channels_of, split_operands
from .operands import part_of, rescaled
from .operator import Spellings
from .residual import Add


def scale_and_shift(op: Op, trial: Trial) -> Match | None:
    """Add, Sub, Mul or Div by one constant a channel, or one such less the value."""
    found = split_operands(op)
    if found is None or op.kind == "Div" and op.constant(1) is None:
        return None
    view, const = found
    vector = trial.per_channel(const, view)
    if vector is None:
        return None
    vector = vector.astype(np.float64)
    ones, zeros = np.ones(len(vector)), np.zeros(len(vector))
    with np.errstate(divide="ignore", invalid="ignore"):             # a division by zero is refused with its weights
        match op.kind:
            case "Add":
                return _changed(op, trial, view, Affine(ones, vector))
            case "Sub" if op.constant(1) is None:
                return _changed(op, trial, view, Affine(-ones, vector))
            case "Sub":
                return _changed(op, trial, view, Affine(ones, -vector))
            case "Mul":
                return _changed(op, trial, view, Affine(vector, zeros))
        return _changed(op, trial, view, Affine(1 / vector, zeros))


def batch_norm(op: Op, trial: Trial) -> Match | None:
    """BatchNormalization with the statistics of training: axis 1 holds the channels."""
    view, constants = op.operand(0), [op.constant(place) for place in range(1, 5)]
    if op.attrs.get("training_mode", 0) or any(op.outputs[1:]) or not isinstance(view, View) or len(view.shape) < 2:
        raise Mismatch("takes its mean and variance from the batch: export the model in eval mode (model.eval())", op.name)
    vectors = [None if array is None else
               trial.per_channel(Const(array.reshape(-1, *[1] * (len(view.shape) - 2))), view) for array in constants]
    gamma, beta, mean, variance = (None if vector is None else vector.astype(np.float64) for vector in vectors)
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + op.number("epsilon", 1e-5))
        return _changed(op, trial, view, Affine(scale, beta - mean * scale))


def _changed(op: Op, trial: Trial, view: View, change: Affine) -> Match | None:
    """A match for ``change`` of what the view is of; None when nothing takes it in."""
    found, producer = trial.where(view, affine=True), trial.graph.producers.get(view.base)
    if found is None or producer is None or found[0].node is None:
        return None
    bound, part = found[0], channels_of(found[1], found[0].shape)
    if part is None:
        return None
    channels, places = part
    whole, positions = channels.size == bound.shape[-1], places.reshape(*bound.shape[:-1], -1)
    factor = np.float64(bound.factor * view.scale)
    node = None
    waits = whole and _for_a_linear(op, trial, view)
    if bound.affine is None and not waits:
        source = found[0].node if whole else part_of(trial, bound, channels)
        node = source and rescaled(trial, source, change.scale * factor, change.offset, name=op.name, output=op.outputs[0])
    if node is not None:
        trial.absorb(producer, view)
        return Match((node,), positions)
    if not whole:
        return None
    if bound.affine is None and (change.scale == 1).all() and not waits:
        return _into_the_sum(op, trial, view, bound, positions, change.offset)
    if not np.isfinite((change.scale, change.offset)).all():
        return None
    before = Affine(np.full(len(change.scale), factor), np.zeros(len(change.scale))) if bound.affine is None else bound.affine.then(view.scale, 0.0)
    return Match((), positions, affine=before.then(change.scale, change.offset), of=replace(bound, factor=1.0))


def _for_a_linear(op: Op, trial: Trial, view: View) -> bool:
    """Whether Linears alone read the result and others read what is changed, as where a task embedding is added for a gate: the Linears take
    it in, where weights in front of it would have to be there twice."""
    behind = trial.graph.readers.get(op.outputs[0], ())
    return bool(behind) and len(trial.graph.readers.get(view.base, ())) > 1 and op.kind == "Add" \
        and all(reader.kind in ("MatMul", "Gemm") and reader.constant(1) is not None for reader in behind)


def _into_the_sum(op: Op, trial: Trial, view: View, bound: Bound, positions: Array, offset: Array) -> Match | None:
    """A bias behind a residual connection, as onnxruntime's optimizer moves it there: it goes into the weights of the operand computed last.

    None when it is a constant of its own: AddConst.
    """
    total = bound.node
    if not isinstance(total, Add) or bound.factor * view.scale != 1.0:
        return None
    value = next((value for value in reversed([*trial.made]) if value in total.inputs), "")
    if value not in trial.made:
        return None
    node = rescaled(trial, trial.made[value], np.ones(len(offset)), offset, output=trial.fresh(f"{value}.biased"))
    if node is None:
        return None
    trial.absorb(trial.graph.producers[view.base], view)
    trial.absorbed.append(node.name)
    trial.nodes.append(node)
    x, y = (node.output if operand == value else operand for operand in total.inputs)
    return Match((replace(total, name=op.name, output=op.outputs[0], x=x, y=y),), positions)


SPELLINGS = Spellings({**{kind: (scale_and_shift,) for kind in ("Add", "Sub", "Mul", "Div")}, "BatchNormalization": (batch_norm,)},
                      {"Mul": "a scale behind a Linear"})
