"""Norms whose result is a value of its own: behind a sum, behind a branch; RMSNorm."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from hwgen import numerics, quantizer
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.verify import verify as verify_program
from hwgen.errors import ModelError
from hwgen.importer import import_model
from hwgen.isa import Dst, Src, Stat
from hwgen.steps import golden, host
from hwgen.steps.format import ACCUMULATOR, INT8, WIDE
from hwgen.steps.param import Columns, Factor, Param
from hwgen.steps.passes.norms import fuse_norms
from hwgen.steps.stages import Diagonal, Host, Identity, Normalize, Requant
from hwgen.steps.step import Keep, Network, Quantized, Step
from hwgen.steps.tensor import Memory, Span, Tensor
from hwgen.steps.verify import verify
from norm_nets import encoder, shape
from qgraphs import random_images, random_model, random_qgraph

IMAGES = np.random.default_rng(1).standard_normal((32, 1, 8, 8)).astype(np.float32)
PLACES = {"behind the sum": {"place": "post"}, "behind the branch": {"place": "respost"}, "on both sides": {"place": "sandwich"},
          "behind the embedding": {"place": "embedded"}, "all tokens leave": {"place": "post", "pool": "each"}}


@pytest.fixture
def network(tmp_path):
    """network(**options of `encoder`) -> (steps, outputs of onnxruntime for `IMAGES`)."""
    def get(**options) -> tuple[Quantized, np.ndarray]:
        net, outputs = encoder(**options)
        path = net.save(tmp_path / "net.onnx", outputs, shape(options.get("pool", "token")))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        wanted = np.concatenate([session.run(None, {"x": image[None]})[0] for image in IMAGES])
        return quantizer.quantize(import_model(path).model, {"x": IMAGES}), wanted
    return get


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("place", PLACES)
def test_an_encoder(network, place, norm):
    """Right, and without a product that only carries a norm: words go past the array once for each norm that is a value."""
    model, wanted = network(**PLACES[place], norm=norm)
    (steps,) = model.tasks
    found = host.dequantize(steps, golden.run(steps, IMAGES))["y"]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.998
    program = schedule(model, ti=16, to=8, axi_data_bits=64)
    verify_program(program)
    past = [instr for instr in program.instrs if instr.stat == Stat.BYPASS]
    norms = {"behind the embedding": 4, "behind the branch": 4, "on both sides": 4, "all tokens leave": 3}.get(place, 3)
    assert len(past) == norms and all(instr.src == Src.NORM and instr.wide and instr.rms == (norm == "rms") for instr in past)
    assert {instr.dst for instr in past} == {Dst.RES_ADD if place in ("behind the branch", "on both sides") else Dst.RES_SET}
    assert program.config.bypass and program.config.rms == (norm == "rms")
    assert not any(step.weights is not None and "identity" in step.weights.weight.name for step in steps.steps)


@pytest.mark.parametrize("split", ["slice", "chunk", "separate", "early"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_of_heads(network, norm, split):
    """q and k of each head normalised by themselves: a stream of its own for each head, and its norm past the array."""
    model, wanted = network(place="pre", heads_norm=norm, split=split)
    (steps,) = model.tasks
    found = host.dequantize(steps, golden.run(steps, IMAGES))["y"]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.998
    for ti, to in ((16, 8), (16, 16)):                               # heads of 8 channels: half a group of 16 lanes
        program = schedule(model, ti=ti, to=to, axi_data_bits=64)
        verify_program(program)
        past = [instr for instr in program.instrs if instr.stat == Stat.BYPASS]
        assert len(past) == 2 * 2 * 2 and {instr.dst for instr in past} == {Dst.ACT, Dst.KV} and all(instr.n_last == 8 for instr in past)
        scores = [instr for instr in program.instrs if instr.stat == Stat.K_COLUMNS]
        assert all((instr.k_lo, instr.k_hi, instr.k_tiles) == (0, 8, 1) for instr in scores) == (to == 16)


def test_other_engines_have_no_such_way():
    config = schedule(random_qgraph(blocks="d"), ti=8, to=8, axi_data_bits=64).config
    assert not config.bypass and not config.rms and not {"bypass", "rms"} & config.to_dict().keys()


@pytest.mark.parametrize("ti, to, lanes", [(16, 16, 16), (16, 8, 8), (64, 48, 16)])
def test_tiles_past_the_array_lie_within_a_word(ti, to, lanes):
    program = schedule(random_qgraph(blocks="d", dim=72, heads=1, norms="post"), ti=ti, to=to, axi_data_bits=128)
    verify_program(program)
    past = [instr for instr in program.instrs if instr.stat == Stat.BYPASS]
    assert program.config.bypass_lanes == lanes and len(past) == 2
    assert all((instr.n_tiles - 1) * lanes + instr.n_last == 72 and instr.k_tiles == 1 for instr in past)


def diagonal(form, sign: np.ndarray, bias: np.ndarray, to) -> Network:
    """Words of the host that start a stream, normalised, each channel by itself, to another stream or to the activation memory."""
    channels = len(sign)
    stream = Tensor("s", WIDE, 9, channels, 1.0, Memory.RES)
    sink = Tensor("y", to, 9, channels, 1.0, Memory.RES if to == WIDE else Memory.ACT)
    feed = Normalize(3, Factor.of(16 / channels), Factor.of(channels / (16 * 2.0 ** -12 * 256)) if form == WIDE else Factor.of(channels / 0.5), form)
    tile = Diagonal(Param("sign", sign.astype(np.int8)), Param("bias", bias.astype(ACCUMULATOR.dtype)))
    rng = np.random.default_rng(2)
    factor = Columns(Param("mult", rng.integers(30000, 65536, channels)), Param("shift", rng.integers(14, 17, channels)))
    return Network("n", (Step("s", "", Host("x", None), Identity(), (stream.view(),), keeps=(Keep.MOMENTS,)),
                         Step("y", "", feed, tile, (sink.view(),), stream.view(), drain=(Requant(factor, to),),
                              keeps=(Keep.MOMENTS,) if to == WIDE else ())), ())


@pytest.mark.parametrize("to", [INT8, WIDE], ids=str)
@pytest.mark.parametrize("form", [INT8, WIDE], ids=str)
def test_each_channel_by_itself_is_the_product_with_a_diagonal_matrix(form, to):
    rng = np.random.default_rng(3)
    sign, bias = rng.choice([-1, 1], 12), rng.integers(-5000, 5000, 12)
    network, words = diagonal(form, sign, bias, to), rng.integers(-32767, 32768, (2, 9, 12))
    step = network.steps[1]
    matrix = Network("m", (network.steps[0], Step("y", "", step.feed, step.tile.as_matrix(), step.sinks, step.source, drain=step.drain, keeps=step.keeps)), ())
    found = [golden_words(n, words) for n in (network, matrix)]
    np.testing.assert_array_equal(*found)
    mean, mult, shift = numerics.norm_coefficients(words.sum(-1), (words ** 2).sum(-1), 12, 3, step.feed.mean.mult, step.feed.mean.shift,
                                                   step.feed.out.mult, step.feed.out.shift)
    normal = (numerics.normalize_wide if form == WIDE else numerics.normalize)(words, mean[..., None], mult[..., None], shift[..., None])
    factor = step.drain[0].factor
    np.testing.assert_array_equal(found[0], numerics.requantize(normal * sign + bias, factor.mult.array, factor.shift.array, to.bits))


def golden_words(network: Network, words: np.ndarray) -> np.ndarray:
    found: dict[str, np.ndarray] = {}
    golden.evaluate(network, words, found)
    return found["y"]


def test_a_channel_of_almost_nothing_but_beta():
    """gamma may be 0 or negative: what is left is beta."""
    model = random_model(4, blocks="d", norms="post")
    gamma, beta = np.ones(32, np.float32), np.zeros(32, np.float32)
    gamma[:4], beta[:4] = (0.0, 1e-9, -1e-9, -1.0), (3.0, -3.0, 3.0, 0.5)
    nodes = tuple(type(node)(node.name, node.output, node.x, gamma, beta, node.eps) if node.name == "block0.post1" else node
                  for node in model.tasks[0].nodes)
    graph = type(model.tasks[0])(model.tasks[0].name, model.tasks[0].inputs, nodes, model.tasks[0].outputs, model.tasks[0].output_shapes)
    changed = type(model)((graph,))
    images = random_images(model, 8)
    (network,) = quantizer.quantize(changed, {"x": images}).tasks
    step = next(step for step in network.steps if isinstance(step.tile, Diagonal) and step.node == "block0.post1")
    values = golden.trace(network, images)[step.value] * step.sink.tensor.scale
    np.testing.assert_allclose(values[..., :3], np.broadcast_to([3.0, -3.0, 3.0], values[..., :3].shape), atol=2 * step.sink.tensor.scale)
    assert step.tile.sign.array[3] == -1


@pytest.mark.parametrize("change, text", [
    ({"tile": Diagonal(Param("s", np.zeros(12, np.int8)), Param("b", np.zeros(12, np.int32)))}, "sign s is not 1 or -1"),
    ({"tile": Diagonal(Param("s", np.ones(12, np.int8)), Param("b", np.zeros(11, np.int32)))}, "b is int32 \\(11,\\), expected"),
    ({"drain": (Requant(Factor(1, 1), WIDE),)}, "have a factor for each column"),
    ({"sinks": (Tensor("s", WIDE, 9, 12, 1.0, Memory.RES).view(),)}, "changes s while it is read"),
    ({"sinks": (Tensor("y", WIDE, 9, 24, 1.0, Memory.RES).view(channels=Span(0, 12)),)}, "starts some channels of y")])
def test_what_cannot_be_is_named(change, text):
    network = diagonal(WIDE, np.ones(12), np.zeros(12), WIDE)
    step = network.steps[1]
    fields = {name: getattr(step, name) for name in ("value", "node", "feed", "tile", "sinks", "source_view", "drain", "keeps")}
    with pytest.raises(ModelError, match=text):
        verify(Network("n", (network.steps[0], Step(**fields | change)), ()))


def test_a_norm_whose_state_has_moved_on_is_stored():
    """Nothing but its words is read once the stream has changed: they go past the array to the activation memory, without weights."""
    network = fuse_norms(random_qgraph(blocks="m", norms="pre").tasks[0])
    assert all(step.tile.mixes for step in network.steps)              # experts gather what the router keeps
