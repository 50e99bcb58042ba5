"""Heads of values, and so of results, with a number of channels of their own: wider or narrower than those of queries and keys."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from hwgen import quantizer
from hwgen.importer import import_model
from hwgen.ops import Attention, AttentionPool
from hwgen.steps import golden, host
from onnx_nets import Net, result
from rule_checks import declined

TOKENS, DIM, HEADS = 7, 24, 3
SEQUENCES = np.random.default_rng(0).standard_normal((16, TOKENS, DIM)).astype(np.float32)


def attention(spelling: str, dim: int = 8, value_dim: int = 12, opset: int = 20, heads: int = HEADS) -> Net:
    """spelling: "matmul", "joined" (one Linear), "operator" (opset 23), "shared" (one head of keys and values, broadcast), "microsoft" or "pool"."""
    net = Net(23 if spelling == "operator" else opset)
    x = net.input("x", [1, TOKENS, DIM])

    def split(y: str, width: int, count: int = heads) -> str:
        return net.op("Transpose", net.op("Reshape", y, net.ints(1, -1, count, width)), perm=[0, 2, 1, 3])

    if spelling == "microsoft":
        total = heads * (2 * dim + value_dim)
        y = net.op("Attention", x, net.random(DIM, total), net.random(total), num_heads=heads, domain="com.microsoft",
                   qkv_hidden_sizes=[heads * dim, heads * dim, heads * value_dim])
    elif spelling == "operator":
        q, k, v = (net.linear(x, DIM, heads * width) for width in (dim, dim, value_dim))
        y = net.op("Attention", q, k, v, q_num_heads=heads, kv_num_heads=heads)
    else:
        widths = [heads * dim, (1 if spelling == "shared" else heads) * dim, (1 if spelling == "shared" else heads) * value_dim]
        parts = net.op("Split", net.linear(x, DIM, sum(widths)), net.ints(*widths), outputs=3, axis=2) if spelling == "joined" else [
            net.linear(x, DIM, width) for width in widths]
        q, k, v = (split(part, width, 1 if spelling == "shared" and place else heads)
                   for place, (part, width) in enumerate(zip(parts, (dim, dim, value_dim), strict=True)))
        q = net.random(1, heads, 2, dim, scale=1.0) if spelling == "pool" else q
        weights = net.op("Softmax", net.op("MatMul", net.op("Mul", q, net.const(dim ** -0.5)), net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        y = net.op("Reshape", net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), net.ints(1, -1, heads * value_dim))
    net.linear(y, heads * value_dim, DIM)
    return net


def saved(net: Net, folder, rows: int = TOKENS):
    return net.save(folder / "net.onnx", {"y": result(net)}, [1, rows, DIM])


def right(path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": row[None]})[0] for row in SEQUENCES])


@pytest.mark.parametrize("dim, value_dim", [(8, 12), (12, 4)])
@pytest.mark.parametrize("spelling", ["matmul", "joined", "operator", "shared", "microsoft", "pool"])
def test_every_spelling(spelling, dim, value_dim, tmp_path):
    path = saved(attention(spelling, dim, value_dim), tmp_path, 2 if spelling == "pool" else TOKENS)
    model = import_model(path).model
    (graph,) = model.tasks
    (node,) = (node for node in graph.nodes if isinstance(node, (Attention, AttentionPool)))
    assert graph.shapes()[node.output] == (2 if spelling == "pool" else TOKENS, HEADS * value_dim)
    network = quantizer.quantize(model, {"x": SEQUENCES}).tasks[0]
    found = host.dequantize(network, golden.run(network, SEQUENCES))["y"]
    assert np.corrcoef(found.ravel(), right(path).ravel())[0, 1] > 0.998
    weighed = {step.macs for step in network.steps if step.about == "P V"}
    assert weighed == {(2 if spelling == "pool" else TOKENS) * TOKENS * HEADS * value_dim}


def test_older_operator_sets_split_by_an_attribute(tmp_path):
    path = saved(attention("microsoft", opset=11), tmp_path)
    assert any(isinstance(node, Attention) for node in import_model(path).model.tasks[0].nodes)


def test_queries_of_other_widths_than_keys_are_named(tmp_path):
    net = Net()
    x = net.input("x", [1, TOKENS, DIM])
    q, k, v = net.linear(x, DIM, 8), net.linear(x, DIM, 8), net.linear(x, DIM, 2 * DIM)
    v = net.op("Reshape", v, net.ints(1, 2, -1, DIM))           # tokens of two halves: no heads of channels
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    net.op("MatMul", weights, v, name="attention")
    assert any("does not take the tokens of" in reason for reason in declined(net, tmp_path / "net.onnx").values())
