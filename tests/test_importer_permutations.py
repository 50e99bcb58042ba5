"""Whatever moves stand between operators, a network the rules accept computes what onnxruntime computes.

Tokens and channels have one size here (4 = 2 groups of 2), so that a row and a column, a group and a token fit into each other's places.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from hwgen.errors import HwgenError
from hwgen.graph import evaluate
from hwgen.importer import import_model
from onnx_nets import Net

SIZE = 4
SHAPES = {16: [(1, 4, 4), (4, 4), (4, 1, 4), (1, 2, 2, 4), (2, 2, 4), (1, 4, 2, 2), (1, 1, 4, 4), (2, 8), (1, 16)],
          4: [(1, 4), (4,), (4, 1), (1, 1, 4), (1, 4, 1), (2, 2), (1, 2, 2), (4, 1, 1)],
          20: [(1, 5, 4), (5, 4), (1, 5, 2, 2), (1, 4, 5)], 24: [(1, 6, 4), (2, 3, 4), (1, 2, 3, 4)], 64: [(1, 4, 4, 4), (4, 4, 4), (1, 16, 4)]}
NETS = 120                     # a block
MAX_ERROR = 1e-3


class Walk:
    """A random chain of operators; ``shape`` of the value it stands at."""

    def __init__(self, seed: int):
        self.net, self.rng = Net(opset=20, seed=seed), np.random.default_rng(seed)
        self.value, self.shape = self.net.input("x", [1, SIZE, SIZE]), (1, SIZE, SIZE)
        self.values = {}
        self.do("linear")
        for _ in range(self.rng.integers(1, 6)):
            self.values.setdefault(self.shape, []).append(self.value)
            if self.shape:
                self.do(str(self.rng.choice(STEPS)))
        if self.shape[:1] != (1,):
            self.move("Unsqueeze", self.net.ints(0), shape=(1, *self.shape))

    def move(self, op: str, *inputs: str, shape, **attrs) -> None:
        self.value, self.shape = self.net.op(op, self.value, *inputs, **attrs), tuple(shape)

    def constant(self, expand: bool = False) -> str:
        """A constant that broadcasts to the value: some axes of size 1, leading ones perhaps left out."""
        sizes = [size if self.rng.random() < 0.5 else 1 for size in self.shape]
        return self.net.random(*sizes[self.rng.integers(len(sizes) or 1):], offset=1.0)

    def do(self, step: str) -> None:
        net, rng, shape, last = self.net, self.rng, self.shape, len(self.shape) - 1
        match step:
            case "reshape":
                new = SHAPES.get(math.prod(shape), [shape])
                new = new[rng.integers(len(new))]
                self.move("Reshape", net.ints(*new), shape=new)
            case "transpose":
                perm = rng.permutation(len(shape)).tolist()
                self.move("Transpose", shape=[shape[i] for i in perm], perm=perm)
            case "split" if shape == (1, SIZE, SIZE):
                self.move("Reshape", net.ints(1, 2, 2, SIZE), shape=(1, 2, 2, SIZE))
                if rng.random() < 0.5:
                    self.move("Transpose", shape=self.shape, perm=[0, 2, 1, 3])
            case "linear":
                self.move("MatMul", net.random(shape[last], SIZE, scale=1.0), shape=(*shape[:-1], SIZE))
            case "gemm" if len(shape) == 2:
                sizes = [(SIZE,), (1, SIZE), (shape[0], 1), (1,), (shape[0], SIZE)]
                c = net.random(*sizes[rng.integers(len(sizes))])
                self.move("Gemm", net.random(shape[last], SIZE, scale=1.0), c, shape=(shape[0], SIZE))
            case "add const":
                self.move("Add", self.constant(), shape=shape)
            case "mul const":
                self.move("Mul", self.constant(), shape=shape)
            case "norm":
                scale = [(shape[last],), (1,), shape[-2:], (*shape[-2:-1], 1)]
                pick = [net.random(*scale[rng.integers(len(scale))], offset=1.0) for _ in range(2)]
                self.move("LayerNormalization", *pick, shape=shape, axis=-1)
            case "own norm":
                self.own_norm(last)
            case "mean":
                axis = int(rng.integers(len(shape)))
                self.move("ReduceMean", net.ints(axis), shape=(*shape[:axis], *shape[axis + 1:]), keepdims=0)
            case "concat" if len(shape) > 1:
                axis = int(rng.integers(len(shape)))
                extra = net.random(*shape[:axis], 1, *shape[axis + 1:])
                pair = [extra, self.value] if rng.random() < 0.8 else [self.value, extra]
                self.value, self.shape = net.op("Concat", *pair, axis=axis), (*shape[:axis], shape[axis] + 1, *shape[axis + 1:])
            case "add":
                others = [(size, value) for size, found in self.values.items() for value in found if fits(shape, size)]
                if others:
                    size, value = others[rng.integers(len(others))]
                    self.move("Add", value, shape=np.broadcast_shapes(shape, size))
            case "pick" if len(shape) > 1:
                axis = int(rng.integers(len(shape)))
                self.move("Gather", net.const(0, np.int64), shape=(*shape[:axis], *shape[axis + 1:]), axis=axis)
            case "gelu":
                gate = net.op("Add", net.op("Erf", net.op("Mul", self.value, net.const(math.sqrt(0.5)))), net.const(1.0))
                self.value = net.op("Mul", net.op("Mul", self.value, gate), net.const(0.5))
            case "attention" if shape == (1, SIZE, SIZE):
                self.attention()

    def own_norm(self, last: int) -> None:
        net, shape = self.net, self.shape
        middle = net.mean(self.value, axis=last)
        if self.rng.random() < 0.5 and math.prod(shape[:-1]) == SIZE:
            sizes = [s for s in SHAPES[SIZE] if fits(shape, s) and np.broadcast_shapes(shape, s) == shape]
            middle = net.op("Reshape", middle, net.ints(*sizes[self.rng.integers(len(sizes))]))
        centered = net.op("Sub", self.value, middle)
        variance = net.op("Add", net.mean(net.op("Pow", centered, net.const(2.0)), axis=last), net.const(1e-2))
        self.value = net.op("Div", centered, net.op("Sqrt", variance))

    def attention(self) -> None:
        net = self.net
        q, k, v = (net.op("Unsqueeze", net.op("MatMul", self.value, net.random(SIZE, SIZE, scale=1.0)), net.ints(1)) for _ in range(3))
        scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
        other = [(1, 1, 4, 4), (1, 4, 4), (1, 1, 2, 8), (1, 2, 2, 4), (4, 1, 1, 4)][self.rng.integers(5)]
        weights = net.op("Softmax", net.op("Reshape", scores, net.ints(*other)), axis=-1)
        y = net.op("MatMul", net.op("Reshape", weights, net.ints(1, 1, 4, 4)), v)
        self.value = net.op("Squeeze", y, net.ints(1))


STEPS = ("reshape", "reshape", "transpose", "split", "linear", "gemm", "add const", "mul const", "norm", "own norm", "mean", "concat", "add",
         "pick", "gelu", "attention")


def fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("block", range(10))
def test_what_is_accepted_is_right(tmp_path, block):
    accepted = 0
    for seed in range(block * NETS, (block + 1) * NETS):
        walk = Walk(seed)
        path = walk.net.save(tmp_path / "net.onnx", {"y": walk.value}, walk.shape)
        onnx.checker.check_model(str(path), full_check=True)
        try:
            (graph,) = import_model(path).model.tasks
        except HwgenError:
            continue
        x = np.random.default_rng(seed).standard_normal((3, SIZE, SIZE)).astype(np.float32)
        options = onnxruntime.SessionOptions()                        # its fusions refuse a LayerNormalization scale of one element
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        want = np.concatenate([session.run(None, {"x": x[i:i + 1]})[0] for i in range(3)])
        found = evaluate.run(graph, {"x": x})["y"]
        assert found.shape == want.shape and np.abs(found - want).max() <= MAX_ERROR * np.abs(want).max(), \
            f"seed {seed}: {[f'{n.op_type} {list(n.input)}' for n in walk.net.nodes]} is {[type(n).__name__ for n in graph.nodes]}"
        accepted += 1
    assert accepted >= NETS // 10
