"""Which parts of tensors have been written: a few flags for each, whatever the size of a tensor."""

from __future__ import annotations

import numpy as np

from .tensor import Span, View


class Written:
    """Views that steps have written so far."""

    def __init__(self) -> None:
        self._views: dict[str, dict[View, None]] = {}

    def add(self, view: View) -> None:
        self._views.setdefault(view.name, {})[view] = None

    def holds(self, view: View) -> bool:
        """Whether every word of ``view`` is in what was written: in one piece, in rows of pieces, or in columns of pieces."""
        parts = self._views.get(view.name, {})
        if view in parts or view.tensor.view() in parts:
            return True
        size = view.tensor.tokens, view.tensor.channels
        pairs = [(part.tokens, part.channels) for part in parts]
        return _covers(pairs, view.tokens, view.channels, *size) or _covers(
            [(channels, tokens) for tokens, channels in pairs], view.channels, view.tokens, *size[::-1])


def _covers(pieces: list[tuple[Span, Span]], outer: Span, inner: Span, outer_size: int, inner_size: int) -> bool:
    """Whether pieces of equal outer span together hold ``inner``, for every index of ``outer``."""
    groups: dict[Span, list[Span]] = {}
    for first, second in pieces:
        groups.setdefault(first, []).append(second)
    complete = np.zeros(outer_size, bool)
    for first, seconds in groups.items():
        found = np.zeros(inner_size, bool)
        for second in seconds:
            found[second.slice] = True
        if found[inner.slice].all():
            complete[first.slice] = True
    return bool(complete[outer.slice].all())
