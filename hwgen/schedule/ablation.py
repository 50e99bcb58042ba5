"""What the engine would be without one of its techniques: programs that compute the same words in more cycles (bench/ablation.py).

The techniques are those of Edge-MoE (ICCAD 2023), whose own ablation gives the ratios to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..isa import Dst, Src
from ..qir import Weights
from .steps import Operand, Step


@dataclass(frozen=True, slots=True)
class Ablation:
    """What to do without; the default is nothing.

    query_block       attention without reordering: keys and values are loaded again for every ``query_block`` queries (0: once)
    softmax_passes    extra passes over the scores, as a softmax that finds maximum and sum before it normalises needs (0)
    serial            non-linearities in passes of their own (LayerNorm, activation), every layer waits for the one before it
    moe_block         patch order: every expert's weights are read again for every ``moe_block`` tokens (0: once)
    """

    query_block: int = 0
    softmax_passes: int = 0
    serial: bool = False
    moe_block: int = 0


def extra_passes(steps: list[Step], ablation: Ablation, ti: int, to: int) -> list[Step]:
    """The steps with the passes put in. An added pass writes, ahead of time, words that its layer writes again: results do not change."""
    result: list[Step] = []
    for step in steps:
        instr = step.instr
        tiles = 0
        if instr.src == Src.EXP:
            tiles = ablation.softmax_passes
        elif ablation.serial and instr.dst in (Dst.ACT, Dst.KV) and step.operand is not None:
            tiles = int(instr.src == Src.NORM)
            if instr.act:                           # a pass over the hidden values: as many slots as they have words
                tiles += -(-instr.n_tiles * to // ti // instr.k_tiles)
        result += [_one_tile(step, to)] * tiles + [step]
    return result


def _one_tile(step: Step, to: int) -> Step:
    """The step's first output tile alone."""
    last = step.instr.n_last if step.instr.n_tiles == 1 else to
    operand = step.operand
    if operand is not None:
        keep = operand.columns < to
        w = operand.weights
        operand = Operand(Weights(w.weight[:, keep], w.bias[keep], w.mult[keep], w.shift[keep], w.scale[keep], w.bits), operand.rows,
                          operand.columns[keep])
    return replace(step, instr=replace(step.instr, n_tiles=1, n_last=last), operand=operand, macs=0)
