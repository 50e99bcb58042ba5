"""ONNX files of the networks that full-size figures are measured on, made from a seed: no download, no training.

    python bench/networks/generate.py                          every network, into ~/.cache/hwgen/networks
    python bench/networks/generate.py deit_tiny m3vit_tiny -o folder --seed 1

Beside each ``name.onnx`` lies ``name.npz`` with 8 images under the input's name ``x``: to calibrate with and to run.

Structure and spelling are those of PyTorch exports (opset 17): DeiT as timm has it; M3ViT with an encoder pass for each task, dense
experts and ScatterElements, as examples/m3vit_digits/train.py exports it, weights of both passes stored once. Weights are random, but
every layer is scaled on the images until its output has a given spread (after Mishkin and Matas, "All you need is a good init", 2016),
some channels are outliers as in trained ViTs, and routers are tuned until no expert has more than about twice the tokens of another.
Accuracy means nothing here; sizes, cycles and number ranges do.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import math
from pathlib import Path
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))      # works in a checkout without installing

from hwgen.tools import cache

OPSET = 17
IMAGES = 8
SAMPLE = 4                   # images on which weights are scaled
OUTLIERS = 0.02              # share of channels that stand out
LOGIT_SPREAD = 1.5           # standard deviation of attention scores
UPDATE_SPREAD = 0.4          # of what a block adds to the residual stream
ROUTER_SPREAD = 1.5
BALANCE_STEPS = 300


@dataclass(frozen=True)
class Spec:
    """One network. heads: outputs, one a task: (name, classes); experts = 0: no mixture of experts, else in odd layers."""

    image: tuple[int, int] = (224, 224)
    patch: int = 16
    dim: int = 192
    layers: int = 12
    num_heads: int = 3
    hidden: int = 768
    outputs: tuple[tuple[str, int], ...] = (("logits", 1000),)
    experts: int = 0
    top_k: int = 0
    expert_hidden: int = 0

    @property
    def tokens(self) -> int:
        return self.image[0] // self.patch * (self.image[1] // self.patch) + 1


TASKS = (("segmentation", 40), ("depth", 1))
SPECS = {
    "deit_tiny": Spec(),
    "deit_small": Spec(dim=384, num_heads=6, hidden=1536),
    # Edge-MoE's release: 128x256 images, 16 experts, top-2 (Sarkar et al., ICCAD 2023)
    "m3vit_tiny": Spec(image=(128, 256), outputs=TASKS, experts=16, top_k=2, expert_hidden=384),
    # M3ViT (Liang et al., NeurIPS 2022): 16 experts, top-4, experts as wide as the encoder
    "m3vit_small": Spec(image=(128, 256), dim=384, num_heads=6, hidden=1536, outputs=TASKS, experts=16, top_k=4, expert_hidden=384),
}


def images(spec: Spec, count: int, seed: int) -> np.ndarray:
    """Random images with the 1/f spectrum of photographs, mean 0 and variance 1: float32 [count, 3, H, W]."""
    rng = np.random.default_rng([seed, 1])
    height, width = spec.image
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    x = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((count, 3, height, width))) / frequency, s=spec.image)
    x += 0.7 * x.mean(1, keepdims=True) / x.mean(1).std() * x.std()               # colours go together
    return (x / x.std((1, 2, 3), keepdims=True)).astype(np.float32)


# ---------------------------------------------------------------- weights

@dataclass(frozen=True, eq=False)
class Linear:
    """``x @ weight + bias``: [K, N] and [N]; of experts [E, K, N] and [E, 1, N]. Names are those of the initializers."""

    name: str
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


@dataclass(frozen=True, eq=False)
class Norm:
    name: str
    gamma: np.ndarray
    beta: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * self.gamma + self.beta


@dataclass(frozen=True, eq=False)
class Block:
    """gates: one [D, experts] a task, or none. first and second: the layers of the MLP or of all experts."""

    norm1: Norm
    qkv: Linear
    proj: Linear
    norm2: Norm
    first: Linear
    second: Linear
    gates: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Network:
    spec: Spec
    patch: Linear
    cls: np.ndarray
    pos: np.ndarray
    blocks: tuple[Block, ...]
    norm: Norm
    heads: tuple[Linear, ...]
    loads: tuple[np.ndarray, ...]        # per router: share of the sample's tokens each expert gets, 1 = even


def _gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _attend(qkv: np.ndarray, num_heads: int) -> np.ndarray:
    """[B, T, 3 D] -> [B, T, D]"""
    b, t, d3 = qkv.shape
    q, k, v = qkv.reshape(b, t, 3, num_heads, -1).transpose(2, 0, 3, 1, 4)
    y = _softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])) @ v
    return y.transpose(0, 2, 1, 3).reshape(b, t, d3 // 3)


def _mixture(x: np.ndarray, gate: np.ndarray, block: Block, top_k: int) -> np.ndarray:
    """Experts of a block on the tokens routed to them: [B, T, D] -> [B, T, D]"""
    rows = x.reshape(-1, x.shape[-1])
    scores = _softmax(rows @ gate)
    chosen = np.argsort(-scores, -1, kind="stable")[:, :top_k]
    y = np.zeros_like(rows)
    for e in range(gate.shape[1]):
        mine = (chosen == e).any(-1)
        hidden = _gelu(rows[mine] @ block.first.weight[e] + block.first.bias[e])
        y[mine] += (hidden @ block.second.weight[e] + block.second.bias[e]) * scores[mine, e:e + 1]
    return y.reshape(x.shape)


class Draw:
    """Draws layers of a network and scales each on what it is given."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng([seed, 0])

    def array(self, *shape: int, spread: float = 1.0) -> np.ndarray:
        return (spread * self.rng.standard_normal(shape)).astype(np.float32)

    def linear(self, name: str, x: np.ndarray, n: int, spread: float) -> Linear:
        """[K, n] whose output on x has ``spread``."""
        weight = self.array(x.shape[-1], n, spread=1 / math.sqrt(x.shape[-1]))
        return self.scaled(Linear(name, weight, self.array(n, spread=0.1)), x, spread)

    @staticmethod
    def scaled(linear: Linear, x: np.ndarray, spread: float) -> Linear:
        factor = np.float32(spread / linear(x).std())
        return Linear(linear.name, linear.weight * factor, linear.bias * factor)

    def norm(self, name: str, dim: int) -> Norm:
        """Gammas around 1, a few of them three to five times as large."""
        gamma = np.exp(self.array(dim, spread=0.2))
        gamma[self.rng.random(dim) < OUTLIERS] *= self.rng.uniform(3, 5)
        return Norm(name, gamma, self.array(dim, spread=0.1))

    def gate(self, x: np.ndarray, experts: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """A router [D, experts] with loads between about 0.7 and 1.4 on the tokens x, and these loads."""
        rows = x.reshape(-1, x.shape[-1])
        gate = self.array(rows.shape[1], experts)
        gate *= np.float32(ROUTER_SPREAD / (rows @ gate).std(0).mean())
        mean = rows.mean(0)
        bias = mean / (mean @ mean)                        # one more of it in a column raises that expert's logits by about 1
        wanted = self.rng.permutation(np.linspace(0.75, 1.3, experts))
        wanted /= wanted.mean()
        best = np.inf
        for step in range(BALANCE_STEPS):
            chosen = np.argsort(-(rows @ gate), -1, kind="stable")[:, :top_k]
            loads = np.bincount(chosen.ravel(), minlength=experts) * (experts / chosen.size)
            if (error := np.abs(loads - wanted).max()) < best:
                best, result = error, (gate.astype(np.float32), loads)
            gate = gate + np.outer(bias, 2.0 / (1 + step / 20) * (wanted - loads))
        return result


def draw(spec: Spec, seed: int = 0) -> Network:
    """The weights of a network, layer by layer as the sample goes through it."""
    make = Draw(seed)
    d = spec.dim
    x = images(spec, SAMPLE, seed)
    b, c, height, width = x.shape
    p = spec.patch
    rows = x.reshape(b, c, height // p, p, width // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(b, spec.tokens - 1, c * p * p)
    patch = make.linear("patch_embed.proj", rows, d, 0.7)
    cls, pos = make.array(1, 1, d, spread=0.7), make.array(1, spec.tokens, d, spread=0.7)
    pos[..., make.rng.random(d) < OUTLIERS] += 6           # massive channels of the residual stream
    t = np.concatenate([np.broadcast_to(cls, (b, 1, d)), patch(rows)], 1) + pos
    tasks = len(spec.outputs)
    streams = [t] * tasks                                  # the tasks part at the first router
    blocks, loads = [], []
    for i in range(spec.layers):
        name = f"blocks.{i}"
        norm1, norm2 = make.norm(f"{name}.norm1", d), make.norm(f"{name}.norm2", d)
        y = norm1(streams[0])
        qkv = make.linear(f"{name}.attn.qkv", y, 3 * d, 1.0)
        q, k = (part.reshape(*part.shape[:2], spec.num_heads, -1).swapaxes(1, 2) for part in np.split(qkv(y), 3, -1)[:2])
        sharp = np.float32(math.sqrt(LOGIT_SPREAD / (q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])).std()))
        factor = np.repeat(np.array([sharp, sharp, 1], np.float32), d)
        qkv = Linear(qkv.name, qkv.weight * factor, qkv.bias * factor)
        proj = make.linear(f"{name}.attn.proj", _attend(qkv(y), spec.num_heads), d, UPDATE_SPREAD)
        streams = [s + proj(_attend(qkv(norm1(s)), spec.num_heads)) for s in streams]
        ys = [norm2(s) for s in streams]
        gates = ()
        if spec.experts and i % 2:
            e, h = spec.experts, spec.expert_hidden
            found = [make.gate(y, e, spec.top_k) for y in ys]
            gates, loads = tuple(g for g, _ in found), loads + [load for _, load in found]
            flat = ys[0].reshape(1, -1, d)
            first = make.scaled(Linear(f"{name}.mlp.experts.fc1", make.array(e, d, h, spread=1 / math.sqrt(d)), make.array(e, 1, h, spread=0.1)),
                                flat, 1.0)
            second = make.scaled(Linear(f"{name}.mlp.experts.fc2", make.array(e, h, d, spread=1 / math.sqrt(h)), make.array(e, 1, d, spread=0.1)),
                                 _gelu(first(flat)), UPDATE_SPREAD * math.sqrt(spec.top_k))
        else:
            first = make.linear(f"{name}.mlp.fc1", ys[0], spec.hidden, 1.0)
            second = make.linear(f"{name}.mlp.fc2", _gelu(first(ys[0])), d, UPDATE_SPREAD)
        block = Block(norm1, qkv, proj, norm2, first, second, gates)
        for n, y in enumerate(ys):
            streams[n] = streams[n] + (_mixture(y, gates[n], block, spec.top_k) if gates else second(_gelu(first(y))))
        blocks.append(block)
    norm = make.norm("norm", d)
    heads = tuple(make.linear(f"head.{name}", norm(s)[:, 0], n, 2.0) for (name, n), s in zip(spec.outputs, streams, strict=True))
    return Network(spec, patch, cls, pos, tuple(blocks), norm, heads, tuple(loads))


# ---------------------------------------------------------------- ONNX

class Graph:
    """Collects nodes and initializers; an initializer asked for again under its name is stored once."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.prefix = ""

    def weight(self, name: str, array: np.ndarray) -> str:
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        return self.weight("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.weight(f"number_{value:g}", np.float32(value))

    def op(self, kind: str, *inputs: str, name: str, outputs: int = 1, **attributes):
        name = f"{self.prefix}/{name}/{kind}"
        names = [f"{name}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def linear(self, x: str, linear: Linear) -> str:
        y = self.op("MatMul", x, self.weight(f"{linear.name}.weight", linear.weight), name=linear.name)
        return self.op("Add", y, self.weight(f"{linear.name}.bias", linear.bias), name=linear.name)

    def norm(self, x: str, norm: Norm) -> str:
        return self.op("LayerNormalization", x, self.weight(f"{norm.name}.weight", norm.gamma), self.weight(f"{norm.name}.bias", norm.beta),
                       name=norm.name, axis=-1, epsilon=1e-6)

    def gelu(self, x: str, name: str) -> str:
        erf = self.op("Erf", self.op("Div", x, self.number(math.sqrt(2)), name=f"{name}.0"), name=name)
        product = self.op("Mul", x, self.op("Add", erf, self.number(1.0), name=name), name=f"{name}.1")
        return self.op("Mul", product, self.number(0.5), name=f"{name}.2")

    def attention(self, x: str, block: Block, spec: Spec) -> str:
        name, h = block.qkv.name.removesuffix(".qkv"), spec.num_heads
        d = spec.dim // h
        stacked = self.op("Reshape", self.linear(x, block.qkv), self.ints(1, spec.tokens, 3, h, d), name=f"{name}.qkv")
        parts = self.op("Split", self.op("Transpose", stacked, name=f"{name}.qkv", perm=[2, 0, 3, 1, 4]), self.ints(1, 1, 1),
                        name=name, outputs=3, axis=0)
        q, k, v = (self.op("Squeeze", part, self.ints(0), name=f"{name}.{letter}") for part, letter in zip(parts, "qkv", strict=True))
        half = self.number(d ** -0.25)
        k = self.op("Transpose", k, name=f"{name}.k", perm=[0, 1, 3, 2])
        scores = self.op("MatMul", self.op("Mul", q, half, name=f"{name}.q"), self.op("Mul", k, half, name=f"{name}.k"), name=f"{name}.scores")
        y = self.op("MatMul", self.op("Softmax", scores, name=name, axis=-1), v, name=f"{name}.values")
        y = self.op("Reshape", self.op("Transpose", y, name=name, perm=[0, 2, 1, 3]), self.ints(1, spec.tokens, spec.dim), name=name)
        return self.linear(y, block.proj)

    def mixture(self, x: str, block: Block, task: int, spec: Spec) -> str:
        name = block.first.name.removesuffix(".experts.fc1")
        tokens = self.op("Reshape", x, self.ints(spec.tokens, spec.dim), name=name)
        logits = self.op("MatMul", tokens, self.weight(f"{name}.gate.{task}.weight", block.gates[task]), name=f"{name}.gate")
        probs = self.op("Softmax", logits, name=f"{name}.gate", axis=-1)
        top, index = self.op("TopK", probs, self.ints(spec.top_k), name=f"{name}.gate", outputs=2, axis=-1)
        zeros = self.weight("zeros", np.zeros((spec.tokens, spec.experts), np.float32))
        scores = self.op("ScatterElements", zeros, index, top, name=f"{name}.gate", axis=1)
        each = self.op("Unsqueeze", tokens, self.ints(0), name=f"{name}.experts")
        y = self.linear(self.gelu(self.linear(each, block.first), f"{name}.act"), block.second)
        column = self.op("Unsqueeze", self.op("Transpose", scores, name=f"{name}.scores", perm=[1, 0]), self.ints(-1), name=f"{name}.scores")
        total = self.op("ReduceSum", self.op("Mul", y, column, name=f"{name}.combine"), self.ints(0), name=f"{name}.combine", keepdims=0)
        return self.op("Reshape", total, self.ints(1, spec.tokens, spec.dim), name=f"{name}.combine")


def to_onnx(network: Network) -> onnx.ModelProto:
    """The network with input ``x`` [1, 3, H, W] and one output [1, classes] a task."""
    spec, graph = network.spec, Graph()
    p, d = spec.patch, spec.dim
    for task, (output, _) in enumerate(spec.outputs):
        graph.prefix = f"/{output}" if len(spec.outputs) > 1 else ""
        kernel = network.patch.weight.T.reshape(d, 3, p, p)
        conv = graph.op("Conv", "x", graph.weight("patch_embed.proj.weight", kernel), graph.weight("patch_embed.proj.bias", network.patch.bias),
                        name="patch_embed.proj", kernel_shape=[p, p], strides=[p, p])
        flat = graph.op("Reshape", conv, graph.ints(1, d, spec.tokens - 1), name="patch_embed")
        tokens = graph.op("Transpose", flat, name="patch_embed", perm=[0, 2, 1])
        t = graph.op("Concat", graph.weight("cls_token", network.cls), tokens, name="pos_embed", axis=1)
        t = graph.op("Add", t, graph.weight("pos_embed", network.pos), name="pos_embed")
        for i, block in enumerate(network.blocks):
            t = graph.op("Add", t, graph.attention(graph.norm(t, block.norm1), block, spec), name=f"blocks.{i}.add1")
            y = graph.norm(t, block.norm2)
            y = graph.mixture(y, block, task, spec) if block.gates else graph.linear(
                graph.gelu(graph.linear(y, block.first), f"blocks.{i}.mlp.act"), block.second)
            t = graph.op("Add", t, y, name=f"blocks.{i}.add2")
        token = graph.op("Gather", graph.norm(t, network.norm), graph.weight("first", np.array(0, np.int64)), name="head", axis=1)
        head = network.heads[task]
        graph.nodes.append(helper.make_node(
            "Gemm", [token, graph.weight(f"{head.name}.weight", head.weight.T), graph.weight(f"{head.name}.bias", head.bias)], [output],
            name=f"{graph.prefix}/{head.name}/Gemm", transB=1))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *spec.image])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n]) for name, n in spec.outputs]
    model = helper.make_graph(graph.nodes, "network", [x], outputs, list(graph.weights.values()))
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="hwgen bench/networks")


def default_folder() -> Path:
    return cache.wanted() / "networks"


def generate(name: str, folder: Path, seed: int = 0, spec: Spec | None = None) -> Path:
    """Write ``folder/name.onnx`` and ``folder/name.npz``; returns the former. ``spec``: of a network that `SPECS` does not have."""
    spec = spec or SPECS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    onnx.save(to_onnx(draw(spec, seed)), path)
    np.savez(folder / f"{name}.npz", x=images(spec, IMAGES, seed + 1))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SPECS)}; otherwise all")
    parser.add_argument("-o", "--output", type=Path, default=default_folder(), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in SPECS]:
        parser.error(f"there is no network {unknown[0]!r}; known are {', '.join(SPECS)}")
    for name in args.names or SPECS:
        path = generate(name, args.output, args.seed)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
