"""Decoders that read a second sequence: as `nn.TransformerDecoder` has them, norms behind or in front; token ids beside the states of an encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto
import onnxruntime

from hwgen import hostrun, quantizer
from hwgen.partition import import_parts
from hwgen.steps.step import Quantized
from norm_nets import layer
from onnx_nets import Net

TOKENS, MEMORY, DIM, HEADS, HIDDEN, IDS = 6, 9, 24, 3, 32, 30
HEAD = DIM // HEADS


def attention(net: Net, x: str, memory: str, causal: bool = False, width: int = DIM) -> str:
    """Queries of x, keys and values of memory, which has ``width`` channels."""
    q, k, v = (net.op("Transpose", net.op("Reshape", net.linear(y, DIM if y == x else width, DIM), net.ints(1, -1, HEADS, HEAD)), perm=[0, 2, 1, 3])
               for y in (x, memory, memory))
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(HEAD ** -0.5))
    scores = net.op("Add", scores, net.const(np.triu(np.full((TOKENS, TOKENS), -np.inf), 1))) if causal else scores
    y = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return net.linear(net.op("Reshape", y, net.ints(1, -1, DIM)), DIM, DIM)


def decoder(form: str = "post", blocks: int = 1, causal: bool = True, first: str = "x", width: int = DIM, act: str = "Gelu",
            opset: int = 20) -> tuple[Net, dict[str, str]]:
    """form: "post" (nn.TransformerDecoderLayer), "pre" (norm_first), "cross" (no self attention, no residual), "ids" (x are token ids). first: of the
    inputs; width: channels of memory."""
    net = Net(opset)
    names = {"x": [1, TOKENS], "memory": [1, MEMORY, width]} if form == "ids" else {"x": [1, TOKENS, DIM], "memory": [1, MEMORY, width]}
    given = {name: net.input(name, names[name], TensorProto.INT64 if form == "ids" and name == "x" else TensorProto.FLOAT)
             for name in ([first, *(name for name in names if name != first)])}
    x, memory = given["x"], given["memory"]
    if form == "ids":
        x = net.op("Add", net.op("Gather", net.random(IDS, DIM, scale=1.0), x), net.random(TOKENS, DIM, scale=0.5))
    if form == "cross":
        return net, {"y": attention(net, x, memory, width=width)}
    for _ in range(blocks):
        for branch in (lambda y: attention(net, y, y, causal), lambda y: attention(net, y, memory, width=width), lambda y: mlp(net, y, act)):
            x = net.op("Add", x, branch(layer(net, x, DIM) if form != "post" else x))
            x = layer(net, x, DIM) if form == "post" else x
    return net, {"y": net.linear(x if form == "post" else layer(net, x, DIM), DIM, 7)}


def mlp(net: Net, x: str, act: str) -> str:
    return net.linear(net.act(net.linear(x, DIM, HIDDEN), act), HIDDEN, DIM)


def sequences(form: str, count: int, seed: int, width: int = DIM) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, IDS, (count, TOKENS)) if form == "ids" else rng.standard_normal((count, TOKENS, DIM)).astype(np.float32)
    return {"x": x, "memory": rng.standard_normal((count, MEMORY, width)).astype(np.float32)}


def saved(folder: Path, form: str, **options) -> Path:
    net, outputs = decoder(form, **options)
    return net.save(folder / "net.onnx", outputs, [1, TOKENS, DIM if form == "cross" else 7])


def network(folder: Path, form: str, **options) -> tuple[Quantized, np.ndarray, np.ndarray]:
    """(integer network, four images of the engine's input, outputs of onnxruntime for them)."""
    path, width = saved(folder, form, **options), options.get("width", DIM)
    imported = import_parts(path, None, False, lambda stage: None)
    assert imported.host is not None
    model = quantizer.quantize(imported.model, hostrun.before(imported.host, sequences(form, 32, 0, width)))
    given = sequences(form, 4, 1, width)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = np.concatenate([session.run(None, {name: array[i:i + 1] for name, array in given.items()})[0] for i in range(4)])
    (images,) = hostrun.before(imported.host, given).values()
    return model, images, right
