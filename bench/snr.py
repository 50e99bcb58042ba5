"""Signal-to-noise ratio of the integer model against the float model, and what leaves its number format.

    python bench/snr.py [model.onnx ... [--limit DB]] [--method mse] [--seeds 6] [--json snr.json]

For every seed: a network with weights of that seed (of a file: the file), and standard normal inputs from
``numpy.random.default_rng(seed)``, 32 images to calibrate, then 8 others to test. Printed is the median over the seeds, of all outputs of all
tasks; then, of the seed that clips most, every number format that holds less than calibration saw, with node, range and share, or if there
is none the format that comes nearest.
Without a file: networks made here, a ViT of two blocks with everything in range, with pre-activations 10 and 30 times as large, with the
same function before and behind a ReLU 30 times as large, with scores 16 and 40 times as large, and with router logits 40 times as large.
Exit code 1 when one of those misses its limit, or the median of a file the one that is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
import json
from pathlib import Path
import sys

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]                     # works in a checkout without installing

from hwgen import ops, quantizer
from hwgen.functions import Act
from hwgen.graph import Model, Node, evaluate
from hwgen.importer import import_model
from hwgen.steps import golden, host
from qgraphs import random_model

CALIBRATION, TEST = 32, 8        # images


@dataclass(frozen=True)
class Snr:
    """median_db: over seeds and outputs. clipping: formats whose range exceeds the limit, of the seed that clips most. nearest: the format
    of a fixed unit whose range comes nearest to its limit, or exceeds it most. limit_db: None for a file without one."""

    name: str
    median_db: float
    all_db: tuple[float, ...]
    clipping: tuple[quantizer.Clip, ...]
    nearest: quantizer.Clip | None
    limit_db: float | None = None


def decibel(found: np.ndarray, wanted: np.ndarray) -> float:
    """Power of ``wanted`` over that of the difference."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    noise = ((found - wanted) ** 2).mean()
    return float(10 * np.log10((wanted ** 2).mean() / noise)) if noise else np.inf


def measure(name: str, make: Callable[[int], Model], method: str = "minmax", seeds: int = 6, limit: float | None = None) -> Snr:
    """Networks and inputs of the seeds 0 to ``seeds - 1``; ``make``: the network of a seed, of a file always the same."""
    ratios, worst, formats = [], (), []
    for seed in range(seeds):
        model, rng = make(seed), np.random.default_rng(seed)
        ((source, shape),) = model.tasks[0].inputs.items()
        calibration, test = (rng.standard_normal((n, *shape)).astype(np.float32) for n in (CALIBRATION, TEST))
        quantized, findings = quantizer.with_findings(model, {source: calibration}, method=method)
        for graph, integers in zip(model.tasks, quantized.tasks, strict=True):
            found = host.dequantize(integers, golden.run(integers, test))
            ratios += [decibel(found[output], value) for output, value in evaluate.run(graph, {source: test}).items()]
        formats += [clip for clip in findings.clipping if not clip.what.startswith("residual")]
        worst = max(worst, tuple(c for c in findings.clipping if c.range > c.limit), key=lambda clips: sum(c.clipped for c in clips))
    return Snr(name, float(np.median(ratios)), tuple(ratios), worst,
               max(formats, key=lambda c: c.range / c.limit, default=None), limit)


def always(model: Model) -> Callable[[int], Model]:
    """One network, whatever the seed."""
    return lambda seed: model


def scaled(model: Model, suffix: str, factor: float, back: str | None = None) -> Model:
    """Linear maps (or gates) whose name ends in ``suffix`` give ``factor`` times as much; those that end in ``back`` take it away again."""
    def change(node: Node) -> Node:
        if isinstance(node, ops.MoE) and suffix == "gate":
            return replace(node, gate=node.gate * np.float32(factor), gate_bias=node.gate_bias * np.float32(factor))
        if isinstance(node, ops.Linear) and node.name.endswith(suffix):
            return replace(node, weight=node.weight * np.float32(factor), bias=node.bias * np.float32(factor))
        if back and isinstance(node, ops.Linear) and node.name.endswith(back):
            return replace(node, weight=node.weight / np.float32(factor))
        return node
    return Model(tuple(replace(graph, nodes=tuple(map(change, graph.nodes))) for graph in model.tasks)).verify()


def networks():
    """(name, network of a seed, limit in dB) of what is measured without a file."""
    def vit(seed: int, blocks: str = "dd", act: Act = Act.GELU) -> Model:
        return random_model(seed=seed, tokens=17, dim=32, heads=2, hidden=128, blocks=blocks, act=act)

    yield "plain", vit, 28.0
    yield "pre-activations x10", lambda seed: scaled(vit(seed), ".fc1", 10), 25.0
    yield "pre-activations x30", lambda seed: scaled(vit(seed), ".fc1", 30), 26.0
    yield "ReLU", lambda seed: vit(seed, act=Act.RELU), 28.0
    yield "ReLU, one function, x30", lambda seed: scaled(vit(seed, act=Act.RELU), ".fc1", 30, ".fc2"), 28.0
    yield "scores x16", lambda seed: scaled(vit(seed), ".q", 16), 18.0
    yield "scores x40", lambda seed: scaled(vit(seed), ".q", 40), 16.0
    yield "router", lambda seed: vit(seed, "mm"), 27.0
    yield "router logits x40", lambda seed: scaled(vit(seed, "mm"), "gate", 40), 22.0


def main() -> int:
    """Print the figures; 1 if one misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="model.onnx", help="otherwise networks made here")
    parser.add_argument("--method", choices=quantizer.METHODS, default="minmax", help="how int8 ranges are taken")
    parser.add_argument("--seeds", type=int, default=6, help="0 to N-1 (6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--limit", type=float, metavar="DB", help="what the median of every file must reach")
    args = parser.parse_args()
    if args.limit is not None and not args.files:
        parser.error("--limit is for files; the networks made here have their own")

    given = [(str(path), always(import_model(path).model), args.limit) for path in args.files] or networks()
    rows = []
    print(f"{'network':40} {'median':>8} {'least':>8} {'largest':>8} {'limit':>6}   [dB]")
    for name, make, limit in given:
        row = measure(name, make, args.method, args.seeds, limit)
        rows.append(row)
        print(f"{name[-40:]:40} {row.median_db:8.1f} {min(row.all_db):8.1f} {max(row.all_db):8.1f} {'-' if limit is None else limit:>6}")
        for clip in row.clipping or filter(None, [row.nearest]):
            print(f"    {clip.what} of {clip.node}: up to {clip.range:.4g}, int16 holds {clip.limit:.4g}, "
                  f"{100 * clip.clipped:.2g} % clipped")
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return int(any(row.limit_db is not None and not row.median_db >= row.limit_db for row in rows))


if __name__ == "__main__":
    sys.exit(main())
