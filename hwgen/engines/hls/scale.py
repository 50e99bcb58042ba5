"""Calls of a norm that becomes a value of its own, or some channels of one: each channel of it times a factor and with a bias."""

from __future__ import annotations

from typing import ClassVar

from ...steps.format import INT8, WIDE
from ...steps.passes.lengths import last_token
from ...steps.stages import Add, Diagonal, Normalize, Requant, Rotate
from ...steps.step import Step
from ...steps.tensor import Memory, Span, View
from ...steps.verify import failure
from .call import DEPTH, Call, Follow, part
from .value import Value, braces, words


class Scaled(Call):
    """Residual stream += some rows of the norm of another one, from a row on."""

    function, asked, kind, target, memory = "scale", "layer_norm", "SCALE", "RESIDUAL", Memory.RES
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Normalize, Diagonal, Requant, Add),)

    @property
    def source(self) -> View:
        return self.steps[0].source

    @property
    def target_rows(self) -> View:
        """What is added to."""
        return self.steps[0].sink

    @property
    def rows(self) -> tuple[View, ...]:
        return self.source, self.target_rows

    @property
    def rms(self) -> bool:
        return part(self.steps[0], Normalize).rms

    def check(self) -> None:
        super().check()
        if self.source.tensor.sequence and last_token(self.source):
            raise failure(self.steps[0], "the HLS engine has no step for it: the last token of a sequence of any length")

    @property
    def follows(self) -> int:
        found = Follow.TARGET if self.target_rows.tensor.sequence else Follow(0)
        if self.source.tensor.sequence:
            found |= Follow.TOKENS | (Follow.ROWS if self.source.tokens.count > 1 else Follow(0))
        return found

    def arguments(self) -> list[str]:
        feed, span, channels, place = part(self.steps[0], Normalize), self.source.tokens, self.source.channels.count, self.target_rows
        return [f"{{{place.tensor.tokens}, {channels}}}", str(place.tokens.start), f"{{{self.source.tensor.tokens}, {channels}}}",
                f"{{{span.start}, {span.count}}}", str(feed.eps), braces(feed.mean), braces(feed.out), self.image]

    def about(self) -> str:
        return f"norm, {self.source.tensor} -> added to {self.target_rows.tensor}, scale {self.target_rows.tensor.scale:.5g}"

    def cycles(self, lanes: int, queries: int) -> int:
        size, tokens = words(self.source.channels.count, lanes), self.source.tensor.tokens
        return size * (tokens + self.source.tokens.count + 8 + 2 * DEPTH) + tokens + 2 * DEPTH

    def weight_words(self, lanes: int) -> int:
        return 8 * words(self.source.channels.count, lanes)

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, self.target_rows.tensor.tokens, self.source.channels.count


class ScaledFresh(Scaled):
    """A residual stream starts with it."""

    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Normalize, Diagonal, Requant),)

    @property
    def fresh(self) -> bool:
        return True


class ScaledHead(Scaled):
    """The norm of a residual stream -> some channels of dst, in 8 bits."""

    function, asked, target, memory = "scale_head", "layer_norm", "ACT", Memory.ACT
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Normalize, Diagonal, Requant),)

    def has(self, view: View) -> bool:
        return super().has(view) or view == self.target_rows and view.tokens == Span(0, view.tensor.tokens)

    def arguments(self) -> list[str]:
        feed = part(self.steps[0], Normalize)
        return [self.dst.code, str(self.target_rows.channels.start), str(self.source.channels.count), str(feed.eps), braces(feed.mean),
                braces(feed.out), self.image]

    def about(self) -> str:
        return f"norm, {self.source.tensor} -> {self.dst}, {self.target_rows.channels} of the channels, scale {self.target_rows.tensor.scale:.5g}"

    def traced(self) -> tuple[str, int, int]:
        return INT8.stored, *self.dst.shape


class ScaledTurned(ScaledHead):
    """The same, pairs of channels turned by cosines and sines in the operand memory."""

    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Normalize, Diagonal, Requant, Rotate),)

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        return super().find(steps) | {"operand": Value.of(part(steps[0], Rotate).view.tensor)}

    @property
    def shift(self) -> int:
        """Behind the turn."""
        return part(self.steps[0], Rotate).shift

    @property
    def code(self) -> str:
        return f"turned(hwgen::{super().code}, {self.operands['operand'].code}, {self.shift})"

    def about(self) -> str:
        return f"{super().about()}, turned by {self.operands['operand']}"
