"""Every kernel header on its own, compiled by the C++ compiler, against the numpy functions: every word equal."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import subprocess

import numpy as np
import pytest

from hwgen import functions, numerics as nx
from hwgen.engines.hls import csim, fused_attention, project
from hwgen.knots import knots
from hwgen.layout import image
from hwgen.paths import data_dir
from hwgen.steps import golden
from hwgen.steps.format import INT8, SCORES, WIDE
from hwgen.steps.param import Columns, Factor, Param, ShortColumns
from hwgen.steps.stages import (
    Constant,
    Exp2,
    Host,
    Identity,
    Keys,
    Normalize,
    Plain,
    Requant,
    Restore,
    RowFactor,
    Stationary,
    Table,
    Values,
)
from hwgen.steps.step import Network, Step
from hwgen.steps.tensor import Memory, Span, Tensor
from hwgen.tools import cxx

KERNELS = Path(os.environ.get("HWGEN_TEST_KERNELS", data_dir("hls")))           # other kernels: test_mutations.py
HEADERS = sorted((KERNELS / "include" / "hwgen").glob("*.hpp"))
LANES = (8, 16)
FUNCTIONS = (*functions.FUNCTIONS, *(f"{name}(0.25)" for name in functions.FAMILIES))
COLUMNS = "ACTIVATED, a factor a column"
TARGETS = {"ACT": 0, "ACTIVATED": 1, "RESIDUAL": 2, "LOGITS": 4, "OUTPUT": 5, "OUTPUT of each token": 5, "OPERAND": 6, "MULTIPLIED": 7,
           "MULTIPLIED, no function": 7}
rng = np.random.default_rng(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An HLS folder: kernels, stub, tables."""
    root = tmp_path_factory.mktemp("kernels")
    for name in ("include", "stub"):
        (root / name).symlink_to(KERNELS / name)
    (root / "hwgen_tables.hpp").write_text(project.tables(FUNCTIONS))
    return root


@pytest.fixture(scope="module")
def kernel(folder):
    """kernel("name", arrays...) -> int64 words the C++ wrote."""
    executable = cxx.compile([KERNELS / "tests" / "kernels.cpp"], folder / "kernels", csim.compiler_flags(folder, ["-Werror"]))

    def run(name, *arrays):
        data = np.concatenate([np.ravel(np.asarray(a, np.int64)) for a in arrays]).tobytes()
        return np.frombuffer(subprocess.run([executable, name], input=data, capture_output=True, check=True).stdout, np.int64)
    return run


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_a_header_stands_alone(header, folder):
    """Compiles without any other, without a warning."""
    (folder / "alone.cpp").write_text(f'#include "hwgen/{header.name}"\n')
    subprocess.run([cxx.find(), *csim.compiler_flags(folder, ["-Werror"]), "-fsyntax-only", folder / "alone.cpp"], check=True)


def test_requantize(kernel):
    acc = np.concatenate([rng.integers(-2**31, 2**31, 4000), [2**31 - 1, -2**31, 0, 1, -1]])
    mult, shift = rng.integers(0, 2**16, len(acc)), rng.integers(1, 48, len(acc))
    wanted = np.stack([nx.requantize(acc, mult, shift, bits) for bits in (8, 16)], axis=1)
    assert np.array_equal(kernel("requantize", np.stack([acc, mult, shift], axis=1)), wanted.ravel())


@pytest.mark.parametrize("frac", nx.PRE_ACT_FRACS)
@pytest.mark.parametrize("number, function", [*enumerate(FUNCTIONS)])
def test_activation_every_input(kernel, number, function, frac):
    x = np.arange(-32767, 32768)
    assert np.array_equal(kernel("activation", number, frac, x), nx.activation(x, knots(function), frac))


@pytest.mark.parametrize("frac", nx.SCORE_FRACS)
def test_exponentials_every_distance(kernel, frac):
    x = np.arange(65535)
    assert np.array_equal(kernel("exponentials", frac, x), np.stack([nx.exp2_p8(x, frac), nx.exp2_q15(x)], axis=1).ravel())


@pytest.mark.parametrize("name, function, top", [("reciprocal", nx.reciprocal, 2**31), ("rsqrt", nx.rsqrt, 2**58)])
def test_table_and_newton_step(kernel, name, function, top):
    x = np.unique(np.concatenate([np.arange(1, 3000), 2 ** rng.uniform(0, np.log2(top), 20000)]).astype(np.int64))
    assert np.array_equal(kernel(name, x), np.stack(function(x), axis=1).ravel())


def test_online_softmax(kernel):
    x = rng.integers(-32767, 32768, (500, 9)) // np.array([1, 16, 64, 256, 1024])[:, None].repeat(100, 0)
    assert np.array_equal(kernel("online_softmax", 9, x), np.stack(nx.online_softmax(x), axis=1).ravel())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("tokens, channels", [(1, 8), (9, 20), (40, 48)])
def test_layer_norm(kernel, lanes, tokens, channels):
    inverse, out = nx.quantize_multiplier(16 / channels), nx.quantize_multiplier(channels / 16 / 0.02)
    x = rng.integers(-20000, 20000, (tokens, channels))
    x[0], x[-1] = 77, np.arange(channels) % 2                # rows in which eps counts: none and hardly any variance
    residual, result = Tensor("x", WIDE, tokens, channels, memory=Memory.RES), Tensor("n", INT8, tokens, channels)
    start = Step("x", "x", Constant(Param("x", x.astype(np.int16))), Identity(), (residual.view(),))
    norm = Step("n", "n", Normalize(61, Factor(*inverse), Factor(*out)), Identity(), (result.view(),), residual.view())
    wanted = completed(Network("norm", (start, norm), ()), np.zeros((1, 1, 1), np.int8), "n")
    assert np.array_equal(kernel(f"layer_norm{lanes}", tokens, channels, 61, inverse, out, x), wanted.ravel())


def weights(tokens: int, k: int, n: int) -> Step:
    """A product with random weights."""
    tile = Stationary(Param("w", rng.integers(-127, 128, (k, n)).astype(np.int8)), Param("b", rng.integers(-5000, 5000, n).astype(np.int32)),
                      Param("s", np.ones(n)))
    factors = Columns(Param("m", rng.integers(2**15, 2**16, n)), Param("h", rng.integers(20, 26, n)))
    x, y = Tensor("x", INT8, tokens, k), Tensor("y", INT8, tokens, n)
    return Step("y", "y", Plain(), tile, (y.view(),), x.view(), (Requant(factors),))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("target", [*TARGETS, COLUMNS])
@pytest.mark.parametrize("tokens, k, n, pre", [(3, 16, 16, 10), (33, 40, 20, 8), (12, 7, 50, 7)])
def test_linear(kernel, lanes, target, tokens, k, n, pre):
    """Tiles that are not full, fewer and more tokens than lanes; stream read to its end. pre: fraction bits of a pre-activation."""
    step, x = weights(tokens, k, n), rng.integers(-127, 128, (tokens, k))
    (requant,) = step.drain
    if target.startswith("MULTIPLIED"):              # large enough factors that the products are not all near 0
        requant = Requant(Columns(requant.factor.mult, Param("h", np.full(n, 20))))
        step = replace(step, drain=(requant,))
    out, residual = (40000, 26), rng.integers(-32767, 32768, (tokens + 2, n))
    acc = nx.matmul(x, step.weights.weight.array) + step.weights.bias.array
    wide = requant.factor.apply(acc, WIDE)
    rows, first, dst_tokens = tokens, 0, tokens
    match target:
        case "ACT":
            wanted = requant.factor.apply(acc, INT8)
        case "ACTIVATED":
            wanted = nx.requantize(nx.activation(wide, knots("gelu"), pre), *out, 8)
        case _ if target == COLUMNS:
            out = (0, 27)
            factors = ShortColumns(Param("second", nx.short_multiplier(rng.integers(0, 640, n))), out[1])
            step = replace(step, drain=(requant, Table("gelu", factors)))
            wanted = factors.apply(nx.activation(wide, knots("gelu"), pre), INT8)
        case "RESIDUAL":
            first, dst_tokens, wanted = 1, tokens + 2, residual.copy()
            wanted[1:1 + tokens] = nx.sat(wanted[1:1 + tokens] + wide, 16)
        case "LOGITS" | "OPERAND":
            wanted = wide
        case "MULTIPLIED" | "MULTIPLIED, no function":
            pre, out = (pre, (1, 27)) if target == "MULTIPLIED" else (0, (1, 20))
            residual, looked = residual[:tokens], nx.activation(wide, knots("gelu"), pre) if pre else wide
            wanted = nx.sat(nx.round_shift(looked * residual, out[1]), 8)
            assert len(np.unique(wanted)) > 12
        case "OUTPUT":
            first, rows, dst_tokens, wanted = 1, tokens - 1, 1, acc[1:].sum(0)
        case "OUTPUT of each token":
            first, rows, dst_tokens, wanted = 1, tokens - 1, tokens - 1, acc[1:]
    stream = np.frombuffer(image.product(step, image.Shape(lanes, lanes, lanes), pack=False), np.uint8)
    found = kernel(f"linear{lanes}", tokens, k, n, rows, first, dst_tokens, TARGETS[target.split(",")[0]], out, pre, x,
                   residual if TARGETS[target.split(",")[0]] in (2, 7) else [], stream)
    assert np.array_equal(found, [1, *wanted.ravel()])


def attention_case(tokens, heads, dim, form=SCORES[0], queries=None, value_dim=None):
    q, k, v = (rng.integers(-127, 128, (rows, heads * width)) for rows, width in ((queries or tokens, dim), (tokens, dim), (tokens, value_dim or dim)))
    score, out = nx.quantize_multiplier(3.5 * 2 ** form.frac / (127 * 127 * dim ** 0.5)), nx.quantize_multiplier(1.7)
    return q, k, v, score, out


def exact(q, k, v, heads, score, out, form=SCORES[0], limit=0) -> np.ndarray:
    """The integer model's attention; q, k, v are parts of what the host sends, and rows of q that are not used are zeros."""
    (queries, channels), tokens, width = q.shape, len(k), v.shape[1]
    rows = max(queries, tokens)
    sent, scores = Tensor("qkv", INT8, rows, 2 * channels + width), Tensor("s", form, queries, heads * tokens, memory=Memory.SCORE)
    query, key, value = (sent.view(Span(0, len(part)), Span(place * channels, part.shape[1])) for place, part in enumerate((q, k, v)))
    steps = (Step("qkv", "", Host("qkv", None), Identity(), (sent.view(),)),
             Step("a", "", Plain(), Keys(key, limit), (scores.view(),), query, (Requant(Factor(*score), form),), part="scores", heads=heads),
             Step("a", "", Exp2(limit), Values(value), (Tensor("a", INT8, queries, width).view(),), scores.view(),
                  (Restore(), RowFactor(Factor(*out))), heads=heads))
    words = np.concatenate([np.pad(part, ((0, rows - len(part)), (0, 0))) for part in (q, k, v)], axis=1)
    return completed(Network("attention", steps, ()), words[None], "a")[0]


def completed(network: Network, words: np.ndarray, name: str) -> np.ndarray:
    """A value of the golden model as it was when it was complete."""
    found: dict[str, np.ndarray] = {}
    golden.evaluate(network, words, found)
    return found[name]


ATTENTIONS = [(1, 1, 8), (2, 2, 16), (9, 3, 12), (40, 2, 24), (17, 4, 5)]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("form", SCORES, ids=str)
@pytest.mark.parametrize("limit", [0, 1, 4], ids=["all keys", "causal", "some keys in front"])
@pytest.mark.parametrize("tokens, heads, dim", ATTENTIONS)
def test_attention(kernel, lanes, tokens, heads, dim, form, limit):
    """Heads inside a word, across words, fewer tokens than resident queries."""
    q, k, v, score, out = attention_case(tokens, heads, dim, form)
    wanted = exact(q, k, v, heads, score, out, form, limit)
    assert np.array_equal(kernel(f"attention{lanes}", tokens, tokens, heads, dim, dim, score, out, form.frac, limit, 0, q, k, v), wanted.ravel())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("queries, tokens, heads, dim, value_dim", [(1, 9, 3, 12, 12), (2, 40, 2, 24, 24), (5, 1, 1, 8, 8), (17, 9, 4, 5, 11), (40, 33, 2, 16, 6),
                                                                    (7, 7, 3, 4, 40), (7, 9, 2, 40, 3)])
def test_attention_with_numbers_of_their_own(kernel, lanes, queries, tokens, heads, dim, value_dim):
    """Of queries and of keys; of channels of keys and of values, those of a head in more words or in fewer."""
    q, k, v, score, out = attention_case(tokens, heads, dim, queries=queries, value_dim=value_dim)
    wanted = exact(q, k, v, heads, score, out)
    assert np.array_equal(kernel(f"attention{lanes}", tokens, queries, heads, dim, value_dim, score, out, SCORES[0].frac, 0, 0, q, k, v), wanted.ravel())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("tokens, heads, dim", ATTENTIONS)
def test_fused_attention(kernel, lanes, tokens, heads, dim):
    q, k, v, score, out = attention_case(tokens, heads, dim)
    wanted = fused_attention.attention(q, k, v, heads, score, out)
    assert np.array_equal(kernel(f"fused{lanes}", tokens, tokens, heads, dim, dim, score, out, SCORES[0].frac, 0, 0, q, k, v), wanted.ravel())


def test_fused_attention_is_close_to_the_exact_one():
    q, k, v, score, out = attention_case(40, 2, 24)
    error = fused_attention.attention(q, k, v, 2, score, out) - exact(q, k, v, 2, score, out)
    assert 0 < np.abs(error).max() <= 2


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("tokens, experts, top_k, renormalize, span", [
    (1, 1, 1, False, 100), (30, 4, 2, True, 2000), (40, 16, 4, False, 3), (25, 20, 3, True, 30000), (12, 3, 3, False, 1)])
def test_router(kernel, lanes, tokens, experts, top_k, renormalize, span):
    """A span of 1 or 3: ties everywhere, the lowest expert wins."""
    logits = rng.integers(-span, span + 1, (tokens, experts))
    chosen, scores = nx.route(logits, top_k, renormalize)
    wanted = []
    for e in range(experts):
        t, slot = np.nonzero(chosen == e)
        wanted += [len(t), *np.stack([t, scores[t, slot]], axis=1).ravel()]
    assert np.array_equal(kernel(f"router{lanes}", tokens, experts, top_k, renormalize, logits), wanted)


@pytest.mark.parametrize("lanes", LANES)
def test_patches_and_residual(kernel, lanes):
    patches, table = rng.integers(-127, 128, (1, 9, 20)).astype(np.int8), rng.integers(-32767, 32768, (9, 20)).astype(np.int16)
    shape = image.Shape(lanes, lanes, lanes)
    stream = image.frames(patches, shape).tobytes() + image.constant(table, shape)
    found = kernel(f"patches{lanes}", 9, 20, np.frombuffer(stream, np.uint8))
    assert np.array_equal(found, [*patches.ravel(), *table.ravel()])
