"""An input of a file that says which tokens of a sequence are there: ones, then zeros. For an engine it is a run-time length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import HwgenError
from .hostparts import Value

SHORT = 3       # lengths between the shortest and the longest that are tried where the meaning of a mask is proven


@dataclass(frozen=True, slots=True)
class Padding:
    """name, dtype: of the input, [1, tokens] in the file; shown: what it holds where a token is there, 1 or 0; the others hold 1 - shown."""

    name: str
    dtype: str
    tokens: int
    shown: int = 1

    @property
    def value(self) -> Value:
        """As an input of the file."""
        return Value(self.name, self.dtype, (self.tokens,), 2 if np.dtype(self.dtype).kind in "iu" else 0)

    def masks(self, lengths: Sequence[int]) -> np.ndarray:
        """[images, tokens] for sequences of these lengths."""
        there = np.arange(self.tokens) < np.asarray(lengths)[:, None]
        return np.where(there, self.shown, 1 - self.shown).astype(self.dtype)

    def lengths(self, masks: np.ndarray, what: str, kind: type[HwgenError]) -> tuple[int, ...]:
        """Of the sequences that masks show. what: "input", for messages. Raises ``kind`` with the place where one is not ones and then zeros."""
        wanted = f"give [images, {self.tokens}]: {self.shown} for the tokens of the sequence, which come first, then {1 - self.shown}"
        if masks.ndim != 2 or masks.shape[1] != self.tokens or masks.dtype.kind not in "biuf":
            raise kind(f"{what} {self.name!r} has shape {masks.shape} and dtype {masks.dtype}", hint=wanted)
        there = masks.astype(np.float64) == self.shown
        other = np.argwhere(~there & (masks.astype(np.float64) != 1 - self.shown))
        found = there.sum(1)
        holes = np.argwhere(there != (np.arange(self.tokens) < found[:, None]))
        for places, says in ((other, "holds {value:g}"), (holes, "hides token {token} and shows a later one: a sequence has no holes")):
            if len(places):
                image, token = (int(place) for place in places[0])
                raise kind(f"{what} {self.name!r} {says.format(value=float(masks[image, token]), token=token)}",
                           where=f"image {image}, token {token}", hint=wanted)
        if not found.all():
            raise kind(f"{what} {self.name!r} shows no token", where=f"image {int(np.argmin(found))}", hint=wanted)
        return tuple(map(int, found))

    def filled(self, tokens: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """[images, tokens, ...] with the tokens of each sequence again and again behind it: what is there says what the network will see."""
        places = np.arange(self.tokens) % np.asarray(lengths)[:, None]
        return np.asarray(tokens[np.arange(len(tokens))[:, None], places])

    def tried(self) -> tuple[int, ...]:
        """Lengths on which a file is compared with the network of a length."""
        between = np.linspace(1, self.tokens, SHORT + 2).round().astype(int)[1:-1]
        return tuple(dict.fromkeys((1, *map(int, between), self.tokens - 1)))
