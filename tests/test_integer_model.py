"""The integer golden model, node by node, against real arithmetic on the same integers; and its proofs and refusals."""

from dataclasses import replace
import math

from hwgen.qir import QActivation, QAttention, QGraph, QHead, QLinear, QMoE, QNorm, QPatches, QResidualInit, QResidualLinear, Weights
import numpy as np
import pytest

from hwgen import numerics
from hwgen.errors import InputError, ModelError
from hwgen.functions import Act
from hwgen.golden import integer_model as golden
from qgraphs import random_images, random_model, random_qgraph

CASES = {
    "dense": {"blocks": "d"},
    "moe": {"blocks": "m", "experts": 5, "top_k": 3, "renormalize": False},
    "moe_renormalized": {"blocks": "m"},
    "silu_no_class_token": {"blocks": "dm", "class_token": False, "pool": "mean", "act": Act.SILU, "tokens": 6},
    "mean_without_class_token": {"blocks": "d", "pool": "mean"},
    "relu": {"blocks": "d", "act": Act.RELU, "channels": 3, "heads": 4},
}
UNIT = 0.5 + 127 * 2.0 ** -13       # half an output step, and the multiplier's 14 to 16 bits


@pytest.fixture(scope="module", params=CASES)
def case(request):
    options = CASES[request.param]
    graph = random_qgraph(seed=3, **options).tasks[0]
    images = random_images(random_model(seed=3, **options), 6)
    return graph, images, golden.trace(graph, images, detail=True)


def nodes_of(graph, kind):
    return [node for node in graph.nodes if isinstance(node, kind)]


def ratio(w: Weights):
    return w.mult / 2.0 ** w.shift


def act_real(kind, x):
    erf = np.vectorize(math.erf)
    return {Act.GELU: lambda: 0.5 * x * (1 + erf(x / math.sqrt(2))), Act.SILU: lambda: x / (1 + np.exp(-x)),
            Act.RELU: lambda: np.maximum(x, 0)}[kind]()


def linear_real(x, w, act):
    """Real-valued int8 result (unrounded) and its error bound in output steps."""
    pre = (x @ w.weight.astype(np.int64) + w.bias) * ratio(w)
    if act is None:
        return np.clip(pre, -127, 127), 0.5
    scale = act.mult / 2.0 ** act.shift * 2.0 ** 16                 # output steps per 1.0
    y = act_real(act.kind, np.clip(pre, -32767, 32767) * 2.0 ** -numerics.PRE_ACT_FRAC)
    return np.clip(y * scale, -127, 127), 0.5 + scale * (0.5 * 1.13 * 2.0 ** -numerics.PRE_ACT_FRAC + 1.2e-4)


def test_values_are_in_range_and_used(case):
    graph, _, values = case
    for node in graph.nodes:
        limit = {QHead: 2 ** 31 - 1}.get(type(node), 32767 if isinstance(
            node, (QResidualInit, QResidualLinear, QMoE)) else 127)
        value = values[node.output]
        assert np.abs(value).max() <= limit and value.any(), node.output
        assert value.shape[1:] == graph.shapes[node.output]
        if limit == 127:
            assert (np.abs(value) == 127).mean() < 0.05, f"{node.output} is saturated"


def test_norm(case):
    graph, _, values = case
    for node in nodes_of(graph, QNorm):
        x = values[node.x].astype(np.float64)
        std = np.sqrt(x.var(-1, keepdims=True) + node.eps / node.dim ** 2)
        real = (x - x.mean(-1, keepdims=True)) / std / node.scale
        assert np.abs(values[node.output] - np.clip(real, -127, 127)).max() <= UNIT + 0.02


def test_linear(case):
    graph, _, values = case
    for node in nodes_of(graph, QLinear):
        real, bound = linear_real(values[node.x], node.w, node.act)
        assert np.abs(values[node.output] - real).max() <= bound


def test_residual_linear(case):
    graph, _, values = case
    for node in nodes_of(graph, QResidualLinear):
        before, after = values[node.residual], values[node.output]
        update = (values[node.x] @ node.w.weight.astype(np.int64) + node.w.bias) * ratio(node.w)
        stop = node.first_token + update.shape[1]
        assert (after[:, :node.first_token] == before[:, :node.first_token]).all()
        assert (after[:, stop:] == before[:, stop:]).all()
        assert np.abs(after[:, node.first_token:stop] - before[:, node.first_token:stop] - update).max() <= 0.5


def test_attention(case):
    graph, _, values = case
    for node in nodes_of(graph, QAttention):
        q, k, v = (values[name].astype(np.float64) for name in (node.q, node.k, node.v))
        d = q.shape[-1] // node.num_heads
        for h in range(node.num_heads):
            part = slice(h * d, (h + 1) * d)
            scores = q[..., part] @ k[..., part].transpose(0, 2, 1) * (node.score_mult / 2.0 ** node.score_shift)
            assert np.abs(values[f"{node.output}.scores"][:, h] - scores).max() <= 0.5
            p = np.exp2((scores - scores.max(-1, keepdims=True)) / 2 ** numerics.SCORE_FRAC)
            real = p @ v[..., part] / p.sum(-1, keepdims=True) * (node.out_mult / 2.0 ** node.out_shift)
            error = np.abs(values[node.output][..., part] - np.clip(real, -127, 127))
            assert error.max() <= 0.5 + 127 * 0.02
            row_sum = values[f"{node.output}.row_sum"][:, h]
            assert row_sum.min() >= 255                             # the row maximum counts 255
            assert np.abs(row_sum - 255 * p.sum(-1)).max() <= p.shape[-1]


def test_moe(case):
    graph, _, values = case
    for node in nodes_of(graph, QMoE):
        x = values[node.x]
        logits = (x @ node.gate.weight.astype(np.int64) + node.gate.bias) * ratio(node.gate)
        found = values[f"{node.output}.logits"]
        assert np.abs(found - logits).max() <= 0.5
        p = np.exp2(found / 2 ** numerics.LOGIT_FRAC)
        kept = np.zeros_like(p)
        for index in np.ndindex(p.shape[:-1]):
            chosen = sorted(range(p.shape[-1]), key=lambda e: (-found[index][e], e))[:node.top_k]
            kept[index][chosen] = p[index][chosen]
        kept /= (kept if node.renormalize else p).sum(-1, keepdims=True)
        update = np.zeros(x.shape)
        bound = 0.0
        for e in range(len(node.first)):
            hidden, hidden_error = linear_real(x, node.first[e], node.act)
            second = node.second[e].weight.astype(np.int64)
            update += kept[..., e:e + 1] * ((hidden @ second + node.second[e].bias) * ratio(node.second[e]))
            bound += (kept[..., e].max() * hidden_error * np.abs(second).sum(0) * ratio(node.second[e])).max() + 40
        difference = np.abs(values[node.output] - values[node.residual] - update)
        assert difference.max() <= bound
        assert np.sqrt((difference ** 2).mean()) <= 0.03 * np.sqrt((update ** 2).mean())


def test_head_is_exact(case):
    graph, images, values = case
    outputs = golden.run(graph, images)
    for node in nodes_of(graph, QHead):
        x = values[node.x][:, slice(*node.tokens)]
        exact = (x @ node.w.weight.astype(np.int64) + node.w.bias).sum(1)
        assert outputs[node.onnx_name].dtype == np.int32 and (outputs[node.onnx_name] == exact).all()
        real = golden.dequantize(graph, outputs)[node.onnx_name]
        assert real.dtype == np.float32
        np.testing.assert_allclose(real, exact * node.w.scale / x.shape[1], rtol=1e-6)


def test_images_do_not_influence_each_other(case, monkeypatch):
    graph, images, _ = case
    whole = golden.run(graph, images)
    monkeypatch.setattr(golden, "CHUNK_ELEMENTS", 1)
    chunked = golden.run(graph, images)
    monkeypatch.undo()
    for name in whole:
        single = np.concatenate([golden.run(graph, images[i:i + 1])[name] for i in range(len(images))])
        assert (whole[name] == chunked[name]).all() and (whole[name] == single).all()


def test_no_images_give_no_outputs(case):
    graph, images, _ = case
    assert all(len(value) == 0 for value in golden.run(graph, images[:0]).values())


# ---------------------------------------------------------------- details worked out by hand

def weights(matrix, mult=32768, shift=15, bias=0):
    matrix = np.asarray(matrix, np.int8)
    n = matrix.shape[1]
    return Weights(matrix, np.full(n, bias, np.int32), np.full(n, mult, np.int64), np.full(n, shift, np.int64), np.ones(n))


@pytest.mark.parametrize("start, expected", [(0, 1), (30000, 16384), (-30000, -29999)])
def test_experts_add_in_index_order_and_each_addition_saturates(start, expected):
    """Expert 0 gives +32767, expert 1 -32767, score one half each: +16384, then -16383. 30000 saturates in between."""
    moe = QMoE("moe", "y", "x", "r", gate=weights([[0, 0]]), first=(weights([[100]], shift=5),) * 2,
               second=(weights([[120]], shift=6), weights([[-120]], shift=6)),
               act=QActivation(Act.RELU, *numerics.quantize_multiplier(2.0 ** -16 * 40)), top_k=2, renormalize=True)
    inner = {}
    y = golden._moe(moe, np.array([[[1]]]), np.array([[[start]]]), inner)
    assert inner["experts"].tolist() == [[[0, 1]]] and inner["weights"].tolist() == [[[32768, 32768]]]
    assert y.item() == expected


@pytest.mark.parametrize("channels, patch, size", [(1, (2, 2), (8, 8)), (3, (2, 4), (4, 8))])
def test_patches_are_row_major_and_channels_c_dy_dx(channels, patch, size):
    rng = np.random.default_rng(0)
    images = rng.integers(-127, 128, (2, channels, *size)).astype(np.float32)
    p, q = patch
    found = golden.quantize_input(QPatches("p", "x.int8", "x", patch, 1.0), images)
    for b, row, column, c, dy, dx in np.ndindex(2, size[0] // p, size[1] // q, channels, p, q):
        token, channel = row * (size[1] // q) + column, (c * p + dy) * q + dx
        assert found[b, token, channel] == images[b, c, row * p + dy, column * q + dx]


def test_input_is_rounded_half_to_even_and_saturated():
    node = QPatches("p", "x.int8", "x", (0, 0), 0.5)
    found = golden.quantize_input(node, np.array([[[0.24, 0.25, 0.75, -0.75, 63.4, 63.6, 1e9, -1e9]]]))
    assert found.dtype == np.int8 and found.ravel().tolist() == [0, 0, 2, -2, 127, 127, 127, -127]


@pytest.mark.parametrize("images, text", [
    (np.zeros((1, 4)), "has shape (1, 4) and dtype float64"),
    (np.zeros((1, 1, 4, 4), complex), "dtype complex128"),
    (np.full((1, 1, 4, 4), np.nan), "holds NaN or infinite"),
    (np.zeros((1, 1, 5, 4)), "images of 5x4 do not divide into 2x2 patches"),
])
def test_bad_images_are_refused(images, text):
    with pytest.raises(InputError) as error:
        golden.quantize_input(QPatches("p", "x.int8", "x", (2, 2), 1.0), images)
    assert text in str(error.value) and "'x'" in str(error.value)


# ---------------------------------------------------------------- accumulators

def linear_graph(node, k, n):
    start = QPatches("p", "x", "in", (0, 0), 1.0)
    return QGraph("g", (start, node), {"x": (4, k), node.output: (4, n)}, 1.0)


def test_accumulator_bound_is_reached_by_the_worst_input():
    rng = np.random.default_rng(0)
    w = weights(rng.integers(-127, 128, (300, 5)), bias=-12345)
    usage = golden.check_accumulators(linear_graph(QLinear("fc", "y", "x", w, None, 1.0), 300, 5))
    signs = np.sign(w.weight.astype(np.int64))
    worst = [abs(int((-128 * signs[:, n]) @ w.weight[:, n].astype(np.int64)) + int(w.bias[n])) for n in range(5)]
    assert usage == {"y": max(worst) / (2 ** 31 - 1)}


@pytest.mark.parametrize("node, what", [
    (QLinear("fc", "y", "x", weights(np.full((1, 1), 127), bias=2 ** 31 - 1), None, 1.0), "QLinear node 'fc'"),
    (QResidualLinear("proj", "y", "x", "r", weights(np.full((140_000, 1), 127)), 0), "QResidualLinear node 'proj'"),
    (QHead("head", "y", "x", weights(np.full((40_000, 1), 127)), (0, 4), "y", (1, 1)), "QHead node 'head'"),
])
def test_an_accumulator_that_can_overflow_is_refused(node, what):
    with pytest.raises(ModelError) as error:
        golden.check_accumulators(linear_graph(node, *node.w.weight.shape))
    assert "an int32 holds 2147483647" in str(error.value) and what in str(error.value)


def test_attention_accumulators():
    node = QAttention("a", "y", "x", "x", "x", 1, 32768, 15, 32768, 15, 1.0)
    graph = linear_graph(node, 64, 64)
    assert golden.check_accumulators(graph)["y"] == 64 * 128 * 127 / (2 ** 31 - 1)
    with pytest.raises(ModelError, match="P @ V can reach"):
        golden.check_accumulators(replace(graph, shapes={"x": (70_000, 64), "y": (70_000, 64)}))


def test_unknown_node_is_refused():
    with pytest.raises(ModelError, match="does not know QNode"):
        golden._step(golden.QNode("n", "y"), {}, np.zeros(1), {})
