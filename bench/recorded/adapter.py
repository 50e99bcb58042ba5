"""Recorded networks -> today's classes of hwgen -> what is digested of them. When classes change, this module follows, and nothing else.

Everything that leaves `parts` is bytes or text that a user of hwgen gets, in today's spelling; keys are columns of the digests file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any

import numpy as np

from hwgen import ops
from hwgen.devices.board import load_board
from hwgen.engines.hls import plan as hls_plan, project as hls
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.program import Program
from hwgen.errors import CapacityError, ModelError
from hwgen.functions import Act
from hwgen.graph import Graph, Model, Node, Role
from hwgen.importer import import_model
from hwgen.quantizer import calibration, from_ranges
from hwgen.steps import golden
from hwgen.steps.passes.ablation import Ablation
from hwgen.steps.step import Quantized

from .form import METHODS, Array, Build, Range, Recorded, images

OPS: dict[str, type[Node]] = {
    "patch_embed": ops.PatchEmbed, "linear": ops.Linear, "layer_norm": ops.LayerNorm, "activation": ops.Activation, "attention": ops.Attention,
    "moe": ops.MoE, "add": ops.Add, "add_const": ops.AddConst, "concat_tokens": ops.ConcatTokens, "select": ops.Select, "mean": ops.Mean}
INPUTS = {"attention": ("q", "k", "v"), "add": ("x", "y")}       # of the others: x
CPP = ("hwgen_config.hpp", "hwgen_program.hpp", "hwgen_tables.hpp", "hwgen_top.cpp", "hwgen_top.hpp")
IMAGES = 3
COST = (16.0, 200)               # bytes per cycle and latency that the cycle model is asked about

Integers = Quantized             # an integer network
Parts = dict[str, bytes | str | dict[str, str]]


@dataclass
class Scales(calibration.Range):
    """A range of the file: the scale for each method instead of a histogram."""

    scales: dict[str, float] = field(default_factory=dict)

    def scale(self, method: str) -> float:
        return self.scales[method]


# ---------------------------------------------------------------- files -> classes

def float_model(network: Recorded, root: Path) -> Model:
    """The float graphs; root: of the repository, for a network that is an ONNX file."""
    if network.onnx:
        return import_model(root / network.onnx).model
    return Model(tuple(_graph(task, network.arrays) for task in network.tasks)).verify()


def _graph(task: dict[str, Any], arrays: dict[str, Array]) -> Graph:
    return Graph(task["name"], {name: tuple(shape) for name, shape in task["inputs"].items()},
                    tuple(_node(node, arrays) for node in task["nodes"]), dict(task["outputs"]),
                    {name: tuple(shape) for name, shape in task["output_shapes"].items()})


def _node(node: dict[str, Any], arrays: dict[str, Array]) -> Node:
    inputs = dict(zip(INPUTS.get(node["op"], ("x",)), node["inputs"], strict=True))
    attributes = {key: Act(value) if key in ("act", "kind") else value for key, value in node["attributes"].items()}
    weights = {key: arrays[name] for key, name in node["arrays"].items()}
    return OPS[node["op"]](node["name"], node["output"], **inputs, **weights, **attributes)


def quantized(model: Model, ranges: tuple[dict[str, dict[str, Range]], ...], precision: str, method: str) -> Quantized:
    """The integer network; no calibration image is looked at."""
    known: dict[calibration.Site, calibration.Range] = {}
    for places, task in zip(calibration.sites(model), ranges, strict=True):
        for value, roles in task.items():
            for role, (maximum, *scales) in roles.items():
                known[places[value], Role(role)] = Scales(
                    np.zeros(0, np.int64), 0.0, maximum, dict(zip(METHODS, scales, strict=True)))
    return from_ranges(model, known, method=method, precision=precision)


# ---------------------------------------------------------------- classes -> bytes

def input_images(model: Model, seed: int) -> Array:
    """Seeded images for the model's only input."""
    (shape,) = model.tasks[0].inputs.values()
    return images(shape, IMAGES, seed)


def integers(model: Quantized, x: Array) -> Parts:
    """results: outputs of the integer model; values: every value of its graphs, by name."""
    runs = [golden.run(graph, x) for graph in model.tasks]
    traces = [golden.trace(graph, x) for graph in model.tasks]
    return {"results": b"".join(_array(name, run[name]) for run in runs for name in sorted(run)),
            "values": b"".join(_array(name, trace[name]) for trace in traces for name in sorted(trace))}


def _array(name: str, array: Array) -> bytes:
    return f"{name}{list(array.shape)}".encode() + array.astype("<i8").tobytes()


def rtl(model: Quantized, build: Build, x: Array) -> Parts:
    """What the RTL backend makes besides the engine. A refusal is {"program": its class}."""
    ti, to = build.array
    try:
        program = schedule(model, ti=ti, to=to, axi_data_bits=build.axi_data_bits, fifo_beats=build.fifo_beats, packed=build.packed,
                           batch=build.batch, load_columns=build.load_columns, score_words=build.score_words,
                           ablation=Ablation(**build.ablation),
                           taps=build.taps)
        binary = program.binary()
    except (CapacityError, ModelError) as error:
        return {"program": {"refused": type(error).__name__}}
    return {"program": binary, "weights": program.image, "frame": _frame(program, model, x), "cost": _cost(program),
            "config": json.dumps(program.config.to_dict(), sort_keys=True),
            "notes": program.disassembly() + "".join(f"{info.node}\n" for info in program.infos)
            + "".join(f"{json.dumps(asdict(buffer))}\n" for buffer in program.buffers)}


def _frame(program: Program, model: Quantized, x: Array) -> bytes:
    """What the host needs: where outputs lie, sizes, and the input memory of a run."""
    frames = program.frames(model.tasks[0], np.resize(x, (program.batch * 2, *x.shape[1:])))
    outputs = [[{**{key: getattr(place, key) for key in ("name", "image", "word", "step", "channels")}, "token": place.token if place.tap else -1}
                for place in task] for task in program.outputs]              # outputs of one token; only taps have more
    sizes = [program.input_bytes, program.input_stride, program.output_bytes, program.batch]
    return json.dumps([outputs, sizes], sort_keys=True).encode() + frames


def _cost(program: Program) -> str:
    """Useful multiply-accumulates, tokens streamed and the cycle model's times."""
    tasks = range(program.num_tasks)
    return json.dumps([[info.macs for info in program.infos], program.rows(), [program.useful_macs(task) for task in tasks],
                       [[asdict(timing) for timing in program.estimate(*COST, task)] for task in tasks]])


def project(model: Quantized, build: Build, x: Array, name: str) -> Parts:
    """What the HLS backend makes for this network; nothing without that backend. A refusal is {"hls": its class}."""
    if build.hls is None:
        return {}
    lanes, queries = build.hls
    try:
        plan = hls_plan.plan(model, lanes, queries)
        files = hls.files(plan, model, name, load_board("sim"), x[:1])
    except (CapacityError, ModelError) as error:
        return {"hls": {"refused": type(error).__name__}}
    text = {file: _bytes(files[f"hls/{file}"]).decode() for file in CPP}
    return {"hls": text, "hls weights": _bytes(files["hls/weights.bin"]),
            "hls frame": _bytes(files["hls/csim/input.bin"]) + _bytes(files["hls/csim/expected.bin"])}


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content
