"""Windows and shifts as Swin has them: attention within windows, with a relative position bias, and the mask of a shift."""

from __future__ import annotations

import numpy as np

from onnx_nets import INDEX_END, Net

SIDE, WINDOW, DIM, HEADS = 4, 2, 8, 2
HEAD, ROWS = DIM // HEADS, WINDOW * WINDOW
COUNT = (SIDE // WINDOW) ** 2


def norm(net: Net, x: str, dim: int = DIM) -> str:
    return net.op("LayerNormalization", x, net.random(dim, offset=1.0), net.random(dim))


def rolled(net: Net, x: str, by: int) -> str:
    """torch.roll over both axes of [1, SIDE, SIDE, DIM], as it is exported."""
    for axis in (1, 2):
        parts = [net.op("Slice", x, net.ints(start), net.ints(end), net.ints(axis)) for start, end in ((-by, INDEX_END), (0, -by))]
        x = net.op("Concat", *parts, axis=axis)
    return x


def shift_mask() -> np.ndarray:
    """[windows, 1, rows, rows]: -100 between tokens that were no neighbours before the shift."""
    region = np.zeros((SIDE, SIDE), int)
    cuts = (slice(0, -WINDOW), slice(-WINDOW, -WINDOW // 2), slice(-WINDOW // 2, None))
    for number, (rows, columns) in enumerate((rows, columns) for rows in cuts for columns in cuts):
        region[rows, columns] = number
    parts = region.reshape(SIDE // WINDOW, WINDOW, SIDE // WINDOW, WINDOW).transpose(0, 2, 1, 3).reshape(COUNT, ROWS)
    return np.where(parts[:, None, :, None] == parts[:, None, None, :], 0.0, -100.0)


def block(net: Net, x: str, shift: int = 0, bias: bool = True, form: str = "timm") -> str:
    """x [1, SIDE * SIDE, DIM] -> the same. form: how the mask meets the scores: "timm", or "reshaped" (windows apart from the images)."""
    y = net.op("Reshape", norm(net, x), net.ints(1, SIDE, SIDE, DIM))
    y = rolled(net, y, -shift) if shift else y
    grid = net.op("Reshape", y, net.ints(1, SIDE // WINDOW, WINDOW, SIDE // WINDOW, WINDOW, DIM))
    windows = net.op("Reshape", net.op("Transpose", grid, perm=[0, 1, 3, 2, 4, 5]), net.ints(COUNT, ROWS, DIM))
    qkv = net.op("Transpose", net.op("Reshape", net.linear(windows, DIM, 3 * DIM), net.ints(COUNT, ROWS, 3, HEADS, HEAD)), perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", qkv, net.const(place, np.int64), axis=0) for place in range(3))
    scores = net.op("MatMul", net.op("Mul", q, net.const(HEAD ** -0.5)), net.op("Transpose", k, perm=[0, 1, 3, 2]))
    if bias:
        scores = net.op("Add", scores, net.random(1, HEADS, ROWS, ROWS, scale=0.5))
    if shift:
        mask = shift_mask()
        if form == "timm":
            scores = net.op("Add", scores, net.const(mask))
        else:
            apart = net.op("Reshape", scores, net.ints(1, COUNT, HEADS, ROWS, ROWS))
            scores = net.op("Reshape", net.op("Add", apart, net.const(mask[None])), net.ints(COUNT, HEADS, ROWS, ROWS))
    out = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    out = net.linear(net.op("Reshape", out, net.ints(COUNT, ROWS, DIM)), DIM, DIM)
    back = net.op("Transpose", net.op("Reshape", out, net.ints(1, SIDE // WINDOW, SIDE // WINDOW, WINDOW, WINDOW, DIM)), perm=[0, 1, 3, 2, 4, 5])
    back = net.op("Reshape", back, net.ints(1, SIDE, SIDE, DIM))
    back = rolled(net, back, shift) if shift else back
    x = net.op("Add", x, net.op("Reshape", back, net.ints(1, SIDE * SIDE, DIM)))
    hidden = net.act(net.linear(norm(net, x), DIM, 2 * DIM), "Relu")
    return net.op("Add", x, net.linear(hidden, 2 * DIM, DIM))


def merged(net: Net, x: str) -> str:
    """[1, SIDE * SIDE, DIM] -> [1, SIDE * SIDE / 4, 2 * DIM]"""
    grid = net.op("Reshape", x, net.ints(1, SIDE // 2, 2, SIDE // 2, 2, DIM))
    y = net.op("Reshape", net.op("Transpose", grid, perm=[0, 1, 3, 4, 2, 5]), net.ints(1, -1, 4 * DIM))
    return net.linear(norm(net, y, 4 * DIM), 4 * DIM, 2 * DIM)


def swin(stages: int = 2, **options) -> Net:
    """Two blocks, one of them shifted; with two stages the patches are merged behind them. Outputs: all tokens by a Linear."""
    net = Net()
    x = net.op("Add", net.linear(net.input("x", [1, SIDE * SIDE, DIM]), DIM, DIM), net.random(1, SIDE * SIDE, DIM))
    x = block(net, block(net, x, **options), shift=WINDOW // 2, **options)
    width = DIM
    if stages == 2:
        x, width = merged(net, x), 2 * DIM
    net.linear(norm(net, x, width), width, 3)
    return net
