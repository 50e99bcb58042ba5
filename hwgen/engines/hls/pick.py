"""Calls of the choice of tokens: the list of those that are kept, and the rows that go on by it."""

from __future__ import annotations

from typing import ClassVar

from ...layout.image import Shape
from ...steps.format import WIDE
from ...steps.param import Columns
from ...steps.stages import Add, Diagonal, Exp2, Keys, Pick, Plain, Requant, Rescale, RowFactor, Stationary
from ...steps.stages.rescale import EXACT
from ...steps.step import Step
from ...steps.taken import Kept
from ...steps.tensor import Memory, Span
from ...steps.verify import failure
from .call import DEPTH, Call, does, part
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


class RowPicks(Call):
    """The same of scores that lie side by side in a residual stream of one row."""

    function, asked, kind, memory = "pick_row", "rescale", "PICK", Memory.LIST
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Rescale, Diagonal, Requant, Pick),)

    def check(self) -> None:
        super().check()
        factor = part(self.steps[0], Requant).factor
        if part(self.steps[0], Rescale).out != EXACT or not isinstance(factor, Columns) or (factor.mult.array != 1 << factor.shift.array).any():
            raise failure(self.steps[0], "the HLS engine chooses by the words as they are")

    @property
    def pick(self) -> Pick:
        """What is chosen."""
        return part(self.steps[0], Pick)

    @property
    def tokens(self) -> int:
        """Among which."""
        return self.steps[0].columns

    @property
    def params(self) -> tuple[str, ...]:
        return ()

    def data(self, shape: Shape) -> bytes:
        return b""

    def arguments(self) -> list[str]:
        return [str(self.tokens), str(self.pick.keep), str(self.pick.first), str(self.pick.ranked).lower()]

    def about(self) -> str:
        return f"choice, the {self.pick.keep} of {self.tokens} tokens with the largest scores in {self.steps[0].source.tensor}"

    def cycles(self, lanes: int, queries: int) -> int:
        return self.tokens * (self.tokens + DEPTH)

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, 1, self.pick.keep


class Attended(Call):
    """How much one token looks at others, added up over the heads -> a residual stream of one row."""

    function, asked, kind, memory = "attended", "attention", "ATTENDED", Memory.RES
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Keys, Requant), (Exp2, Stationary, RowFactor))

    @classmethod
    def fits(cls, steps: tuple[Step, ...]) -> bool:
        scores, weights = cls.form
        forms = [scores if place % 2 == 0 else weights if place == 1 else (*weights, Add) for place in range(len(steps))]
        return all(map(does, steps, forms))

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        return super().find(steps) | {"keys": Value.of(part(steps[0], Keys).view.tensor)}

    def check(self) -> None:
        """Every head in order, of all keys."""
        for head, step in enumerate(self.steps[::2]):
            view, dim = part(step, Keys).view, self.src.channels // self.heads
            if view.tokens.count != self.operands["keys"].tokens or view.channels != Span(head * dim, dim) or step.source.channels != view.channels:
                raise failure(step, "the HLS engine has no step for it: heads in another order, or of some keys")

    @property
    def heads(self) -> int:
        return len(self.steps) // 2

    @property
    def columns(self) -> int:
        """Of the result."""
        return self.steps[1].columns

    @property
    def params(self) -> tuple[str, ...]:
        return ()

    def data(self, shape: Shape) -> bytes:
        return b""

    def arguments(self) -> list[str]:
        first = self.operands["keys"].tokens - self.columns
        factors = part(self.steps[0], Requant).factor, part(self.steps[1], RowFactor).factor
        rows = f"{{{self.steps[0].source.tokens.start}, {first}}}"
        return [self.src.code, self.operands["keys"].code, str(self.heads), rows, *map(braces, factors),
                str(self.steps[0].sink.tensor.format.frac or 0)]

    def about(self) -> str:
        return f"attention of one token, {self.heads} heads, {self.src} -> its weights on {self.columns} tokens, added up"

    def cycles(self, lanes: int, queries: int) -> int:
        keys = self.operands["keys"].tokens
        return self.heads * (keys * (self.src.channels // self.heads + DEPTH) + 2 * (keys + DEPTH))

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, 1, self.columns


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
