"""Integer network -> the step table, memory map and weight image of the HLS engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
import struct

import numpy as np

from ..checksum import crc32
from ..errors import CapacityError, ModelError
from ..functions import Act
from ..qir import (QAttention, QGraph, QHead, QLinear, QModel, QMoE, QNode, QNorm, QPatches, QResidualInit, QResidualLinear,
                   Weights)
from . import hls_image

KINDS = ("PATCHES", "RESIDUAL_INIT", "LAYER_NORM", "LINEAR", "ATTENTION", "ROUTE", "EXPERTS")
TARGETS = ("ACT", "ACTIVATED", "RESIDUAL", "WEIGHED", "LOGITS", "OUTPUT")
ALL_TASKS = -1
NOT_COMPARED = ("name", "output", "residual", "onnx_name", "shape")       # fields that may differ in one step for all tasks
NOT_COMPARED_IN = {"ROUTE": ("first", "second", "act"), "EXPERTS": ("gate", "top_k", "renormalize")}
MAX_SIZE = 65535                    # the step table holds sizes in 16 bits
MAGIC = b"HWGENHLS"
VERSION = 1
HEADER = struct.Struct("<8sIIQI36x")


@dataclass(frozen=True)
class Value:
    """A value in the activation memory: ``tokens`` rows of ``channels`` from word ``address`` on. name: of the integer graph."""

    name: str
    address: int
    tokens: int
    channels: int


@dataclass(frozen=True)
class Step:
    """One row of the step table. Fields as in hls/include/hwgen/engine.hpp, `Value` for addresses.

    node: of the integer graph (of the first task that has the step); macs: useful multiply-accumulates.
    """

    kind: str
    node: QNode
    task: int = ALL_TASKS
    target: str = "ACT"
    dst: Value | None = None
    src: Value | None = None
    keys: Value | None = None
    values: Value | None = None
    rows: int = 0
    first_token: int = 0
    dst_tokens: int = 0
    out_channels: int = 0
    place: int = 0                  # of a head in the output
    weights: int = 0                # first word in the image
    macs: int = 0
    names: tuple[str, ...] = ()     # per task: the value of the integer graph the step completes ("" when it does not run)


@dataclass(frozen=True)
class Plan:
    """Everything the templates and the bench need. Sizes in words of ``lanes`` channels.

    outputs: per task (ONNX name, first word, channels); image: words of ``lanes`` bytes, without header.
    """

    lanes: int
    queries: int
    act: Act
    steps: tuple[Step, ...]
    values: tuple[Value, ...]
    outputs: tuple[tuple[tuple[str, int, int], ...], ...]
    image: bytes
    max_tokens: int
    head_words: int
    max_experts: int
    max_top_k: int
    act_words: int
    residual_words: int
    logit_words: int
    input_words: int
    output_words: int

    @property
    def weight_words(self) -> int:
        return len(self.image) // self.lanes

    @property
    def digest(self) -> int:
        """CRC-32 of the image."""
        return crc32(self.image)

    def weight_file(self) -> bytes:
        """Header (magic, version, lanes, bytes, digest; 64 bytes) and image."""
        return HEADER.pack(MAGIC, VERSION, self.lanes, len(self.image), self.digest) + self.image


def plan(model: QModel, lanes: int = 32, queries: int = 8) -> Plan:
    """Raises ModelError for a node the engine has no step for, CapacityError when a size exceeds the step table."""
    if lanes % 8 or lanes < 8 or queries < 1:
        raise CapacityError(f"{lanes} lanes and {queries} resident queries are no HLS engine", hint="lanes is a multiple of 8")
    rows = [_rows(graph) for graph in model.tasks]
    aligned = len({tuple(_shape_key(graph, row) for row in task) for graph, task in zip(model.tasks, rows)}) == 1
    slots = _merge(rows) if aligned else [(task, i, row) for task, r in enumerate(rows) for i, row in enumerate(r)]
    names = {}                          # (task, value) -> buffer key
    for task, task_rows in enumerate(rows):
        for i, row in enumerate(task_rows):
            if _stored(row):
                names[task, row[1].output] = (i if aligned else (task, i))
    packer = _Image(lanes)
    steps, sizes = [], {}
    outputs: list[list[tuple[str, int, int]]] = [[] for _ in model.tasks]
    for slot_task, i, (kind, node) in slots:
        task = max(slot_task, 0)
        graph = model.tasks[task]
        key = i if aligned else (task, i)
        step = _step(kind, node, graph, packer, lambda value: names[task, value])
        if kind == "EXPERTS":
            sizes[key, "hidden"] = (f"{node.output}.hidden", graph.shapes[node.x][0], node.first[0].weight.shape[1])
            step = replace(step, dst=(key, "hidden"))
        elif _stored((kind, node)):
            sizes[key] = (node.output, *graph.shapes[node.output])
            step = replace(step, dst=key)
        if isinstance(node, QHead):
            channels = node.w.weight.shape[1]
            for t in range(len(model.tasks)) if slot_task == ALL_TASKS else (task,):
                place = sum(c for _, _, c in outputs[t])
                outputs[t].append((rows[t][i][1].onnx_name, place, channels))
            step = replace(step, place=place)
        names_of = tuple(rows[t][i][1].output if slot_task in (ALL_TASKS, t) else "" for t in range(len(model.tasks)))
        steps.append(replace(step, task=ALL_TASKS if len(model.tasks) == 1 else slot_task, names=names_of))
    placed, act_words = _allocate(steps, sizes, lanes)
    steps = [replace(step, **{field: placed[getattr(step, field)] for field in ("dst", "src", "keys", "values")
                              if getattr(step, field) is not None}) for step in steps]
    return _sized(model, lanes, queries, steps, placed, act_words, outputs, packer)


def _sized(model, lanes, queries, steps, placed, act_words, outputs, packer) -> Plan:
    nodes = [node for graph in model.tasks for node in graph.nodes]
    moes = [node for node in nodes if isinstance(node, QMoE)]
    starts = [node.table.shape for node in nodes if isinstance(node, QResidualInit)]
    patches = next(step.dst for step in steps if step.kind == "PATCHES")
    kinds = {node.act.kind for node in nodes if isinstance(node, (QLinear, QMoE)) and node.act is not None}
    if len(kinds) > 1:
        raise CapacityError(f"the network uses the activations {sorted(k.value for k in kinds)}, the engine has one table",
                            hint="use one activation function in the whole network")
    sizes = [n for graph in model.tasks for shape in graph.shapes.values() for n in shape]
    if max(sizes) > MAX_SIZE:
        raise CapacityError(f"a dimension of {max(sizes)}, the step table holds at most {MAX_SIZE}",
                            hint="a shorter sequence or a narrower layer")
    heads = [(h * step.size, (h + 1) * step.size - 1) for step in (_Heads(s) for s in steps if s.kind == "ATTENTION")
             for h in range(step.count)]
    tokens = max([step.src.tokens for step in steps if step.src is not None] + [tokens for tokens, _ in starts])
    return Plan(
        lanes, queries, kinds.pop() if kinds else Act.GELU, tuple(steps), tuple(placed.values()), tuple(map(tuple, outputs)), packer.data(),
        max_tokens=tokens, head_words=max((hi // lanes - lo // lanes + 1 for lo, hi in heads), default=1),
        max_experts=max((len(node.first) for node in moes), default=1), max_top_k=max((node.top_k for node in moes), default=1),
        act_words=act_words, residual_words=max(tokens * _words(channels, lanes) for tokens, channels in starts),
        logit_words=max((step.src.tokens * _words(step.out_channels, lanes) for step in steps if step.kind == "ROUTE"), default=1),
        input_words=patches.tokens * _words(patches.channels, lanes),
        output_words=max(sum(c for _, _, c in task) for task in outputs))


class _Heads:
    """Heads of an attention step and their channels."""

    def __init__(self, step: Step):
        self.count = step.node.num_heads
        self.size = step.src.channels // self.count


def _words(channels: int, lanes: int) -> int:
    return -(-channels // lanes)


def _rows(graph: QGraph) -> list[tuple[str, QNode]]:
    """The graph as (kind, node); a mixture of experts is two rows."""
    rows: list[tuple[str, QNode]] = []
    for node in graph.nodes:
        match node:
            case QPatches():
                rows.append(("PATCHES", node))
            case QResidualInit():
                rows.append(("RESIDUAL_INIT", node))
            case QNorm():
                rows.append(("LAYER_NORM", node))
            case QLinear() | QResidualLinear() | QHead():
                rows.append(("LINEAR", node))
            case QAttention():
                if graph.shapes[node.k][0] != graph.shapes[node.q][0]:
                    raise ModelError(f"{graph.shapes[node.q][0]} queries and {graph.shapes[node.k][0]} keys: the HLS engine has "
                                     "self-attention only", where=f"QAttention node {node.name!r}")
                rows.append(("ATTENTION", node))
            case QMoE():
                rows += [("ROUTE", node), ("EXPERTS", node)]
            case _:
                raise ModelError(f"the HLS engine has no step for {type(node).__name__}", where=node.name)
    return rows


def _stored(row: tuple[str, QNode]) -> bool:
    """Whether the row's value lies in the activation memory (and not in the residual stream or the output)."""
    return isinstance(row[1], (QPatches, QNorm, QLinear, QAttention))


def _inputs(node: QNode) -> tuple[str, ...]:
    match node:
        case QAttention():
            return node.q, node.k, node.v
        case QPatches() | QResidualInit() | QNorm():
            return ()
    return (node.x,)


def _shape_key(graph: QGraph, row: tuple[str, QNode]):
    kind, node = row
    inputs = tuple(graph.shapes[value] for value in _inputs(node))
    return kind, type(node), inputs, graph.shapes[node.output] if _stored(row) else None


def _merge(rows: list[list[tuple[str, QNode]]]) -> list[tuple[int, int, tuple[str, QNode]]]:
    """(task or ALL_TASKS, row index, row): rows that are the same step in every task become one."""
    slots = []
    places = [{row[1].output: i for i, row in enumerate(task)} for task in rows]
    for i, versions in enumerate(zip(*rows)):
        keys = {_identity(*row, places[task]) for task, row in enumerate(versions)}
        if len(keys) == 1:
            slots.append((ALL_TASKS, i, versions[0]))
        else:
            slots += [(task, i, row) for task, row in enumerate(versions)]
    return slots


def _identity(kind: str, node: QNode, places: dict[str, int]):
    """Equal for two rows that compute the same from the same places. A gate counts for the router, the experts for the experts."""
    def part(x):
        match x:
            case Weights() | np.ndarray():
                return id(x)
            case tuple():
                return tuple(map(part, x))
            case str():
                return places.get(x, x)
            case int() | float() | bool() | None | Enum():
                return x
        return tuple(part(getattr(x, f)) for f in x.__dataclass_fields__)
    fields = [field for field in node.__dataclass_fields__ if field not in NOT_COMPARED and field not in NOT_COMPARED_IN.get(kind, ())]
    return kind, tuple(part(getattr(node, field)) for field in fields)


class _Image:
    """The weight image, in the order of use; what is used again is not stored again."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.parts: list[bytes] = []
        self.places: dict[tuple[int, ...], int] = {}
        self.words = 0

    def add(self, key: tuple[int, ...], make) -> int:
        if key not in self.places:
            self.places[key] = self.words
            self.parts.append(make())
            self.words += len(self.parts[-1]) // self.lanes
        return self.places[key]

    def matrices(self, weights: list[Weights]) -> int:
        return self.add(tuple(map(id, weights)), lambda: b"".join(hls_image.matrix(w, self.lanes) for w in weights))

    def constant(self, table: np.ndarray) -> int:
        return self.add((id(table),), lambda: hls_image.constant(table, self.lanes))

    def data(self) -> bytes:
        return b"".join(self.parts)


def _step(kind: str, node: QNode, graph: QGraph, packer: _Image, buffer) -> Step:
    step = Step(kind, node)
    match node:
        case QPatches() | QNorm():
            return step
        case QResidualInit():
            return replace(step, weights=packer.constant(node.table))
        case QAttention():
            tokens, channels = graph.shapes[node.q]
            return replace(step, src=buffer(node.q), keys=buffer(node.k), values=buffer(node.v), macs=2 * tokens * tokens * channels)
    tokens = graph.shapes[node.x][0]
    step = replace(step, src=buffer(node.x), rows=tokens, dst_tokens=tokens)
    match node:
        case QLinear():
            return _product(step, node.w, packer, target="ACTIVATED" if node.act else "ACT")
        case QResidualLinear():
            return _product(step, node.w, packer, target="RESIDUAL", first_token=node.first_token, dst_tokens=graph.shapes[node.output][0])
        case QHead():
            start, stop = node.tokens
            return _product(replace(step, rows=stop - start), node.w, packer, target="OUTPUT", first_token=start, dst_tokens=1)
        case QMoE() if kind == "ROUTE":
            return _product(step, node.gate, packer, target="LOGITS")
    if len({(a.weight.shape, b.weight.shape) for a, b in zip(node.first, node.second)}) > 1:
        raise ModelError("the experts differ in size", where=f"QMoE node {node.name!r}",
                         hint="the HLS engine needs experts of one size")
    order = [w for pair in zip(node.first, node.second) for w in pair]
    hidden = node.first[0].weight.shape[1]
    return replace(step, target="ACTIVATED", out_channels=hidden, weights=packer.matrices(order),
                   macs=tokens * node.top_k * 2 * node.first[0].weight.size)


def _product(step: Step, w: Weights, packer: _Image, **fields) -> Step:
    return replace(step, out_channels=w.weight.shape[1], weights=packer.matrices([w]), macs=step.rows * w.weight.size, **fields)


def _allocate(steps: list[Step], sizes: dict, lanes: int) -> tuple[dict, int]:
    """First fit in order of birth: {key: Value} and the words needed. A value lives from its step to its last reader's."""
    lives: dict = {}
    for i, step in enumerate(steps):
        for key in (step.dst, step.src, step.keys, step.values):
            if key is not None:
                lives[key] = (lives.get(key, (i, i))[0], i)
    placed: dict = {}
    names: set[str] = set()
    total = 0
    for key, (first, last) in sorted(lives.items(), key=lambda item: item[1][0]):
        name, tokens, channels = sizes[key]
        while name in names:                # two tasks of different structure may use one name
            name += "'"
        names.add(name)
        need, base = tokens * _words(channels, lanes), 0
        taken = sorted((v.address, v.address + v.tokens * _words(v.channels, lanes)) for k, v in placed.items()
                       if lives[k][0] <= last and first <= lives[k][1])
        for start, stop in taken:
            if base + need <= start:
                break
            base = max(base, stop)
        placed[key] = Value(name, base, tokens, channels)
        total = max(total, base + need)
    return placed, total
