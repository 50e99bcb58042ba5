"""A file cut into three: what runs in front of the engine, what is imported, what runs behind it.

In front is cut at a *waist*: a value that everything behind it reaches the inputs by; or a few values, tokens, which enter the engine one
behind the other, of as many channels as the widest has. Behind, any nodes can be cut off together with what
follows them; the values they read become outputs of the engine. Constants are folded first: a part holds only nodes that compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from ..hostparts import HostParts, Part, Value
from ..matching.opgraph import Const, Pool, View
from .border import quoted
from .normalize import normalize, read_values
from .read import OnnxFile, opset_versions
from .work import macs

FLOAT = onnx.TensorProto.FLOAT
NONE: Mapping[str, Value] = {}
MOST_JOINED = 4             # values that enter the engine one behind the other, unless they are the inputs
SPLIT_OPERAND = 13          # operator set from which on Split has its sizes as an operand
CONTROL = ("If", "Loop", "Scan")


class Uncut(ModelError):
    """Why a file is not cut, in words for its user; empty where that says nothing beside what is refused."""


@dataclass(frozen=True)
class Waist:
    """The values ``values`` are all that nodes behind place ``place`` (in `Whole.order`) read of what was computed up to there."""

    values: tuple[str, ...]
    place: int

    @property
    def value(self) -> str:
        """What enters the engine."""
        return "+".join(self.values)


@dataclass(frozen=True, eq=False)
class Division:
    """middle: what is imported, as a file; host: the rest; front, behind: names of its nodes. added: nodes of the middle that the file has not ->
    the node whose result they move."""

    middle: OnnxFile
    host: HostParts
    front: frozenset[str]
    behind: frozenset[str]
    added: dict[str, str]


class Whole:
    """A file (`read.read_any`) to be cut. order: names of the nodes that compute something from the inputs, in order."""

    def __init__(self, file: OnnxFile):
        self.file = file
        self.graph = graph = normalize(file, None, Pool())
        self.nodes = dict(zip(graph.kinds, file.proto.graph.node, strict=True))
        self.order = [name for name, node in self.nodes.items() if any(self._computed(value) for value in node.output)]
        self.reads = {name: [value for value in read_values(self.nodes[name]) if self._computed(value)] for name in self.order}
        self.makers = {value: name for name in self.order for value in self.nodes[name].output if value}
        self.outputs = [value.name for value in file.proto.graph.output]
        self.place = {name: place for place, name in enumerate(self.order)}
        self.made = {value: place for name, place in self.place.items() for value in self.nodes[name].output}
        self.macs = macs(graph.ops, file.proto.functions)
        self.up_to = list(accumulate((self.macs.get(name, 0) for name in self.order), initial=0))
        self.waists, self.joints = self._waists()

    @property
    def task(self) -> str:
        """The input that selects the task, or ""."""
        return "" if self.file.task is None else self.file.task.name

    def _computed(self, value: str) -> bool:
        return isinstance(self.graph.values.get(value), View)

    def value(self, name: str) -> Value | None:
        """What is known of a value; None when its shape is not, or it holds no numbers that numpy knows."""
        shape = self.graph.shapes.get(name)
        if shape is None:
            return None
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(self.graph.types[name]))
        if kind.kind not in "fiub":
            return None
        limit = self._limit(name) if kind.kind in "iu" and name in self.file.inputs else 0
        return Value(name, kind.name, tuple(shape[1:]) if shape[:1] == (1,) else tuple(shape), limit)

    def _limit(self, name: str) -> int:
        """Of an integer input that chooses among constants: how many there are to choose from."""
        same, sizes = {name}, []
        for op in self.graph.ops:
            read = [isinstance(ref, View) and ref.base in same for ref in op.inputs]
            data = op.constant(0)
            if op.kind == "Cast" and read[0]:
                same.update(op.outputs)
            elif op.kind == "Gather" and read[1] and data is not None:
                sizes.append(data.shape[op.integer("axis", 0)])
        return min(sizes, default=0)

    # ---------------------------------------------------------------- places to cut at

    def _waists(self) -> tuple[list[Waist], list[Waist]]:
        """In order, the first place of each value; and of several that are tokens. What depends on the task alone is as good as a constant."""
        last = {value: place for place, name in enumerate(self.order) for value in self.reads[name]}
        last.update(dict.fromkeys(self.outputs, len(self.order)))
        alive = {name for name in self.file.inputs if name in last}
        fed = set(self.file.inputs)
        found: dict[tuple[str, ...], Waist] = {}
        start = tuple(name for name in self.file.inputs if name in alive)
        found[start] = Waist(start, -1)
        for place, name in enumerate(self.order):
            if not fed.isdisjoint(self.reads[name]):
                fed.update(self.nodes[name].output)
                alive.update(value for value in self.nodes[name].output if last.get(value, -1) > place)
            alive.difference_update([value for value in self.reads[name] if last[value] <= place])
            if len(alive) <= MOST_JOINED:
                values = tuple(sorted(alive, key=lambda value: start.index(value) if value in start else len(start) + self.made[value]))
                found.setdefault(values, Waist(values, place))
        return ([waist for waist in found.values() if len(waist.values) == 1 and self._enters(waist.values[0])],
                [waist for waist in found.values() if len(waist.values) > 1 and self._join(waist.values)])

    def _join(self, names: tuple[str, ...]) -> bool:
        """Whether values can enter the engine one behind the other: tokens [1, T, D]."""
        return all(self.graph.types.get(name) == FLOAT and len(shape := self._shape(name)) == 3 and shape[0] == 1 and name not in self.outputs
                   for name in names)

    def _enters(self, name: str) -> bool:
        """Whether a value can be the engine's input by its type and shape."""
        shape = self.graph.shapes.get(name)
        return self.graph.types.get(name) == FLOAT and shape is not None and len(shape) > 2 and shape[0] == 1 \
            and name not in self.file.inputs and name not in self.outputs

    def followers(self, names: Iterable[str]) -> frozenset[str]:
        """The nodes, and every one that needs them."""
        found = set(names)
        for name in self.order:
            if name not in found and any(self.makers.get(value) in found for value in self.reads[name]):
                found.add(name)
        return frozenset(found)

    def chain(self, name: str) -> set[str]:
        """The node, and if it only moves data, those it reads from that do so, too."""
        found, waiting = {name}, [name]
        while waiting:
            at = waiting.pop()
            makers = {self.makers[value] for value in self.reads[at] if value in self.makers}
            before = makers & self.graph.moves if at in self.graph.moves else set()
            waiting += before - found
            found |= before
        return found

    @property
    def strange(self) -> bool:
        """Whether the inputs are none the engine can have: several, or no float32 of an image or of tokens."""
        (first, *others) = self.file.inputs.items()
        return bool(others) or self.file.kinds.get(first[0]) != FLOAT or first[1][0] != 1

    def is_front(self, name: str) -> bool:
        """Whether fewer multiply-accumulates stand in front of a node than behind it."""
        place = self.place[name]
        waist = next((waist for waist in self.waists if waist.place >= place), None)
        return waist is not None and self.up_to[waist.place + 1] < self.up_to[-1] - self.up_to[place]

    # ---------------------------------------------------------------- cutting

    def divide(self, waist: Waist | None, behind: frozenset[str]) -> Division:
        """Cut in front of what follows ``waist``, and ``behind`` (closed under `followers`) off. Raises Uncut."""
        front = frozenset(self.order[:waist.place + 1] if waist else ())
        for name in self.order:
            if name not in front and name not in behind:
                continue
            if name in self.graph.declined:                             # it depends on chance
                raise Uncut("")
            if self.nodes[name].op_type in CONTROL:
                raise Uncut(f"the host cannot run it instead: {self.nodes[name].op_type} node {quoted(name)} would be cut off with it, and control "
                            "flow is not cut")
        rest = [name for name in self.order if name not in front and name not in behind]
        if not rest or front & behind:
            raise Uncut("")
        made = {value for name in rest for value in self.nodes[name].output}
        inputs = [waist.value] if waist else list(self.file.inputs)
        join, apart = self._joined(waist) if waist and len(waist.values) > 1 else ([], [])
        read = dict.fromkeys(value for name in self.order if name in behind for value in self.reads[name])
        crossing = [value for value in read if self.makers.get(value) not in behind]
        if any(value not in made for value in crossing):                # it reads what is in front of the engine
            raise Uncut("")
        if waist and any(self.task in self.reads[name] for name in front):
            raise Uncut(f"the host cannot run it instead: what is in front of it depends on the task, {quoted(self.task)}")
        if any(value not in made and self.makers.get(value) not in behind for value in self.outputs):
            raise Uncut("")
        outputs = list(dict.fromkeys([*(value for value in self.outputs if value in made), *crossing]))
        unknown = next((value for value in (*inputs, *outputs) if self.value(value) is None), None)
        if unknown is not None:
            raise Uncut(f"the host cannot run it instead: the cut would go through {quoted(unknown)}, whose shape is not fixed")
        lifted = {value: self._lifted(value) for value in crossing if value not in self.outputs and self._shape(value)[:1] != (1,)}
        middle = self._file(rest, inputs, outputs, lifted, apart)
        prefix = self._part(front, self._used(front, waist.values), inputs, extra=join) if waist else None
        suffix = self._part(behind, crossing, [value for value in self.outputs if value not in made], lifted) if behind else None
        needs = {value: (value,) if value in made else tuple(lifted[v].name if v in lifted else v for v in self._needs(value, behind))
                 for value in self.outputs}
        host = HostParts(tuple(self._known(self.file.inputs)), tuple(self._known(self.outputs)), needs, prefix, suffix, self.up_to[-1])
        return Division(middle, host, front, behind, {f"{other.name}.reshape": self.makers[value] for value, other in lifted.items()})

    def _lifted(self, value: str) -> Value:
        """How a value without a batch in front ([tokens, 1, channels], as attention of PyTorch has it) goes over to the host."""
        shape = self._shape(value)
        if len(shape) < 2 or opset_versions(self.file.proto)[""] < 5:
            raise Uncut("")
        return Value(f"{value}'", "float32", (math.prod(shape[:-1]), shape[-1]))

    def _joined(self, waist: Waist) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        """The nodes that put the values of a waist one behind the other, zeros beside those of fewer channels, and those that take them apart."""
        name, shapes = waist.value, [self._shape(value) for value in waist.values]
        width = max(shape[2] for shape in shapes)
        self.graph.shapes[name], self.graph.types[name] = (1, sum(shape[1] for shape in shapes), width), FLOAT
        wide = [value if shape[2] == width else f"{value}, wide" for value, shape in zip(waist.values, shapes, strict=True)]
        join: list[onnx.NodeProto] = []
        apart = self._split(name, wide, 1, [shape[1] for shape in shapes])
        for value, other, (_, tokens, channels) in zip(waist.values, wide, shapes, strict=True):
            if other != value:
                zeros = numpy_helper.from_array(np.zeros((1, tokens, width - channels), np.float32))
                join += [helper.make_node("Constant", [], [f"{value}.zeros"], name=f"{value}, zeros", value=zeros),
                         helper.make_node("Concat", [value, f"{value}.zeros"], [other], name=other, axis=2)]
                apart += self._narrowed(other, value, width, channels)
        return [*join, helper.make_node("Concat", wide, [name], name=f"{name}, joined", axis=1)], apart

    def _narrowed(self, wide: str, value: str, width: int, channels: int) -> list[onnx.NodeProto]:
        """The first channels of a value: linear maps read them alone, for others a linear map takes them."""
        if all(self.nodes[name].op_type in ("MatMul", "Gemm") for name in self.order if value in self.reads[name]):
            return self._split(wide, [value, f"{value}.rest"], 2, [channels, width - channels])
        taken = numpy_helper.from_array(np.eye(width, channels, dtype=np.float32))
        return [helper.make_node("Constant", [], [f"{value}.taken"], name=f"{value}, taken", value=taken),
                helper.make_node("MatMul", [wide, f"{value}.taken"], [value], name=f"{value}, narrow")]

    def _split(self, value: str, parts: Sequence[str], axis: int, sizes: list[int]) -> list[onnx.NodeProto]:
        """In parts of these sizes, as the operator set of the file has it."""
        name = f"{value}, apart"
        if opset_versions(self.file.proto)[""] < SPLIT_OPERAND:
            return [helper.make_node("Split", [value], parts, name=name, axis=axis, split=sizes)]
        constant = numpy_helper.from_array(np.array(sizes, np.int64))
        return [helper.make_node("Constant", [], [f"{value}.sizes"], name=f"{value}, sizes", value=constant),
                helper.make_node("Split", [value, f"{value}.sizes"], parts, name=name, axis=axis)]

    def _used(self, names: frozenset[str], more: Sequence[str]) -> list[str]:
        read = {*more, *(value for name in names for value in self.reads[name])}
        return [value for value in self.file.inputs if value in read]

    def _known(self, names: Iterable[str]) -> list[Value]:
        found = []
        for name in names:
            value = self.value(name)
            if value is None:
                raise Uncut(f"the host cannot run it instead: the shape of {quoted(name)} is not fixed")
            found.append(value)
        return found

    def _needs(self, output: str, behind: frozenset[str]) -> tuple[str, ...]:
        """The values from outside ``behind`` that an output is computed from."""
        found: dict[str, None] = {}
        waiting, seen = [output], {output}
        while waiting:
            value = waiting.pop()
            maker = self.makers.get(value)
            if maker in behind:
                new = set(self.reads[maker]) - seen
                seen |= new
                waiting += sorted(new)
            else:
                found[value] = None
        return tuple(found)

    def _part(self, names: frozenset[str], inputs: Sequence[str], outputs: Sequence[str], lifted: Mapping[str, Value] = NONE,
              extra: Sequence[onnx.NodeProto] = ()) -> Part:
        proto, _ = self._extract([name for name in self.order if name in names], inputs, outputs, lifted, behind=extra)
        values = [value for name in names for value in self.nodes[name].output]
        size = sum(math.prod(self.graph.shapes.get(value) or (1,)) for value in values)
        if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
            raise Uncut(f"the host cannot run it instead: its part would have {proto.ByteSize():,} bytes, more than an ONNX file holds")
        return Part(proto.SerializeToString(deterministic=True), tuple(lifted.get(value.name, value) for value in self._known(inputs)),
                    tuple(self._known(outputs)),
                    (*(name for name in self.order if name in names), *(node.name for node in extra)),
                    sum(self.macs.get(name, 0) for name in names), size)

    def _file(self, names: Sequence[str], inputs: Sequence[str], outputs: Sequence[str], lifted: Mapping[str, Value],
              before: Sequence[onnx.NodeProto]) -> OnnxFile:
        reads_task = self.task and any(self.task in self.reads[name] for name in names)
        proto, weights = self._extract(names, [*inputs, *([self.task] if reads_task else [])], outputs, lifted, before=before)
        file = self.file
        return OnnxFile(file.path, proto, file.digest, {name: self._shape(name) for name in inputs}, file.task if reads_task else None, weights,
                        quantization=file.quantization, padding=file.padding)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.graph.shapes.get(name) or ())

    def _extract(self, names: Sequence[str], inputs: Sequence[str], outputs: Sequence[str],
                 lifted: Mapping[str, Value], before: Sequence[onnx.NodeProto] = (),
                 behind: Sequence[onnx.NodeProto] = ()) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """Nodes as a model, and its weights; what does not depend on an input of the file is a weight. lifted: see `_lifted`; before, behind: nodes
        that the file has not."""
        proto = self.file.proto
        nodes = [self.nodes[name] for name in names]
        stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        weights: dict[str, np.ndarray] = {}
        for value in dict.fromkeys(value for node in nodes for value in read_values(node)):
            ref = self.graph.values.get(value)
            if isinstance(ref, Const):
                weights[value] = self.file.weights.get(value, ref.array)
        moved: dict[bool, list[onnx.NodeProto]] = {True: [], False: []}          # of inputs, of outputs
        for value, other in lifted.items():
            enters = value in inputs
            weights[f"{other.name}.shape"] = np.array(self._shape(value) if enters else (1, *other.shape), np.int64)
            source, result = (other.name, value) if enters else (value, other.name)
            moved[enters].append(helper.make_node("Reshape", [source, f"{other.name}.shape"], [result], name=f"{other.name}.reshape"))
        nodes = [*before, *moved[True], *nodes, *behind, *moved[False]]
        tensors = [stored[name] if name in stored else numpy_helper.from_array(array, name) for name, array in weights.items()]
        made = {value for node in nodes for value in node.output}
        said = [info for info in proto.graph.value_info if info.name in made and info.name not in outputs]
        inner = [self._info(info.name) if self.graph.shapes.get(info.name) else info for info in said]     # what a file says may be stale
        ends = [[self._info(name) if name not in lifted else helper.make_tensor_value_info(lifted[name].name, FLOAT, (1, *lifted[name].shape))
                 for name in given] for given in (inputs, outputs)]
        graph = helper.make_graph(nodes, proto.graph.name or "part", *ends, tensors, value_info=inner)
        return helper.make_model(graph, functions=proto.functions, opset_imports=proto.opset_import, ir_version=proto.ir_version), weights

    def _info(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.graph.types[name], self._shape(name))
