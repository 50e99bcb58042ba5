"""The integer IR: what its verifier refuses, with the step printed; its proof of accumulators; what every feed, operand and stage must have."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
import inspect

import numpy as np
import pytest

from hwgen.errors import ModelError
from hwgen.steps import window
from hwgen.steps.format import ACCUMULATOR, INT4, INT8, PRE_ACTIVATION, PROBABILITY, SCORE, SHARE, WIDE
from hwgen.steps.param import Columns, Factor, Param
from hwgen.steps.stages import (
    FEEDS,
    STAGES,
    TILES,
    Add,
    Constant,
    Exp2,
    Host,
    Identity,
    Keys,
    Mean,
    Normalize,
    Plain,
    Requant,
    Restore,
    RowFactor,
    Stage,
    Stationary,
    Table,
    Values,
)
from hwgen.steps.step import Expert, Keep, Network, Output, Quantized, Step
from hwgen.steps.tensor import HeadMap, Memory, Span, Tensor
from hwgen.steps.text import line, lines
from hwgen.steps.verify import verify
from hwgen.steps.written import Written
from qgraphs import random_qgraph
from wide_nets import read_out

OPTIONS = {"seed": 5, "blocks": "dm", "tokens": 5, "dim": 16, "hidden": 24, "experts": 3, "top_k": 2}


@pytest.fixture(scope="module")
def network() -> Network:
    return read_out(random_qgraph(**OPTIONS)).tasks[0]


def index(network: Network, name: str) -> int:
    return next(i for i, step in enumerate(network.steps) if step.name == name)


def changed(network: Network, name: str, **values) -> Network:
    """The network with other fields in one step; a function gets the step."""
    at = index(network, name)
    step = network.steps[at]
    new = replace(step, **{key: value(step) if inspect.isfunction(value) else value for key, value in values.items()})
    return replace(network, steps=(*network.steps[:at], new, *network.steps[at + 1:]))


def refusal(network: Network) -> ModelError:
    with pytest.raises(ModelError) as caught:
        verify(network)
    return caught.value


def in_stage(number: int, **values):
    """Other fields in a stage of the drain."""
    return lambda step: (*step.drain[:number], replace(step.drain[number], **values), *step.drain[number + 1:])


def in_sink(**values):
    """Other fields in the tensor of the first sink."""
    return lambda step: (step.sink.of(replace(step.sink.tensor, **values)), *step.sinks[1:])


def param(array) -> Param:
    return Param("changed", np.asarray(array))


def columns(mult, shift):
    return Columns(Param("m", np.asarray(mult)), Param("s", np.asarray(shift)))


def every(count, mult=1 << 15, shift=15):
    """One factor for each of ``count`` columns."""
    return columns(np.full(count, mult), np.full(count, shift))


BIG = 1 << 16
BROKEN = {                      # id -> step, its other fields, what the message says
    "no sink": ("block0.q", {"sinks": ()}, "has 0 sinks"),
    "three sinks": ("block0.q", {"sinks": lambda s: s.sinks * 3}, "has 3 sinks"),
    "no heads": ("block0.attention", {"heads": 0}, "has 0 heads"),
    "third half": ("block0.attention", {"half": 2}, "half 2"),
    "negative work": ("block0.q", {"macs": -1}, "-1 multiplications"),
    "view beyond its tensor": ("block0.q", {"sinks": lambda s: (s.sink.tensor.view(Span(1, 5)),)}, "does not lie within block0.q s8 [5, 16]"),
    "view before its tensor": ("block0.q", {"source_view": lambda s: s.source.tensor.view(Span(-1, 5))}, "does not lie within"),
    "empty view": ("block0.q", {"source_view": lambda s: s.source.tensor.view(channels=Span(0, 0))}, "does not lie within"),
    "view with step 0": ("block0.q", {"source_view": lambda s: s.source.tensor.view(Span(0, 5, 0))}, "does not lie within"),
    "wide words in the activation memory": ("block0.q", {"sinks": in_sink(format=SCORE)}, "lies in the memory act of s8 or s16"),
    "activations in the residual memory": ("block0.q", {"sinks": in_sink(memory=Memory.RES)}, "lies in the memory res of s16"),
    "heads that are not its channels": ("block0.q", {"sinks": in_sink(heads=HeadMap(3, 5, 8))}, "has 3 heads of 5, in groups of 8"),
    "groups of no lanes": ("block0.q", {"sinks": in_sink(heads=HeadMap(2, 8, 0))}, "in groups of 0"),
    "scale that is not a number": ("block0.q", {"sinks": in_sink(scale=float("nan"))}, "has the scale nan"),
    "negative scale": ("block0.q", {"sinks": in_sink(scale=-1.0)}, "has the scale -1.0"),
    "nothing streamed": ("block0.q", {"source_view": None}, "the feed plain streams no tensor"),
    "constant streamed": ("residual", {"source_view": lambda s: s.sink}, "the feed constant streams a tensor"),
    "stage twice": ("block0.q", {"drain": lambda s: s.drain * 2}, "has a stage twice"),
    "tile of other rows": ("block0.q", {"source_view": lambda s: s.source.tensor.view(channels=Span(0, 15))},
                           "streams 15 channels into a tile of 16 rows, 1 heads"),
    "result of other tokens": ("block0.q", {"sinks": lambda s: (s.sink.tensor.view(Span(0, 4)),)}, "the result is [5, 16], its place [4, 16]"),
    "result of other channels": ("block0.q", {"sinks": lambda s: (s.sink.tensor.view(channels=Span(0, 4)),)}, "its place [5, 4]"),
    "accumulators stored as activations": ("block0.q", {"drain": ()}, "the result is s32, block0.q holds s8"),
    "statistics not kept": ("block0.mid", {"keeps": ()}, "keeps [] of what it stores in residual, not ['moments']"),
    "other statistics": ("block0.attention.scores", {"keeps": (Keep.MOMENTS,)}, "not ['row_max']"),
    "statistics nobody needs": ("block0.q", {"keeps": (Keep.ROW_MAX,)}, "keeps ['row_max']"),
    "residual stream overwritten": ("block0.mid", {"drain": lambda s: s.drain[:1]}, "overwrites residual, which is only added to"),
    "second sink of another size": ("block1.out.gate", {"sinks": lambda s: (*s.sinks, s.source.tensor.view(Span(0, 2)))}, "has no room for them"),
    "second sink of another format": ("block1.out.gate", {"sinks": lambda s: (*s.sinks, replace(s.source, tensor=Tensor(
        "w", WIDE, 5, 16, 1.0, Memory.RES)))}, "has no room for them"),
    "host: multiplied": ("x.int8", {"tile": Keys(Tensor("k", INT8, 5, 16).view())}, "the host's words are multiplied"),
    "host: part of a tensor": ("x.int8", {"sinks": lambda s: (s.sink.tensor.view(Span(0, 2)),)}, "or are a part of x.int8"),
    "host: patches of nothing": ("x.int8", {"feed": Host("x", window.Window.patch(0, 2))}, "windows of 0x2"),
    "constant: multiplied": ("embed.start", {"tile": Keys(Tensor("k", INT8, 5, 16).view())}, "a constant is multiplied"),
    "constant: another shape": ("embed.start", {"feed": Constant(param(np.zeros((4, 16), np.int16)))}, "the constant has shape (4, 16)"),
    "constant: another type": ("embed.start", {"feed": Constant(param(np.zeros((5, 16), np.int32)))}, "the constant is int32"),
    "constant: -32768": ("embed.start", {"feed": Constant(param(np.full((5, 16), -32768, np.int16)))}, "-32768..-32768, not s16"),
    "norm of a part": ("block0.norm1", {"source_view": lambda s: s.source.tensor.view(channels=Span(0, 8))}, "normalises a part of the channels"),
    "norm of activations": ("block0.norm2", {"source_view": lambda s: Tensor("block0.norm1", INT8, 5, 16).view()}, "a normalising feed takes s16"),
    "norm with eps 0": ("block0.norm1", {"feed": lambda s: replace(s.feed, eps=0)}, "eps 0 is not in 1..2**48-1"),
    "norm with a large eps": ("block0.norm1", {"feed": lambda s: replace(s.feed, eps=1 << 48)}, "is not in 1..2**48-1"),
    "norm without mean": ("block0.norm1", {"feed": lambda s: replace(s.feed, mean=Factor(0, 3))}, "16 / D: multiplier 0"),
    "norm without factor": ("block0.norm1", {"feed": lambda s: replace(s.feed, out=Factor(3, 48))}, "norm: shift 48 is not in 1..47"),
    "norm that shifts too far": ("block0.norm1", {"feed": lambda s: replace(s.feed, out=Factor(1 << 15, 47))}, "norm: the run-time shift can lie in"),
    "scores of activations": ("block0.attention", {"source_view": lambda s: Tensor("block0.q", INT8, 5, 10).view()}, "an exponential feed takes s16.6"),
    "weights times weights": ("block0.attention", {"tile": Identity()}, "attention weights are multiplied with something else than values"),
    "values without restoring": ("block0.attention", {"drain": lambda s: s.drain[1:]}, "restored and divided by the sum of their row"),
    "values in no heads": ("block0.attention", {"heads": 3}, "16 channels are no 3 heads"),
    "keys in no heads": ("block0.attention.scores", {"heads": 3}, "16 channels are no 3 heads"),
    "keys that are wide": ("block0.attention.scores", {"tile": Keys(Tensor("residual", WIDE, 5, 16, 1.0, Memory.RES).view())},
                           "residual is s16, a stationary operand is s8"),
    "restored without exponentials": ("block0.q", {"drain": lambda s: (Restore(), *s.drain)}, "restores what no exponential feed took away"),
    "divided without exponentials": ("block0.q", {"drain": (RowFactor(Factor(1 << 15, 15)),)}, "divides by the sum of a row that has none"),
    "division into 16 bits": ("block0.attention", {"drain": in_stage(1, to=WIDE)}, "the result is s16, block0.attention holds s8"),
    "division by a factor of 0": ("block0.attention", {"drain": in_stage(1, factor=Factor(0, 1))}, "output: multiplier 0"),
    "division that shifts too far": ("block0.attention", {"drain": in_stage(1, factor=Factor(1 << 15, 47))}, "attention output: the run-time shift"),
    "requantized to 4 bits": ("block0.q", {"drain": in_stage(0, to=INT4)}, "saturates to s8 or s16, not to s4"),
    "requantized to a probability": ("block0.q", {"drain": in_stage(0, to=PROBABILITY)}, "not to u8"),
    "requantized twice": ("block0.mid", {"drain": lambda s: (Requant(Factor(1, 1), INT8), *s.drain)}, "has a stage twice"),
    "multiplier of 0": ("block0.q", {"drain": in_stage(0, factor=columns(np.zeros(16, int), np.ones(16, int)))}, "requantizer: multiplier 0 is not in 1..65535"),
    "multiplier of 17 bits": ("block0.q", {"drain": in_stage(0, factor=every(16, BIG, 3))}, f"multiplier {BIG} is not in"),
    "shift of 0": ("block0.q", {"drain": in_stage(0, factor=every(16, 3, 0))}, "shift 0 is not in 1..47"),
    "one factor for all weights": ("block0.q", {"drain": in_stage(0, factor=Factor(3, 3))}, "weights have a factor for each column"),
    "a factor for each key": ("block0.attention.scores", {"drain": in_stage(0, factor=every(5))}, "what else is stationary has one"),
    "factors of fewer columns": ("block0.q", {"drain": in_stage(0, factor=columns(np.ones(15, int), np.ones(15, int)))}, "(15,) factors for 16 columns"),
    "factors that are no pairs": ("block0.q", {"drain": in_stage(0, factor=columns(np.ones(16, int), np.ones(15, int)))}, "are no pairs of integers"),
    "factors that are floats": ("block0.q", {"drain": in_stage(0, factor=columns(np.ones(16), np.ones(16)))}, "are no pairs of integers"),
    "no such function": ("block0.hidden", {"drain": in_stage(1, function="sine")}, "no function 'sine'"),
    "function of activations": ("block0.hidden", {"drain": in_stage(0, to=INT8)}, "a table takes s16.12, not s8"),
    "function into 16 bits": ("block0.hidden", {"drain": in_stage(1, to=WIDE)}, "the result is s16, block0.hidden holds s8"),
    "function without factor": ("block0.hidden", {"drain": in_stage(1, factor=Factor(0, 1))}, "activation: multiplier 0"),
    "weights of floats": ("block0.q", {"tile": lambda s: replace(s.tile, weight=param(np.zeros((16, 16))))}, "is not an integer of 8 bits"),
    "weights of -128": ("block0.q", {"tile": lambda s: replace(s.tile, weight=param(np.full((16, 16), -128, np.int8)))}, "in [-127, 127]"),
    "weights of 5 bits": ("block0.q", {"tile": lambda s: replace(s.tile, format=INT4)}, "is not an integer of 4 bits in [-7, 7]"),
    "weights in 16 bits": ("block0.q", {"tile": lambda s: replace(s.tile, format=WIDE)}, "is not an integer of 16 bits"),
    "weights without columns": ("block0.q", {"tile": lambda s: replace(s.tile, weight=param(np.zeros(16, np.int8)))}, "is not an integer of 8 bits"),
    "bias of other columns": ("block0.q", {"tile": lambda s: replace(s.tile, bias=param(np.zeros(3, np.int32)))}, "changed is int32 (3,), expected int32 (16,)"),
    "bias of 64 bits": ("block0.q", {"tile": lambda s: replace(s.tile, bias=param(np.zeros(16, np.int64)))}, "changed is int64 (16,)"),
    "scale of 0": ("block0.q", {"tile": lambda s: replace(s.tile, scale=param(np.zeros(16)))}, "scale changed is not positive"),
    "scale of infinity": ("block0.q", {"tile": lambda s: replace(s.tile, scale=param(np.full(16, np.inf)))}, "scale changed is not positive"),
    "sum of activations": ("block0.q", {"drain": lambda s: (*s.drain, Add(s.sink))}, "an addition takes s16, not s8"),
    "added to something else": ("block0.mid", {"drain": lambda s: (s.drain[0], Add(s.sink.tensor.view(Span(0, 2))))}, "adds to residual[0:2] and stores in residual"),
    "mean that is stored": ("block0.q", {"drain": (Mean(),)}, "a mean is stored in block0.q, it can only leave"),
    "mean of activations": ("logits", {"drain": lambda s: (Requant(every(10)), *s.drain)}, "a mean takes s32, not s8"),
    "too many experts for the router": ("block1.out.gate", {"drain": in_stage(1, top_k=4)}, "top-4 of 3 experts"),
    "no expert for the router": ("block1.out.gate", {"drain": in_stage(1, top_k=0)}, "top-0 of 3 experts"),
    "router of activations": ("block1.out.gate", {"drain": in_stage(0, to=INT8)}, "a router takes s16.8, not s8"),
    "tokens of no expert": ("block1.out.expert0.layer1", {"expert": None}, "gathers tokens of no expert"),
    "share of no expert": ("block1.out.expert0.layer2", {"expert": None}, "weighs the result of no expert"),
    "share of activations": ("block1.out.expert0.layer2", {"drain": in_stage(0, to=INT8)}, "a score takes s16, not s8"),
    "expert that is not there": ("block1.out.expert0.layer1", {"expert": lambda s: replace(s.expert, index=3)}, "is none of a router"),
    "expert of another number": ("block1.out.expert0.layer1", {"expert": lambda s: replace(s.expert, of=4)}, "is none of a router"),
    "negative expert": ("block1.out.expert0.layer1", {"expert": lambda s: replace(s.expert, index=-1)}, "is none of a router"),
    "queue that is none": ("block1.out.expert0.layer1", {"expert": lambda s: replace(s.expert, queue=s.source)}, "is none of a router"),
    "another expert's tokens": ("block1.out.expert0.layer2", {"expert": lambda s: replace(s.expert, index=1)}, "holds the tokens of expert 0"),
    "tokens of an expert for all": ("block1.out.expert0.layer2", {"expert": None, "drain": lambda s: (s.drain[0], s.drain[2])}, "holds the tokens of expert 0"),
    "an expert on all tokens": ("block1.out.expert0.layer1", {"feed": Plain()}, "for an expert without gathering its tokens"),
    "an expert on other rows": ("block1.out.expert0.layer1", {"source_view": lambda s: Tensor("x.int8", INT8, 4, 4).view(), "tile": lambda s: replace(
        s.tile, weight=param(np.zeros((4, 24), np.int8)))}, "says nothing about the tokens of x.int8"),
    "read before it is written": ("block0.q", {"source_view": lambda s: Tensor("later", INT8, 5, 16).view()}, "reads 'later' before it is defined"),
    "part that is not written": ("block0.q", {"sinks": lambda s: (Tensor("block0.q", INT8, 9, 16, 1.0).view(Span(0, 5)),)}, "was block0.q s8 [9, 16] before"),
    "one name, two sizes": ("block0.q", {"source_view": lambda s: Tensor("block0.norm1", INT8, 6, 16).view(Span(0, 5))}, "was block0.norm1 s8 [5, 16] before"),
    "row maxima of the other half": ("block0.attention", {"half": 1}, "are in the other half"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_step_is_refused_and_printed(network, name):
    step, values, text = BROKEN[name]
    if step == "residual":
        step = "embed.start"
    broken = changed(network, step, **values)
    error = refusal(broken)
    assert text in error.message
    printed = [line(other) for other in broken.steps]
    assert any(f"step {shown}" in error.where for shown in printed)


def test_the_network_itself_is_whole(network):
    usage = verify(network)
    assert set(usage) == {step.name for step in network.steps if not isinstance(step.tile, Identity)}
    assert all(0 < share < 1 for share in usage.values())


def test_every_step_and_every_line_is_different(network):
    assert len({step.name for step in network.steps}) == len(network.steps)
    assert len(set(lines(network))) == len(network.steps) + 1 + len(network.outputs)


def test_two_steps_of_one_name(network):
    error = refusal(replace(network, steps=(*network.steps, network.steps[-1])))
    assert error.message == "there are two steps 'sum'" and "plain x identity16.weight" in error.where


def without(network: Network, name: str) -> Network:
    return replace(network, steps=tuple(step for step in network.steps if step.name != name))


@pytest.mark.parametrize("change, text", [
    (lambda n: replace(n, steps=n.steps[2:]), "reads 'x.int8' before it is defined"),
    (lambda n: without(n, "embed.start"), "reads 'residual[1:5]' before it is defined"),
    (lambda n: without(n, "block0.k"), "reads 'block0.k' before it is defined"),
    (lambda n: without(n, "logits"), "output 'logits' is logits s32 [1, 10], which no step makes"),
    (lambda n: replace(n, steps=(n.steps[0], replace(n.steps[0], part="again"), *n.steps[1:])), "has 2 inputs"),
    (lambda n: replace(n, steps=()), "has 0 inputs"),
    (lambda n: changed(n, "x.int8", sinks=in_sink(scale=0.0)), "input 'x' has the scale 0.0"),
    (lambda n: replace(n, outputs=()), "there are no outputs"),
    (lambda n: replace(n, outputs=n.outputs * 2), "two of one name"),
    (lambda n: output(n, tensor=replace(n.outputs[0].tensor, name="other")), "which no step makes"),
    (lambda n: output(n, tensor=Tensor("block0.q", INT8, 5, 16)), "which no step makes"),
    (lambda n: output(n, scale=param(np.ones(3))), "has (3,) scales"),
    (lambda n: output(n, scale=param(np.ones(10, np.float32))), "has a scale that is not positive"),
    (lambda n: output(n, scale=param(-np.ones(10))), "has a scale that is not positive"),
    (lambda n: output(n, tokens=2), "2 tokens, logits s32 [1, 10] is made of 1"),
    (lambda n: output(n, shape=(1, 11)), "has the shape [1, 11]")])
def test_a_network_that_does_not_hang_together(network, change, text):
    error = refusal(change(network))
    assert text in error.message and ("network 'logits'" in error.where or "step " in error.where)


def output(network: Network, **values) -> Network:
    return replace(network, outputs=(replace(network.outputs[0], **values),))


# ---------------------------------------------------------------- accumulators

def product(weight, bias=0, tokens=4, drain=None, memory=Memory.ACT, form=INT8) -> Network:
    """A host, a product with these weights, and what it is drained through."""
    weight = np.asarray(weight, np.int8)
    k, n = weight.shape
    x, y = Tensor("x", INT8, tokens, k, 1.0), Tensor("y", form, tokens if drain is None else 1, n, 1.0, memory)
    tile = Stationary(Param("w", weight), Param("b", np.full(n, bias, np.int32)), Param("s", np.ones(n)))
    drain = (Requant(every(n)),) if drain is None else drain
    steps = (Step("x", "host", Host("x", None), Identity(), (x.view(),)), Step("y", "fc", Plain(), tile, (y.view(),), x.view(), drain))
    out, ones = Tensor("o", ACCUMULATOR, 1, 1, memory=Memory.OUT), Stationary(Param("w1", np.ones((k, 1), np.int8)), Param("b1", np.zeros(1, np.int32)), Param("s1", np.ones(1)))
    last = Step("o", "head", Plain(), ones, (out.view(),), x.view(Span(0, 1)), (Mean(),))
    return Network("g", (*steps, last), (Output("o", out, ones.scale, 1, (1, 1)),))


def test_accumulator_bound_is_reached_by_the_worst_input():
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (300, 5))
    signs = np.sign(weight)
    worst = [abs(int((-128 * signs[:, n]) @ weight[:, n]) - 12345) for n in range(5)]
    assert verify(product(weight, -12345))["y"] == max(worst) / (2 ** 31 - 1)


def test_a_mean_adds_the_bias_once_a_token():
    network = product(np.full((3, 2), 5), 7, drain=(Mean(),), memory=Memory.OUT, form=ACCUMULATOR)
    assert verify(network)["y"] == 4 * (3 * 5 * 128 + 7) / (2 ** 31 - 1)


@pytest.mark.parametrize("network, bound", [
    (lambda: product(np.full((1, 1), 127), 2 ** 31 - 1), 2 ** 31 - 1 + 127 * 128),
    (lambda: product(np.full((140_000, 1), 127)), 140_000 * 127 * 128),
    (lambda: product(np.full((40_000, 1), 127), drain=(Mean(),), memory=Memory.OUT, form=ACCUMULATOR), 4 * 40_000 * 127 * 128)])
def test_an_accumulator_that_can_overflow_is_refused(network, bound):
    error = refusal(network())
    assert error.message == f"the accumulator can reach {bound}, an int32 holds 2147483647" and "node 'fc', step y" in error.where and error.hint


def attention(tokens: int, dim: int) -> Network:
    """One head: q, k and v are the host's words."""
    x, scores = Tensor("x", INT8, tokens, dim, 1.0), Tensor("s", SCORE, tokens, tokens, memory=Memory.SCORE)
    y, out = Tensor("y", INT8, tokens, dim, 1.0), Tensor("o", ACCUMULATOR, 1, 1, memory=Memory.OUT)
    one = Factor(1 << 15, 15)
    ones = Stationary(Param("w1", np.ones((dim, 1), np.int8)), Param("b1", np.zeros(1, np.int32)), Param("s1", np.ones(1)))
    return Network("g", (
        Step("x", "host", Host("x", None), Identity(), (x.view(),)),
        Step("y", "a", Plain(), Keys(x.view()), (scores.view(),), x.view(), (Requant(one, SCORE),), (Keep.ROW_MAX,), part="scores"),
        Step("y", "a", Exp2(), Values(x.view()), (y.view(),), scores.view(), (Restore(), RowFactor(one))),
        Step("o", "head", Plain(), ones, (out.view(),), y.view(Span(0, 1)), (Mean(),))), (Output("o", out, ones.scale, 1, (1, 1)),))


def test_attention_accumulators():
    usage = verify(attention(64, 64))
    assert usage["y.scores"] == 64 * 128 * 127 / (2 ** 31 - 1) and usage["y"] == 64 * 255 * 127 / (2 ** 31 - 1)
    assert "the accumulator can reach 2266950000" in refusal(attention(70_000, 2)).message


def test_a_normalised_row_is_not_too_long():
    x, y = Tensor("r", WIDE, 1, 1 << 17, 1.0, Memory.RES), Tensor("y", INT8, 1, 1 << 17, 1.0)
    steps = (Step("r", "n", Constant(Param("c", np.zeros((1, 1 << 17), np.int16))), Identity(), (x.view(),), keeps=(Keep.MOMENTS,)),
             Step("y", "n", Normalize(1, Factor(1 << 15, 15), Factor(1 << 15, 15)), Identity(), (y.view(),), x.view()))
    assert "131072 channels are too many for the sums of a token" in refusal(Network("g", steps, ())).message


# ---------------------------------------------------------------- what was written

def test_parts_that_together_are_what_is_read():
    tensor, written = Tensor("t", INT8, 6, 8), Written()
    assert not written.holds(tensor.view())
    for head in range(2):                                                      # heads in blocks of tokens that are not the same
        for first in range(0, 6, 3 - head):
            written.add(tensor.view(Span(first, 3 - head), Span(4 * head, 4)))
    assert written.holds(tensor.view()) and written.holds(tensor.view(Span(1, 3, 2), Span(2, 5)))


def test_every_hole_is_seen():
    tensor = Tensor("t", INT8, 6, 8)
    for hole in range(4):
        written = Written()
        for piece in range(4):
            if piece != hole:
                written.add(tensor.view(Span(3 * (piece // 2), 3), Span(4 * (piece % 2), 4)))
        token, channel = 3 * (hole // 2), 4 * (hole % 2)
        assert not written.holds(tensor.view()) and not written.holds(tensor.view(Span(token, 1), Span(channel, 1)))
        assert written.holds(tensor.view(Span(3 - token, 3))) and written.holds(tensor.view(channels=Span(4 - channel, 4)))


def test_strided_tokens_leave_holes():
    tensor, written = Tensor("t", INT8, 6, 8), Written()
    written.add(tensor.view(Span(0, 3, 2)))
    assert written.holds(tensor.view(Span(0, 2, 4))) and not written.holds(tensor.view(Span(0, 2)))
    written.add(tensor.view(Span(1, 3, 2)))
    assert written.holds(tensor.view())


# ---------------------------------------------------------------- records

RECORDS = (*FEEDS, *TILES, *STAGES)


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_a_record_is_complete(cls):
    """A feed, an operand or a stage that forgets a method is named here."""
    missing = sorted(cls.__abstractmethods__)
    assert not missing, f"{cls.__name__} in {cls.__module__} lacks {', '.join(missing)}"
    assert is_dataclass(cls) and cls.__dataclass_params__.frozen, f"{cls.__name__} is no frozen dataclass"
    if cls not in TILES:
        assert isinstance(cls.name, str) and isinstance(cls.hls, str), f"{cls.__name__} has no name, or none for the HLS engine"
    assert cls.__doc__ and cls.__doc__ != cls.__mro__[1].__doc__, f"{cls.__name__} does not say what it is"


def test_a_forgotten_method_is_named():
    class Half(Stage):
        """A stage without its fields."""

        name, hls = "half", ""

        def evaluate(self, x, run):
            return x

        def format(self, before, step):
            return before

        def interval(self, x, step):
            return x
    with pytest.raises(TypeError, match="abstract.*fields"):
        Half()


def test_names_of_records_are_different():
    names = [cls.__name__ for cls in RECORDS] + [cls.__name__ for cls in (Network, Step, Output, Quantized, Expert, Tensor, Span, HeadMap)]
    assert len(set(names)) == len(names)
    assert len({cls.name for cls in (*FEEDS, *STAGES)}) == len(FEEDS) + len(STAGES)


def test_every_record_is_in_some_network(network):                      # so that the refusals above meet all of them
    steps = (*network.steps, *attention(4, 4).steps, *random_qgraph(blocks="gm", norms="post", bias="all", gates="biased", rotary=8).tasks[0].steps, *random_qgraph(blocks="dd", prune="index").tasks[0].steps)
    assert set(RECORDS) == {type(record) for step in steps for record in (step.feed, step.tile, *step.drain)}


def test_a_network_has_the_named_formats(network):
    assert {step.sink.tensor.format for step in network.steps} == {INT8, WIDE, SCORE, SHARE, ACCUMULATOR}
    assert PRE_ACTIVATION in {stage.to for step in network.steps for stage in step.drain if isinstance(stage, (Requant, Table))}
