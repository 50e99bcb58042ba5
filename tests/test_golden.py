"""The integer golden model, step by step, against real arithmetic on the same integers; and what the host does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwgen import numerics
from hwgen.errors import InputError
from hwgen.functions import Act
from hwgen.steps import golden, host
from hwgen.steps.format import ACCUMULATOR, INT8, LOGIT, PRE_ACTIVATION, SHARE, WIDE
from hwgen.steps.param import Columns, Factor, Param
from hwgen.steps.stages import (
    Add,
    Constant,
    Exp2,
    Gather,
    Host,
    Identity,
    Keys,
    Mean,
    Normalize,
    Plain,
    Requant,
    Route,
    RowFactor,
    Score,
    Stationary,
    Table,
)
from hwgen.steps.step import Expert, Keep, Network, Output, Step
from hwgen.steps.tensor import Memory, Tensor
from hwgen.steps.verify import verify
from hwgen.steps.window import Window
from qgraphs import random_images, random_model, random_qgraph

CASES = {
    "dense": {"blocks": "d"},
    "moe": {"blocks": "m", "experts": 5, "top_k": 3, "renormalize": False},
    "moe_renormalized": {"blocks": "m"},
    "silu_no_class_token": {"blocks": "dm", "class_token": False, "pool": "mean", "act": Act.SILU, "tokens": 6},
    "one_head": {"blocks": "d", "heads": 1},
    "mean_without_class_token": {"blocks": "d", "pool": "mean"},
    "relu": {"blocks": "d", "act": Act.RELU, "channels": 3, "heads": 4},
}
UNIT = 0.5 + 127 * 2.0 ** -13       # half an output step, and the multiplier's 14 to 16 bits


@pytest.fixture(scope="module", params=CASES)
def case(request):
    options = CASES[request.param]
    network = random_qgraph(seed=3, **options).tasks[0]
    images = random_images(random_model(seed=3, **options), 6)
    return network, images, golden.trace(network, images, detail=True)


def steps_with(network, *kinds):
    """The steps that have a feed, an operand or a stage of each of these kinds."""
    return [step for step in network.steps
            if all(any(isinstance(record, kind) for record in (step.feed, step.tile, *step.drain)) for kind in kinds)]


def stage(step, kind):
    return next(record for record in step.drain if isinstance(record, kind))


def before(network, step, values):
    """The residual stream as it was before a step, under the name of the value that was newest then."""
    index = next(i for i, other in enumerate(network.steps) if other.value == step.value)
    return values[next(other.value for other in reversed(network.steps[:index]) if other.sink.tensor.memory is Memory.RES)]


def ratio(factor):
    mult, shift = (part.array if isinstance(part, Param) else part for part in (factor.mult, factor.shift))
    return mult / 2.0 ** shift


def product(x, step):
    """Accumulators of a step with weights."""
    return x @ step.tile.weight.array.astype(np.int64) + step.tile.bias.array


def act_real(kind, x):
    erf = np.vectorize(math.erf)
    return {"gelu": lambda: 0.5 * x * (1 + erf(x / math.sqrt(2))), "silu": lambda: x / (1 + np.exp(-x)), "relu": lambda: np.maximum(x, 0)}[kind]()


def linear_real(x, step):
    """Real-valued int8 result (unrounded) and its error bound in output steps."""
    pre = product(x, step) * ratio(stage(step, Requant).factor)
    if len(step.drain) == 1:
        return np.clip(pre, -127, 127), 0.5
    table = stage(step, Table)
    scale = ratio(table.factor) * 2.0 ** 16                         # output steps per 1.0
    y = act_real(table.function, np.clip(pre, -32767, 32767) * 2.0 ** -table.x.frac)
    return np.clip(y * scale, -127, 127), 0.5 + scale * (0.5 * 1.13 * 2.0 ** -table.x.frac + 1.2e-4)


def test_values_are_in_range_and_used(case):
    network, _, values = case
    memories = {step.value: step for step in network.steps}
    for name, step in memories.items():
        tensor, value = step.sink.tensor, values[name]
        assert np.abs(value).max() <= tensor.format.hi and value.any(), name
        assert value.shape[1:] == ((tensor.channels,) if tensor.memory is Memory.OUT else (tensor.tokens, tensor.channels))
        if tensor.format == INT8:
            assert (np.abs(value) == 127).mean() < 0.05, f"{name} is saturated"


def test_norm(case):
    network, _, values = case
    found = steps_with(network, Normalize)
    assert found
    for step in found:
        x = before(network, step, values).astype(np.float64)
        std = np.sqrt(x.var(-1, keepdims=True) + step.feed.eps / x.shape[-1] ** 2)
        real = (x - x.mean(-1, keepdims=True)) / std / step.sink.tensor.scale
        assert np.abs(values[step.value] - np.clip(real, -127, 127)).max() <= UNIT + 0.02


def test_linear(case):
    network, _, values = case
    found = [step for step in steps_with(network, Stationary) if step.sink.tensor.memory is Memory.ACT and step.expert is None]
    assert found
    for step in found:
        real, bound = linear_real(values[step.source.name], step)
        assert (np.abs(values[step.value] - real) <= bound).all()


def test_residual_linear(case):
    network, _, values = case
    found = [step for step in steps_with(network, Add) if step.expert is None]
    assert found
    for step in found:
        old, new = before(network, step, values), values[step.value]
        update = product(values[step.source.name], step) * ratio(stage(step, Requant).factor)
        part = step.sink.tokens.slice
        rest = np.delete(np.arange(old.shape[1]), np.arange(old.shape[1])[part])
        assert (new[:, rest] == old[:, rest]).all()
        assert np.abs(new[:, part] - np.clip(old[:, part] + update, -32767, 32767)).max() <= 0.5


def test_attention(case):
    network, _, values = case
    assert steps_with(network, Keys)
    for first, second in zip(steps_with(network, Keys), steps_with(network, Exp2), strict=True):
        q, k, v = (values[name].astype(np.float64) for name in (first.source.name, first.tile.view.name, second.tile.view.name))
        d = q.shape[-1] // first.heads
        for h in range(first.heads):
            part = slice(h * d, (h + 1) * d)
            scores = q[..., part] @ k[..., part].transpose(0, 2, 1) * ratio(stage(first, Requant).factor)
            assert np.abs(values[f"{first.value}.scores"][:, h] - scores).max() <= 0.5
            p = np.exp2((scores - scores.max(-1, keepdims=True)) / 2 ** numerics.SCORE_FRAC)
            real = p @ v[..., part] / p.sum(-1, keepdims=True) * ratio(stage(second, RowFactor).factor)
            error = np.abs(values[second.value][..., part] - np.clip(real, -127, 127))
            assert error.max() <= 0.5 + 127 * 0.02
            row_sum = values[f"{second.value}.row_sum"][:, h]
            assert row_sum.min() >= 255                             # the row maximum counts 255
            assert np.abs(row_sum - 255 * p.sum(-1)).max() <= p.shape[-1]


def test_moe(case):
    network, _, values = case
    for gate in steps_with(network, Route):
        route, x, shown = stage(gate, Route), values[gate.source.name], gate.value
        found = values[f"{shown}.logits"]
        assert np.abs(found - product(x, gate) * ratio(stage(gate, Requant).factor)).max() <= 0.5
        p = np.exp2(found / 2 ** numerics.LOGIT_FRAC)
        kept = np.zeros_like(p)
        for index in np.ndindex(p.shape[:-1]):
            chosen = sorted(range(p.shape[-1]), key=lambda e, row=found[index]: (-row[e], e))[:route.top_k]
            kept[index][chosen] = p[index][chosen]
        kept /= (kept if route.renormalize else p).sum(-1, keepdims=True)
        update, bound = np.zeros(x.shape), 0.0
        experts = [step for step in network.steps if step.expert is not None and step.value == shown]
        for e, (first, second) in enumerate(zip(experts[::2], experts[1::2], strict=True)):
            hidden, hidden_error = linear_real(x, first)
            factor, weight = ratio(stage(second, Requant).factor), second.tile.weight.array.astype(np.int64)
            update += kept[..., e:e + 1] * (product(hidden, second) * factor)
            bound += (kept[..., e].max() * hidden_error * np.abs(weight).sum(0) * factor).max() + 40
        difference = np.abs(values[shown] - before(network, gate, values) - update)
        assert difference.max() <= bound
        assert np.sqrt((difference ** 2).mean()) <= 0.03 * np.sqrt((update ** 2).mean())


def test_head_is_exact(case):
    network, images, values = case
    outputs = golden.run(network, images)
    for step, output in zip(steps_with(network, Mean), network.outputs, strict=True):
        x = values[step.source.name][:, step.source.tokens.slice]
        exact = product(x, step).sum(1)
        assert outputs[output.name].dtype == np.int32 and (outputs[output.name] == exact).all()
        real = host.dequantize(network, outputs)[output.name]
        assert real.dtype == np.float32
        np.testing.assert_allclose(real, exact * step.tile.scale.array / x.shape[1], rtol=1e-6)


def test_images_do_not_influence_each_other(case, monkeypatch):
    network, images, _ = case
    whole = golden.run(network, images)
    monkeypatch.setattr(golden, "CHUNK_ELEMENTS", 1)
    chunked = golden.run(network, images)
    monkeypatch.undo()
    for name in whole:
        single = np.concatenate([golden.run(network, images[i:i + 1])[name] for i in range(len(images))])
        assert (whole[name] == chunked[name]).all() and (whole[name] == single).all()


def test_no_images_give_no_outputs(case):
    network, images, _ = case
    assert all(len(value) == 0 for value in golden.run(network, images[:0]).values())


# ---------------------------------------------------------------- details worked out by hand

def tile(name, matrix, bias=0):
    matrix = np.asarray(matrix, np.int8)
    n = matrix.shape[1]
    return Stationary(Param(f"{name}.w", matrix), Param(f"{name}.b", np.full(n, bias, np.int32)), Param(f"{name}.s", np.ones(n)))


def times(count, shift=15):
    """A factor of ``2**(15 - shift)`` for each of ``count`` columns."""
    return Columns(Param(f"{count}.mult", np.full(count, 1 << 15)), Param(f"{count}.{shift}", np.full(count, shift)))


@pytest.mark.parametrize("start, expected", [(0, 1), (30000, 16384), (-30000, -29999)])
def test_experts_add_in_index_order_and_each_addition_saturates(start, expected):
    """Expert 0 gives +32767, expert 1 -32767, score one half each: +16384, then -16383. 30000 saturates in between."""
    x, r, out = Tensor("x", INT8, 1, 1, 1.0), Tensor("r", WIDE, 1, 1, 1.0, Memory.RES), Tensor("o", ACCUMULATOR, 1, 1, memory=Memory.OUT)
    queue = Tensor("q", SHARE, 1, 2, memory=Memory.ROUTER).view()
    table = Table("relu", Factor(*numerics.quantize_multiplier(2.0 ** -16 * 40)))
    keeps = (Keep.MOMENTS,)
    steps = [Step("x", "n", Host("x", None), Identity(), (x.view(),)),
             Step("r", "n", Constant(Param("c", np.array([[start]], np.int16))), Identity(), (r.view(),), keeps=keeps),
             Step("y", "n", Plain(), tile("gate", [[0, 0]]), (queue,), x.view(), (Requant(times(2), LOGIT), Route(2, True)), part="gate")]
    for e, weight in enumerate((120, -120)):
        hidden = Tensor(f"h{e}", INT8, 1, 1, 1.0)
        steps += [Step("y", "n", Gather(), tile(f"first{e}", [[100]]), (hidden.view(),), x.view(), (Requant(times(1, 5), PRE_ACTIVATION), table),
                       part=f"{e}.1", expert=Expert(e, 2, queue)),
                  Step("y", "n", Plain(), tile(f"second{e}", [[weight]]), (r.view(),), hidden.view(),
                       (Requant(times(1, 6), WIDE), Score(), Add(r.view())), keeps, part=f"{e}.2", expert=Expert(e, 2, queue))]
    head = tile("head", [[1]])
    steps.append(Step("o", "n", Plain(), head, (out.view(),), x.view(), (Mean(),)))
    network = Network("g", tuple(steps), (Output("o", out, head.scale, 1, (1, 1)),))
    verify(network)
    found = golden.trace(network, np.array([[[1.0]]]), detail=True)
    assert found["y.experts"].tolist() == [[[0, 1]]] and found["y.weights"].tolist() == [[[32768, 32768]]]
    assert found["y"].item() == expected


def network_of(patch, scale=1.0, shape=(4, 4)):
    """The host's part alone."""
    x = Tensor("x.int8", INT8, *shape, scale)
    return Network("g", (Step("x.int8", "p", Host("x", Window.patch(*patch) if patch else None), Identity(), (x.view(),)),), ())


@pytest.mark.parametrize("channels, patch, size", [(1, (2, 2), (8, 8)), (3, (2, 4), (4, 8))])
def test_patches_are_row_major_and_channels_c_dy_dx(channels, patch, size):
    rng = np.random.default_rng(0)
    images = rng.integers(-127, 128, (2, channels, *size)).astype(np.float32)
    p, q = patch
    found = host.quantize_input(network_of(patch), images)
    for b, row, column, c, dy, dx in np.ndindex(2, size[0] // p, size[1] // q, channels, p, q):
        token, channel = row * (size[1] // q) + column, (c * p + dy) * q + dx
        assert found[b, token, channel] == images[b, c, row * p + dy, column * q + dx]


def test_input_is_rounded_half_to_even_and_saturated():
    found = host.quantize_input(network_of(None, 0.5), np.array([[[0.24, 0.25, 0.75, -0.75, 63.4, 63.6, 1e9, -1e9]]]))
    assert found.dtype == np.int8 and found.ravel().tolist() == [0, 0, 2, -2, 127, 127, 127, -127]
    assert host.input_clipped(network_of(None, 0.5), np.array([1.0, 63.5, 63.8, -64.0])) == 0.5


@pytest.mark.parametrize("images, text", [
    (np.zeros((1, 4)), "has shape (1, 4) and dtype float64"),
    (np.zeros((1, 1, 4, 4), complex), "dtype complex128"),
    (np.full((1, 1, 4, 4), np.nan), "holds NaN or infinite"),
    (np.zeros((1, 1, 1, 4)), "images of 1x4 hold no window of 2x2"),
])
def test_bad_images_are_refused(images, text):
    with pytest.raises(InputError) as error:
        host.quantize_input(network_of((2, 2)), images)
    assert text in str(error.value) and "'x'" in str(error.value)
