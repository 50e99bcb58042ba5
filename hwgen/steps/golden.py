"""The integer golden model: a loop over steps. The judge of every other implementation, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from weakref import WeakKeyDictionary

import numpy as np

from .format import INT8
from .host import quantize_input
from .passes.lengths import shortened
from .stages import Run, Tile
from .stages.base import Floats, Queue
from .step import Expert, Network, Step
from .tensor import Memory, Plane, Tensor
from .walk import views

CHUNK_ELEMENTS = 400_000        # largest intermediate array of one chunk of images, in elements
WEIGHTS = 1 << 25               # of a network that are kept as floats from one chunk to the next
_ENDS: WeakKeyDictionary[Network, list[list[str]]] = WeakKeyDictionary()


def run(network: Network, images: np.ndarray, lengths: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Outputs of the network: images float [B, C, H, W] (or tokens [B, T, K]) -> {ONNX output: int32 [B, n]}, token by token.

    lengths: tokens of each image that count (`passes.lengths.shortened`), all if empty; behind them outputs of every token are 0.
    Works through the batch in chunks that keep every intermediate below `CHUNK_ELEMENTS`. Raises InputError when the images do not fit.
    """
    images = np.asarray(images)
    if len(lengths):
        return _by_length(network, images, np.asarray(lengths))
    chunk = max(1, CHUNK_ELEMENTS // max(tensor.tokens * tensor.channels for tensor in network.tensors()))
    weights = Floats(WEIGHTS if len(images) > chunk else 0)
    parts: dict[str, list[np.ndarray]] = {output.name: [] for output in network.outputs}
    for start in range(0, max(len(images), 1), chunk):
        values = evaluate(network, quantize_input(network, images[start:start + chunk]), weights=weights)
        for output in network.outputs:
            parts[output.name].append(_flat(values[output.tensor.name]).astype(np.int32))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _by_length(network: Network, images: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    found = {output.name: np.zeros((len(images), output.tensor.tokens * output.tensor.channels), np.int32) for output in network.outputs}
    for length in np.unique(lengths):
        some = np.flatnonzero(lengths == length)
        for name, words in run(shortened(network, int(length)), images[some, :length]).items():
            found[name][some, :words.shape[1]] = words
    return found


def evaluate(network: Network, words: np.ndarray, inner: dict[str, np.ndarray] | None = None, *,
             weights: Floats | None = None, tile: Callable[[Run], Tile] | None = None) -> dict[str, np.ndarray]:
    """The tensors that leave, int64 [B, tokens, channels], for the words of the host, [B, T, K].

    inner: gets every value of the network as it was when it was complete, and, under ``value.what``, what its steps computed on the way.
    tile: gives what each step multiplies with instead of its own tile, once it is known what streams (``seen``).
    """
    values: dict[str, np.ndarray] = {}
    queues: dict[str, Queue] = {}
    last, ends = network.last(), _ends(network)
    for index, step in enumerate(network.steps):
        state = Run(step, values, queues, words, weights=weights or Floats())
        if step.expert is not None:
            _select(step.expert, state)
        state.seen = step.feed.evaluate(state)
        if step.taken is not None:
            state.seen = step.taken.evaluate(state.seen, values)
        result = (step.tile if tile is None else tile(state)).evaluate(state.seen, state)
        for stage in step.drain:
            result = stage.evaluate(result, state)
        _store(step, state, result)
        if inner is not None:
            if last[step.value] == index:
                inner[step.value] = values[step.sink.name].copy()
            inner.update({f"{step.value}.{what}": array for what, array in state.inner.items() if state.rows is None})
        for name in ends[index]:
            del values[name]
    return values


def trace(network: Network, images: np.ndarray, *, detail: bool = False) -> dict[str, np.ndarray]:
    """Every value of the network: {value: int64 [B, T, C]}; an output is [B, n].

    With ``detail`` also what steps compute on the way: ``x.mean``, ``x.mult``, ``x.shift`` (norm), ``x.pre`` (pre-activation),
    ``x.scores``, ``x.row_max``, ``x.row_sum`` [B, H, T(, T)] (attention), ``x.logits``, ``x.experts``, ``x.weights`` [B, T, E or k] (router).
    """
    found: dict[str, np.ndarray] = {}
    evaluate(network, quantize_input(network, images), found)
    whole = {step.value for step in network.steps}
    result = {name: array for name, array in found.items() if detail or name in whole}
    return result | {output.name: _flat(result[output.name]) for output in network.outputs}


def _flat(words: np.ndarray) -> np.ndarray:
    """[B, tokens, channels] -> [B, n]"""
    return words.reshape(len(words), math.prod(words.shape[1:]))


def _ends(network: Network) -> list[list[str]]:
    """The tensors no step reads after each one, but those that leave."""
    if network not in _ENDS:
        lives: dict[Tensor, int] = {}
        for index, step in enumerate(network.steps):
            read, written = views(step)
            lives |= {view.tensor: index for view in (*read, *written) if view.tensor.memory not in (Memory.OUT, Memory.ROUTER)}
        ends: list[list[str]] = [[] for _ in network.steps]
        for tensor, index in lives.items():
            ends[index].append(tensor.name)
        _ENDS[network] = ends
    return _ENDS[network]


def _select(expert: Expert, state: Run) -> None:
    """The tokens in the expert's queue, and their shares."""
    queue = state.queues[expert.queue.name]
    image, token, place = np.nonzero(queue.experts == expert.index)
    state.rows, state.shares = (image, token), queue.shares[image, token, place]


def _half(plane: Plane, before: np.ndarray | None, words: np.ndarray) -> np.ndarray:
    """The words in memory with one half stored. The high one comes first."""
    low = (1 << INT8.bits) - 1
    return words & ~low if plane is Plane.HIGH or before is None else before & ~low | words & low


def _store_rows(step: Step, state: Run, result: np.ndarray) -> None:
    """The same of an expert's tokens, [rows, C]; its columns come in order, and are all there before the tensor is another expert's."""
    sink, columns = step.sink, step.sink.channels
    before = state.values.get(sink.name)
    if columns.count < sink.tensor.channels and columns.start == 0 and step.plane is not Plane.LOW:
        before = None
    if step.plane is not None:
        result = _half(step.plane, None if before is None else before[:, columns.slice], result)
    if columns.count < sink.tensor.channels:
        words = np.zeros((len(result), sink.tensor.channels), np.int64) if before is None else before
        words[:, columns.slice] = result
        result = words
    state.values[sink.name] = result


def _store(step: Step, state: Run, result: np.ndarray) -> None:
    """Put the result, [B, T, C] or [B, heads, T, C / heads] or [rows, C], where the sinks say."""
    if result.ndim == 4:
        batch, heads, tokens, channels = result.shape
        result = result.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * channels)
    sink = step.sink
    if state.rows is not None:
        if sink.tensor.memory is Memory.RES:
            state.values[sink.name][state.rows] = result
        else:
            _store_rows(step, state, result)
        return
    if step.plane is not None:
        result = _half(step.plane, state.values[sink.name][:, sink.tokens.slice, sink.channels.slice] if step.plane is Plane.LOW else None, result)
    for view, words in zip(step.sinks, (result, state.seen), strict=False):
        if view.whole:
            state.values[view.name] = words
            continue
        if view.name not in state.values:
            state.values[view.name] = np.zeros((len(words), view.tensor.tokens, view.tensor.channels), np.int64)
        state.values[view.name][:, view.tokens.slice, view.channels.slice] = words
