"""The verifier of an integer graph: order, shapes, number ranges, and the proof that no accumulator overflows."""

from __future__ import annotations

import numpy as np

from .. import numerics
from ..errors import ModelError
from ..golden.integer_model import check_accumulators
from ..qir import (QAttention, QGraph, QHead, QLinear, QMoE, QNode, QNorm, QPatches, QResidualInit, QResidualLinear, Weights)
from .structure import SUPPORTED

MAX_EPS = 1 << 48


def verify(graph: QGraph) -> QGraph:
    """Check everything the hardware relies on; returns the graph, raises ModelError naming the node and the rule."""
    _Verifier(graph).run()
    check_accumulators(graph)
    return graph


class _Verifier:
    def __init__(self, graph: QGraph):
        self.graph = graph
        self.stream = ""                     # newest state of the residual stream
        self.defined: set[str] = set()

    def run(self) -> None:
        nodes = self.graph.nodes
        if len(nodes) < 2 or not isinstance(nodes[0], QPatches) or not isinstance(nodes[1], QResidualInit):
            raise ModelError("the first two nodes are not QPatches and QResidualInit", where=f"graph {self.graph.name!r}")
        if not self.graph.residual_scale > 0:
            raise ModelError(f"residual scale is {self.graph.residual_scale!r}", where=f"graph {self.graph.name!r}")
        for node in nodes:
            self.node = node
            if node.output in self.defined:
                self._fail(f"value {node.output!r} is defined twice")
            if node.output not in self.graph.shapes:
                self._fail(f"value {node.output!r} has no shape")
            self._check(node)
            self.defined.add(node.output)

    def _fail(self, message: str):
        raise ModelError(message, where=f"{type(self.node).__name__} node {self.node.name!r}", hint=SUPPORTED)

    def _require(self, ok, message: str) -> None:
        if not ok:
            self._fail(message)

    def _shape(self, value: str) -> tuple[int, ...]:
        self._require(value in self.defined, f"reads {value!r} before it is defined")
        return self.graph.shapes[value]

    def _activation(self, value: str) -> tuple[int, ...]:
        """Shape of an int8 operand. A norm is computed from the residual stream as it stands when it is read."""
        shape = self._shape(value)
        for node in self.graph.nodes:
            if node.output == value:
                self._require(not isinstance(node, (QResidualInit, QResidualLinear, QMoE, QHead)),
                              f"reads {value!r}, which is not an int8 value")
                self._require(not isinstance(node, QNorm) or node.x == self.stream,
                              f"reads the norm {value!r} after the residual stream has moved on: the engine "
                              "normalises the newest state only")
        return shape

    def _is(self, found, expected, what: str) -> None:
        self._require(tuple(found) == tuple(expected), f"{what} has shape {tuple(found)}, expected {tuple(expected)}")

    def _pair(self, mult: int, shift: int, what: str) -> None:
        self._require(0 < mult < 1 << numerics.MULT_BITS, f"{what}: multiplier {mult} is not in 1..65535")
        self._require(1 <= shift <= numerics.MAX_SHIFT, f"{what}: shift {shift} is not in 1..{numerics.MAX_SHIFT}")

    def _dynamic_shift(self, low: int, high: int, what: str) -> None:
        """A shift computed at run time must stay inside the shifter's range, where `scale_factor` would clip it."""
        self._require(1 <= low and high <= numerics.MAX_SHIFT,
                      f"{what}: the run-time shift can lie in {low}..{high}, the shifter does 1..{numerics.MAX_SHIFT}")

    def _weights(self, w: Weights, k: int, n: int, what: str) -> None:
        self._is(w.weight.shape, (k, n), f"{what} weight")
        for key, dtype in (("bias", np.int32), ("mult", np.int64), ("shift", np.int64), ("scale", np.float64)):
            array = getattr(w, key)
            self._is(array.shape, (n,), f"{what} {key}")
            self._require(array.dtype == dtype, f"{what} {key} is {array.dtype}, expected {np.dtype(dtype)}")
        top = (1 << w.bits - 1) - 1
        self._require(w.bits in (4, 8) and w.weight.dtype == np.int8 and np.abs(w.weight.astype(np.int64)).max() <= top,
                      f"{what} weight is not an integer of {w.bits} bits in [-{top}, {top}]")
        self._require(np.isfinite(w.scale).all() and (w.scale > 0).all(), f"{what} scale is not positive")
        for mult, shift in ((w.mult.min(), w.shift.min()), (w.mult.max(), w.shift.max())):
            self._pair(int(mult), int(shift), what)

    def _update(self, node: QResidualLinear | QMoE) -> tuple[int, ...]:
        self._require(node.residual == self.stream, f"adds to {node.residual!r}, the newest residual value is {self.stream!r}")
        self.stream = node.output
        self._is(self.graph.shapes[node.output], self._shape(node.residual), "the residual stream")
        return self._shape(node.residual)

    def _check(self, node: QNode) -> None:
        shape = self.graph.shapes[node.output]
        match node:
            case QPatches():
                self._require(node is self.graph.nodes[0], "is not the first node")
                self._require(np.isfinite(node.scale) and node.scale > 0, f"scale is {node.scale!r}")
            case QResidualInit():
                self._require(node is self.graph.nodes[1], "is not the second node")
                self._require(node.table.dtype == np.int16 and node.table.min() >= -32767, "table is not int16")
                self._is(node.table.shape, shape, "table")
                self.stream = node.output
            case QNorm():
                tokens, dim = self._shape(node.x)
                self._require(node.x == self.stream, f"normalises {node.x!r}, the newest residual value is {self.stream!r}")
                self._is(shape, (tokens, dim), "the result")
                self._require(node.dim == dim, f"dim {node.dim} is not {dim}")
                self._require(1 <= node.eps < MAX_EPS, f"eps {node.eps} is not in 1..2**48-1")
                self._pair(node.inv_mult, node.inv_shift, "16 / D")
                self._pair(node.mult, node.shift, "norm")
                exponents = numerics.rsqrt(np.array([node.eps, dim * dim * 32767 ** 2 + node.eps]))[1]
                self._dynamic_shift(*(int(e) + 23 + node.shift - 16 for e in exponents), "norm")
            case QLinear():
                tokens, k = self._activation(node.x)
                self._is(shape, (tokens, node.w.weight.shape[1]), "the result")
                self._weights(node.w, k, shape[1], "linear")
                if node.act is not None:
                    self._pair(node.act.mult, node.act.shift, "activation")
            case QResidualLinear():
                tokens, k = self._activation(node.x)
                total, dim = self._update(node)
                self._require(0 <= node.first_token <= total - tokens,
                              f"tokens {node.first_token}.. of {tokens} do not fit {total}")
                self._weights(node.w, k, dim, "linear")
            case QAttention():
                q, k, v = (self._activation(value) for value in (node.q, node.k, node.v))
                self._require(k == v and q[1] == k[1] and q[1] % node.num_heads == 0,
                              f"q {q}, k {k}, v {v} do not form {node.num_heads} heads")
                self._is(shape, q, "the result")
                self._pair(node.score_mult, node.score_shift, "scores")
                self._pair(node.out_mult, node.out_shift, "output")
                exponents = numerics.reciprocal(np.array([255, 255 * k[0]]))[1]
                self._dynamic_shift(*(int(e) + 31 + node.out_shift - 16 for e in exponents), "attention output")
            case QMoE():
                _, dim = self._activation(node.x)
                self._is(self._update(node), self._shape(node.x), "the residual stream")
                experts = len(node.first)
                self._require(1 <= node.top_k <= experts == len(node.second),
                              f"top-{node.top_k} of {experts} and {len(node.second)} experts")
                self._weights(node.gate, dim, experts, "gate")
                for e, (first, second) in enumerate(zip(node.first, node.second)):
                    hidden = first.weight.shape[1]
                    self._weights(first, dim, hidden, f"expert {e}, layer 1")
                    self._weights(second, hidden, dim, f"expert {e}, layer 2")
                self._pair(node.act.mult, node.act.shift, "activation")
            case QHead():
                tokens, k = self._activation(node.x)
                start, stop = node.tokens
                self._require(0 <= start < stop <= tokens, f"tokens {start}..{stop} of {tokens}")
                self._weights(node.w, k, shape[0], "head")
            case _:
                self._fail("is not a node of the integer graph")
