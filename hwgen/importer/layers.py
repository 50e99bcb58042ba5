"""Rules for the simple layers: Linear, patch embedding, LayerNorm, residual and position Add, class token, pooling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .. import ir
from .opgraph import Const, Op, View
from .trial import Match, Mismatch, Trial, close, in_order, inverse, split_operands

# ---------------------------------------------------------------- Linear and what folds into it


def linear(op: Op, trial: Trial) -> Match | None:
    """MatMul or Gemm with a constant weight [K, N] -> Linear; a factor on its input goes into the weight."""
    if op.kind == "MatMul":
        weight, bias = op.constant(1), None
        if op.constant(0) is not None:
            raise Mismatch(f"multiplies a constant {list(op.constant(0).shape)} from the left, which mixes tokens; only x @ W is "
                           "supported", op.name)
        if weight is None or weight.ndim > 2:
            return None                                             # attention, or a stack of experts
    else:
        weight, bias = op.constant(1), op.constant(2)
        if weight is None or op.attrs.get("transA", 0) or (op.operand(2) is not None and bias is None):
            raise Mismatch("has a transposed input, or a weight or bias that is no constant", op.name)
        weight = (weight.T if op.attrs.get("transB", 0) else weight) * np.float32(op.attrs.get("alpha", 1.0))
    if weight.ndim != 2:
        raise Mismatch(f"has a weight of shape {list(weight.shape)}, not [K, N]", op.name)
    x = trial.operand(op.operand(0))
    if x is None:
        return None
    n = weight.shape[1]
    bias = np.zeros(n) if bias is None else _row(op, "bias", bias, n) * np.float32(op.attrs.get("beta", 1.0))
    node = ir.Linear(op.name, op.outputs[0], x.value, trial.array(weight * np.float32(x.factor)), trial.array(bias))
    return Match((node,), in_order(*x.shape[:-1], n))


def _row(op: Op, what: str, array: np.ndarray, n: int) -> np.ndarray:
    """A constant that broadcasts along the tokens, as [n]; Mismatch for one that differs between them."""
    if array.size != 1 and (array.shape[-1] != n or array.size != n):
        raise Mismatch(f"has a {what} of shape {list(array.shape)}, not [{n}]", op.name)
    return np.broadcast_to(array.ravel(), (n,))


def scale_and_shift(op: Op, trial: Trial) -> Match | None:
    """Add, Mul or Div by one constant a channel behind a Linear (bias, LayerScale) or a LayerNorm (gamma, beta)."""
    found = split_operands(op)
    if found is None or (op.kind in ("Div", "Sub") and op.constant(1) is None):
        return None
    view, const = found
    bound, producer = trial.bound.get(view.base), trial.graph.producers.get(view.base)
    if producer is None or bound is None or not isinstance(bound.node, (ir.Linear, ir.LayerNorm)):
        return None
    vector = trial.per_channel(const, view)
    if vector is None:
        return None
    weight, bias = ("weight", "bias") if isinstance(bound.node, ir.Linear) else ("gamma", "beta")
    old, factor = bound.node, np.float32(bound.factor * view.scale)
    scale, shift = getattr(old, weight) * factor, getattr(old, bias) * factor
    with np.errstate(divide="ignore", invalid="ignore"):             # a division by zero is refused with its weights
        match op.kind:
            case "Add":
                shift = shift + vector
            case "Sub":
                shift = shift - vector
            case "Mul":
                scale, shift = scale * vector, shift * vector
            case "Div":
                scale, shift = scale / vector, shift / vector
    trial.absorb(producer, view)
    arrays = {weight: trial.array(scale), bias: trial.array(shift)}
    _, positions = trial.where(view)                                # of the operand, and so of the result, in the ir value
    return Match((replace(old, name=op.name, output=op.outputs[0], **arrays),), inverse(positions).reshape(bound.shape))


def patch_embed(op: Op, trial: Trial) -> Match | None:
    """Conv with stride = kernel -> PatchEmbed; its tokens stand in the ONNX value channel by channel."""
    x, weight, bias = op.operand(0), op.constant(1), op.constant(2)
    if weight is None or weight.ndim != 4:
        raise Mismatch("has a weight that is no constant [D, C, h, w]", op.name)
    kernel = list(weight.shape[2:])
    found = {"strides": op.attrs.get("strides", [1, 1]), "pads": op.attrs.get("pads", [0] * 4), "group": op.attrs.get("group", 1),
             "dilations": op.attrs.get("dilations", [1, 1])}
    wanted = {"strides": kernel, "pads": [0] * 4, "group": 1, "dilations": [1, 1]}
    if found != wanted or op.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        wrong = ", ".join(f"{key} {found[key]}, not {wanted[key]}" for key in wanted if found[key] != wanted[key])
        raise Mismatch(f"is no patch embedding, a Conv with stride = kernel {kernel}: it has "
                       f"{wrong or op.attrs['auto_pad']}", op.name)
    image = trial.operand(x)
    if image is None:
        return None
    if len(image.shape) != 3 or image.shape[1] % kernel[0] or image.shape[2] % kernel[1]:
        raise Mismatch(f"has an image {list(image.shape)} that does not divide into patches {kernel}", op.name)
    dim, tokens = weight.shape[0], (image.shape[1] // kernel[0]) * (image.shape[2] // kernel[1])
    bias = np.zeros(dim, np.float32) if bias is None else bias
    node = ir.PatchEmbed(op.name, op.outputs[0], image.value, trial.array(weight * np.float32(image.factor)), trial.array(bias))
    return Match((node,), in_order(dim, tokens).T)


# ---------------------------------------------------------------- LayerNorm

def layer_norm(op: Op, trial: Trial) -> Match | None:
    """The LayerNormalization operator over the last dimension."""
    view, gamma, beta = op.operand(0), op.constant(1), op.constant(2)
    axis = op.attrs.get("axis", -1)
    if not isinstance(view, View) or axis not in (-1, len(view.shape) - 1):
        raise Mismatch(f"normalises from axis {axis} on; only the last dimension is supported", op.name)
    if gamma is None or (op.operand(2) is not None and beta is None):
        raise Mismatch("has a scale or bias that is no constant", op.name)
    dim = view.shape[-1]
    return _norm(op, trial, view, _row(op, "scale", gamma, dim), np.zeros(dim) if beta is None else _row(op, "bias", beta, dim),
                 op.attrs.get("epsilon", 1e-5))


def _norm(op: Op, trial: Trial, view: View, gamma, beta, eps: float) -> Match | None:
    x = trial.operand(view)
    if x is None:
        return None
    if x.factor <= 0:
        raise Mismatch(f"normalises its input times {x.factor:.6g}", op.name)
    node = ir.LayerNorm(op.name, op.outputs[0], x.value, trial.array(gamma), trial.array(beta), float(eps) / x.factor ** 2)
    return Match((node,), in_order(*x.shape))


def decomposed_layer_norm(op: Op, trial: Trial) -> Match | None:
    """``(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + eps)`` -> LayerNorm; gamma and beta follow as Mul and Add."""
    centered, root = trial.producer(op.operand(0), "Sub"), trial.producer(op.operand(1), "Sqrt")
    if centered is None or root is None or not isinstance(centered.operand(0), View):
        return None
    view, mean = centered.operand(0), trial.producer(centered.operand(1), "ReduceMean")
    total = trial.producer(root.operand(0), "Add")
    found = split_operands(total) if total is not None else None
    square = trial.producer(found[0], "ReduceMean") if found is not None else None
    power = trial.producer(square.operand(0), "Pow", "Mul") if square is not None else None
    if mean is None or power is None:
        return None
    same = (isinstance(mean.operand(0), View) and mean.operand(0).key() == view.key()
            and trial.producer(power.operand(0)) is centered
            and (power.constant(1).size == 1 and float(power.constant(1).ravel()[0]) == 2.0 if power.constant(1) is not None else
                 power.kind == "Mul" and trial.producer(power.operand(1)) is centered))
    if not same:
        return None
    for reduce in (mean, square):
        if reduced_axes(reduce) != [len(reduce.operand(0).shape) - 1] or not reduce.attrs.get("keepdims", 1):
            raise Mismatch(f"looks like a LayerNorm, but {reduce.name!r} averages over axes {reduced_axes(reduce)}, not the last",
                           op.name)
    scales = [ref.scale for ref in (op.operand(0), op.operand(1), centered.operand(1), mean.operand(0), root.operand(0), found[0],
                                    square.operand(0), power.operand(0), view)]
    if found[1].array.size != 1 or any(scale != 1.0 for scale in scales):
        raise Mismatch("looks like a LayerNorm, but with factors in between", op.name)
    for part in (centered, root, mean, total, square, power):
        trial.absorb(part)
    dim = view.shape[-1]
    return _norm(op, trial, view, np.ones(dim), np.zeros(dim), float(found[1].array.ravel()[0]))


def reduced_axes(op: Op) -> list[int]:
    """Axes a Reduce operator works on, not negative, sorted; attribute or constant operand; all when none are given."""
    rank = len(op.operand(0).shape)
    given = op.attrs.get("axes") if op.constant(1) is None else op.constant(1).ravel().tolist()
    if not given:
        given = () if op.attrs.get("noop_with_empty_axes", 0) else range(rank)
    return sorted(axis % rank for axis in given)


# ---------------------------------------------------------------- sums, tokens

def add(op: Op, trial: Trial) -> Match | None:
    """Residual Add of two values; Add of a constant (position embedding)."""
    found = split_operands(op)
    if found is not None:
        return _add_const(op, trial, *found)
    refs = op.inputs
    places = [trial.where(ref) for ref in refs]
    if any(place is None for place in places):
        return None
    if any(ref.shape != op.shapes[0] for ref in refs):
        raise Mismatch(f"adds values of {list(refs[0].shape)} and {list(refs[1].shape)}: broadcasting is only supported for constants",
                       op.name)
    (x, px), (y, py) = places
    order = inverse(px)
    if order is not None and order.size == math.prod(x.shape) and x.shape == y.shape and np.array_equal(px, py) \
            and all(close(bound.factor * ref.scale, 1.0) for bound, ref in zip((x, y), refs)):
        return Match((ir.Add(op.name, op.outputs[0], x.value, y.value),), order.reshape(x.shape))
    a, b = (trial.plain(ref) for ref in refs)
    return Match((ir.Add(op.name, op.outputs[0], a.value, b.value),), in_order(*a.shape))


def _add_const(op: Op, trial: Trial, view: View, const: Const) -> Match | None:
    found = trial.where(view)
    if found is None:
        return None
    bound, positions = found
    order = inverse(positions)
    if order is None or order.size != math.prod(bound.shape) or op.shapes[0] != view.shape:
        raise Mismatch(f"adds a constant {list(const.shape)} to a part of {bound.value!r} {list(bound.shape)}", op.name)
    if not close(bound.factor * view.scale, 1.0):
        raise Mismatch(f"adds a constant to {bound.value!r} times {bound.factor * view.scale:.6g}", op.name)
    value = np.broadcast_to(const.array, view.shape).ravel()[order].reshape(bound.shape)
    return Match((ir.AddConst(op.name, op.outputs[0], bound.value, trial.array(value)),), order.reshape(bound.shape))


def concat_tokens(op: Op, trial: Trial) -> Match | None:
    """Concat of constant tokens and the sequence along the token axis -> ConcatTokens."""
    views = [ref for ref in op.inputs if isinstance(ref, View)]
    if len(views) != 1:
        raise Mismatch(f"joins {len(views)} computed values; only constant tokens in front of a sequence are supported", op.name)
    x = trial.plain(views[0])
    if x is None:
        return None
    rank, axis, dim = len(op.shapes[0]), op.attrs["axis"] % len(op.shapes[0]), x.shape[-1]
    if rank < 2 or axis == rank - 1 or len(x.shape) != 2:
        raise Mismatch(f"joins along axis {axis} of {list(op.shapes[0])}, which is not the token axis", op.name)
    if op.inputs[-1] is not views[0]:
        raise Mismatch("puts constant tokens behind the sequence; only tokens in front of it are supported", op.name)
    if groups := [size for size in op.shapes[0][:axis] if size != 1]:
        raise Mismatch(f"puts constant tokens in front of each of {math.prod(groups)} groups of tokens; only tokens in front of the whole "
                       "sequence are supported", op.name)
    tokens = np.concatenate([ref.array.reshape(-1, dim) for ref in op.inputs[:-1]])
    node = ir.ConcatTokens(op.name, op.outputs[0], x.value, trial.array(tokens))
    return Match((node,), in_order(len(tokens) + x.shape[0], dim))


def mean(op: Op, trial: Trial) -> Match | None:
    """ReduceMean over the tokens start.. -> Mean."""
    view, axes = op.operand(0), reduced_axes(op)
    found = trial.where(view)
    if found is None or axes == [len(view.shape) - 1]:
        return None                                                  # over channels: part of a LayerNorm
    bound, positions = found
    if not positions.size:
        raise Mismatch(f"averages {list(view.shape)}, which holds nothing", op.name)
    kept = [axis for axis in range(len(view.shape)) if axis not in axes]
    averaged = positions.transpose(*axes, *kept).reshape(math.prod(view.shape[axis] for axis in axes), -1)     # [averaged, results]
    tokens, channels = averaged // bound.shape[-1], averaged % bound.shape[-1]
    last = bound.shape[0] - 1
    whole = len(bound.shape) == 2 and averaged.shape[1] == bound.shape[1] and (channels == channels[0]).all() \
        and (np.sort(tokens, 0) == np.arange(last + 1 - len(tokens), last + 1)[:, None]).all()
    place = inverse(channels[0]) if whole else None
    if place is None:
        raise Mismatch(f"averages axes {axes} of {list(view.shape)}, not the tokens of a sequence up to the last", op.name)
    return Match((ir.Mean(op.name, op.outputs[0], bound.value, last + 1 - len(tokens)),), place, factor=bound.factor * view.scale)
