"""A mixture of experts is read by what it computes: every spelling of one gives the same operator, and the same integers."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
import pytest

from hwgen import ops
from hwgen.graph import Model, evaluate
from hwgen.importer import import_model
from hwgen.quantizer import quantize
from hwgen.steps import golden
from moe_loops import LOOPS, LOOPS_OF_ONE
from moe_sigmoids import BIAS, BIASED, PLAIN, SHARED, scaled
from moe_spellings import RENORMALIZED, SPELLINGS, TOP_1, Mix, stack
from onnx_nets import CLASSES, DIM, EXPERTS, IMAGE, TOKENS, Net, result

IMAGES = np.random.default_rng(7).normal(size=(6, 1, IMAGE, IMAGE)).astype(np.float32)


def network(spelling, renormalize: bool, k: int, opset: int = 20) -> Net:
    """One block whose second half is the mixture."""
    net = Net(opset)
    t = net.embed(net.image())
    t = net.add(t, net.attention(net.norm(t)))
    y = net.op("Reshape", spelling(Mix(net, net.norm(t), renormalize, k)), net.ints(1, TOKENS, DIM))
    net.head(net.norm(net.add(t, y)))
    return net


def imported(net: Net, path) -> Model:
    """What is read computes what onnxruntime does."""
    net.save(path, {"y": result(net)}, [1, CLASSES])
    model = import_model(path).model
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    want = np.concatenate([session.run(None, {"x": image[None]})[0] for image in IMAGES])
    np.testing.assert_allclose(evaluate.run(model.tasks[0], {"x": IMAGES})["y"], want, atol=2e-5)
    return model


def moe_of(model: Model) -> ops.MoE:
    (node,) = (node for node in model.tasks[0].nodes if isinstance(node, ops.MoE))
    return node


def integers(model: Model) -> np.ndarray:
    return golden.run(quantize(model, {"x": IMAGES}).tasks[0], IMAGES)["y"]


@cache
def first(renormalize: bool, k: int, folder) -> tuple[ops.MoE, np.ndarray]:
    """The mixture as a stack, and the integers of its network."""
    model = imported(network(stack, renormalize, k), folder / f"first{renormalize}{k}.onnx")
    return moe_of(model), integers(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mixtures")


def same_as_the_stack(spelling, renormalize: bool, k: int, folder) -> None:
    model = imported(network(spelling, renormalize, k), folder / "net.onnx")
    node, (want, words) = moe_of(model), first(renormalize, k, folder)
    assert (node.top_k, node.renormalize, node.act) == (k, renormalize, want.act)
    for key, array in want.params().items():
        np.testing.assert_array_equal(getattr(node, key), array, err_msg=key)
    np.testing.assert_array_equal(integers(model), words)


@pytest.mark.parametrize("renormalize", [False, True], ids=["shares", "renormalized"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_one_mixture(name, renormalize, folder):
    same_as_the_stack(SPELLINGS[name], renormalize, 2, folder)


@pytest.mark.parametrize("name", RENORMALIZED)
def test_a_softmax_of_the_chosen_is_renormalized(name, folder):
    same_as_the_stack(RENORMALIZED[name], True, 2, folder)


@pytest.mark.parametrize("name", TOP_1)
def test_top_one(name, folder):
    same_as_the_stack(TOP_1[name], False, 1, folder)


@pytest.mark.parametrize("k", [1, 3, EXPERTS])
def test_any_number_of_experts_is_chosen(k, folder):
    same_as_the_stack(SPELLINGS["modules"], False, k, folder)


@pytest.mark.parametrize("renormalize", [False, True], ids=["shares", "renormalized"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_over_experts_is_one_mixture(name, renormalize, folder):
    """Each expert sees as many tokens as chose it: shapes that depend on values."""
    same_as_the_stack(LOOPS[name], renormalize, 2, folder)


@pytest.mark.parametrize("name", LOOPS_OF_ONE)
def test_a_loop_over_the_experts_of_a_top_one(name, folder):
    same_as_the_stack(LOOPS_OF_ONE[name], False, 1, folder)


@cache
def first_of_sigmoids(biased: bool, renormalize: bool, folder) -> tuple[ops.MoE, np.ndarray]:
    spelling = BIASED["bias added"] if biased else PLAIN["sigmoids"]
    model = imported(network(spelling, renormalize, 2), folder / f"sigmoids{biased}{renormalize}.onnx")
    return moe_of(model), integers(model)


@pytest.mark.parametrize("renormalize", [False, True], ids=["shares", "renormalized"])
@pytest.mark.parametrize("name", [*PLAIN, *BIASED])
def test_scores_are_sigmoids(name, renormalize, folder):
    biased = name in BIASED
    model = imported(network({**PLAIN, **BIASED}[name], renormalize, 2), folder / "net.onnx")
    node, (want, words) = moe_of(model), first_of_sigmoids(biased, renormalize, folder)
    assert (node.top_k, node.renormalize, node.sigmoid, node.choice.tolist()) == (2, renormalize, True, BIAS.tolist() if biased else [])
    for key, array in want.params().items():
        np.testing.assert_array_equal(getattr(node, key), array, err_msg=key)
    np.testing.assert_array_equal(integers(model), words)


@pytest.mark.parametrize("renormalize", [False, True], ids=["shares", "renormalized"])
def test_a_factor_behind_the_router_is_one_of_the_experts(renormalize, folder):
    node, (want, _) = moe_of(imported(network(scaled, renormalize, 2), folder / "net.onnx")), first_of_sigmoids(True, renormalize, folder)
    np.testing.assert_allclose(node.w2, 2.5 * want.w2, rtol=1e-6)
    assert node.sigmoid and node.renormalize == renormalize


@pytest.mark.parametrize("name", SHARED)
def test_an_expert_that_every_token_takes(name, folder):
    spelling, count = SHARED[name]
    model = imported(network(spelling, True, 2), folder / "net.onnx")
    found = [node for node in model.tasks[0].nodes if isinstance(node, ops.MoE)]
    assert len(found) == count and all(node.sigmoid and not node.renormalize for node in found if node.num_experts == 1)
    assert integers(model).shape == (len(IMAGES), CLASSES)
