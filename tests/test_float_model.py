"""The float golden model: each operator against its definition, written out here with loops or by onnxruntime."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
from onnx import TensorProto, helper
import onnxruntime
import pytest

from hwgen import ops
from hwgen.errors import InputError, ModelError
from hwgen.functions import Act, activate, erf, softmax
from hwgen.graph import Graph, Node, evaluate

RNG = np.random.default_rng(0)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}      # float32 rounding of sums in another order


def normal(*shape) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def one(node: Node, **inputs: np.ndarray) -> np.ndarray:
    """Result of a graph of one node."""
    graph = Graph("g", {name: array.shape[1:] for name, array in inputs.items()}, (node,), {"y": node.output})
    return evaluate.run(graph, inputs)["y"]


def by_onnxruntime(kind: str, inputs: dict[str, np.ndarray], opset: int = 20, **attrs) -> np.ndarray:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in inputs.items()]
    graph = helper.make_graph([helper.make_node(kind, list(inputs), ["y"], **attrs)], "g", infos,
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], inputs)[0]


def test_erf_is_as_accurate_as_its_docstring_says():
    x = np.linspace(-8, 8, 200_001)
    assert np.abs(erf(x) - [math.erf(v) for v in x]).max() < 1.5e-7


@pytest.mark.parametrize("kind, definition", [
    (Act.RELU, lambda x: max(x, 0.0)),
    (Act.SILU, lambda x: x / (1 + math.exp(-x))),
    (Act.GELU, lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
    (Act.GELU_TANH, lambda x: x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))),
], ids=lambda value: getattr(value, "value", ""))
def test_activations(kind, definition):
    x = np.linspace(-9, 9, 3001, dtype=np.float32)
    y = one(ops.Activation("a", "y", "x", kind), x=x[None])[0]
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [definition(float(v)) for v in x], rtol=1e-5, atol=2e-6)


def test_activations_do_not_overflow():
    x = np.array([[-1e4, 1e4]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        for kind in (Act.SILU, Act.GELU, Act.GELU_TANH):
            np.testing.assert_array_equal(activate(x, kind), [[0.0, 1e4]])


def test_patch_embed_is_a_convolution_with_row_major_patches():
    x, weight, bias = normal(3, 2, 6, 8), normal(5, 2, 3, 2), normal(5)
    y = one(ops.PatchEmbed("p", "y", "x", weight, bias), x=x)
    want = by_onnxruntime("Conv", {"x": x, "w": weight, "b": bias}, strides=[3, 2])
    np.testing.assert_allclose(y, want.reshape(3, 5, 8).transpose(0, 2, 1), **CLOSE)


def test_layer_norm():
    x, gamma, beta = normal(2, 3, 16) * 4 + 1, normal(16), normal(16)
    y = one(ops.LayerNorm("n", "y", "x", gamma, beta, 1e-3), x=x)
    want = by_onnxruntime("LayerNormalization", {"x": x, "g": gamma, "b": beta}, epsilon=1e-3)
    np.testing.assert_allclose(y, want, **CLOSE)


def test_linear_on_tokens_and_on_a_vector():
    weight, bias = normal(6, 4), normal(4)
    for shape in ((2, 3, 6), (2, 6)):
        x = normal(*shape)
        np.testing.assert_allclose(one(ops.Linear("l", "y", "x", weight, bias), x=x),
                                   np.einsum("...k,kn->...n", x, weight) + bias, **CLOSE)


def test_attention_head_by_head():
    q, k, v = normal(2, 4, 6), normal(2, 5, 6), normal(2, 5, 6)
    y = one(ops.Attention("a", "y", "q", "k", "v", 3, 0.7), q=q, k=k, v=v)
    want = np.zeros_like(y)
    for b in range(2):
        for h in range(3):
            part = slice(2 * h, 2 * h + 2)
            for t in range(4):
                scores = np.exp(0.7 * k[b, :, part] @ q[b, t, part])
                want[b, t, part] = scores @ v[b, :, part] / scores.sum()
    np.testing.assert_allclose(y, want, **CLOSE)


def test_softmax_takes_large_values():
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0, -1000.0])), [0.5, 0.5, 0.0])


def moe(top_k: int, renormalize: bool, experts: int = 4) -> ops.MoE:
    return ops.MoE("m", "y", "x", normal(6, experts), normal(experts), normal(experts, 6, 5), normal(experts, 5),
                  normal(experts, 5, 6), normal(experts, 6), Act.RELU, top_k, renormalize)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("renormalize", [False, True])
def test_moe_token_by_token(top_k, renormalize):
    node, x = moe(top_k, renormalize), normal(3, 7, 6)
    want = np.zeros_like(x)
    for b, t in np.ndindex(3, 7):
        row = x[b, t]
        scores = np.exp(row @ node.gate + node.gate_bias)
        scores /= scores.sum()
        chosen = sorted(range(4), key=lambda e: (-scores[e], e))[:top_k]
        total = sum(scores[e] for e in chosen) if renormalize else 1.0
        for e in chosen:
            hidden = np.maximum(row @ node.w1[e] + node.b1[e], 0)
            want[b, t] += scores[e] / total * (hidden @ node.w2[e] + node.b2[e])
    np.testing.assert_allclose(one(node, x=x), want, rtol=1e-4, atol=1e-5)


def test_the_lowest_expert_wins_a_tie():
    bias = np.tile(np.array([1, 3, 2, 3], np.float32), 64)         # many experts, so that an unstable sort shows
    node = replace(moe(4, False, 256), gate=np.zeros((6, 256), np.float32), gate_bias=bias)
    experts, scores = node.route(normal(3, 6))
    np.testing.assert_array_equal(experts, [[1, 3, 5, 7]] * 3)
    assert (scores[:, 0] == scores[:, 1]).all() and scores.dtype == np.float32


def test_an_expert_without_tokens_is_not_computed():
    node = moe(1, False)
    w1 = node.w1.copy()
    w1[[0, 1, 3]] = np.nan
    lone = replace(node, gate_bias=np.array([0, 0, 100, 0], np.float32), w1=w1)
    assert np.isfinite(one(lone, x=normal(2, 3, 6))).all()


def test_sums_and_token_operators():
    x, y, table, tokens = normal(2, 3, 4), normal(2, 3, 4), normal(3, 4), normal(2, 4)
    np.testing.assert_array_equal(one(ops.Add("a", "s", "x", "y"), x=x, y=y), x + y)
    np.testing.assert_array_equal(one(ops.AddConst("a", "s", "x", table), x=x), x + table)
    joined = one(ops.ConcatTokens("c", "y", "x", tokens), x=x)
    np.testing.assert_array_equal(joined, [[*tokens, *image] for image in x])
    np.testing.assert_array_equal(one(ops.Select("s", "y", "x", 2), x=x), x[:, 2])
    np.testing.assert_allclose(one(ops.Mean("s", "y", "x", 1), x=x), (x[:, 1] + x[:, 2]) / 2, **CLOSE)


def chain() -> Graph:
    return Graph("g", {"x": (3, 4)}, (ops.Linear("l", "h", "x", normal(4, 6), normal(6)), ops.Select("s", "t", "h", 1)),
                    {"y": "t"}, {"y": (1, 2, 3)})


def test_trace_holds_every_value_and_run_the_onnx_shape():
    graph, x = chain(), normal(5, 3, 4)
    values = evaluate.trace(graph, {"x": x})
    assert {name: (array.shape, array.dtype) for name, array in values.items()} == {
        "x": ((5, 3, 4), np.float32), "h": ((5, 3, 6), np.float32), "t": ((5, 6), np.float32)}
    np.testing.assert_array_equal(evaluate.run(graph, {"x": x})["y"], values["t"].reshape(5, 2, 3))


def test_run_gives_the_same_in_chunks(monkeypatch):
    graph, x = chain(), normal(7, 3, 4)
    whole = evaluate.run(graph, {"x": x})["y"]
    monkeypatch.setattr(evaluate, "CHUNK_ELEMENTS", 100)
    np.testing.assert_array_equal(evaluate.run(graph, {"x": x})["y"], whole)
    assert evaluate.run(graph, {"x": x[:0]})["y"].shape == (0, 2, 3)


def test_messages():
    graph = chain()
    with pytest.raises(InputError) as error:
        evaluate.run(graph, {"z": normal(1, 3, 4)})
    assert str(error.value) == "input 'x' is missing; given are ['z']\n  at:   graph 'g'"
    with pytest.raises(InputError) as error:
        evaluate.run(graph, {"x": normal(2, 4, 3)})
    assert str(error.value) == ("input 'x' has shape (2, 4, 3), expected [images, 3, 4]\n  at:   graph 'g'\n"
                                "  next: give the images along the first axis")
    with pytest.raises(ModelError, match="the float model does not know the activation strange"):
        activate(normal(1), Act("strange"))
    with pytest.raises(TypeError, match="abstract"):
        Node("n", "y")
