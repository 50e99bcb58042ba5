"""The host's part of a network: images become words of 8 or 16 bits, int32 words become real numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import InputError
from .step import Network


def quantize_input(network: Network, images: np.ndarray) -> np.ndarray:
    """Images float [B, C, H, W] -> patches [B, T, C*p*q] of the input's format; tokens [B, T, K] -> [B, T, K]; the tokens of zeros in front
    of them included.

    ``clip(rint(x / scale), -127, 127)`` in float64 (16 bits: 32767); patches row-major, channels in the order (c, dy, dx). Raises
    InputError when the images are not real, finite numbers of the right rank.
    """
    feed, tensor = network.input
    form = tensor.format
    images = np.asarray(images)
    rank = 3 if feed.patch == (0, 0) else 4
    if images.ndim != rank or images.dtype.kind not in "fiu":
        raise InputError(f"input {feed.input!r} has shape {images.shape} and dtype {images.dtype}",
                         hint=f"give an array of {rank} dimensions, images first, of floating-point numbers")
    if not np.isfinite(images).all():
        raise InputError(f"input {feed.input!r} holds NaN or infinite values", hint="clean the data")
    x = np.clip(np.rint(images.astype(np.float64) / tensor.scale), form.lo, form.hi).astype(form.dtype)
    if rank == 3:
        return _behind(x, feed.front)
    b, c, height, width = x.shape
    p, q = feed.patch
    if height % p or width % q:
        raise InputError(f"images of {height}x{width} do not divide into {p}x{q} patches", where=f"input {feed.input!r}")
    x = x.reshape(b, c, height // p, p, width // q, q).transpose(0, 2, 4, 1, 3, 5)
    return _behind(np.ascontiguousarray(x.reshape(b, (height // p) * (width // q), c * p * q)), feed.front)


def _behind(words: np.ndarray, front: int) -> np.ndarray:
    """Behind so many tokens of zeros."""
    return np.pad(words, ((0, 0), (front, 0), (0, 0))) if front else words


def input_clipped(network: Network, images: np.ndarray) -> float:
    """Share of the input values beyond the calibrated range, which `quantize_input` clips."""
    tensor = network.input[1]
    return float((np.abs(np.rint(np.asarray(images, np.float64) / tensor.scale)) > tensor.format.hi).mean())


def dequantize(network: Network, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """int32 [B, n] of `golden.run` -> {ONNX output: float32 [B, ...]}: times the channel's scale, over the number of tokens."""
    result = {}
    for output in network.outputs:
        acc = outputs[output.name]
        real = acc.reshape(len(acc), output.tensor.tokens, -1).astype(np.float64) * output.scale.array / output.tokens
        result[output.name] = real.astype(np.float32).reshape(len(acc), *output.shape[1:])
    return result
