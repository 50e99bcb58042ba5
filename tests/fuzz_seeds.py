"""The networks that `fuzz.py` spoils: small encoders in every spelling and of every kind of file that is taken, (name, file)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
import tempfile

import onnx
from onnx import TensorProto, helper

from forms import FORMS
from moe_loops import LOOPS_OF_ONE
from moe_spellings import RENORMALIZED
import onnx_nets as nets
import test_host_parts as hosted
import test_importer_contrib as contrib
from test_importer_halves import in_halves
from test_importer_mixtures import network
import test_importer_tokens as constants
import test_structure as structures

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits" / "model.onnx"
VITS = ({}, {"split": "chunk", "norm": True, "act": "erf"}, {"split": "gather", "scale": "operator", "opset": 23},
        {"router": "plain"}, {"router": "renormalized", "act": "Gelu tanh"},
        {"split": "separate", "act": "silu", "pool": "mean", "layer_scale": True},
        {"guard": True, "scale": "halves", "pool": "mean of patches", "router": "softmax last", "combine": "x"},
        {"opset": 13, "norm": True, "act": "Relu"})
HALVES = ({}, {"act": "erf", "norm": True, "scale": "halves"}, {"router": "renormalized"})
NOT_RUN = ("scores: packed", "norm: microsoft")                     # forms that onnxruntime has no kernel for on a CPU
SECTIONS = ("Mixtures of experts: top k", "Mixtures of experts: the best alone", "Mixtures of experts: loops in which an expert sees its own tokens",
            "Quantized by onnxruntime and Brevitas", "In front of the engine", "Behind the engine")


def seeds() -> list[tuple[str, bytes]]:
    """All of them, in groups that differ in how they are written; the last, the bundled example, is by far the largest."""
    with tempfile.TemporaryDirectory() as folder:
        made = [*_plain(), *_mixtures(), *_halves(), *_contrib(), *_structures(), *_forms(Path(folder))]
    return [*((name, model if isinstance(model, bytes) else model.SerializeToString()) for name, model in made),
            ("m3vit_digits", EXAMPLE.read_bytes())]


def _plain() -> Iterable[tuple[str, onnx.ModelProto]]:
    """In many spellings, and some with as many tokens as channels."""
    for number, options in enumerate(VITS):
        net = nets.vit(**options)
        yield f"vit{number}", net.model({"logits": nets.result(net)}, (1, nets.CLASSES))
    for number, pool in enumerate(("class token", "mean", "tokens")):
        net = square()
        y = nets.result(net) if pool == "tokens" else net.head(nets.result(net), pool=pool)
        yield f"square{number}", net.model({"logits": y}, (1, 16, 16) if pool == "tokens" else (1, nets.CLASSES))


def _forms(folder: Path) -> Iterable[tuple[str, bytes]]:
    """Those of docs/reference/models.md: spellings of experts, quantized files, parts for the host."""
    for section in SECTIONS:
        for name, make in FORMS[section].items():
            yield f"{section.split(':')[0].split(' ')[0].lower()} {name}", make(folder).read_bytes()


def _mixtures() -> Iterable[tuple[str, onnx.ModelProto]]:
    for renormalize, k, spellings in ((True, 2, RENORMALIZED), (False, 1, LOOPS_OF_ONE)):
        for name, spelling in spellings.items():
            net = network(spelling, renormalize, k)
            yield f"mixtures {name}", net.model({"y": nets.result(net)}, (1, nets.CLASSES))


def _halves() -> Iterable[tuple[str, onnx.ModelProto]]:
    for kind in ("float16", "bfloat16"):
        for number, options in enumerate(HALVES):
            net = nets.vit(**options)
            yield f"{kind} {number}", in_halves(net.model({"y": nets.result(net)}, (1, nets.CLASSES)), kind, float_ends=number == 1)


def _contrib() -> Iterable[tuple[str, onnx.ModelProto]]:
    for name, options in contrib.FORMS.items():
        if name in NOT_RUN:
            continue
        net = contrib.encoder(**options)
        yield f"onnxruntime {name}", net.model({"y": nets.result(net)}, (1, nets.CLASSES))


def _structures() -> Iterable[tuple[str, onnx.ModelProto]]:
    """Hidden states and several outputs, networks without a residual stream or with several, constant tokens anywhere; outputs on the host."""
    for build in structures.NETWORKS + structures.WIDE:
        net = nets.Net(23)
        yield f"structure {build.__name__}", net.model(build(net), None)
    for name, tokens in constants.NETWORKS.items():
        net = nets.Net()
        x = net.linear(net.input("x", [1, constants.T, nets.DIM]), nets.DIM, nets.DIM)
        constants.encoder(net, net.op("Add", tokens(net, x), constants.dim_rows(net, 1)))
        yield f"tokens {name}", net.model({"y": nets.result(net)})
    net = nets.Net()
    n = hosted.blocks(net, net.embed(net.image()), 1)
    model = net.model({"hidden": n, "class": net.op("ArgMax", net.head(n), axis=-1, keepdims=0)}, None)
    model.graph.output[1].CopyFrom(helper.make_tensor_value_info("class", TensorProto.INT64, [1]))
    yield "outputs hidden state and class", model


def square() -> nets.Net:
    """A block on 16 tokens of 16 channels: what mixes up the two axes does not show in the shapes."""
    net = nets.Net()
    dim = nets.DIM
    x = net.op("Conv", net.image(), net.random(dim, 1, 2, 2), net.random(dim), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(1, dim, 16)), perm=[0, 2, 1])
    x = net.add(x, net.random(1, 16, dim))
    x = net.add(x, net.attention(net.norm(x), "separate"))
    hidden = net.op("Gemm", net.op("Reshape", net.norm(x), net.ints(16, dim)), net.random(dim, dim), net.random(dim), name="flat")
    y = net.op("Gemm", net.op("Relu", hidden), net.random(dim, dim), net.random(dim), name="flat2")
    x = net.add(x, net.op("Reshape", y, net.ints(1, 16, dim)))
    net.norm(x)
    return net
