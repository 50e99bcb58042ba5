"""Train the bundled M3ViT on scikit-learn's handwritten digits and export it to ONNX.

An M3ViT (Liang et al., "M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with
Model-Accelerator Co-design", NeurIPS 2022) shares its trunk and experts between tasks; each task has a router of its
own in every mixture-of-experts block, and a head of its own. Two tasks here: `digit` (10 classes), `parity` (2).

    pip install torch==2.13.0 scikit-learn onnx onnxscript onnxruntime
    python train.py                          # model.onnx, model_task_input.onnx, calib.npz, test.npz
    python train.py --spelling task-input    # only model_task_input.onnx (and the data)

Input pixels are the data set's 0..16 divided by 16. One seed gives one result on one machine and torch version.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from enum import Enum
import math
from pathlib import Path
import time

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes import common as ir_passes
import onnxruntime
from sklearn.datasets import load_digits
import torch
from torch import Tensor, nn
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
TASKS = ("digit", "parity")
TASK_CLASSES = (10, 2)
PIXEL_MAX = 16.0
NUM_TEST = 500
NUM_CALIB = 128
SPLIT_SEED = 0  # fixed: another --seed gives other weights, never another test set
OPSET = 20


class Spelling(Enum):
    """How the task reaches the ONNX graph."""

    BOTH_TASKS = "both-tasks"
    """One input; every task's pass through the trunk is in the graph. Both outputs are always right."""
    TASK_INPUT = "task-input"
    """A second, scalar input picks the routers by Gather. The head named by `task` is right, the other is not."""

    @property
    def filename(self) -> str:
        return "model.onnx" if self is Spelling.BOTH_TASKS else "model_task_input.onnx"


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network; the defaults are the shipped model."""

    image: int = 8
    patch: int = 2
    dim: int = 64
    num_blocks: int = 4
    num_heads: int = 4
    mlp_hidden: int = 128
    num_experts: int = 8
    expert_hidden: int = 64
    top_k: int = 2


@dataclass(frozen=True)
class TrainConfig:
    """Recipe: AdamW, linear warm-up, cosine to zero; the last step's weights are the result (no selection)."""

    seed: int = 0
    epochs: int = 100
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    label_smoothing: float = 0.05
    balance_weight: float = 0.02
    augmented: float = 0.5  # share of the images of a batch; the others stay sharp, as test images are
    max_shift: float = 1.0  # pixels
    max_rotation: float = 0.15  # radians
    max_zoom: float = 0.1  # fraction


@dataclass(frozen=True)
class Split:
    """Images [n, 1, 8, 8] float32 in 0..1 and their labels [n, 2] int64, one column per task."""

    x: np.ndarray
    labels: np.ndarray


class Attention(nn.Module):
    """Multi-head self-attention, [B, N, D] -> [B, N, D]; one Linear makes q, k and v."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class MoE(nn.Module):
    """Mixture of two-layer GELU experts, top-k of a softmax over all experts, scores not renormalised.

    `task` is the router's index: a Python int, or for export a scalar int64 tensor (then `stack_gates` comes first).
    Written densely, every expert on every token, because torch.export needs static shapes: a score of zero
    drops an expert that was not chosen.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, d, h = config.num_experts, config.dim, config.expert_hidden
        self.top_k = config.top_k
        self.gate = nn.ModuleList(nn.Linear(d, e, bias=False) for _ in TASKS)
        self.w1 = nn.Parameter(torch.empty(e, d, h).uniform_(-1, 1) / math.sqrt(d))
        self.b1 = nn.Parameter(torch.zeros(e, 1, h))
        self.w2 = nn.Parameter(torch.empty(e, h, d).uniform_(-1, 1) / math.sqrt(h))
        self.b2 = nn.Parameter(torch.zeros(e, 1, d))

    def stack_gates(self) -> None:
        """Copy the routers into one [tasks, D, experts] buffer, from which a task tensor gathers."""
        self.register_buffer("gates", torch.stack([g.weight.detach().T for g in self.gate]).contiguous())

    def forward(self, x: Tensor, task: int | Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] -> the mixture [B, N, D], and the router's softmax [B*N, experts]."""
        tokens = x.reshape(-1, x.shape[-1])
        logits = (self.gate[task](tokens) if isinstance(task, int)
                  else tokens @ self.gates.index_select(0, task.reshape(1)).squeeze(0))
        probs = torch.softmax(logits, dim=-1)
        top, index = torch.topk(probs, self.top_k, dim=-1)
        scores = torch.zeros_like(probs).scatter(1, index, top)
        y = torch.matmul(F.gelu(torch.matmul(tokens.unsqueeze(0), self.w1) + self.b1), self.w2) + self.b2
        return (y * scores.T.unsqueeze(-1)).sum(0).reshape(x.shape), probs


class Block(nn.Module):
    """Pre-norm transformer block; its second half is an Mlp or a MoE."""

    def __init__(self, config: ModelConfig, moe: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attn = Attention(config.dim, config.num_heads)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = MoE(config) if moe else Mlp(config.dim, config.mlp_hidden)


class M3ViT(nn.Module):
    """The network: image [B, 1, 8, 8] and task -> logits [B, classes of the task]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num_patches = (config.image // config.patch) ** 2
        self.patch = nn.Conv2d(1, config.dim, config.patch, stride=config.patch)
        self.cls = nn.Parameter(torch.randn(1, 1, config.dim) * 0.02)
        self.pos = nn.Parameter(torch.randn(1, num_patches + 1, config.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(config, moe=i % 2 == 1) for i in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.dim)
        self.heads = nn.ModuleList(nn.Linear(config.dim, classes) for classes in TASK_CLASSES)

    def features(self, x: Tensor, task: int | Tensor) -> tuple[Tensor, list[Tensor]]:
        """The normalised class token [B, D], and the router softmax [B*N, experts] of each MoE block."""
        patches = self.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.cls.expand(x.shape[0], -1, -1), patches], dim=1) + self.pos
        routing = []
        for block in self.blocks:
            t = t + block.attn(block.norm1(t))
            if isinstance(block.mlp, MoE):
                y, probs = block.mlp(block.norm2(t), task)
                routing.append(probs)
            else:
                y = block.mlp(block.norm2(t))
            t = t + y
        return self.norm(t)[:, 0], routing


class BothTasksGraph(nn.Module):
    """Export form of Spelling.BOTH_TASKS: x -> digit, parity."""

    def __init__(self, model: M3ViT) -> None:
        super().__init__()
        self.m3vit = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(head(self.m3vit.features(x, task)[0]) for task, head in enumerate(self.m3vit.heads))


class TaskInputGraph(nn.Module):
    """Export form of Spelling.TASK_INPUT: x, task -> digit, parity, both from the one pass of that task."""

    def __init__(self, model: M3ViT) -> None:
        super().__init__()
        self.m3vit = model
        for block in model.blocks:
            if isinstance(block.mlp, MoE):
                block.mlp.stack_gates()

    def forward(self, x: Tensor, task: Tensor) -> tuple[Tensor, ...]:
        feature = self.m3vit.features(x, task)[0]
        return tuple(head(feature) for head in self.m3vit.heads)


def load_split() -> tuple[Split, Split]:
    """Return the 1,297 training and 500 held-back images (UCI optical digits, test part, as in scikit-learn)."""
    digits = load_digits()
    x = (digits.images[:, None] / PIXEL_MAX).astype(np.float32)
    labels = np.stack([digits.target, digits.target % 2], axis=1).astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    return Split(x[train], labels[train]), Split(x[test], labels[test])


def augment(x: Tensor, config: TrainConfig) -> Tensor:
    """Shift, turn and zoom some images [B, 1, H, W], each by its own small random amount, bilinear, zeros outside."""
    b, width = x.shape[0], x.shape[-1]
    uniform = torch.rand(b, 4) * 2 - 1
    angle, zoom = uniform[:, 0] * config.max_rotation, 1 + uniform[:, 1] * config.max_zoom
    shift = uniform[:, 2:] * config.max_shift * 2 / width  # affine_grid's image is 2 wide
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).reshape(b, 2, 3)
    moved = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    return torch.where(torch.rand(b, 1, 1, 1) < config.augmented, moved, x)


def balance_loss(probs: Tensor, top_k: int) -> Tensor:
    """Load-balancing loss, 1 when all experts are used alike (Fedus et al., Switch Transformers, eq. 4)."""
    num_experts = probs.shape[1]
    chosen = F.one_hot(probs.topk(top_k, dim=-1).indices, num_experts).float().sum(1).mean(0) / top_k
    return num_experts * (chosen * probs.mean(0)).sum()


def train(model_config: ModelConfig, config: TrainConfig, data: Split) -> M3ViT:
    """Train both tasks jointly; return the model in eval mode."""
    torch.manual_seed(config.seed)
    model = M3ViT(model_config)
    x, labels = torch.from_numpy(data.x), torch.from_numpy(data.labels)
    steps_per_epoch = len(x) // config.batch
    num_steps = steps_per_epoch * config.epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / config.warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / num_steps)),
    )
    begin = time.monotonic()
    for epoch in range(config.epochs):
        order = torch.randperm(len(x))
        for i in range(steps_per_epoch):
            batch = order[i * config.batch : (i + 1) * config.batch]
            image, loss = augment(x[batch], config), torch.zeros(())
            for task, head in enumerate(model.heads):
                feature, routing = model.features(image, task)
                loss = loss + F.cross_entropy(
                    head(feature), labels[batch, task], label_smoothing=config.label_smoothing
                )
                loss = loss + config.balance_weight * sum(balance_loss(p, model_config.top_k) for p in routing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}/{config.epochs}  loss {loss.item():.3f}  {time.monotonic() - begin:.0f} s")
    return model.eval()


def print_routing(model: M3ViT, data: Split) -> None:
    """Print, per task and MoE block, the share of the top-k choices that falls on each expert."""
    for task, name in enumerate(TASKS):
        with torch.no_grad():
            routing = model.features(torch.from_numpy(data.x), task)[1]
        blocks = [block.mlp for block in model.blocks if isinstance(block.mlp, MoE)]
        for number, (moe, probs) in enumerate(zip(blocks, routing, strict=True)):
            top, index = probs.topk(moe.top_k, dim=-1)
            share = torch.bincount(index.flatten(), minlength=probs.shape[1]) / index.numel()
            print(
                f"{name}: MoE {number}: expert shares in % {[round(100 * s) for s in share.tolist()]}, "
                f"mean top-{moe.top_k} score sum {top.sum(-1).mean():.2f}"
            )


def export(model: M3ViT, spelling: Spelling, path: Path) -> None:
    """Write the model as one ONNX file, static batch of 1, weights inside, each stored once.

    The exporter folds the transpose of a Linear's weight once per use, which stores a weight shared by two tasks
    twice; the passes after it merge equal initializers and then the equal nodes, up to the experts of the first router.
    """
    x = torch.zeros(1, 1, 8, 8)
    if spelling is Spelling.BOTH_TASKS:
        graph, args, names = BothTasksGraph(model), (x,), ["x"]
    else:
        graph, args, names = TaskInputGraph(model), (x, torch.tensor(0)), ["x", "task"]
    program = torch.onnx.export(
        graph.eval(), args, dynamo=True, opset_version=OPSET, input_names=names, output_names=list(TASKS), verbose=False
    )
    passes = onnx_ir.passes.Sequential(
        ir_passes.DeduplicateInitializersPass(size_limit=1 << 20),
        ir_passes.CommonSubexpressionEliminationPass(size_limit=1 << 20),
        ir_passes.RemoveUnusedNodesPass(),
        ir_passes.ClearMetadataAndDocStringPass(),  # it holds the stack traces of this machine
    )
    proto = onnx_ir.to_proto(passes(program.model).model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def score(path: Path, data: Split) -> list[float]:
    """Accuracy in percent of each task's output, by onnxruntime, batch 1."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    has_task = any(value.name == "task" for value in session.get_inputs())
    correct = np.zeros(len(TASKS))
    for x, labels in zip(data.x, data.labels, strict=True):
        for task, name in enumerate(TASKS):
            feed = {"x": x[None]} | ({"task": np.array(task, np.int64)} if has_task else {})
            correct[task] += session.run([name], feed)[0].argmax() == labels[task]
    return (100 * correct / len(data.x)).tolist()


def main() -> None:
    defaults = TrainConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spelling", choices=[s.value for s in Spelling], help="export only this one (default: both)")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIR", help="default: beside this script")
    parser.add_argument("--save-weights", type=Path, metavar="FILE", help="also keep the trained weights (.pt)")
    parser.add_argument("--load-weights", type=Path, metavar="FILE", help="export these instead of training")
    args = parser.parse_args()

    torch.set_num_threads(1)
    train_data, test_data = load_split()
    args.output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.output / "calib.npz", x=train_data.x[:NUM_CALIB])
    test_labels = {name: test_data.labels[:, task] for task, name in enumerate(TASKS)}
    np.savez_compressed(args.output / "test.npz", x=test_data.x, **test_labels)

    model_config = ModelConfig()
    if args.load_weights:
        model = M3ViT(model_config).eval()
        model.load_state_dict(torch.load(args.load_weights, weights_only=True))
    else:
        model = train(model_config, TrainConfig(seed=args.seed, epochs=args.epochs), train_data)
    if args.save_weights:
        torch.save(model.state_dict(), args.save_weights)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    print_routing(model, test_data)
    for spelling in [Spelling(args.spelling)] if args.spelling else list(Spelling):
        path = args.output / spelling.filename
        export(model, spelling, path)
        scores = ", ".join(f"{name} {value:.1f} %" for name, value in zip(TASKS, score(path, test_data), strict=True))
        print(f"{path}: {path.stat().st_size} bytes, held-back accuracy {scores}")


if __name__ == "__main__":
    main()
