"""The core against golden.py, word by word, with pauses at random on both sides. `python run.py` runs it; so does any cocotb 2 flow."""

from itertools import repeat
import json
import os
from pathlib import Path
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly
import numpy as np
from words import parameters

import golden

FACTS = json.loads((Path(__file__).parent / "core.json").read_text())
SEED = int(os.environ.get("CORE_SEED", "1"))
PATIENCE = 20_000            # cycles without a word


def pauses(pattern: str, seed: int):
    """Endless: whether to pause in a cycle."""
    rng = random.Random(seed)
    if pattern == "never":
        yield from repeat(False)
    while pattern == "often":
        yield rng.random() < 0.6
    paused = False
    while True:
        yield from repeat(paused, rng.randint(1, 12))
        paused = not paused


def frames():
    """(words of every input port, words of the result), all cases one after the other."""
    p, sent, wanted = parameters(), {}, []
    for arrays in golden.cases(p, np.random.default_rng(SEED)).values():
        for port, words in golden.streams(p, *arrays).items():
            sent.setdefault(port, []).extend(words)
        wanted += golden.results(p, golden.golden(p, *arrays))
    return sent, wanted


async def run(dut, sent: dict, wanted: list, before: str, behind: str) -> dict:
    """Sends all words and compares all results; returns cycles. A word is taken at the rising edge behind the falling edge at which it stands."""
    junk, ready = random.Random(SEED), pauses(behind, SEED + 99)
    left = {port: list(words) for port, words in sent.items()}
    stalls = {port: pauses(before, SEED + n) for n, port in enumerate(sent)}
    offered = dict.fromkeys(sent, False)
    done = first_in = first_out = last_out = waited = 0
    held = None
    for cycle in range(1 << 31):
        for port, words in left.items():
            offered[port] = bool(words) and (offered[port] or not next(stalls[port]))
            data = getattr(dut, f"{port}_tdata")
            word, last = words[0] if offered[port] else (junk.getrandbits(len(data)), junk.random() < 0.5)
            getattr(dut, f"{port}_tvalid").value, data.value, getattr(dut, f"{port}_tlast").value = int(offered[port]), word, int(last)
        take = not next(ready)
        dut.m_axis_tready.value = int(take)
        await ReadOnly()
        for port, words in left.items():
            if offered[port] and dut[f"{port}_tready"].value == 1:
                first_in = first_in or cycle + 1
                offered[port] = False
                words.pop(0)
        valid = dut.m_axis_tvalid.value == 1
        got = (int(dut.m_axis_tdata.value), dut.m_axis_tlast.value == 1) if valid else None
        assert held is None or got == held, f"cycle {cycle}: a waiting word changed from {held} to {got}"
        held = got if valid and not take else None
        waited = 0 if valid else waited + 1
        assert waited < PATIENCE, f"no result for {PATIENCE} cycles; {done} of {len(wanted)} came"
        if valid and take:
            assert done < len(wanted), f"cycle {cycle}: {got} came although nothing more is expected"
            assert got == wanted[done], f"result {done} is {got[0]:#x}, tlast {got[1]}, not {wanted[done][0]:#x}, {wanted[done][1]}"
            first_out, last_out, done = first_out or cycle + 1, cycle + 1, done + 1
        await FallingEdge(dut.clk)
        if done == len(wanted) and not any(left.values()):
            break
    if hasattr(dut, "error"):
        assert dut.error.value == 0, "error is set"
    return {"latency": first_out - first_in, "cycles": last_out - first_in + 1}


async def reset(dut, ports) -> None:
    """The clock, and two cycles of reset; nothing is offered, nothing taken."""
    for port in ports:
        getattr(dut, f"{port}_tvalid").value = 0
    dut.m_axis_tready.value, dut.rst.value, dut.clk.value = 0, 1, 0
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


@cocotb.test()
@cocotb.parametrize(before=["never", "often", "bursts"], behind=["never", "often", "bursts"])
async def equals_golden(dut, before, behind):
    """Every word, whoever pauses."""
    sent, wanted = frames()
    await reset(dut, sent)
    cycles = await run(dut, sent, wanted, before, behind)
    if before == behind == "never":
        Path("measured.json").write_text(json.dumps({**cycles, "words": len(wanted)}))
        assert FACTS["latency"] in (None, cycles["latency"]), f"the first result came after {cycles['latency']} cycles, not {FACTS['latency']}"


@cocotb.test(skip="error" not in FACTS["ports"])
async def sees_a_wrong_row(dut):
    """A row that ends too early sets `error`, which a reset clears."""
    sent, _ = frames()
    await reset(dut, sent)
    port, words = next(iter(sent.items()))
    dut.m_axis_tready.value = 1
    getattr(dut, f"{port}_tdata").value = words[0][0]
    getattr(dut, f"{port}_tlast").value = int(not words[0][1])
    getattr(dut, f"{port}_tvalid").value = 1
    for _ in range(PATIENCE):
        await ReadOnly()
        taken = dut[f"{port}_tready"].value == 1
        await FallingEdge(dut.clk)
        if taken:
            break
    getattr(dut, f"{port}_tvalid").value = 0
    assert dut.error.value == 1
    dut.rst.value = 1
    await FallingEdge(dut.clk)
    assert dut.error.value == 0
