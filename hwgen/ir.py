"""The float graph: a small, typed, frozen IR for attention encoders, free of any file format.

A value is named by a string and has a static shape without the batch dimension: ``(tokens, channels)`` for a token
sequence, ``(channels,)`` for one vector, ``(C, H, W)`` for an image. Weights are float32 numpy arrays inside the node
that uses them; two nodes that hold the same array object share it. ``Linear.weight`` is ``[K, N]`` (y = x @ W + b).

A `Model` is one `Graph` per task; tasks of one network share weights by identity of the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from .errors import ModelError
from .foreign import REPR, visible


class Act(Enum):
    """Element-wise activation functions an engine table exists for."""

    NONE = "none"
    GELU = "gelu"            # erf form
    GELU_TANH = "gelu_tanh"  # tanh approximation
    SILU = "silu"
    RELU = "relu"


@dataclass(frozen=True, eq=False)
class Node:
    """Base of all operators. ``name`` is the ONNX node it came from (for messages), ``output`` the value it defines."""

    name: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values read, in order."""
        return (self.x,)

    def __repr__(self) -> str:
        return visible(f"<{type(self).__name__} {self.name}: {', '.join(self.inputs)} -> {self.output}>", limit=REPR)

    def shape(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output from the shapes of the inputs; raises ModelError when they do not fit."""
        return shapes[0]

    def fail(self, message: str, hint: str | None = None) -> ModelError:
        return ModelError(message, where=f"{type(self).__name__} node {self.name!r}", hint=hint)


@dataclass(frozen=True, eq=False, repr=False)
class PatchEmbed(Node):
    """Convolution with stride = kernel on ``[C, H, W]`` -> tokens ``[(H/p)*(W/q), D]``, row-major patches."""

    x: str
    weight: np.ndarray       # [D, C, p, q]
    bias: np.ndarray         # [D]

    def shape(self, x):
        d, c, p, q = self.weight.shape
        if len(x) != 3 or x[0] != c or x[1] % p or x[2] % q:
            raise self.fail(f"image {x} does not divide into {c}x{p}x{q} patches")
        return (x[1] // p) * (x[2] // q), d


@dataclass(frozen=True, eq=False, repr=False)
class Linear(Node):
    """``y = x @ weight + bias`` on the last dimension."""

    x: str
    weight: np.ndarray       # [K, N]
    bias: np.ndarray         # [N]

    def shape(self, x):
        if x[-1] != self.weight.shape[0]:
            raise self.fail(f"input has {x[-1]} channels, weight expects {self.weight.shape[0]}")
        return *x[:-1], self.weight.shape[1]


@dataclass(frozen=True, eq=False, repr=False)
class LayerNorm(Node):
    """Normalise over the last dimension: ``(x - mean) / sqrt(var + eps) * gamma + beta``."""

    x: str
    gamma: np.ndarray        # [D]
    beta: np.ndarray         # [D]
    eps: float


@dataclass(frozen=True, eq=False, repr=False)
class Activation(Node):
    x: str
    kind: Act


@dataclass(frozen=True, eq=False, repr=False)
class Attention(Node):
    """Multi-head scaled dot-product attention on packed heads: q, k, v ``[T, heads * head_dim]`` -> ``[T, D]``."""

    q: str
    k: str
    v: str
    num_heads: int
    scale: float             # multiplies q @ k.T

    @property
    def inputs(self):
        return self.q, self.k, self.v

    def shape(self, q, k, v):
        if k != v or q[-1] != k[-1] or q[-1] % self.num_heads:
            raise self.fail(f"q {q}, k {k}, v {v} do not form {self.num_heads} heads")
        return q


@dataclass(frozen=True, eq=False, repr=False)
class MoE(Node):
    """Mixture of experts, each a two-layer MLP; router = softmax over all experts, then top-k (lowest index wins a tie).

    ``renormalize``: the k scores are divided by their sum. ``y = sum_e score_e * (act(x @ w1[e] + b1[e]) @ w2[e] + b2[e])``
    """

    x: str
    gate: np.ndarray         # [D, E]
    gate_bias: np.ndarray    # [E]
    w1: np.ndarray           # [E, D, H]
    b1: np.ndarray           # [E, H]
    w2: np.ndarray           # [E, H, D]
    b2: np.ndarray           # [E, D]
    act: Act
    top_k: int
    renormalize: bool

    @property
    def num_experts(self) -> int:
        return self.w1.shape[0]

    def shape(self, x):
        e, d, h = self.w1.shape
        if x[-1] != d or self.gate.shape != (d, e) or self.w2.shape != (e, h, d):
            raise self.fail(f"input {x}, gate {self.gate.shape}, w1 {self.w1.shape}, w2 {self.w2.shape} do not fit")
        if not 1 <= self.top_k <= e:
            raise self.fail(f"top-{self.top_k} of {e} experts")
        return x


@dataclass(frozen=True, eq=False, repr=False)
class Add(Node):
    """Sum of two values of one shape (the residual connection)."""

    x: str
    y: str

    @property
    def inputs(self):
        return self.x, self.y

    def shape(self, x, y):
        if x != y:
            raise self.fail(f"shapes {x} and {y} differ")
        return x


@dataclass(frozen=True, eq=False, repr=False)
class AddConst(Node):
    """Adds a constant of the shape of x (position embedding)."""

    x: str
    value: np.ndarray        # [T, D]

    def shape(self, x):
        if self.value.shape != x:
            raise self.fail(f"constant {self.value.shape} does not fit {x}")
        return x


@dataclass(frozen=True, eq=False, repr=False)
class ConcatTokens(Node):
    """Puts constant tokens (class token, distillation token) in front of the sequence."""

    x: str
    tokens: np.ndarray       # [P, D]

    def shape(self, x):
        if x[-1] != self.tokens.shape[-1]:
            raise self.fail(f"tokens {self.tokens.shape} do not fit {x}")
        return x[0] + self.tokens.shape[0], x[1]


@dataclass(frozen=True, eq=False, repr=False)
class Select(Node):
    """Takes one token: ``[T, D] -> [D]``."""

    x: str
    index: int

    def shape(self, x):
        if len(x) != 2 or not 0 <= self.index < x[0]:
            raise self.fail(f"token {self.index} of {x}")
        return x[1:]


@dataclass(frozen=True, eq=False, repr=False)
class Mean(Node):
    """Average over tokens ``start..T-1``: ``[T, D] -> [D]``."""

    x: str
    start: int = 0

    def shape(self, x):
        if len(x) != 2 or not 0 <= self.start < x[0]:
            raise self.fail(f"mean over tokens {self.start}.. of {x}")
        return x[1:]


@dataclass(frozen=True, eq=False)
class Graph:
    """One network, batch 1. ``nodes`` in topological order; every value is defined once."""

    name: str
    inputs: dict[str, tuple[int, ...]]          # ONNX input name -> shape without batch
    nodes: tuple[Node, ...]
    outputs: dict[str, str]                     # ONNX output name -> value name
    output_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # as in the ONNX file, batch included

    def __repr__(self) -> str:
        return visible(f"<Graph {self.name}: {', '.join(self.inputs)} -> {', '.join(self.outputs)}, {len(self.nodes)} nodes>", limit=REPR)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every value; raises ModelError at the first node that does not fit."""
        known = dict(self.inputs)
        for node in self.nodes:
            for value in node.inputs:
                if value not in known:
                    raise node.fail(f"input {value!r} is used before it is produced",
                                    hint="are the nodes in topological order?")
            if node.output in known:
                raise node.fail(f"value {node.output!r} is defined twice")
            known[node.output] = node.shape(*(known[v] for v in node.inputs))
        return known

    def verify(self) -> Graph:
        """Checks names, order, shapes and that every weight is finite; returns self."""
        known = self.shapes()
        for name, value in self.outputs.items():
            if value not in known:
                raise ModelError(f"output {name!r} reads the unknown value {value!r}", where=f"graph {self.name!r}")
        for node in self.nodes:
            for key in node.__dataclass_fields__:
                array = getattr(node, key)
                if isinstance(array, np.ndarray) and not np.isfinite(array).all():
                    bad = int(np.flatnonzero(~np.isfinite(array.ravel()))[0])
                    raise node.fail(f"{key} holds {float(array.ravel()[bad])!r} at flat index {bad}",
                                    hint="export the model again; a quantizer needs finite weights")
        return self


@dataclass(frozen=True, eq=False)
class Model:
    """What the importer returns: one graph per task, in task order."""

    tasks: tuple[Graph, ...]

    def __repr__(self) -> str:
        return visible(f"<Model: {len(self.tasks)} tasks, first {self.tasks[0]!r}>", limit=REPR)

    def verify(self) -> Model:
        first = self.tasks[0]
        for graph in self.tasks:
            graph.verify()
            if graph.inputs != first.inputs:
                raise ModelError(f"tasks have different inputs: {first.inputs} and {graph.inputs}", where=graph.name)
        return self
