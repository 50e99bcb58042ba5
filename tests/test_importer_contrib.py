"""Operators of onnxruntime: written out as ONNX functions, they are read like the operators they stand for, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper
import pytest

from hwgen.importer import import_model
from onnx_nets import DIM, HEADS, HIDDEN, PATCH, TOKENS, Net
from rule_checks import K, accepted, declined, kinds, tokens, words

MICROSOFT = "com.microsoft"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def ms(net: Net, kind: str, *inputs: str, **attributes):
    return net.op(kind, *inputs, domain=MICROSOFT, **attributes)


# ---------------------------------------------------------------- one ViT in the forms that tools make of it

def encoder(opset: int = 20, *, scores: str = "plain", act: str = "plain", skip: str = "plain", norm: str = "plain") -> Net:
    """One block and a head; the weights are those of every other form."""
    net = Net(opset)
    x = net.image()
    conv = net.op("Conv", x, net.random(DIM, 1, PATCH, PATCH), net.random(DIM), kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
    patches = net.op("Transpose", net.op("Reshape", conv, net.ints(0, DIM, -1)), perm=[0, 2, 1])
    t = net.op("Add", net.op("Concat", net.random(1, 1, DIM), patches, axis=1), net.random(1, TOKENS, DIM))
    gamma, beta, qkv, qkv_bias = net.random(DIM, offset=1.0), net.random(DIM), net.random(DIM, 3 * DIM), net.random(3 * DIM)
    project, project_bias, gamma2, beta2 = net.random(DIM, DIM), net.random(DIM), net.random(DIM, offset=1.0), net.random(DIM)
    up, up_bias, down, down_bias = net.random(DIM, HIDDEN), net.random(HIDDEN), net.random(HIDDEN, DIM), net.random(DIM)
    gamma3, beta3, head, head_bias = net.random(DIM, offset=1.0), net.random(DIM), net.random(5, DIM), net.random(5)
    n = normed(net, t, gamma, beta, norm)
    y = net.op("MatMul", attended(net, n, qkv, qkv_bias, scores), project)
    t, n = skipped(net, y, project_bias, t, gamma2, beta2, skip)
    hidden = activated(net, net.op("MatMul", n, up), up_bias, act)
    t, n = skipped(net, net.op("MatMul", hidden, down), down_bias, t, gamma3, beta3, skip)
    net.op("Gemm", net.op("Gather", n, net.const(0, np.int64), axis=1), head, head_bias, transB=1)
    return net


def normed(net: Net, x: str, gamma: str, beta: str, form: str) -> str:
    if form == "before operator set 17":
        return net.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-5)
    return ms(net, "LayerNormalization", x, gamma, beta, epsilon=1e-5) if form == "microsoft" else \
        net.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-5)


def skipped(net: Net, y: str, bias: str, t: str, gamma: str, beta: str, form: str) -> tuple[str, str]:
    """(t + y + bias, its norm)"""
    match form:
        case "bias inside" | "bias inside, skip first":
            operands = (y, t) if form == "bias inside" else (t, y)
            n, _, _, total = ms(net, "SkipLayerNormalization", *operands, gamma, beta, bias, outputs=4, epsilon=1e-5)
            net.nodes[-1].output[1] = net.nodes[-1].output[2] = ""
            return total, n
        case "bias outside":
            n, _, _, total = ms(net, "SkipLayerNormalization", net.op("Add", y, bias), t, gamma, beta, outputs=4, epsilon=1e-5)
            net.nodes[-1].output[1] = net.nodes[-1].output[2] = ""
            return total, n
        case "bias behind":
            total = net.op("Add", net.op("Add", t, y), bias)
        case _:
            total = net.op("Add", t, net.op("Add", y, bias))
    return total, net.op("LayerNormalization", total, gamma, beta, axis=-1, epsilon=1e-5)


def activated(net: Net, x: str, bias: str, form: str) -> str:
    match form:
        case "BiasGelu":
            return ms(net, "BiasGelu", x, bias)
        case "Gelu":
            return ms(net, "Gelu", net.op("Add", x, bias))
    return net.act(net.op("Add", x, bias), form if form == "erf" else "Gelu")


def attended(net: Net, n: str, qkv: str, bias: str, form: str) -> str:
    d = DIM // HEADS
    if form == "Attention":
        return ms(net, "Attention", n, qkv, bias, num_heads=HEADS)
    packed = net.op("Add", net.op("MatMul", n, qkv), bias)
    if form == "packed":                                            # [1, T, heads, 3, d]
        mixed = net.op("Transpose", net.op("Reshape", packed, net.ints(0, 0, 3, HEADS, d)), perm=[0, 1, 3, 2, 4])
        return ms(net, "MultiHeadAttention", mixed, num_heads=HEADS)
    parts = net.op("Split", packed, outputs=3, axis=2, **({"num_outputs": 3} if net.opset >= 18 else {}))
    if form == "MultiHeadAttention":
        return ms(net, "MultiHeadAttention", *parts, num_heads=HEADS)
    q, k, v = (net.op("Transpose", net.op("Reshape", part, net.ints(0, 0, HEADS, d)), perm=[0, 2, 1, 3]) for part in parts)
    match form:
        case "FusedMatMul":
            weights = net.op("Softmax", ms(net, "FusedMatMul", q, k, transB=1, alpha=d ** -0.5), axis=-1)
            y = ms(net, "FusedMatMul", weights, v)
        case "Einsum":
            scores = net.op("Einsum", q, k, equation="bhtd,bhsd->bhts")
            y = net.op("Einsum", net.op("Softmax", net.op("Mul", scores, net.const(d ** -0.5)), axis=-1), v, equation="bhts,bhsd->bhtd")
        case _:
            k = net.op("Transpose", k, perm=[0, 1, 3, 2])
            if form == "on q":
                q = net.op("Mul", q, net.const(d ** -0.5))
            elif form == "on k":
                k = net.op("Div", k, net.const(math.sqrt(d)))
            elif form == "halves":
                q, k = (net.op("Mul", part, net.const(d ** -0.25)) for part in (q, k))
            scores = net.op("MatMul", q, k)
            if form == "plain":
                scores = net.op("Mul", scores, net.const(d ** -0.5))
            y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))


FORMS = {
    **{f"scores: {form}": {"scores": form} for form in
       ("on q", "on k", "halves", "FusedMatMul", "Einsum", "MultiHeadAttention", "packed", "Attention")},
    **{f"activation: {form}": {"act": form} for form in ("BiasGelu", "Gelu", "erf")},
    **{f"skip: {form}": {"skip": form} for form in ("bias inside", "bias inside, skip first", "bias outside", "bias behind")},
    "norm: microsoft": {"norm": "microsoft"},
    "all of it": {"scores": "MultiHeadAttention", "act": "BiasGelu", "skip": "bias inside"},
    "operator set 17": {"opset": 17, "scores": "FusedMatMul", "act": "BiasGelu", "skip": "bias inside"},
    "operator set 14": {"opset": 14, "scores": "MultiHeadAttention", "act": "BiasGelu", "skip": "bias inside", "norm": "before operator set 17"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_one_network_gives_the_same_words(path, form):
    assert np.array_equal(words(encoder(**FORMS[form]), path), words(encoder(), path))


# ---------------------------------------------------------------- single operators

def with_bias(kind: str):
    return lambda net, x: ms(net, kind, net.op("MatMul", x, net.random(K, 4)), net.random(4))


SINGLE = {
    "BiasGelu": (with_bias("BiasGelu"), ["Linear", "Activation"]),
    "FastGelu": (with_bias("FastGelu"), ["Linear", "Activation"]),
    "FastGelu alone": (lambda net, x: ms(net, "FastGelu", net.linear(x, K, 4)), ["Linear", "Activation"]),
    "QuickGelu": (lambda net, x: net.linear(ms(net, "QuickGelu", net.linear(x, K, 4)), 4, 3), ["Linear", "Linear", "Activation"]),
    "QuickGelu of 1": (lambda net, x: ms(net, "QuickGelu", net.linear(x, K, 4), alpha=1.0), ["Linear", "Activation"]),
    "FusedGemm": (lambda net, x: net.op("Reshape", ms(net, "FusedGemm", net.op("Reshape", x, net.ints(-1, K)), net.random(4, K), net.random(4),
                                                      transB=1, alpha=0.5, beta=2.0, activation="Relu"), net.ints(1, -1, 4)), ["Linear", "Activation"]),
    "FusedMatMul of a constant": (lambda net, x: ms(net, "FusedMatMul", x, net.random(4, K), transB=1, alpha=-0.5), ["Linear"]),
}


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("name", SINGLE)
def test_an_operator_of_onnxruntime_is_what_it_stands_for(path, name, opset):
    text, wanted = SINGLE[name]
    net = Net(opset)
    text(net, tokens(net))
    found = kinds(accepted(net, path))
    assert sorted(found) == sorted(wanted)


def test_a_fused_convolution_is_a_patch_embedding(path):
    net = Net()
    ms(net, "FusedConv", net.image(), net.random(DIM, 1, PATCH, PATCH), net.random(DIM), kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
    net.op("Transpose", net.op("Reshape", net.nodes[-1].output[0], net.ints(0, DIM, -1)), perm=[0, 2, 1])
    assert kinds(accepted(net, path)) == ["PatchEmbed"]


def test_a_function_of_the_file_may_call_them(path):
    net = Net(17)
    net.op("F", tokens(net), net.random(K, 4), net.random(4), domain="own")
    model = net.model({"y": net.nodes[-1].output[0]}, ["a", "b", "c"])
    body = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("BiasGelu", ["m", "b"], ["y"], domain=MICROSOFT)]
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    model.functions.append(helper.make_function("own", "F", ["x", "w", "b"], ["y"], body, list(model.opset_import)))
    onnx.save(model, path)
    (graph,) = import_model(path).model.tasks
    assert kinds(graph) == ["Linear", "Activation"]


REFUSED = {
    "mask": (lambda net, q: ms(net, "Attention", q, net.random(K, 3 * K), net.random(3 * K), net.const([5], np.int32), num_heads=2),
             "has a mask of the keys"),
    "deviation": (lambda net, q: ms(net, "SkipLayerNormalization", q, q, net.random(K), outputs=2)[0], "gives its mean and deviation too"),
    "rotary": (lambda net, q: ms(net, "Attention", q, net.random(K, 3 * K), net.random(3 * K), num_heads=2, do_rotary=1), "rotary embedding"),
    "another function": (lambda net, q: ms(net, "FusedGemm", net.op("Reshape", q, net.ints(-1, K)), net.random(K, 4), activation="Selu"),
                         "applies Selu"),
    "blocked": (lambda net, q: net.op("Conv", q, net.random(K, K), domain="com.microsoft.nchwc"), "operator com.microsoft.nchwc.Conv is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_written_out_is_refused_by_name(path, name):
    text, reason = REFUSED[name]
    net = Net()
    text(net, net.linear(tokens(net), K, K))
    assert any(reason in found for found in declined(net, path).values())
