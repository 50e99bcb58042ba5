"""Edge-MoE's techniques taken away one by one: cycles of the generated RTL beside the paper's own ratios.

    python bench/ablation.py                        a dense and an expert block of M3ViT-T on a 32x32 array, 64 bytes per cycle
    python bench/ablation.py --array 64x64 --json ablation.json

Every variant computes the same words (compared with the integer model) on the same hardware; only the program differs, see
`hwgen.steps.passes.ablation`. The first row has none of the techniques, each further row one more, in the order of the paper's table
(Edge-MoE, ICCAD 2023). Its unified linear unit is not taken away: an engine without it would be another engine. Exit code 1 when a word
differs or a technique does not pay.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
import json
from pathlib import Path
import sys
import tempfile

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

from hwgen.devices.memory import MemoryModel
from hwgen.engines.rtl.plan import schedule
from hwgen.quantizer import quantize
from hwgen.steps.passes.ablation import Ablation
from native_builds import Engine, differences
from qgraphs import random_images, random_model

NETWORK = {"seed": 1, "tokens": 129, "dim": 192, "heads": 3, "hidden": 768, "experts": 16, "top_k": 2,
           "expert_hidden": 384, "blocks": "dm", "classes": (10,), "renormalize": False}
NONE = Ablation(query_block=8, softmax_passes=2, serial=True, moe_block=8)
STEPS = (                # technique, what it switches back on, cycles of the paper before / after
    ("patch reordering (expert by expert)", {"moe_block": 0}, 650.3 / 433.4),
    ("single-pass softmax", {"softmax_passes": 0}, 433.4 / 353.4),
    ("streamed non-linearities (paper: GELU table)", {"serial": False}, 353.4 / 212.9),
    ("reordered attention", {"query_block": 0}, 104.3 / 34.6),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--array", default="32x32", metavar="TIxTO")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    ti, to = map(int, arguments.array.split("x"))
    floats = random_model(**NETWORK)
    model, images = quantize(floats, None, random=True), random_images(floats, 1)
    ablations, now = [NONE], NONE
    for _, on, _ in STEPS:
        now = replace(now, **on)
        ablations.append(now)
    programs = [schedule(model, ti=ti, to=to, axi_data_bits=512, fifo_beats=4096, ablation=ablation) for ablation in ablations]
    sizes = [f.name for f in fields(programs[0].config) if f.name.endswith("_words")]
    config = replace(programs[0].config, **{name: max(getattr(p.config, name) for p in programs) for name in sizes})
    rows, words = [], 0
    with tempfile.TemporaryDirectory(prefix="hwgen_ablation_") as folder:
        engine = Engine(Path(folder), ti, to, 512)
        named = zip(("none", *(s[0] for s in STEPS)), programs, (None, *(s[2] for s in STEPS)), strict=True)
        for name, program, paper in named:
            print(f"simulate: {name}", file=sys.stderr)
            run = engine.run(replace(program, config=config), model, images, [0], MemoryModel(100, 64.0))
            words += differences(run, model, images, [0])
            gain = rows[-1]["cycles"] / run.cycles if rows else None
            rows.append({"technique": name, "cycles": run.cycles, "gain": gain, "edge_moe_gain": paper, "read_mb": run.read_bytes / 1e6})
    print(f"{'with also':46}{'cycles':>12}{'gain':>8}{'Edge-MoE':>10}{'read MB':>10}    (RTL simulation, {ti}x{to}, 64 B/cycle)")
    for row in rows:
        gain, paper = (f"{row[k]:.2f}" if row[k] else "" for k in ("gain", "edge_moe_gain"))
        print(f"{row['technique']:46}{row['cycles']:12,}{gain:>8}{paper:>10}{row['read_mb']:10.1f}")
    total = rows[0]["cycles"] / rows[-1]["cycles"]
    print(f"all together {total:.2f}, differing output words: {words}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"stage": "rtl simulation", "array": [ti, to], "rows": rows, "total": total,
                                              "mismatches": words}, indent=1))
    return int(words != 0 or not all(np.array([row["gain"] for row in rows[1:]]) > 1))


if __name__ == "__main__":
    sys.exit(main())
