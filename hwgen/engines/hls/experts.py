"""Calls of a mixture of experts: the router, then all experts."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from ...layout.image import Shape, constant
from ...steps.format import WIDE
from ...steps.param import Factor
from ...steps.stages import Add, Choose, Gather, Multiply, Plain, Requant, Route, Score, Stationary, Table
from ...steps.step import Expert, Step
from ...steps.tensor import Memory
from ...steps.verify import failure
from .call import DEPTH, Call, part
from .products import Product, activation, behind, linear_cycles, linear_words
from .value import Value, words

ROUTER_II = 4                 # the running sum of the softmax: a multiplication and an addition before the next expert


class Router(Product):
    """src -> the queues of the experts."""

    function, kind, target = "route", "ROUTE", "LOGITS"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Plain, Stationary, Requant, Route),)
    memory = Memory.ROUTER

    @property
    def route(self) -> Route:
        """What is chosen."""
        return part(self.steps[0], Route)

    def arguments(self) -> list[str]:
        return [self.src.code, f"{{{self.channels}, {self.route.top_k}, {str(self.route.renormalize).lower()}}}", self.image]

    def about(self) -> str:
        return f"router, {self.src} -> the best {self.route.top_k} of {self.channels} experts"

    def cycles(self, lanes: int, queries: int) -> int:
        choice = self.channels * ROUTER_II + 2 * self.route.top_k + 2 * DEPTH
        return super().cycles(lanes, queries) + self.src.tokens * choice

    def traced(self) -> tuple[str, int, int]:
        return WIDE.stored, self.src.tokens, self.channels


class ScoreRouter(Router):
    """The same by scores, with a bias for the choice."""

    function, kind, target, form = "choose", "CHOOSE", "SCORES", ((Plain, Stationary, Requant, Table, Choose),)

    @property
    def activation(self) -> str:
        return part(self.steps[0], Table).function

    def arguments(self) -> list[str]:
        table = part(self.steps[0], Table)
        return [*super().arguments(), *activation(self.functions, table, behind(table))]

    def about(self) -> str:
        return f"router, {self.src} -> the best {self.route.top_k} of {self.channels} experts by {self.activation}"

    def weight_words(self, lanes: int) -> int:
        return super().weight_words(lanes) + 2 * words(self.channels, lanes)

    def data(self, shape: Shape) -> bytes:
        return super().data(shape) + constant(part(self.steps[0], Choose).table_of(self.channels), shape)


class Experts(Call):
    """Residual stream += every expert's result for the tokens of its queue, weighed. dst: room for the layer between."""

    function, kind, target = "experts", "EXPERTS", "ACTIVATED"
    form: ClassVar[tuple[tuple[type, ...], ...]] = ((Gather, Stationary, Requant, Table), (Plain, Stationary, Requant, Score, Add))
    memory = Memory.RES

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        hidden = steps[len(cls.form) - 2].sink.tensor
        return super().find(steps) | {"dst": replace(Value.of(hidden), name=f"{steps[0].value}.hidden")}

    def check(self) -> None:
        super().check()
        for place, step in enumerate(self.steps):
            if part_of(step).index != place // len(self.form):
                raise failure(step, "the HLS engine has no step for it: experts come in order, each once")
        if len({step.columns for step in self.firsts}) > 1:
            raise failure(self.steps[0], "the experts differ in size", "the HLS engine needs experts of one size")
        if len({(part(step, Table).function, part(step, Table).x, self.factor(step)) for step in self.firsts}) > 1:
            raise failure(self.steps[0], "the experts differ in their activation", "the HLS engine needs experts with one activation")

    @property
    def firsts(self) -> tuple[Step, ...]:
        """Of each expert the step with the activation."""
        return self.steps[len(self.form) - 2::len(self.form)]

    def factor(self, step: Step) -> Factor:
        """Behind the activation of one of ``firsts``."""
        return behind(part(step, Table))

    @property
    def count(self) -> int:
        return len(self.steps) // len(self.form)

    @property
    def top_k(self) -> int:
        """Experts a token goes to."""
        return part_of(self.steps[0]).queue.channels.count

    @property
    def table(self) -> Table:
        """Of all of them."""
        return part(self.firsts[0], Table)

    @property
    def activation(self) -> str:
        return self.table.function

    @property
    def macs(self) -> int:
        pair = self.steps[:len(self.form)]
        return self.src.tokens * self.top_k * sum(part(step, Stationary).weight.array.size for step in pair)

    def arguments(self) -> list[str]:
        return [self.src.code, self.dst.code, str(self.count), self.image, *activation(self.functions, self.table, self.factor(self.firsts[0]))]

    def about(self) -> str:
        return (f"{self.count} experts, {self.activation}, {self.src} -> {self.dst.channels} channels -> added to int16, "
                f"scale {self.steps[-1].sink.tensor.scale:.5g}")

    def cycles(self, lanes: int, queries: int) -> int:
        rows = -(-self.src.tokens * self.top_k // self.count)
        width, hidden = self.src.channels, self.dst.channels
        firsts = (len(self.form) - 1) * linear_cycles(rows, width, hidden, lanes)
        return self.count * (firsts + linear_cycles(rows, hidden, width, lanes, self.dst.wide))

    def weight_words(self, lanes: int) -> int:
        width, hidden = self.src.channels, self.dst.channels
        return self.count * ((len(self.form) - 1) * linear_words(width, hidden, lanes) + linear_words(hidden, width, lanes))

    @property
    def wide(self) -> tuple[bool, bool]:
        """What is between the layers, the source of the second."""
        return self.dst.wide, False

    def traced(self) -> tuple[str, int, int]:
        tensor = self.steps[-1].sink.tensor
        return WIDE.stored, tensor.tokens, tensor.channels


class GatedExperts(Experts):
    """The same of experts whose activations are multiplied by a second layer beside the first one. operand: room for what that gives."""

    asked, target = "experts", "MULTIPLIED"
    form = ((Gather, Stationary, Requant), (Gather, Stationary, Requant, Table, Multiply), (Plain, Stationary, Requant, Score, Add))
    makes = ("dst", "operand")

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        return super().find(steps) | {"operand": Value.of(steps[0].sink.tensor)}

    def factor(self, step: Step) -> Factor:
        return Factor(1, part(step, Multiply).shift)

    @property
    def code(self) -> str:
        return f"gated(hwgen::{super().code}, {self.operands['operand'].code})"

    def about(self) -> str:
        return super().about().replace(" experts,", " gated experts,")


def part_of(step: Step) -> Expert:
    """Whose tokens a step is done for. Raises ModelError when for all."""
    if step.expert is None:
        raise failure(step, "is done for no expert")
    return step.expert
