"""A sequence of 1,024 tokens through the generated RTL: attention in blocks of queries, so that score buffers do not grow with it.

    python bench/long_sequence.py [--json FILE]

Prints, for 256, 512 and 1,024 tokens on one 16x16 engine, attention over all tokens and causal, the words of the score memory, the cycles of
attention over those of its tiles' bare matmuls, those of the causal one over the other, and the words that differ from the integer model. Exit
code 1 when a word differs, the score memory grows with the tokens, attention takes more than 1.05 of its bare matmuls, or causal attention over
1,024 tokens more than 0.6 of that over all.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from itertools import product
import json
from pathlib import Path
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

from hwgen.devices.memory import MemoryModel
from hwgen.engines.rtl.plan import schedule
from hwgen.isa import Stat
from hwgen.quantizer import quantize
from native_builds import Engine, differences
from qgraphs import random_images, random_model

TOKENS = (256, 512, 1024)
SCORE_WORDS = 4096           # of 16 lanes: two buffers of 128 KB each
LIMIT, CAUSAL_LIMIT = 1.05, 0.6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    cases = []
    for tokens, causal in product(TOKENS, (False, True)):
        floats = random_model(seed=3, tokens=tokens, dim=64, heads=2, hidden=64, blocks="d", patch=1, classes=(10,), causal=causal)
        model = quantize(floats, None, random=True)
        cases.append((tokens, causal, model, random_images(floats, 1),
                      schedule(model, ti=16, to=16, axi_data_bits=512, fifo_beats=4096, score_words=SCORE_WORDS)))
    names = [f.name for f in fields(cases[0][-1].config) if f.name.endswith("_words")] + ["max_tokens"]
    config = replace(cases[0][-1].config, causal=True, **{name: max(getattr(case[-1].config, name) for case in cases) for name in names})
    rows = []
    with tempfile.TemporaryDirectory(prefix="hwgen_long_") as folder:
        engine = Engine(Path(folder), 16, 16, 512)
        for tokens, causal, model, images, program in cases:
            # row maxima lie at a base that depends on the engine's depth: schedule's own, moved to this engine's
            instrs = tuple(replace(i, src_row=i.src_row // program.config.max_tokens * config.max_tokens, dst_row=i.dst_row)
                           if i.row_scale else replace(i, dst_row=i.dst_row // program.config.max_tokens * config.max_tokens)
                           if i.stat == Stat.K_COLUMNS else i for i in program.instrs)
            placed = replace(program, config=config, instrs=instrs)
            run = engine.run(placed, model, images, [0], MemoryModel(100, 64.0))
            at = [n for n, e in enumerate(run.events) if program.instrs[e["pc"]].stat != Stat.WEIGHTS]
            cycles = int(run.events["start"][at[-1] + 1]) - int(run.events["start"][at[0]])
            bare = sum(i.tokens * i.n_tiles * i.k_tiles for i in (program.instrs[run.events["pc"][n]] for n in at))
            whole = cycles if not causal else rows[-1]["attention_cycles"]
            rows.append({"tokens": tokens, "causal": causal, "over_whole": cycles / whole, "score_words": program.config.score_words, "attention_cycles": cycles, "ratio": cycles / bare,
                         "cycles": run.cycles, "mismatches": differences(run, model, images, [0])})
    print(f"{'tokens':>8}{'causal':>8}{'score words':>13}{'attention cycles':>18}{'over bare matmuls':>19}{'over all keys':>15}"
          f"{'all cycles':>12}{'differing':>11}"
          "    (RTL simulation, 16x16)")
    for r in rows:
        print(f"{r['tokens']:8,}{'yes' if r['causal'] else 'no':>8}{r['score_words']:13,}{r['attention_cycles']:18,}{r['ratio']:19.4f}"
              f"{r['over_whole']:15.4f}{r['cycles']:12,}{r['mismatches']:11}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"stage": "rtl simulation", "rows": rows}, indent=1))
    grows = max(r["score_words"] for r in rows) > 2 * SCORE_WORDS
    return int(grows or any(r["mismatches"] or r["ratio"] > LIMIT for r in rows) or rows[-1]["over_whole"] > CAUSAL_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
