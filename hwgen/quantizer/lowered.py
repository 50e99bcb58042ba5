"""What a float value has become on the way to steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..graph import Array
from ..ops import Activation, Linear, TokenMix
from ..ops.norm import Past
from ..steps.taken import Taken
from ..steps.tensor import Span, Tensor, View


@dataclass(frozen=True)
class Lowered:
    """What a float value is in the integer network: ``tensor * scale * gamma + beta``, of ``tokens`` (a choice, or all), or their ``mean``.

    gamma, beta: of the LayerNorm, to be folded into the linear map that reads it. linear: a map of all that, still to be done; function:
    of its result, too. past: ``tensor`` is what the LayerNorm reads. taken: the tokens of all that, or zeros, that stand side by side in one of
    the value.
    """

    tensor: Tensor
    gamma: Array | None = None
    beta: Array | None = None
    tokens: Span | None = None
    mean: bool = False
    linear: Linear | TokenMix | None = None
    function: Activation | None = None
    past: Past | None = None
    taken: Taken | None = None

    @property
    def view(self) -> View:
        return self.tensor.view(self.tokens)

    @property
    def rows(self) -> int:
        """Tokens of the value; of a mean those that are added up."""
        return self.view.tokens.count if self.taken is None else self.taken.tokens

    @property
    def channels(self) -> int:
        """Of the value."""
        return self.tensor.channels * (1 if self.taken is None else self.taken.taps)

    def each(self, numbers: Array) -> Array:
        """A number for each channel of ``tensor`` as one for each channel of the value."""
        return numbers if self.taken is None else np.tile(numbers, self.taken.taps)

    def of(self, tokens: Span) -> Lowered:
        """Some of its tokens."""
        if self.taken is not None:
            return replace(self, taken=self.taken.some(tokens))
        own = self.view.tokens
        return replace(self, tokens=Span(own.start + tokens.start * own.step, tokens.count, tokens.step * own.step))
