"""One soft mixture of experts in the spellings of exporters: slots that are means of all tokens, tokens that are means of all results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_gated import B3, W3
from moe_spellings import Mix
from onnx_nets import DIM, EXPERTS, HIDDEN, TOKENS

SLOTS = 2                           # of an expert
SOFT: dict[str, Callable[[Mix], str]] = {}


def spelling(function: Callable[[Mix], str]) -> Callable[[Mix], str]:
    SOFT[function.__name__.replace("_", " ")] = function
    return function


def phi(m: Mix) -> np.ndarray:
    """[D, E * SLOTS]"""
    return np.random.default_rng(9).normal(0, 1, (DIM, EXPERTS * SLOTS)).astype(np.float32)


def of_slots(m: Mix, slots: str) -> str:
    """Every expert on its slots, [E, SLOTS, D] -> [E, SLOTS, D]."""
    net = m.net
    hidden = m.op("Gelu", m.op("Add", m.op("MatMul", slots, net.const(m.w1)), net.const(m.b1[:, None])))
    if m.w3 is not None:
        hidden = m.op("Mul", hidden, m.op("Add", m.op("MatMul", slots, net.const(m.w3)), net.const(m.b3[:, None])))
    return m.op("Add", m.op("MatMul", hidden, net.const(m.w2)), net.const(m.b2[:, None]))


@spelling
def stacked(m: Mix) -> str:
    net, logits = m.net, m.op("MatMul", m.x, m.net.const(phi(m)))
    dispatch, combine = m.op("Softmax", logits, axis=1), m.op("Softmax", logits, axis=2)
    slots = m.op("Reshape", m.op("MatMul", m.op("Transpose", dispatch, perm=[0, 2, 1]), m.x), net.ints(EXPERTS, SLOTS, DIM))
    return m.op("MatMul", combine, m.op("Reshape", of_slots(m, slots), net.ints(1, EXPERTS * SLOTS, DIM)))


@spelling
def einsum(m: Mix) -> str:
    """[tokens, experts, slots], softmax over the last two in one."""
    net, logits = m.net, m.op("MatMul", m.rows, m.net.const(phi(m)))
    dispatch = m.op("Reshape", m.op("Softmax", logits, axis=0), net.ints(TOKENS, EXPERTS, SLOTS))
    combine = m.op("Reshape", m.op("Softmax", logits, axis=-1), net.ints(TOKENS, EXPERTS, SLOTS))
    results = of_slots(m, m.op("Einsum", m.rows, dispatch, equation="td,tes->esd"))
    return m.op("Einsum", results, combine, equation="esd,tes->td")


@spelling
def slots_first(m: Mix) -> str:
    """The slots of an expert lie as far apart as there are experts."""
    net, logits = m.net, m.op("MatMul", m.rows, m.net.const(phi(m).reshape(DIM, EXPERTS, SLOTS).swapaxes(1, 2).reshape(DIM, -1)))
    slots = m.op("MatMul", m.op("Softmax", m.op("Transpose", logits, perm=[1, 0]), axis=-1), m.rows)
    results = of_slots(m, m.op("Transpose", m.op("Reshape", slots, net.ints(SLOTS, EXPERTS, DIM)), perm=[1, 0, 2]))
    return m.op("MatMul", m.op("Softmax", logits, axis=-1), m.op("Reshape", m.op("Transpose", results, perm=[1, 0, 2]), net.ints(-1, DIM)))


@spelling
def modules(m: Mix) -> str:
    net, logits = m.net, m.op("MatMul", m.rows, m.net.const(phi(m)))
    slots = m.op("MatMul", m.op("Transpose", m.op("Softmax", logits, axis=0), perm=[1, 0]), m.rows)
    parts = m.op("Split", slots, net.ints(*[SLOTS] * EXPERTS), outputs=EXPERTS, axis=0)
    results = m.op("Concat", *(m.expert(e, part) for e, part in enumerate(parts)), axis=0)
    return m.op("MatMul", m.op("Softmax", logits, axis=-1), results)


def gated(spelling: Callable[[Mix], str]) -> Callable[[Mix], str]:
    """The same with gated experts."""
    def function(m: Mix) -> str:
        m.w3, m.b3 = W3, B3
        return spelling(m)
    return function


def fused(m: Mix) -> str:
    """Of gated experts both first layers in one product."""
    net, logits = m.net, m.op("MatMul", m.x, m.net.const(phi(m)))
    slots = m.op("MatMul", m.op("Transpose", m.op("Softmax", logits, axis=1), perm=[0, 2, 1]), m.x)
    slots = m.op("Reshape", slots, net.ints(EXPERTS, SLOTS, DIM))
    both = m.op("Add", m.op("MatMul", slots, net.const(np.concatenate([m.w1, W3], -1))), net.const(np.concatenate([m.b1, B3], -1)[:, None]))
    gate, up = m.op("Split", both, net.ints(HIDDEN, HIDDEN), outputs=2, axis=-1)
    results = m.op("Add", m.op("MatMul", m.op("Mul", m.op("Gelu", gate), up), net.const(m.w2)), net.const(m.b2[:, None]))
    return m.op("MatMul", m.op("Softmax", logits, axis=2), m.op("Reshape", results, net.ints(1, EXPERTS * SLOTS, DIM)))


def with_a_bias(m: Mix) -> str:
    net, logits = m.net, m.net.linear(m.x, DIM, EXPERTS * SLOTS)
    dispatch, combine = m.op("Softmax", logits, axis=1), m.op("Softmax", logits, axis=2)
    slots = m.op("Reshape", m.op("MatMul", m.op("Transpose", dispatch, perm=[0, 2, 1]), m.x), net.ints(EXPERTS, SLOTS, DIM))
    return m.op("MatMul", combine, m.op("Reshape", of_slots(m, slots), net.ints(1, EXPERTS * SLOTS, DIM)))


def shares_of_one_softmax(m: Mix) -> str:
    """Both means by the same one."""
    net, logits = m.net, m.op("MatMul", m.x, m.net.const(phi(m)))
    shares = m.op("Softmax", logits, axis=1)
    slots = m.op("Reshape", m.op("MatMul", m.op("Transpose", shares, perm=[0, 2, 1]), m.x), net.ints(EXPERTS, SLOTS, DIM))
    return m.op("MatMul", shares, m.op("Reshape", of_slots(m, slots), net.ints(1, EXPERTS * SLOTS, DIM)))
