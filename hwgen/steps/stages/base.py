"""What a feed and a stage are. Each is one file in this folder and one frozen record; the lists in `__init__` name them all.

A record tells everything about itself: its integers (numpy), the interval of its results for the proof of `verify`, the instruction
fields that ask the RTL engine for it, and what the HLS engine calls it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..format import Format
from ..param import Param
from ..tensor import View

if TYPE_CHECKING:
    from ..step import Step

Interval = tuple[int, int]


@dataclass
class Queue:
    """The tokens of a router: experts int64 [B, T, k] (-1: not routed), best first, and their shares."""

    experts: np.ndarray
    shares: np.ndarray


@dataclass
class Floats:
    """Weights as floats, for the products of several chunks of images. room: elements that are kept; the others are converted each time."""

    room: int = 0
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    def get(self, param: Param, kind: type[np.floating]) -> np.ndarray:
        if param.name in self.kept:
            return self.kept[param.name]
        array = param.array.astype(kind)
        if array.size <= self.room:
            self.kept[param.name] = array
            self.room -= array.size
        return array


@dataclass
class Run:
    """One step under evaluation, for a batch of images.

    values: {tensor: int64 [B, tokens, channels]}; a tensor an expert writes holds the rows of its queue, [rows, channels]. inputs: the
    words of the host, [B, T, K]. rows: (images, tokens) of an expert's queue, and shares: what the router gave it for each of them.
    seen: what the array saw. row_sum: of attention weights. inner: what the step computes on the way, by name.
    """

    step: Step
    values: dict[str, np.ndarray]
    queues: dict[str, Queue]
    inputs: np.ndarray
    rows: tuple[np.ndarray, np.ndarray] | None = None
    shares: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    row_sum: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    inner: dict[str, np.ndarray] = field(default_factory=dict)
    weights: Floats = field(default_factory=Floats)

    def read(self, view: View) -> np.ndarray:
        """[B, T, C] of a view, or [B, heads, T, C / heads] where the step works head by head; [rows, C] for an expert's tensor."""
        array = self.values[view.name]
        if array.ndim == 2:
            return array
        part = array if view.whole else array[:, view.tokens.slice, view.channels.slice]
        heads = self.step.heads
        if heads == 1:
            return part
        batch, tokens, channels = part.shape
        return part.reshape(batch, tokens, heads, channels // heads).transpose(0, 2, 1, 3)


class Record(ABC):
    """What feeds and stages have in common."""

    name: ClassVar[str]
    """In the text form."""

    @abstractmethod
    def fields(self, step: Step) -> dict[str, int]:
        """Of the instruction, addresses left out."""

    def wrong(self, step: Step) -> str | None:
        """What keeps hardware from doing it, or None."""
        return None

    @property
    def brief(self) -> str:
        """For a line of a listing: without what calibration chose."""
        return self.name

    def __str__(self) -> str:
        return self.name


class Feed(Record):
    """How words enter the array."""

    brings: ClassVar[bool] = False
    """The words come from outside: nothing is streamed and nothing multiplied."""
    gathers: ClassVar[bool] = False
    """It picks the tokens of an expert's queue."""
    from_host: ClassVar[bool] = False
    """Whether the words come with each frame."""

    @property
    def constant(self) -> np.ndarray | None:
        """The words, where they are in the weight image."""
        return None

    @abstractmethod
    def evaluate(self, run: Run) -> np.ndarray:
        """What the array sees: integers [..., tokens, channels]."""

    @abstractmethod
    def format(self, step: Step) -> Format:
        """Of what the array sees. Raises ValueError when the stream is not what this feed takes."""

    @property
    @abstractmethod
    def hls(self) -> str:
        """The function of hls/include/hwgen/step.hpp that does a step with this feed; empty when the drain says it."""


class Stage(Record):
    """What happens to a result on its way from the accumulators to where it is stored."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Integers [N] of the columns that lie with the weights, by the names `image.product` has for them."""
        return {}

    @property
    def table(self) -> str | None:
        """The function that is looked up."""
        return None

    @property
    def operand(self) -> View | None:
        """The value whose words go along with the result, from the operand memory."""
        return None

    @abstractmethod
    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        """Integers [..., tokens, channels] -> the same, or as the class says."""

    def shape(self, tokens: int, channels: int) -> tuple[int, int]:
        """Of the result for an argument of this shape."""
        return tokens, channels

    @abstractmethod
    def format(self, before: Format, step: Step) -> Format:
        """Of the result. Raises ValueError when it cannot follow something of the format ``before``."""

    @abstractmethod
    def interval(self, x: Interval, step: Step) -> Interval:
        """Of the results for arguments in the interval ``x``."""

    @property
    @abstractmethod
    def hls(self) -> str:
        """The function of hls/include/hwgen/step.hpp that does a product which ends in this stage; empty when none does."""


def need(found: Format, wanted: Format | tuple[Format, ...], what: str) -> None:
    """Raises ValueError unless the format is the one that is wanted, or one of them."""
    formats = wanted if isinstance(wanted, tuple) else (wanted,)
    if found not in formats:
        raise ValueError(f"{what} takes {' or '.join(map(str, formats))}, not {found}")
