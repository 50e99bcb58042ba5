"""What a float value has become on the way to steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..graph import Array
from ..ops import Activation, Linear
from ..ops.norm import Past
from ..steps.tensor import Span, Tensor, View


@dataclass(frozen=True)
class Lowered:
    """What a float value is in the integer network: ``tensor * scale * gamma + beta``, of ``tokens`` (a choice, or all), or their ``mean``.

    gamma, beta: of the LayerNorm, to be folded into the linear map that reads it. linear: a map of all that, still to be done; function:
    of its result, too. past: ``tensor`` is what the LayerNorm reads.
    """

    tensor: Tensor
    gamma: Array | None = None
    beta: Array | None = None
    tokens: Span | None = None
    mean: bool = False
    linear: Linear | None = None
    function: Activation | None = None
    past: Past | None = None

    @property
    def view(self) -> View:
        return self.tensor.view(self.tokens)

    def of(self, tokens: Span) -> Lowered:
        """Some of its tokens."""
        own = self.view.tokens
        return replace(self, tokens=Span(own.start + tokens.start * own.step, tokens.count, tokens.step * own.step))
