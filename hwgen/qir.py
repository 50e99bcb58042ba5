"""The integer graph: what the hardware computes, word for word. Made by the quantizer, read by everything after it.

Values are named and are either int8 activations ``[T, C]`` or the int16 residual stream ``[T, D]`` (one scale for the
whole network). Every weight is int8 ``[K, N]``; bias int32 ``[N]``; ``mult``/``shift`` per output channel.
Scales (float) are kept only for reports and for the host, which quantizes inputs and dequantizes outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .foreign import REPR, visible
from .functions import Act


@dataclass(frozen=True, eq=False)
class QNode:
    """``name``: the ONNX node it came from; ``output``: the value it defines."""

    name: str
    output: str

    def __repr__(self) -> str:
        return visible(f"<{type(self).__name__} {self.name} -> {self.output}>", limit=REPR)


@dataclass(frozen=True, eq=False)
class Weights:
    """One quantized linear map. ``acc = x @ weight + bias``; see the user of it for what mult and shift do."""

    weight: np.ndarray       # int8 [K, N]
    bias: np.ndarray         # int32 [N]
    mult: np.ndarray         # uint16 [N] (stored as int64)
    shift: np.ndarray        # 1..47 [N]
    scale: np.ndarray        # float [N]: real value of one accumulator unit
    bits: int = 8            # 8, or 4: weights in [-7, 7], two in a byte of the weight image

    def __repr__(self) -> str:
        return f"<Weights int{self.bits} {list(self.weight.shape)}>"


@dataclass(frozen=True, eq=False)
class QActivation:
    """After the requantizer gave int16 in unit 2**-8: table, then ``requantize(f(x), mult, shift, 8)``."""

    kind: Act
    mult: int
    shift: int


@dataclass(frozen=True, eq=False, repr=False)
class QPatches(QNode):
    """Host side: image [C, H, W] -> clip(round(x / scale)) int8, patches row-major, channels (c, dy, dx) -> [T, C*p*q].

    Without a patch embedding (patch = (0, 0)) the input is tokens [T, K] already.
    """

    input: str
    patch: tuple[int, int]
    scale: float


@dataclass(frozen=True, eq=False, repr=False)
class QResidualInit(QNode):
    """Starts the residual stream with a constant (position embedding + class token)."""

    table: np.ndarray        # int16 [T, D]


@dataclass(frozen=True, eq=False, repr=False)
class QNorm(QNode):
    """`numerics.norm_coefficients` + `numerics.normalize` of the residual x -> int8 (gamma, beta folded downstream)."""

    x: str
    dim: int
    eps: int
    inv_mult: int
    inv_shift: int
    mult: int
    shift: int
    scale: float             # of the int8 output


@dataclass(frozen=True, eq=False, repr=False)
class QLinear(QNode):
    """int8 x [T, K] -> int8 [T, N]: requantize to 8 bits, or (with act) to 16 bits, table, 8 bits."""

    x: str
    w: Weights
    act: QActivation | None
    scale: float             # of the int8 output


@dataclass(frozen=True, eq=False, repr=False)
class QResidualLinear(QNode):
    """``out = sat16(residual[first_token + t] + requantize(x @ w + b, 16 bits))``; other tokens pass unchanged."""

    x: str
    residual: str
    w: Weights
    first_token: int         # 0, or the number of class tokens for the patch embedding


@dataclass(frozen=True, eq=False, repr=False)
class QAttention(QNode):
    """Per head: score = requantize(q @ k.T, 16 bits); p = exp2_p8(row max - score); out = requantize(p @ v, softmax_factor).

    q, k, v: int8 [T, heads * head_dim] -> int8.
    """

    q: str
    k: str
    v: str
    num_heads: int
    score_mult: int
    score_shift: int
    out_mult: int
    out_shift: int
    scale: float             # of the int8 output


@dataclass(frozen=True, eq=False, repr=False)
class QMoE(QNode):
    """``out = residual + sum over chosen experts, in expert order`` of ``weigh(requantize(h @ w2, 16 bits), score)``.

    logits = requantize(x @ gate, 16 bits); `numerics.route`; h = QLinear with act of x by experts[e][0].
    Each expert's addition saturates to 16 bits.
    """

    x: str
    residual: str
    gate: Weights
    first: tuple[Weights, ...]
    second: tuple[Weights, ...]
    act: QActivation
    top_k: int
    renormalize: bool


@dataclass(frozen=True, eq=False, repr=False)
class QHead(QNode):
    """int32 output. ``tokens``: (start, stop) of x used; their accumulators (bias included each time) are added up.

    The host multiplies by ``w.scale / (stop - start)``. ``onnx_name`` is the graph output, ``shape`` its ONNX shape.
    """

    x: str
    w: Weights
    tokens: tuple[int, int]
    onnx_name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class QGraph:
    """The integer network of one task. ``shapes`` of all values; nodes in topological order.

    The first node is QPatches, the second QResidualInit. The residual stream is one chain: each QResidualLinear or QMoE
    reads the newest residual value and defines the next.
    """

    name: str
    nodes: tuple[QNode, ...]
    shapes: dict[str, tuple[int, ...]]
    residual_scale: float

    def __repr__(self) -> str:
        return visible(f"<QGraph {self.name}: {len(self.nodes)} nodes, residual scale {self.residual_scale:.4g}>", limit=REPR)


@dataclass(frozen=True, eq=False)
class QModel:
    """One QGraph per task; the same array object in two tasks is stored once in the weight image."""

    tasks: tuple[QGraph, ...]
    calibration: str         # "data" or "random"

    def __repr__(self) -> str:
        return visible(f"<QModel: {len(self.tasks)} tasks, calibration {self.calibration}, first {self.tasks[0]!r}>", limit=REPR)
