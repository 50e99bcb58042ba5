"""Router flips: tokens that the integer network sends to other experts than the float network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwgen
from hwgen import ops, quantizer, routers
from hwgen.graph import Graph, Model
from hwgen.importer import import_model
from hwgen.steps import golden
from onnx_nets import CLASSES, result, vit
from qgraphs import random_images, random_model

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"
IMAGES, TOKENS, EXPERTS = 5, 9, 4            # an odd number of images: the last chunk is not full


def edited(model: Model, change) -> tuple[Graph, ...]:
    """Its graphs with ``change`` of every mixture of experts."""
    return tuple(replace(graph, nodes=tuple(change(node) if isinstance(node, ops.MoE) else node for node in graph.nodes)) for graph in model.tasks)


def pushed(expert: int):
    """The router prefers one expert by far."""
    return lambda node: replace(node, gate_bias=node.gate_bias + 100 * np.eye(node.num_experts, dtype=np.float32)[expert])


def flips_of(change, **sizes) -> tuple[list[routers.RouterFlips], np.ndarray]:
    """Of a network whose float routers are changed after it was quantized; and the experts of the integer one."""
    model = random_model(3, blocks="m", tokens=TOKENS, **{"experts": EXPERTS, **sizes})
    images = random_images(model, IMAGES)
    quantized = quantizer.quantize(model, {"x": images})
    (chosen,) = (array for name, array in golden.trace(quantized.tasks[0], images, detail=True).items() if name.endswith(".experts"))
    return routers.router_flips(edited(quantizer.rotated(model), change), quantized.tasks, {"x": images}), chosen


def test_a_router_that_prefers_one_expert_flips_all_tokens_that_have_another():
    (found,), chosen = flips_of(pushed(2), top_k=1)
    expected = int((chosen != 2).sum())
    assert 0 < expected < IMAGES * TOKENS and found == routers.RouterFlips("logits", "block0.moe", IMAGES * TOKENS, expected, 0)


def test_experts_that_change_places_flip_every_token():
    def turned(node: ops.MoE) -> ops.MoE:
        return replace(node, gate=np.roll(node.gate, 1, 1), gate_bias=np.roll(node.gate_bias, 1))

    model = random_model(3, blocks="m", top_k=1)
    images = random_images(model, IMAGES)
    quantized = quantizer.quantize(model, {"x": images})
    (same,) = routers.router_flips(quantizer.rotated(model).tasks, quantized.tasks, {"x": images})
    (all_of_them,) = routers.router_flips(edited(quantizer.rotated(model), turned), quantized.tasks, {"x": images})
    assert same.flips <= 2 and all_of_them.flips >= all_of_them.decisions - 2


def test_another_order_of_the_same_experts_is_no_flip():
    (found,), chosen = flips_of(pushed(1), experts=2, top_k=2)
    expected = int((chosen[..., 0] != 1).sum())
    assert expected > 0 and (found.flips, found.reordered) == (0, expected)


def test_a_network_without_routers_has_none():
    model = random_model(3, blocks="d")
    assert routers.router_flips(quantizer.rotated(model).tasks, quantizer.quantize(model, None, random=True).tasks, {"x": random_images(model, 2)}) == []


def test_of_the_example():
    """Every task has routers of its own; a few in a hundred decisions differ."""
    model = import_model(EXAMPLE / "model.onnx").model
    with np.load(EXAMPLE / "calib.npz") as calib, np.load(EXAMPLE / "test.npz") as test:
        quantized, images = quantizer.quantize(model, {"x": calib["x"]}), {"x": test["x"][:60]}
    found = routers.router_flips(quantizer.rotated(model).tasks, quantized.tasks, images)
    assert [one.task for one in found] == ["digit", "digit", "parity", "parity"] and len({(one.task, one.node) for one in found}) == 4
    for one in found:
        assert one.decisions == 60 * 17 and 0 < one.flips < 0.06 * one.decisions and one.flips + one.reordered < 0.1 * one.decisions


@pytest.mark.parametrize("router", ["plain", "renormalized"])
def test_of_a_build(tmp_path, router):
    net = vit(router=router)
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES])
    images = {"x": np.random.default_rng(0).standard_normal((6, 1, 8, 8)).astype(np.float32)}
    built = hwgen.compile(path, calib=images, out=tmp_path / "build")
    found = built.router_flips(images)
    assert found and built.report()["quantization"]["routers"] == [one.to_dict() for one in found]
    assert sum(one.decisions for one in found) == 6 * 5                                                    # four patches and the class token
    assert hwgen.compile(path, out=tmp_path / "noise").report()["quantization"]["routers"] == []          # of noise nothing is known
