"""The host's part of a network: images become words of 8 or 16 bits, int32 words become real numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from .passes.lengths import shortened
from .step import Network


def quantize_input(network: Network, images: np.ndarray) -> np.ndarray:
    """Images float [B, C, H, W], or signals [B, C, W], -> tokens [B, T, C*p*q] of the input's format, as `Window.cut` does; tokens
    [B, T, K] -> [B, T, K]; the tokens of zeros in front of them included.

    ``clip(rint(x / scale), -127, 127)`` in float64 (16 bits: 32767). Raises InputError when the images are not real, finite numbers of the
    right shape.
    """
    feed, tensor = network.input
    form = tensor.format
    images = np.asarray(images)
    ranks = (3,) if feed.window is None else (3, 4) if feed.window.kernel[0] == 1 else (4,)
    if images.ndim not in ranks or images.dtype.kind not in "fiu":
        raise InputError(f"input {feed.input!r} has shape {images.shape} and dtype {images.dtype}",
                         hint=f"give an array of {ranks[-1]} dimensions, images first, of floating-point numbers")
    if not np.isfinite(images).all():
        raise InputError(f"input {feed.input!r} holds NaN or infinite values", hint="clean the data")
    x = np.clip(np.rint(images.astype(np.float64) / tensor.scale), form.lo, form.hi).astype(form.dtype)
    if feed.window is None:
        return _behind(x, feed.front)
    x = x[:, :, None] if x.ndim == 3 else x
    if not all(feed.window.places(*x.shape[2:])):
        raise InputError(f"images of {x.shape[2]}x{x.shape[3]} hold no window of {feed.window}", where=f"input {feed.input!r}")
    return _behind(feed.window.cut(x), feed.front)


def _behind(words: np.ndarray, front: int) -> np.ndarray:
    """Behind so many tokens of zeros."""
    return np.pad(words, ((0, 0), (front, 0), (0, 0))) if front else words


def input_clipped(network: Network, images: np.ndarray) -> float:
    """Share of the input values beyond the calibrated range, which `quantize_input` clips."""
    tensor = network.input[1]
    return float((np.abs(np.rint(np.asarray(images, np.float64) / tensor.scale)) > tensor.format.hi).mean())


def counted(network: Network, outputs: Mapping[str, np.ndarray], lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """int32 [B, n] of an engine, 0 where they are of tokens behind the sequence of that length."""
    result = dict(outputs)
    for output in network.outputs:
        if output.tensor.sequence and len(lengths):
            behind = np.arange(output.tensor.tokens)[:, None] >= np.asarray(lengths)[:, None, None]
            words = outputs[output.name].reshape(len(lengths), output.tensor.tokens, -1)
            result[output.name] = np.where(behind, 0, words).reshape(len(lengths), -1)
    return result


def dequantize(network: Network, outputs: Mapping[str, np.ndarray], lengths: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """int32 [B, n] of `golden.run` -> {ONNX output: float32 [B, ...]}: times the channel's scale, over the number of tokens, in the
    order of the output. lengths: as there."""
    result = {}
    runs = {int(length): shortened(network, int(length)).outputs for length in set(lengths)}
    for place, output in enumerate(network.outputs):
        acc = outputs[output.name]
        counts = np.array([runs[int(length)][place].tokens for length in lengths]).reshape(-1, 1, 1) if runs else output.tokens
        real = acc.reshape(len(acc), output.tensor.tokens, output.tensor.channels).astype(np.float64) * output.scale.array / counts
        flat = real.astype(np.float32).reshape(len(acc), output.tensor.tokens * output.tensor.channels)
        result[output.name] = (flat if output.order is None else flat[:, output.order.array]).reshape(len(acc), *output.shape[1:])
    return result
