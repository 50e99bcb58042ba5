"""Gated MLPs, act(x W) * (x V), in the spellings of exporters: a block of a pre-norm encoder of `onnx_nets`."""

from __future__ import annotations

from collections.abc import Callable

from onnx_nets import DIM, HIDDEN, TOKENS, Net

Halves = Callable[[Net, str], tuple[str, str]]


def _linear(net: Net, x: str, n: int, bias: bool) -> str:
    return net.linear(x, DIM, n) if bias else net.op("MatMul", x, net.random(DIM, n))


def two(net: Net, x: str, bias: bool) -> tuple[str, str]:
    return _linear(net, x, HIDDEN, bias), _linear(net, x, HIDDEN, bias)


def by_split(net: Net, x: str, bias: bool) -> tuple[str, str]:
    whole = _linear(net, x, 2 * HIDDEN, bias)
    if net.opset < 13:
        return tuple(net.op("Split", whole, outputs=2, axis=-1, split=[HIDDEN, HIDDEN]))
    return tuple(net.op("Split", whole, *([] if net.opset >= 18 else [net.ints(HIDDEN, HIDDEN)]), outputs=2, axis=-1,
                        **({"num_outputs": 2} if net.opset >= 18 else {})))


def by_slice(net: Net, x: str, bias: bool) -> tuple[str, str]:
    whole = _linear(net, x, 2 * HIDDEN, bias)
    first, second = (net.op("Slice", whole, net.ints(place), net.ints(place + HIDDEN), net.ints(2)) for place in (0, HIDDEN))
    return first, second


def by_reshape(net: Net, x: str, bias: bool) -> tuple[str, str]:
    """Two halves in an axis of their own."""
    whole = net.op("Reshape", _linear(net, x, 2 * HIDDEN, bias), net.ints(1, TOKENS, 2, HIDDEN))
    first, second = (net.op("Gather", whole, net.const(place, "int64"), axis=2) for place in (0, 1))
    return first, second


def by_stride(net: Net, x: str, bias: bool) -> tuple[str, str]:
    """Every second column."""
    whole = _linear(net, x, 2 * HIDDEN, bias)
    first, second = (net.op("Slice", whole, net.ints(place), net.ints(2 * HIDDEN), net.ints(2), net.ints(2)) for place in (0, 1))
    return first, second


HALVES: dict[str, Callable[[Net, str, bool], tuple[str, str]]] = {
    "two Linears": two, "one Linear, taken by Split": by_split, "by Slice": by_slice, "by Reshape and Gather": by_reshape,
    "by every second column": by_stride}


def gated(halves: str = "two Linears", act: str | None = "silu", *, second: bool = False, swapped: bool = False, bias: bool = True, opset: int = 20,
          scale: float = 1.0) -> Net:
    """An encoder with a gated MLP. act: of the first half, or of the second one; None: none. swapped: the operands of the product. scale: of it."""
    net = Net(opset)
    t = net.embed(net.image())
    t = net.add(t, net.attention(net.norm(t), "separate"))
    a, b = HALVES[halves](net, net.norm(t), bias)
    if second:
        a, b = b, a
    a = a if act is None else net.act(a, act)
    product = net.op("Mul", *((b, a) if swapped else (a, b)))
    if scale != 1.0:
        product = net.op("Mul", product, net.const(scale))
    net.head(net.norm(net.add(t, net.linear(product, HIDDEN, DIM))))
    return net
