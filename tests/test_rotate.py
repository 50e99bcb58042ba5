"""Rotary position embeddings: read by what they compute, their steps, their numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from hwgen import ops, quantizer
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.verify import verify as verify_program
from hwgen.errors import ModelError
from hwgen.graph import evaluate
from hwgen.importer import import_model
from hwgen.isa import Operand
from hwgen.layers import decibel
from hwgen.steps import golden, host
from hwgen.steps.passes.rotations import tile_rotations
from hwgen.steps.stages import Constant, Rotate
from hwgen.steps.tensor import Memory
from hwgen.steps.verify import verify
from onnx_nets import Net, result
from qgraphs import random_images, random_model, random_qgraph
from rotary_nets import DIM, HEAD, HEADS, TOKENS, TURNS, angles, attention, half, two_dimensions
from rule_checks import declined

X = np.random.default_rng(0).standard_normal((16, TOKENS, DIM)).astype(np.float32)


def read(net: Net, folder, width: int = DIM):
    return import_model(net.save(folder / "net.onnx", {"y": result(net)}, [1, TOKENS, width])).model


@pytest.mark.parametrize("given, part, scale", [(angles, HEAD, 1.0), (angles, HEAD, 0.3), (two_dimensions, HEAD, 1.0), (angles, 4, 1.0), (angles, 2, 0.5)])
@pytest.mark.parametrize("name", TURNS)
def test_every_spelling_turns_neighbours(name, given, part, scale, tmp_path):
    """The proof of the match evaluates it beside the ONNX nodes; the integer network is near to it."""
    model = read(attention(TURNS[name], given, part, scale), tmp_path)
    (graph,) = model.tasks
    assert [type(node).__name__ for node in graph.nodes].count("Rotate") == 2 and isinstance(graph.nodes[-1], ops.Attention)
    network = quantizer.quantize(model, {"x": X}).tasks[0]
    wanted = evaluate.run(graph, {"x": X})["y"].astype(np.float64)
    found = host.dequantize(network, golden.run(network, X))["y"].reshape(wanted.shape)
    assert decibel(float((wanted ** 2).sum()), float(((wanted - found) ** 2).sum())) > 28
    tables = [step.sink for step in network.steps if isinstance(step.feed, Constant) and step.sink.tensor.memory is Memory.OPERAND]
    assert len(tables) == 1 and tables[0].channels.count == HEAD                      # of q and k of all heads


def test_query_heads_share_turned_keys(tmp_path):
    """Grouped queries: turned keys are repeated for the query heads."""
    net = Net()
    x = net.input("x", [1, TOKENS, DIM])

    def heads(count: int) -> str:
        return net.op("Transpose", net.op("Reshape", net.linear(x, DIM, count * HEAD), net.ints(1, -1, count, HEAD)), perm=[0, 2, 1, 3])

    def repeated(y: str) -> str:
        wide = net.op("Expand", net.op("Unsqueeze", y, net.ints(2)), net.ints(1, 2, 2, TOKENS, HEAD))
        return net.op("Reshape", wide, net.ints(1, HEADS, TOKENS, HEAD))

    q, k, v = half(net, heads(HEADS), angles(HEAD), HEAD), repeated(half(net, heads(2), angles(HEAD), HEAD)), repeated(heads(2))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    net.op("Reshape", net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
    (graph,) = read(net, tmp_path).tasks
    assert [type(node).__name__ for node in graph.nodes].count("Rotate") == 2
    assert graph.nodes[-1].num_heads == HEADS


def test_odd_head_dimensions_are_named(tmp_path):
    net = attention(half, angles, part=6, head=7)
    reasons = declined(net, tmp_path / "net.onnx").values()
    assert any("turns 24 of 28 channels and leaves single ones as they are: pairs of channels are turned, the head dimension has to be even" in reason
               for reason in reasons)


def test_what_is_no_turn_is_none(tmp_path):
    """Cosines and sines of different angles."""
    def other(net: Net, x: str, given: np.ndarray, dim: int) -> str:
        first, second = net.op("Split", x, net.ints(dim // 2, dim // 2), outputs=2, axis=-1)
        turned = net.op("Concat", net.op("Neg", second), first, axis=-1)
        cos, sin = net.const(np.concatenate([np.cos(given)] * 2, -1)), net.const(np.concatenate([np.sin(given), np.sin(2 * given)], -1))
        return net.op("Add", net.op("Mul", x, cos), net.op("Mul", turned, sin))
    assert declined(attention(other), tmp_path / "net.onnx")


OPTIONS = {"seed": 1, "tokens": 12, "dim": 48, "heads": 3, "hidden": 24, "blocks": "dd", "rotary": 8}


@pytest.mark.parametrize("lanes, width", [(8, 16), (16, 16), (32, 32), (64, 48)])
def test_tables_fill_whole_words(lanes, width):
    network, images = random_qgraph(**OPTIONS).tasks[0], random_images(random_model(**OPTIONS), 2)
    wide = tile_rotations(network, lanes)
    verify(wide)
    found = {stage.view.channels.count for step in wide.steps for stage in step.drain if isinstance(stage, Rotate)}
    assert found == {width}
    np.testing.assert_array_equal(golden.run(wide, images)["logits"], golden.run(network, images)["logits"])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_program_brings_the_angles_once(batch):
    program = schedule(random_qgraph(**OPTIONS), ti=16, to=16, axi_data_bits=128, batch=batch)
    verify_program(program)
    turns = [instr for instr in program.instrs if instr.operand == Operand.ROTATE]
    assert len(turns) == 4 and {instr.op_period for instr in turns} == {1} and len({instr.op_base for instr in turns}) == 1
    assert program.config.rotate and program.config.operand_words == 16 * -(-12 * batch // 16)


@pytest.mark.parametrize("change, text", [
    (lambda stage: replace(stage, shift=0), "the shift behind a rotation is 0"),
    (lambda stage: replace(stage, view=replace(stage.view, tokens=replace(stage.view.tokens, count=3))), "or a part of one")])
def test_what_is_no_rotation_is_named(change, text):
    network = random_qgraph(**OPTIONS).tasks[0]
    steps = [replace(step, drain=tuple(change(stage) if isinstance(stage, Rotate) else stage for stage in step.drain)) for step in network.steps]
    with pytest.raises(ModelError) as caught:
        verify(replace(network, steps=tuple(steps)))
    assert text in caught.value.message


def microsoft(form: str, folder):
    """Attention whose q and k are turned by RotaryEmbedding of onnxruntime, [1, tokens, channels] or by heads."""
    net = Net(20)
    x = net.input("x", [1, TOKENS, DIM])
    part = HEAD // 2 if "part" in form else HEAD
    cos, sin = (net.const(function(angles(part))) for function in (np.cos, np.sin))
    places = net.const([0], np.int64) if "offset" in form else net.const(np.arange(TOKENS)[None], np.int64)
    options = {"interleaved": int("neighbours" in form), **({"num_heads": HEADS} if "heads" in form or "part" in form else {}),
               **({"rotary_embedding_dim": part} if "part" in form else {})}

    def heads(y: str, turned: bool) -> str:
        y = net.op("RotaryEmbedding", y, places, cos, sin, domain="com.microsoft", **options) if turned else y
        return net.op("Transpose", net.op("Reshape", y, net.ints(1, -1, HEADS, HEAD)), perm=[0, 2, 1, 3])
    linears = [net.linear(x, DIM, DIM) for _ in range(3)]
    q, k, v = (heads(y, place < 2) for place, y in enumerate(linears))
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(HEAD ** -0.5))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v, name="attention")
    net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
    model = net.model({"y": result(net)}, [1, TOKENS, DIM])
    model.graph.value_info.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, TOKENS, DIM]) for name in linears[:2])
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize("form", ["heads", "heads, offset", "heads, neighbours", "part", "part, neighbours, offset", "width of the table"])
def test_the_operator_of_onnxruntime(form, tmp_path):
    """onnxruntime itself judges at the import of `frontend`; here both are run on the same values."""
    path = microsoft(form, tmp_path)
    (graph,) = import_model(path).model.tasks
    assert [type(node).__name__ for node in graph.nodes].count("Rotate") == 2
    wanted = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": X[:1]})[0]
    assert np.abs(evaluate.run(graph, {"x": X[:1]})["y"].reshape(wanted.shape) - wanted).max() < 1e-5


@pytest.mark.parametrize("options, reason", [({"is_packed_batching": 1}, "packs sequences"), ({"scale": 2.0}, "has a scale"),
                                             ({"rotary_embedding_dim": 4}, "says no number of heads")])
def test_what_the_operator_of_onnxruntime_may_ask_for_is_refused(options, reason, tmp_path):
    net = Net(20)
    x = net.input("x", [1, TOKENS, DIM])
    cos, sin = (net.const(function(angles(HEAD))) for function in (np.cos, np.sin))
    net.op("RotaryEmbedding", x, net.const([0], np.int64), cos, sin, domain="com.microsoft", **options)
    with pytest.raises(ModelError, match=reason):
        read(net, tmp_path)
