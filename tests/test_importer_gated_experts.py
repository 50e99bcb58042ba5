"""Mixtures of gated experts: every spelling is one operator, and computes what onnxruntime does."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen import ops
from hwgen.functions import Act
from hwgen.graph import evaluate
from hwgen.quantizer import quantize
from hwgen.quantizer.recipe import Recipe, Rule
from hwgen.steps import golden
from hwgen.steps.passes.experts import order_experts
from hwgen.steps.passes.products import split_products
from hwgen.steps.tensor import Memory
from hwgen.steps.verify import verify
from moe_gated import B3, GATED, OTHERS, W3, shared, stack
from qgraphs import random_images, random_model
from test_importer_mixtures import IMAGES, imported, moe_of, network


@pytest.mark.parametrize("name", GATED)
def test_every_spelling_is_one_mixture(name, tmp_path):
    node = moe_of(imported(network(GATED[name], True, 2), tmp_path / "net.onnx"))
    assert (node.top_k, node.renormalize, node.act) == (2, True, Act.SILU)
    want = moe_of(imported(network(stack, True, 2), tmp_path / "stack.onnx"))
    for key, array in want.params().items():
        np.testing.assert_allclose(getattr(node, key), array, atol=1e-6, err_msg=key)
    np.testing.assert_allclose(node.w3, W3, atol=1e-6)
    np.testing.assert_allclose(node.b3, B3, atol=1e-6)


@pytest.mark.parametrize(("name", "act"), [("GEGLU", Act.GELU), ("ReGLU", Act.RELU)])
def test_other_functions(name, act, tmp_path):
    assert moe_of(imported(network(OTHERS[name], False, 2), tmp_path / "net.onnx")).act == act


def test_a_shared_expert_may_be_gated(tmp_path):
    model = imported(network(shared, True, 2), tmp_path / "net.onnx")
    assert [len(node.w3) for node in model.tasks[0].nodes if isinstance(node, ops.MoE)] in ([4, 1], [1, 4])


def test_the_integers_are_near_the_floats(tmp_path):
    model = imported(network(stack, True, 2), tmp_path / "net.onnx")
    found = quantize(model, {"x": IMAGES}).tasks[0]
    words, want = golden.run(found, IMAGES)["y"], evaluate.run(model.tasks[0], {"x": IMAGES})["y"]
    assert np.corrcoef((words * found.outputs[0].scale.array).ravel(), want.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("block", [0, 4])
def test_blocks_of_columns_and_of_tokens_give_the_same_words(block, bits):
    model = random_model(3, blocks="dx", act=Act.SILU, expert_hidden=50)
    images = random_images(model, 4)
    rules = {node.output: Rule(bits=bits) for node in model.tasks[0].nodes if isinstance(node, ops.MoE)}
    whole = quantize(model, {"x": images}, recipe=Recipe(values=rules)).tasks[0]
    split = split_products(order_experts(whole, block), 20, 8)
    verify(split)
    parts, experts = (sum(step.sink.tensor.memory is Memory.OPERAND for step in net.steps) for net in (split, whole))
    assert parts > experts == 4
    np.testing.assert_array_equal(golden.run(split, images)["logits"], golden.run(whole, images)["logits"])
