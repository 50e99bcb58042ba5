"""Functions of float values: the element-wise ones an engine table exists for, and the softmax."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
import math

import numpy as np

from .errors import ModelError

Array = np.ndarray


class Act(Enum):
    """Element-wise activation functions an engine table exists for."""

    NONE = "none"
    GELU = "gelu"            # erf form
    GELU_TANH = "gelu_tanh"  # tanh approximation
    SILU = "silu"
    RELU = "relu"


def erf(x: Array) -> Array:
    """Error function, float64, max abs error 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26)."""
    magnitude = np.abs(x.astype(np.float64))
    t = 1 / (1 + 0.3275911 * magnitude)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    y: Array = np.sign(x) * (1 - poly * np.exp(-magnitude * magnitude))
    return y


def _silu(x: Array) -> Array:
    y: Array = x * 0.5 * (1 + np.tanh(0.5 * x))                  # x * sigmoid(x), without overflow
    return y


def _gelu(x: Array) -> Array:
    y: Array = x * 0.5 * (1 + erf(x * math.sqrt(0.5)))
    return y


def _gelu_tanh(x: Array) -> Array:
    y: Array = x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    return y


FUNCTIONS: dict[Act, Callable[[Array], Array]] = {
    Act.NONE: lambda x: x,
    Act.RELU: lambda x: np.maximum(x, 0),
    Act.SILU: _silu,
    Act.GELU: _gelu,
    Act.GELU_TANH: _gelu_tanh,
}


def activate(x: Array, kind: Act) -> Array:
    """The activation function, element by element; raises ModelError for one that is not in the table."""
    if kind not in FUNCTIONS:
        raise ModelError(f"the float model does not know the activation {kind}")
    return FUNCTIONS[kind](x)


def softmax(x: Array) -> Array:
    """Over the last dimension."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    shares: Array = weights / weights.sum(-1, keepdims=True)
    return shares
