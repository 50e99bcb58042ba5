"""Calls of the choice of tokens: the list of those that are kept, and the rows that go on by it."""

from __future__ import annotations

from typing import ClassVar

from ...steps.format import WIDE
from ...steps.stages import Diagonal, Pick, Plain, Requant, Rescale, Stationary
from ...steps.step import Step
from ...steps.taken import Kept
from ...steps.tensor import Memory
from ...steps.verify import failure
from .call import DEPTH, part
from .products import Product
from .scale import Scaled
from .value import Value, braces


class Picks(Product):
    """src -> the list of the rows with the largest results."""

    function, kind, target = "pick", "PICK", "LOGITS"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant, Pick),)
    memory = Memory.LIST

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        return {role: value for role, value in super().find(steps).items() if role == "src"}

    @property
    def pick(self) -> Pick:
        """What is chosen."""
        return part(self.steps[0], Pick)

    def arguments(self) -> list[str]:
        return [self.src.code, str(self.pick.keep), str(self.pick.first), str(self.pick.ranked).lower(), self.image]

    def about(self) -> str:
        return f"choice, {self.src} -> the {self.pick.keep} of {self.streamed} tokens with the largest scores"

    def cycles(self, lanes: int, queries: int) -> int:
        return super().cycles(lanes, queries) + self.streamed * (self.streamed + DEPTH)

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, 1, self.pick.keep


class Moved(Scaled):
    """A residual stream starts with some rows of another one, or with those of the list."""

    asked = "rescale"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Rescale, Diagonal, Requant),)

    @property
    def rms(self) -> bool:
        return False

    @property
    def fresh(self) -> bool:
        return True

    @property
    def value(self) -> str:
        """The rows by the list come last."""
        return super().value if self.listed else ""

    @property
    def listed(self) -> bool:
        """Whether the rows are those of the list."""
        return isinstance(self.steps[0].taken, Kept)

    def check(self) -> None:
        super().check()
        if len(self.steps) > 1:
            raise failure(self.steps[1], "the HLS engine has no step for it")

    def arguments(self) -> list[str]:
        span, channels, place = self.source.tokens, self.source.channels.count, self.target_rows
        rows = f"{{{0 if self.listed else span.start}, {self.steps[0].tokens}}}"
        return [f"{{{place.tensor.tokens}, {channels}}}", str(place.tokens.start), f"{{{self.source.tensor.tokens}, {channels}}}", rows, "1",
                "{0, 0}", braces(part(self.steps[0], Rescale).out), self.image]

    @property
    def code(self) -> str:
        code = f"as_it_is(hwgen::{super().code})"
        return f"listed(hwgen::{code})" if self.listed else code

    def about(self) -> str:
        return f"{self.steps[0].tokens} tokens of {self.source.tensor} -> {self.target_rows.tensor}{', by the list' if self.listed else ''}"
