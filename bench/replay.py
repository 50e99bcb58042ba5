"""Replay: recorded networks through the quantizer, the integer model and both backends; what comes out must be what came out before.

    python bench/replay.py                          every network; prints where a digest differs
    python bench/replay.py --quick                  one random network of five, and the examples
    python bench/replay.py --only 'random-01?' --verbose
    python bench/replay.py --update                 write the digests as they are now

Float graphs and calibrated ranges are files (bench/recorded), so neither a class nor a BLAS is part of the comparison. For each network and
each of its builds these are digested, each in a column of its own:

    program, weights       program.bin and the weight image of the RTL engine         frame       input memory, places of outputs
    results, values        outputs and every value of the integer model               cost        work, cycles of the cycle model
    hls                    generated C++: no comments, names numbered as they appear  hls weights, hls frame   its weight image; images
    config, notes          the engine's sizes; disassembly, nodes and memory map

A change that is meant to change a result updates the digests in a commit of its own, whose message says which column and why. Exit code 1
when anything differs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]     # without installing

from recorded import digests, form

FOLDER = Path(__file__).resolve().parent / "recorded" / "networks"
DIGESTS = Path(__file__).resolve().parent / "recorded" / "digests.json"


def networks(only: str, quick: bool) -> Iterator[form.Recorded]:
    """Those whose name matches; with ``quick`` a part of the random ones and the examples."""
    for path in sorted(FOLDER.glob("*.zip")):
        if not quick or path.stem == "examples":
            yield from form.read(path, only)
        elif path.stem.startswith("random"):
            yield from (network for network in form.read(path, "*[05]") if fnmatchcase(network.key, only))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="networks whose name matches, as a shell would")
    parser.add_argument("--quick", action="store_true", help="one random network of five, and the examples")
    parser.add_argument("--update", action="store_true", help="write what was found into the digests file")
    parser.add_argument("--write", action="store_true", help="record the networks anew, by the code as it is: only to add networks")
    parser.add_argument("--verbose", action="store_true", help="each network with its time")
    args = parser.parse_args()
    if args.write:
        from recorded import record
        record.write(FOLDER, ROOT)
    committed = digests.read(DIGESTS)
    changed: Counter[str] = Counter()
    found: dict[str, digests.Digests] = {}
    begin = time.process_time()
    for network in networks(args.only, args.quick):
        start = time.process_time()
        found[network.key] = digests.network(network, ROOT)
        differing = digests.differing(found[network.key], committed.get(network.key, {}))
        for column, builds in differing.items():
            print(f"{network.key}: {column} differs in {', '.join(builds)}", flush=True)
            changed[column] += 1
        if args.verbose:
            print(f"{network.key}: {len(network.builds)} builds, {time.process_time() - start:.2f} s", flush=True)
    missing = [] if args.quick or args.only != "*" else sorted(committed.keys() - found.keys())
    for key in missing:
        print(f"{key}: not recorded, but in the digests file")
    print(f"{len(found)} networks, {sum(len(builds) for builds in found.values())} builds, {time.process_time() - begin:.0f} s of CPU; "
          + (", ".join(f"{column} of {count}" for column, count in changed.items()) + " differ" if changed else "nothing differs"))
    if args.update:
        kept = {key: value for key, value in committed.items() if key not in missing}
        digests.write(DIGESTS, kept | found)
        return 0
    if not found:
        print(f"no network matches {args.only!r}", file=sys.stderr)
    return int(bool(changed or missing or not found))


if __name__ == "__main__":
    sys.exit(main())
