"""The mutations of `fuzz_mutations` for what quantizers, converters and exporters of experts write, and for what the host takes over."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fuzz_mutations import FIELDS, NOT_FOR_IT, STRUCTURE, constant, edge, field, insert, ints, set_attribute, structure

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "Quant")
INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32)
ELEMENTWISE = ["Relu", "Neg", "Sigmoid", "Tanh", "Exp", "Softmax", "Floor", "Round", "Sign", "Sqrt", "Erf", "Identity"]


def operand(r, model, kinds, place: int):
    """(node, stored operand) of one node whose name of operator holds one of these."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    node = r.choice([n for n in model.graph.node if any(kind in n.op_type for kind in kinds) and len(n.input) > place and n.input[place] in stored])
    return node, stored[node.input[place]]


@structure
def scale_of_one_node(r, model, shapes):
    """A node that quantizes or dequantizes has another scale than its partner: a little, much, negative, none at all."""
    node, tensor = operand(r, model, QUANTIZERS, 1)
    array = numpy_helper.to_array(tensor).astype(np.float32)
    factor = r.choice([1.0001, 1.5, 0.5, -1, 0, np.nan, np.inf, 1e-30, 1e30])
    if array.size > 1 and r.random() < 0.5:
        array = array.copy()
        array.reshape(-1)[r.randrange(array.size)] *= np.float32(factor)
    else:
        array = array * np.float32(factor)
    node.input[1] = constant(model, array.astype(np.float32))


@structure
def zero_point_of_one_node(r, model, shapes):
    node, tensor = operand(r, model, QUANTIZERS, 2)
    array = numpy_helper.to_array(tensor)
    node.input[2] = constant(model, (array.astype(int) + r.choice([1, -1, 3, 128, 100])).astype(array.dtype))


@structure
def stored_integers(r, model, shapes):
    """Of a weight, a zero point, a bias: another value, or the extremes."""
    tensor = r.choice([t for t in model.graph.initializer if t.data_type in INTEGERS])
    array = numpy_helper.to_array(tensor).copy()
    flat, info = array.reshape(-1), np.iinfo(array.dtype)
    match r.randrange(3):
        case 0:
            flat[r.randrange(flat.size)] = r.choice([info.min, info.max, 0, 1])
        case 1:
            flat[:] = r.choice([info.min, info.max, 0])
        case _:
            flat[:] = flat[::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@structure
def axis_or_block_of_a_scale(r, model, shapes):
    node = r.choice([n for n in model.graph.node if n.op_type in QUANTIZERS])
    name, value = r.choice([("axis", r.randrange(-3, 3)), ("block_size", r.choice([0, 2, 16, 32])), ("bits", r.choice([2, 4, 8])),
                            ("signed", 0), ("narrow", 0), ("rounding_mode", "FLOOR"), ("K", 8), ("N", 8), ("output_dtype", 3)])
    set_attribute(node, name, value)


@structure
def rounded_once_more(r, model, shapes):
    """QuantizeLinear and DequantizeLinear around any value, of 8 bits with or without a sign, or of 16; or only one of the two's partners."""
    place, node, spot, shape = edge(r, model, shapes)
    kind = r.choice([np.int8, np.uint8, np.int8, np.int16])
    wide = r.random() < 0.2
    scale = np.full(shape[-1] if wide else (), r.choice([0.05, 0.01, 1.0, 2.0 ** -6]), np.float32)
    given = [constant(model, scale), constant(model, np.full(scale.shape, r.choice([0, 0, 3]), kind))]
    attributes = {"axis": r.randrange(-2, 2)} if wide else {}
    value = insert(model, place, "QuantizeLinear", [node.input[spot], *given], **attributes)
    value = insert(model, place + 1, "DequantizeLinear", [value, *given], **attributes)
    model.graph.node[place + 2].input[spot] = value


@structure
def a_pair_left_out(r, model, shapes):
    """Who read a dequantized value reads the one in front of its QuantizeLinear."""
    makers = {value: node for node in model.graph.node for value in node.output}
    node = r.choice([n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in makers
                     and makers[n.input[0]].op_type == "QuantizeLinear"])
    for reader in model.graph.node:
        reader.input[:] = [makers[node.input[0]].input[0] if value == node.output[0] else value for value in reader.input]


@structure
def cast_between(r, model, shapes):
    """To another type of number and back, or only there."""
    place, node, spot, _ = edge(r, model, shapes)
    value = insert(model, place, "Cast", [node.input[spot]], to=r.choice([1, 10, 16, 11, 7, 6]))
    if r.random() < 0.7:
        value = insert(model, place + 1, "Cast", [value], to=r.choice([1, 1, 10, 16]))
    model.graph.node[place + (2 if value.startswith("fuzz_Cast") and model.graph.node[place + 1].op_type == "Cast" else 1)].input[spot] = value


@structure
def type_of_a_cast(r, model, shapes):
    node = r.choice([n for n in model.graph.node if n.op_type == "Cast"])
    node.attribute[0].i = r.choice([1, 6, 7, 9, 10, 11, 16])


@structure
def operands_of_another_node(r, model, shapes):
    """Two nodes of one kind exchange an operand: weights of two experts, two scales, two indices."""
    one = r.choice([n for n in model.graph.node if len(n.input) > 1])
    other = r.choice([n for n in model.graph.node if n.op_type == one.op_type and len(n.input) == len(one.input) and n is not one])
    place = r.randrange(len(one.input))
    one.input[place], other.input[place] = other.input[place], one.input[place]


@structure
def a_hidden_value_leaves(r, model, shapes):
    """Another output, or instead of the one there is."""
    names = [value for node in model.graph.node for value in node.output if value in shapes and value not in {o.name for o in model.graph.output}]
    if r.random() < 0.3:
        del model.graph.output[:]
    for name in r.sample(names, r.choice([1, 1, 2])):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]))


@structure
def behind_an_output(r, model, shapes):
    """What the host may run: an operator, a factor, a norm, a small product on what leaves."""
    output = r.choice(model.graph.output)
    shape, old = shapes[output.name], output.name
    made = r.choice([n for n in model.graph.node if old in n.output])
    inner = f"{old}_inside"
    made.output[list(made.output).index(old)] = inner
    end = len(model.graph.node)
    rng = np.random.default_rng(r.randrange(1 << 30))
    match r.randrange(5):
        case 0:
            value = insert(model, end, r.choice(ELEMENTWISE), [inner])
        case 1:
            numbers = constant(model, rng.normal(0, 1, shape[-1]).astype(np.float32))
            value = insert(model, end, r.choice(["Mul", "Add", "Div", "Max", "Pow"]), [inner, numbers])
        case 2:
            value = insert(model, end, "Div", [inner, insert(model, end, "ReduceL2", [inner, ints(model, -1)], keepdims=1)])
        case 3:
            value = insert(model, end, "MatMul", [inner, constant(model, rng.normal(0, 1, (shape[-1], shape[-1])).astype(np.float32))])
        case _:
            value = insert(model, end, r.choice(["CumSum", "ReduceMax", "TopK"]), [inner, ints(model, r.choice([0, 1, -1]))])
    model.graph.node.append(helper.make_node("Identity", [value], [old], name=f"{old}_last"))


@structure
def in_front_of_everything(r, model, shapes):
    """What the host may run in front: a factor, a mean taken off, channels in another order, another type, a product."""
    given = r.choice(model.graph.input)
    shape = tuple(d.dim_value for d in given.type.tensor_type.shape.dim)
    rng = np.random.default_rng(r.randrange(1 << 30))
    match r.randrange(5):
        case 0:
            value = insert(model, 0, r.choice(["Mul", "Sub", "Div"]), [given.name, constant(model, rng.normal(1, 0.3, shape[1:]).astype(np.float32))])
        case 1:
            value = insert(model, 0, r.choice(ELEMENTWISE), [given.name])
        case 2:
            order = [0, *r.sample(range(1, len(shape)), len(shape) - 1)]
            turned = [shape[order.index(axis)] for axis in range(len(shape))]
            given.type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(1, turned).tensor_type.shape)
            value = insert(model, 0, "Transpose", [given.name], perm=order)
        case 3:
            given.type.tensor_type.elem_type = r.choice([TensorProto.UINT8, TensorProto.INT32, TensorProto.FLOAT16, TensorProto.DOUBLE])
            value = insert(model, 0, "Cast", [given.name], to=1)
        case _:
            value = insert(model, 0, "MatMul", [given.name, constant(model, rng.normal(0, 1, (shape[-1], shape[-1])).astype(np.float32))])
    for node in list(model.graph.node)[1:]:
        if value not in node.output:
            node.input[:] = [value if name == given.name else name for name in node.input]


@structure
@field
def inside_of_a_branch(r, model, shapes):
    """Another mutation, in the body of an If or a Loop."""
    bodies = [a.g for n in model.graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    inner = SimpleNamespace(graph=r.choice(bodies))
    for _ in range(4):
        try:
            r.choice([f for f in (*STRUCTURE, *FIELDS) if f is not inside_of_a_branch])(r, inner, shapes)
            return
        except NOT_FOR_IT:
            continue
