"""Words of 16 bits: operands in two passes of 8 bits, the residual stream that is read out, an input that starts it."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest

from hwgen import numerics, quantizer
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import ModelError
from hwgen.graph.evaluate import steps
from hwgen.layout import image
from hwgen.quantizer import Recipe, Rule
from hwgen.quantizer.weights import quantize_linear
from hwgen.steps import golden
from hwgen.steps.format import INT4, INT8, WIDE
from hwgen.steps.host import dequantize, input_clipped, quantize_input
from hwgen.steps.param import Factor, Params
from hwgen.steps.passes.planes import split_planes
from hwgen.steps.stages import Constant, Normalize, Plain, Requant, Rescale, RowFactor, Table
from hwgen.steps.stages.tile import largest
from hwgen.steps.step import Network
from hwgen.steps.tensor import Memory, Plane, Span, Tensor
from hwgen.steps.verify import verify
from qgraphs import random_images, random_model, random_qgraph
from test_steps import OPTIONS, changed, in_sink, in_stage, refusal
from wide_nets import host_start, random_wide, read_out, recipe, wide_values

WORDS = np.arange(-32768, 32768)
NARROW = read_out(random_qgraph(**OPTIONS)).tasks[0]


@pytest.fixture(scope="module")
def network() -> Network:
    return read_out(random_wide(3, blocks="dm")).tasks[0]


# ---------------------------------------------------------------- numbers

def test_planes_are_eight_bits_and_give_back_the_word():
    high, low = numerics.planes(WORDS)
    assert (256 * high + low + 128 == WORDS).all()
    for plane in (high, low):
        assert (plane.min(), plane.max()) == (-128, 127)


@pytest.mark.parametrize("shift", [9, 16, 27, 36])
def test_a_wide_norm_is_the_quotient_rounded_half_up(shift):
    rng = np.random.default_rng(shift)
    x, mean, mult = (rng.integers(low, high, 5000) for low, high in ((-32767, 32768), (-1 << 19, 1 << 19), (1, 1 << 16)))
    wanted = [min(max((2 * (16 * a - b) * c + (1 << shift - 8)) // (2 << shift - 8), -32768), 32767)
              for a, b, c in zip(x.tolist(), mean.tolist(), mult.tolist(), strict=True)]
    assert numerics.normalize_wide(x, mean, mult, shift).tolist() == wanted


def test_the_array_of_eight_bits_computes_wide_products():
    """What the weight image holds, times the two planes: the same accumulators as the step's."""
    rng = np.random.default_rng(0)
    network = random_wide(1, blocks="d", dim=24, heads=2, hidden=40).tasks[0]
    step = next(step for step in network.steps if step.name == "block0.out")
    shape = image.Shape(16, 8, 16)
    x = rng.integers(-32768, 32768, (5, 40))
    data = np.frombuffer(image.product(step, shape), np.uint8).reshape(3, -1)       # 24 columns in 3 tiles
    bias = data[:, :64].copy().view([("bias", "<i4"), ("mult", "<u2"), ("shift", "<u2")])["bias"].ravel()
    weight = data[:, 64:].copy().view(np.int8).reshape(3, 3, 8, 16).transpose(1, 3, 0, 2).reshape(48, 24)[:40].astype(np.int64)
    high, low = numerics.planes(x)
    seen = ((high @ weight << 8) + low @ weight + bias).astype(np.int32)
    assert (seen == x @ step.tile.weight.array.astype(np.int64) + step.tile.bias.array).all()


# ---------------------------------------------------------------- networks

def test_everything_that_can_have_16_bits_has_them(network):
    wide = {step.value for step in network.steps if step.sink.tensor.memory is Memory.ACT and step.sink.tensor.format == WIDE}
    assert wide == {*(set(wide_values(random_model(3, blocks="dm"))) - {"block1.mlp"}), "block1.out", "state"}
    made = {type(stage) for step in network.steps for stage in step.drain if getattr(stage, "to", None) == WIDE}
    assert made == {Requant, Table, RowFactor}
    assert {step.feed.format(step) for step in network.steps if isinstance(step.feed, (Plain, Normalize))} == {INT8, WIDE}


def test_a_wide_norm_of_a_real_width():
    """D / (16 * scale) is more than a factor holds: 384 / 16 / (10 / 28000) = 67,200."""
    model = random_model(0, blocks="d", dim=384, heads=6, hidden=64)
    network = quantizer.quantize(model, {"x": random_images(model, 4)}, recipe=Recipe(values={"block0.norm1": Rule(bits=16)})).tasks[0]
    feed = next(step.feed for step in network.steps if isinstance(step.feed, Normalize) and step.feed.to == WIDE)
    assert feed.out.mult / 2 ** feed.out.shift * 256 > 2 ** 15


def test_16_bits_are_nearer_to_the_float_network():
    model = random_model(3, blocks="dd")
    images = {"x": random_images(model, 8)}
    values: dict[str, np.ndarray] = {}
    list(steps(model.tasks[0], images, values))

    def error(chosen: Recipe) -> float:
        network = quantizer.quantize(model, images, recipe=chosen).tasks[0]
        found = dequantize(network, golden.run(network, images["x"]))["logits"]
        return float(((found - values["head"]) ** 2).mean())
    assert error(recipe(model)) < error(Recipe()) / 1.2


def test_a_sum_of_weights_that_16_bits_let_overflow_takes_a_coarser_unit():
    """640 weights, all as large as the largest: 127 each is more than int32 holds with operands of 16 bits."""
    node = next(node for node in random_model(0, blocks="d").tasks[0].nodes if node.name == "block0.fc2")
    weight = np.random.default_rng(0).choice([-1.0, 1.0], (640, 32))
    narrow, wide = (np.abs(quantize_linear(node, "linear", Params(), weight, np.zeros(32), 0.01, 0.01, x_form=form).tile.weight.array.astype(int))
                    for form in (INT8, WIDE))
    assert narrow.max() == 127 and 60 < wide.max() < 127
    assert 0.6 < wide.sum(0).max() * largest(WIDE) / 2 ** 31 < 1 < narrow.sum(0).max() * largest(WIDE) / 2 ** 31


@pytest.mark.parametrize(("value", "text"), [
    ("block0.q", "the query 'block0.q' cannot have 16 bits"), ("block0.k", "the key 'block0.k' cannot have 16 bits"),
    ("block0.v", "the value 'block0.v' cannot have 16 bits"), ("block1.norm2", "what experts read, 'block1.norm2' cannot have 16 bits")])
def test_what_cannot_have_16_bits_is_named(value, text):
    model = random_model(0, blocks="dm")
    with pytest.raises(ModelError, match=text) as caught:
        quantizer.quantize(model, None, random=True, recipe=Recipe(values={value: Rule(bits=16)}))
    assert caught.value.hint == "leave it at 8: 16 bits have what only linear maps read"


def test_halves_are_stored_one_after_the_other(network):
    halves = [step for step in split_planes(network).steps if step.plane is not None]
    assert [step.plane for step in halves] == [Plane.HIGH, Plane.LOW] * (len(halves) // 2) and halves
    for high, low in zip(halves[::2], halves[1::2], strict=True):
        assert (high.value, high.sinks, low.macs) == (low.value, low.sinks, 0)


def test_an_operand_of_16_bits_costs_a_second_pass_and_no_weights():
    """Where the array is what takes time, a layer takes twice the cycles; the image is as large as with 8 bits."""
    options = {"blocks": "d", "tokens": 64, "dim": 64, "hidden": 128}
    model = random_model(0, **options)
    programs = [schedule(quantizer.quantize(model, None, random=True, recipe=Recipe(values=values)), ti=16, to=16, axi_data_bits=256)
                for values in ({}, {"block0.norm2": Rule(bits=16)})]
    narrow, wide = ([stop - start for start, stop, *_ in map(astuple, program.estimate(64, 100))] for program in programs)
    place = next(pc for pc, instr in enumerate(programs[1].instrs) if instr.wide)
    assert [pc for pc in range(len(narrow)) if abs(wide[pc] - narrow[pc]) > 5] == [place]
    assert wide[place] == pytest.approx(2 * narrow[place], abs=5) and narrow[place] == pytest.approx(64 * 4 * 8, abs=5)
    assert len(programs[0].image) == len(programs[1].image) and not programs[0].config.wide


BROKEN = {                      # id -> step, its other fields, what the message says
    "wide words from a narrow requantizer": ("block0.q", {"sinks": in_sink(format=WIDE)}, "the result is s8, block0.q holds s16"),
    "half of narrow words": ("block0.q", {"plane": Plane.LOW}, "stores the low half of s8 in block0.q"),
    "half of the residual stream": ("block0.mid", {"plane": Plane.HIGH}, "stores the high half of s16 in residual"),
    "wide words in the key memory": ("block0.q", {"sinks": in_sink(format=WIDE, memory=Memory.KV)}, "lies in the memory kv of s8"),
    "residual stream as it is": ("block0.q", {"source_view": lambda s: Tensor("residual", WIDE, 5, 16, 1.0, Memory.RES).view()},
                                 "streams residual as it is, which another feed does"),
    "rescaled part": ("state", {"source_view": lambda s: s.source.tensor.view(channels=Span(0, 8))}, "rescales a part of the channels"),
    "rescaled activations": ("state", {"source_view": lambda s: Tensor("block0.norm1", INT8, 5, 16).view()}, "a rescaling feed takes s16"),
    "rescaled by 0": ("state", {"feed": Rescale(Factor(0, 3))}, "rescale: multiplier 0"),
    "rescaled to 4 bits": ("state", {"feed": Rescale(Factor(3, 3), INT4)}, "the feed gives s8 or s16, not s4"),
    "rescaled to nothing": ("state", {"feed": Rescale(Factor(3, 37))}, "rescale: shift 37 is not in 9..36"),
    "rescaled to more than there is": ("state", {"feed": Rescale(Factor(3, 8))}, "rescale: shift 8 is not in 9..36"),
    "norm in 4 bits": ("block0.norm1", {"feed": lambda s: replace(s.feed, to=INT4)}, "the feed gives s8 or s16, not s4"),
    "norm in 16 bits that shifts too far": ("block0.norm1", {"feed": lambda s: replace(s.feed, to=WIDE, out=replace(s.feed.out, shift=33))},
                                            "the shifter does 9..36"),
    "queries that are wide": ("block0.attention.scores", {"source_view": lambda s: Tensor("block0.q", WIDE, 5, 16).view()}, "queries are s8, not s16"),
    "host: more zeros than tokens": ("x.int8", {"feed": lambda s: replace(s.feed, front=4)}, "4 of the 4 tokens are none of the input"),
    "division into 4 bits": ("block0.attention", {"drain": in_stage(1, to=INT4)}, "the result of a division is s8 or s16, not s4"),
    "function into 4 bits": ("block0.hidden", {"drain": in_stage(1, to=INT4)}, "the result of a table is s8, s16, s16.15, or s25.16 for a product of two values, not s4"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_step_is_refused(name):
    step, values, text = BROKEN[name]
    assert text in refusal(changed(NARROW, step, **values)).message


# ---------------------------------------------------------------- the residual stream

def test_the_residual_stream_leaves_word_for_word(network):
    images = random_images(random_model(3, blocks="dm"), 4)
    found, trace = golden.run(network, images), golden.trace(network, images)
    state = trace["block1.out"]
    assert (found["last"] == state[:, -1]).all() and (found["sum"] == state.sum(1)).all()
    scale = network.residual_scale
    assert np.allclose(dequantize(network, found)["sum"], state.mean(1) * scale, rtol=1e-6)


@pytest.mark.parametrize("class_token", [True, False])
def test_the_input_starts_the_residual_stream(class_token):
    model = random_model(4, blocks="d", class_token=class_token)
    network = host_start(random_qgraph(4, blocks="d", class_token=class_token)).tasks[0]
    verify(network)
    tokens = np.random.default_rng(0).normal(0, 1, (3, 9 - class_token, 32))
    words = quantize_input(network, tokens)
    assert words.shape == (3, 9, 32) and words.dtype == np.int16 and (words[:, :int(class_token)] == 0).all()
    table = next(step.feed.table.array for step in network.steps if isinstance(step.feed, Constant))
    wanted = np.clip(np.clip(np.rint(tokens / network.residual_scale), -32767, 32767)
                     + table[int(class_token):].astype(np.int64), -32767, 32767)
    found = golden.trace(network, tokens)
    start = next(step.value for step in network.steps if isinstance(step.feed, Constant))
    assert (found[start][:, int(class_token):] == wanted).all()
    assert input_clipped(network, np.full((1, 9 - class_token, 32), 1e9)) == 1.0
    assert model.tasks[0].shapes()["r0"] == (9, 32)
