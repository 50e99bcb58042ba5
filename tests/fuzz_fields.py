"""The mutations of `fuzz_mutations` that write what no exporter writes into single fields of the protobuf."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fuzz_mutations import BIG, MOVED, OPERATORS, constant, edge, field, insert, ints, weight

NAMES = ["", "../../x", "a\nb\"; $(true)", "<script>alert(1)</script>", "x" * 10_000, "\u202e\0", "*/ endmodule", "[bold]x[/bold]", "w0", "é中"]
PLACES = ["../../../../etc/passwd", "/etc/passwd", "/dev/zero", "net.onnx", "", ".", "..", "\0", "a" * 5000, "link.bin", "fifo",
          "nothing.bin", "C:\\x", "sub/../../net.onnx"]
NUMBERS = ["0", "-1", "x", "1e3", str(1 << 62), "4096", "", " 1", "²", "16", "1024"]


@field
def dims_of_a_weight(r, model, shapes):
    tensor = r.choice(model.graph.initializer)
    tensor.dims[r.randrange(len(tensor.dims))] = r.choice([0, 1, -1, 2, 7, 1 << 31, BIG, -(1 << 62)])


@field
def order_of_dims(r, model, shapes):
    tensor = r.choice([t for t in model.graph.initializer if len(t.dims) > 1])
    dims = list(tensor.dims)
    r.shuffle(dims)
    tensor.dims[:] = dims


@field
def huge_weight(r, model, shapes):
    tensor = r.choice(model.graph.initializer)
    tensor.dims[:] = [1 << 20, 1 << 20]
    if r.random() < 0.5:
        tensor.ClearField("raw_data")


@field
def type_of_a_weight(r, model, shapes):
    r.choice(model.graph.initializer).data_type = r.choice([*range(29), 99, -1])


@field
def bytes_of_a_weight(r, model, shapes):
    tensor = r.choice(model.graph.initializer)
    size = len(tensor.raw_data)
    tensor.raw_data = tensor.raw_data[:r.randrange(size + 1)] if r.random() < 0.5 else tensor.raw_data + bytes(r.randrange(1, 9))


@field
def external_weight(r, model, shapes):
    tensor = r.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": r.choice(PLACES), "offset": r.choice([*NUMBERS, None]), "length": r.choice([*NUMBERS, None])}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    if r.random() < 0.5:
        tensor.ClearField("raw_data")


@field
def weight_twice_or_not_at_all(r, model, shapes):
    weights = model.graph.initializer
    match r.randrange(4):
        case 0:
            del weights[r.randrange(len(weights))]
        case 1:
            r.choice(weights).name = r.choice(weights).name
        case 2:
            tensor = r.choice(weights)
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        case 3:
            sparse = model.graph.sparse_initializer.add()
            sparse.values.CopyFrom(r.choice(weights))
            sparse.dims.extend([1 << 20, 1 << 20])
            sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(3), "i"))


@field
def operator(r, model, shapes):
    r.choice(model.graph.node).op_type = r.choice(OPERATORS)


@field
def domain(r, model, shapes):
    r.choice(model.graph.node).domain = r.choice(["com.microsoft", "x", "ai.onnx.ml", "ai.onnx", "unknown"])


@field
def value_of_an_attribute(r, model, shapes):
    attribute = r.choice(r.choice([n for n in model.graph.node if n.attribute]).attribute)
    match attribute.type:
        case onnx.AttributeProto.INT:
            attribute.i = r.choice([0, 1, -1, 2, 3, -2, 99, -99, 1 << 62])
        case onnx.AttributeProto.FLOAT:
            attribute.f = r.choice([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30, 0.5, attribute.f * 1.5])
        case onnx.AttributeProto.INTS:
            attribute.ints[r.randrange(len(attribute.ints))] = r.choice([0, 1, -1, 2, 5, BIG, -BIG])
        case onnx.AttributeProto.STRING:
            attribute.s = r.choice([b"", b"tanh", b"none", b"SAME_UPPER", b"\xff\xfe", b"x" * 10_000])


@field
def attribute_itself(r, model, shapes):
    node = r.choice([n for n in model.graph.node if n.attribute])
    place = r.randrange(len(node.attribute))
    match r.randrange(4):
        case 0:
            del node.attribute[place]
        case 1:
            node.attribute[place].type = r.randrange(15)
        case 2:
            node.attribute.append(node.attribute[place])
        case 3:
            node.attribute[place].name = r.choice(["axis", "x", "perm", "ref_attr_name"])


@field
def order_of_nodes(r, model, shapes):
    nodes = list(model.graph.node)
    i, j = r.randrange(len(nodes)), r.randrange(len(nodes))
    match r.randrange(3):
        case 0:
            del nodes[i]
        case 1:
            nodes.append(nodes[i])
        case 2:
            nodes[i], nodes[j] = nodes[j], nodes[i]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


@field
def rewired(r, model, shapes):
    """To any value: a later one makes a circle."""
    node = r.choice([n for n in model.graph.node if n.input])
    values = [*(o for n in model.graph.node for o in n.output), *(t.name for t in model.graph.initializer), "", "nobody"]
    node.input[r.randrange(len(node.input))] = r.choice(values)


@field
def operand_dropped(r, model, shapes):
    node = r.choice([n for n in model.graph.node if n.input])
    del node.input[r.randrange(len(node.input))]


@field
def same_result(r, model, shapes):
    r.choice(model.graph.node).output[0] = r.choice(model.graph.node).output[0]


@field
def name_of_a_node(r, model, shapes):
    r.choice(model.graph.node).name = r.choice(NAMES)


@field
def opset(r, model, shapes):
    match r.randrange(4):
        case 0:
            model.opset_import[0].version = r.choice([*range(30), 99, -1, BIG])
        case 1:
            del model.opset_import[:]
        case 2:
            model.opset_import[0].domain = r.choice(["x", "ai.onnx", "com.microsoft"])
        case 3:
            model.opset_import.add(domain=r.choice(["", "ai.onnx", "x"]), version=r.choice([1, 20, BIG]))


@field
def ir_version(r, model, shapes):
    model.ir_version = r.choice([0, 1, 3, 4, 10, 13, 99, -1])


@field
def input_or_output(r, model, shapes):
    value = r.choice([*model.graph.input, *model.graph.output])
    tensor = value.type.tensor_type
    match r.randrange(8):
        case 0:
            tensor.elem_type = r.choice([0, 1, 6, 7, 8, 9, 10, 11, 16, 99])
        case 1:
            tensor.shape.dim[r.randrange(len(tensor.shape.dim))].dim_value = r.choice([0, 1, 2, 3, -1, 1 << 20, BIG])
        case 2:
            tensor.shape.dim[r.randrange(len(tensor.shape.dim))].dim_param = r.choice(["N", "", "a*b"])
        case 3:
            tensor.ClearField("shape")
        case 4:
            value.ClearField("type")
        case 5:
            value.name = r.choice(NAMES)
        case 6:
            del r.choice([model.graph.output, model.graph.input])[0]
        case 7:
            model.graph.output.append(value)


@field
def hidden_output(r, model, shapes):
    """A value of the network as a further output."""
    name = r.choice([o for n in model.graph.node for o in n.output if o in shapes])
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]))


@field
def deep_subgraphs(r, model, shapes):
    def graph(nodes):
        return helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    inner = graph([helper.make_node("Identity", [model.graph.input[0].name], ["y"])])
    for _ in range(r.choice([1, 3, 30, 45])):
        inner = graph([helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=graph([]))])
    constant(model, np.array(True), "flag")
    model.graph.node.insert(0, helper.make_node("If", ["flag"], ["deep"], then_branch=inner, else_branch=inner))


@field
def function(r, model, shapes):
    """A function that may call itself, may stand twice, or may write itself out a million times."""
    depth, times = r.choice([(1, 1), (1, 1), (30, 2), (200, 1)])
    loop = r.random() < 0.3
    for level in range(depth):
        made = model.functions.add(name=f"F{level}", domain="local")
        made.input.append("x")
        made.output.append("y")
        made.opset_import.extend([helper.make_opsetid("", 17), helper.make_opsetid("local", 1)])
        last = level == depth - 1
        kind, place = (("Identity", "") if not loop else ("F0", "local")) if last else (f"F{level + 1}", "local")
        values = ["x", *(f"v{i}" for i in range(times - 1)), "y"]
        made.node.extend(helper.make_node(kind, [a], [b], domain=place) for a, b in pairwise(values))
    if r.random() < 0.2:
        model.functions.append(model.functions[0])
    model.opset_import.append(helper.make_opsetid("local", 1))
    place, node, spot, _ = edge(r, model, shapes)
    value = insert(model, place, "F0", [node.input[spot]], domain="local")
    model.graph.node[place + 1].input[spot] = value


@field
def quantized(r, model, shapes):
    place, node, spot, _ = edge(r, model, shapes)
    scale, zero = constant(model, np.float32(r.choice([0, 1, -1, np.nan, 1e-30, 0.05]))), constant(model, np.int8(0), "fuzz_zero")
    value = insert(model, place, "QuantizeLinear", [node.input[spot], scale, zero])
    value = insert(model, place + 1, "DequantizeLinear", [value, scale, zero])
    model.graph.node[place + 2].input[spot] = value


@field
def explosion(r, model, shapes):
    """A constant, or a value, that is made far too large on the way."""
    place, node, spot, shape = edge(r, model, shapes)
    big = [r.choice([1 << 10, 1 << 15, 1 << 20, BIG]) for _ in range(r.choice([1, 2, 3]))]
    one = constant(model, np.ones((1,) * len(big), np.float32))
    many = {"ConstantOfShape": [ints(model, *big)], "Expand": [one, ints(model, *big)], "Tile": [one, ints(model, *big)],
            "Pad": [one, ints(model, *big, *big)], "Range": [constant(model, np.int64(v), f"range{v}_{place}") for v in (0, big[0], 1)],
            "Resize": [one, "", constant(model, np.array(big, np.float32))]}
    kind = r.choice(list(many))
    made = insert(model, place, kind, many[kind])
    if r.random() < 0.5:
        made = insert(model, place + 1, "MatMul", [made, made])
        place += 1
    made = insert(model, place + 1, r.choice(["ReduceMax", "Identity", "Sqrt"]), [made])
    if r.random() < 0.5:
        made = insert(model, place + 2, r.choice(["Expand", "Tile", "Reshape"]), [node.input[spot], ints(model, *big, *shape)])
    else:
        made = insert(model, place + 2, "Add", [node.input[spot], made])
    model.graph.node[place + 3].input[spot] = made


@field
def ints_of_a_move(r, model, shapes):
    node = r.choice([n for n in model.graph.node if n.op_type in MOVED and len(n.input) > 1])
    spot = r.randrange(1, len(node.input))
    node.input[spot] = ints(model, *(r.choice([0, 1, -1, 2, 4, 5, 16, BIG, -BIG]) for _ in range(r.randrange(5))))


@field
def weight_of_another_kind(r, model, shapes):
    """Values of the same number in double, float16, int, bool or text."""
    tensor = weight(r, model)
    array = numpy_helper.to_array(tensor).astype(r.choice([np.float64, np.float16, np.int64, np.bool_, np.int8]))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
