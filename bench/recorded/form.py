"""The files of recorded networks: float graph, calibrated ranges and builds of each, readable without hwgen.

An archive (``NAME.zip``) holds for every network ``KEY.json`` and, if it stores arrays, ``KEY.npz``. The JSON is one object:

    form     1
    onnx     path of an ONNX file from the root of the repository; then there are no tasks and no arrays
    tasks    one graph a task: {name, inputs {name: shape}, outputs {name: value}, output_shapes {name: shape}, nodes}
    arrays   {array: how it comes about}; nodes and tasks that share an array name the same one
    ranges   one object a task: {value: {role: [maximum, scale by percentile, scale by mse]}}
    builds   {build: options}, see `Build`

Shapes of inputs are without the batch dimension, output_shapes with it. A node is {op, name, inputs, output, arrays, attributes}; nodes
are in topological order. ops, their inputs, (arrays) and [attributes]:

    patch_embed x (weight [D, C, p, q], bias [D])        linear x (weight [K, N], bias [N])          layer_norm x (gamma, beta [D]) [eps]
    activation x [kind]                                  attention q k v [num_heads, scale]          add x y
    moe x (gate [D, E], gate_bias [E], w1 [E, D, H], b1 [E, H], w2 [E, H, D], b2 [E, D]) [act, top_k, renormalize]
    add_const x (value [T, D])                           concat_tokens x (tokens [P, D])             select x [index]      mean x [start]

Activations are none, gelu, gelu_tanh, silu, relu. Arrays are float32 and lie on a coarse grid, so that products and sums of them are
exact in float64, in whatever order: {unit} times the int8 array of that name in the .npz, or {unit, offset, seed, shape}: `noise`.
A role is a range of a node: out (its output), norm (LayerNorm before gamma and beta), score (Attention), logit, pre, hidden, expert (MoE).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
import io
import json
from pathlib import Path
from typing import Any
import zipfile

import numpy as np

FORM = 1
BYTES = 4                        # of random bits that make one number of `noise`
SPREAD = 147.8                   # standard deviation of `noise`
DATE = (2026, 1, 1, 0, 0, 0)     # of every file in an archive: the same content gives the same bytes
METHODS = ("percentile", "mse")  # in the order of the ranges

Range = tuple[float, float, float]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Build:
    """How a network is compiled. precision, method: of the quantizer; the rest: of the scheduler, and of the HLS engine (lanes, queries),
    None without one. ablation: field of the ablation -> value."""

    precision: str
    method: str
    array: tuple[int, int]
    axi_data_bits: int
    fifo_beats: int
    packed: bool
    load_columns: int
    batch: int
    score_words: int
    taps: bool
    ablation: dict[str, Any]
    hls: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class Recorded:
    """A network as it is in the file, with its arrays. See the module for the content of tasks and ranges."""

    key: str
    onnx: str
    tasks: tuple[dict[str, Any], ...]
    arrays: dict[str, Array]
    ranges: tuple[dict[str, dict[str, Range]], ...]
    builds: dict[str, Build]


def noise(shape: tuple[int, ...], *seed: int) -> Array:
    """Whole numbers, nearly normal with mean 0 and deviation `SPREAD`: from the raw bits of a generator, which numpy keeps as they are."""
    count = int(np.prod(shape)) * BYTES
    raw = np.random.PCG64(list(seed)).random_raw(-(-count // 8)).astype("<u8").view(np.uint8)
    numbers: Array = raw[:count].reshape(-1, BYTES).sum(1, dtype=np.int64).reshape(shape) - BYTES * 255 // 2
    return numbers


def images(shape: tuple[int, ...], count: int, seed: int) -> Array:
    """Images float32 [count, *shape] on a grid of 1/128, deviation 1.15."""
    return (noise((count, *shape), 1, seed) / 128).astype(np.float32)


def read(path: Path, only: str = "*") -> Iterator[Recorded]:
    """The networks of an archive whose keys match ``only``, in its order. Raises ValueError for another form."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in names:
            key = name.removesuffix(".json")
            if name != key and fnmatchcase(key, only):
                levels: dict[str, Array] = {}
                if f"{key}.npz" in names:
                    with np.load(io.BytesIO(archive.read(f"{key}.npz"))) as arrays:
                        levels = dict(arrays)
                yield network(key, json.loads(archive.read(name)), levels)


def network(key: str, content: dict[str, Any], levels: dict[str, Array]) -> Recorded:
    """A network from the content of its JSON and its int8 arrays. Raises ValueError for another form."""
    if content.get("form", FORM) != FORM:
        raise ValueError(f"{key}: form {content['form']}, this reads form {FORM}")
    builds = {name: Build(**{**fields, "array": tuple(fields["array"]), "hls": fields["hls"] and tuple(fields["hls"])})
              for name, fields in content["builds"].items()}
    return Recorded(key, content.get("onnx", ""), tuple(content.get("tasks", ())),
                    {name: _array(how, levels.get(name)) for name, how in content.get("arrays", {}).items()},
                    tuple(content["ranges"]), builds)


def _array(how: dict[str, Any], levels: Array | None) -> Array:
    found = noise(tuple(how["shape"]), 0, how["seed"]) + how["offset"] if levels is None else levels.astype(np.int64)
    values: Array = (found * how["unit"]).astype(np.float32)
    return values


def write(path: Path, networks: dict[str, tuple[dict[str, Any], dict[str, Array]]]) -> None:
    """An archive of {key: (content of the JSON, int8 arrays)}; the same networks give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key, (content, levels) in networks.items():
            archive.writestr(_entry(f"{key}.json"), json.dumps({"form": FORM} | content, separators=(",", ":")))
            if levels:
                archive.writestr(_entry(f"{key}.npz"), _npz(levels))


def _npz(levels: dict[str, Array]) -> bytes:
    """As `numpy.savez` has it, not compressed: the archive around it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as inner:
        for name, array in levels.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            inner.writestr(zipfile.ZipInfo(f"{name}.npy", DATE), data.getvalue())
    return file.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
