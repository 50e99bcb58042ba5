"""Random networks for tests: a float `Model` with seeded weights, and the `Quantized` made of it. No ONNX, no files.

Weights are drawn so that activations keep a magnitude near 1 through the layers: integer values are spread over their
range, neither saturated nor zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np

from hwgen import ops, quantizer
from hwgen.functions import Act
from hwgen.graph import Graph, Model, Node, Role, evaluate
from hwgen.ops import parts
from hwgen.quantizer import Recipe, Rule
from hwgen.steps.step import Quantized
from hwgen.steps.window import Window


def random_model(seed: int = 0, *, tokens: int = 9, dim: int = 32, heads: int = 2, hidden: int = 64, experts: int = 4,
                 top_k: int = 2, expert_hidden: int | None = None, blocks: str = "dm", classes: tuple[int, ...] = (10,),
                 class_token: bool = True, act: Act | tuple[Act, ...] = Act.GELU, renormalize: bool = True, patch: int = 2,
                 channels: int = 1, pool: str = "select", causal: bool = False, norms: str = "pre", rms: bool = False,
                 bias: str | None = None, gates: str = "softmax", rotary: int = 0, heads_norm: str | None = None, value_dim: int = 0,
                 groups: int = 1, beside: bool = False, stem: bool = False, present: bool = False,
                 windows: int = 1, early: bool = False, near: int = 0, prune: str | None = None) -> Model:
    """A pre-norm (M³)ViT. ``blocks``: one letter a block, "d" = dense MLP, "m" = mixture of experts, "g" = gated MLP, "b" = the same
    without an activation, "s" = soft mixture of experts, two slots each, "x" = mixture of gated experts,
    "y" = soft one of them, "t" = dense MLP behind an MLP on tokens instead of an attention, "c" = an MLP whose first layer sees the tokens before and
    behind, too.

    tokens: length of the sequence, class token included; image [channels, patch, patch * patches]. ``classes``: output
    width of each task; tasks share everything but gates and heads. pool: "select" (token 0), "mean" (patch tokens), "query" (a learned query looks at
    all tokens) or "slice" (three tokens leave).
    act: of every block, or of one after the other in turn. causal: no token sees one behind it. norms: "pre", "post" (behind each sum, and the embedding),
    "respost" (behind each branch) or "sandwich" (on both sides of it), with gammas of both signs; rms: they take no mean off.
    bias: of the scores, "heads", each its own, "all" the same, "mask": keys hidden at random.
    gates: "softmax", "sigmoid", or "biased" (sigmoids, and a bias for the choice) of every router.
    rotary: channels of each head of q and k that are turned, each token by its place. heads_norm: of each head of q and k, "layer" or "rms".
    value_dim: channels of a head of v, 0 for as many as q and k have.
    groups: heads that share a key and a value. beside: beside every mixture an expert all tokens take, with a sigmoid of its own. stem: patches overlap, and
    reach over the border. present: keys and values of the last block leave too, if it has some.
    windows: of so many tokens each, which see those of their own; each has its own mask, if there are masks. One, where that does not divide the tokens.
    early: routers read what the attention in front of their experts does.
    near: a token sees so many up to itself, and if not causal as many behind, 0: all.
    prune: behind the first block, of tokens that nothing has normalised, about half go on, "ranked" by their scores or "index", as they stand; "looked"
    at by the first token of the block's attention, if it has one.
    """
    acts = act if isinstance(act, tuple) else (act,)
    rng = np.random.default_rng(seed)
    shared: dict[str, np.ndarray] = {}

    def draw(name, *shape, gain=1.0, offset=0.0):
        if name not in shared:
            shared[name] = (offset + gain * rng.standard_normal(shape)).astype(np.float32)
        return shared[name]

    def matrix(name, k, n, gain=1.0):
        return draw(f"{name}.w", k, n, gain=gain / np.sqrt(k)), draw(f"{name}.b", n, gain=0.1)

    def stack(name, k, n):
        return draw(f"{name}.w", experts, k, n, gain=1 / np.sqrt(k)), draw(f"{name}.b", experts, n, gain=0.1)

    def norm(name, x):
        gamma = draw(f"{name}.g", dim, gain=0.2, offset=1.0)
        if norms != "pre":
            gamma = np.where(np.arange(dim) % 5 == 2, -gamma, gamma)
        return (ops.RMSNorm if rms else ops.LayerNorm)(name, name, x, gamma, draw(f"{name}.b", dim, gain=0.2),
                            1e-5)

    first = 1 if class_token else 0
    windows = 1 if tokens % windows else windows
    whole, windows_of_all = tokens, windows
    patches, kernel = tokens - first, 3 if stem else patch
    graphs = []
    for task, width in enumerate(classes):
        nodes: list[Node] = [ops.PatchEmbed(
            "embed", "embed", "x", draw("embed.w", dim, channels, kernel, kernel, gain=1 / (kernel * np.sqrt(channels))),
            draw("embed.b", dim, gain=0.1), Window((3, 3), (patch, patch), (1, 1, 1, 1)) if stem else None)]
        if class_token:
            nodes.append(ops.ConcatTokens("concat", "concat", "embed", draw("cls", 1, dim, gain=0.5)))
        nodes.append(ops.AddConst("pos", "r0", nodes[-1].output, draw("pos", tokens, dim, gain=0.5)))
        state, tokens, windows = "r0", whole, windows_of_all

        def normed(name: str, value: str, *places: str, nodes: list[Node] = nodes) -> str:
            """The norm of a value, where norms stand there."""
            if norms not in places:
                return value
            nodes.append(norm(name, value))
            return name

        state = normed("embedding", state, "post")
        for i, kind in enumerate(blocks):
            b, function = f"block{i}", acts[i % len(acts)]
            read = normed(f"{b}.norm1", state, "pre", "sandwich")
            before, values, begin = read, heads * value_dim or dim, len(nodes)
            for letter, gain, columns_of in (("q", 1.5, dim), ("k", 1.5, dim), ("v", 1.0, values)):
                weight, offset = matrix(f"{b}.{letter}", dim, columns_of, gain)
                if groups > 1 and letter != "q":
                    kept = np.arange(columns_of).reshape(heads, -1)[np.arange(heads) // groups * groups].ravel()
                    weight, offset = weight[:, kept], offset[kept]
                nodes.append(ops.Linear(f"{b}.{letter}", f"{b}.{letter}", read, weight, offset))
            if heads_norm is not None:
                nodes[-3:-1] = [*nodes[-3:-1], *(ops.HeadNorm(f"{b}.{letter}.norm", f"{b}.{letter}.normed", f"{b}.{letter}", np.tile(draw(
                    f"{b}.{letter}.g", dim // heads, gain=0.2, offset=1.0) * np.where(np.arange(dim // heads) % 5 == 2, -1, 1), heads).astype(np.float32),
                    np.tile(draw(f"{b}.{letter}.beta", dim // heads, gain=0.2), heads), 1e-5, heads, heads_norm == "rms") for letter in "qk")]
            normal = ".normed" if heads_norm is not None else ""
            if rotary:
                angle = np.outer(np.arange(tokens), 30.0 ** (-np.arange(0, dim // heads, 2) / rotary)) * (np.arange(0, dim // heads, 2) < rotary)
                cos, sin = (np.tile(function(angle), (1, heads)).astype(np.float32) for function in (np.cos, np.sin))
                nodes[-3:-1] = [*nodes[-3:-1], *(ops.Rotate(f"{b}.{letter}.turn", f"{b}.{letter}.turned", f"{b}.{letter}{normal}", cos, sin) for letter in "qk")]
            mark = ".turned" if rotary else normal
            attended = (f"{b}.attention", f"{b}.attention", f"{b}.q{mark}", f"{b}.k{mark}", f"{b}.v", heads, (dim // heads) ** -0.5, causal, windows)
            if bias is not None or near:
                size = tokens // windows
                added = draw(f"{b}.bias", heads if bias == "heads" else 1, size, size)
                unseen = (draw(f"{b}.mask", *(windows,) * (windows > 1), 1, size, size) > 0.5) & ~np.eye(size, dtype=bool)
                added = np.where(unseen, np.float32(-1e5), 0 * added) if bias == "mask" else 0 * added if bias is None else added
                place = np.subtract.outer(np.arange(size), np.arange(size))
                far = (np.where(causal, place, np.abs(place)) >= near) & (place >= 0 if causal else True) if near else False
                nodes.append(ops.BiasedAttention(*attended, bias=np.where(far, np.float32(-1e5), added).astype(np.float32)))
            else:
                nodes.append(ops.Attention(*attended))
            nodes.append(ops.Linear(f"{b}.proj", f"{b}.proj", f"{b}.attention", *matrix(f"{b}.proj", values, dim)))
            if kind == "t":
                nodes[begin:] = token_mlp(b, read, function, [matrix(f"{b}.mix{layer}", *sizes) for layer, sizes in ((1, (tokens, 7)), (2, (7, tokens)))])
            nodes.append(ops.Add(f"{b}.add1", f"{b}.mid", state, normed(f"{b}.behind1", f"{b}.proj", "respost", "sandwich")))
            state = normed(f"{b}.post1", f"{b}.mid", "post")
            read = normed(f"{b}.norm2", state, "pre", "sandwich")
            if kind in "mx":
                inner = expert_hidden or hidden
                third = stack(f"{b}.third", dim, inner) if kind == "x" else ()
                made = partial(ops.EarlyMoE, early=before) if early else ops.MoE
                nodes.append(made(f"{b}.moe", f"{b}.mlp", read, *matrix(f"{b}.gate{task}", dim, experts),
                                  *stack(f"{b}.first", dim, inner), *stack(f"{b}.second", inner, dim), function, top_k,
                                  renormalize, gates != "softmax", draw(f"{b}.choice", experts if gates == "biased" else 0, gain=0.3), *third))
            elif kind in "sy":
                nodes.append(ops.SoftMoE(f"{b}.moe", f"{b}.mlp", read, draw(f"{b}.phi{task}", dim, 2 * experts, gain=0.4),
                                        *stack(f"{b}.first", dim, expert_hidden or hidden), *stack(f"{b}.second", expert_hidden or hidden, dim),
                                        function, *(stack(f"{b}.third", dim, expert_hidden or hidden) if kind == "y" else ())))
            elif kind in "gb":
                nodes += [ops.Linear(f"{b}.{part}", f"{b}.{part}", read, *matrix(f"{b}.{part}", dim, hidden)) for part in ("gate", "up")]
                nodes += [ops.Activation(f"{b}.act", f"{b}.looked", f"{b}.gate", function)] if kind == "g" else []
                nodes.append(ops.Multiply(f"{b}.mul", f"{b}.hidden", f"{b}.looked" if kind == "g" else f"{b}.gate", f"{b}.up"))
                nodes.append(ops.Linear(f"{b}.down", f"{b}.mlp", f"{b}.hidden", *matrix(f"{b}.fc2", hidden, dim)))
            else:
                taps = 3 if kind == "c" else 1
                if kind == "c":
                    order = np.arange(tokens) + np.arange(-1, 2)[:, None]
                    nodes.append(ops.Take(f"{b}.take", f"{b}.taken", read, np.where(order < tokens, order, -1).astype(np.int32)))
                    read = f"{b}.taken"
                nodes.append(ops.Linear(f"{b}.fc1", f"{b}.fc1", read, *matrix(f"{b}.fc1", taps * dim, hidden)))
                nodes.append(ops.Activation(f"{b}.act", f"{b}.hidden", f"{b}.fc1", function))
                nodes.append(ops.Linear(f"{b}.fc2", f"{b}.mlp", f"{b}.hidden", *matrix(f"{b}.fc2", hidden, dim)))
            branch = f"{b}.mlp" if kind in "mx" else normed(f"{b}.behind2", f"{b}.mlp", "respost", "sandwich")
            if beside and kind in "mx":
                third = {} if kind == "m" else {"w3": draw(f"{b}.shared3.w", 1, dim, hidden, gain=dim ** -0.5), "b3": draw(f"{b}.shared3.b", 1, hidden, gain=0.1)}
                nodes.append(ops.MoE(f"{b}.shared", f"{b}.shared", read, *matrix(f"{b}.sharedgate", dim, 1), draw(f"{b}.shared1.w", 1, dim, hidden, gain=dim ** -0.5),
                                     draw(f"{b}.shared1.b", 1, hidden, gain=0.1), draw(f"{b}.shared2.w", 1, hidden, dim, gain=hidden ** -0.5),
                                     draw(f"{b}.shared2.b", 1, dim, gain=0.1), function, 1, False, True, **third))
                nodes.append(ops.Add(f"{b}.add3", f"{b}.with", state, f"{b}.shared"))
                state = f"{b}.with"
            nodes.append(ops.Add(f"{b}.add2", f"{b}.out", state, branch))
            state = normed(f"{b}.post2", f"{b}.out", "post")
            if prune is not None and not i and norms != "post":
                if prune == "looked" and kind != "t":
                    nodes.append(ops.Attended("pruning.score", "pruning.score", f"{b}.q{mark}", f"{b}.k{mark}", heads, (dim // heads) ** -0.5, 0, first))
                else:
                    nodes += [norm("pruning.norm", state), ops.Linear("pruning.score", "pruning.score", "pruning.norm", *matrix("pruning.score", dim, 1))]
                tokens, windows = first + (tokens - first + 1) // 2, 1
                nodes.append(ops.Prune("pruning", "pruned", state, "pruning.score", first, tokens - first, prune != "index"))
                state = "pruned"
        last = normed("norm", state, "pre", "respost", "sandwich")
        count = 1
        match pool:
            case "query":
                nodes += [ops.Linear(f"pool.{letter}", f"pool.{letter}", last, *matrix(f"pool.{letter}", dim, dim)) for letter in "kv"]
                nodes.append(ops.AttentionPool("pool", "pool", "pool.k", "pool.v", draw("pool.query", 1, dim, gain=(heads / dim) ** 0.5), heads))
            case "slice":
                count = min(3, tokens - first)
                nodes.append(ops.Slice("pool", "pool", last, first, count))
            case "select":
                nodes.append(ops.Select("pool", "pool", last, tokens - 1 if causal else 0))
            case _:
                nodes.append(ops.Mean("pool", "pool", last, first))
        nodes.append(ops.Linear("head", "head", "pool", *matrix(f"head{task}", dim, width)))
        name = f"task{task}" if len(classes) > 1 else "logits"
        outputs, shapes = {name: "head"}, {name: (1, width) if count == 1 else (1, count, width)}
        if present and blocks[-1] != "t":
            b = f"block{len(blocks) - 1}"
            outputs |= {f"{name}.key": f"{b}.k{mark}", f"{name}.value": f"{b}.v"}
            seen = tokens if len(blocks) > 1 else whole
            shapes |= {f"{name}.key": (1, seen, dim), f"{name}.value": (1, seen, values)}
        graphs.append(Graph(name, {"x": (channels, patch, patch * patches)}, tuple(nodes), outputs, shapes))
    return Model(tuple(graphs)).verify()


@contextmanager
def small_blocks() -> Iterator[None]:
    """Attentions that are lowered within are cut into blocks of four queries, where a mask lets them."""
    with patch.object(parts, "BLOCK", 4), patch.object(parts, "SETUP", 0):
        yield


def token_mlp(block: str, x: str, function: Act, layers: list[tuple[np.ndarray, np.ndarray]]) -> list[Node]:
    """Tokens mixed by two matrices, as a Mixer does."""
    (first, second), names = layers, [f"{block}.mixed", f"{block}.mixed.act", f"{block}.proj"]
    return [ops.TokenMix(names[0], names[0], x, np.ascontiguousarray(first[0].T), first[1]), ops.Activation(names[1], names[1], names[0], function),
            ops.TokenMix(names[2], names[2], names[1], np.ascontiguousarray(second[0].T), second[1])]


def random_images(model: Model, count: int, seed: int = 1) -> np.ndarray:
    """Seeded normal images float32 [count, C, H, W] for the model's only input."""
    (shape,) = model.tasks[0].inputs.values()
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def uneven(model: Model, images: np.ndarray) -> Recipe:
    """A scale a channel behind every activation, between the layers of every MoE, and of values of attention, by the largest values; that of
    an attention's result is large enough for all its channels."""
    rules: dict[str, Rule] = {}

    def rule(name: str, *values: np.ndarray) -> np.ndarray:
        tops = [np.abs(value).reshape(-1, value.shape[-1]).max(0, initial=0) for value in values]
        rules[name] = Rule(scale=np.maximum(np.max(tops, axis=0), 0.01).astype(float) / 127)
        return np.asarray(rules[name].scale)

    for graph in model.tasks:
        values: dict[str, np.ndarray] = {}
        gates = {value for node in graph.nodes if isinstance(node, ops.Multiply) for value in node.inputs}
        for node, inner in evaluate.steps(graph, {"x": images}, values, inner=True):
            match node:
                case ops.Activation() | ops.Multiply() if node.output not in gates:
                    rule(node.output, values[node.output])
                case ops.MoE():
                    rule(node.output, *(found for role, found in inner if role is Role.HIDDEN))
                case ops.Attention():
                    unit = rule(node.v, values[node.v])
                    out = np.abs(values[node.output]).reshape(-1, unit.size).max(0)
                    rules[node.output] = Rule(scale=float((out / unit).max() * unit.max() / 127))
    return Recipe(values=rules)


def random_qgraph(seed: int = 0, tokens: int = 9, dim: int = 32, heads: int = 2, hidden: int = 64, experts: int = 4,
                  **options) -> Quantized:
    """`random_model` of these sizes, quantized with random calibration images."""
    model = random_model(seed, tokens=tokens, dim=dim, heads=heads, hidden=hidden, experts=experts, **options)
    return quantizer.quantize(model, None, random=True)
