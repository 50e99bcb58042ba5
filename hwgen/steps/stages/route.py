"""Stage: router logits -> the queue of each expert and the shares of the tokens in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ..format import LOGIT, SHARE, Format
from .base import Interval, Queue, Run, Stage, need

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True, slots=True)
class Route(Stage):
    """`numerics.route`: softmax over all experts, then the ``top_k`` largest; with ``renormalize`` divided by their sum."""

    top_k: int
    renormalize: bool

    name: ClassVar[str] = "route"
    hls: ClassVar[str] = "route"

    def routed(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Experts and their shares, best first, [..., top_k] both."""
        return numerics.route(x, self.top_k, self.renormalize)

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        """-> the shares [B, tokens, top_k]; the queues of all tokens are made anew."""
        experts, shares = self.routed(x)
        run.inner.update(logits=x, experts=experts, weights=shares)
        sink = run.step.sinks[0]
        queue = Queue(*(np.full((len(x), sink.tensor.tokens, self.top_k), empty) for empty in (-1, 0)))
        queue.experts[:, sink.tokens.slice], queue.shares[:, sink.tokens.slice] = experts, shares
        run.queues[sink.name] = queue
        return shares

    def shape(self, tokens: int, channels: int) -> tuple[int, int]:
        return tokens, self.top_k

    def format(self, before: Format, step: Step) -> Format:
        need(before, LOGIT, "a router")
        return SHARE

    def interval(self, x: Interval, step: Step) -> Interval:
        return SHARE.lo, SHARE.hi

    def fields(self, step: Step) -> dict[str, int]:
        return {"top_k": self.top_k, "num_experts": step.columns, "renorm": int(self.renormalize)}

    def wrong(self, step: Step) -> str | None:
        return None if 1 <= self.top_k <= step.columns else f"top-{self.top_k} of {step.columns} experts"

    @property
    def brief(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"route(top {self.top_k}{', renormalize' if self.renormalize else ''})"
