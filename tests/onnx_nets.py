"""Small ONNX networks for the importer's tests, written node by node in the spellings exporters use."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE, PATCH, DIM, HEADS, HIDDEN, EXPERTS, CLASSES = 8, 4, 16, 2, 24, 4, 5
TOKENS = (IMAGE // PATCH) ** 2 + 1
INDEX_END = np.iinfo(np.int64).max


class Net:
    """Collects nodes and weights; every method returns the name of the value it makes."""

    def __init__(self, opset: int = 20, seed: int = 0):
        self.opset, self.rng = opset, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape, kind=TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def const(self, value, dtype=np.float32, name: str | None = None) -> str:
        name = name or f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values) -> str:
        return self.const(values, np.int64)

    def random(self, *shape, scale: float = 0.2, offset: float = 0.0) -> str:
        return self.const(self.rng.normal(offset, scale, shape))

    def op(self, kind: str, *inputs: str, name: str | None = None, outputs: int = 1, domain: str = "", **attrs):
        count = sum(node.op_type == kind for node in self.nodes)
        name = name or f"{kind.lower()}_{count}"
        results = [f"{name}.out{i}" if i else f"{name}.out" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), results, name=name, domain=domain, **attrs))
        return results[0] if outputs == 1 else results

    def model(self, outputs: dict[str, str], shape=("batch", "classes")) -> onnx.ModelProto:
        """outputs: ONNX output name -> value. shape: of each, by its name if they differ, or None for those that follow."""
        last = [helper.make_node("Identity", [value], [name], name=f"out_{name}") for name, value in outputs.items()]
        shapes = shape if isinstance(shape, dict) else dict.fromkeys(outputs, shape)
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name] and list(shapes[name])) for name in outputs]
        graph = helper.make_graph([*self.nodes, *last], "net", self.inputs, infos, self.weights)
        domains = sorted({node.domain for node in self.nodes} - {""})
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)],
                                  ir_version=10)
        return onnx.shape_inference.infer_shapes(model, data_prop=True) if shape is None else model

    def save(self, path: Path, outputs: dict[str, str], shape=("batch", "classes")) -> Path:
        onnx.save(self.model(outputs, shape), path)
        return path

    # ---------------------------------------------------------------- layers

    def image(self, batch=1) -> str:
        return self.input("x", [batch, 1, IMAGE, IMAGE])

    def embed(self, x: str, batch=1) -> str:
        """Patches, class token, position embedding: [1, TOKENS, DIM]"""
        conv = self.op("Conv", x, self.random(DIM, 1, PATCH, PATCH), self.random(DIM),
                       kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
        tokens = self.op("Transpose", self.op("Reshape", conv, self.ints(0, DIM, -1)), perm=[0, 2, 1])
        cls = self.random(1, 1, DIM)
        if batch != 1:
            count = self.op("Concat", self.op("Shape", x, start=0, end=1), self.ints(1), self.ints(1), axis=0)
            cls = self.op("Expand", cls, count)
        return self.op("Add", self.op("Concat", cls, tokens, axis=1), self.random(1, TOKENS, DIM))

    def linear(self, x: str, k: int, n: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.random(k, n)), self.random(n))

    def norm(self, x: str, decomposed: bool = False) -> str:
        gamma, beta = self.random(DIM, offset=1.0), self.random(DIM)
        if not decomposed:
            return self.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-5)
        centered = self.op("Sub", x, self.mean(x))
        variance = self.op("Add", self.mean(self.op("Pow", centered, self.const(2.0))), self.const(1e-5))
        return self.op("Add", self.op("Mul", self.op("Div", centered, self.op("Sqrt", variance)), gamma), beta)

    def mean(self, x: str, axis: int = -1, keepdims: int = 1) -> str:
        if self.opset < 18:
            return self.op("ReduceMean", x, axes=[axis], keepdims=keepdims)
        return self.op("ReduceMean", x, self.ints(axis), keepdims=keepdims)

    def heads_of(self, x: str) -> str:
        """[1, T, DIM] -> [1, HEADS, T, d]"""
        return self.op("Transpose", self.op("Reshape", x, self.ints(1, -1, HEADS, DIM // HEADS)), perm=[0, 2, 1, 3])

    def heads(self, x: str, split: str) -> list[str]:
        """q, k and v as [1, HEADS, T, d], in one of the spellings of exporters."""
        d = DIM // HEADS
        if split == "separate":
            return [self.heads_of(self.linear(x, DIM, DIM)) for _ in range(3)]
        qkv = self.linear(x, DIM, 3 * DIM)
        if split == "chunk":
            parts = self.op("Split", qkv, self.ints(DIM, DIM, DIM), outputs=3, axis=2)
            return [self.heads_of(part) for part in parts]
        stacked = self.op("Transpose", self.op("Reshape", qkv, self.ints(1, -1, 3, HEADS, d)), perm=[2, 0, 3, 1, 4])
        if split == "split":
            return [self.op("Squeeze", part, self.ints(0))
                    for part in self.op("Split", stacked, self.ints(1, 1, 1), outputs=3, axis=0)]
        if split == "gather":
            return [self.op("Gather", stacked, self.const(i, np.int64), axis=0) for i in range(3)]
        return [self.op("Squeeze", self.op("Slice", stacked, self.ints(i), self.ints(i + 1), self.ints(0)), self.ints(0))
                for i in range(3)]

    def attention(self, x: str, split: str = "slice", scale: str = "scores", guard: bool = False) -> str:
        """Multi-head attention with its output projection. scale: scores | halves (sqrt on q and on k) | operator."""
        d = DIM // HEADS
        q, k, v = self.heads(x, split)
        if scale == "operator":
            y = self.op("Attention", q, k, v)
        else:
            k = self.op("Transpose", k, perm=[0, 1, 3, 2])
            if scale == "halves":
                q, k = (self.op("Mul", part, self.const(d ** -0.25)) for part in (q, k))
            scores = self.op("MatMul", q, k)
            if scale == "scores":
                scores = self.op("Div", scores, self.const(math.sqrt(d)))
            weights = self.op("Softmax", scores, axis=-1)
            if guard:
                weights = self.op("Where", self.op("IsNaN", weights), self.const(0.0), weights)
            y = self.op("MatMul", weights, v)
        return self.linear(self.merged(y), DIM, DIM)

    def merged(self, y: str) -> str:
        """[1, HEADS, T, d] -> [1, T, DIM]"""
        return self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.ints(1, -1, DIM))

    def act(self, x: str, kind: str = "Gelu") -> str:
        match kind:
            case "erf":
                gate = self.op("Add", self.op("Erf", self.op("Div", x, self.const(math.sqrt(2)))), self.const(1.0))
                return self.op("Mul", self.op("Mul", x, gate), self.const(0.5))
            case "half first":
                gate = self.op("Add", self.op("Erf", self.op("Mul", x, self.const(math.sqrt(0.5)))), self.const(1.0))
                return self.op("Mul", self.op("Mul", self.const(0.5), x), gate)
            case "tanh pow" | "tanh mul":
                cube = self.op("Pow", x, self.const(3.0)) if kind == "tanh pow" else self.op("Mul", x, self.op("Mul", x, x))
                inner = self.op("Add", x, self.op("Mul", self.const(0.044715), cube))
                tanh = self.op("Tanh", self.op("Mul", self.const(math.sqrt(2 / math.pi)), inner))
                return self.op("Mul", self.op("Mul", self.const(0.5), x), self.op("Add", self.const(1.0), tanh))
            case "silu":
                return self.op("Mul", x, self.op("Sigmoid", x))
            case "quick gelu":
                return self.op("Mul", x, self.op("Sigmoid", self.op("Mul", x, self.const(1.702))))
            case "hard sigmoid":
                return self.op("Mul", x, self.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
            case "clip":
                gate = self.op("Clip", self.op("Add", x, self.const(3.0)), self.const(0.0), self.const(6.0))
                return self.op("Div", self.op("Mul", x, gate), self.const(6.0))
            case "mish":
                return self.op("Mul", x, self.op("Tanh", self.op("Softplus", x)))
            case "leaky":
                return self.op("LeakyRelu", x, alpha=0.2)
            case "elu":
                return self.op("Elu", x, alpha=0.5)
            case "Gelu tanh":
                return self.op("Gelu", x, approximate="tanh")
        return self.op(kind, x)

    def mlp(self, x: str, act: str = "Gelu") -> str:
        return self.linear(self.act(self.linear(x, DIM, HIDDEN), act), HIDDEN, DIM)

    def experts(self) -> list[str]:
        """w1, b1, w2, b2 of all experts."""
        return [self.random(EXPERTS, DIM, HIDDEN), self.random(EXPERTS, 1, HIDDEN), self.random(EXPERTS, HIDDEN, DIM),
                self.random(EXPERTS, 1, DIM)]

    def moe(self, x: str, router: str = "plain", act: str = "Gelu", experts: list[str] | None = None, gate: str | None = None,
            combine: str = "experts first") -> str:
        """Dense mixture of experts on [1, T, DIM]. router: plain | renormalized | softmax last."""
        tokens = self.op("Reshape", x, self.ints(-1, DIM))
        logits = self.op("MatMul", tokens, gate or self.random(DIM, EXPERTS, scale=1.0))
        values = logits if router == "softmax last" else self.op("Softmax", logits, axis=-1)
        top, index = self.op("TopK", values, self.ints(2), outputs=2, axis=-1)
        if router == "renormalized":
            top = self.op("Div", top, self.op("ReduceSum", top, self.ints(-1), keepdims=1))
        elif router == "softmax last":
            top = self.op("Softmax", top, axis=-1)
        scores = self.op("ScatterElements", self.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
        w1, b1, w2, b2 = experts or self.experts()
        hidden = self.act(self.op("Add", self.op("MatMul", self.op("Unsqueeze", tokens, self.ints(0)), w1), b1), act)
        y = self.op("Add", self.op("MatMul", hidden, w2), b2)
        if combine == "experts first":
            scores = self.op("Unsqueeze", self.op("Transpose", scores, perm=[1, 0]), self.ints(-1))
            y = self.op("ReduceSum", self.op("Mul", y, scores), self.ints(0), keepdims=0)
        else:
            y = self.op("Mul", self.op("Transpose", y, perm=[1, 0, 2]), self.op("Unsqueeze", scores, self.ints(-1)))
            y = self.op("ReduceSum", y, self.ints(1), keepdims=0)
        return self.op("Reshape", y, self.ints(1, -1, DIM))

    def add(self, x: str, y: str) -> str:
        return self.op("Add", x, y)

    def head(self, x: str, classes: int = CLASSES, pool: str = "class token") -> str:
        match pool:
            case "class token":
                token = self.op("Gather", x, self.const(0, np.int64), axis=1)
            case "mean":
                token = self.mean(x, axis=1, keepdims=0)
            case "mean of patches":
                token = self.mean(self.op("Slice", x, self.ints(1), self.ints(INDEX_END), self.ints(1)), axis=1, keepdims=0)
        return self.op("Gemm", token, self.random(classes, DIM), self.random(classes), transB=1)


def vit(opset: int = 20, *, split: str = "slice", scale: str = "scores", guard: bool = False, act: str = "Gelu",
        norm: bool = False, layer_scale: bool = False, pool: str = "class token", router: str | None = None,
        combine: str = "experts first", batch=1) -> Net:
    """A one-block encoder with every choice of spelling; its result is the last value of the net (see `result`)."""
    net = Net(opset)
    t = net.embed(net.image(batch), batch)
    y = net.attention(net.norm(t, norm), split, scale, guard)
    t = net.add(t, net.op("Mul", y, net.random(DIM)) if layer_scale else y)
    n = net.norm(t, norm)
    t = net.add(t, net.mlp(n, act) if router is None else net.moe(n, router, act, combine=combine))
    net.head(net.norm(t, norm), pool=pool)
    return net


def result(net: Net) -> str:
    """The value made last."""
    return net.nodes[-1].output[0]
