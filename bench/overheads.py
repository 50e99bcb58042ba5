"""Cycles that an operator adds to the MiniLM shape over the same multiplications without it: ``python bench/overheads.py [--estimate] [--json FILE]``;
with ``--bert`` cycles of the BERT-base shape over the array's limit.

6 layers of 384 channels, 12 heads, MLP of 1,536, 128 tokens, seeded, on a 64x64 array as the ZCU102 gets it, 48.4 bytes a cycle and latency 200.
Every case is one frame through the RTL (Verilator), word for word the integer model's, on one engine that has what any of them needs; with
``--estimate`` the cycle model alone. BERT-base: 12 layers of 768 channels, norms behind the sums; also through one port of 128 bits (16 bytes a
cycle), which the cycle model says. Exit code 1 when a word differs or a figure is missed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
import json
from pathlib import Path
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "sim"), str(ROOT / "tests")]      # works in a checkout without installing

from hwgen import quantizer
from hwgen.devices.memory import MemoryModel
from hwgen.engine import EngineConfig, covering
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.program import Program
from hwgen.steps.step import Quantized
import native_builds
import qgraphs

SHAPE = {"tokens": 128, "dim": 384, "heads": 12, "hidden": 1536, "blocks": "d" * 6, "patch": 2, "channels": 3}
BERT = SHAPE | {"dim": 768, "hidden": 3072, "blocks": "d" * 12}
MEMORY, ONE_PORT = MemoryModel(200, 48.4), MemoryModel(200, 16)
ARRAY = {"ti": 64, "to": 64, "axi_data_bits": 512, "fifo_beats": 1024, "packed": True, "load_columns": 2}


@dataclass(frozen=True)
class Case:
    """A network beside another one: options of `qgraphs.random_model` over `SHAPE`; most: cycles over the other's, less one. limit: at most so
    many times the array's limit."""

    name: str
    options: dict = field(default_factory=dict)
    most: float = 0.0
    beside: str = "norms in front"
    limit: float = 2.0


CASES = (Case("norms in front"),
         Case("norms behind the sums", {"norms": "post"}, 0.02),
         Case("RMS norms behind the sums", {"norms": "post", "rms": True}, 0.02),
         Case("one mask for all layers", {"near": 64}, 0.005), Case("a mask a layer", {"bias": "mask"}, 0.005),
         Case("a bias a head and layer", {"bias": "heads"}, 0.005))


WHOLE = (Case("BERT-base", BERT | {"norms": "post"}, 0.0, "BERT-base", 1.05),)


def program(case: Case, engine: EngineConfig | None = None) -> tuple[Program, Quantized]:
    """The program of a case, for ``engine`` where there is one; and its integer network."""
    network = quantizer.quantize(qgraphs.random_model(1, **SHAPE | case.options), None, random=True)
    return schedule(network, **ARRAY, engine=engine), network


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--estimate", action="store_true", help="the cycle model alone")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--bert", action="store_true", help="the BERT-base shape instead")
    args = parser.parse_args()
    cases = WHOLE if args.bert else CASES
    made = {case.name: program(case) for case in cases}
    engine = covering(found.config for found, _ in made.values())
    rows: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="hwgen_overheads_") as folder:
        hardware = native_builds.Engine(Path(folder), **{key: value for key, value in ARRAY.items()}, options=vars(engine))
        for case in cases:
            found, network = made[case.name]
            cycles, differing = found.estimate(MEMORY.bytes_per_cycle, MEMORY.latency)[-1].stop, 0
            if not args.estimate:
                found, _ = program(case, engine)
                image = qgraphs.random_images(qgraphs.random_model(1, **SHAPE | case.options), 1)
                run = hardware.run(found, network, image, [0], MEMORY)
                cycles, differing = run.cycles, native_builds.differences(run, network, image, [0])
            rows[case.name] = {"cycles": cycles, "useful_macs": network.tasks[0].useful_macs, "differing": differing,
                               "array_limit": network.tasks[0].useful_macs / (ARRAY["ti"] * ARRAY["to"])}
            over = cycles / rows[case.beside]["cycles"] - 1
            rows[case.name] |= {"over": over, "most": case.most, "reached": over <= case.most and cycles <= case.limit * rows[case.name]["array_limit"] and not differing}
            print(f"{case.name:30}{cycles:12,} cycles, {cycles / rows[case.name]['array_limit']:.3f} of the array's limit, {100 * over:+.2f} % "
                  f"over {case.beside!r} (at most {100 * case.most:.1f} %), {differing} words differ", flush=True)
            if args.bert:
                cycles = found.estimate(ONE_PORT.bytes_per_cycle, ONE_PORT.latency)[-1].stop
                print(f"{'through one port':30}{cycles:12,} cycles (estimate), {cycles / rows[case.name]['array_limit']:.3f} of the array's limit")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0 if all(row["reached"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
