"""The integer golden model: what the hardware must compute, bit for bit. The judge of every other implementation.

Reads a `qir.QGraph`, uses nothing but `numerics`, and works on a whole batch of images at once.
"""

from __future__ import annotations

import numpy as np

from .. import numerics as nx
from ..errors import InputError, ModelError
from ..qir import (QActivation, QAttention, QGraph, QHead, QLinear, QMoE, QNode, QNorm, QPatches, QResidualInit,
                   QResidualLinear, Weights)

CHUNK_ELEMENTS = 4_000_000      # largest intermediate array of one chunk of images, in elements
ACC_LIMIT = (1 << (nx.ACC_BITS - 1)) - 1


def run(graph: QGraph, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of the network: images float [B, C, H, W] (or tokens [B, T, K]) -> {ONNX output: int32 [B, n]}.

    Works through the batch in chunks that keep every intermediate below `CHUNK_ELEMENTS`. Raises InputError when the
    images do not fit the graph.
    """
    images = np.asarray(images)
    chunk = max(1, CHUNK_ELEMENTS // _largest(graph))
    heads = [node for node in graph.nodes if isinstance(node, QHead)]
    parts: dict[str, list[np.ndarray]] = {head.onnx_name: [] for head in heads}
    for start in range(0, max(len(images), 1), chunk):
        values = trace(graph, images[start:start + chunk])
        for head in heads:
            parts[head.onnx_name].append(values[head.output].astype(np.int32))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def trace(graph: QGraph, images: np.ndarray, *, detail: bool = False) -> dict[str, np.ndarray]:
    """Every value of the graph: {value name: int64 [B, T, C]}; a head's value is [B, n].

    With ``detail`` also the inner values of a node, named after its output: ``x.mean``, ``x.mult``, ``x.shift`` (norm),
    ``x.pre`` (pre-activation), ``x.scores``, ``x.row_max``, ``x.row_sum`` [B, H, T(, T)] (attention), ``x.logits``,
    ``x.experts``, ``x.weights`` [B, T, E or k] (router).
    """
    values: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        inner: dict[str, np.ndarray] = {}
        values[node.output] = _step(node, values, images, inner)
        if detail:
            values.update({f"{node.output}.{key}": value for key, value in inner.items()})
    return values


def _step(node: QNode, values: dict, images: np.ndarray, inner: dict) -> np.ndarray:
    match node:
        case QPatches():
            return quantize_input(node, images).astype(np.int64)
        case QResidualInit():
            return np.repeat(node.table.astype(np.int64)[None], len(images), axis=0)
        case QNorm():
            x = values[node.x]
            mean, mult, shift = nx.norm_coefficients(x.sum(-1), (x * x).sum(-1), node.dim, node.eps,
                                                     node.inv_mult, node.inv_shift, node.mult, node.shift)
            inner.update(mean=mean, mult=mult, shift=shift)
            return nx.normalize(x, mean[..., None], mult[..., None], shift[..., None])
        case QLinear():
            return _linear(values[node.x], node.w, node.act, inner)
        case QResidualLinear():
            out = values[node.residual].copy()
            update = _affine(values[node.x], node.w, 16)
            part = slice(node.first_token, node.first_token + update.shape[1])
            out[:, part] = nx.sat(out[:, part] + update, 16)
            return out
        case QAttention():
            return _attention(node, values[node.q], values[node.k], values[node.v], inner)
        case QMoE():
            return _moe(node, values[node.x], values[node.residual], inner)
        case QHead():
            start, stop = node.tokens
            acc = nx.matmul(values[node.x][:, start:stop], node.w.weight) + node.w.bias
            return acc.sum(1)
    raise ModelError(f"the integer model does not know {type(node).__name__}", where=node.name)


def _affine(x, w: Weights, bits: int):
    """requantize(x @ weight + bias), per output channel."""
    return nx.requantize(nx.matmul(x, w.weight) + w.bias, w.mult, w.shift, bits)


def _linear(x, w: Weights, act: QActivation | None, inner: dict):
    if act is None:
        return _affine(x, w, 8)
    pre = _affine(x, w, 16)
    inner["pre"] = pre
    return nx.requantize(nx.activation(pre, nx.delta_table(act.kind.value)), act.mult, act.shift, 8)


def _attention(node: QAttention, q, k, v, inner: dict):
    b, t, d = q.shape

    def heads(x):                                                           # [B, T, H*d] -> [B, H, T, d]
        return x.reshape(b, x.shape[1], node.num_heads, d // node.num_heads).transpose(0, 2, 1, 3)

    acc = nx.matmul(heads(q), heads(k).transpose(0, 1, 3, 2))
    scores = nx.requantize(acc, node.score_mult, node.score_shift, 16)      # [B, H, T, T]
    row_max = scores.max(-1)
    p = nx.exp2_p8(row_max[..., None] - scores)
    row_sum = p.sum(-1)
    mult, shift = nx.softmax_factor(row_sum, node.out_mult, node.out_shift)
    out = nx.requantize(nx.matmul(p, heads(v)), mult[..., None], shift[..., None], 8)
    inner.update(scores=scores, row_max=row_max, row_sum=row_sum)
    return out.transpose(0, 2, 1, 3).reshape(b, t, d)


def _moe(node: QMoE, x, residual, inner: dict):
    logits = _affine(x, node.gate, 16)
    experts, scores = nx.route(logits, node.top_k, node.renormalize)        # [B, T, k]
    out = residual.copy()
    for e in range(len(node.first)):                                        # expert by expert, in index order
        b, t, slot = np.nonzero(experts == e)                               # its tokens
        if len(b):
            y = _affine(_linear(x[b, t], node.first[e], node.act, {}), node.second[e], 16)
            out[b, t] = nx.sat(out[b, t] + nx.weigh(y, scores[b, t, slot][:, None]), 16)
    inner.update(logits=logits, experts=experts, weights=scores)
    return out


# ---------------------------------------------------------------- the host's part

def quantize_input(node: QPatches, images: np.ndarray) -> np.ndarray:
    """Images float [B, C, H, W] -> int8 patches [B, T, C*p*q]; tokens [B, T, K] -> int8 [B, T, K].

    ``clip(rint(x / scale), -127, 127)`` in float64; patches row-major, channels in the order (c, dy, dx). Raises
    InputError when the images are not real, finite numbers of the right rank.
    """
    images = np.asarray(images)
    rank = 3 if node.patch == (0, 0) else 4
    if images.ndim != rank or images.dtype.kind not in "fiu":
        raise InputError(f"input {node.input!r} has shape {images.shape} and dtype {images.dtype}",
                         hint=f"give an array of {rank} dimensions, images first, of floating-point numbers")
    if not np.isfinite(images).all():
        raise InputError(f"input {node.input!r} holds NaN or infinite values", hint="clean the data")
    x = np.clip(np.rint(images.astype(np.float64) / node.scale), -127, 127).astype(np.int8)
    if rank == 3:
        return x
    b, c, height, width = x.shape
    p, q = node.patch
    if height % p or width % q:
        raise InputError(f"images of {height}x{width} do not divide into {p}x{q} patches", where=f"input {node.input!r}")
    x = x.reshape(b, c, height // p, p, width // q, q).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(x.reshape(b, (height // p) * (width // q), c * p * q))


def input_clipped(graph: QGraph, images: np.ndarray) -> float:
    """Share of the input values beyond the calibrated range, which `quantize_input` clips."""
    (scale,) = (node.scale for node in graph.nodes if isinstance(node, QPatches))
    return float((np.abs(np.rint(np.asarray(images, np.float64) / scale)) > 127).mean())


def dequantize(graph: QGraph, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """int32 [B, n] of `run` -> {ONNX output: float32 [B, ...]}: times the channel's scale, over the number of tokens."""
    result = {}
    for node in graph.nodes:
        if isinstance(node, QHead):
            acc = outputs[node.onnx_name]
            real = acc.astype(np.float64) * node.w.scale / (node.tokens[1] - node.tokens[0])
            result[node.onnx_name] = real.astype(np.float32).reshape(len(acc), *node.shape[1:])
    return result


# ---------------------------------------------------------------- proofs

def check_accumulators(graph: QGraph) -> dict[str, float]:
    """Prove that no int32 accumulator can overflow, whatever the input; returns {node: worst case / limit}.

    A linear: sum |w| * 128 + |bias| per output channel (times the tokens a head adds up); scores: head_dim * 128 * 127;
    P @ V: T * 255 * 127. Raises ModelError at the first node that fails.
    """
    usage = {}
    for node in graph.nodes:
        bounds: list[tuple[str, int]] = []
        match node:
            case QLinear() | QResidualLinear():
                bounds = [("the linear map", _bound(node.w))]
            case QHead():
                bounds = [("the head", _bound(node.w) * (node.tokens[1] - node.tokens[0]))]
            case QMoE():
                bounds = [("the gate", _bound(node.gate))]
                bounds += [(f"expert {e}, layer {i + 1}", _bound(w)) for i, layer in enumerate((node.first, node.second))
                           for e, w in enumerate(layer)]
            case QAttention():
                (_, d), (keys, _) = graph.shapes[node.q], graph.shapes[node.k]
                bounds = [("the scores", d // node.num_heads * 128 * 127), ("P @ V", keys * 255 * 127)]
        for what, bound in bounds:
            if bound > ACC_LIMIT:
                raise ModelError(f"the accumulator of {what} can reach {bound}, an int32 holds {ACC_LIMIT}",
                                 where=f"{type(node).__name__} node {node.name!r}",
                                 hint="the layer is too wide or its bias too large for int32 accumulators")
        if bounds:
            usage[node.output] = max(bound for _, bound in bounds) / ACC_LIMIT
    return usage


def _bound(w: Weights) -> int:
    columns = np.abs(w.weight.astype(np.int64)).sum(0) * 128 + np.abs(w.bias.astype(np.int64))
    return int(columns.max())


def _largest(graph: QGraph) -> int:
    """Elements of the largest intermediate array of one image."""
    sizes = [int(np.prod(shape)) for shape in graph.shapes.values()]
    for node in graph.nodes:
        if isinstance(node, QAttention):
            sizes.append(node.num_heads * graph.shapes[node.q][0] * graph.shapes[node.k][0])
    return max(sizes)
