"""What looks like a mixture of experts and is none that is supported is refused by the part that does not fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hwgen.importer import check_model
from hwgen.importer.evaluate import Evaluator
from moe_loops import pairs, places, zeros
from moe_sigmoids import dense, two_groups
from moe_spellings import SPELLINGS, Mix, dispatched
from onnx_nets import CLASSES, DIM, EXPERTS, TOKENS, result
from test_importer_mixtures import network


def choice_by_another_bias(m: Mix) -> str:
    shares = m.shares()
    _, index = m.op("TopK", m.op("Add", shares, m.net.const([0.5, 0, 0, -0.5])), m.net.ints(m.k), outputs=2, axis=-1)
    top = m.op("GatherElements", shares, index, axis=1)
    scores = m.op("ScatterElements", m.net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
    return m.summed(lambda e: m.column(scores, e))


def experts_that_read_nothing_they_share(m: Mix) -> str:
    """A router of one value, and each expert behind a Linear of its own."""
    scores, routed = m.scores(), [m.net.linear(m.rows, DIM, DIM) for _ in range(EXPERTS)]
    total = None
    for e in range(EXPERTS):
        y = m.op("Mul", m.column(scores, e), m.expert(e, routed[e]))
        total = y if total is None else m.op("Add", total, y)
    return total


def experts_of_one_layer(m: Mix) -> str:
    scores, total = m.scores(), None
    for e in range(EXPERTS):
        y = m.op("Mul", m.column(scores, e), m.op("MatMul", m.rows, m.net.random(DIM, DIM)))
        total = y if total is None else m.op("Add", total, y)
    return total


def experts_of_three_layers(m: Mix) -> str:
    scores, total = m.scores(), None
    for e in range(EXPERTS):
        y = m.op("MatMul", m.op("Relu", m.expert(e, m.rows)), m.net.random(DIM, DIM))
        y = m.op("Mul", m.column(scores, e), y)
        total = y if total is None else m.op("Add", total, y)
    return total


def capacity(m: Mix) -> str:
    return dispatched(m, 3)


def frozen(m: Mix) -> str:
    """A trace in which no token chose expert 2."""
    (top, index), y, net = m.top(), zeros(m), m.net
    for e in (0, 1, 3):
        token, place = places(m, m.op("Equal", index, net.const(e, np.int64)), 2)
        at = m.op("Concat", m.op("Unsqueeze", token, net.ints(-1)), m.op("Unsqueeze", place, net.ints(-1)), axis=-1)
        part = m.op("Mul", m.expert(e, m.op("Gather", m.rows, token, axis=0)), m.op("Unsqueeze", m.op("GatherND", top, at), net.ints(-1)))
        y = m.op("ScatterND", y, m.op("Unsqueeze", token, net.ints(-1)), part, reduction="add")
    return y


def not_finite(m: Mix) -> str:
    m.b2[1, 3] = np.inf
    scores = m.scores()
    return m.summed(lambda e: m.column(scores, e))


def one_activation_differs(m: Mix) -> str:
    scores = m.scores()
    y = m.summed(lambda e: m.column(scores, e))
    next(node for node in m.net.nodes if node.op_type == "Gelu").op_type = "Relu"
    return y


def sum_that_starts_with_a_shared_expert(m: Mix) -> str:
    """It is the first the results of the others are put into."""
    (top, index), y, net = m.top(), dense(m), m.net
    for e in range(EXPERTS):
        token, place = places(m, m.op("Equal", index, net.const(e, np.int64)), 2)
        part = m.op("Mul", m.expert(e, m.op("Gather", m.rows, token, axis=0)), m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), net.ints(-1)))
        y = m.op("ScatterND", y, m.op("Unsqueeze", token, net.ints(-1)), part, reduction="add")
    return y


NO_TOP_K = "the factors of its experts are those of no top-k of a softmax or of sigmoids: "
REFUSED = {
    two_groups: f"{NO_TOP_K}on random logits no k, no division by the sum of the chosen and no bias of the choice",
    choice_by_another_bias: f"{NO_TOP_K}on random logits no k",
    experts_that_read_nothing_they_share: "has experts of more than two layers",
    experts_of_one_layer: "has a router, but no experts",
    experts_of_three_layers: "has experts of more than two layers: ",
    capacity: f"{NO_TOP_K}its router counts the tokens of an expert (capacity) and drops those beyond",
    not_finite: "has experts that give NaN or infinity on random tokens and logits",
    sum_that_starts_with_a_shared_expert: "has 5 experts for 4 results of its router: an expert that every token passes (a shared one) is read "
                                          "where its result is added behind the sum of the others",
    frozen: "has 3 experts for 4 results of its router: an expert that no token chose when the network was traced is not in the file",
}


def refusal(spelling, folder) -> str:
    net = network(spelling, False, 2)
    checked = check_model(net.save(folder / "net.onnx", {"y": result(net)}, [1, CLASSES]))
    assert not checked.ok
    return str(checked.error)


@pytest.mark.parametrize("spelling", REFUSED, ids=lambda spelling: spelling.__name__)
def test_what_does_not_fit_is_named(spelling, tmp_path):
    error = refusal(spelling, tmp_path)
    assert "a mixture of experts in a form that is not read: " in error and REFUSED[spelling] in error, error


@pytest.mark.parametrize("spelling", [one_activation_differs], ids=lambda spelling: spelling.__name__)
def test_what_is_no_mixture_is_refused(spelling, tmp_path):
    assert "a mixture of experts in a form that is not read: " in refusal(spelling, tmp_path)


def of_one_layer(m: Mix) -> str:
    return m.op("Add", SPELLINGS["modules"](m), m.op("Mul", m.op("Sigmoid", m.net.linear(m.rows, DIM, 1)), m.net.linear(m.rows, DIM, DIM)))


def test_a_share_of_a_shared_expert_in_another_form_is_named(tmp_path):
    error = refusal(of_one_layer, tmp_path)
    assert error.startswith("a shared expert beside the routed ones has a gate of its own: Mul node 'mul_")
    assert "two layers with an activation between them" in error, error


@pytest.mark.parametrize("kind, operands", [
    ("Expand", [np.ones((1, 1), np.float32), [1 << 15, 1 << 40]]), ("Tile", [np.ones((2, 1), np.float32), [1 << 20, 1 << 20]]),
    ("ConstantOfShape", [[1 << 20, 1 << 20]]), ("Range", [0, 1 << 40, 1]), ("OneHot", [[0, 1], 1 << 40, [0, 1]]),
    ("Pad", [np.ones((1, 1), np.float32), [0, 0, 1 << 20, 1 << 20]])])
def test_what_would_fill_the_memory_is_not_evaluated(kind, operands):
    """In a loop over the tokens of an expert no shape is known before."""
    evaluator = Evaluator({"": 20})
    node = onnx.helper.make_node(kind, [f"in{place}" for place in range(len(operands))], ["y"])
    arrays = [array if isinstance(array, np.ndarray) else np.array(array, np.int64) for array in operands]
    assert evaluator.operator(node, arrays) is None
    small = [array if array.dtype.kind == "f" else np.minimum(array, 3) for array in arrays]
    assert evaluator.operator(node, small)[0].size in range(3, 100)
