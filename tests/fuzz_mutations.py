"""How `fuzz.py` spoils an ONNX file: bytes, fields of the protobuf, and the structure of the network.

A mutation takes (random, model, shapes) and changes the model in place; shapes are those of the values of the seed. It may raise
what Python raises when the model is not of the kind it is for: then nothing is counted. The structural ones mostly leave a network
that onnxruntime runs: they reshape, permute, group, broadcast and take apart, and what the importer makes of that must be the same.
"""

from __future__ import annotations

import math
from random import Random

from google.protobuf.message import DecodeError
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NOT_FOR_IT = (ValueError, TypeError, LookupError, AttributeError, StopIteration, DecodeError)
OPERATORS = ["Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Softmax", "Sqrt", "Exp", "Identity", "Erf", "Gelu", "Transpose", "Add", "Mul",
             "Sub", "Div", "MatMul", "Cast", "Floor", "Not", "Foo", "Dropout", "RandomNormal", "Size", "Shape", "ReduceMax"]
BIG = 1 << 40
MOVED = ("Reshape", "Transpose", "Slice", "Gather", "Concat", "Split", "Squeeze", "Unsqueeze", "Expand", "Tile", "Pad")
FIELDS, STRUCTURE = [], []


def field(function):
    FIELDS.append(function)
    return function


def structure(function):
    STRUCTURE.append(function)
    return function


def mutate(r: Random, data: bytes, shapes: dict[str, tuple[int, ...]]) -> tuple[str, bytes]:
    """(what was done, the file)"""
    how = r.random()
    if how < 0.1:
        spoiled = bytearray(data)
        for _ in range(r.choice([1, 1, 2, 4, 8, 64])):
            near = min(len(data), 4000)
            spoiled[r.choice([r.randrange(near), len(data) - 1 - r.randrange(near), r.randrange(len(data))])] = r.randrange(256)
        return "bytes", bytes(spoiled)
    if how < 0.13:
        return "cut off", data[:r.randrange(len(data))]
    model, done = onnx.load_model_from_string(data), []
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        function = r.choice(STRUCTURE if how < 0.65 else FIELDS)
        try:
            function(r, model, shapes)
            done.append(function.__name__)
        except NOT_FOR_IT:
            pass
    return "+".join(done) or "nothing", model.SerializeToString()


def constant(model, array, name: str | None = None) -> str:
    name = name or f"fuzz{len(model.graph.initializer)}_{len(model.graph.node)}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def ints(model, *values: int) -> str:
    return constant(model, np.array(values, np.int64))


def insert(model, place: int, kind: str, inputs, **attributes) -> str:
    """A node before the given place; the name of its result."""
    name = f"fuzz_{kind}_{len(model.graph.node)}"
    model.graph.node.insert(place, helper.make_node(kind, inputs, [name], name=name, **attributes))
    return name


def set_attribute(node, name, value):
    """In place of what the node has under that name."""
    for place, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[place]
            break
    node.attribute.append(helper.make_attribute(name, value))


def edge(r: Random, model, shapes, rank: int | None = None) -> tuple[int, onnx.NodeProto, int, tuple[int, ...]]:
    """(place of a node, the node, one of its computed operands, its shape)"""
    stored = {tensor.name for tensor in model.graph.initializer}
    found = [(place, spot) for place, node in enumerate(model.graph.node) for spot, value in enumerate(node.input)
             if value in shapes and value not in stored and len(shapes[value]) > 1 and rank in (None, len(shapes[value]))]
    place, spot = r.choice(found)
    node = model.graph.node[place]
    return place, node, spot, shapes[node.input[spot]]


def weight(r: Random, model, kind: int = TensorProto.FLOAT, most: int = 1 << 30) -> onnx.TensorProto:
    return r.choice([t for t in model.graph.initializer if t.data_type == kind and t.raw_data and math.prod(t.dims) <= most])


def factors(r: Random, number: int, parts: int) -> list[int]:
    """Random factors of a number whose product it is."""
    found = []
    for _ in range(parts - 1):
        found.append(r.choice([d for d in range(1, number + 1) if number % d == 0]))
        number //= found[-1]
    return [*found, number]


# ---------------------------------------------------------------- the network's structure

@structure
def permute_and_back(r, model, shapes):
    """Reshape, Transpose, Reshape to the old shape."""
    place, node, spot, shape = edge(r, model, shapes)
    groups = r.choice([list(shape), factors(r, math.prod(shape), r.randrange(2, 6)),
                       [part for size in shape for part in factors(r, size, r.choice([1, 2]))]])
    order = list(range(len(groups)))
    r.shuffle(order)
    value = insert(model, place, "Reshape", [node.input[spot], ints(model, *groups)])
    value = insert(model, place + 1, "Transpose", [value], perm=order)
    value = insert(model, place + 2, "Reshape", [value, ints(model, *shape)])
    model.graph.node[place + 3].input[spot] = value


@structure
def permute_one_axis(r, model, shapes):
    """Gather of all of an axis in another order, or from its end; sometimes with one twice."""
    place, node, spot, shape = edge(r, model, shapes)
    axis = r.randrange(len(shape))
    order = list(range(shape[axis]))
    r.choice([r.shuffle, list.reverse, lambda o: o.__setitem__(0, o[-1])])(order)
    value = insert(model, place, "Gather", [node.input[spot], ints(model, *order)], axis=axis)
    model.graph.node[place + 1].input[spot] = value


@structure
def transpose(r, model, shapes):
    place, node, spot, shape = edge(r, model, shapes)
    order = list(range(len(shape)))
    r.shuffle(order)
    value = insert(model, place, "Transpose", [node.input[spot]], perm=order)
    model.graph.node[place + 1].input[spot] = value


@structure
def in_groups(r, model, shapes):
    """A node computes on [G, T/G, D] instead of [1, T, D]; its result is put back."""
    place, node, spot, shape = edge(r, model, shapes, 3)
    split = r.choice([d for d in range(2, shape[1] + 1) if shape[1] % d == 0])
    value = insert(model, place, "Reshape", [node.input[spot], ints(model, split, shape[1] // split, shape[2])])
    node = model.graph.node[place + 1]
    node.input[spot] = value
    old, node.output[0] = node.output[0], f"{node.output[0]}_grouped"
    model.graph.node.insert(place + 2, helper.make_node("Reshape", [node.output[0], ints(model, *shapes[old])], [old], name=f"{old}_back"))


@structure
def part_of_groups(r, model, shapes):
    """One of G groups of tokens, repeated to the old shape."""
    place, node, spot, shape = edge(r, model, shapes, 3)
    split = r.choice([d for d in range(2, shape[1] + 1) if shape[1] % d == 0])
    value = insert(model, place, "Reshape", [node.input[spot], ints(model, 1, split, shape[1] // split, shape[2])])
    value = insert(model, place + 1, "Slice", [value, ints(model, 0), ints(model, 1), ints(model, 1)])
    value = insert(model, place + 2, "Expand", [value, ints(model, 1, split, shape[1] // split, shape[2])])
    value = insert(model, place + 3, "Reshape", [value, ints(model, *shape)])
    model.graph.node[place + 4].input[spot] = value


@structure
def mean_over_groups(r, model, shapes):
    """A mean of tokens becomes one of [1, G, T/G, D] over one of its axes, of which one entry is taken."""
    place = r.choice([i for i, n in enumerate(model.graph.node) if n.op_type == "ReduceMean" and len(shapes[n.input[0]]) == 3])
    node = model.graph.node[place]
    _, tokens, channels = shapes[node.input[0]]
    split = r.choice([d for d in range(1, tokens + 1) if tokens % d == 0])
    value = insert(model, place, "Reshape", [node.input[0], ints(model, 1, split, tokens // split, channels)])
    value = insert(model, place + 1, "ReduceMean", [value, ints(model, r.choice([1, 2]))], keepdims=0)
    value = insert(model, place + 2, "Gather", [value, constant(model, np.int64(0))], axis=1)
    old = model.graph.node[place + 3].output[0]
    model.graph.node[place + 3].CopyFrom(helper.make_node("Reshape", [value, ints(model, *shapes[old])], [old], name=f"{old}_fuzz"))


@structure
def token_in_each_group(r, model, shapes):
    """Constant tokens in front of (or behind) each group of tokens instead of once."""
    place = r.choice([i for i, n in enumerate(model.graph.node) if n.op_type == "Concat"])
    node = model.graph.node[place]
    _, tokens = node.input
    _, count, channels = shapes[tokens]
    groups = r.choice([d for d in range(2, count + 1) if count % d == 0])
    rng = np.random.default_rng(r.randrange(1 << 30))
    operands = [constant(model, rng.normal(0, 1, (groups, 1, channels)).astype(np.float32)),
                insert(model, place, "Reshape", [tokens, ints(model, groups, count // groups, channels)])]
    if r.random() < 0.3:
        operands.reverse()
    joined = insert(model, place + 1, "Concat", operands, axis=1)
    old, after = model.graph.node[place + 2].output[0], model.graph.node[place + 3]
    model.graph.node[place + 2].CopyFrom(helper.make_node("Reshape", [joined, ints(model, 1, count + groups, channels)], [old], name=f"{old}_r"))
    after.input[list(after.input).index(old) ^ 1] = constant(model, rng.normal(0, 1, (1, count + groups, channels)).astype(np.float32))


@structure
def broadcast_sum(r, model, shapes):
    """x + y of [1, T, D] becomes [1, T, D] + [T, 1, D] (or the other way), of which a part [1, T, D] is taken."""
    place = r.choice([i for i, n in enumerate(model.graph.node) if n.op_type in ("Add", "Sub", "Mul")
                      and all(shapes.get(v, ())[:1] == (1,) and len(shapes[v]) == 3 for v in n.input)])
    spot, axis = r.randrange(2), r.randrange(2)
    turned = insert(model, place, "Transpose", [model.graph.node[place].input[spot]], perm=[1, 0, 2])
    node = model.graph.node[place + 1]
    node.input[spot] = turned
    old, node.output[0] = node.output[0], f"{node.output[0]}_all"
    wanted = [ints(model, r.choice([0, 1])), ints(model, *shapes[old])]
    model.graph.node.insert(place + 2, helper.make_node("Gather", [node.output[0], wanted[0]], [f"{old}_part"], axis=axis, name=f"{old}_p"))
    model.graph.node.insert(place + 3, helper.make_node("Reshape", [f"{old}_part", wanted[1]], [old], name=f"{old}_r"))


@structure
def constant_of_another_shape(r, model, shapes):
    """An operand of Add, Mul, ..., a scale of LayerNormalization or the C of Gemm, broadcast over other dimensions."""
    weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    kinds = ("Add", "Sub", "Mul", "Div", "LayerNormalization", "Gemm", "Where", "Pow")
    node, name = r.choice([(n, v) for n in model.graph.node if n.op_type in kinds for v in n.input
                           if v in weights and (n.op_type != "Gemm" or v == n.input[2])])
    shape = shapes[node.output[0]]
    new = [size if r.random() < 0.5 else 1 for size in shape][r.randrange(len(shape)):]
    rng = np.random.default_rng(r.randrange(1 << 30))
    mean, spread = (1.0, 0.2) if node.op_type in ("Mul", "Div", "LayerNormalization") else (0.0, 0.2)
    node.input[list(node.input).index(name)] = constant(model, rng.normal(mean, spread, new).astype(np.float32))


@structure
def constant_inserted(r, model, shapes):
    place, node, spot, shape = edge(r, model, shapes)
    new = [size if r.random() < 0.4 else 1 for size in shape][r.randrange(len(shape) + 1):]
    rng = np.random.default_rng(r.randrange(1 << 30))
    value = rng.normal(r.choice([0.0, 1.0]), 0.3, new) if r.random() < 0.7 else np.full(new, r.choice([0, 1, -1, 2, 0.5, 1.0001]))
    operands = [node.input[spot], constant(model, value.astype(np.float32))]
    r.shuffle(operands)
    value = insert(model, place, r.choice(["Add", "Sub", "Mul", "Div", "Max"]), operands)
    model.graph.node[place + 1].input[spot] = value


@structure
def operator_inserted(r, model, shapes):
    place, node, spot, _ = edge(r, model, shapes)
    value = insert(model, place, r.choice(["Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Softmax", "Exp", "Gelu"]), [node.input[spot]])
    model.graph.node[place + 1].input[spot] = value


@structure
def another_axis(r, model, shapes):
    """Of Concat, Softmax, LayerNormalization, Gather, Split, TopK; or the constant axes of a Reduce operator or a Slice."""
    place = r.choice([i for i, n in enumerate(model.graph.node) if any(a.name == "axis" for a in n.attribute)
                      or n.op_type.startswith(("Reduce", "Slice", "Squeeze", "Unsqueeze"))])
    node = model.graph.node[place]
    for attribute in node.attribute:
        if attribute.name == "axis":
            attribute.i = r.randrange(-4, 4)
            return
        if attribute.name == "keepdims" and r.random() < 0.3:
            attribute.i = 1 - attribute.i
            return
    node.input[3 if node.op_type == "Slice" else 1] = ints(model, *r.sample(range(-3, 4), r.choice([1, 1, 2])))


@structure
def other_permutation(r, model, shapes):
    node = r.choice([n for n in model.graph.node if n.op_type == "Transpose"])
    order = list(node.attribute[0].ints)
    r.shuffle(order)
    node.attribute[0].ints[:] = order


@structure
def other_reshape(r, model, shapes):
    place = r.choice([i for i, n in enumerate(model.graph.node) if n.op_type == "Reshape"])
    node = model.graph.node[place]
    shape = list(shapes[node.output[0]])
    r.choice([r.shuffle, lambda s: s.__setitem__(slice(None), factors(r, math.prod(s), len(s)))])(shape)
    node.input[1] = ints(model, *shape)


@structure
def rewired_to_its_shape(r, model, shapes):
    place, node, spot, shape = edge(r, model, shapes)
    made = [o for n in model.graph.node[:place] for o in n.output if shapes.get(o) == shape]
    node.input[spot] = r.choice(made)


@structure
def swapped_operands(r, model, shapes):
    node = r.choice([n for n in model.graph.node if len(n.input) > 1])
    i, j = r.sample(range(len(node.input)), 2)
    node.input[i], node.input[j] = node.input[j], node.input[i]


@structure
def attribute_of_a_product(r, model, shapes):
    """alpha, beta, transA, transB of a Gemm; epsilon; group and pads of a Conv."""
    node = r.choice([n for n in model.graph.node if n.op_type in ("Gemm", "LayerNormalization", "Conv", "Softmax", "TopK", "Gelu")])
    name, value = r.choice({"Gemm": [("alpha", 0.5), ("beta", 2.0), ("beta", 0.0), ("transA", 1), ("transB", 1 - node.attribute[0].i)],
                   "LayerNormalization": [("epsilon", 0.1), ("epsilon", 1e-12), ("stash_type", 1), ("axis", 1)],
                   "Conv": [("pads", [1, 1, 1, 1]), ("auto_pad", "SAME_UPPER"), ("dilations", [2, 2]), ("group", 2), ("kernel_shape", [2, 4])],
                   "Softmax": [("axis", 1)], "TopK": [("largest", 0), ("sorted", 0)],
                   "Gelu": [("approximate", "tanh"), ("approximate", "SAME_UPPER")]}[node.op_type])
    set_attribute(node, name, value)


@structure
def values_of_a_weight(r, model, shapes):
    tensor = weight(r, model)
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    at = r.randrange(flat.size)
    match r.randrange(8):
        case 0:
            flat[at] = r.choice([np.nan, np.inf, 1e38, -1e38, 1e4])
        case 1:
            flat[:] = r.choice([0.0, 1e-40, 1.0])
        case 2:
            flat *= r.choice([-1, 1e20, 1e-20, 2, 0.98])
        case 3:
            flat[:] = flat[::-1].copy()
        case _:
            flat[at] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@structure
def a_small_constant(r, model, shapes):
    """A number of a norm, a GELU, a scale, or of a shape."""
    tensor = weight(r, model, r.choice([TensorProto.FLOAT, TensorProto.INT64]), 4)
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    at = r.randrange(flat.size)
    if array.dtype.kind == "f":
        flat[at] *= r.choice([0, -1, 1.02, 0.98, 2, 0.5, 1e10, 1e-10, 1.1])
    else:
        flat[at] += r.choice([-1, 1, 2, -2, 3, 100, -100, BIG])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
