"""Speed of the integer golden model: CPU seconds for an image, of one image alone and of eight at once.

    python bench/golden.py                       the bundled model, DeiT-T and M³ViT-T
    python bench/golden.py --only m3vit_tiny --json golden.json

Each network is imported and quantized with the images it came with; all tasks of eight images are computed, one after the other and at
once. A figure is the least of several rounds, one thread. Exit code 1 when an image of a batch takes longer than an image alone.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import sys
import time

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")          # read when numpy is loaded

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT), str(ROOT / "rtl")]      # works in a checkout without installing

from hwgen import quantizer
from hwgen.importer import import_model
from hwgen.steps import golden
from networks import generate

EXAMPLE = ROOT / "examples" / "m3vit_digits"
NETWORKS = ("m3vit_digits", "deit_tiny", "m3vit_tiny")
IMAGES = 8
BATCHES = (1, IMAGES)
ROUNDS = 5               # of all images, alone and together in turn: other work on the machine meets both


def files(name: str) -> tuple[Path, Path]:
    """The network and its images; those of bench/networks are made once."""
    if name == EXAMPLE.name:
        return EXAMPLE / "model.onnx", EXAMPLE / "calib.npz"
    folder = generate.default_folder()
    if not (folder / f"{name}.npz").exists():
        generate.generate(name, folder)
    return folder / f"{name}.onnx", folder / f"{name}.npz"


def measure(name: str) -> dict[str, object]:
    """CPU seconds an image, by the images of a batch."""
    model, data = files(name)
    with np.load(data) as file:
        images = file["x"][:IMAGES]
    networks = quantizer.quantize(import_model(model).model, {"x": images}).tasks
    seconds = dict.fromkeys(BATCHES, float("inf"))
    for _ in range(ROUNDS):
        for batch in BATCHES:
            begin = time.process_time()
            for start in range(0, IMAGES, batch):
                for network in networks:
                    golden.run(network, images[start:start + batch])
            seconds[batch] = min(seconds[batch], (time.process_time() - begin) / IMAGES)
    return {"network": name, "tasks": len(networks), "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = [measure(name) for name in NETWORKS if args.only in (None, name)]
    for row in rows:
        times = ", ".join(f"{1000 * s:.1f} ms an image in a batch of {batch}" for batch, s in row["seconds"].items())
        print(f"{row['network']}, {row['tasks']} tasks: {times} (CPU time)")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    slow = [row["network"] for row in rows if row["seconds"][IMAGES] > row["seconds"][1]]
    print(f"an image of a batch is slower than one alone: {', '.join(slow)}" if slow else "no image of a batch is slower than one alone")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
