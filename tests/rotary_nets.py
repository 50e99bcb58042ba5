"""Rotary position embeddings in the spellings of exporters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from norm_nets import rms
from onnx_nets import Net

TOKENS, DIM, HEADS = 7, 32, 4
HEAD = DIM // HEADS


def angles(dim: int, tokens: int = TOKENS) -> np.ndarray:
    """[tokens, dim / 2]"""
    return np.outer(np.arange(tokens), 100.0 ** (-np.arange(0, dim, 2) / dim))


def two_dimensions(dim: int, tokens: int = TOKENS) -> np.ndarray:
    """Rows for the first half of the pairs, columns for the rest, of a grid three wide; the first token is turned by nothing."""
    place = np.maximum(np.arange(tokens) - 1, 0)
    return np.concatenate([np.outer(place // 3, 10.0 ** -np.arange(dim // 4)), np.outer(place % 3, 10.0 ** -np.arange(dim // 4))], 1)


def half(net: Net, x: str, given: np.ndarray, dim: int) -> str:
    """x cos + rotate_half(x) sin (GPT-NeoX, Llama)"""
    cos, sin = (net.const(np.concatenate([function(given)] * 2, -1)[None, None]) for function in (np.cos, np.sin))
    first = net.op("Slice", x, net.ints(0), net.ints(dim // 2), net.ints(3))
    second = net.op("Slice", x, net.ints(dim // 2), net.ints(dim), net.ints(3))
    turned = net.op("Concat", net.op("Neg", second), first, axis=-1)
    return net.op("Add", net.op("Mul", x, cos), net.op("Mul", turned, sin))


def split_half(net: Net, x: str, given: np.ndarray, dim: int) -> str:
    """(a cos - b sin, b cos + a sin), as the function of RotaryEmbedding has it"""
    cos, sin = net.const(np.cos(given)), net.const(np.sin(given))
    a, b = net.op("Split", x, net.ints(dim // 2, dim // 2), outputs=2, axis=-1)
    return net.op("Concat", net.op("Sub", net.op("Mul", a, cos), net.op("Mul", b, sin)),
                  net.op("Add", net.op("Mul", b, cos), net.op("Mul", a, sin)), axis=-1)


def interleaved(net: Net, x: str, given: np.ndarray, dim: int) -> str:
    """x cos + rot(x) sin with pairs of neighbours (EVA-02, GPT-J)"""
    cos, sin = (net.const(np.repeat(function(given), 2, -1)) for function in (np.cos, np.sin))
    even, odd = (net.op("Slice", x, net.ints(place), net.ints(dim), net.ints(3), net.ints(2)) for place in (0, 1))
    pairs = net.op("Concat", *(net.op("Unsqueeze", part, net.ints(4)) for part in (net.op("Neg", odd), even)), axis=-1)
    turned = net.op("Reshape", pairs, net.ints(1, HEADS, TOKENS, dim))
    return net.op("Add", net.op("Mul", x, cos), net.op("Mul", turned, sin))


def stacked(net: Net, x: str, given: np.ndarray, dim: int) -> str:
    """The parts of complex numbers, side by side"""
    cos, sin = net.const(np.cos(given)), net.const(np.sin(given))
    pairs = net.op("Reshape", x, net.ints(1, HEADS, TOKENS, dim // 2, 2))
    a, b = (net.op("Gather", pairs, net.const(place, np.int64), axis=4) for place in (0, 1))
    real, imaginary = net.op("Sub", net.op("Mul", a, cos), net.op("Mul", b, sin)), net.op("Add", net.op("Mul", a, sin), net.op("Mul", b, cos))
    both = net.op("Concat", net.op("Unsqueeze", real, net.ints(4)), net.op("Unsqueeze", imaginary, net.ints(4)), axis=-1)
    return net.op("Reshape", both, net.ints(1, HEADS, TOKENS, dim))


def of_onnxruntime(net: Net, x: str, given: np.ndarray, dim: int, neighbours: bool = False) -> str:
    """The operator RotaryEmbedding of onnxruntime, of heads"""
    places = net.const(np.arange(len(given))[None], np.int64)
    return net.op("RotaryEmbedding", x, places, net.const(np.cos(given)), net.const(np.sin(given)), domain="com.microsoft", interleaved=int(neighbours))


Turn = Callable[[Net, str, np.ndarray, int], str]
TURNS: dict[str, Turn] = {"rotate half (GPT-NeoX, Llama)": half, "two halves (RotaryEmbedding)": split_half,
                          "interleaved (EVA-02, GPT-J)": interleaved, "parts of complex numbers": stacked, "RotaryEmbedding of onnxruntime": of_onnxruntime}


def attention(turn: Turn, given: Callable[[int, int], np.ndarray] = angles, part: int = HEAD, scale: float = 1.0, head: int = HEAD,
              normed: bool = False) -> Net:
    """Attention whose q and k are turned, the first ``part`` channels of each head. scale: of q before it; normed: an RMSNorm of each head, too."""
    net = Net()
    x, width = net.input("x", [1, TOKENS, DIM]), HEADS * head

    def heads(y: str) -> str:
        return net.op("Transpose", net.op("Reshape", y, net.ints(1, -1, HEADS, head)), perm=[0, 2, 1, 3])

    def turned(y: str) -> str:
        y = rms(net, y, head, "pow") if normed else y
        if part == head:
            return turn(net, y, given(part, TOKENS), part)
        first = net.op("Slice", y, net.ints(0), net.ints(part), net.ints(3))
        rest = net.op("Slice", y, net.ints(part), net.ints(head), net.ints(3))
        return net.op("Concat", turn(net, first, given(part, TOKENS), part), rest, axis=-1)

    q, k, v = (heads(net.linear(x, DIM, width)) for _ in range(3))
    q = net.op("Mul", q, net.const(scale)) if scale != 1 else q
    scores = net.op("Mul", net.op("MatMul", turned(q), net.op("Transpose", turned(k), perm=[0, 1, 3, 2])), net.const(head ** -0.5))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v, name="attention")
    net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, -1, width))
    return net
