"""Tensors and views: where a step reads and writes. They have names, sizes and formats, and no address yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from .format import Format
from .param import Param


class Memory(StrEnum):
    """What kind of storage a tensor needs. Engines map it to memories of theirs."""

    ACT = "act"          # int8 activations; int16 ones as two planes of 8 bits
    KV = "kv"            # int8 keys and values, read as stationary tiles
    SCORE = "score"      # int16 scores with a maximum a row
    RES = "res"          # int16 residual stream with moments a token
    OPERAND = "operand"  # int16 words that go along with a result in the drain
    LIST = "list"        # numbers of tokens, for steps that take them by a list
    ROUTER = "router"    # the queues of the experts
    OUT = "out"          # int32 words that leave


class Plane(StrEnum):
    """A half of 16-bit words, see `numerics.planes`."""

    HIGH = "high"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class HeadMap:
    """Where channel ``h * dim + c`` lies when every head starts at a multiple of ``group`` lanes."""

    heads: int
    dim: int
    group: int

    @property
    def pitch(self) -> int:
        """Lanes of a head, padding included."""
        return -(-self.dim // self.group) * self.group

    @property
    def positions(self) -> np.ndarray:
        """Lane of each channel."""
        h, c = np.divmod(np.arange(self.heads * self.dim), self.dim)
        return h * self.pitch + c


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """``tokens`` x ``channels`` words. Steps may write a tensor in parts and again (the residual stream), in their order.

    scale: real value of one unit, 0.0 where the format's binary point says it; with ``ratio``, float64 [channels], times that of the channel.
    heads: padding between heads, if any. sequence: its tokens are those of the host's sequence, of which a run may have fewer. Equal are tensors
    of equal name.
    """

    name: str
    format: Format
    tokens: int
    channels: int
    scale: float = 0.0
    memory: Memory = Memory.ACT
    heads: HeadMap | None = None
    ratio: Param | None = None
    sequence: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensor) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def width(self) -> int:
        """Lanes a token takes: its channels and the padding between heads."""
        return self.heads.heads * self.heads.pitch if self.heads else self.channels

    @property
    def units(self) -> np.ndarray:
        """Real value of one unit: of each channel, or of all of them in an array of one."""
        return np.array([self.scale]) if self.ratio is None else self.scale * self.ratio.array

    @property
    def positions(self) -> np.ndarray:
        """Lane of each channel."""
        return self.heads.positions if self.heads else np.arange(self.channels)

    def view(self, tokens: Span | None = None, channels: Span | None = None) -> View:
        """A part of the tensor, or all of it."""
        return View(self, tokens or Span(0, self.tokens), channels or Span(0, self.channels))

    def __str__(self) -> str:
        return f"{self.name} {self.format} [{'1..' * self.sequence}{self.tokens}, {self.channels}]"


@dataclass(frozen=True, slots=True)
class Span:
    """``count`` indices from ``start`` on, ``step`` apart."""

    start: int
    count: int
    step: int = 1

    @property
    def stop(self) -> int:
        """One beyond the last index."""
        return self.start + (self.count - 1) * self.step + 1

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop, self.step)

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}" + (f":{self.step}" if self.step != 1 else "")


@dataclass(frozen=True, slots=True)
class View:
    """Some tokens and channels of a tensor; the channels need not start at a multiple of any lanes."""

    tensor: Tensor
    tokens: Span
    channels: Span

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def whole(self) -> bool:
        """All of the tensor, in order."""
        return self.all_channels and self.tokens == Span(0, self.tensor.tokens)

    @property
    def all_channels(self) -> bool:
        return self.channels == Span(0, self.tensor.channels)

    @property
    def position(self) -> int:
        """Lane of the first channel."""
        heads = self.tensor.heads
        return self.channels.start if heads is None else int(heads.positions[self.channels.start])

    @property
    def positions(self) -> np.ndarray:
        """Lane of each channel."""
        return self.tensor.positions[self.channels.slice]

    @property
    def width(self) -> int:
        """Lanes from the first channel on; the padding of heads counts when all channels are meant."""
        return self.tensor.width if self.all_channels else self.channels.count

    def of(self, tensor: Tensor) -> View:
        """The same part of another tensor."""
        return replace(self, tensor=tensor)

    def __str__(self) -> str:
        tokens = "" if self.tokens == Span(0, self.tensor.tokens) else f"{self.tokens}"
        channels = "" if self.all_channels else f", {self.channels}"
        return self.name + (f"[{tokens or ':'}{channels}]" if tokens or channels else "")
