"""Prefill of a decoder of Llama's form with 135 M parameters, whole network in RTL: ``python bench/llama.py [--blocks 30] [--count 128]``.

The network is made from a seed, spelled as transformers exports it: 30 layers of width 576, 9 heads and 3 key heads of 64, gated MLP of 1,536,
vocabulary 49,152 with a tied head, logits of the last token. ZCU102, 64x64, 48.4 bytes a cycle, latency 200. The limit is, for the layers and for the
head apart, the larger one of array and memory. Exit code 1 when a word differs or the cycles are beyond 1.08 times the limit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
import tempfile

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

from hwgen import api
from hwgen.devices.memory import MemoryModel
from llama_nets import Sizes, llama

MUST = 1.08
MEMORY = MemoryModel(latency=200, bytes_per_cycle=48.4)
ARRAY = (64, 64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=30, help="layers")
    parser.add_argument("--count", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    size = Sizes(args.vocabulary, args.count, 576, 9, 3, 1536, args.blocks)
    rng = np.random.default_rng(0)
    prompts = {"input_ids": rng.integers(0, size.vocabulary, (4, size.count))}
    with tempfile.TemporaryDirectory(prefix="hwgen_llama_") as folder:
        net, outputs, shapes = llama(size)
        file = net.save(Path(folder) / "llama.onnx", outputs, shapes)
        acc = api.compile(file, calib=prompts, target="zcu102", array=ARRAY, out=Path(folder) / "build")
        result = acc.simulate({"input_ids": prompts["input_ids"][:1]}, memory=MEMORY)
        floats = acc.simulate({"input_ids": prompts["input_ids"][:1]}, engine="golden")
    head = size.vocabulary * size.dim
    layers = result.useful_macs_per_image - head
    weights = acc.build.report["weight_bytes"] - head
    array = ARRAY[0] * ARRAY[1]
    parts = {"layers": (layers / array, weights / MEMORY.bytes_per_cycle), "head": (head / array, head / MEMORY.bytes_per_cycle)}
    limit = sum(max(pair) for pair in parts.values())
    ratio = result.cycles_per_image / limit
    figures = {"stage": "rtl simulation", "cycles": result.cycles_per_image, "bit_exact": result.bit_exact, "limit": limit, "over_limit": ratio,
               "parts": {name: {"array": pair[0], "memory": pair[1]} for name, pair in parts.items()}, "logits": list(floats.outputs["logits"].shape)}
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(not result.bit_exact or ratio > MUST)


if __name__ == "__main__":
    raise SystemExit(main())
