"""Steps -> calls of the HLS engine. The only place that groups steps; which call it is, feeds and stages say themselves (``hls``)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from itertools import groupby

from ...steps.step import Network, Step
from ...steps.taken import Taken
from ...steps.tensor import Tensor
from ...steps.verify import failure
from ...steps.walk import with_tensors
from .attention import Attention, BiasedAttention
from .call import Call
from .experts import Experts, GatedExperts, Router, ScoreRouter
from .mixed import MixedActivated, MixedFresh, MixedLinear, MixedResidual
from .pick import Attended, Moved, Picks, RowPicks
from .products import (
    Features,
    Head,
    Linear,
    LinearActivated,
    LinearFresh,
    LinearGated,
    LinearMultiplied,
    LinearOperand,
    LinearResidual,
    LinearRotated,
    Product,
)
from .scale import Scaled, ScaledFresh, ScaledHead, ScaledTurned
from .start import Constants, LayerNorm, Operands, Patches, Rescaled, ResidualAdd, ResidualInit, Tokens

MOST_TOKENS = 1 << 15        # whose numbers a list holds
CALLS: tuple[type[Call], ...] = (Patches, Tokens, ResidualInit, ResidualAdd, Constants, Operands, LayerNorm, Rescaled, Scaled, ScaledFresh,
                                 ScaledHead, ScaledTurned, Linear, LinearActivated, LinearResidual, LinearFresh, LinearOperand, LinearMultiplied,
                                 LinearGated, LinearRotated, MixedLinear, MixedActivated, MixedResidual, MixedFresh, Head, Features, Attention,
                                 BiasedAttention, Router, ScoreRouter, Experts, GatedExperts, Picks, RowPicks, Moved, Attended)


def calls(network: Network) -> list[Call]:
    """The calls of one task, in order. A call does the steps that follow each other for one value, those of its experts apart.

    Raises ModelError, with the step printed, for what the engine has no function for.
    """
    found: list[Call] = []
    places: dict[str, int] = {}             # of the newest words of a tensor: index of the call that wrote them
    for _, group in groupby(network.steps, lambda step: (step.value, step.expert is None)):
        whole = tuple(group)
        function = _function(whole)
        size = len(function.form) if issubclass(function, (Product, Attention)) else len(whole)                # parts of one value
        for steps in (whole[first:first + size] for first in range(0, len(whole), size)):
            found.append(_function(steps).of(steps, _identity(steps, places)))
            places |= {sink.name: len(found) - 1 for step in steps for sink in step.sinks}
    return found


def _function(steps: tuple[Step, ...]) -> type[Call]:
    """The function a feed asks for, or the last stage of a plain product, or a product without stages."""
    last = steps[-1]
    asked = [step.feed.hls for step in steps] + [stage.hls for stage in reversed(last.drain)] + [last.tile.hls]
    name = next(filter(None, asked), "")
    found = [call for call in CALLS if (call.asked or call.function) == name]
    if any(isinstance(step.taken, Taken) for step in steps) and not all(issubclass(call, Product) for call in found):
        raise failure(last, "the HLS engine takes tokens by an order for products with weights only")
    if any(step.taken is not None and step.source.tokens.stop > MOST_TOKENS for step in steps):
        raise failure(last, f"the HLS engine takes tokens by an order of at most {MOST_TOKENS}")
    for call in (*(call for call in found if call.fits(steps) and last.sink.tensor.memory is call.memory), *found):
        return call
    raise failure(last, "the HLS engine has no step for it")


def _identity(steps: tuple[Step, ...], places: dict[str, int]) -> Hashable:
    """What is computed, by names of params and places of values: names of values may differ from task to task."""
    def place(tensor: Tensor) -> Tensor:
        return replace(tensor, name=str(places.get(tensor.name, "")))
    return tuple((with_tensors((step.feed, step.tile, step.drain, step.source_view, step.taken), place), step.sink.tensor.scale, step.heads,
                  step.expert.index if step.expert else None) for step in steps)
