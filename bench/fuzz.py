"""Spoiled ONNX files through the importer: ``python bench/fuzz.py [--count 10000] [--seed 1] [--first 0] [--keep DIR]``.

Prints how many were refused with a message, and how many accepted; the accepted ones are compared with onnxruntime. Exit code 1 when
one ends in a traceback, takes over 10 CPU seconds or 1 GB, crashes, or computes something else than onnxruntime. Findings are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fuzz

ALWAYS = (fuzz.REFUSED, fuzz.REFUSED_LATER, fuzz.EQUAL, fuzz.NOT_COMPARED, fuzz.JUDGE_CRASH, fuzz.NO_HINT, fuzz.TRACEBACK,
          fuzz.SLOW, fuzz.LARGE, fuzz.CRASH, fuzz.DIFFERENT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first file of the run")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_found"), help="folder for the files of findings")
    args = parser.parse_args()
    begin = time.monotonic()
    outcomes = fuzz.run(args.count, args.seed, args.first, args.keep, lambda done: print(f"{done} files", file=sys.stderr))
    print(f"{args.count} files, seed {args.seed}, {time.monotonic() - begin:.0f} s")
    for outcome in ALWAYS:
        print(f"{len(outcomes.get(outcome, [])):8d}  {outcome}")
    bad = [case for outcome, cases in outcomes.items() if outcome not in fuzz.GOOD for case in cases]
    for case in bad[:50]:
        print(f"\n{case.number} ({case.kind}): {case.outcome}\n{case.text.strip()[-400:]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
