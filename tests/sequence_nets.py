"""Random networks of a sequence of tokens, for tests of run-time lengths: a float `Model` with seeded weights, and the `Quantized` made of it."""

from __future__ import annotations

import numpy as np

from hwgen import ops, quantizer
from hwgen.functions import Act
from hwgen.graph import Graph, Model, Node
from hwgen.steps.passes.lengths import sequenced
from hwgen.steps.step import Quantized

ENDS = ("mean", "first", "last", "all")


def sequence_model(seed: int = 0, *, tokens: int = 12, dim: int = 16, heads: int = 2, hidden: int = 24, experts: int = 4, top_k: int = 2,
                   blocks: str = "dm", end: str = "mean", causal: bool = False, act: Act = Act.GELU, classes: tuple[int, ...] = (5,),
                   heads_norm: bool = False, rotary: bool = False) -> Model:
    """Pre-norm blocks over tokens [tokens, dim] of the host. blocks: one letter a block, "d" = dense MLP, "m" = mixture of experts, "x" = of gated experts,
    "s" = soft one, "y" = of gated experts, "g" = gated; heads_norm: RMSNorms of q and k; rotary: they are turned;
    end: what the classes are made of, one of `ENDS`; classes: of each task, which share everything but heads."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, gain: float = 1.0, offset: float = 0.0) -> np.ndarray:
        return (offset + gain * rng.standard_normal(shape)).astype(np.float32)

    def linear(name: str, x: str, k: int, n: int) -> ops.Linear:
        return ops.Linear(name, name, x, draw(k, n, gain=k ** -0.5), draw(n, gain=0.1))

    def norm(name: str, x: str) -> ops.LayerNorm:
        return ops.LayerNorm(name, name, x, draw(dim, gain=0.2, offset=1.0), draw(dim, gain=0.2), 1e-5)
    nodes: list[Node] = [linear("embed", "x", dim, dim), ops.AddConst("pos", "r0", "embed", draw(tokens, dim, gain=0.5))]
    angles = np.outer(np.arange(tokens), 30.0 ** (-np.arange(0, dim // heads, 2) * heads / dim))
    turns = tuple(np.tile(function(angles), (1, heads)).astype(np.float32) for function in (np.cos, np.sin))
    state = "r0"
    for i, kind in enumerate(blocks):
        b = f"block{i}"
        mark = ".normed" if heads_norm else ""
        nodes += [norm(f"{b}.norm1", state), *(linear(f"{b}.{letter}", f"{b}.norm1", dim, dim) for letter in "qkv"),
                  *(ops.HeadNorm(f"{b}.{letter}.norm", f"{b}.{letter}.normed", f"{b}.{letter}", draw(dim, gain=0.2, offset=1.0), draw(dim, gain=0.2),
                                 1e-5, heads, True) for letter in "qk" if heads_norm),
                  *(ops.Rotate(f"{b}.{letter}.turn", f"{b}.{letter}.turned", f"{b}.{letter}{mark}", *turns) for letter in "qk" if rotary),
                  ops.Attention(f"{b}.attention", f"{b}.attention", *(f"{b}.{letter}{'.turned' if rotary else mark}" for letter in "qk"), f"{b}.v",
                                heads, (dim // heads) ** -0.5, causal),
                  linear(f"{b}.proj", f"{b}.attention", dim, dim), ops.Add(f"{b}.add1", f"{b}.mid", state, f"{b}.proj"),
                  norm(f"{b}.norm2", f"{b}.mid")]
        if kind in "mx":
            nodes.append(ops.MoE(f"{b}.moe", f"{b}.mlp", f"{b}.norm2", draw(dim, experts, gain=dim ** -0.5), draw(experts, gain=0.1),
                                 draw(experts, dim, hidden, gain=dim ** -0.5), draw(experts, hidden, gain=0.1),
                                 draw(experts, hidden, dim, gain=hidden ** -0.5), draw(experts, dim, gain=0.1), act, top_k, True,
                                 **({"w3": draw(experts, dim, hidden, gain=dim ** -0.5), "b3": draw(experts, hidden, gain=0.1)} if kind == "x" else {})))
        elif kind in "sy":
            nodes.append(ops.SoftMoE(f"{b}.moe", f"{b}.mlp", f"{b}.norm2", draw(dim, 2 * experts, gain=0.4),
                                     draw(experts, dim, hidden, gain=dim ** -0.5), draw(experts, hidden, gain=0.1),
                                     draw(experts, hidden, dim, gain=hidden ** -0.5), draw(experts, dim, gain=0.1), act,
                                     *((draw(experts, dim, hidden, gain=dim ** -0.5), draw(experts, hidden, gain=0.1)) if kind == "y" else ())))
        elif kind == "g":
            nodes += [linear(f"{b}.gate", f"{b}.norm2", dim, hidden), linear(f"{b}.up", f"{b}.norm2", dim, hidden),
                      ops.Activation(f"{b}.act", f"{b}.looked", f"{b}.gate", act), ops.Multiply(f"{b}.mul", f"{b}.hidden", f"{b}.looked", f"{b}.up"),
                      linear(f"{b}.mlp", f"{b}.hidden", hidden, dim)]
        else:
            nodes += [linear(f"{b}.fc1", f"{b}.norm2", dim, hidden), ops.Activation(f"{b}.act", f"{b}.hidden", f"{b}.fc1", act),
                      linear(f"{b}.mlp", f"{b}.hidden", hidden, dim)]
        nodes.append(ops.Add(f"{b}.add2", f"{b}.out", f"{b}.mid", f"{b}.mlp"))
        state = f"{b}.out"
    nodes.append(norm("norm", state))
    last = "norm" if end == "all" else "pool"
    if end == "mean":
        nodes.append(ops.Mean("pool", "pool", "norm"))
    elif end != "all":
        nodes.append(ops.Select("pool", "pool", "norm", tokens - 1 if end == "last" else 0))
    graphs = []
    for task, width in enumerate(classes):
        name = f"task{task}" if len(classes) > 1 else "logits"
        shape = (1, tokens, width) if end == "all" else (1, width)
        graphs.append(Graph(name, {"x": (tokens, dim)}, (*nodes, linear("head", last, dim, width)), {name: "head"}, {name: shape}))
    return Model(tuple(graphs)).verify()


def sequence_network(seed: int = 0, **options) -> Quantized:
    """`sequence_model`, quantized with random calibration images, for run-time lengths."""
    model = quantizer.quantize(sequence_model(seed, **options), None, random=True)
    return Quantized(tuple(map(sequenced, model.tasks)), model.calibration)


def sequences(model: Quantized, count: int, seed: int = 1) -> np.ndarray:
    """Seeded normal tokens float32 [count, tokens, channels], of the longest sequence each."""
    tensor = model.tasks[0].input[1]
    return np.random.default_rng(seed).standard_normal((count, tensor.tokens, tensor.channels)).astype(np.float32)
