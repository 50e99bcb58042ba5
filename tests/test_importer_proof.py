"""A rule that reads operators as something they do not compute is refused by what they compute, with the node and the difference."""

from __future__ import annotations

from dataclasses import replace
import re

import numpy as np
import pytest

from hwgen import ops
from hwgen.errors import ModelError
from hwgen.functions import FUNCTIONS, Act, Function
from hwgen.importer import import_model, sweep as sweeping
from hwgen.matching import proof
from hwgen.matching.trial import Match, in_order
from hwgen.ops.operands import operand
from hwgen.ops.registry import rules
from onnx_nets import CLASSES, DIM, Net, result, vit
from rule_checks import K, accepted, declined, kinds, tokens

REFUSED = r"was read as an? (\w+), which computes something else: on random values the results differ by up to (\S+), where the largest value is (\S+)"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def with_rules(monkeypatch, kind: str, rule) -> None:
    monkeypatch.setattr(sweeping, "rules", lambda: {**rules(), kind: (rule,)})


def changed(kind: str, change):
    """The first rule of an ONNX operator that matches, its node changed."""
    def rule(op, trial):
        for right in rules()[kind]:
            match = right(op, trial)
            if match is not None:
                return replace(match, nodes=(*match.nodes[:-1], change(match.nodes[-1])))
        return None
    return rule


def one_of(net: Net, kind: str) -> None:
    """A network whose operator of this kind is called "it"."""
    x = tokens(net)
    match kind:
        case "MatMul":
            net.op("MatMul", x, net.random(K, K), name="it")
        case "Gemm":
            net.op("Gemm", net.op("Gather", x, net.const(1, np.int64), axis=1), net.random(K, K), net.random(K), name="it")
        case "LayerNormalization":
            net.op("LayerNormalization", x, net.random(K), net.random(K), name="it")
        case "Mul":
            net.op("Mul", net.op("MatMul", x, net.random(K, K)), net.random(K), name="it")
        case "ReduceMean":
            net.op("ReduceMean", net.op("LayerNormalization", x, net.random(K), net.random(K)), net.ints(1), keepdims=0, name="it")
        case "Concat":
            net.op("Concat", net.random(1, 2, K), x, axis=1, name="it")
        case "Gelu":
            net.op("Gelu", x, name="it")


@pytest.mark.parametrize("kind, change, rank", [
    ("MatMul", lambda node: replace(node, weight=node.weight.T.copy()), 3),
    ("Gemm", lambda node: replace(node, bias=2 * node.bias), 2),
    ("LayerNormalization", lambda node: replace(node, beta=-node.beta), 3),
    ("LayerNormalization", lambda node: replace(node, eps=0.01), 3),
    ("Mul", lambda node: replace(node, weight=node.weight[:, ::-1].copy()), 3),
    ("ReduceMean", lambda node: replace(node, start=1), 2),
    ("Concat", lambda node: replace(node, tokens=node.tokens[::-1].copy()), 3),
    ("Gelu", lambda node: replace(node, kind=Act.SILU), 3)])
def test_a_wrong_candidate_is_refused(path, monkeypatch, kind, change, rank):
    net = Net()
    one_of(net, kind)
    with_rules(monkeypatch, kind, changed(kind, change))
    reason = declined(net, path, rank=rank)["it"]
    found = re.fullmatch(REFUSED, reason)
    assert found is not None, reason
    assert 1e-4 < float(found[2]) / float(found[3]) < 10
    with monkeypatch.context() as undo:
        undo.setattr(sweeping, "rules", rules)
        accepted(net, path, rank=rank)                                  # the rule as it is


@pytest.mark.parametrize("part, change", [
    ("Attention", lambda node: replace(node, scale=2 * node.scale)), ("Attention", lambda node: replace(node, q=node.k, k=node.q)),
    ("Attention", lambda node: replace(node, num_heads=1)), ("Add", lambda node: replace(node, y=node.x)),
    ("MoE", lambda node: replace(node, renormalize=True)), ("MoE", lambda node: replace(node, top_k=1)),
    ("MoE", lambda node: replace(node, w2=node.w2[::-1].copy())), ("PatchEmbed", lambda node: replace(node, weight=node.weight.swapaxes(2, 3).copy()))])
def test_a_wrong_part_of_a_network_is_refused(path, monkeypatch, part, change):
    net = vit(router="plain")
    kind = {"Attention": "MatMul", "Add": "Add", "MoE": "ReduceSum", "PatchEmbed": "Conv"}[part]
    with_rules(monkeypatch, kind, changed(kind, lambda node: change(node) if type(node).__name__ == part else node))
    assert any(re.fullmatch(REFUSED, reason) and f" {part}, " in reason for reason in declined(net, path, rank=2).values())


def test_a_wrong_order_is_refused(path, monkeypatch):
    """The nodes are right, and where their result stands in the ONNX value is not."""
    def turned(op, trial):
        found = next(match for rule in rules()["Conv"] if (match := rule(op, trial)) is not None)
        return replace(found, positions=found.positions[::-1].copy())
    with_rules(monkeypatch, "Conv", turned)
    assert re.fullmatch(REFUSED, declined(vit(), path, rank=2)["conv_0"])


def test_an_operator_that_mixes_tokens_is_no_operator_on_each(path, monkeypatch):
    def rule(op, trial):
        x = operand(trial, op.operand(0))
        return x and Match((ops.Activation(op.name, op.outputs[0], x.value, Act("identity")),), in_order(*x.shape))

    monkeypatch.setitem(FUNCTIONS, "identity", Function("identity", lambda x: x))
    with_rules(monkeypatch, "CumSum", rule)
    net = Net()
    net.op("CumSum", tokens(net, 9), net.const(1, np.int64), name="it")
    assert declined(net, path)["it"].startswith("was read as an Activation, which computes something else")
    alone = Net()                                                       # along the channels of one channel it is one
    net_input = alone.input("x", [1, 9, 1])
    alone.op("CumSum", net_input, alone.const(2, np.int64), name="it")
    assert kinds(accepted(alone, path)) == ["Activation"]


def test_what_stands_between_two_matches_is_evaluated_too(path):
    """The head reads one token: a Select that no ONNX value stands for."""
    net = vit()
    net.op("Add", net.op("Mul", result(net), net.random(CLASSES)), net.random(CLASSES))
    assert kinds(accepted(net, path, rank=2))[-3:] == ["LayerNorm", "Select", "Linear"]


def test_a_spelling_is_proved_once_and_weights_that_are_zero_prove_nothing(path, monkeypatch):
    compared = []
    real = proof._compare
    monkeypatch.setattr(proof, "_compare", lambda nodes, *args: compared.append(nodes[-1].name) or real(nodes, *args))
    net = Net()
    x = tokens(net, channels=DIM)
    for place in range(4):
        weight = np.zeros((DIM, DIM)) if place == 0 else net.rng.normal(0, 0.2, (DIM, DIM))
        x = net.op("MatMul", x, net.const(weight), name=f"linear{place}")
    net.op("Gemm", net.op("Gather", x, net.const(0, np.int64), axis=1), net.random(DIM, DIM), name="other")
    net.save(path, {"y": result(net)}, ["b", "n"])
    import_model(path)
    assert compared == ["linear0", "linear1", "other"]


def test_a_network_that_leaves_float32_is_left_to_the_judge(path):
    net = Net()
    x = net.op("MatMul", tokens(net), net.const(np.full((K, K), 1e30)))
    net.op("MatMul", net.op("Mul", x, net.const(np.full(K, 1e30))), net.random(K, K))
    net.save(path, {"y": result(net)}, ["b", "t", "n"])
    with pytest.raises(ModelError, match="weight holds inf"):
        import_model(path)


def test_equal_scores_of_a_router_are_no_difference(path):
    """Every expert has the same score: which are chosen is a matter of the order of additions."""
    net = Net()
    x = tokens(net, 5, DIM)
    net.moe(net.norm(x), gate=net.const(np.repeat(net.rng.normal(size=(DIM, 1)), 4, 1)))
    net.save(path, {"y": result(net)}, ["b", "t", "n"])
    (graph,) = import_model(path).model.tasks
    assert kinds(graph) == ["LayerNorm", "MoE"]
