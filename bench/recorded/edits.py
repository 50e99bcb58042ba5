"""Edits of a float network: the structures that `qgraphs.random_model` does not make. Each returns a new network.

They are used when networks are recorded, and written for the classes of that day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import wraps
from typing import Any

import numpy as np

from hwgen import ops
from hwgen.functions import Act
from hwgen.graph import Graph, Model, Node

Rng = np.random.Generator
Edit = Callable[[Model, Rng], Model]


def each_task(edit: Callable[[Graph, Rng], Graph]) -> Edit:
    """The same edit on every task: weights that it draws are shared by tasks."""
    @wraps(edit)
    def apply(model: Model, rng: Rng) -> Model:
        seed = int(rng.integers(1 << 30))
        drawn: dict[tuple[Any, ...], np.ndarray[Any, Any]] = {}
        graphs = [edit(graph, np.random.default_rng(seed)) for graph in model.tasks]

        def shared(key: tuple[Any, ...], array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return drawn.setdefault((key, array.shape, array.tobytes()), array)
        return Model(tuple(with_arrays(graph, lambda node, key, array: shared((node.name, key), array)) for graph in graphs))
    return apply


def _with(node: Any, **values: Any) -> Any:
    """A node of any operator with other fields."""
    return replace(node, **values)


def with_arrays(graph: Graph, change: Callable[[Node, str, Any], Any]) -> Graph:
    """The graph with every array replaced by ``change(node, field, array)``."""
    nodes = [replace(node, **{f.name: change(node, f.name, value) for f in fields(node)
                              if isinstance(value := getattr(node, f.name), np.ndarray)}) for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def _renamed(nodes: Iterable[Node], names: dict[str, str]) -> list[Node]:
    """The nodes, reading other values."""
    return [replace(node, **{key: names[value] for key in ("x", "y", "q", "k", "v")
                             if (value := getattr(node, key, None)) is not None and value in names}) for node in nodes]


def _array(rng: Rng, *shape: int, gain: float = 1.0) -> np.ndarray[Any, Any]:
    return (gain * rng.standard_normal(shape)).astype(np.float32)


def _linear(rng: Rng, name: str, x: str, k: int, n: int, output: str | None = None) -> ops.Linear:
    return ops.Linear(name, output or name, x, _array(rng, k, n, gain=k ** -0.5), _array(rng, n, gain=0.1))


def _index(graph: Graph, name: str) -> int:
    return next(i for i, node in enumerate(graph.nodes) if node.name == name)


def _dim(graph: Graph) -> int:
    return graph.shapes()["norm"][-1]


# ---------------------------------------------------------------- where a network starts

@each_task
def token_input(graph: Graph, rng: Rng) -> Graph:
    """Tokens [T, K] and a Linear instead of an image and patches."""
    embed = graph.nodes[0]
    tokens, dim = graph.shapes()[embed.output]
    width = int(rng.integers(3, 40))
    return replace(graph, inputs={"x": (tokens, width)}, nodes=(_linear(rng, "embed", "x", width, dim), *graph.nodes[1:]))


@each_task
def rectangle(graph: Graph, rng: Rng) -> Graph:
    """Patches of p x q pixels in several rows and columns."""
    embed = graph.nodes[0]
    tokens, dim = graph.shapes()[embed.output]
    rows = int(rng.choice([n for n in range(1, tokens + 1) if tokens % n == 0]))
    c, p, q = (int(n) for n in rng.integers(1, 5, 3))
    weight = _array(rng, dim, c, p, q, gain=(c * p * q) ** -0.5)
    return replace(graph, inputs={"x": (c, p * rows, q * (tokens // rows))},
                   nodes=(_with(embed, weight=weight), *graph.nodes[1:]))


@each_task
def more_class_tokens(graph: Graph, rng: Rng) -> Graph:
    """One to three further tokens without a position."""
    state = _index(graph, "pos")
    array = _array(rng, int(rng.integers(1, 4)), _dim(graph), gain=0.5)
    tokens = ops.ConcatTokens("registers", "registers", graph.nodes[state].output, array)
    after = _renamed(graph.nodes[state + 1:], {graph.nodes[state].output: "registers"})
    return replace(graph, nodes=(*graph.nodes[:state + 1], tokens, *after))


@each_task
def no_position(graph: Graph, rng: Rng) -> Graph:
    place = _index(graph, "pos")
    before, after = graph.nodes[:place], graph.nodes[place + 1:]
    return replace(graph, nodes=(*before, *_renamed(after, {graph.nodes[place].output: before[-1].output})))


# ---------------------------------------------------------------- blocks

@each_task
def turned_adds(graph: Graph, rng: Rng) -> Graph:
    """Half of the sums with their operands exchanged."""
    return replace(graph, nodes=tuple(replace(node, x=node.y, y=node.x) if isinstance(node, ops.Add) and rng.integers(2) else node
                                      for node in graph.nodes))


@each_task
def one_for_query_and_key(graph: Graph, rng: Rng) -> Graph:
    """Scores of a value with itself in the first block; its key is computed by nobody."""
    nodes = [node for node in graph.nodes if node.name != "block0.k"]
    return replace(graph, nodes=tuple(_renamed(nodes, {"block0.k": "block0.q"})))


@each_task
def other_inner_width(graph: Graph, rng: Rng) -> Graph:
    """Attention of the first block with heads whose width is not dim / heads."""
    attention = graph.nodes[_index(graph, "block0.attention")]
    if not isinstance(attention, ops.Attention):
        raise TypeError("block0.attention is no Attention")
    dim, inner = _dim(graph), attention.num_heads * int(rng.choice([3, 5, 8, 11, 16, 20]))
    new: dict[str, Node] = {name: _linear(rng, name, "block0.norm1", dim, inner) for name in ("block0.q", "block0.k", "block0.v")}
    new["block0.proj"] = _linear(rng, "block0.proj", "block0.attention", inner, dim)
    new["block0.attention"] = replace(attention, scale=(inner // attention.num_heads) ** -0.5)
    return replace(graph, nodes=tuple(new.get(node.name, node) for node in graph.nodes))


@each_task
def linear_after_linear(graph: Graph, rng: Rng) -> Graph:
    """The projection of the last block in two steps, without anything in between."""
    place = max(i for i, node in enumerate(graph.nodes) if node.name.endswith(".proj"))
    proj, dim, inner = graph.nodes[place], _dim(graph), int(rng.choice([7, 16, 24]))
    attention = proj.inputs[0]
    k = graph.shapes()[attention][-1]
    pair = _linear(rng, f"{proj.name}.0", attention, k, inner), _linear(rng, proj.name, f"{proj.name}.0", inner, dim, proj.output)
    return replace(graph, nodes=(*graph.nodes[:place], *pair, *graph.nodes[place + 1:]))


@each_task
def no_activation(graph: Graph, rng: Rng) -> Graph:
    """The first dense MLP without an activation; nothing changes when there is none."""
    for place, node in enumerate(graph.nodes):
        if isinstance(node, ops.Activation):
            rest = _renamed(graph.nodes[place + 1:], {node.output: node.x})
            return replace(graph, nodes=(*graph.nodes[:place], *rest))
    return graph


@each_task
def activated_values(graph: Graph, rng: Rng) -> Graph:
    """An activation between the values' Linear and attention, in the first block."""
    place = _index(graph, "block0.v")
    kinds = [node.kind if isinstance(node, ops.Activation) else node.act for node in graph.nodes
             if isinstance(node, (ops.Activation, ops.MoE))]
    act = ops.Activation("block0.v.act", "block0.v.act", "block0.v", kinds[0] if kinds else Act.GELU)
    return replace(graph, nodes=(*graph.nodes[:place + 1], act, *_renamed(graph.nodes[place + 1:], {"block0.v": "block0.v.act"})))


@each_task
def attention_only(graph: Graph, rng: Rng) -> Graph:
    """The last block without its MLP."""
    add = max(i for i, node in enumerate(graph.nodes) if node.name.endswith(".add2"))
    block = graph.nodes[add].name.removesuffix(".add2")
    gone = {f"{block}.{part}" for part in ("norm2", "moe", "fc1", "act", "fc2", "add2")}
    return replace(graph, nodes=tuple(_renamed((n for n in graph.nodes if n.name not in gone), {f"{block}.out": f"{block}.mid"})))


@each_task
def repeated_blocks(graph: Graph, rng: Rng) -> Graph:
    """All blocks share their weights, as far as their shapes agree."""
    first: dict[tuple[Any, ...], Any] = {}
    return with_arrays(graph, lambda node, key, array: first.setdefault(
        (node.name.partition(".")[2], key, array.shape), array) if node.name.startswith("block") else array)


@each_task
def tied_gates(graph: Graph, rng: Rng) -> Graph:
    """Routers in which two experts have the same logits."""
    def tie(node: Node, key: str, array: Any) -> Any:
        if key in ("gate", "gate_bias") and array.shape[-1] > 1:
            array = array.copy()
            array[..., -1] = array[..., 0]
        return array
    return with_arrays(graph, tie)


@each_task
def idle_expert(graph: Graph, rng: Rng) -> Graph:
    """An expert that no token is routed to."""
    def push(node: Node, key: str, array: Any) -> Any:
        if key == "gate_bias":
            array = array.copy()
            array[-1] -= 24
        return array
    return with_arrays(graph, push)


@each_task
def epsilons(graph: Graph, rng: Rng) -> Graph:
    found = (1e-12, 1e-6, 1e-3, 0.1)
    return replace(graph, nodes=tuple(replace(node, eps=found[int(rng.integers(len(found)))]) if isinstance(node, ops.LayerNorm) else node
                                      for node in graph.nodes))


# ---------------------------------------------------------------- where it ends

@each_task
def head_before_pool(graph: Graph, rng: Rng) -> Graph:
    """The head on every token, then the choice."""
    place = _index(graph, "pool")
    pool, head, *rest = graph.nodes[place:]
    turned = _with(head, x="norm"), _with(pool, x="head")
    return replace(graph, nodes=(*graph.nodes[:place], *turned, *rest),
                   outputs={name: "pool" if value == "head" else value for name, value in graph.outputs.items()})


@each_task
def pool_before_norm(graph: Graph, rng: Rng) -> Graph:
    """One token of the residual stream is chosen, then normalised."""
    norm, _, head = graph.nodes[-3:]
    last = graph.shapes()[norm.inputs[0]][0] - 1
    return replace(graph, nodes=(*graph.nodes[:-3], ops.Select("pool", "pool", norm.inputs[0], int(rng.choice([0, last]))),
                                 _with(norm, x="pool"), _with(head, x="norm")))


@each_task
def second_output(graph: Graph, rng: Rng) -> Graph:
    """Another head on other tokens of the same norm."""
    tokens, dim = graph.shapes()["norm"]
    width = int(rng.integers(1, 12))
    pool = ops.Select("pool2", "pool2", "norm", int(rng.integers(tokens))) if rng.integers(2) else \
        ops.Mean("pool2", "pool2", "norm", int(rng.integers(tokens)))
    name = f"{graph.name}.second"
    return replace(graph, nodes=(*graph.nodes, pool, _linear(rng, "head2", "pool2", dim, width)), outputs={**graph.outputs, name: "head2"},
                   output_shapes={**graph.output_shapes, name: (1, width)})


# ---------------------------------------------------------------- tasks and names

def copied_weights(model: Model, rng: Rng) -> Model:
    """Tasks whose equal weights are arrays of their own."""
    return Model(tuple(with_arrays(graph, lambda node, key, array: array.copy()) for graph in model.tasks))


def shorter_last_task(model: Model, rng: Rng) -> Model:
    """Tasks of different structure: the last one ends a step earlier."""
    return Model((*model.tasks[:-1], *attention_only(Model(model.tasks[-1:]), rng).tasks))


def odd_names(model: Model, rng: Rng) -> Model:
    """Names as exporters give them, and worse: values, nodes and outputs."""
    spellings: tuple[Callable[[str], str], ...] = (
        lambda s: "/" + s.replace(".", "/") + "/MatMul_output_0", lambda s: f"7{s}", lambda s: f"__{s}__", lambda s: f"Z{s}:0",
        lambda s: f"größe {s}", lambda s: f"{s}-\"quoted\" */ // \\", lambda s: {"norm": "int", "pool": "class"}.get(s, s))
    spell = spellings[int(rng.integers(len(spellings)))]
    graphs = []
    for graph in model.tasks:
        names = {name: spell(name) for name in [*graph.inputs, *(node.output for node in graph.nodes)]}
        nodes = [replace(node, name=spell(node.name), output=names[node.output]) for node in _renamed(graph.nodes, names)]
        graphs.append(Graph(spell(graph.name), {names[key]: shape for key, shape in graph.inputs.items()}, tuple(nodes),
                               {spell(key): names[value] for key, value in graph.outputs.items()},
                               {spell(key): shape for key, shape in graph.output_shapes.items()}))
    return Model(tuple(graphs))


def loud(model: Model, rng: Rng) -> Model:
    """One kind of matrix twenty times as large: fixed formats saturate, and columns have long sums."""
    kind = str(rng.choice([".q", ".fc1", ".proj", "embed", ".norm2", ".v"]))
    larger: dict[int, Any] = {}
    return Model(tuple(with_arrays(graph, lambda node, key, array: larger.setdefault(id(array), array * np.float32(20))
                                      if key in ("weight", "gamma") and node.name.endswith(kind) else array) for graph in model.tasks))


STARTS: tuple[Edit, ...] = (token_input, rectangle, rectangle, more_class_tokens, no_position)
BLOCKS: tuple[Edit, ...] = (turned_adds, one_for_query_and_key, other_inner_width, other_inner_width, linear_after_linear, no_activation,
                            activated_values, attention_only, repeated_blocks, tied_gates, idle_expert, epsilons, loud)
ENDS: tuple[tuple[Edit, ...], ...] = ((), (), (head_before_pool,), (pool_before_norm,), (second_output,), (second_output,),
                                      (second_output, head_before_pool))
TASKS: tuple[Edit, ...] = (copied_weights, shorter_last_task)
