"""The RTL engine behind the protocol of engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...devices.board import Board
from ...devices.memory import LATENCY, conditions
from ...paths import data_dir
from ...steps.step import Quantized
from ...steps.verify import verify
from ..protocol import Conditions, Facts, Files, Result, Wishes
from . import bench, choose as sizing, cost as resources, driver, verilog as rtl
from .program import Program
from .verify import verify as verify_program

KINDS = ("lut", "ff", "dsp", "bram36", "uram")
MEMORIES = (("activations", "act"), ("keys and values", "kv"), ("scores", "score"), ("residual", "res"))


class RtlEngine:
    """Amaranth and SystemVerilog, run by a program. Its plan is a `Program`."""

    name = "rtl"

    def plan(self, model: Quantized, board: Board, wishes: Wishes) -> Program:
        """See `choose.choose`."""
        program = sizing.choose(model, board, wishes.array, wishes.batch)
        program.binary()                                # every field of every instruction fits, or this is a refusal too
        verify_program(program)
        return program

    def files(self, plan: Program, model: Quantized, name: str, board: Board, images: np.ndarray) -> Files:
        """Program, weight image, driver, sources and the native bench."""
        main = data_dir("templates") / "bench" / "main.cpp"
        return {"program.bin": plan.binary(), "program.txt": plan.disassembly(), "weights.bin": plan.image,
                **driver.files(plan, model, name), **rtl.files(plan.config), "bench/main.cpp": main.read_text()}

    def run(self, plan: Program, model: Quantized, files: Mapping[str, bytes], images: np.ndarray, tasks: list[int], how: Conditions) -> Result:
        """See `bench.run`."""
        return bench.run(plan, model, files, images, tasks, how)

    def facts(self, plan: Program) -> Facts:
        narrow = sum(i.n_tiles * i.k_tiles for i in plan.instrs if i.w4) * plan.config.macs_per_cycle // 2
        return Facts(plan.batch, len(plan.image), len(plan.image) + narrow, plan.mean_macs(), _notes(plan))

    def cost(self, plan: Program, model: Quantized, board: Board) -> dict[str, Any]:
        """Array, resources, cycles through one port and through all, the limits, memories and instructions."""
        config = plan.config
        timing = plan.estimate(board.bytes_per_cycle(), LATENCY)
        cycles = timing[-1].stop
        macs = plan.useful_macs()
        used = resources.estimate(config, board)
        ends = [*(t.start for t in timing[1:]), timing[-1].stop]
        instructions = [{"pc": pc, "instruction": instr.note or "end of frame", "node": info.node, "task": instr.task if instr.pred else None,
                         "start": t.start, "cycles": end - t.start, "wait_tile": t.wait_tile, "wait_hazard": t.wait_hazard,
                         "useful_macs": 0 if instr.pred and instr.task else info.macs}
                        for pc, (instr, info, t, end) in enumerate(zip(plan.instrs, plan.infos, timing, ends, strict=True))]
        return {
            "array": {"ti": config.ti, "to": config.to, "packed": config.packed, "fabric_columns": config.fabric_columns,
                      "load_columns": config.load_columns, "macs_per_cycle": config.macs_per_cycle},
            "resources": {"stage": "estimate", "used": {k: getattr(used, k) for k in KINDS}, "available": {k: getattr(board, k) for k in KINDS},
                          "units": {unit: {k: getattr(cells, k) for k in KINDS} for unit, cells in used.by_unit.items()}},
            "estimate": {"stage": "estimate", "cycles_per_image": cycles / plan.batch, "latency_ms": cycles / board.clock_mhz / 1000,
                         "utilization": macs * plan.batch / (config.macs_per_cycle * cycles),
                         "accumulator_use": max(max(verify(network).values()) for network in model.tasks),
                         "memory": conditions(board)},
            "all_ports": sizing.all_ports(plan, board),
            "limits": {"stage": "estimate", **sizing.roofline(macs, config.macs_per_cycle, (len(plan.image) + plan.input_bytes) / plan.batch,
                                                             board.bytes_per_cycle())},
            "memory": {name: getattr(config, f"{key}_words") for name, key in MEMORIES},
            "instructions": instructions}


def _notes(plan: Program) -> tuple[str, ...]:
    if not plan.token_block:
        return ()
    note = f"hidden values of all tokens do not fit: they are there for {plan.token_block} tokens at a time, and the weights around them"
    return (f"{note} are read again for each block",)
