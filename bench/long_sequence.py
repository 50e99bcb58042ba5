"""A sequence of 1,024 tokens through the generated RTL: attention in blocks of queries, so that score buffers do not grow with it.

    python bench/long_sequence.py [--json FILE]

Prints, for 256, 512 and 1,024 tokens on one 16x16 engine, attention over all tokens, causal, and causal over the last 128, the words of the score
memory, the cycles of attention over those of its tiles' bare matmuls, those over the ones of all tokens, and the words that differ from the integer
model. Exit code 1 when a word differs, the score memory grows with the tokens, attention takes more than 1.05 of its bare matmuls (1.1 over
the last 128, whose masks come in between), or attention over 1,024 tokens more than 0.6 of that over all, 0.2 over the last 128.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
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
NEAR = 128
CASES = {"all": {}, "causal": {"causal": True}, f"last {NEAR}": {"causal": True, "near": NEAR}}
LIMITS = {"all": (1.05, 1.0), "causal": (1.05, 0.6), f"last {NEAR}": (1.1, 0.2)}         # over the bare matmuls, and over all tokens of 1,024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    cases = []
    for tokens, seen in ((tokens, seen) for tokens in TOKENS for seen in CASES):
        floats = random_model(seed=3, tokens=tokens, dim=64, heads=2, hidden=64, blocks="d", patch=1, classes=(10,), **CASES[seen])
        model = quantize(floats, None, random=True)
        cases.append((tokens, seen, model, random_images(floats, 1),
                      schedule(model, ti=16, to=16, axi_data_bits=512, fifo_beats=4096, score_words=SCORE_WORDS)))
    names = [f.name for f in fields(cases[0][-1].config) if f.name.endswith("_words")] + ["max_tokens"]
    config = replace(cases[0][-1].config, causal=True, **{name: max(getattr(case[-1].config, name) for case in cases) for name in names})
    rows = []
    with tempfile.TemporaryDirectory(prefix="hwgen_long_") as folder:
        engine = Engine(Path(folder), 16, 16, 512)
        for tokens, seen, model, images, program in cases:
            # row maxima lie at a base that depends on the engine's depth: schedule's own, moved to this engine's
            instrs = tuple(replace(i, src_row=i.src_row // program.config.max_tokens * config.max_tokens, dst_row=i.dst_row)
                           if i.row_scale else replace(i, dst_row=i.dst_row // program.config.max_tokens * config.max_tokens)
                           if i.stat == Stat.K_COLUMNS else i for i in program.instrs)
            placed = replace(program, config=config, instrs=instrs)
            run = engine.run(placed, model, images, [0], MemoryModel(100, 64.0))
            at = [n for n, e in enumerate(run.events) if program.instrs[e["pc"]].stat != Stat.WEIGHTS]
            cycles = int(run.events["start"][at[-1] + 1]) - int(run.events["start"][at[0]])
            bare = sum(i.tokens * i.n_tiles * i.k_tiles for i in (program.instrs[run.events["pc"][n]] for n in at))
            whole = cycles if seen == "all" else next(row for row in rows if row["tokens"] == tokens)["attention_cycles"]
            rows.append({"tokens": tokens, "sees": seen, "over_whole": cycles / whole, "score_words": program.config.score_words, "attention_cycles": cycles, "ratio": cycles / bare,
                         "cycles": run.cycles, "mismatches": differences(run, model, images, [0])})
    print(f"{'tokens':>8}{'sees':>10}{'score words':>13}{'attention cycles':>18}{'over bare matmuls':>19}{'over all keys':>15}"
          f"{'all cycles':>12}{'differing':>11}"
          "    (RTL simulation, 16x16)")
    for r in rows:
        print(f"{r['tokens']:8,}{r['sees']:>10}{r['score_words']:13,}{r['attention_cycles']:18,}{r['ratio']:19.4f}"
              f"{r['over_whole']:15.4f}{r['cycles']:12,}{r['mismatches']:11}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"stage": "rtl simulation", "rows": rows}, indent=1))
    grows = max(r["score_words"] for r in rows) > 2 * SCORE_WORDS
    return int(grows or any(r["mismatches"] or r["ratio"] > LIMITS[r["sees"]][0] for r in rows) or any(
        r["over_whole"] > LIMITS[r["sees"]][1] for r in rows if r["tokens"] == TOKENS[-1]))


if __name__ == "__main__":
    sys.exit(main())
