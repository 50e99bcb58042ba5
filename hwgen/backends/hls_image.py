"""Layout of the HLS engine's memory words, of ``lanes`` bytes each: weights, the residual stream's start, a frame's input.

    matrix     for each output tile: 8 words of column parameters (8 bytes a column: bias int32, multiplier uint16, shift uint16;
               little endian), then for each reduction tile ``lanes`` words, a column of ``lanes`` weights each
    constant   int16 [T, D]: for each tile of channels and token two words
    input      int8 [T, K]: for each tile of channels and token one word
"""

from __future__ import annotations

import numpy as np

from ..qir import Weights


def _padded(x: np.ndarray, lanes: int, *axes: int) -> np.ndarray:
    return np.pad(x, [(0, -size % lanes if axis in axes else 0) for axis, size in enumerate(x.shape)])


def matrix(w: Weights, lanes: int) -> bytes:
    """Words of one linear map."""
    weight = _padded(w.weight, lanes, 0, 1)
    k, n = weight.shape
    tiles = weight.reshape(k // lanes, lanes, n // lanes, lanes).transpose(2, 0, 3, 1).reshape(n // lanes, -1)
    columns = np.zeros(n, np.dtype([("bias", "<i4"), ("mult", "<u2"), ("shift", "<u2")]))
    for field in ("bias", "mult", "shift"):
        columns[field][:w.weight.shape[1]] = getattr(w, field)
    return np.concatenate([columns.view(np.uint8).reshape(n // lanes, -1), tiles.view(np.uint8)], axis=1).tobytes()


def constant(table: np.ndarray, lanes: int) -> bytes:
    """Words of an int16 [T, D] constant."""
    padded = _padded(table.astype("<i2"), lanes, 1)
    return padded.reshape(len(table), -1, lanes).transpose(1, 0, 2).tobytes()


def frames(patches: np.ndarray, lanes: int) -> np.ndarray:
    """int8 [B, T, K] -> uint8 [B, bytes]."""
    padded = _padded(patches, lanes, 2)
    words = padded.reshape(*patches.shape[:2], -1, lanes).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(words).view(np.uint8).reshape(len(patches), -1)
