"""What is proved of the hardware, how far, and what it takes: ``python bench/proofs.py [--faults]``.

A row a claim: its properties, whether they hold for all time or for so many cycles from reset, CPU seconds. With ``--faults`` also every
seeded fault: it must break the property it was made for. The exit code is 1 when something is not as it should be. Needs SymbiYosys and Z3.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import resource
import sys

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "sim")]

from hwgen_sim.formal import CLAIMS


def seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(x.ru_utime + x.ru_stime for x in used)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", action="store_true", help="seed every fault too")
    args = parser.parse_args()
    wrong, begin = 0, seconds()
    for claim in CLAIMS:
        start = seconds()
        verdict = claim.verdict()
        wrong += not verdict.proved
        reach = f"for all time, by induction over {claim.depth} cycles" if claim.induction else f"{claim.depth} cycles from reset"
        print(f"{'proved' if verdict.proved else 'NOT PROVED':<11}{claim.name}: {reach}, {seconds() - start:.1f} CPU s")
        for name, fault in claim.faults.items():
            start = seconds()
            seen = name in claim.verdict(fault).failed if args.faults else True
            wrong += not seen
            told = f": its fault is {'seen' if seen else 'NOT SEEN'}, {seconds() - start:.1f} CPU s" if args.faults else ""
            print(f"           {name.replace('_', ' ')}{told}")
    number = sum(len(claim.faults) for claim in CLAIMS)
    print(f"{number} properties of {len(CLAIMS)} claims, {wrong} not as they should be, {seconds() - begin:.0f} CPU s")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
