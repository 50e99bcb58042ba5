"""What an operator of `hwgen.ops` says of itself beside what `graph.Node` asks: its spellings in ONNX."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..graph import Node
from ..matching.trial import Rule

if TYPE_CHECKING:
    from ..quantizer.lowering import Lowering
    from ..steps.format import Format
    from ..steps.stages import Stage
    from ..steps.tensor import Tensor


@dataclass(frozen=True)
class Spellings:
    """How exporters write an operator.

    rules: ONNX operator -> the rules tried on it, in order. parts: ONNX operators that stand for nothing alone -> what they are a part of,
    with an article, for messages; rank: its place among the operators there. opens: ONNX operators behind which any other may be a part of it.
    """

    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    rank: int = 0
    opens: frozenset[str] = frozenset()


SUPPORTED = ("supported are Linear, LayerNorm, RMSNorm, activation, attention and products on tokens; a residual stream, if there is one, adds up "
             "results of these or of a MoE")


class Operator(Node):
    """Base of the operators; a file of this folder holds one, and `registry` finds it there."""

    @abstractmethod
    def lower(self, to: Lowering) -> None:
        """Its steps. Raises ModelError when it has none where it stands."""

    def lower_through(self, to: Lowering, out: Tensor, unit: float, form: Format, then: Stage) -> bool:
        """Where its steps were put off to what reads it: they go on from words of ``form`` and ``unit`` through one more stage into ``out``. False
        where they were not."""
        return False

    @classmethod
    @abstractmethod
    def spellings(cls) -> Spellings:
        """Its rules; none for an operator that only other operators' rules make."""
