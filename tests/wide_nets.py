"""Networks with words of 16 bits where there can be some: operands, the residual stream that leaves, an input that starts it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen import ops, quantizer
from hwgen.graph import Model
from hwgen.quantizer import Recipe, Rule
from hwgen.quantizer.weights import identity
from hwgen.steps.format import ACCUMULATOR, WIDE
from hwgen.steps.param import Params
from hwgen.steps.stages import Add, Constant, Host, Identity, Mean, Plain, Rescale
from hwgen.steps.stages.rescale import EXACT
from hwgen.steps.step import Network, Output, Quantized, Step
from hwgen.steps.tensor import Memory, Span, Tensor
from qgraphs import random_model


def wide_values(model: Model) -> list[str]:
    """Every value that can have 16 bits: what only linear maps read, and what experts have between their layers."""
    nodes = [node for graph in model.tasks for node in graph.nodes]
    taken = {value for node in nodes if isinstance(node, (ops.MoE, ops.SoftMoE, ops.TokenMix)) for value in node.inputs}
    return sorted({node.output for node in nodes if isinstance(node, (ops.LayerNorm, ops.Activation, ops.Attention, ops.MoE))} - taken)


def recipe(model: Model, seed: int | None = None) -> Recipe:
    """16 bits for all of them, or for a random part."""
    values = wide_values(model)
    if seed is not None:
        rng = np.random.default_rng(seed)
        values = [value for value in values if rng.random() < 0.5]
    return Recipe(values={value: Rule(bits=WIDE.bits) for value in values})


def random_wide(seed: int = 0, *, part: int | None = None, **options) -> Quantized:
    """`qgraphs.random_qgraph` with 16 bits in all places, or in a random part of them."""
    model = random_model(seed, **options)
    return quantizer.quantize(model, None, random=True, recipe=recipe(model, part))


def read_out(quantized: Quantized) -> Quantized:
    """The residual stream as it is at the end leaves too: ``last``, its last token, and ``sum``, the sum of its tokens."""
    pool = Params()
    return replace(quantized, tasks=tuple(_read_out(network, pool) for network in quantized.tasks))


def _read_out(network: Network, pool: Params) -> Network:
    residual = next(tensor for tensor in network.tensors() if tensor.memory is Memory.RES)
    words = Tensor("state", WIDE, residual.tokens, residual.channels, residual.scale)
    steps = [Step("state", "readout", Rescale(EXACT), Identity(), (words.view(),), residual.view())]
    outputs = []
    tile = identity(pool, residual.channels, residual.scale).tile
    for name, tokens in (("last", Span(residual.tokens - 1, 1)), ("sum", Span(0, residual.tokens))):
        out = Tensor(name, ACCUMULATOR, 1, residual.channels, memory=Memory.OUT)
        steps.append(Step(name, "readout", Plain(), tile, (out.view(),), words.view(tokens), (Mean(),)))
        outputs.append(Output(name, out, tile.scale, tokens.count, (1, residual.channels)))
    return replace(network, steps=(*network.steps, *steps), outputs=(*network.outputs, *outputs))


def host_start(quantized: Quantized) -> Quantized:
    """Without the embedding: the host sends the tokens of the residual stream, and the constant is added to them."""
    return replace(quantized, tasks=tuple(map(_host_start, quantized.tasks)))


def _host_start(network: Network) -> Network:
    host, constant, embed, *rest = network.steps
    if not isinstance(host.feed, Host) or not isinstance(constant.feed, Constant) or embed.sink.tensor.memory is not Memory.RES:
        raise ValueError(f"{network.name} does not start with an input, a constant and an embedding")
    place = constant.sink
    start = replace(host, feed=Host(host.feed.input, None, embed.sink.tokens.start), sinks=(place,), keeps=constant.keeps)
    return replace(network, steps=(start, replace(constant, drain=(Add(place),)), *rest))
