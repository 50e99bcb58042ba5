"""Whether a mixture that mixes tokens in front of its experts is a soft one (`soft`), found by evaluating it as `routing` does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..functions import Act, softmax
from ..graph import Array
from ..matching.trial import Mismatch
from .expert_weights import Weights
from .mixture import Mixture
from .routing import TOLERANCE, Router

HARD = ("TopK", "ArgMax", "OneHot", "CumSum", "Hardmax")          # what chooses


@dataclass(frozen=True, eq=False)
class Soft:
    """columns: of the logits, those of an expert's slots one after the other; positions: of `Match`."""

    weights: Weights
    act: Act
    columns: Array
    positions: Array


def soft(found: Mixture, name: str) -> Soft | None:
    """What it is; None when it chooses experts. Raises Mismatch where it chooses none, and is no soft mixture."""
    return _SoftRouter(found, name).soft() if found.mixes and found.experts and not found.has(*HARD) else None


class _SoftRouter(Router):
    def soft(self) -> Soft:
        experts, slots = self.found.experts, self.count
        weight = experts[0].second.weight.squeeze()
        self.stack = weight.shape[0] if len(experts) == 1 and weight.ndim == 3 else len(experts)
        if slots % self.stack:
            raise Mismatch(f"mixes tokens into {slots} slots for {self.stack} experts, which does not divide", self.name)
        act, t, factor = self.activation()
        logits = self.rng.normal(0, 1.5, (self.tokens, slots)).astype(np.float32)
        x = self.rng.standard_normal((self.tokens, self.dim)).astype(np.float32)
        y, read = self.computed(x, logits), logits * np.float32(self.found.logits.factor)
        ways = np.arange(slots).reshape(self.stack, -1), np.arange(slots).reshape(-1, self.stack).T
        for weights in self.readings(t, factor):
            for columns in ways:
                mixed = softmax(read.T)[columns] @ x                                       # [experts, slots of one, D]
                made = np.einsum("tes,esd->td", softmax(read)[:, columns], weights.results(mixed, act))
                scale = float((made * y).sum() / np.maximum((made * made).sum(), 1e-300))
                if np.abs(scale * made - y).max() <= TOLERANCE * np.abs(y).max():
                    return Soft(weights.times(self.exact(scale)), act, columns.ravel(), self.positions)
        raise Mismatch("mixes tokens by the weights of its router before an expert sees them, and is no soft MoE: slots that are means of the tokens "
                       "by a softmax over them, and tokens that are means of the results by a softmax over the slots", self.name)
