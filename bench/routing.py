"""Skewed routing: what the distribution of tokens over experts does to the cycles of the generated RTL.

    python bench/routing.py [--json FILE]

One expert block (129 tokens, 16 experts, top-2, the sizes of M3ViT-T) on a 32x32 array at 48 bytes per cycle; the gate's bias sends all
tokens to one pair of experts, to half of the experts, or lets them spread. Weights stream in the same order whatever the routing;
cycles may differ by what the tokens themselves take. Exit code 1 when a word differs, or cycles are more than 2 % off the cycle model
that is told how many tokens each expert got.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path
import sys
import tempfile

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

from hwgen import ops
from hwgen.devices.memory import MemoryModel
from hwgen.engines.rtl.plan import schedule
from hwgen.graph import Model
from hwgen.quantizer import quantize
from hwgen.steps.golden import trace
from native_builds import Engine, differences
from qgraphs import random_images, random_model

EXPERTS = 16
NETWORK = {"seed": 2, "tokens": 129, "dim": 192, "heads": 3, "hidden": 768, "experts": EXPERTS, "top_k": 2,
           "expert_hidden": 384, "blocks": "m", "classes": (10,), "renormalize": False}
BIAS = {                     # added to the gate's logits
    "spread": np.zeros(EXPERTS), "none to half": np.where(np.arange(EXPERTS) < EXPERTS // 2, 0.0, -50.0),
    "all to one pair": np.where(np.isin(np.arange(EXPERTS), (5, 11)), 50.0, 0.0),
}
MEMORY = MemoryModel(100, 48.0)


def biased(model: Model, bias: np.ndarray) -> Model:
    """The network with ``bias`` added to every gate."""
    graphs = [replace(graph, nodes=tuple(replace(n, gate_bias=(n.gate_bias + bias).astype(np.float32)) if isinstance(n, ops.MoE) else n
                                         for n in graph.nodes)) for graph in model.tasks]
    return Model(tuple(graphs)).verify()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="hwgen_routing_") as folder:
        engine = Engine(Path(folder), 32, 32, 512)
        for name, bias in BIAS.items():
            floats = biased(random_model(**NETWORK), bias)
            model, images = quantize(floats, None, random=True), random_images(floats, 1)
            program = schedule(model, ti=32, to=32, axi_data_bits=512, fifo_beats=8192, load_columns=1)
            run = engine.run(program, model, images, [0], MEMORY)
            chosen = next(array for name, array in trace(model.tasks[0], images, detail=True).items() if name.endswith(".experts"))
            counts = np.bincount(chosen.ravel(), minlength=EXPERTS)
            dispatched = {pc: int(counts[i.expert]) for pc, i in enumerate(program.instrs) if i.gather or i.scatter}
            estimate = program.estimate(MEMORY.bytes_per_cycle, MEMORY.latency, 0, dispatched)[-1].stop
            rows.append({"routing": name, "most": int(counts.max()), "idle": int((counts == 0).sum()), "cycles": run.cycles, "estimate": estimate,
                         "read_bytes": run.read_bytes, "mismatches": differences(run, model, images, [0])})
    print(f"{'routing':18}{'most tokens':>12}{'idle experts':>14}{'cycles':>10}{'cycle model':>13}{'read bytes':>12}"
          f"{'differing':>11}    (RTL simulation, 32x32)")
    for r in rows:
        print(f"{r['routing']:18}{r['most']:12}{r['idle']:14}{r['cycles']:10,}{r['estimate']:13,}{r['read_bytes']:12,}{r['mismatches']:11}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"stage": "rtl simulation", "rows": rows}, indent=1))
    return int(any(r["mismatches"] or abs(r["estimate"] / r["cycles"] - 1) > 0.02 for r in rows))


if __name__ == "__main__":
    sys.exit(main())
