"""The weight image, in the order of use, and the layout of a frame's input and output.

The stream is a sequence of vectors of ``ti * load_columns`` bytes:

    MATMUL with weights   for each output tile: column parameters (8 bytes a column: bias int32, multiplier uint16, shift
                          uint16; little endian, padded to whole vectors), then for each reduction tile ``to`` columns of ``ti`` weights;
                          4-bit weights two in a byte, low nibble first
    STREAM of int16       for each output tile and token: ``to`` values, in one vector or two
    STREAM of int8        the frame's input: for each output tile and token one vector, ``to`` values
"""

from __future__ import annotations

import numpy as np

from .steps import Operand


def matmul_vectors(operand: Operand, channels: int, ti: int, to: int, vector_bytes: int | None = None) -> bytes:
    """Stream of one matmul; ``channels`` = columns with padding inside heads (at least the largest position + 1)."""
    w, vector = operand.weights, vector_bytes or ti
    k_tiles, n_tiles = -(-(int(operand.rows.max()) + 1) // ti), -(-channels // to)
    padded = np.zeros((k_tiles * ti, n_tiles * to), np.int8)
    padded[np.ix_(operand.rows, operand.columns)] = w.weight
    tiles = padded.reshape(k_tiles, ti, n_tiles, to).transpose(2, 0, 3, 1).reshape(n_tiles, -1)
    if w.bits == 4:
        low, high = tiles[:, 0::2] & 15, tiles[:, 1::2] & 15
        tiles = (low | high << 4).astype(np.int8)
    params = np.zeros(n_tiles * to, np.uint64)
    params[operand.columns] = (w.bias.astype(np.int64) & 0xFFFFFFFF).astype(np.uint64) | (w.mult.astype(np.uint64) << np.uint64(32)) \
        | (w.shift.astype(np.uint64) << np.uint64(48))
    head = np.zeros((n_tiles, -(-8 * to // vector) * vector), np.uint8)
    head[:, :8 * to] = params.astype("<u8").view(np.uint8).reshape(n_tiles, -1)
    return np.concatenate([head, tiles.view(np.uint8)], axis=1).tobytes()


def constant_vectors(table: np.ndarray, vector_bytes: int, to: int) -> bytes:
    """Stream of an int16 [T, D] constant."""
    tokens, dim = table.shape
    n_tiles = -(-dim // to)
    padded = np.zeros((tokens, n_tiles * to), "<i2")
    padded[:, :dim] = table
    rows = padded.reshape(tokens, n_tiles, to).transpose(1, 0, 2)
    out = np.zeros((n_tiles, tokens, vector_bytes if 2 * to <= vector_bytes else 2 * vector_bytes), np.uint8)
    out[..., :2 * to] = np.ascontiguousarray(rows).view(np.uint8)
    return out.tobytes()


def input_vectors(patches: np.ndarray, vector_bytes: int, to: int) -> np.ndarray:
    """int8 [B, T, K] -> uint8 [B, bytes]: each frame's input as the stream wants it."""
    frames, tokens, channels = patches.shape
    n_tiles = -(-channels // to)
    padded = np.zeros((frames, tokens, n_tiles * to), np.int8)
    padded[..., :channels] = patches
    out = np.zeros((frames, n_tiles, tokens, vector_bytes), np.int8)
    out[..., :to] = padded.reshape(frames, tokens, n_tiles, to).transpose(0, 2, 1, 3)
    return out.view(np.uint8).reshape(frames, -1)
