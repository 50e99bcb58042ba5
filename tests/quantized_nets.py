"""Quantized files of the small networks of `onnx_nets`, as onnxruntime's quantizers write them, and one as Brevitas does."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import onnx_nets as nets

IMAGES = 40
QONNX = "qonnx.custom_op.general"
INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8
STATIC = {
    "symmetric": {"activation_type": INT8, "weight_type": INT8, "per_channel": True, "extra_options": {"ActivationSymmetric": True}},
    "matmul only": {"activation_type": INT8, "weight_type": INT8, "op_types_to_quantize": ["MatMul"], "extra_options": {"ActivationSymmetric": True}},
    "uint8": {"activation_type": UINT8, "weight_type": INT8, "per_channel": True},
    "int8": {"activation_type": INT8, "weight_type": INT8},
    "operators": {"quant_format": QuantFormat.QOperator, "activation_type": INT8, "weight_type": INT8},
    "uint8 operators": {"quant_format": QuantFormat.QOperator, "activation_type": UINT8, "weight_type": INT8},
    "int4": {"activation_type": INT8, "weight_type": QuantType.QInt4, "extra_options": {"ActivationSymmetric": True}},
    "int16": {"activation_type": QuantType.QInt16, "weight_type": INT8},
    "com.microsoft": {"activation_type": UINT8, "weight_type": INT8, "extra_options": {"UseQDQContribOps": True, "WeightSymmetric": True}},
}


def images(count: int = IMAGES, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 1, nets.IMAGE, nets.IMAGE)).astype(np.float32)


class Reader(CalibrationDataReader):
    """Hands the images to onnxruntime's calibration."""

    def __init__(self, arrays: np.ndarray):
        self.left = iter([{"x": array[None]} for array in arrays])

    def get_next(self):
        return next(self.left, None)


def float_file(folder: Path, **options) -> Path:
    """computed: weights of products are Transposes of stored ones, as torch.onnx leaves them: quantizers take them for values."""
    computed = options.pop("computed", False)
    net = nets.vit(**options)
    if computed:
        stored = {tensor.name: tensor for tensor in net.weights}
        turned = []
        for node in net.nodes:
            if node.op_type == "MatMul" and (tensor := stored.get(node.input[1])) is not None:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).T.copy(), tensor.name))
                turned.append(helper.make_node("Transpose", [tensor.name], [f"{tensor.name}.T"], name=f"{tensor.name}.turned", perm=[1, 0]))
                node.input[1] = f"{tensor.name}.T"
        net.nodes[:0] = turned
    return net.save(folder / "float.onnx", {"logits": nets.result(net)}, (1, nets.CLASSES))


def static(folder: Path, form: str, **options) -> Path:
    """``form``: one of `STATIC`."""
    logging.disable(logging.WARNING)
    try:
        quantize_static(float_file(folder, **options), folder / "q.onnx", Reader(images(32)), **STATIC[form])
    finally:
        logging.disable(logging.NOTSET)
    return folder / "q.onnx"


def dynamic(folder: Path, **options) -> Path:
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(float_file(folder, **options), folder / "q.onnx", weight_type=INT8)
    finally:
        logging.disable(logging.NOTSET)
    return folder / "q.onnx"


def blocks(folder: Path, bits: int = 4, symmetric: bool = True, block: int = 16, **options) -> Path:
    """Weights of ``bits`` bits in blocks, as onnxruntime's MatMulNBitsQuantizer writes them."""
    model = onnx.load(float_file(folder, **options))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMul" or (weight := weights.get(node.input[1])) is None:
            continue
        (k, n), top = weight.shape, (1 << bits) - 1
        count = -(-k // block)
        parts = np.zeros((n, count * block), np.float32)
        parts[:, :k] = weight.T
        parts = parts.reshape(n, count, block)
        low, high = np.minimum(parts.min(-1), 0), np.maximum(parts.max(-1), 0)
        largest = np.where(-low > high, low, high)
        scale = largest / -(1 << bits - 1) if symmetric else (high - low) / top
        zero = np.full((n, count), 1 << bits - 1) if symmetric else np.clip(np.rint(-low / scale), 0, top)
        q = np.clip(np.rint(parts / scale[..., None]) + zero[..., None], 0, top).astype(np.uint8)
        made = {"packed": packed(q, bits), "scales": scale.astype(np.float32).reshape(-1)}
        if not symmetric:
            made["zeros"] = packed(zero.astype(np.uint8), bits).reshape(-1)
        names = [f"{node.input[1]}.{key}" for key in made]
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in zip(made.values(), names, strict=True))
        node.CopyFrom(helper.make_node("MatMulNBits", [node.input[0], *names], node.output, name=node.name, domain="com.microsoft", K=k, N=n,
                                       bits=bits, block_size=block))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, folder / "q.onnx")
    return folder / "q.onnx"


def packed(q: np.ndarray, bits: int) -> np.ndarray:
    """Two numbers of 4 bits in a byte, the first below."""
    return q if bits == 8 else np.pad(q, [(0, 0)] * (q.ndim - 1) + [(0, q.shape[-1] % 2)])[..., ::2] | np.pad(
        q, [(0, 0)] * (q.ndim - 1) + [(0, q.shape[-1] % 2)])[..., 1::2] << 4


def brevitas(folder: Path, bits: int = 8) -> Path:
    """A ``Quant`` on every weight, one scale a channel, and on every operand of a matrix product."""
    model = onnx.load(float_file(folder))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made: list[onnx.TensorProto] = []

    def quant(value: str, scale: np.ndarray) -> str:
        names = [f"{value}.{place}.{len(made)}" for place in ("scale", "zero", "bits")]
        made.extend(numpy_helper.from_array(np.asarray(array, np.float32), name) for array, name in zip((scale, 0, bits), names, strict=True))
        nodes.append(helper.make_node("Quant", [value, *names], [f"{value}.quant{len(made)}"], name=f"Quant_{len(made)}", domain=QONNX, signed=1,
                                      narrow=1, rounding_mode="ROUND"))
        return nodes[-1].output[0]
    for node in model.graph.node:
        for place, value in enumerate(node.input):
            if node.op_type not in ("MatMul", "Gemm", "Conv") or place == 2:
                continue
            array = weights.get(value)
            axes = () if array is None else tuple(range(1, array.ndim)) if node.op_type != "MatMul" else 0
            top = np.float32(4.0) if array is None else np.abs(array).max(axes, keepdims=True)
            node.input[place] = quant(value, np.asarray(top / ((1 << bits - 1) - 1)))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(made)
    model.opset_import.append(helper.make_opsetid(QONNX, 1))
    onnx.save(model, folder / "q.onnx")
    return folder / "q.onnx"


def rounding(path: Path) -> dict[str, float]:
    """Scale of every QuantizeLinear on a computed value, by the value that it reads."""
    graph = onnx.load(path).graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {node.input[0]: float(known[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in known}
