"""Constant tokens put among those of a sequence: in front, behind, in between, in front of each group; by Concat, Pad or ScatterND."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen import api, ops, quantizer
from hwgen.errors import ModelError
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.steps import golden, host
from onnx_nets import DIM, Net, result
from rule_checks import K, accepted, declined, kinds, tokens

T = 6
END = np.iinfo(np.int64).max


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def part(net: Net, x: str, start: int, stop: int) -> str:
    return net.op("Slice", x, net.ints(start), net.ints(stop), net.ints(1))


def rows(net: Net, count: int, *groups: int) -> str:
    return net.random(*(groups or (1,)), count, K)


def groups(net: Net, x: str, count: int) -> str:
    """A token in front of each of so many groups"""
    y = net.op("Concat", rows(net, 1, count), net.op("Reshape", x, net.ints(count, -1, K)), axis=1)
    return net.op("Reshape", y, net.ints(1, -1, K))


def scattered(net: Net, x: str) -> str:
    """zeros; x[:, 0] = class token; x[:, 1:] = patches"""
    y = net.op("ScatterND", rows(net, T + 1), net.const([[0, t] for t in range(1, T + 1)], np.int64), net.op("Squeeze", x, net.ints(0)))
    return y


SPELLINGS = {
    "in front": (lambda net, x: net.op("Concat", rows(net, 2), x, axis=1), range(2, 8)),
    "in front, twice": (lambda net, x: net.op("Concat", rows(net, 1), net.op("Concat", rows(net, 1), x, axis=1), axis=1), range(2, 8)),
    "behind": (lambda net, x: net.op("Concat", x, rows(net, 2), axis=1), range(6)),
    "both": (lambda net, x: net.op("Concat", rows(net, 1), x, rows(net, 2), axis=1), range(1, 7)),
    "in between": (lambda net, x: net.op("Concat", part(net, x, 0, 1), rows(net, 3), part(net, x, 1, END), axis=1), [0, 4, 5, 6, 7, 8]),
    "turned round": (lambda net, x: net.op("Concat", part(net, x, 4, END), rows(net, 1), part(net, x, 0, 4), axis=1), [3, 4, 5, 6, 0, 1]),
    "two groups": (lambda net, x: groups(net, x, 2), [1, 2, 3, 5, 6, 7]),
    "three groups": (lambda net, x: groups(net, x, 3), [1, 2, 4, 5, 7, 8]),
    "Pad": (lambda net, x: net.op("Pad", x, net.ints(0, 1, 0, 0, 2, 0)), range(1, 7)),
    "Pad with a number": (lambda net, x: net.op("Pad", x, net.ints(0, 1, 0, 0, 0, 0), net.const(0.5)), range(1, 7)),
    "ScatterND": (scattered, range(1, 7)),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_constant_tokens(path, name):
    spelling, places = SPELLINGS[name]
    net = Net()
    spelling(net, net.linear(tokens(net, T), K, K))
    graph = accepted(net, path)
    found, count = np.arange(T), T
    for node in graph.nodes:
        if isinstance(node, ops.ConcatTokens):
            found, count = node.rows(count)[0][found], count + len(node.tokens)
    assert {*kinds(graph)} == {"Linear", "ConcatTokens"} and found.tolist() == [*places]


def test_a_factor_goes_into_the_weights_in_front(path):
    net = Net()
    x = net.op("Mul", net.linear(tokens(net, T), K, K), net.const(-0.5))
    net.op("Concat", part(net, x, 0, 1), rows(net, 1), part(net, x, 1, END), axis=1)
    assert "ConcatTokens" in kinds(accepted(net, path))


NEAR = {
    "two values": (lambda net, x: net.op("Concat", x, net.linear(x, K, K), axis=1), "joins 2 computed values"),
    "channels": (lambda net, x: net.op("Concat", net.random(1, T, 2), x, axis=2), "does not put tokens side by side"),
    "twice": (lambda net, x: net.op("Concat", x, x, rows(net, 1), axis=1), "does not take each of the 6 tokens"),
    "one left out": (lambda net, x: net.op("Concat", rows(net, 1), part(net, x, 1, END), axis=1), "does not take each of the 6 tokens"),
    "reflected": (lambda net, x: net.op("Pad", x, net.ints(0, 1, 0, 0, 0, 0), mode="reflect"), "is not supported"),
}


@pytest.mark.parametrize("name", NEAR)
def test_a_near_miss_is_refused(path, name):
    spelling, reason = NEAR[name]
    net = Net()
    spelling(net, net.linear(tokens(net, T), K, K))
    assert any(reason in found for found in declined(net, path).values())


# ---------------------------------------------------------------- whole networks

def encoder(net: Net, t: str) -> None:
    """A block, and a head on the mean of its tokens"""
    t = net.add(t, net.attention(net.norm(t)))
    t = net.add(t, net.mlp(net.norm(t)))
    net.head(net.norm(t), pool="mean")


def dim_rows(net: Net, count: int, *sizes: int) -> str:
    return net.random(*(sizes or (1,)), count, DIM)


NETWORKS = {
    "registers behind the class token": lambda net, x: net.op("Concat", part(net, x, 0, 1), dim_rows(net, 2), part(net, x, 1, END), axis=1),
    "registers behind": lambda net, x: net.op("Concat", x, dim_rows(net, 3), axis=1),
    "a token in front of each group": lambda net, x: net.op("Reshape", net.op("Concat", dim_rows(net, 1, 2), net.op(
        "Reshape", x, net.ints(2, -1, DIM)), axis=1), net.ints(1, -1, DIM)),
    "turned round": lambda net, x: net.op("Concat", part(net, x, 4, END), dim_rows(net, 1), part(net, x, 0, 4), axis=1),
}


@pytest.mark.parametrize("later", [False, True], ids=["", "behind a position embedding"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_stream_starts_with_them(path, name, later):
    net = Net()
    t = net.linear(net.input("x", [1, T, DIM]), DIM, DIM)
    t = NETWORKS[name](net, net.op("Add", t, dim_rows(net, T)) if later else t)
    encoder(net, net.op("Add", t, dim_rows(net, 1)))
    net.save(path, {"y": result(net)})
    checked = api.check(path)
    assert checked.ok and checked.onnx["onnx_cosine"] > 1 - 1e-9, str(checked.error)
    images = np.random.default_rng(3).normal(size=(40, T, DIM)).astype(np.float32)
    quantized, _ = quantizer.with_findings(checked.model, {"x": images[:32]})
    integers, right = golden.run(quantized.tasks[0], images[32:]), evaluate.run(checked.model.tasks[0], {"x": images[32:]})["y"]
    found = host.dequantize(quantized.tasks[0], integers)["y"].reshape(right.shape)
    assert (found * right).sum() > 0.99 * np.sqrt((found ** 2).sum() * (right ** 2).sum())


def test_constants_behind_an_input_that_starts_the_stream_are_refused(path):
    net = Net()
    encoder(net, net.op("Concat", net.input("x", [1, T, DIM]), dim_rows(net, 2), axis=1))
    net.save(path, {"y": result(net)})
    with pytest.raises(ModelError, match="puts constant tokens between those of the input 'x', or behind them"):
        quantizer.with_findings(import_model(path).model, None, random=True)
