"""Networks whose routers see a task: an embedding of the task enters the gate, added to the token or beside it, in the spellings of exporters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from moe_spellings import SPELLINGS, Mix
from onnx_nets import DIM, EXPERTS, TOKENS, Net, result

TASKS, WIDTH = 3, 6
CONDITIONED: dict[str, Callable[[Gated], str]] = {}


class Gated(Mix):
    """A mixture whose router reads something made of the token and of ``task``, an integer input [1]."""

    def __init__(self, net: Net, x: str, task: str):
        super().__init__(net, x, False)
        self.task = task

    def logits(self, x: str | None = None) -> str:
        """``read``: by the spelling."""
        return self.read(self)

    def embedding(self, width: int = WIDTH) -> str:
        """Of the task, [1, width]."""
        return self.op("Gather", self.net.random(TASKS, width, scale=1.0), self.task, axis=0)

    def wide(self, embedding: str) -> str:
        """For every token."""
        return self.op("Expand", embedding, self.net.ints(TOKENS, WIDTH))

    def gate_of(self, x: str, width: int = DIM + WIDTH) -> str:
        return self.net.linear(x, width, EXPERTS)


def conditioned(function: Callable[[Gated], str]) -> Callable[[Gated], str]:
    """Notes one; it returns the logits [T, E]."""
    CONDITIONED[function.__name__.replace("_", " ")] = function
    return function


@conditioned
def beside_the_token(m: Gated) -> str:
    return m.gate_of(m.op("Concat", m.rows, m.wide(m.embedding()), axis=-1))


@conditioned
def in_front_of_the_token(m: Gated) -> str:
    return m.gate_of(m.op("Concat", m.wide(m.embedding()), m.rows, axis=1))


@conditioned
def in_the_middle_of_it(m: Gated) -> str:
    a, b = m.op("Split", m.rows, m.net.ints(4, DIM - 4), outputs=2, axis=-1)
    return m.gate_of(m.op("Concat", b, m.wide(m.embedding()), a, axis=-1))


@conditioned
def by_an_mlp_of_a_one_hot(m: Gated) -> str:
    """M3ViT: gate_task_represent of the one-hot task, repeated for the tokens."""
    hot = m.op("OneHot", m.task, m.net.const(TASKS, np.int64), m.net.const([0.0, 1.0]), axis=-1)
    made = m.net.linear(m.op("Relu", m.net.linear(hot, TASKS, 8)), 8, WIDTH)
    return m.gate_of(m.op("Concat", m.rows, m.op("Tile", made, m.net.ints(TOKENS, 1)), axis=-1))


@conditioned
def with_a_batch(m: Gated) -> str:
    size = m.op("Concat", m.op("Shape", m.x, start=0, end=2), m.net.ints(WIDTH), axis=0)
    wide = m.op("Expand", m.op("Unsqueeze", m.embedding(), m.net.ints(1)), size)
    return m.gate_of(m.op("Reshape", m.op("Concat", m.x, wide, axis=-1), m.net.ints(-1, DIM + WIDTH)))


@conditioned
def gemm(m: Gated) -> str:
    both = m.op("Concat", m.rows, m.wide(m.embedding()), axis=-1)
    return m.op("Gemm", both, m.net.random(EXPERTS, DIM + WIDTH), m.net.random(EXPERTS), transB=1)


@conditioned
def added_to_the_token(m: Gated) -> str:
    return m.gate_of(m.op("Add", m.rows, m.embedding(DIM)), DIM)


@conditioned
def added_to_the_logits(m: Gated) -> str:
    return m.op("Add", m.gate_of(m.rows, DIM), m.op("MatMul", m.embedding(), m.net.random(WIDTH, EXPERTS)))


@conditioned
def twice_the_token(m: Gated) -> str:
    return m.gate_of(m.op("Mul", m.op("Concat", m.rows, m.wide(m.embedding()), axis=-1), m.net.const(2.0)))


def task_gate(spelling: Callable[[Gated], str]) -> tuple[Net, dict[str, str]]:
    """One block whose second half is such a mixture."""
    net = Net()
    task = net.input("task", [1], TensorProto.INT64)
    t = net.embed(net.image())
    t = net.add(t, net.attention(net.norm(t)))
    m = Gated(net, net.norm(t), task)
    m.read = spelling
    y = net.op("Reshape", SPELLINGS["modules"](m), net.ints(1, TOKENS, DIM))
    net.head(net.norm(net.add(t, y)))
    return net, {"y": result(net)}
