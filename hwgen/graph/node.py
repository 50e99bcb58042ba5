"""The base class of operators: what each says of itself, so that nothing else has to know which operators there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar

import numpy as np

from ..errors import ModelError
from ..foreign import REPR, visible

Array = np.ndarray
Shape = tuple[int, ...]


class Role(Enum):
    """Which values of a node are meant: its output, or something it computes on the way there."""

    OUT = "out"          # the node's output
    NORM = "norm"        # LayerNorm: (x - mean) / sqrt(var + eps), before gamma and beta
    SCORE = "score"      # Attention: q . k * scale
    LOGIT = "logit"      # MoE: what the router's softmax reads
    PRE = "pre"          # MoE: the first layer of the chosen experts, before the activation
    UP = "up"            # MoE of gated experts: what the activations of the chosen experts are multiplied by
    HIDDEN = "hidden"    # MoE: activations between the two layers of the chosen experts
    SLOT = "slot"        # SoftMoE: what experts read
    EXPERT = "expert"    # MoE: results of the chosen experts, before their scores


Inner = list[tuple[Role, Array]]


class Unit(Enum):
    """The int16 formats of fixed unit that values of a float node are kept in."""

    SCORE = "score"
    LOGIT = "logit"
    PRE_ACT = "pre-activation"
    RESIDUAL = "residual"


@dataclass(frozen=True)
class FixedFormat:
    """A format that clips what it does not hold. what: in a user's words; of: the operand that is kept in it, None for values of the node."""

    what: str
    unit: Unit
    role: Role
    of: str | None = None


@dataclass(frozen=True, eq=False)
class Node(ABC):
    """Base of all operators. ``name`` is the ONNX node it came from (for messages), ``output`` the value it defines.

    An operator is a frozen dataclass. Its other fields are names of values (``VALUES`` lists them in order), weights (numpy arrays), and
    attributes (everything else).
    """

    name: str
    output: str

    VALUES: ClassVar[tuple[str, ...]] = ("x",)
    CHOOSES: ClassVar[bool] = False          # whether it takes some tokens of what it reads
    MULTIPLIES: ClassVar[bool] = False       # whether what it reads is an operand of a product
    DEFERS: ClassVar[bool] = False           # whether its product is done where its result is added, looked up or leaves
    ABSORBS: ClassVar[bool] = False          # whether it does the product that was put off to it
    BY_CHANNEL: ClassVar[bool] = False       # whether its `part` reads the same channels of what it reads
    BY_TOKEN: ClassVar[bool] = False         # whether it takes each token by itself, so that a few can be evaluated alone
    TAKES: ClassVar[bool] = False            # whether it has weights that undo a matrix on the channels it reads: `reading`
    GIVES: ClassVar[bool] = False            # whether it has weights that put a matrix on the channels of its result: `turned`
    COMMUTES: ClassVar[bool] = False         # whether a matrix on the channels of all it reads is the same one on its result, once it is `turned`
    TRUNK: ClassVar[bool] = False            # whether it mixes tokens, routes or joins: outputs that share such nodes are of one task

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values read, in order."""
        return tuple(getattr(self, key) for key in self.VALUES)

    @abstractmethod
    def shape(self, *shapes: Shape) -> Shape:
        """Shape of the output from the shapes of the inputs; raises ModelError when they do not fit."""

    @abstractmethod
    def evaluate(self, *operands: Array, inner: Inner | None = None) -> Array:
        """The output [B, *shape] from float32 operands [B, *shape], a whole batch at once. inner: gets what is computed on the way."""

    def settled(self, *operands: Array) -> Array | None:
        """For which tokens the order of additions cannot turn a choice, bool [B, tokens]; None where nothing is chosen."""
        return None

    def chosen(self, *operands: Array) -> Array | None:
        """The experts each token is sent to, int64 [B, tokens, k], the largest score first, or whether it is kept; None where nothing is routed."""
        return None

    def formats(self) -> tuple[FixedFormat, ...]:
        """What is kept in an int16 format of fixed unit, wherever the node stands."""
        return ()

    def affine(self, scale: Array, shift: Array) -> Mapping[str, Array] | None:
        """The weights with which it gives ``scale * y + shift`` instead of y, float64 [channels] each; None when it has none that can."""
        return None

    def turned(self, matrix: Array) -> Mapping[str, Array]:
        """With `GIVES` the weights with which it gives ``y @ matrix`` instead of y; with `COMMUTES` the same when what it reads is multiplied
        so too. matrix: float64 [channels, channels]."""
        return {}

    def reading(self, matrix: Array, offset: Array) -> Mapping[str, Array]:
        """With `TAKES` the weights with which it gives of x what it gives of ``x @ matrix + offset`` now."""
        return {}

    def part(self, channels: Array) -> Mapping[str, Any] | None:
        """The weights, and what else changes, with which it gives only these channels, in this order, some perhaps more than once; None when it has
        none that can."""
        return None

    def shorter(self, tokens: int, longest: int) -> Node:
        """The node for the first so many tokens of a sequence that has ``longest``."""
        return self

    def params(self) -> dict[str, Array]:
        """The weights by the name of their field."""
        return {key: value for key, value in self._fields() if isinstance(value, np.ndarray)}

    def attributes(self) -> dict[str, object]:
        """What is neither a name nor a weight, by the name of its field."""
        return {key: value for key, value in self._fields()
                if key not in ("name", "output", *self.VALUES) and value is not None and not isinstance(value, np.ndarray)}

    def _fields(self) -> list[tuple[str, object]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def __str__(self) -> str:
        """``output = Operator(inputs, attributes)``: a line of a listing."""
        given = [*self.inputs, *(f"{key} {attribute(value)}" for key, value in self.attributes().items())]
        return f"{self.output} = {type(self).__name__}({', '.join(given)})"

    def __repr__(self) -> str:
        return visible(f"<{type(self).__name__} {self.name}: {', '.join(self.inputs)} -> {self.output}>", limit=REPR)

    def fail(self, message: str, hint: str | None = None) -> ModelError:
        """The error about this node."""
        return ModelError(message, where=f"{type(self).__name__} node {self.name!r}", hint=hint).about(self.name)

    def misplaced(self, message: str, hint: str | None = None) -> ModelError:
        """The error about this node among the others; the node is printed."""
        return ModelError(message, where=f"{type(self).__name__} node {self.name!r}, {visible(self)}", hint=hint)


def attribute(value: object) -> str:
    """As a person writes it."""
    match value:
        case Enum():
            return str(value.value)
        case float() | np.floating():
            return f"{value:.6g}"
    return str(value)
