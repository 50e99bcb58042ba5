"""Multiply-accumulates of what the host would run: counted from shapes, and never nothing for an operator that nobody knows."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper
import pytest

import hwgen
from hwgen.importer import read_any
from hwgen.importer.cut import Whole
from onnx_nets import CLASSES, DIM, IMAGE, Net
from test_host_parts import blocks, plain, saved

T, K, H = 6, 8, 5


def tokens(net: Net) -> str:
    return net.input("x", [1, T, K])


def lstm(net: Net, batch_first: bool = False) -> str:
    x = tokens(net)
    if not batch_first:
        x = net.op("Transpose", x, perm=[1, 0, 2])
    return net.op("LSTM", x, net.random(1, 4 * H, K), net.random(1, 4 * H, H), hidden_size=H, layout=int(batch_first), outputs=3)[0]


WORK = {
    "MatMul": (lambda net: net.op("MatMul", tokens(net), net.random(K, 3)), T * K * 3),
    "Gemm": (lambda net: net.op("Gemm", net.op("Reshape", tokens(net), net.ints(T, K)), net.random(3, K), transB=1), T * K * 3),
    "Conv": (lambda net: net.op("Conv", net.image(), net.random(7, 1, 3, 3), kernel_shape=[3, 3]), 7 * 9 * (IMAGE - 2) ** 2),
    "ConvTranspose": (lambda net: net.op("ConvTranspose", net.image(), net.random(1, 7, 2, 2), kernel_shape=[2, 2], strides=[2, 2]), 28 * IMAGE ** 2),
    "AveragePool": (lambda net: net.op("AveragePool", net.image(), kernel_shape=[2, 2], strides=[2, 2]), IMAGE ** 2),
    "Einsum": (lambda net: net.op("Einsum", tokens(net), net.random(2, K, 3), equation="btk,hkd->bhtd"), T * K * 6),
    "Einsum with an ellipsis": (lambda net: net.op("Einsum", tokens(net), net.random(K, 3), equation="...k,kd->...d"), T * K * 3),
    "Einsum with ellipses": (lambda net: net.op("Einsum", tokens(net), net.random(1, T, 4), equation="...tk,...td->...kd"), T * K * 4),
    "LSTM": (lstm, T * 4 * H * (K + H)),
    "LSTM, batch first": (lambda net: lstm(net, True), T * 4 * H * (K + H)),
    "Attention": (lambda net: net.op("Attention", *[tokens(net)] * 3, q_num_heads=2, kv_num_heads=2), 2 * T * T * K),
    "Relu": (lambda net: net.op("Relu", tokens(net)), 0),
}


@pytest.mark.parametrize("name", WORK)
def test_what_an_operator_is(tmp_path, name):
    build, expected = WORK[name]
    net = Net(23)
    path = net.save(tmp_path / "net.onnx", {"y": build(net)}, None)
    assert sum(Whole(read_any(path)).macs.values()) == expected


def work_of(tmp_path, model: onnx.ModelProto, name: str) -> int:
    onnx.save(model, tmp_path / "net.onnx")
    return Whole(read_any(tmp_path / "net.onnx")).macs.get(name, 0)


@pytest.mark.parametrize("domain", ["com.microsoft", "mine"])
def test_an_unknown_operator_multiplies_every_row_with_all_it_reads(tmp_path, domain):
    net = Net()
    y = net.op("Strange", tokens(net), net.random(40, K), domain=domain)
    assert work_of(tmp_path, net.model({"y": y}, [1, T, 40]), "strange_0") >= T * 40 * K
    assert work_of(tmp_path, net.model({"y": y}), "strange_0") >= T * 40 * K                              # of a shape that is not known


def test_a_function_may_hold_its_weights(tmp_path):
    net = Net()
    model = net.model({"y": net.op("F", tokens(net), domain="mine")}, [1, T, 40])
    weight = onnx.numpy_helper.from_array(np.ones((K, 40), np.float32))
    body = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["x", "w"], ["y"])]
    model.functions.append(helper.make_function("mine", "F", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))
    assert work_of(tmp_path, model, "f_0") >= T * 40 * K


def behind(kind: str):
    """Two blocks, and much work behind them."""
    def build(net: Net) -> dict[str, str]:
        if kind == "LSTM":
            x = net.op("Transpose", blocks(net, net.embed(net.image())), perm=[1, 0, 2])
            y = net.op("LSTM", x, net.random(1, 4 * 64, DIM), net.random(1, 4 * 64, 64), hidden_size=64, outputs=3)[1]
            return {"y": net.op("MatMul", net.op("Reshape", y, net.ints(1, 64)), net.random(64, CLASSES))}
        return {"y": net.op("Strange", plain(net)["y"], net.random(CLASSES, 4000), domain="mine")}
    return build


@pytest.mark.parametrize("kind", ["LSTM", "Strange"])
def test_heavy_work_is_not_left_to_the_host_unasked(tmp_path, kind):
    error = hwgen.check(saved(tmp_path, behind(kind), shape=(1, CLASSES))).error
    assert "only with --allow-host" in error.hint and math.inf > float(error.hint.split(" %")[0].split()[-1]) > 5
