"""Passes over steps: each gives a network that verifies and computes the same words, on random networks."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from hwgen import quantizer
from hwgen.errors import CapacityError
from hwgen.steps import golden
from hwgen.steps.host import quantize_input
from hwgen.steps.passes.ablation import Ablation, extra_steps
from hwgen.steps.passes.attention import order_inputs, split_heads
from hwgen.steps.passes.batch import batch
from hwgen.steps.passes.blocks import split_hidden
from hwgen.steps.passes.experts import order_experts
from hwgen.steps.passes.norms import fuse_norms
from hwgen.steps.passes.numbers import number
from hwgen.steps.passes.planes import split_planes
from hwgen.steps.passes.roles import copies
from hwgen.steps.passes.starts import lengthen_starts
from hwgen.steps.passes.taps import taps
from hwgen.steps.stages import Constant, Normalize
from hwgen.steps.step import Network, Quantized
from hwgen.steps.tensor import Memory
from hwgen.steps.verify import verify
from qgraphs import random_images, random_model, random_qgraph
from taken_nets import taking
from wide_nets import host_start, random_wide, read_out

PASSES = {
    "order_inputs": order_inputs, "fuse_norms": fuse_norms, "copies": lambda n: copies(n, 8), "number": number,
    "split_heads": lambda n: split_heads(n, 4096, 8), "blocks of 3 queries": lambda n: split_heads(n, 4096, 8, 3),
    "planes": split_planes, "order_experts": order_experts, "blocks of 4 tokens": lambda n: order_experts(n, 4), "taps": lambda n: taps(n, 4),
    "lengthen_starts": lengthen_starts, "hidden values of 2 tokens": lambda n: split_hidden(n, 2),
    "extra steps": lambda n: extra_steps(split_heads(n, 4096, 8), Ablation(softmax_passes=2, serial=True), 8, 8),
    "all": lambda n: number(split_planes(extra_steps(order_experts(split_heads(copies(fuse_norms(split_hidden(order_inputs(n), 3)), 16), 16, 8, 3), 4),
                                                     Ablation(3, 1, True, 4), 16, 16))),
}


@st.composite
def networks(draw) -> dict:
    heads = draw(st.sampled_from([1, 2, 3]))
    experts = draw(st.integers(2, 6))
    return {"seed": draw(st.integers(0, 99)), "tokens": draw(st.integers(2, 11)), "heads": heads, "dim": heads * draw(st.integers(3, 12)),
                "hidden": draw(st.integers(3, 40)), "experts": experts, "top_k": draw(st.integers(1, min(experts, 4))),
                "blocks": draw(st.text("dm", min_size=1, max_size=2)), "class_token": draw(st.booleans()),
                "pool": draw(st.sampled_from(["select", "mean"])), "causal": draw(st.booleans()),
                "norms": draw(st.sampled_from(["pre", "post", "respost", "sandwich"])), "rms": draw(st.booleans()), "part": draw(st.integers(0, 99)), "words": draw(st.booleans()),
                "taken": draw(st.booleans())}


def drawn(options: dict, images: int) -> tuple[Network, np.ndarray]:
    """A network with operands of 16 bits here and there, which reads the residual stream out, and words for its input."""
    sizes = {key: value for key, value in options.items() if key not in ("part", "words", "taken")}
    quantized = read_out(random_wide(part=options["part"], **sizes))
    network = (taking(quantized, options["part"]) if options["taken"] else quantized).tasks[0]
    if options["words"]:
        network = host_start(Quantized((network,))).tasks[0]
        shape = network.input[1].tokens - network.input[0].front, network.input[1].channels
        return network, quantize_input(network, np.random.default_rng(images).normal(0, 1, (images, *shape)))
    return network, quantize_input(network, random_images(random_model(**sizes), images))


def outputs(network: Network, words: np.ndarray) -> dict[str, np.ndarray]:
    values = golden.evaluate(network, words)
    return {output.name: values[output.tensor.name] for output in network.outputs}


@pytest.mark.parametrize("name", PASSES)
@settings(deadline=None, max_examples=8)
@given(options=networks())
def test_a_pass_keeps_every_word(name, options):
    network, words = drawn(options, 3)
    changed = PASSES[name](network)
    verify(changed)
    expected = outputs(network, words)
    for output, found in outputs(changed, words).items():
        np.testing.assert_array_equal(found, expected[output])


@settings(deadline=None, max_examples=30)
@given(options=networks(), images=st.integers(2, 4), block=st.sampled_from([0, 3]))
def test_a_batch_computes_the_words_of_its_images(options, images, block):
    network, words = drawn(options, images)
    try:
        many = split_heads(copies(fuse_norms(batch(network, images)), 8), 4096, 8, block)
    except CapacityError as error:
        assert "leaves the 16-bit range" in error.message or options["taken"] and "takes patches by an order" in error.message
        return
    verify(many)
    front = many.input[1].tokens // images - words.shape[1]
    frame = np.concatenate([np.concatenate([np.zeros((front, words.shape[2]), words.dtype), image]) for image in words])[None]
    expected = outputs(network, words)
    for output, found in outputs(many, frame).items():
        np.testing.assert_array_equal(found[0], expected[output][:, 0])


def test_taps_hold_the_values():
    model = random_model(blocks="dm")
    network = quantizer.quantize(model, None, random=True).tasks[0]
    images = random_images(model, 2)
    found = golden.evaluate(copies(fuse_norms(taps(network, 4)), 8), quantize_input(network, images))
    expected = golden.trace(network, images)
    values = [tensor.name for tensor in network.tensors() if tensor.memory is Memory.ACT and ".hidden" not in tensor.name]
    assert len(values) > 10
    for value in values:
        np.testing.assert_array_equal(found[f"{value}.tap"], expected[value])


def test_a_norm_of_a_state_that_is_gone():
    network = random_qgraph(blocks="dd").tasks[0]
    steps = list(network.steps)
    late = next(i for i, step in enumerate(steps) if step.value == "block1.q")
    first = next(step for step in steps if isinstance(step.feed, Normalize))
    steps[late] = replace(steps[late], source_view=first.sink)
    late_reader = replace(network, steps=tuple(steps))
    fused = fuse_norms(late_reader)
    verify(fused)
    (kept,) = (step for step in fused.steps if step.sink.tensor == first.sink.tensor)
    assert isinstance(kept.feed, Normalize) and not kept.tile.mixes and [s.name for s in fused.steps].index(kept.name) < late
    words = quantize_input(network, random_images(random_model(blocks="dd"), 2))
    np.testing.assert_array_equal(outputs(fused, words)["logits"], outputs(late_reader, words)["logits"])


def test_a_class_token_that_leaves_the_range_in_a_batch():
    network = random_qgraph(class_token=True).tasks[0]
    index = next(i for i, step in enumerate(network.steps) if step.node == "embed" and step.weights is not None)
    embed = network.steps[index]
    bias = replace(embed.tile.bias, name="large", array=np.full_like(embed.tile.bias.array, 1 << 30))
    steps = (*network.steps[:index], replace(embed, tile=replace(embed.tile, bias=bias)), *network.steps[index + 1:])
    with pytest.raises(CapacityError, match="the class token less the embedding's bias leaves the 16-bit range"):
        batch(replace(network, steps=steps), 2)


def test_inputs_of_attention_that_read_each_other_stay_in_order():
    network = random_qgraph(blocks="d").tasks[0]
    steps = list(network.steps)
    q, v = (next(i for i, step in enumerate(steps) if step.value == f"block0.{letter}") for letter in "qv")
    steps[q:v + 1] = [steps[v], steps[q + 1], replace(steps[q], source_view=steps[v].sink)]       # v, k, q = Linear(v)
    chained = replace(network, steps=tuple(steps))
    verify(chained)
    verify(order_inputs(chained))
    assert [step.value for step in order_inputs(chained).steps] == [step.value for step in chained.steps]


def test_the_start_of_a_batch_has_a_name_of_its_own():
    """The same table behind another embedding is another constant, though two tasks have the table in common."""
    network = random_qgraph(class_token=True).tasks[0]
    index = next(i for i, step in enumerate(network.steps) if step.node == "embed" and step.weights is not None)
    embed = network.steps[index]
    other = replace(embed, tile=replace(embed.tile, bias=replace(embed.tile.bias, name="other", array=embed.tile.bias.array + 1000)))
    starts = [next(step.feed.table for step in batch(replace(network, steps=(*network.steps[:index], step, *network.steps[index + 1:])), 2).steps
                   if isinstance(step.feed, Constant)) for step in (embed, other)]
    assert starts[0].name != starts[1].name and (starts[0].array != starts[1].array).any()


def test_an_output_may_have_the_name_of_anything_the_compiler_adds():
    model = random_model(blocks="m")
    graph = model.tasks[0]
    for name in ("residual", "x.int8", "block0.out.queue", "block0.attention.scores", "embed.start"):
        named = replace(graph, outputs={name: "head"}, output_shapes={name: (1, 10)})
        network = quantizer.quantize(replace(model, tasks=(named,)), None, random=True).tasks[0]
        assert golden.run(network, random_images(model, 2)).keys() == {name}
