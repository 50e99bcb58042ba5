"""Paths between registers of the arrays of rtl/sv, at few lanes: ``python bench/timing.py [MODULE ...] [--paths 8] [--json FILE]``.

Yosys maps each module to UltraScale+ cells, and `hwgen.timing` finds the longest path into the registers of each name: look-up tables on
it, and ns by a delay model that is stated and not fitted to a vendor's tool. Few lanes: nets of high fan-out are shorter than on a chip, and trees
over lanes have fewer levels. Registers right at a product count as those of its DSP slice. A stage is for 300 MHz when no path has more than
6 LUTs; the table says which registers are beyond.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
import json
from pathlib import Path
import re
import sys

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl")]

from hwgen import flows, numerics
from hwgen.engine import CAN, EngineConfig
from hwgen.engines.rtl import verilog as rtl
from hwgen.timing import paths
from hwgen.timing.delays import ULTRASCALE_PLUS
from hwgen.timing.netlist import read
from hwgen.tools import yosys
from hwgen_rtl.arrays import packed_table

LIMIT = 6                # look-up tables between registers
EXP = f"{16 * len(numerics.EXP_P8)}'h{packed_table(numerics.EXP_P8):x}"
CASES = {                # name -> module, parameters
    "accumulator": ("accumulator", "-set TO 1"),
    "array": ("pe_array", "-set TI 4 -set TO 4 -set SEG 4"),
    "array, packed": ("pe_array_packed", "-set TI 4 -set TO 4 -set SEG 4"),
    "drain, one lane": ("drain_lanes", "-set TO 1 -set VB 8"),
    "drain, one lane, operands": ("drain_lanes", "-set TO 1 -set VB 8 -set OPERAND 1"),
    "drain, two lanes, turned": ("drain_lanes", "-set TO 2 -set VB 16 -set OPERAND 3"),
    "feed, one lane": ("feed_lanes", f"-set TI 1 -set EXP_TABLE {EXP}"),
    "router, two experts": ("router_chain", "-set E 2 -set K 1"),
}
KNOTS = re.compile(r"    for \(genvar h = 0; h < 16 \* FUNCTIONS.*?\n    end\n", re.DOTALL)
"""The knots of the drain. Yosys takes a minute to cut them out of their constant; what is in a block RAM does not change its timing."""
FEW = "    initial for (int unsigned i = 0; i < KNOT_WORDS; i++) knots[i] = 36'(i * 12345);\n"


ENGINE = EngineConfig(ti=16, to=16, max_tokens=256, act_words=1024, kv_words=512, score_words=256, res_words=256, program_words=64, max_experts=16,
                      max_top_k=4, axi_data_bits=128, fifo_beats=64)
CONTROLS = {             # the generated modules of an engine, those of rtl/sv left out
    "control": ENGINE,
    "control, all stages": replace(ENGINE, operand_words=256, list_words=256, **dict.fromkeys(CAN, True)),
}


def module(name: str, parameters: str) -> list[paths.Path]:
    """Paths of one module of rtl/sv, the longest first."""
    text = KNOTS.sub(FEW, (ROOT / "rtl" / "sv" / f"{name}.sv").read_text())
    return longest((f"read_verilog -sv {name}.sv", f"chparam {parameters} {name}"), {f"{name}.sv": text}, name)


def control(engine: EngineConfig) -> list[paths.Path]:
    """Paths of the generated modules; what they ask of those of rtl/sv ends at their ports."""
    sources = {Path(name).name: flows.ZERO.sub("", text) for name, text in rtl.files(engine).items() if name.endswith(".sv")}
    others = (name for name in sources if name != f"{rtl.TOP}.sv")
    return longest((*(f"read_verilog -sv -lib {name}" for name in others), f"read_verilog -sv {rtl.TOP}.sv"), sources, rtl.TOP)


def longest(commands: tuple[str, ...], sources: dict[str, str], top: str) -> list[paths.Path]:
    mapped = (*commands, f"synth_xilinx -family xcup -flatten -noiopad -nowidelut -top {top}", "write_json netlist.json")
    outputs, _ = yosys.script(mapped, sources, ("netlist.json",))
    design = json.loads(outputs["netlist.json"])
    (found,) = (name for name, entry in design["modules"].items() if int(entry["attributes"].get("top", "0"), 2))
    return paths.longest(read(design, found, ULTRASCALE_PLUS), ULTRASCALE_PLUS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", metavar="MODULE", help="the first letters of its name; all if none is named")
    parser.add_argument("--paths", type=int, default=8, help="how many of each are printed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    every = {name: partial(module, *case) for name, case in CASES.items()} | {name: partial(control, engine) for name, engine in CONTROLS.items()}
    cases = {name: case for name, case in every.items() if not args.case or any(name.startswith(word) for word in args.case)}
    if not cases:
        parser.error(f"there is no such module; choose one of {', '.join(every)}")
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(cases, pool.map(lambda case: case(), cases.values()), strict=True))
    print(f"static timing, estimate: {ULTRASCALE_PLUS.source}")
    for name, rows in found.items():
        beyond = [row for row in rows if row.most_luts > LIMIT]
        print(f"\n{name}: {len(rows)} groups of registers, longest {rows[0].ns:.2f} ns; {len(beyond)} beyond {LIMIT} LUTs"
              + (f": {', '.join(f'{row.end}.{row.pin} {row.most_luts}' for row in beyond)}" if beyond else ""))
        for row in rows[:args.paths]:
            print(f"  {row}")
    if args.json:
        args.json.write_text(json.dumps({name: [{field: getattr(row, field) for field in row.__slots__} for row in rows]
                                         for name, rows in found.items()}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
