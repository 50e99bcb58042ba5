"""BERT as transformers writes it: ids, types and a mask of the tokens; sentence-transformers' mean over what the mask shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np
from onnx import TensorProto

from onnx_nets import Net

LEAST = float(np.finfo(np.float32).min)
Take = Callable[[str, tuple[int, ...]], np.ndarray]
"""(name of a parameter as transformers calls it, its shape) -> the parameter."""


@dataclass(frozen=True)
class Sizes:
    tokens: int = 12
    vocabulary: int = 40
    dim: int = 16
    heads: int = 2
    hidden: int = 32
    layers: int = 2
    positions: int = 20


def seeded(seed: int = 4) -> Take:
    """Random parameters."""
    rng = np.random.default_rng(seed)

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        offset, gain = (1.0, 0.1) if "LayerNorm.weight" in name else (0.0, 0.1 if len(shape) == 1 else shape[-1] ** -0.5)
        return offset + gain * rng.standard_normal(shape)
    return take


def bert(sizes: Sizes = Sizes(), take: Take | None = None, *, end: str = "mean", spelling: str = "transformers",
         kind: int = TensorProto.INT64) -> Net:
    """end: what leaves: "mean" over what is shown, "first" token, "all". spelling: of the mask; kind: its type."""
    net, s, take = Net(17), sizes, take or seeded()
    count, dim = s.tokens, s.dim

    def linear(x: str, name: str, k: int, n: int) -> str:
        product = net.op("MatMul", x, net.const(take(f"{name}.weight", (n, k)).T))
        return net.op("Add", net.const(take(f"{name}.bias", (n,))), product)

    def norm(x: str, name: str) -> str:
        gamma, beta = (net.const(take(f"{name}.{part}", (dim,))) for part in ("weight", "bias"))
        return net.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-12)

    def heads(x: str) -> str:
        return net.op("Transpose", net.op("Reshape", x, net.ints(0, 0, s.heads, dim // s.heads)), perm=[0, 2, 1, 3])
    ids, mask = net.input("input_ids", [1, count], TensorProto.INT64), net.input("attention_mask", [1, count], kind)
    types = net.input("token_type_ids", [1, count], TensorProto.INT64)
    tables = [net.const(take(f"embeddings.{name}_embeddings.weight", (rows, dim)))
              for name, rows in (("word", s.vocabulary), ("token_type", 2), ("position", s.positions))]
    places = net.const(np.arange(count)[None], np.int64)
    t = net.op("Add", net.op("Gather", tables[0], ids), net.op("Gather", tables[1], types))
    t = norm(net.op("Add", t, net.op("Gather", tables[2], places)), "embeddings.LayerNorm")
    change = MASKS[spelling](net, mask)
    for layer in range(s.layers):
        at = f"encoder.layer.{layer}"
        q, k, v = (heads(linear(t, f"{at}.attention.self.{part}", dim, dim)) for part in ("query", "key", "value"))
        scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = change(net.op("Div", scores, net.const(math.sqrt(dim // s.heads))))
        y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, dim))
        t = norm(net.op("Add", linear(y, f"{at}.attention.output.dense", dim, dim), t), f"{at}.attention.output.LayerNorm")
        h = net.act(linear(t, f"{at}.intermediate.dense", dim, s.hidden), "erf")
        t = norm(net.op("Add", linear(h, f"{at}.output.dense", s.hidden, dim), t), f"{at}.output.LayerNorm")
    if end == "first":
        net.op("Gather", t, net.const(0, np.int64), axis=1)
    elif end == "mean":
        _mean(net, t, mask, dim)
    return net


def _mean(net: Net, t: str, mask: str, dim: int) -> None:
    """``(t * mask).sum(1) / mask.sum(1).clamp(1e-9)`` with the mask spread over the channels."""
    spread = net.op("Expand", net.op("Unsqueeze", mask, net.ints(-1)), net.op("Shape", t))
    spread = net.op("Cast", spread, to=TensorProto.FLOAT)
    shown = net.op("ReduceSum", net.op("Mul", t, spread), net.ints(1), keepdims=0)
    count = net.op("Clip", net.op("ReduceSum", spread, net.ints(1), keepdims=0), net.const(1e-9))
    net.op("Div", shown, count)


def _transformers(net: Net, mask: str) -> Callable[[str], str]:
    """scores + (1 - mask) * least"""
    wide = net.op("Unsqueeze", net.op("Unsqueeze", mask, net.ints(1)), net.ints(2))
    hidden = net.op("Mul", net.op("Sub", net.const(1.0), net.op("Cast", wide, to=TensorProto.FLOAT)), net.const(LEAST))
    return lambda scores: net.op("Add", scores, hidden)


def _filled(net: Net, mask: str) -> Callable[[str], str]:
    """Filled with the least number where nothing is shown, as newer versions write it: the mask spread over the queries."""
    wide = net.op("Unsqueeze", net.op("Unsqueeze", mask, net.ints(1)), net.ints(2))
    shown = net.op("Cast", wide, to=TensorProto.BOOL)
    shown = net.op("Expand", shown, net.op("Concat", net.ints(1), net.ints(1), net.op("Shape", mask, start=1, end=2), net.op("Shape", mask, start=1, end=2),
                                           axis=0))
    added = net.op("Where", shown, net.const(0.0), net.const(LEAST))
    return lambda scores: net.op("Add", scores, added)


def _key_padding(net: Net, mask: str) -> Callable[[str], str]:
    """src_key_padding_mask of torch: true where a key is hidden."""
    wide = net.op("Unsqueeze", net.op("Unsqueeze", mask, net.ints(1)), net.ints(2))
    added = net.op("Where", net.op("Cast", wide, to=TensorProto.BOOL), net.const(-np.inf), net.const(0.0))
    return lambda scores: net.op("Add", scores, added)


def _holes(net: Net, mask: str) -> Callable[[str], str]:
    """No mask of keys at all: a number for each of them."""
    wide = net.op("Unsqueeze", net.op("Unsqueeze", net.op("Cast", mask, to=TensorProto.FLOAT), net.ints(1)), net.ints(2))
    return lambda scores: net.op("Add", scores, net.op("Mul", wide, net.const(0.5)))


MASKS = {"transformers": _transformers, "filled": _filled, "key padding": _key_padding, "a number": _holes}
