"""Writes the files of recorded networks: random ones, those of bench/, the examples. Made once; the classes it uses are of that day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
import zlib

import numpy as np

from hwgen import ops
from hwgen.functions import Act
from hwgen.graph import Model, Node
from hwgen.quantizer import calibration

from . import form
from .form import METHODS, SPREAD, Array, Build

NAMES = {ops.PatchEmbed: "patch_embed", ops.Linear: "linear", ops.LayerNorm: "layer_norm", ops.Activation: "activation",
         ops.Attention: "attention", ops.MoE: "moe", ops.Add: "add", ops.AddConst: "add_const", ops.ConcatTokens: "concat_tokens",
         ops.Select: "select", ops.Mean: "mean"}
LEVELS = 24                      # largest int8 value of a stored array: coarse, so that archives are small
STRUCTURE = ("name", "output", "x", "y", "q", "k", "v")

How = tuple[dict[str, Any], Array | None]        # entry of `arrays`, int8 array to store


def stored(array: Array) -> How:
    """As int8 on a grid of a power of two."""
    top = float(np.abs(array).max(initial=0))
    unit = 2.0 ** np.ceil(np.log2(top / LEVELS)) if top else 1.0
    return {"unit": unit}, np.rint(array / unit).astype(np.int8)


def seeded(name: str, array: Array) -> How:
    """As noise of about the same mean and deviation, made again when it is read."""
    deviation = float(array.std(dtype=np.float64)) or 2.0 ** -10
    unit = 2.0 ** np.floor(np.log2(deviation / SPREAD))
    unit *= round(deviation / SPREAD / unit * 8) / 8
    return {"unit": unit, "offset": round(float(array.mean(dtype=np.float64)) / unit), "seed": zlib.crc32(name.encode()),
            "shape": list(array.shape)}, None


def network(model: Model, how: Callable[[str, Array], How]) -> tuple[dict[str, Any], dict[str, Array]]:
    """(tasks and arrays, int8 arrays to store) of a float network whose weights ``how`` puts on a grid."""
    names: dict[int, str] = {}
    hows: dict[str, How] = {}

    def name_of(node: Node, key: str, array: Array) -> str:
        if id(array) not in names:
            names[id(array)] = f"a{len(names)}"
            hows[names[id(array)]] = how(f"{node.name} {key} {len(names)}", array)
        return names[id(array)]

    tasks = []
    for graph in model.tasks:
        nodes = []
        for node in graph.nodes:
            values = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in STRUCTURE}
            arrays = {key: name_of(node, key, value) for key, value in values.items() if isinstance(value, np.ndarray)}
            nodes.append({"op": NAMES[type(node)], "name": node.name, "inputs": list(node.inputs), "output": node.output, "arrays": arrays,
                          "attributes": {key: value.value if isinstance(value, Act) else value
                                         for key, value in values.items() if key not in arrays}})
        tasks.append({"name": graph.name, "inputs": {key: list(shape) for key, shape in graph.inputs.items()}, "nodes": nodes,
                      "outputs": graph.outputs, "output_shapes": {key: list(shape) for key, shape in graph.output_shapes.items()}})
    return ({"tasks": tasks, "arrays": {name: entry for name, (entry, _) in hows.items()}},
            {name: levels for name, (_, levels) in hows.items() if levels is not None})


def ranges(model: Model, images: dict[str, Array]) -> list[dict[str, dict[str, list[float]]]]:
    """Per task {value: {role: maximum and scales}} over calibration images {input: float32 [B, ...]}."""
    found = calibration.collect(model, images)
    result = []
    for known in calibration.sites(model):
        task: dict[str, dict[str, list[float]]] = {}
        for value, site in known.items():
            roles = [role for place, role in found if place == site]
            task[value] = {role.value: [found[site, role].maximum, *(found[site, role].scale(method) for method in METHODS)]
                           for role in roles}
        result.append(task)
    return result


def builds(named: dict[str, Build]) -> dict[str, dict[str, Any]]:
    """As in the file."""
    return {name: asdict(build) for name, build in named.items()}


def write(folder: Path, root: Path) -> None:
    """Every archive, anew; root: of the repository."""
    from . import collection
    folder.mkdir(exist_ok=True)
    for name, networks in collection.archives(root):
        form.write(folder / f"{name}.zip", networks)
