"""Vitis HLS project of a network: kernels as they are, configuration and wiring from templates, the weight file, scripts.

    hls/include/hwgen/*.hpp   kernels              hls/hwgen_config.hpp, _tables.hpp, _program.hpp, _top.*   this network
    hls/stub/                 ap_int, hls_stream   hls/csim/main.cpp, weights.bin                           C simulation
"""

from __future__ import annotations

import re
import textwrap

import numpy as np

from ... import __version__, numerics
from ...devices.board import Board
from ...knots import knots
from ...layout import image
from ...paths import data_dir
from ...render import render
from ...steps import golden
from ...steps.format import ACCUMULATOR
from ...steps.host import quantize_input
from ...steps.step import Quantized
from .call import ALL_TASKS, Call
from .estimate import FIFO_BYTES, report
from .names import identifier
from .plan import Plan
from .value import Value

COLUMNS = 130                     # of emitted code
BURST_BYTES = 4096                # AXI4: a burst does not cross a 4 KiB boundary


def files(plan: Plan, model: Quantized, name: str, board: Board, images: np.ndarray) -> dict[str, str | bytes]:
    """{path relative to the build directory: content}.

    name: of the network, for comments; images: a few for the bench, float [B, ...].
    """
    kernels = data_dir("hls")
    result: dict[str, str | bytes] = {f"hls/{path.relative_to(kernels).as_posix()}": path.read_text()
                                      for folder in ("include/hwgen", "stub") for path in sorted((kernels / folder).iterdir())}
    tasks = list(range(len(model.tasks)))
    vitis = board.vitis()
    part = vitis.stand_in or board.part
    common = {"name": name, "version": __version__, "plan": plan, "num_tasks": len(tasks), "target": board.name, "part": part,
              "clock_mhz": f"{board.clock_mhz:g}", "period_ns": f"{1000 / board.clock_mhz:.3f}",
              "frames": len(images) * len(tasks), "tasks": ",".join(map(str, tasks))}
    return result | {
        "hls/hwgen_config.hpp": render("hls/hwgen_config.hpp.j2", **common),
        "hls/hwgen_tables.hpp": tables(plan.functions),
        "hls/hwgen_program.hpp": render("hls/hwgen_program.hpp.j2", values=[_value(v) for v in plan.values],
                                        steps=[_row(step) for step in plan.steps], **common),
        "hls/hwgen_top.hpp": render("hls/hwgen_top.hpp.j2", **common),
        "hls/hwgen_top.cpp": render("hls/hwgen_top.cpp.j2", fifo_words=FIFO_BYTES // plan.lanes,
                                    burst=min(256, BURST_BYTES // plan.lanes), **common),
        "hls/weights.bin": plan.weight_file(),
        "hls/csim/main.cpp": (data_dir("templates") / "hls" / "csim.cpp").read_text(),
        "hls/csim/input.bin": np.repeat(frames(plan, model, images), len(tasks), axis=0).tobytes(),
        "hls/csim/expected.bin": _expected(plan, model, images),
        "hls/scripts/vitis_hls.tcl": render("hls/vitis_hls.tcl.j2", **common),
        "hls/scripts/vivado.tcl": render("hls/vivado.tcl.j2", processor=vitis.processor, **common),
        "hls/driver/host.cpp": render("hls/host.cpp.j2", buffer_bytes=len(plan.image),
                                      frame_bytes=plan.input_words * plan.lanes + plan.output_words * 4, **common),
        "hls/README.md": render("hls/README.md.j2", estimate=report(plan, board), **common),
    }


def frames(plan: Plan, model: Quantized, images: np.ndarray) -> np.ndarray:
    """Images float [B, ...] -> uint8 [B, bytes]: each frame as the top function reads it. Raises InputError."""
    return image.frames(quantize_input(model.tasks[0], images), image.Shape(plan.lanes, plan.lanes, plan.lanes))


def _expected(plan: Plan, model: Quantized, images: np.ndarray) -> bytes:
    """Output words of the integer model, frame by frame."""
    words = np.zeros((len(images), len(model.tasks), plan.output_words), ACCUMULATOR.stored)
    for task, network in enumerate(model.tasks):
        found = golden.run(network, images)
        for name, place, length in plan.outputs[task]:
            words[:, task, place:place + length] = found[name]
    return words.tobytes()


def tables(functions: tuple[str, ...]) -> str:
    """hwgen_tables.hpp for activation functions, as `knots` knows them."""
    named = (("EXP_P8", f"255 * 2**(-i / {len(numerics.EXP_P8)}), unit 2**-8", numerics.EXP_P8),
             ("EXP_Q15", f"2**(-i / {len(numerics.EXP_Q15)}), unit 2**-15", numerics.EXP_Q15),
             ("RECIP", "2**31 / m for the 16-bit mantissas m with these leading bits", numerics.RECIP),
             ("RSQRT", "2**23 / sqrt(m), m as 8 leading bits", numerics.RSQRT))
    found = [(function, knots(function)) for function in functions]
    return render("hls/hwgen_tables.hpp.j2", version=__version__,
                  functions=[{"name": name, "value": f.value.tolist(), "slope": f.slope.tolist(), "ends": f.ends} for name, f in found],
                  tables=[{"name": n, "comment": c, "entries": values.tolist()} for n, c, values in named])


def _value(value: Value) -> dict[str, object]:
    return {"identifier": identifier(value.name), "address": value.address, "tokens": value.tokens, "channels": value.channels}


def _row(step: Call) -> dict[str, str]:
    call = f"hwgen::{step.code}" if not step.follows else f"hwgen::follows(hwgen::{step.code}, {step.follows})"
    if step.task != ALL_TASKS:
        call = f"only({step.task}, {call})"
    whole = re.sub(r"\{[^{}]*\}", lambda braces: braces[0].replace(" ", "\0"), call)      # not to be broken
    lines = textwrap.wrap(whole, COLUMNS - 1, initial_indent=" " * 4, subsequent_indent=" " * (5 + call.index("(")),
                          break_long_words=False, break_on_hyphens=False)
    return {"call": "\n".join(lines).replace("\0", " "), "comment": step.comment}
