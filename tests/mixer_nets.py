"""Networks that mix tokens by a constant matrix, in the spellings of exporters: timm's mixer, Conv1d over tokens, einsum, a matrix from the left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_nets import CLASSES, DIM, TOKENS, Net

HIDDEN = 7                          # of the tokens
Mixing = Callable[[Net, str, np.ndarray, np.ndarray], str]


def transposed(net: Net, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    """[1, T, C] by a Linear between two transposes, as torch exports nn.Linear: MatMul and Add."""
    y = net.op("Transpose", x, perm=[0, 2, 1])
    y = net.op("Add", net.const(bias), net.op("MatMul", y, net.const(weight.T)))
    return net.op("Transpose", y, perm=[0, 2, 1])


def gemm(net: Net, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    flat = net.op("Transpose", net.op("Reshape", x, net.ints(weight.shape[1], -1)), perm=[1, 0])
    y = net.op("Gemm", flat, net.const(weight), net.const(bias), transB=1)
    return net.op("Reshape", net.op("Transpose", y, perm=[1, 0]), net.ints(1, len(weight), -1))


def conv1d(net: Net, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    """Tokens are the channels, as in mlp-mixer-pytorch."""
    return net.op("Conv", x, net.const(weight[:, :, None]), net.const(bias), kernel_shape=[1])


def einsum(net: Net, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    return net.op("Add", net.op("Einsum", net.const(weight), x, equation="ts,bsc->btc"), net.const(bias[:, None]))


def from_the_left(net: Net, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    return net.op("Sub", net.op("MatMul", net.const(weight), x), net.const(-bias[None, :, None]))


MIXINGS: dict[str, Mixing] = {"transposed": transposed, "gemm": gemm, "conv1d": conv1d, "einsum": einsum, "from the left": from_the_left}


def matrix(net: Net, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    return (net.rng.normal(0, columns ** -0.5, (rows, columns)).astype(np.float32), net.rng.normal(0, 0.3, rows).astype(np.float32))


def mixer(mixing: Mixing = transposed, *, act: str = "Gelu", bias: bool = True, depth: int = 2, tokens: int = TOKENS, dim: int = DIM,
          hidden: int = HIDDEN) -> tuple[Net, dict[str, str]]:
    """A Mixer on [1, TOKENS, DIM]: norms, tokens mixed by two matrices, an MLP on channels, each added; a norm, the mean, a Linear."""
    net = Net()
    x = net.linear(net.input("x", [1, tokens, dim]), dim, dim)
    for _ in range(depth):
        y = norm(net, x, dim)
        y = net.act(mixing(net, y, *mats(net, hidden, tokens, bias)), act)
        x = net.op("Add", x, mixing(net, y, *mats(net, tokens, hidden, bias)))
        y = net.act(net.linear(norm(net, x, dim), dim, 2 * dim), act)
        x = net.op("Add", net.linear(y, 2 * dim, dim), x)
    y = net.op("ReduceMean", norm(net, x, dim), net.ints(1), keepdims=0)
    return net, {"y": net.linear(y, dim, CLASSES)}


def mats(net: Net, rows: int, columns: int, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    weight, vector = matrix(net, rows, columns)
    return weight, vector if bias else np.zeros_like(vector)


def norm(net: Net, x: str, dim: int) -> str:
    return net.op("LayerNormalization", x, net.random(dim, offset=1.0), net.random(dim), epsilon=1e-6)


def mlps(mixing: Mixing = transposed, *, tokens: int = TOKENS, dim: int = DIM) -> tuple[Net, dict[str, str]]:
    """Tokens mixed without a norm in front: a token stream that starts with mixed tokens, mixed again, all tokens leave."""
    net = Net()
    x = net.act(net.linear(net.input("x", [1, tokens, dim]), dim, dim), "Relu")
    x = net.op("Add", mixing(net, x, *matrix(net, tokens, tokens)), net.linear(x, dim, dim))
    y = mixing(net, net.act(net.linear(norm(net, x, dim), dim, dim), "Gelu"), *matrix(net, HIDDEN, tokens))
    return net, {"y": net.linear(y, dim, CLASSES)}
