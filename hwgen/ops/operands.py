"""How a rule reads a value that an operator takes whole: as it is, some tokens of it, and times what factor."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np

from ..graph import Array, Node, Shape
from ..matching.opgraph import Ref, View
from ..matching.trial import Affine, Bound, Mismatch, Trial, channels_of, close, in_order, inverse, is_whole
from .select import Select
from .slice import Slice
from .take import of_tokens


@dataclass(frozen=True, eq=False)
class Operand:
    """A whole ir value, or some tokens of it, as a rule reads it. The ONNX operand is ``factor`` times ``value``, or ``affine`` of it."""

    value: str
    shape: Shape
    factor: float
    node: Node | None
    affine: Affine | None = None


def unread(trial: Trial, value: str) -> str | None:
    """The ONNX node of an unsupported operator whose result, in a guessed layout, an ir value is; None where it is something else."""
    unsupported = (bound for bound in trial.bound.values() if bound.node is None and bound.anchor)
    return next((bound.anchor for bound in unsupported if value.startswith(f"{bound.value} [")), None)


def operand(trial: Trial, ref: Ref | None, affine: bool = False) -> Operand | None:
    """A whole ir value in its own order, or some tokens of a sequence (makes the Select or the Slice); None if the value is not bound.

    affine: the rule takes `Operand.affine` in. Raises Mismatch for any other part or order.
    """
    found = trial.where(ref, affine)
    if found is None or not isinstance(ref, View):
        return None
    bound, positions = found
    factor = bound.factor * ref.scale
    change = bound.affine and bound.affine.then(ref.scale, 0.0)
    if bound.node is None and bound.anchor:                 # an unsupported operator: its layout is anyone's guess
        shape = ref.shape[1:] if ref.shape[0] == 1 and len(ref.shape) > 1 else ref.shape
        value = f"{bound.value} {list(shape)}"
        trial.assumed[value] = shape
        return Operand(value, shape, 1.0, None)
    channels = bound.shape[-1]
    if not positions.size:
        raise Mismatch(f"reads nothing of {bound.value!r}: its operand has the shape {list(ref.shape)}", trial.op.name)
    if is_whole(positions) and positions.size == math.prod(bound.shape):
        if positions.shape[-1] % channels or positions.shape[-1] != channels and bound.node is None:
            raise Mismatch(f"reads {bound.value!r} {list(bound.shape)} reshaped to {list(ref.shape)}, which mixes tokens and "
                           "channels", trial.op.name)
        if positions.shape[-1] == channels:
            if change is None:
                trial.rounds(bound.value, ref, bound.factor)
            return Operand(bound.value, bound.shape, factor, bound.node, change)
    node = _chosen(trial, ref, bound, positions) or (None if change is not None else _taken(trial, bound, positions))
    if node is not None:
        trial.nodes.append(node)
        if change is None:
            trial.rounds(bound.value, ref, bound.factor)
        return Operand(node.output, node.shape(bound.shape), factor, node, change)
    part = channels_of(positions, bound.shape)
    if part is not None and is_whole(part[1]) and positions.shape[-1] == part[0].size and (cut := part_of(trial, bound, part[0])) is not None:
        trial.nodes.append(cut)
        some = change and Affine(change.scale[part[0]], change.offset[part[0]])
        return Operand(cut.output, (*bound.shape[:-1], part[0].size), factor, cut, some)
    via = f" (through {ref.trail})" if ref.trail else ""
    raise Mismatch(f"reads {bound.value!r} {list(bound.shape)} as {list(ref.shape)} in another order or in part{via}; "
                   "supported are the whole sequence, tokens equally far apart, and the heads of an attention", trial.op.name)


def narrow(trial: Trial, ref: Ref | None) -> tuple[Operand, Array] | None:
    """Tokens of an input of the network, of which not all channels are read, and which ones are: what a Linear reads with rows of zeros. None for
    others."""
    known = trial.bound.get(ref.base) if isinstance(ref, View) else None
    if known is None or not isinstance(ref, View) or known.node is not None or known.anchor or len(known.shape) != 2:
        return None
    found = trial.where(ref)
    if found is None:
        return None
    bound, positions = found
    width, rows = bound.shape[1], positions.reshape(-1, positions.shape[-1])
    if not rows.size or rows.shape[1] >= width or (rows // width != rows[:, :1] // width).any() or (rows % width != rows[0] % width).any():
        return None
    whole = rows[:, :1] // width * width + np.arange(width)
    if np.array_equal(whole.ravel(), np.arange(math.prod(bound.shape))):
        return Operand(bound.value, bound.shape, bound.factor * ref.scale, None), rows[0] % width
    node = _chosen(trial, ref, bound, whole)
    if node is None:
        return None
    trial.nodes.append(node)
    return Operand(node.output, node.shape(bound.shape), bound.factor * ref.scale, node), rows[0] % width


def _chosen(trial: Trial, ref: View, bound: Bound, positions: Array) -> Select | Slice | None:
    """The node that takes just these tokens; None when they are not whole, or not equally far apart."""
    channels = bound.shape[-1]
    if len(bound.shape) != 2 or positions.shape[-1] != channels:
        return None
    rows = positions.reshape(-1, channels)
    tokens = rows[:, 0] // channels
    step = int(tokens[1] - tokens[0]) if len(tokens) > 1 else 1
    if step < 1 or not np.array_equal(rows, (tokens[0] + step * np.arange(len(tokens)))[:, None] * channels + np.arange(channels)):
        return None
    name, first = ref.trail.name if ref.trail else trial.op.name, int(tokens[0])
    if len(tokens) == 1:
        return Select(name, trial.fresh(f"{bound.value}.token{first}"), bound.value, first)
    return Slice(name, trial.fresh(f"{bound.value}.tokens{first}"), bound.value, first, len(tokens), step)


def _taken(trial: Trial, bound: Bound, positions: Array) -> Node | None:
    """The node that takes these tokens, in any order or side by side; None when they are not whole. Not of an input, whose words the host orders."""
    return None if bound.node is None else of_tokens(trial.op.name, trial.fresh(f"{bound.value}.for {trial.op.name}"), bound, positions, trial)


def part_of(trial: Trial, bound: Bound, channels: Array) -> Node | None:
    """A node that gives some channels of a value, rising, as several Linears make one; None when no weights of it can be taken apart."""
    if bound.node is None or bound.node.BY_CHANNEL:
        return None
    first, last = int(channels[0]), int(channels[-1])
    name = f"{first}:{last + 1}" if last - first + 1 == channels.size else ",".join(map(str, channels))
    node = picked(trial, bound.node, channels, f"{bound.value}[{name}]")
    if node is not None:
        trial.absorbed.append(bound.anchor)
    return node


def picked(trial: Trial, node: Node, channels: Array, output: str) -> Node | None:
    """The node with just these channels of its result, in this order, as ``output``; None when no weights of it, or of what it is made of channel
    by channel, can be chosen so. The trial gets the new ones of what it reads."""
    arrays = node.part(channels)
    if arrays is None:
        return None
    some: dict[str, Any] = {key: trial.array(value) if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
    if node.BY_CHANNEL:
        (value,), (key,) = node.inputs, node.VALUES
        before = trial.made.get(value)
        source = None if before is None else picked(trial, before, channels, f"{output}.of")
        if source is None:
            return None
        trial.nodes.append(source)
        some[key] = source.output
    return replace(node, output=trial.fresh(output), **some)


def plain(trial: Trial, ref: Ref | None) -> Operand | None:
    """Like `operand`, with factor 1: a factor goes into the weights of the node in front of it; where that has none it is a Mismatch."""
    found = operand(trial, ref)
    if found is None or not isinstance(ref, View) or close(found.factor, 1.0):
        return found
    node = None if found.node is None else rescaled(trial, found.node, np.full(found.shape[-1], found.factor), np.zeros(found.shape[-1]),
                                                    output=trial.fresh(f"{found.value} * {found.factor!r}"))
    if node is None:
        raise Mismatch(f"reads {found.value!r} times {found.factor:.6g}; only weights in front of it can take a factor in", trial.op.name)
    trial.absorbed.append(trial.bound[ref.base].anchor)
    trial.nodes.append(node)
    return Operand(node.output, found.shape, 1.0, node)


def anyhow(trial: Trial, view: View) -> tuple[Operand, Array] | None:
    """Like `plain`, for an operator that takes each element by itself, of a value in any order (an image of tokens): also where each of its
    elements stands in the operand, flat."""
    found = trial.where(view)
    order = None if found is None or found[0].node is None else inverse(found[1])
    if found is None or order is None or order.size != math.prod(found[0].shape) or is_whole(found[1]):
        x = plain(trial, view)
        return None if x is None else (x, in_order(*x.shape))
    bound = found[0]
    natural = np.arange(order.size, dtype=np.int32) if bound.order is None else inverse(bound.order)
    if natural is None:
        return None
    x = plain(trial, replace(view, shape=bound.shape, index=natural.reshape(bound.shape)))
    return None if x is None else (x, order.reshape(bound.shape))


def outgoing(trial: Trial, ref: View) -> tuple[Operand | None, Array | None]:
    """What an output is: an operand, and which of its elements, flat, those of the output are, where they are not in order. Raises Mismatch
    for less than all tokens of some channels, unless these are tokens that `operand` takes."""
    before = len(trial.absorbed), len(trial.moved), len(trial.nodes)
    try:
        return plain(trial, ref), None
    except Mismatch:
        del trial.absorbed[before[0]:], trial.moved[before[1]:], trial.nodes[before[2]:]
        found = trial.where(ref)
        part = None if found is None or found[0].node is None else channels_of(found[1], found[0].shape)
        if part is None:
            raise
        natural = replace(ref, shape=(1, *part[1].shape), index=ref.positions().ravel()[part[1]][None])
        return plain(trial, natural), inverse(part[1])


def rescaled(trial: Trial, node: Node, scale: Array, shift: Array, **names: str) -> Node | None:
    """The node with ``scale`` times its result plus ``shift``, float64 [channels]; None when no weight of it can take them. Those of a sum are
    in the nodes of its operands, of which the trial gets new ones.

    What leaves float32 becomes infinite, and is refused with the weights.
    """
    changes: dict[str, Any]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        arrays = node.affine(scale, shift)
        if arrays is not None:
            changes = {key: trial.array(array) for key, array in arrays.items()}
        elif len(node.VALUES) == 2 and _takes(trial, node):
            changes, before = {}, len(trial.nodes)
            for key, rest in zip(node.VALUES, (shift, np.zeros_like(shift)), strict=True):
                value = getattr(node, key)
                part = rescaled(trial, trial.made[value], scale, rest, output=trial.fresh(f"{names.get('output', node.output)}.{key}"))
                if part is None:                                    # takes factors, but not one for each channel
                    del trial.nodes[before:]
                    return None
                trial.nodes.append(part)
                changes[key] = part.output
        else:
            return None
    return replace(node, **names, **changes)


def _takes(trial: Trial, node: Node) -> bool:
    """Whether weights in front of it can take factors in: its own, or of a sum those of all operands. A sum inside it has no other reader; a
    product that is put off is done for each reader anyway."""
    width = np.ones(1)
    if node.affine(width, width) is not None:
        return True
    kept = {ref.base for ref in trial.graph.outputs.values() if isinstance(ref, View)}
    operands = [trial.made.get(value) for value in node.inputs]
    return node.COMMUTES and len(operands) == 2 and all(
        operand is not None and _takes(trial, operand) and (operand.DEFERS or operand.output not in kept
                                                            and len(trial.graph.readers.get(operand.output, ())) <= 1)
        for operand in operands)
