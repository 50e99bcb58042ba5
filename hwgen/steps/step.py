"""Steps: the integer network, word for word. A step is one pass of the array: an instruction before it has addresses.

A step streams a tensor through a feed, multiplies it with a stationary tile, drains it through stages and stores it. Attention, experts
and the residual stream exist only where operators are lowered to steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from ..foreign import REPR, visible
from .param import Param
from .stages import Feed, Stage, Stationary, Tile
from .stages.host import Host
from .taken import Kept, Taken
from .tensor import Memory, Plane, Tensor, View


class Keep(StrEnum):
    """Statistics the drain keeps of what it stores, for the feed of a later step."""

    MOMENTS = "moments"      # sum and sum of squares of each token: Normalize
    ROW_MAX = "row_max"      # largest word of each row: Exp2


@dataclass(frozen=True, slots=True)
class Expert:
    """Whose tokens a step is done for: expert ``index`` of the ``of`` that the router with this queue chooses from."""

    index: int
    of: int
    queue: View

    @property
    def expected(self) -> int:
        """Tokens in the expert's queue, if all experts got as many."""
        return -(-self.routed // self.of)

    @property
    def routed(self) -> int:
        """Tokens in the queues of all experts."""
        return self.queue.tokens.count * self.queue.tensor.channels

    def __str__(self) -> str:
        return f"{self.index} of {self.queue}"


@dataclass(frozen=True, eq=False)
class Step:
    """One pass of the array. Equal are steps of equal name.

    value     the value of the network that is computed, or that this step helps to compute
    part      which part of it: "" for the step that is the whole of it
    node      the ONNX node it came from
    source    what is streamed; None where the feed brings it
    drain     stages, in order
    sinks     where the result goes; a router also keeps the words it has seen (the second)
    heads     the step is done for each head on its own channels
    expert    the step is done for the tokens of this expert
    half      of the row-maximum memory (`Keep.ROW_MAX`)
    plane     the half of its 16-bit words that is stored; None: all of them
    taken     which tokens of the source it streams; None: all of them, in order
    macs      useful multiply-accumulates, padding and unused tokens not counted
    about     for people: what the part is
    """

    value: str
    node: str
    feed: Feed
    tile: Tile
    sinks: tuple[View, ...]
    source_view: View | None = None
    drain: tuple[Stage, ...] = ()
    keeps: tuple[Keep, ...] = ()
    part: str = ""
    heads: int = 1
    expert: Expert | None = None
    half: int = 0
    plane: Plane | None = None
    taken: Taken | Kept | None = None
    macs: int = 0
    about: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and (other.value, other.part) == (self.value, self.part)

    def __hash__(self) -> int:
        return hash((self.value, self.part))

    @property
    def name(self) -> str:
        """Unique in its network."""
        return f"{self.value}.{self.part}" if self.part else self.value

    @property
    def source(self) -> View:
        """What is streamed. Raises ValueError where the feed brings it."""
        if self.source_view is None:
            raise ValueError(f"step {self.name!r} streams no tensor")
        return self.source_view

    @property
    def sink(self) -> View:
        """Where the result goes."""
        return self.sinks[0]

    @property
    def tokens(self) -> int:
        """Tokens that are streamed; of an expert, as many as its queue can hold."""
        if self.expert is not None:
            return self.expert.queue.tokens.count
        if self.taken is not None:
            return self.taken.tokens
        return self.sink.tokens.count if self.source_view is None else self.source_view.tokens.count

    @property
    def rows(self) -> int:
        """Tokens that are expected to be streamed."""
        return self.tokens if self.expert is None else self.expert.expected

    @property
    def columns(self) -> int:
        """Columns of the stationary operand."""
        return self.tile.shape(self)[1]

    @property
    def routes(self) -> bool:
        """Whether the result is the queues of experts."""
        return self.sink.tensor.memory is Memory.ROUTER and not self.feed.brings

    @property
    def picks(self) -> bool:
        """Whether the result is a list of tokens."""
        return self.sink.tensor.memory is Memory.LIST and not self.feed.brings

    @property
    def weights(self) -> Stationary | None:
        """The tile, where it comes with the weight image."""
        return self.tile if isinstance(self.tile, Stationary) else None

    @property
    def note(self) -> str:
        """For people: the ONNX node, and the part of its work."""
        return f"{self.node}: {self.about}" if self.node and self.about else self.node or self.about

    def __repr__(self) -> str:
        return visible(f"<Step {self.name}>", limit=REPR)


@dataclass(frozen=True, slots=True)
class Output:
    """A network output: ``tensor`` int32; the host multiplies by ``scale`` (float [channels]) over ``tokens``, how many each of its words
    is the sum of. shape: in the ONNX file, the batch included. order: which of the words, flat [tokens * channels], its elements are, where
    they are not in order (keys of attention by heads)."""

    name: str
    tensor: Tensor
    scale: Param
    tokens: int
    shape: tuple[int, ...]
    order: Param | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """The integer network of one task. ``steps`` run in order; the first ones bring the input and the constants."""

    name: str
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]

    def __repr__(self) -> str:
        return visible(f"<Network {self.name}: {len(self.steps)} steps, outputs {', '.join(o.name for o in self.outputs)}>", limit=REPR)

    @cached_property
    def input(self) -> tuple[Host, Tensor]:
        """What the host sends, and the tensor it becomes. Raises ValueError when there is not exactly one."""
        found = [(step.feed, step.sink.tensor) for step in self.steps if isinstance(step.feed, Host)]
        if len(found) != 1:
            raise ValueError(f"network {self.name!r} has {len(found)} inputs")
        return found[0]

    @property
    def residual_scale(self) -> float:
        """Of the residual stream, real value of one unit."""
        return next((t.scale for t in self.tensors() if t.memory is Memory.RES), 0.0)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor once, in the order in which they are written."""
        return iter(dict.fromkeys(sink.tensor for step in self.steps for sink in step.sinks))

    @property
    def useful_macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(step.macs for step in self.steps)

    def last(self) -> dict[str, int]:
        """{value: index of the step that completes it}."""
        return {step.value: index for index, step in enumerate(self.steps)}


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model: a `Network` for each task. Params are shared between tasks by name. calibration: "data" or "random"."""

    tasks: tuple[Network, ...]
    calibration: str = field(default="data")

    def __repr__(self) -> str:
        return visible(f"<Quantized: {len(self.tasks)} tasks, calibration {self.calibration}, first {self.tasks[0]!r}>", limit=REPR)
