"""Products of two values: gated MLPs as exporters write them, their steps, their numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from gated_nets import HALVES, gated
from hwgen import ops, quantizer
from hwgen.engines.rtl.plan import OPERAND_WORDS, schedule
from hwgen.errors import HwgenError, ModelError
from hwgen.functions import Act
from hwgen.graph import Graph, Model, evaluate
from hwgen.importer import import_model
from hwgen.layers import decibel
from hwgen.quantizer import Recipe, Rule
from hwgen.steps import golden, host
from hwgen.steps.format import TABLE, WIDE
from hwgen.steps.passes.products import split_products
from hwgen.steps.stages import Multiply, Table
from hwgen.steps.tensor import Memory
from hwgen.steps.verify import verify
from onnx_nets import CLASSES, Net, result
from qgraphs import random_images, random_model, random_qgraph

ACTS = {"silu": Act.SILU, "Gelu": Act.GELU, "erf": Act.GELU, "tanh pow": Act.GELU_TANH, "Relu": Act.RELU, "Sigmoid": Act("sigmoid")}


def read(net: Net, folder) -> Graph:
    return import_model(net.save(folder / "net.onnx", {"y": result(net)}, [1, CLASSES])).model.tasks[0]


def products(graph: Graph) -> list[ops.Multiply]:
    return [node for node in graph.nodes if isinstance(node, ops.Multiply)]


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("halves", HALVES)
def test_either_half_is_the_gate(halves, bias, second, tmp_path):
    graph = read(gated(halves, second=second, swapped=second, bias=bias), tmp_path)
    (product,) = products(graph)
    makers = {node.output: type(node) for node in graph.nodes}
    assert sorted(makers[value].__name__ for value in product.inputs) == ["Activation", "Linear"]


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 23])
def test_operator_sets(opset, tmp_path):
    assert len(products(read(gated("one Linear, taken by Split", "erf", opset=opset), tmp_path))) == 1


@pytest.mark.parametrize("act", ACTS)
def test_functions_of_the_gate(act, tmp_path):
    graph = read(gated(act=act), tmp_path)
    assert [node.kind for node in graph.nodes if isinstance(node, ops.Activation)] == [ACTS[act]] and len(products(graph)) == 1


def test_a_product_without_a_function(tmp_path):
    graph = read(gated("by Slice", None), tmp_path)
    assert len(products(graph)) == 1 and not any(isinstance(node, ops.Activation) for node in graph.nodes)


def test_a_factor_of_the_product_goes_into_the_next_weights(tmp_path):
    assert len(products(read(gated(scale=0.25), tmp_path))) == 1


def test_a_product_of_unlike_shapes_is_named(tmp_path):
    net = Net()
    t = net.embed(net.image())
    n = net.norm(net.add(t, net.attention(net.norm(t))))
    product = net.op("Mul", net.linear(n, 16, 16), net.linear(n, 16, 1), name="by one column")
    net.head(net.norm(net.add(t, product)))
    with pytest.raises(HwgenError) as caught:
        read(net, tmp_path)
    assert "by one column" in str(caught.value) and "broadcasting is only supported for constants" in str(caught.value)


# ---------------------------------------------------------------- steps and numbers

def linear(rng, name: str, x: str, k: int, n: int, gain: float = 1.0) -> ops.Linear:
    return ops.Linear(name, name, x, (gain / np.sqrt(k) * rng.standard_normal((k, n))).astype(np.float32),
                      (0.1 * rng.standard_normal(n)).astype(np.float32))


def network(*middle, gain: float = 1.0, outputs: str = "out") -> Model:
    """x -> a, b -> the nodes ``middle``, the last one "m" -> out."""
    rng = np.random.default_rng(3)
    nodes = (linear(rng, "a", "x", 24, 40), linear(rng, "b", "x", 24, 40, gain), *middle, linear(rng, "out", "m", 40, 8))
    return Model((Graph("n", {"x": (9, 24)}, nodes, {"y": outputs}, {"y": (1, 9, 8)}),)).verify()


SILU = ops.Activation("s", "s", "a", Act.SILU)
X = np.random.default_rng(5).standard_normal((24, 9, 24)).astype(np.float32)
FORMS = {
    "gated": ((SILU, ops.Multiply("m", "m", "s", "b")), 29),
    "gate behind": ((SILU, ops.Multiply("m", "m", "b", "s")), 29),
    "two functions": ((SILU, ops.Activation("t", "t", "b", Act("tanh")), ops.Multiply("m", "m", "s", "t")), 26),
    "no function": ((ops.Multiply("m", "m", "a", "b"),), 29),
    "a square": ((ops.Multiply("m", "m", "a", "a"),), 29),
    "one read twice": ((SILU, ops.Multiply("p", "p", "s", "b"), ops.Multiply("m", "m", "p", "s")), 25),
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers(form):
    middle, least = FORMS[form]
    model = network(*middle)
    quantized = quantizer.quantize(model, {"x": X}).tasks[0]
    wanted = evaluate.run(model.tasks[0], {"x": X})["y"].astype(np.float64)
    found = host.dequantize(quantized, golden.run(quantized, X))["y"].reshape(wanted.shape)
    assert decibel(float((wanted ** 2).sum()), float(((wanted - found) ** 2).sum())) > least


def test_sixteen_bits_of_the_product():
    model = network(*FORMS["gated"][0])
    quantized = quantizer.quantize(model, {"x": X}, recipe=Recipe({"m": Rule(bits=16)})).tasks[0]
    assert next(step for step in quantized.steps if step.value == "m").sink.tensor.format == WIDE
    schedule(quantizer.quantize(model, {"x": X}, recipe=Recipe({"m": Rule(bits=16)})), ti=16, to=16, axi_data_bits=128)


def test_a_product_far_below_its_factors_keeps_to_what_the_shifter_does():
    """The unit of the product is not below that of the least shift: no bit of its factors is lost."""
    model = network(*FORMS["no function"][0], gain=1.0)
    quantized = quantizer.quantize(model, {"x": X}, recipe=Recipe({"m": Rule(scale=1e-9)})).tasks[0]
    stage = next(stage for step in quantized.steps for stage in step.drain if isinstance(stage, Multiply))
    assert stage.shift == 1 and next(step for step in quantized.steps if step.value == "m").sink.tensor.scale > 1e-9


def test_blocks_of_columns_give_the_same_words():
    options = {"seed": 2, "tokens": 40, "dim": 16, "hidden": 200, "blocks": "gb"}
    network, images = random_qgraph(**options).tasks[0], random_images(random_model(**options), 2)
    split = split_products(network, 3 * 40, 16)
    verify(split)
    blocks = [step.columns for step in split.steps if step.sink.tensor.memory is Memory.OPERAND]
    assert blocks == 2 * [48, 48, 48, 48, 8] and all(step.tokens * -(-step.columns // 16) <= 120 for step in split.steps
                                                     if step.sink.tensor.memory is Memory.OPERAND)
    np.testing.assert_array_equal(golden.run(split, images)["logits"], golden.run(network, images)["logits"])
    assert split.useful_macs == network.useful_macs


def test_an_engine_keeps_few_words_of_an_operand():
    model = random_qgraph(seed=2, tokens=40, dim=16, hidden=600, blocks="g", heads=1)
    assert schedule(model, ti=8, to=8, axi_data_bits=64).config.operand_words <= OPERAND_WORDS < 40 * 75
    assert schedule(random_qgraph(blocks="d"), ti=8, to=8, axi_data_bits=64).config.operand_words == 0


def broken(change) -> str:
    """What the verifier says of a gated network with its step of the product changed."""
    network = random_qgraph(blocks="g").tasks[0]
    verify(network)
    steps = [change(step) if any(isinstance(stage, Multiply) for stage in step.drain) else step for step in network.steps]
    with pytest.raises(ModelError) as caught:
        verify(replace(network, steps=tuple(steps)))
    return caught.value.message


def stage_of(step) -> Multiply:
    return next(stage for stage in step.drain if isinstance(stage, Multiply))


@pytest.mark.parametrize("change, text", [
    (lambda step: replace(step, drain=(*step.drain[:-1], replace(stage_of(step), shift=43))), "the shift behind a product of two values is 43, not in 1..42"),
    (lambda step: replace(step, drain=step.drain[:-1]), f"the result is {TABLE}"),
    (lambda step: replace(step, drain=(*step.drain[:-1], replace(stage_of(step), view=step.source))), "is no operand of the drain"),
    (lambda step: replace(step, drain=tuple(replace(stage, to=WIDE) if isinstance(stage, Table) else stage for stage in step.drain)),
     "for a product of two values, not s16")])
def test_what_is_no_product_is_named(change, text):
    assert text in broken(change)


def test_the_product_of_a_file_is_what_onnxruntime_computes(tmp_path):
    import onnxruntime
    net = gated("one Linear, taken by Split", "Gelu")
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, CLASSES])
    onnx.checker.check_model(onnx.load(path))
    image = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(path).run(None, {"x": image})
    found = evaluate.run(import_model(path).model.tasks[0], {"x": image})["y"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
