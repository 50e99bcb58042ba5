"""Cycles of a short sequence on the build of a long one, against a build for its length: ``python bench/short_sequences.py``.

A network of the shape of MiniLM (6 blocks, 384 channels, 12 heads, 1,536 hidden, seeded weights) in RTL, at the bandwidth and latency of
48.4 bytes a cycle and 200 cycles.
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

from hwgen.devices.memory import MemoryModel
from hwgen.engine import covering
from hwgen.engines.rtl.plan import schedule
from hwgen.steps import golden
import native_builds
from sequence_nets import sequence_network, sequences

MEMORY = MemoryModel(latency=200, bytes_per_cycle=48.4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--array", default="32x32")
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=6)
    args = parser.parse_args()
    ti, to = map(int, args.array.split("x"))
    sizes = {"dim": 384, "heads": 12, "hidden": 1536, "blocks": "d" * args.blocks, "classes": (384,)}
    array = {"ti": ti, "to": to, "axi_data_bits": 512, "fifo_beats": 512}
    models = [sequence_network(0, tokens=tokens, **sizes) for tokens in (args.longest, args.length)]
    engine = covering(schedule(model, **array).config for model in models)
    found = {}
    with tempfile.TemporaryDirectory(prefix="hwgen_short_") as work:
        bench = native_builds.Engine(Path(work), ti, to, 512, fifo_beats=512)
        for name, model, lengths in (("long", models[0], []), ("short on the long build", models[0], [args.length]), ("short build", models[1], [])):
            program, images = schedule(model, **array, engine=engine), sequences(model, 1)
            run = bench.run(program, model, images, [0], MEMORY, lengths=lengths)
            wanted = golden.run(model.tasks[0], images, lengths)["logits"][0]
            exact = np.array_equal(run.outputs[0]["logits"], wanted)
            estimate = program.estimate(48.4, 200, length=lengths[0] if lengths else 0)[-1].stop
            found[name] = {"cycles": run.cycles, "bit_exact": bool(exact), "estimate": estimate}
            print(name, found[name], flush=True)
    ratio = found["short on the long build"]["cycles"] / found["short build"]["cycles"]
    print(json.dumps({"array": args.array, **found, "ratio": ratio}, indent=1))
    return 0 if ratio <= 1.05 and all(row["bit_exact"] for row in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
