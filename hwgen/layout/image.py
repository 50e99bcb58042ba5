"""The weight image, in the order of use, and the layout of a frame's input. Both engines read streams of vectors.

    product    for each output tile: column parameters (8 bytes a column: bias int32, multiplier uint16, shift in 6 bits, code of the
               multiplier behind an activation in 10; little endian, padded to whole vectors), then for each reduction tile ``to`` columns
               of ``ti`` weights; narrow weights two in a byte, low nibble first. The bias of a
               16-bit operand gives back what its low half is less (`numerics.planes`). Of words that go past the array only the
               parameters, for each tile those of as many columns as lie in one word. With several taps (`Taken`) each begins with a tile
    constant   int8 or int16 [T, D]: for each output tile and token ``to`` values, in one vector or two
    input      int8 [T, K], the frame's input: for each output tile and token one vector of ``to`` values; int16 [T, K]: as a constant
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from ..steps.format import INT8
from ..steps.param import UNIT
from ..steps.step import Step

SECOND = 6          # the code of the second multiplier lies above the bits of the shift
TURN = 15           # of words that go past the array: whether the complement is taken


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the array: ``ti`` lanes stream, ``to`` columns are held, a vector of the stream has ``vector`` bytes."""

    ti: int
    to: int
    vector: int


def product(step: Step, shape: Shape, *, pack: bool = True) -> bytes:
    """Stream of a step with stationary weights. pack: narrow weights two in a byte."""
    tile = step.weights
    if tile is None:
        return _heads(step, shape, math.gcd(shape.ti, shape.to)).tobytes()
    rows, (columns, width) = step.source.positions - step.source.position // shape.ti * shape.ti, columns_of(step)
    if step.taken is not None:                          # each tap begins with a tile
        rows = np.concatenate([rows + tap * (-(-(int(rows.max()) + 1) // shape.ti)) * shape.ti for tap in range(step.taken.taps)])
    k_tiles, n_tiles = -(-(int(rows.max()) + 1) // shape.ti), -(-width // shape.to)
    padded = np.zeros((k_tiles * shape.ti, n_tiles * shape.to), INT8.dtype)
    padded[np.ix_(rows, columns)] = tile.weight.array
    tiles = padded.reshape(k_tiles, shape.ti, n_tiles, shape.to).transpose(2, 0, 3, 1).reshape(n_tiles, -1)
    if pack and tile.format.bits < INT8.bits:
        mask = (1 << tile.format.bits) - 1
        tiles = (tiles[:, 0::2] & mask | (tiles[:, 1::2] & mask) << tile.format.bits).astype(INT8.dtype)
    return np.concatenate([_heads(step, shape, shape.to), tiles.view(np.uint8)], axis=1).tobytes()


def _heads(step: Step, shape: Shape, lanes: int) -> np.ndarray:
    """The column parameters, uint8 [output tiles of ``lanes`` columns, bytes of whole vectors]."""
    columns, width = columns_of(step)
    entries = np.zeros((-(-width // lanes), shape.to), np.dtype([("bias", "<i4"), ("mult", "<u2"), ("shift", "<u2")]))
    params = _params(step)
    shift = params["shift"] | params["second"] << SECOND | params["turn"] << TURN
    for field, values in (("bias", params["bias"]), ("mult", params["mult"]), ("shift", shift)):
        entries[field][columns // lanes, columns % lanes] = values
    size = entries.itemsize * shape.to
    head = np.zeros((len(entries), -(-size // shape.vector) * shape.vector), np.uint8)
    head[:, :size] = entries.view(np.uint8).reshape(len(entries), -1)
    return head


def columns_of(step: Step) -> tuple[np.ndarray, int]:
    """(lane of each output channel from the first one on, lanes in all) of a step's result: with the padding between heads where the weights have
    columns for it. A router's result is not stored, nor are scores of tokens."""
    if step.routes or step.picks:
        return np.arange(step.columns), step.columns
    return step.sink.positions - step.sink.position, step.sink.width if step.tile.by_columns else step.sink.channels.count


def _params(step: Step) -> dict[str, np.ndarray | np.integer]:
    """What stages have for the columns; times one where the accumulators leave as they are."""
    rest = {"mult": UNIT.mult, "shift": UNIT.shift, "second": 0, "turn": 0}
    found: dict[str, np.ndarray | np.integer] = {name: np.int64(value) for name, value in rest.items()}
    found |= step.tile.parameters(step)
    for stage in step.drain:
        found |= stage.columns
    return found


def constant(table: np.ndarray, shape: Shape) -> bytes:
    """Stream of an int8 or int16 [T, D] constant."""
    return frames(table[None], shape).tobytes()


def frames(words: np.ndarray, shape: Shape) -> np.ndarray:
    """int8 or int16 [B, T, K] -> uint8 [B, bytes]: each frame's input as the stream wants it."""
    batch, tokens, channels = words.shape
    n_tiles, size = -(-channels // shape.to), words.dtype.itemsize * shape.to
    padded = np.zeros((batch, tokens, n_tiles * shape.to), words.dtype.newbyteorder("<"))
    padded[..., :channels] = words
    rows = padded.reshape(batch, tokens, n_tiles, shape.to).transpose(0, 2, 1, 3)
    out = np.zeros((batch, n_tiles, tokens, word_bytes(words.dtype.itemsize, shape)), np.uint8)
    out[..., :size] = np.ascontiguousarray(rows).view(np.uint8)
    return out.reshape(batch, -1)


def word_bytes(size: int, shape: Shape) -> int:
    """Of the stream, for a word of ``to`` elements of so many bytes: whole vectors."""
    return -(-size * shape.to // shape.vector) * shape.vector
