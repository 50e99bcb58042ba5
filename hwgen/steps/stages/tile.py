"""Stationary operands: what the array holds while tokens stream through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ... import numerics
from ...isa import Stat
from ..format import INT8, WEIGHTS, WIDE, Format
from ..param import Param
from ..tensor import Memory, View
from .base import Interval, Run

if TYPE_CHECKING:
    from ..step import Step

FULL = INT8.hi           # of the constants behind values


def largest(form: Format) -> int:
    """Magnitude of what streams: INT8, or attention weights less 128; of WIDE what its halves can add up to on the way, one after the other
    and with what the bias gives back."""
    return (1 << form.bits - 1) + (2 * numerics.LOW_OFFSET if form == WIDE else 0)


class Tile(ABC):
    """A stationary operand."""

    multiplies: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    """Whether a column of the result is a sum of channels."""
    by_columns: ClassVar[bool] = False
    """Whether each column of the result has parameters of its own, which come with the weights."""
    by_rows: ClassVar[bool] = False
    """Whether a token of ``stationary`` is a row; else it is a column."""
    hls: ClassVar[str] = ""
    """The function of hls/include/hwgen/step.hpp that does a product of plain words which leaves as it is; empty when none does."""

    @property
    def stationary(self) -> View | None:
        """What it holds, where that is a value of the network."""
        return None

    @abstractmethod
    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        """Accumulators of x, integers [..., tokens, K] -> [..., tokens, N]."""

    @abstractmethod
    def shape(self, step: Step) -> tuple[int, int]:
        """(K, N): channels that stream, columns of the result; of one head where there are several."""

    @abstractmethod
    def interval(self, step: Step) -> Interval:
        """Of the accumulators."""

    @abstractmethod
    def fields(self, step: Step) -> dict[str, int]:
        """Of the instruction, addresses left out."""

    def parameters(self, step: Step) -> Mapping[str, np.ndarray]:
        """Integers [N] of the columns that lie with the weights: bias; turn, whether the complement of a word is taken."""
        return {}

    def wrong(self, step: Step) -> str | None:
        """What keeps hardware from doing it, or None."""
        return None

    @property
    def brief(self) -> str:
        """For a line of a listing."""
        return str(self)


@dataclass(frozen=True, slots=True)
class Stationary(Tile):
    """``x @ weight + bias``. weight: integers [K, N] of ``format``; bias int32 [N]; scale: float [N], real value of one accumulator unit."""

    weight: Param
    bias: Param
    scale: Param
    format: Format = INT8

    by_columns: ClassVar[bool] = True
    hls: ClassVar[str] = "features"

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        product = largest(run.step.feed.format(run.step)) * INT8.hi
        result = numerics.matmul(x, run.weights.get(self.weight, numerics.exact(len(self.weight.array), product)), product)
        result += self.bias.array
        return result

    def parameters(self, step: Step) -> Mapping[str, np.ndarray]:
        """The bias for what the array sees: it gives back what the low half of a wide operand is less (`numerics.planes`)."""
        less = numerics.LOW_OFFSET if step.feed.format(step) == WIDE else 0
        return {"bias": np.asarray(self.bias.array + less * self.weight.array.sum(0, dtype=np.int64))}

    def shape(self, step: Step) -> tuple[int, int]:
        return self.weight.array.shape

    def interval(self, step: Step) -> Interval:
        columns = np.abs(self.weight.array.astype(np.int64)).sum(0) * largest(step.feed.format(step)) + np.abs(self.bias.array.astype(np.int64))
        bound = int(columns.max())
        return -bound, bound

    def fields(self, step: Step) -> dict[str, int]:
        return {"stat": Stat.WEIGHTS, "column_params": 1, "w4": int(self.format.bits < INT8.bits)}

    def wrong(self, step: Step) -> str | None:
        weight = self.weight.array
        if self.format not in WEIGHTS.values() or weight.ndim != 2 or weight.dtype != self.format.dtype or not self.format.holds(weight):
            return f"weight {self.weight.name} is not an integer of {self.format.bits} bits in [{self.format.lo}, {self.format.hi}]"
        for param, dtype in ((self.bias, np.int32), (self.scale, np.float64)):
            if param.array.shape != weight.shape[1:] or param.array.dtype != dtype:
                return f"{param.name} is {param.array.dtype} {param.array.shape}, expected {np.dtype(dtype)} {weight.shape[1:]}"
        if not np.isfinite(self.scale.array).all() or not (self.scale.array > 0).all():
            return f"scale {self.scale.name} is not positive"
        return None

    @property
    def brief(self) -> str:
        return f"weights {'' if self.format == INT8 else f'{self.format} '}{list(self.weight.array.shape)}"

    def __str__(self) -> str:
        return f"{self.weight.name} {self.format} {list(self.weight.array.shape)}"


@dataclass(frozen=True, slots=True)
class Keys(Tile):
    """``x @ view.T``: a key a column. limit: row t sees the first ``limit + t`` keys, and only they count for its maximum; 0: all."""

    view: View
    limit: int = 0

    @property
    def stationary(self) -> View:
        return self.view

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return numerics.matmul(x, run.read(self.view).swapaxes(-1, -2), largest(INT8) * INT8.hi)

    def shape(self, step: Step) -> tuple[int, int]:
        return self.view.channels.count // step.heads, self.view.tokens.count

    def interval(self, step: Step) -> Interval:
        bound = self.shape(step)[0] * largest(INT8) * INT8.hi
        return -bound, bound

    def fields(self, step: Step) -> dict[str, int]:
        return {"stat": Stat.K_COLUMNS, "stat_count": self.view.tokens.count, "limit": self.limit}

    def wrong(self, step: Step) -> str | None:
        if (found := step.feed.format(step)) != INT8:
            return f"queries are {INT8}, not {found}"
        if self.limit < 0:
            return f"the first row sees {self.limit} keys"
        return by_heads(self.view, step)

    def __str__(self) -> str:
        return f"keys({self.view}{limited(self.limit)})"


@dataclass(frozen=True, slots=True)
class Values(Tile):
    """``x @ view``: a token a row. ones: so many rows of constants behind them, one of 1 and the others of `FULL`, so that what streams can hold a
    bias for each of its rows (`with_bias`)."""

    view: View
    ones: int = 0

    by_rows: ClassVar[bool] = True

    @property
    def stationary(self) -> View:
        return self.view

    @property
    def behind(self) -> np.ndarray:
        """The constants, int64 [ones]."""
        return np.array([1, *[FULL] * (self.ones - 1)][:self.ones], np.int64)

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        rows = run.read(self.view)
        if self.ones:
            rows = np.concatenate([rows, np.broadcast_to(self.behind[:, None], (*rows.shape[:-2], self.ones, rows.shape[-1]))], axis=-2)
        return numerics.matmul(x, rows, largest(INT8) * INT8.hi)

    def shape(self, step: Step) -> tuple[int, int]:
        return self.view.tokens.count + self.ones, self.view.channels.count // step.heads

    def interval(self, step: Step) -> Interval:
        bound = (self.view.tokens.count + self.ones) * largest(INT8) * INT8.hi
        return -bound, bound

    def fields(self, step: Step) -> dict[str, int]:
        return {"stat": Stat.V_ROWS, "stat_count": self.view.tokens.count}

    def wrong(self, step: Step) -> str | None:
        divided = [stage.name for stage in step.drain][:2] == ["restore", "row_factor"]
        if divided != (step.feed.name == "exp2") or divided and len(step.drain) > 2:
            return "products of attention weights with values are restored and divided by the sum of their row, nothing else"
        if self.ones < 0 or self.ones and divided:
            return f"has {self.ones} rows of constants behind the values"
        if not divided and (found := step.feed.format(step)) != INT8:
            return f"what mixes tokens is {INT8}, not {found}"
        return by_heads(self.view, step)

    def __str__(self) -> str:
        return f"values({self.view}{f', {self.ones} of ones' if self.ones else ''})"


def with_bias(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, int]:
    """Integers [R, K] and a bias for each row, integers [R], as one matrix int8 [R, K + ones], and ``ones`` of `Values`: its first column
    behind is times 1, the others are times `FULL`."""
    if not bias.any():
        return weight.astype(INT8.dtype), 0
    high = np.rint(bias / FULL).astype(np.int64)
    count = -(-int(np.abs(high).max()) // FULL)
    parts = [bias - high * FULL]
    for _ in range(count):
        part = np.clip(high, -FULL, FULL)
        high, parts = high - part, [*parts, part]
    return np.column_stack([weight, *parts]).astype(INT8.dtype), 1 + count


@dataclass(frozen=True, slots=True)
class Identity(Tile):
    """Nothing is multiplied: the words of the feed go on as they are."""

    multiplies: ClassVar[bool] = False
    NOTHING: ClassVar[str] = "identity"

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return x

    def shape(self, step: Step) -> tuple[int, int]:
        channels = step.sink.channels.count
        return channels, channels

    def interval(self, step: Step) -> Interval:
        form = step.feed.format(step)
        return form.lo, form.hi

    def fields(self, step: Step) -> dict[str, int]:
        return {}

    @property
    def brief(self) -> str:
        return ""

    def __str__(self) -> str:
        return self.NOTHING


@dataclass(frozen=True, slots=True)
class Diagonal(Tile):
    """``sign * x + bias``, each channel by itself: the words of the feed go past the array. sign: int8 [N], 1 or -1; bias: int32 [N]."""

    sign: Param
    bias: Param

    mixes: ClassVar[bool] = False
    by_columns: ClassVar[bool] = True

    def evaluate(self, x: np.ndarray, run: Run) -> np.ndarray:
        return np.asarray(x * self.sign.array.astype(np.int64) + self.bias.array)

    def parameters(self, step: Step) -> Mapping[str, np.ndarray]:
        """A sign of -1 takes the complement of a word; the bias has the one that is missing."""
        turn = (self.sign.array < 0).astype(np.int64)
        return {"bias": self.bias.array + turn, "turn": turn}

    def as_matrix(self) -> Stationary:
        """The same as a product."""
        return Stationary(Param(f"{self.sign.name}.matrix", np.diag(self.sign.array)), self.bias,
                          Param(f"{self.sign.name}.scale", np.ones(len(self.sign.array))))

    def shape(self, step: Step) -> tuple[int, int]:
        return len(self.sign.array), len(self.sign.array)

    def interval(self, step: Step) -> Interval:
        bound = largest(step.feed.format(step)) + int(np.abs(self.bias.array.astype(np.int64)).max())
        return -bound, bound

    def fields(self, step: Step) -> dict[str, int]:
        return {"stat": Stat.BYPASS, "column_params": 1}

    def wrong(self, step: Step) -> str | None:
        sign, bias = self.sign.array, self.bias.array
        if sign.ndim != 1 or sign.dtype != np.int8 or not (np.abs(sign) == 1).all():
            return f"sign {self.sign.name} is not 1 or -1 for each channel"
        if bias.shape != sign.shape or bias.dtype != np.int32:
            return f"{self.bias.name} is {bias.dtype} {bias.shape}, expected int32 {sign.shape}"
        if step.source_view is None or step.source.tensor.memory is not Memory.RES or step.expert is not None or step.heads != 1:
            return "only words of the residual stream go past the array"
        if step.source.tensor == step.sink.tensor:
            return f"changes {step.sink} while it is read"
        if not step.picks and not np.array_equal(step.sink.positions - step.sink.position, np.arange(len(sign))):
            return f"its channels lie apart in {step.sink}"
        return None

    @property
    def brief(self) -> str:
        return "each channel"

    def __str__(self) -> str:
        return f"diagonal({self.sign.name}, {self.bias.name})"


def seen(limit: int, rows: int, keys: int) -> np.ndarray:
    """bool [rows, keys]: which keys each row sees, see `Keys`."""
    return np.tri(rows, keys, limit - 1, dtype=bool) if limit else np.ones((rows, keys), bool)


def limited(limit: int) -> str:
    """For people, behind what is limited."""
    return f", {limit}+row" if limit else ""


def pairs(limit: int, rows: int, keys: int) -> int:
    """Keys that all rows see."""
    return int(np.minimum(limit + np.arange(rows), keys).sum()) if limit else rows * keys


def by_heads(view: View, step: Step) -> str | None:
    """What keeps a tensor from being a stationary operand for each head, or None."""
    if view.tensor.format != INT8:
        return f"{view} is {view.tensor.format}, a stationary operand is {INT8}"
    return f"{view.channels.count} channels are no {step.heads} heads" if view.channels.count % step.heads else None
