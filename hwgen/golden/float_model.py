"""The float golden model: what a network of `ir` nodes computes, in float32 numpy, a whole batch of images at once."""

from __future__ import annotations

import math

import numpy as np

from .. import ir
from ..errors import InputError, ModelError
from ..ir import Act

CHUNK_ELEMENTS = 8_000_000      # float values of a trace that `run` keeps at a time


def run(graph: ir.Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of the network: {input name: float [B, ...]} -> {ONNX output: float32 [B, ...]}.

    The dimensions after the batch are those of ``graph.output_shapes`` where it names the output. Works through the batch
    in chunks. Raises InputError when an input is missing or does not fit the graph.
    """
    shapes = graph.shapes()
    chunk = max(1, CHUNK_ELEMENTS // sum(math.prod(shape) for shape in shapes.values()))
    count = max([len(inputs[name]) for name in graph.inputs if name in inputs], default=0)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in graph.outputs}
    for start in range(0, max(count, 1), chunk):
        values = trace(graph, {name: array[start:start + chunk] for name, array in inputs.items()})
        for name, value in graph.outputs.items():
            tail = graph.output_shapes.get(name, (0, *shapes[value]))[1:]
            parts[name].append(values[value].reshape(len(values[value]), *tail))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


Inner = dict[str, list[tuple[str, np.ndarray]]]


def trace(graph: ir.Graph, inputs: dict[str, np.ndarray], inner: Inner | None = None) -> dict[str, np.ndarray]:
    """Every value of the graph, the inputs included: {value name: float32 [B, *shape]}. What overflows is infinite or NaN.

    inner: gets, under the output of each mixture of experts, what it computes on the way: ("logits", [rows, experts]), and for each
    expert ("pre" | "hidden" | "out", [its rows, channels]).
    """
    values: dict[str, np.ndarray] = {}
    for name, shape in graph.inputs.items():
        if name not in inputs:
            raise InputError(f"input {name!r} is missing; given are {sorted(inputs)}", where=f"graph {graph.name!r}")
        values[name] = np.asarray(inputs[name], np.float32)
        if values[name].shape[1:] != tuple(shape):
            raise InputError(f"input {name!r} has shape {values[name].shape}, expected [images, {', '.join(map(str, shape))}]",
                             where=f"graph {graph.name!r}", hint="give the images along the first axis")
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            kept = None if inner is None else inner.setdefault(node.output, [])
            values[node.output] = _step(node, [values[v] for v in node.inputs], kept).astype(np.float32, copy=False)
    return values


def _step(node: ir.Node, operands: list[np.ndarray], inner: list | None = None) -> np.ndarray:
    x = operands[0]
    match node:
        case ir.PatchEmbed():
            return _patch_embed(node, x)
        case ir.Linear():
            return x @ node.weight + node.bias
        case ir.LayerNorm():
            centered = x - x.mean(-1, keepdims=True)
            return centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + node.eps) * node.gamma + node.beta
        case ir.Activation():
            return activate(x, node.kind)
        case ir.Attention():
            return _attention(node, *operands)
        case ir.MoE():
            return _moe(node, x, inner)
        case ir.Add():
            return x + operands[1]
        case ir.AddConst():
            return x + node.value
        case ir.ConcatTokens():
            return np.concatenate([np.broadcast_to(node.tokens, (len(x), *node.tokens.shape)), x], axis=1)
        case ir.Select():
            return x[:, node.index]
        case ir.Mean():
            return x[:, node.start:].mean(1)
    raise ModelError(f"the float model does not know {type(node).__name__}", where=node.name)


def _patch_embed(node: ir.PatchEmbed, x: np.ndarray) -> np.ndarray:
    d, c, p, q = node.weight.shape
    batch, _, height, width = x.shape
    patches = x.reshape(batch, c, height // p, p, width // q, q).transpose(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, -1, c * p * q) @ node.weight.reshape(d, -1).T + node.bias


def _heads(node: ir.Attention, a: np.ndarray) -> np.ndarray:
    """[B, T, heads * d] -> [B, heads, T, d]"""
    return a.reshape(*a.shape[:2], node.num_heads, -1).transpose(0, 2, 1, 3)


def attention_scores(node: ir.Attention, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """What the softmax reads: float32 [B, heads, T, keys]."""
    return _heads(node, q) @ _heads(node, k).swapaxes(-1, -2) * np.float32(node.scale)


def _attention(node: ir.Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    out = softmax(attention_scores(node, q, k)) @ _heads(node, v)
    return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)


def _moe(node: ir.MoE, x: np.ndarray, inner: list | None) -> np.ndarray:
    rows = x.reshape(-1, x.shape[-1])
    if inner is not None:
        inner.append(("logits", rows @ node.gate + node.gate_bias))
    experts, scores = route(node, rows)
    y = np.zeros_like(rows)
    for e in range(node.num_experts):
        mine, place = np.nonzero(experts == e)       # rows routed to e, and the place (0..k-1) it has there
        if len(mine):
            pre = rows[mine] @ node.w1[e] + node.b1[e]
            hidden = activate(pre, node.act)
            out = hidden @ node.w2[e] + node.b2[e]
            if inner is not None:
                inner += [("pre", pre), ("hidden", hidden), ("out", out)]
            y[mine] += scores[mine, place, None] * out
    return y.reshape(x.shape)


def route(node: ir.MoE, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chosen experts of each row, best first, lowest index first among equals; int64 and float32 scores, both [rows, k]."""
    scores = softmax(rows @ node.gate + node.gate_bias)
    experts = np.argsort(-scores, axis=-1, kind="stable")[:, :node.top_k]
    chosen = np.take_along_axis(scores, experts, axis=-1)
    return experts, chosen / chosen.sum(-1, keepdims=True) if node.renormalize else chosen


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last dimension."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def activate(x: np.ndarray, kind: Act) -> np.ndarray:
    """The activation function, element by element."""
    match kind:
        case Act.NONE:
            return x
        case Act.RELU:
            return np.maximum(x, 0)
        case Act.SILU:
            return x * 0.5 * (1 + np.tanh(0.5 * x))              # x * sigmoid(x), without overflow
        case Act.GELU:
            return x * 0.5 * (1 + erf(x * math.sqrt(0.5)))
        case Act.GELU_TANH:
            return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    raise ModelError(f"the float model does not know the activation {kind}")


def erf(x: np.ndarray) -> np.ndarray:
    """Error function, float64, max abs error 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26)."""
    magnitude = np.abs(x.astype(np.float64))
    t = 1 / (1 + 0.3275911 * magnitude)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - poly * np.exp(-magnitude * magnitude))
