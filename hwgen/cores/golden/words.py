"""Arrays as the words of AXI4-Stream ports, and the parameters of a core."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

Words = list[tuple[int, bool]]


def parameters(folder: str | Path = Path(__file__).parent) -> SimpleNamespace:
    """Those in core.json of a core's folder."""
    return SimpleNamespace(**json.loads((Path(folder) / "core.json").read_text())["parameters"])


def pack(rows: np.ndarray, lanes: int, bits: int) -> Words:
    """[rows, elements], lanes of 8, 16 or 32 bits -> words of ``lanes`` elements, the first in the lowest bits, and TLAST: the last of its row."""
    rows = np.ascontiguousarray(rows, np.int64)
    size = lanes * bits // 8
    data = rows.astype(f"<i{bits // 8}").tobytes()
    per_row = rows.shape[1] // lanes
    return [(int.from_bytes(data[place:place + size], "little"), n % per_row == per_row - 1) for n, place in enumerate(range(0, len(data), size))]


def chunks(frame: np.ndarray, lanes: int, bits: int) -> Words:
    """[tokens, channels] as words of ``lanes`` channels of a token: the first chunk of all tokens, then the second; TLAST with the last word."""
    tokens, channels = frame.shape
    return pack(frame.reshape(tokens, channels // lanes, lanes).transpose(1, 0, 2).reshape(1, -1), lanes, bits)


def unpack(words: Words, lanes: int, bits: int, signed: bool = True) -> np.ndarray:
    """The inverse, one row: [elements]."""
    data = b"".join(word.to_bytes(lanes * bits // 8, "little") for word, _ in words)
    return np.frombuffer(data, f"<{'i' if signed else 'u'}{bits // 8}").astype(np.int64)
