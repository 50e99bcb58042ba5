"""The same mixture as a loop over experts that each see their own tokens only: rows are picked by NonZero, and put back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from moe_spellings import Mix
from onnx_nets import DIM, EXPERTS, TOKENS

LOOPS: dict[str, Callable[[Mix], str]] = {}


def loop(function: Callable[[Mix], str]) -> Callable[[Mix], str]:
    LOOPS[function.__name__.replace("_", " ")] = function
    return function


def zeros(m: Mix) -> str:
    return m.net.const(np.zeros((TOKENS, DIM)))


def places(m: Mix, mask: str, count: int) -> list[str]:
    """torch.where(mask): one [n] an axis of the mask."""
    found = m.op("NonZero", mask)
    return [m.op("Gather", found, m.net.const(axis, np.int64), axis=0) for axis in range(count)]


def pairs(m: Mix, *axes: str) -> str:
    """[n, axes], for GatherND and ScatterND."""
    return m.op("Concat", *(m.op("Unsqueeze", axis, m.net.ints(-1)) for axis in axes), axis=-1)


@loop
def choices_of_an_expert(m: Mix) -> str:
    """M³ViT: where(index == e), rows by index, index_put with accumulate."""
    (top, index), rows, y = m.top(), m.rows, zeros(m)
    for e in range(EXPERTS):
        token, place = places(m, m.op("Equal", index, m.net.const(e, np.int64)), 2)
        weight = m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), m.net.ints(-1))
        part = m.op("Mul", m.expert(e, m.op("Gather", rows, token, axis=0)), weight)
        y = m.op("ScatterND", y, m.op("Unsqueeze", token, m.net.ints(-1)), part, reduction="add")
    return y


@loop
def index_add(m: Mix) -> str:
    """The older exporter: places expanded to the shape of what is added."""
    (top, index), rows, y = m.top(), m.rows, zeros(m)
    for e in range(EXPERTS):
        token, place = places(m, m.op("Equal", index, m.net.const(e, np.int64)), 2)
        weight = m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), m.net.ints(1))
        part = m.op("Mul", m.expert(e, m.op("Gather", rows, token, axis=0)), weight)
        wide = m.op("Expand", m.op("Unsqueeze", token, m.net.ints(1)), m.op("Shape", part))
        y = m.op("ScatterElements", y, wide, part, axis=0, reduction="add")
    return y


@loop
def mixtral(m: Mix) -> str:
    """one_hot(index).permute(2, 1, 0), where of each expert, hidden_states[None, top_x], index_add_."""
    (top, index), y = m.top(), zeros(m)
    net = m.net
    hot = m.op("OneHot", index, net.const(EXPERTS, np.int64), net.const([0, 1], np.int64), axis=-1)
    mask = m.op("Transpose", hot, perm=[2, 1, 0])
    tokens = m.op("Unsqueeze", m.rows, net.ints(0))
    for e in range(EXPERTS):
        place, token = places(m, m.op("Cast", m.op("Gather", mask, net.const(e, np.int64), axis=0), to=TensorProto.BOOL), 2)
        current = m.op("Reshape", m.op("Gather", tokens, token, axis=1), net.ints(-1, DIM))
        weight = m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), net.ints(-1))
        current = m.op("Cast", m.op("Mul", m.expert(e, current), weight), to=TensorProto.FLOAT)
        y = m.op("ScatterND", y, m.op("Unsqueeze", token, net.ints(-1)), current, reduction="add")
    return y


@loop
def columns_of_dense_scores(m: Mix) -> str:
    """scores[:, e] > 0; y[mask] += scores[mask, e] * expert(x[mask])."""
    scores, rows, y, net = m.scores(), m.rows, zeros(m), m.net
    for e in range(EXPERTS):
        column = m.op("Gather", scores, net.const(e, np.int64), axis=1)
        at = m.op("Transpose", m.op("NonZero", m.op("Greater", column, net.const(0.0))), perm=[1, 0])
        part = m.op("Mul", m.expert(e, m.op("GatherND", rows, at)), m.op("Unsqueeze", m.op("GatherND", column, at), net.ints(-1)))
        y = m.op("ScatterND", y, at, m.op("Add", m.op("GatherND", y, at), part))
    return y


@loop
def results_of_each_choice(m: Mix) -> str:
    """flatten(index), repeated rows, results put in their places, then weighted and summed over the choices (Mixtral of Mistral, DeepSeek)."""
    (top, index), net = m.top(), m.net
    flat = m.op("Reshape", index, net.ints(-1))
    rows = m.op("Reshape", m.op("Expand", m.op("Unsqueeze", m.rows, net.ints(1)), net.ints(TOKENS, m.k, DIM)), net.ints(-1, DIM))
    y = net.const(np.zeros((TOKENS * m.k, DIM)))
    for e in range(EXPERTS):
        at = m.op("Transpose", m.op("NonZero", m.op("Equal", flat, net.const(e, np.int64))), perm=[1, 0])
        y = m.op("ScatterND", y, at, m.expert(e, m.op("GatherND", rows, at)))
    y = m.op("Mul", m.op("Reshape", y, net.ints(TOKENS, m.k, DIM)), m.op("Unsqueeze", top, net.ints(-1)))
    return m.op("ReduceSum", y, net.ints(1), keepdims=0)


def body(m: Mix, build: Callable[[], list[str]], inputs=()):
    """A graph of the nodes that ``build`` writes, and the values it returns; their names begin with what makes them unique."""
    nodes, tag = m.net.nodes, f"body{sum(len(node.attribute) for node in m.net.nodes)}.{len(m.net.nodes)}"
    start = len(nodes)
    results = build()
    inner, own = nodes[start:], {output for node in nodes[start:] for output in node.output}
    del nodes[start:]
    for node in inner:
        node.name = f"{tag}.{node.name}"
        for values in (node.input, node.output):
            values[:] = [f"{tag}.{value}" if value in own else value for value in list(values)]
    outputs = [helper.make_tensor_value_info(f"{tag}.{value}" if value in own else value, TensorProto.FLOAT if place or not inputs
                                             else TensorProto.BOOL, None) for place, value in enumerate(results)]
    return helper.make_graph(inner, tag, list(inputs), outputs)


def added(m: Mix, y: str, e: int, top: str, token: str, place: str) -> str:
    weight = m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), m.net.ints(-1))
    part = m.op("Mul", m.expert(e, m.op("Gather", m.rows, token, axis=0)), weight)
    return m.op("ScatterND", y, m.op("Unsqueeze", token, m.net.ints(-1)), part, reduction="add")


@loop
def branch_if_chosen(m: Mix) -> str:
    """if tokens.numel() > 0: a scripted model has an If for each expert."""
    (top, index), y = m.top(), m.op("Identity", zeros(m))
    for e in range(EXPERTS):
        token, place = places(m, m.op("Equal", index, m.net.const(e, np.int64)), 2)
        some = m.op("Greater", m.op("Size", token), m.net.const(0, np.int64))
        y = m.op("If", some, then_branch=body(m, lambda y=y, e=e, t=token, p=place: [added(m, y, e, top, t, p)]),
                 else_branch=body(m, lambda y=y: [m.op("Identity", y)]))
    return y


@loop
def loop_over_a_stack(m: Mix) -> str:
    """A Loop whose turn takes the weights of one expert out of the stacks."""
    net, (top, index) = m.net, m.top()
    stored = [net.const(array) for array in (m.w1, m.b1, m.w2, m.b2)]

    def turn() -> list[str]:
        w1, b1, w2, b2 = (m.op("Gather", array, "turn", axis=0) for array in stored)
        token, place = places(m, m.op("Equal", index, "turn"), 2)
        hidden = m.op("Gelu", m.op("Add", m.op("MatMul", m.op("Gather", m.rows, token, axis=0), w1), b1))
        part = m.op("Mul", m.op("Add", m.op("MatMul", hidden, w2), b2), m.op("Unsqueeze", m.op("GatherND", top, pairs(m, token, place)), net.ints(-1)))
        wide = m.op("Expand", m.op("Unsqueeze", token, net.ints(1)), m.op("Shape", part))
        return [m.op("Identity", "on"), m.op("ScatterElements", "sum", wide, part, axis=0, reduction="add")]
    inputs = [helper.make_tensor_value_info("turn", TensorProto.INT64, []), helper.make_tensor_value_info("on", TensorProto.BOOL, []),
              helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)]
    return m.op("Loop", net.const(EXPERTS, np.int64), net.const(True, bool), zeros(m), body=body(m, turn, inputs))


@loop
def loop_that_collects(m: Mix) -> str:
    """A Loop that gives every expert's results, one above the other, for a sum behind it."""
    net, scores = m.net, m.scores()
    stored = [net.const(array) for array in (m.w1, m.b1, m.w2, m.b2)]

    def turn() -> list[str]:
        w1, b1, w2, b2 = (m.op("Gather", array, "turn", axis=0) for array in stored)
        hidden = m.op("Gelu", m.op("Add", m.op("MatMul", m.rows, w1), b1))
        return [m.op("Identity", "on"), m.op("Add", m.op("MatMul", hidden, w2), b2)]
    inputs = [helper.make_tensor_value_info("turn", TensorProto.INT64, []), helper.make_tensor_value_info("on", TensorProto.BOOL, [])]
    y = m.op("Loop", net.const(EXPERTS, np.int64), net.const(True, bool), body=body(m, turn, inputs))
    scores = m.op("Unsqueeze", m.op("Transpose", scores, perm=[1, 0]), net.ints(-1))
    return m.op("ReduceSum", m.op("Mul", y, scores), net.ints(0), keepdims=0)


def switch(m: Mix) -> str:
    """SwitchTransformers: each token's one expert, then times the largest share."""
    shares, net, rows, y = m.shares(), m.net, m.rows, zeros(m)
    place = m.op("ArgMax", shares, axis=-1, keepdims=0)
    mask = m.op("OneHot", place, net.const(EXPERTS, np.int64), net.const([0, 1], np.int64), axis=-1)
    for e in range(EXPERTS):
        mine = m.op("Cast", m.op("Gather", mask, net.const(e, np.int64), axis=1), to=TensorProto.BOOL)
        at = m.op("Transpose", m.op("NonZero", mine), perm=[1, 0])
        y = m.op("ScatterND", y, at, m.expert(e, m.op("GatherND", rows, at)))
    return m.op("Mul", m.op("ReduceMax", shares, net.ints(-1), keepdims=1), y)


LOOPS_OF_ONE: dict[str, Callable[[Mix], str]] = {"switch": switch}
