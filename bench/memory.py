"""The cycle model against the RTL under every memory: latency 100, 200, 300 and 16, 32, 48, 64 bytes a cycle, whole networks on the ZCU102.

    python bench/memory.py                           DeiT-T and M³ViT-T, 24 simulations of one image, one build each
    python bench/memory.py --only deit_tiny --json memory.json

Every output word is compared as well. Builds are those of bench/whole.py, kept in ~/.cache/hwgen/whole. Exit code 1 when a word differs
or the model is more than 2 % off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

from hwgen.devices.memory import MemoryModel
import whole

NETWORKS = ("deit_tiny", "m3vit_tiny")
LATENCIES, RATES = (100, 200, 300), (16.0, 32.0, 48.0, 64.0)
MUST = 2.0               # percent


def table(case: whole.Case, cache: Path, digest: str, latencies=LATENCIES, rates=RATES) -> list[dict]:
    """One record a memory: cycles of the RTL for one image, cycles of the model, words that differ."""
    acc, images, _ = whole.build(case, cache, digest, lambda line: print(line, file=sys.stderr, flush=True))
    image = images["x"][:1]
    tokens = whole.dispatched(acc, image, 0)
    rows = []
    for latency in latencies:
        for rate in rates:
            result = acc.simulate({"x": image}, task=0, memory=MemoryModel(latency=latency, bytes_per_cycle=rate))
            estimate = acc.build.program.estimate(rate, latency, 0, tokens)[-1].stop
            rows.append({"case": case.name, "latency": latency, "bytes_per_cycle": rate, "cycles": round(result.cycles_per_image),
                         "estimate": estimate, "off_percent": 100 * (estimate / result.cycles_per_image - 1), "mismatches": result.mismatches})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    cache, digest = whole.cache_folder(), whole.sources_digest()
    rows = [row for network in NETWORKS if args.only in (None, network) for row in table(whole.Case(network, "zcu102"), cache, digest)]
    lines = [["case", "latency", "B/cycle", "cycles (RTL simulation)", "cycles (estimate)", "off %", "words that differ"]]
    lines += [[r["case"], str(r["latency"]), f"{r['bytes_per_cycle']:g}", f"{r['cycles']:,}", f"{r['estimate']:,}", f"{r['off_percent']:.3f}",
               str(r["mismatches"])] for r in rows]
    print(whole.aligned(lines))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    worst = max(abs(row["off_percent"]) for row in rows)
    reached = worst <= MUST and not any(row["mismatches"] for row in rows)
    print(f"largest error {worst:.3f} %, must be at most {MUST:g} %: {'reached' if reached else 'MISSED'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
