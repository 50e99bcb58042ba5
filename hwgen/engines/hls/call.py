"""A row of the step table: a call of one of the functions in hls/include/hwgen/step.hpp that make steps. What all kinds have in common.

The kinds themselves, one class a function, are in `start`, `products`, `attention` and `experts`; `calls` finds them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from itertools import cycle
from typing import ClassVar, TypeVar

from ...layout.image import Shape, product
from ...steps.format import INT8
from ...steps.passes.lengths import last_token
from ...steps.step import Step
from ...steps.tensor import Memory, View
from ...steps.verify import failure
from ...steps.walk import params, views
from .value import Value

ALL_TASKS = -1
DEPTH = 20                    # cycles to fill a pipelined loop
T = TypeVar("T")


class Follow(IntFlag):
    """What of a call is as long as the sequence, as in sequence.hpp: rows of the source, those that stream, rows of the result; or its last row."""

    TOKENS = 1
    ROWS = 2
    TARGET = 4
    LAST = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Call(ABC):
    """Some steps of the integer network (of the first task that has them) as one call.

    operands: values by the name of the field of hwgen::Step they go to; identity: equal for calls of two tasks that compute the same from
    the same places; weights: their first word in the image; place: first word in the output; streams: first word of each residual stream, by
    the name of its tensor; functions: the activations the engine has
    tables for; names: for each task the value the call completes ("" when it does not run).
    """

    function: ClassVar[str]
    """In step.hpp; what the feed or the last stage of a step says under ``hls``."""
    asked: ClassVar[str] = ""
    """What the feed says where several functions do it, by the rest of the step; the function itself where that is empty."""
    kind: ClassVar[str]
    target: ClassVar[str] = "ACT"
    form: ClassVar[tuple[tuple[type, ...], ...]]
    """Feed, stationary operand and stages of each step the function does."""
    memory: ClassVar[Memory] = Memory.ACT
    """Of the result."""
    makes: ClassVar[tuple[str, ...]] = ("dst",)
    """Operands that come to be by it."""

    steps: tuple[Step, ...]
    operands: dict[str, Value]
    identity: Hashable
    task: int = ALL_TASKS
    weights: int = 0
    place: int = 0
    streams: Mapping[str, int] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def fits(cls, steps: tuple[Step, ...]) -> bool:
        """Whether the steps are made as the function's are."""
        return all(does(step, form) for step, form in zip(steps, cycle(cls.form), strict=False))

    @classmethod
    def of(cls, steps: tuple[Step, ...], identity: Hashable) -> Call:
        """The call that does these steps. Raises ModelError when the function does something else."""
        if not cls.fits(steps):
            raise failure(next((step for step, form in zip(steps, cycle(cls.form), strict=False) if not does(step, form)), steps[0]),
                          "the HLS engine has no step for it")
        if len(steps) % len(cls.form) or steps[-1].sink.tensor.memory is not cls.memory:
            raise failure(steps[-1], "the HLS engine has no step for it")
        call = cls(steps=steps, operands=cls.find(steps), identity=identity)
        call.check()
        return call

    @classmethod
    def find(cls, steps: tuple[Step, ...]) -> dict[str, Value]:
        """The operands: what is streamed and what is stored, where it lies in the memory of activations or of operands."""
        stored = [step.sink.tensor for step in steps if step.sink.tensor.memory in (Memory.ACT, Memory.OPERAND)]
        streamed = [view.tensor for view in (steps[0].source_view,) if view is not None and view.tensor.memory is Memory.ACT]
        return {role: Value.of(found[0]) for role, found in (("dst", stored), ("src", streamed)) if found}

    def check(self) -> None:
        """Raises ModelError, with the step printed, when the function computes something else."""
        for step in self.steps:
            for stage in step.drain:
                if wrong := stage.wrong(step):
                    raise failure(step, wrong)
            for view in (view for some in views(step) for view in some):
                if not self.has(view):
                    raise failure(step, f"the HLS engine has no step for it: {view} is a part of a value")

    def has(self, view: View) -> bool:
        """Whether the function reads, or writes, such a part of a value."""
        return view.whole or view in self.rows and view.all_channels and view.tokens.step == 1

    @property
    def rows(self) -> tuple[View, ...]:
        """Views that may be some rows of a tensor; the others are whole."""
        return ()

    @property
    def value(self) -> str:
        """Of the integer network: what it completes."""
        return self.steps[-1].value

    @property
    def dst(self) -> Value:
        return self.operands["dst"]

    @property
    def src(self) -> Value:
        return self.operands["src"]

    @property
    def activation(self) -> str:
        """Function of one variable it applies, as `knots` knows it; empty when none."""
        return ""

    @property
    def shape(self) -> Hashable:
        """Equal for calls of two tasks that can use the same places."""
        return self.kind, self.memory, tuple((role, *value.shape, value.wide) for role, value in sorted(self.operands.items()))

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates."""
        return sum(step.macs for step in self.steps)

    @property
    def params(self) -> tuple[str, ...]:
        """Names of what the weight image holds for it."""
        return tuple(param.name for step in self.steps for param in params((step.taken, step.feed, step.tile, step.drain)))

    def data(self, shape: Shape) -> bytes:
        """What the weight image holds for it; 4-bit weights take a byte each."""
        return b"".join(product(step, shape, pack=False) for step in self.steps if step.tile.by_columns)

    @property
    def code(self) -> str:
        """In C++."""
        code = f"{self.function}({', '.join(self.arguments())})"
        flags = ", ".join(str(flag).lower() for flag in self.wide)
        for function, more, given in (("wide", flags, any(self.wide)), ("rms", "", self.rms), ("fresh", "", self.fresh),
                                      ("from", str(self.read), self.read), ("into", str(self.written), self.written)):
            if given:
                code = f"{function}(hwgen::{code}{', ' if more else ''}{more})"
        return code

    @property
    def rms(self) -> bool:
        """Whether it is a norm that takes no mean off."""
        return False

    @property
    def fresh(self) -> bool:
        """Whether a residual stream starts with its result, where it could be added to one."""
        return False

    @property
    def read(self) -> int:
        """First word of the residual stream it reads."""
        view = self.steps[0].source_view
        return 0 if view is None else self.streams.get(view.name, 0)

    @property
    def written(self) -> int:
        """First word of the residual stream it writes."""
        return self.streams.get(self.steps[-1].sink.name, 0)

    @property
    def wide(self) -> tuple[bool, bool]:
        """Whether source and result have 16 bits."""
        return ("src" in self.operands and self.src.wide), ("dst" in self.operands and self.dst.wide)

    @property
    def follows(self) -> int:
        """What is shorter in a shorter sequence: of `Follow`, added up."""
        found = Follow(0)
        source, sink = self.steps[0].source_view, self.steps[0].sink
        if sink.tensor.sequence:
            found |= Follow.TARGET
        if source is None or source.tensor.memory is Memory.RES:
            return found | Follow.TOKENS if sink.tensor.sequence else found
        if source.tensor.sequence:
            found |= Follow.TOKENS | (Follow.LAST if last_token(source) else Follow.ROWS if source.tokens.count > 1 else Follow(0))
        return found

    @property
    def comment(self) -> str:
        """The node's name, shapes and scale."""
        return f"{self.steps[-1].node}: {self.about()}"

    @property
    def image(self) -> str:
        """Where the weights start, in C++."""
        return f"hwgen::Weights{{{self.weights}}}"

    @abstractmethod
    def arguments(self) -> list[str]:
        """Of the function, in C++."""

    @abstractmethod
    def about(self) -> str:
        """For people: shapes and scale."""

    @abstractmethod
    def cycles(self, lanes: int, queries: int) -> int:
        """The weights being there in time."""

    def weight_words(self, lanes: int) -> int:
        """Words of the weight stream, as the function of this name in engine.hpp."""
        return 0

    def traced(self) -> tuple[str, int, int]:
        """(element type, tokens, channels) of what the C simulation writes into a trace after it; of a wide result the low halves follow."""
        return INT8.stored, *self.dst.shape


def does(step: Step, form: tuple[type, ...]) -> bool:
    """Whether a step is made of these."""
    return tuple(map(type, (step.feed, step.tile, *step.drain))) == form


def part(step: Step, kind: type[T]) -> T:
    """The feed, stationary operand or stage of this kind. Raises ModelError when the step has none."""
    for record in (step.feed, step.tile, *step.drain):
        if isinstance(record, kind):
            return record
    raise failure(step, f"has no {kind.__name__}")
