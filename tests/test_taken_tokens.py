"""Tokens in another order, and neighbours side by side, found in what ONNX nodes do to them: shifts, merged patches, a flattened head."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from hwgen import ops, quantizer
from hwgen.importer import import_model
from hwgen.steps import golden
from hwgen.steps.verify import verify
from onnx_nets import INDEX_END, Net

SIDE, DIM, CLASSES = 4, 8, 3
IMAGES = np.random.default_rng(5).normal(size=(32, SIDE * SIDE, DIM)).astype(np.float32)


def norm(net: Net, x: str, dim: int) -> str:
    return net.op("LayerNormalization", x, net.random(dim, offset=1.0), net.random(dim))


def timm(net: Net, x: str) -> str:
    """Patch merging by Reshape and Transpose."""
    grid = net.op("Reshape", x, net.ints(1, SIDE // 2, 2, SIDE // 2, 2, DIM))
    return net.op("Reshape", net.op("Transpose", grid, perm=[0, 1, 3, 4, 2, 5]), net.ints(1, -1, 4 * DIM))


def transformers(net: Net, x: str) -> str:
    """By strided slices and Concat."""
    grid = net.op("Reshape", x, net.ints(1, SIDE, SIDE, DIM))
    parts = [net.op("Slice", grid, net.ints(row, column), net.ints(INDEX_END, INDEX_END), net.ints(1, 2), net.ints(2, 2))
             for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    return net.op("Reshape", net.op("Concat", *parts, axis=-1), net.ints(1, -1, 4 * DIM))


def shifted(net: Net, x: str) -> str:
    """A cyclic shift by one row and one column, as torch.roll is exported."""
    y = net.op("Reshape", x, net.ints(1, SIDE, SIDE, DIM))
    for axis in (1, 2):
        parts = [net.op("Slice", y, net.ints(start), net.ints(end), net.ints(axis)) for start, end in ((1, INDEX_END), (0, 1))]
        y = net.op("Concat", *parts, axis=axis)
    return net.op("Reshape", y, net.ints(1, -1, DIM))


def flattened(net: Net, x: str) -> str:
    return net.op("Reshape", x, net.ints(1, 1, SIDE * SIDE * DIM))


@pytest.mark.parametrize("spelling, normed, found", [
    (timm, True, (4, 4)), (transformers, True, (4, 4)), (timm, False, (4, 4)), (shifted, False, (1, 16)), (flattened, False, (16, 1))])
def test_tokens_taken_by_an_order(spelling, normed, found, tmp_path):
    """Behind an activation and behind a residual stream; with a norm of what stands side by side, a stream of another width begins."""
    net = Net()
    x = net.linear(net.input("x", [1, SIDE * SIDE, DIM]), DIM, DIM)
    x = net.op("Add", x, net.linear(net.act(net.linear(norm(net, x, DIM), DIM, DIM), "Relu"), DIM, DIM))
    y = spelling(net, x)
    width = DIM * found[0]
    y = net.linear(norm(net, y, width) if normed else y, width, CLASSES)
    path = net.save(tmp_path / "net.onnx", {"y": y}, [1, found[1], CLASSES])
    model = import_model(path).model
    orders = [node.order for node in model.tasks[0].nodes if isinstance(node, ops.Take)]
    assert [order.shape for order in orders][-1] == found and sorted(orders[-1].ravel().tolist()) == list(range(SIDE * SIDE))
    network = quantizer.quantize(model, {"x": IMAGES}).tasks[0]
    verify(network)
    session, (output,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), network.outputs
    wanted = np.concatenate([session.run(None, {"x": IMAGES[i:i + 1]})[0] for i in range(8)]).reshape(8, -1)
    error = golden.run(network, IMAGES[:8])["y"] * np.tile(output.scale.array, found[1]) / output.tokens - wanted
    assert 10 * np.log10((wanted ** 2).sum() / (error ** 2).sum()) > 25
