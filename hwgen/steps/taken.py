"""Which tokens a step streams, where they are not those of its source one after the other: a permutation, windows, the taps of a convolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .format import WIDE
from .param import Param
from .tensor import Memory, Span, View

NOTHING = -1            # in an order: a word of zeros


@dataclass(frozen=True, slots=True)
class Taken:
    """For each token of the result, the tokens of the source that stand side by side in front of the array. order: int32 [taps, tokens], the
    source's token of tap j and token t, counted within its view; `NOTHING`: zeros, the real value 0. The rows of the tile are taps x channels
    of the source, all channels of the first tap first. place: where the order lies for an engine that reads it from a memory, ``first`` words
    behind its begin (`passes.lists`)."""

    order: Param
    place: View | None = None
    first: int = 0

    @property
    def taps(self) -> int:
        """Tokens of the source in one of the result."""
        return int(self.order.array.shape[0])

    @property
    def tokens(self) -> int:
        """Of the result."""
        return int(self.order.array.shape[1])

    def evaluate(self, x: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """What a feed gives of the source, integers [..., source tokens, C] -> what the array sees, [..., tokens, taps * C]. values: of tensors."""
        order = self.order.array
        words = np.where(order.T[..., None] == NOTHING, 0, x[..., order.T, :])
        return words.reshape(*x.shape[:-2], self.tokens, self.taps * x.shape[-1])

    def some(self, tokens: Span) -> Taken:
        """The same for some tokens of the result."""
        return Taken(Param(f"{self.order.name}[{tokens}]", np.ascontiguousarray(self.order.array[:, tokens.slice])))

    def images(self, count: int, source: int) -> Taken:
        """The same for so many images, one behind the other in source and result; source: tokens of the source in each."""
        if count == 1:
            return self
        order = self.order.array
        parts = [np.where(order == NOTHING, NOTHING, order + source * index) for index in range(count)]
        return Taken(Param(f"{self.order.name} x{count}", np.ascontiguousarray(np.concatenate(parts, axis=1).astype(order.dtype))))

    def wrong(self, source: View) -> str | None:
        """What keeps it from being an order of tokens of ``source``, or None."""
        order = self.order.array
        if order.ndim != 2 or order.dtype != np.int32 or not order.size:
            return f"order {self.order.name} is {order.dtype} {list(order.shape)}, expected int32 [taps, tokens]"
        if order.min() < NOTHING or order.max() >= source.tokens.count:
            return f"order {self.order.name} has tokens {order.min()} to {order.max()}, {source} has {source.tokens.count}"
        return None

    def __str__(self) -> str:
        return f"{self.order.name} {list(self.order.array.shape)}"


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens whose numbers a step before has put into a list (`stages.Pick`), one in each token of the result. place: that list, int16
    [1, tokens], which holds numbers of tokens of the whole source."""

    place: View
    first: int = 0

    @property
    def taps(self) -> int:
        """Tokens of the source in one of the result."""
        return 1

    @property
    def tokens(self) -> int:
        """Of the result."""
        return self.place.channels.count

    def evaluate(self, x: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """What a feed gives of the source, integers [B, source tokens, C] -> what the array sees, [B, tokens, C]. values: of tensors."""
        return np.take_along_axis(x, values[self.place.name][:, 0, :, None], axis=1)

    def wrong(self, source: View) -> str | None:
        """What keeps it from being a list of tokens of ``source``, or None."""
        tensor = self.place.tensor
        if tensor.memory is not Memory.LIST or tensor.format != WIDE or tensor.tokens != 1 or not self.place.whole:
            return f"takes tokens by {self.place}, which is no list"
        return None if source.whole else f"takes tokens of {source} by their numbers in the whole of it"

    def __str__(self) -> str:
        return f"{self.place}"
