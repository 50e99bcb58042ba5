"""Functions of float values: the element-wise ones the engines have tables for, and the softmax.

`FUNCTIONS` and `FAMILIES` are the one list of them: a new function is an entry here, and a spelling in `ops/activation.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math
import re
from typing import ClassVar, NamedTuple

import numpy as np

from .errors import ModelError

Array = np.ndarray


class Line(NamedTuple):
    """``slope * x + offset``."""

    slope: float
    offset: float


ZERO, IDENTITY = Line(0, 0), Line(1, 0)


@dataclass(frozen=True)
class Function:
    """An element-wise function, float64 array -> array, and the lines it is, to the precision of a table, for x < -16 and for x >= 16.

    title: for people. exact: what the table is made of where ``f`` is an approximation.
    """

    title: str
    f: Callable[[Array], Array]
    left: Line = ZERO
    right: Line = IDENTITY
    exact: Callable[[Array], Array] | None = None


@dataclass(frozen=True)
class Act:
    """Which function: a name in `FUNCTIONS`, or one in `FAMILIES` with its parameter."""

    name: str
    alpha: float | None = None

    GELU: ClassVar[Act]
    GELU_TANH: ClassVar[Act]
    SILU: ClassVar[Act]
    RELU: ClassVar[Act]

    @property
    def value(self) -> str:
        """As text: ``name`` or ``name(alpha)``."""
        return self.name if self.alpha is None else f"{self.name}({self.alpha!r})"

    def __str__(self) -> str:
        return self.value

    @property
    def function(self) -> Function:
        """Raises ModelError when there is none of this name."""
        if self.alpha is None and self.name in FUNCTIONS:
            return FUNCTIONS[self.name]
        if self.alpha is not None and self.name in FAMILIES:
            return FAMILIES[self.name](self.alpha)
        raise ModelError(f"the float model does not know the activation {self}")

    @classmethod
    def of(cls, text: str) -> Act:
        """The inverse of ``value``. Raises ValueError when no function is written so."""
        found = re.fullmatch(r"(\w+)(?:\(([-+.\de]+)\))?", text)
        if found is not None:
            try:
                act = cls(found[1], float(found[2]) if found[2] else None)
            except ValueError:
                act = cls("")
            if act.value == text and (act.name in FUNCTIONS if act.alpha is None else act.name in FAMILIES):
                return act
        raise ValueError(f"no function {text!r}")


Act.GELU, Act.GELU_TANH, Act.SILU, Act.RELU = Act("gelu"), Act("gelu_tanh"), Act("silu"), Act("relu")


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


def _exact_gelu(x: Array) -> Array:
    return np.array([v * 0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])


def _gelu_tanh(x: Array) -> Array:
    y: Array = x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    return y


def _hard_swish(x: Array) -> Array:
    y: Array = x * np.clip(x / 6 + 0.5, 0, 1)
    return y


def _mish(x: Array) -> Array:
    y: Array = x * np.tanh(np.logaddexp(0, x))
    return y


def _leaky_relu(alpha: float) -> Function:
    return Function("LeakyReLU", lambda x: np.where(x < 0, alpha * x, x), left=Line(alpha, 0))


def _elu(alpha: float) -> Function:
    return Function("ELU", lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x), left=Line(0, -alpha))


FUNCTIONS: dict[str, Function] = {
    "gelu": Function("GELU", _gelu, exact=_exact_gelu),         # erf form
    "gelu_tanh": Function("GELU", _gelu_tanh),                  # tanh approximation
    "silu": Function("SiLU", _silu),
    "relu": Function("ReLU", lambda x: np.maximum(x, 0)),
    "hard_swish": Function("HardSwish", _hard_swish),
    "softplus": Function("Softplus", lambda x: np.logaddexp(0, x)),
    "mish": Function("Mish", _mish),
    "tanh": Function("Tanh", np.tanh, left=Line(0, -1), right=Line(0, 1)),
    "sigmoid": Function("Sigmoid", lambda x: 0.5 + 0.5 * np.tanh(0.5 * x), right=Line(0, 1)),
}
FAMILIES: dict[str, Callable[[float], Function]] = {
    "leaky_relu": _leaky_relu,
    "elu": _elu,
}
"""Functions with a parameter, alpha."""


def titles(word: str) -> str:
    """All functions for a message, the last one behind ``word``."""
    every = dict.fromkeys([*(function.title for function in FUNCTIONS.values()), *(family(1.0).title for family in FAMILIES.values())])
    *most, last = every
    return f"{', '.join(most)} {word} {last}"


def activate(x: Array, kind: Act) -> Array:
    """The activation function, element by element; raises ModelError for one that is not in the table."""
    return kind.function.f(x)


def softmax(x: Array) -> Array:
    """Over the last dimension."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    shares: Array = weights / weights.sum(-1, keepdims=True)
    return shares
