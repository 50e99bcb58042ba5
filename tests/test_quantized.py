"""Quantized files: read as the float network they stand for, exactly; their scales and whole numbers are taken; what is not is named."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import onnxruntime
import pytest

import hwgen
from hwgen import api, frontend
from hwgen.errors import ModelError
from hwgen.importer import check_model, import_model
from hwgen.importer.integers import Wrong, of_blocks, real
from hwgen.importer.quantized import unquantized
from hwgen.importer.read import read
from hwgen.steps import golden, host
import onnx_nets as nets
import quantized_nets as forms
from quantized_nets import STATIC

MS = "com.microsoft"
FILES = {
    **{name: (lambda folder, name=name: forms.static(folder, name)) for name in STATIC if name not in ("int4", "int16")},
    "erf gelu": lambda folder: forms.static(folder, "uint8", act="erf", opset=17, norm=True),
    "relu": lambda folder: forms.static(folder, "int8", act="Relu", split="separate", pool="mean"),
    "computed weights": lambda folder: forms.static(folder, "int8", computed=True),
    "computed weights, operators": lambda folder: forms.static(folder, "uint8 operators", computed=True),
    "4 bit weights": lambda folder: forms.static(folder, "int4", opset=21),
    "16 bits": lambda folder: forms.static(folder, "int16", opset=21),
    "attention operator": lambda folder: forms.static(folder, "int8", opset=23, scale="operator"),
    "scaled halves": lambda folder: forms.static(folder, "symmetric", scale="halves", layer_scale=True),
    "experts": lambda folder: forms.static(folder, "symmetric", router="plain"),
    "dynamic": forms.dynamic,
    "4 bits in blocks": forms.blocks,
    "8 bits in blocks": lambda folder: forms.blocks(folder, 8, symmetric=False),
    "Brevitas": forms.brevitas,
}


def session(source) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 4, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def cosine(a, b) -> float:
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def planned(path, **options):
    return frontend.plan(import_model(path), frontend.Options(calib={"x": forms.images(32)}, **options), lambda stage: None)


def integer_outputs(plan, images):
    (network,) = plan.quantized.tasks
    return host.dequantize(network, golden.run(network, images))["logits"].reshape(len(images), -1)


@pytest.mark.parametrize("form", FILES)
def test_a_quantized_file_compiles_to_what_it_computes(tmp_path, form):
    """Float network: as onnxruntime has it of the float network in the file. Integer network: as onnxruntime has it of the file."""
    path = FILES[form](tmp_path)
    plan = planned(path)
    assert plan.onnx.onnx_cosine > 0.99999 and plan.onnx.runtime.startswith("onnxruntime")
    images = forms.images()[32:]
    source = str(path) if form != "Brevitas" else plan.imported.float_file
    right = np.stack([session(source).run(None, {"x": image[None]})[0].ravel() for image in images])
    found = cosine(right, integer_outputs(plan, images))
    assert found > 0.98, (form, found)
    assert list(plan.said.cosine) == ["logits"] and plan.said.cosine["logits"] > 0.98


@pytest.mark.parametrize("form", FILES)
def test_every_node_of_the_file_has_a_verdict_under_its_name(tmp_path, form):
    path = FILES[form](tmp_path)
    checked, nodes = check_model(path), onnx.load(path).graph.node
    assert [(v.node, v.op.split(".")[-1]) for v in checked.verdicts if v.node] == [(node.name or f"{node.op_type}:{node.output[0]}", node.op_type)
                                                                                   for node in nodes]
    text = str(api.show(path, "onnx"))
    assert all(f"= {node.op_type}" in text or node.domain for node in nodes)


def tensors(plan):
    (network,) = plan.quantized.tasks
    return {sink.tensor.name: sink.tensor for step in network.steps for sink in step.sinks}, network


def test_scales_of_values_are_those_of_the_file(tmp_path):
    path = forms.static(tmp_path, "symmetric", split="separate")
    plan, said = planned(path), forms.rounding(path)
    found, _ = tensors(plan)
    graph = plan.imported.model.tasks[0]
    attention = next(node for node in graph.nodes if type(node).__name__ == "Attention")
    values = [*attention.inputs, attention.output, next(node.output for node in graph.nodes if type(node).__name__ == "Activation")]
    assert len(values) == 5
    for value in values:
        assert any(found[value].scale == pytest.approx(scale, rel=1e-6) for scale in said.values()), value
    named = [*(value for value in values if value in said), "x"]
    assert len(named) >= 3
    for value in named:
        assert found["x.int8" if value == "x" else value].scale == pytest.approx(said[value], rel=1e-6)


@pytest.mark.parametrize("form", ["symmetric", "int8", "dynamic", "Brevitas"])
def test_whole_numbers_of_weights_are_those_of_the_file(tmp_path, form):
    """Of weights behind no LayerNorm: embedding, output projection of the attention, second layer of the MLP."""
    path = FILES[form](tmp_path)
    plan = planned(path)
    _, network = tensors(plan)
    held = [step.tile.weight.array for step in network.steps if hasattr(step.tile, "weight")]
    graph = onnx.load(path).graph
    stored = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    if form == "Brevitas":
        known = dict(zip((tensor.name for tensor in graph.initializer), stored, strict=True))
        scales = [(known[node.input[0]], known[node.input[1]]) for node in graph.node if node.op_type == "Quant" and node.input[0] in known]
        stored = [np.rint(weight / scale).astype(np.int8) for weight, scale in scales]
    matrices = [array.reshape(len(array), -1).T if array.ndim == 4 else array for array in stored if array.dtype == np.int8 and array.ndim in (2, 4)]
    for rows, columns in ((nets.PATCH ** 2, nets.DIM), (nets.DIM, nets.DIM), (nets.HIDDEN, nets.DIM)):
        wanted = [matrix for matrix in matrices if matrix.shape == (rows, columns)]
        assert any(np.array_equal(array, matrix) for array in held if array.shape == (rows, columns) for matrix in wanted), (rows, columns)


def test_16_bits_are_taken_where_the_hardware_has_them(tmp_path):
    """Operands of linear maps: results of a LayerNorm, of the attention, of the activation function; q, k and v have 8 over the same range."""
    plan = planned(FILES["16 bits"](tmp_path))
    found, _ = tensors(plan)
    nodes = {type(node).__name__: node for node in reversed(plan.imported.model.tasks[0].nodes)}
    assert [found[nodes[kind].output].format.bits for kind in ("Attention", "Activation", "LayerNorm")] == [16, 16, 16]
    assert [found[value].format.bits for value in nodes["Attention"].inputs] == [8, 8, 8]
    assert any("values that it rounds to 16 bits have 8 here" in text for text in plan.warnings)


def test_what_is_not_taken_is_named(tmp_path):
    plan = planned(forms.static(tmp_path, "uint8"))
    text = " ".join(plan.warnings)
    assert "ranges that are not symmetric" in text and "'x' (zero point" in text
    assert "LayerNorm results are rounded before gamma and beta here" in text
    assert "have 16 or more here (residual stream" in text
    assert "weights have scales of their own here" in text
    plan = planned(forms.dynamic(tmp_path))
    assert any("find a scale anew for every image" in text for text in plan.warnings)


def test_a_norm_with_one_gamma_and_no_beta_keeps_the_scale_of_the_file(tmp_path):
    net = nets.Net()
    t = net.embed(net.image())
    n = net.op("LayerNormalization", t, net.const(np.full(nets.DIM, 2.0)), net.const(np.zeros(nets.DIM)), axis=-1)
    scale, zero = net.const(0.05), net.const(0, np.int8)
    n = net.op("DequantizeLinear", net.op("QuantizeLinear", n, scale, zero), scale, zero)
    t = net.add(t, net.mlp(n))
    path = net.save(tmp_path / "net.onnx", {"logits": net.head(net.norm(t))}, [1, nets.CLASSES])
    plan = planned(path)
    found, _ = tensors(plan)
    norm = plan.imported.model.tasks[0].nodes[3]
    assert type(norm).__name__ == "LayerNorm" and found[norm.output].scale == pytest.approx(0.025, rel=1e-6)


# ---------------------------------------------------------------- operators, one by one

def one_operator(tmp_path, domain, kind, inputs, constants, shape, **attrs):
    """A file with the operator between float values: ``inputs`` (name, shape, scale, zero) are quantized, its int8 result too."""
    nodes, infos, tensors_, names = [], [], [], []
    for name, size, scale, zero in inputs:
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, size))
        tensors_ += [numpy_helper.from_array(np.float32(scale), f"{name}_s"), numpy_helper.from_array(zero, f"{name}_z")]
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_q"]))
        names += [f"{name}_q", f"{name}_s", f"{name}_z"]
    tensors_ += [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    order = attrs.pop("order")
    floats = attrs.pop("floats", False)
    nodes.append(helper.make_node(kind, order, ["y" if floats else "y_q"], domain=domain, **attrs))
    if not floats:
        nodes.append(helper.make_node("DequantizeLinear", ["y_q", "y_s", "y_z"], ["y"]))
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], tensors_)
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=8), path)
    return path


R = np.random.default_rng(1)
W = R.integers(-127, 128, (6, 8)).astype(np.int8)
Z8, ZU = np.int8(-5), np.uint8(131)
X = ("x", [1, 4, 6], 0.02, ZU)
B = {"b": W, "b_s": R.uniform(0.01, 0.02, 8).astype(np.float32), "b_z": np.zeros(8, np.int8)}
Y = {"y_s": np.float32(0.1), "y_z": np.uint8(120)}
OUT = ["y_s", "y_z"]
PAIR = ([("x", [1, 4, 6], 0.02, ZU), ("w", [1, 4, 6], 0.03, np.uint8(7))], Y, [1, 4, 6])
TWO = ["x_q", "x_s", "x_z", "w_q", "w_s", "w_z", *OUT]
ONE = ["x_q", "x_s", "x_z", *OUT]
OPERATORS = {
    "QLinearMatMul": ("", [X], B | Y, [1, 4, 8], {"order": ["x_q", "x_s", "x_z", "b", "b_s", "b_z", *OUT]}),
    "QLinearConv": ("", [("x", [1, 3, 4, 4], 0.02, ZU)],
                    Y | {"b": R.integers(-127, 128, (5, 3, 2, 2)).astype(np.int8), "b_s": R.uniform(0.01, 0.02, 5).astype(np.float32),
                         "b_z": np.zeros(5, np.int8), "c": R.integers(-999, 999, 5).astype(np.int32)}, [1, 5, 2, 2],
                    {"order": ["x_q", "x_s", "x_z", "b", "b_s", "b_z", *OUT, "c"], "strides": [2, 2]}),
    "QGemm": (MS, [("x", [1, 6], 0.02, ZU)], B | Y | {"b": np.ascontiguousarray(W.T), "c": R.integers(-999, 999, 8).astype(np.int32)}, [1, 8],
              {"order": ["x_q", "x_s", "x_z", "b", "b_s", "b_z", "c", *OUT], "transB": 1}),
    "QLinearAdd": (MS, *PAIR, {"order": TWO}), "QLinearMul": (MS, *PAIR, {"order": TWO}),
    "QLinearSigmoid": (MS, [X], {"y_s": np.float32(1 / 255), "y_z": np.uint8(0)}, [1, 4, 6], {"order": ONE}),
    "QLinearLeakyRelu": (MS, [X], Y, [1, 4, 6], {"order": ONE, "alpha": 0.1}),
    "QLinearSoftmax": (MS, [X], {"y_s": np.float32(1 / 256), "y_z": np.uint8(0)}, [1, 4, 6], {"order": ONE, "axis": -1, "opset": 17}),
    "QLinearGlobalAveragePool": (MS, [("x", [1, 3, 4, 4], 0.02, ZU)], Y, [1, 3, 1, 1], {"order": ONE, "channels_last": 0}),
    "QLinearConcat": (MS, PAIR[0], Y, [1, 8, 6], {"order": [*OUT, *TWO[:6]], "axis": 1}),
    "QAttention": (MS, [("x", [1, 4, 6], 0.02, ZU)],
                   {"b": R.integers(-127, 128, (6, 18)).astype(np.int8), "b_s": np.float32(0.01), "b_z": np.int8(0),
                    "c": R.standard_normal(18).astype(np.float32)}, [1, 4, 6],
                   {"order": ["x_q", "b", "c", "x_s", "b_s", "", "x_z", "b_z"], "num_heads": 2, "floats": True}),
    "QLinearWhere": (MS, PAIR[0], Y | {"if": R.integers(0, 2, (1, 4, 6)).astype(bool)}, [1, 4, 6], {"order": ["if", *TWO]}),
    "MatMulIntegerToFloat": (MS, [X], B, [1, 4, 8], {"order": ["x_q", "b", "x_s", "b_s", "x_z", "b_z"], "floats": True}),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_of_integers_is_the_float_one_but_for_rounding(tmp_path, kind):
    """Inputs that need no rounding: what is left is the rounding of the result, half a step, and one step where onnxruntime rounds twice."""
    domain, inputs, constants, shape, attrs = OPERATORS[kind]
    path = one_operator(tmp_path, domain, kind, inputs, constants, shape, **attrs)
    rng = np.random.default_rng(3)
    feeds = {name: ((rng.integers(60, 200, size) - int(zero)) * np.float32(scale)).astype(np.float32) for name, size, scale, zero in inputs}
    right = session(str(path)).run(None, feeds)[0]
    file = unquantized(read(path, {}))
    found = session(file.proto.SerializeToString()).run(None, feeds)[0]
    if attrs.get("floats"):
        assert np.allclose(right, found, rtol=1e-5, atol=1e-5)
        return
    step, zero = float(constants["y_s"]), int(constants["y_z"])
    found = np.clip(found, -zero * step, (255 - zero) * step)
    assert np.abs(right - found).max() <= 1.01 * step and np.abs(right - found).mean() < 0.4 * step


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_blocks_are_what_onnxruntime_makes_of_them(tmp_path, bits, zeros):
    k, n, block = 40, 6, 16
    rng, count = np.random.default_rng(bits), -(-k // block)
    packed = rng.integers(0, 256, (n, count, block * bits // 8)).astype(np.uint8)
    scales = rng.standard_normal(n * count).astype(np.float32)
    points = rng.integers(0, 256, (n, -(-count * bits // 8))).astype(np.uint8) if zeros else None
    node = helper.make_node("MatMulNBits", ["x", "b", "s", *(["z"] if zeros else [])], ["y"], domain=MS, K=k, N=n, bits=bits, block_size=block)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [k, k])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [k, n])],
                              [numpy_helper.from_array(array, name) for name, array in (("b", packed), ("s", scales), ("z", points))
                               if array is not None])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(MS, 1)], ir_version=9)
    right = session(model.SerializeToString()).run(None, {"x": np.eye(k, dtype=np.float32)})[0]
    assert np.allclose(of_blocks(packed, scales, points, None, k, n, bits, block), right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("axis", "block", "scales"), [(1, 0, ()), (0, 0, (4,)), (-1, 0, (6,)), (0, 2, (2, 6)), (1, 3, (4, 2))])
def test_constants_are_what_dequantize_linear_makes_of_them(axis, block, scales):
    rng = np.random.default_rng(0)
    integers, scale = rng.integers(-128, 128, (4, 6)).astype(np.int8), rng.uniform(0.01, 0.1, scales).astype(np.float32)
    zero = rng.integers(-5, 5, scales).astype(np.int8)
    attrs = {"axis": axis} | ({"block_size": block} if block else {})
    graph = helper.make_graph([helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs)], "g",
                              [helper.make_tensor_value_info(name, kind, array.shape) for name, kind, array in
                               (("q", TensorProto.INT8, integers), ("s", TensorProto.FLOAT, scale), ("z", TensorProto.INT8, zero))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 6])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    right = session(model.SerializeToString()).run(None, {"q": integers, "s": scale, "z": zero})[0]
    assert np.array_equal(real(integers, scale, zero, axis, block), right)


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf])
def test_a_scale_is_a_positive_number(scale):
    with pytest.raises(Wrong, match="a scale is a positive number"):
        real(np.zeros((2, 2), np.int8), np.float32(scale), None, 0)


# ---------------------------------------------------------------- files that contradict themselves

def pair(net, x, s1=0.1, s2=0.1, z1=0, z2=0, kind=np.int8):
    q = net.op("QuantizeLinear", x, net.const(s1), net.const(z1, kind), name="Q")
    return net.op("DequantizeLinear", q, net.const(s2), net.const(z2, kind), name="DQ")


def weight(net, array, scale, zero, axis=1, kind=np.int8):
    return net.op("DequantizeLinear", net.const(array, kind, name="kernel"), net.const(scale), net.const(zero, kind), axis=axis, name="DQ")


def quant(net, x, domain=forms.QONNX, kind="Quant", scale=0.1, bits=8.0, **attrs):
    if kind == "BipolarQuant":
        return net.op(kind, x, net.const(scale), name="Q", domain=domain)
    return net.op(kind, x, net.const(scale), net.const(0.0), net.const(bits), name="Q", domain=domain, **attrs)


D = nets.DIM
BAD = {
    "contradict": (lambda net, n: pair(net, n, 0.1, 0.2), "DequantizeLinear node 'DQ'", "the two contradict each other"),
    "zero points contradict": (lambda net, n: pair(net, n, z2=3), "DequantizeLinear node 'DQ'", "the two contradict each other"),
    "negative": (lambda net, n: pair(net, n, -0.1, -0.1), "QuantizeLinear node 'Q'", "has the scale -0.1"),
    "zero": (lambda net, n: pair(net, n, 0.0, 0.0), "QuantizeLinear node 'Q'", "has the scale 0"),
    "NaN": (lambda net, n: pair(net, n, np.nan, np.nan), "QuantizeLinear node 'Q'", "has the scale nan"),
    "weight zero": (lambda net, n: net.op("MatMul", n, weight(net, np.full((D, D), 120), 0.1, -20)), "DequantizeLinear node 'DQ'",
                    "gives the weight 'kernel' zero points"),
    "uint8 weight": (lambda net, n: net.op("MatMul", n, weight(net, net.rng.integers(0, 256, (D, D)), 0.1, 100, kind=np.uint8)),
                     "DequantizeLinear node 'DQ'", "gives the weight 'kernel' zero points"),
    "weight negative": (lambda net, n: net.op("MatMul", n, weight(net, np.full((D, D), 12), np.full(D, -0.1), np.zeros(D))),
                        "DequantizeLinear node 'DQ'", "has the scale -0.1"),
    "axis": (lambda net, n: net.op("MatMul", n, weight(net, np.full((D, D), 12), np.full(D, 0.1), np.zeros(D), axis=7)),
             "DequantizeLinear node 'DQ'", "axis"),
    "channels": (lambda net, n: net.op("DequantizeLinear", net.op("QuantizeLinear", n, net.const(np.linspace(0.1, 0.2, D)),
                                                                  net.const(np.zeros(D), np.int8), axis=2, name="Q"),
                                       net.const(np.linspace(0.1, 0.2, D)), net.const(np.zeros(D), np.int8), axis=2),
                 "QuantizeLinear node 'Q'", "a computed value has one"),
    "integers": (lambda net, n: net.op("Cast", net.op("QuantizeLinear", n, net.const(0.1), net.const(0, np.int8)), to=1, name="C"),
                 "Cast node 'C'", "computes with the integers"),
    "never quantized": (lambda net, n: net.op("DequantizeLinear", net.op("Cast", n, to=TensorProto.INT8), net.const(0.1), name="DQ"),
                        "DequantizeLinear node 'DQ'", "no node before it quantizes"),
    "computed scale": (lambda net, n: net.op("DequantizeLinear", net.op("QuantizeLinear", n, net.op("ReduceMax", n, keepdims=0), name="Q"),
                                             net.const(0.1)), "QuantizeLinear node 'Q'", "no constant"),
    "bipolar": (lambda net, n: quant(net, n, kind="BipolarQuant"), "BipolarQuant node 'Q'", "keeps a value in one bit"),
    "Quant negative": (lambda net, n: quant(net, n, scale=-0.1), "Quant node 'Q'", "has the scale -0.1"),
    "Quant of a channel": (lambda net, n: quant(net, n, scale=np.linspace(0.1, 0.2, D)), "Quant node 'Q'", "a computed value has one"),
    "Quant floor": (lambda net, n: quant(net, n, rounding_mode="FLOOR"), "Quant node 'Q'", "rounds"),
    "Quant half a bit": (lambda net, n: quant(net, n, bits=7.5), "Quant node 'Q'", "whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_taken_is_refused_with_the_node(tmp_path, case):
    build, place, reason = BAD[case]
    net = nets.Net(20)
    t = net.embed(net.image())
    t = net.add(t, net.linear(build(net, net.norm(t)), D, D))
    path = net.save(tmp_path / "net.onnx", {"logits": net.head(net.norm(t))}, [1, nets.CLASSES])
    checked = hwgen.check(path)
    assert not checked.ok and checked.error.hint
    assert place in str(checked.error) and reason in checked.error.message, str(checked.error)
    with pytest.raises(ModelError) as error:
        hwgen.compile(path, out=tmp_path / "build")
    assert str(error.value) == str(checked.error) and not (tmp_path / "build").exists()


def test_two_scales_of_one_value_are_refused(tmp_path):
    """Two Linear nodes read one activation, each rounded in its own way."""
    net = nets.Net()
    t = net.embed(net.image())
    y = net.op("Relu", net.linear(net.norm(t), D, D))
    for number, scale in enumerate((0.1, 0.2)):
        given, zero = net.const(scale), net.const(0, np.int8)
        t = net.add(t, net.linear(net.op("DequantizeLinear", net.op("QuantizeLinear", y, given, zero, name=f"Q{number}"), given, zero), D, D))
    path = net.save(tmp_path / "net.onnx", {"logits": net.head(net.norm(t))}, [1, nets.CLASSES])
    with pytest.raises(ModelError, match=r"node 'Q1' gives 'relu_0.out' the scale 0.2 .* node 'Q0' the scale 0.1 .*: a value has one"):
        hwgen.compile(path, out=tmp_path / "build")
    assert not (tmp_path / "build").exists()


def test_a_file_that_relies_on_what_its_rounding_cuts_off_is_refused(tmp_path):
    """One scale far too small: the file saturates, the float network in it does not."""
    path = forms.static(tmp_path, "symmetric")
    model = onnx.load(path)
    (node,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "add_0.out"]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(50), tensor.name))
    onnx.save(model, path)
    for options in ({}, {"calib": {"x": forms.images(32)}}):
        with pytest.raises(ModelError, match="the quantized file computes something else than the float network in it: output 'logits'") as error:
            hwgen.compile(path, out=tmp_path / "build", **options)
        assert error.value.exit_code == 2 and "ranges that hold the values" in error.value.hint and not (tmp_path / "build").exists()


def test_a_file_whose_output_stays_in_integers_is_refused(tmp_path):
    net = nets.Net()
    y = net.op("QuantizeLinear", net.head(net.norm(net.embed(net.image()))), net.const(0.1), net.const(0, np.int8))
    model = net.model({"y": y}, [1, nets.CLASSES])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, tmp_path / "net.onnx")
    checked = hwgen.check(tmp_path / "net.onnx")
    assert "output 'y' holds integers" in checked.error.message and "DequantizeLinear" in checked.error.hint


@pytest.mark.parametrize("scale", [-0.1, 0.0, np.nan])
def test_a_scale_of_a_weight_that_is_none_is_refused_in_a_dynamic_file(tmp_path, scale):
    path = forms.dynamic(tmp_path)
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.op_type == "Mul" and any("scale" in name and name in stored for name in node.input))
    tensor = next(stored[name] for name in node.input if name in stored)
    tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, scale, np.float32), tensor.name))
    onnx.save(model, path)
    error = hwgen.check(path).error
    assert f"Mul node {node.name!r} cannot be read: it has the scale {scale:g}" in str(error) and error.hint


def test_a_bias_that_overflows_the_sums_is_refused(tmp_path):
    path = forms.static(tmp_path, "operators")
    model = onnx.load(path)
    (conv,) = (node for node in model.graph.node if node.op_type == "QLinearConv")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[8])
    bias.CopyFrom(numpy_helper.from_array(np.full(D, np.iinfo(np.int32).min, np.int32), bias.name))
    onnx.save(model, path)
    error = hwgen.check(path).error
    assert "QLinearConv node" in str(error) and "a bias of -2,147,483,648, which leaves its sums of 32 bits no room" in str(error) and error.hint
