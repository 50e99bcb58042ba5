"""The call of the attention unit: scores and their product with the values, all heads."""

from __future__ import annotations

from typing import ClassVar

from ...steps.format import SCORE
from ...steps.stages import Bias, Exp2, Keys, Plain, Requant, Restore, RowFactor, Values
from ...steps.step import Step
from ...steps.tensor import View
from ...steps.verify import failure
from .call import DEPTH, Call, Follow, part
from .value import Value, braces


class Attention(Call):
    """q, k, v -> dst."""

    function, kind = "attention", "ATTENTION"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Keys, Requant), (Exp2, Values, Restore, RowFactor))

    MIN_PERIOD: ClassVar[int] = 32               # of the unit, hls/include/hwgen/attention.hpp

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        tiles = (("keys", part(steps[0], Keys).view), ("values", part(steps[-1], Values).view))
        return super().find(steps) | {role: Value.of(view.tensor) for role, view in tiles}

    def check(self) -> None:
        super().check()
        values = part(self.steps[1], Values).view
        if values.tokens != self.held.tokens or values.tensor.tokens != self.held.tensor.tokens or self.queries.tokens != self.steps[1].sink.tokens:
            raise failure(self.steps[1], "the HLS engine has no step for it: keys and values, or queries and results, are not the same tokens")

    @property
    def queries(self) -> View:
        """What streams."""
        return self.steps[0].source

    @property
    def held(self) -> View:
        """The keys."""
        return part(self.steps[0], Keys).view

    @property
    def rows(self) -> tuple[View, ...]:
        return self.queries, self.held, part(self.steps[1], Values).view, self.steps[1].sink

    @property
    def follows(self) -> int:
        keys, queries = self.held, self.queries
        return Follow.TOKENS * keys.tensor.sequence | (Follow.ROWS | Follow.TARGET) * queries.tensor.sequence

    @property
    def limit(self) -> int:
        """Keys that the first row sees; 0: all rows see all."""
        return part(self.steps[0], Keys).limit

    @property
    def code(self) -> str:
        code, queries, keys = super().code, self.queries.tokens, self.held.tokens
        if not (self.queries.whole and self.held.whole):
            code = f"within(hwgen::{code}, {{{queries.start}, {queries.count}}}, {{{keys.start}, {keys.count}}})"
        return f"causal(hwgen::{code}{f', {self.limit}' if self.limit > 1 else ''})" if self.limit else code

    @property
    def heads(self) -> int:
        return self.steps[0].heads

    def head_words(self, lanes: int) -> list[int]:
        """Words a token's channels of each head lie in, those of keys or those of values."""
        dims = self.src.channels // self.heads, self.dst.channels // self.heads
        return [max(((head + 1) * dim - 1) // lanes - head * dim // lanes + 1 for dim in dims) for head in range(self.heads)]

    def arguments(self) -> list[str]:
        factors = part(self.steps[0], Requant).factor, part(self.steps[1], RowFactor).factor
        form = self.steps[0].sink.tensor.format
        return [self.dst.code, self.src.code, self.operands["keys"].code, self.operands["values"].code, str(self.heads), *map(braces, factors),
                *([] if form == SCORE else [str(form.frac)])]

    def about(self) -> str:
        some = "" if self.queries.whole and self.held.whole else f", tokens {self.queries.tokens} to {self.held.tokens}"
        return (f"{'causal ' if self.limit else ''}attention, {self.heads} heads, {self.src} -> {self.dst}{some}, "
                f"scale {self.steps[-1].sink.tensor.scale:.5g}")

    def cycles(self, lanes: int, queries: int) -> int:
        tokens, blocks = self.held.tokens.count, -(-self.queries.tokens.count // queries)
        period = max(tokens, queries, self.MIN_PERIOD)
        return sum(words * tokens + ((blocks + 1) * period + queries) * words + 2 * DEPTH for words in self.head_words(lanes))


class BiasedAttention(Attention):
    """The same with a constant in the operand memory added to the scores."""

    asked = "attention"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Keys, Requant, Bias), (Exp2, Values, Restore, RowFactor))

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        return super().find(steps) | {"operand": Value.of(part(steps[0], Bias).view.tensor)}

    @property
    def code(self) -> str:
        return f"biased(hwgen::{super().code}, {self.operands['operand'].code})"

    def about(self) -> str:
        return f"{super().about()}, with a bias of the scores"
