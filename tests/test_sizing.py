"""The choice of an engine: the bundled network on every board, and that a memory-bound network does not end on a small array."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.devices import memory
from hwgen.devices.board import boards, load_board
from hwgen.engines.rtl import choose as sizing, cost
from hwgen.engines.rtl.engine import RtlEngine
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import CapacityError
from hwgen.importer import import_model
from hwgen.steps.step import Quantized
from qgraphs import random_qgraph

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"


@cache
def example() -> Quantized:
    with np.load(EXAMPLE / "calib.npz") as images:
        return quantizer.quantize(import_model(EXAMPLE / "model.onnx", None).model, dict(images))


@pytest.mark.parametrize("board, array", [
    ("zcu102", (64, 32)), ("zcu104", (64, 32)), ("kv260", (64, 32)), ("ulx3s-85f", (8, 8)), ("sim", (64, 64)),
    ("pynq-z2", (16, 8)), ("zedboard", (16, 8)), ("de10-nano", (8, 8))])
def test_the_bundled_network_on_every_board(board, array):
    """Through one port of a Zynq every array waits for memory; the one that would be fastest at the memory's best is taken."""
    config = sizing.choose(example(), load_board(board)).config
    assert (config.ti, config.to) == array


def test_all_boards_are_listed():
    marks = test_the_bundled_network_on_every_board.pytestmark[0].args[1]
    assert {name for name, _ in marks} == {board.name for board in boards()}


def test_the_choice_is_among_the_fastest_through_one_port():
    board = load_board("zcu104")
    chosen = sizing.choose(example(), board)
    alone = {array: sizing.cycles(sizing.choose(example(), board, array), board) for array in board.arrays}
    assert sizing.cycles(chosen, board) <= memory.NEAR * min(alone.values())
    assert sizing.cycles(chosen, board, 4) < sizing.cycles(sizing.choose(example(), board, (32, 32)), board, 4)


def test_two_columns_are_for_a_memory_that_delivers_them():
    """Where memory is too slow at its best, the second column would only cost: a vector of the input is twice as long."""
    board = load_board("zcu104")
    assert [sizing.choose(example(), b, (64, 32)).config.load_columns for b in (board, replace(board, memory_gb_s=4.0))] == [2, 1]


@pytest.mark.parametrize("name, rate", [("zcu102", 48.365), ("kv260", 54.4), ("ulx3s-85f", 3.774), ("sim", 64)])
def test_a_memory_at_its_best(name, rate):
    board = load_board(name)
    assert board.best_bytes_per_cycle() == pytest.approx(rate) and board.best_bytes_per_cycle() >= board.bytes_per_cycle(ports=board.ports.number)


def test_one_port_is_what_estimates_count():
    board = load_board("zcu104")
    program = sizing.choose(example(), board)
    assert sizing.cycles(program, board) == program.estimate(16, 200)[-1].stop > len(program.image) / 16
    found = sizing.all_ports(program, board)
    assert found["built"] == "not built" and found["memory"] == {"ports": 4, "bytes_per_cycle": pytest.approx(42.675), "latency": 200}
    assert found["cycles_per_image"] == program.estimate(board.bytes_per_cycle(ports=4), 200)[-1].stop < sizing.cycles(program, board)
    assert sizing.all_ports(program, load_board("sim"))["built"] == "built"


def test_few_bursts_in_flight_cost_bandwidth():
    """Eight bursts of 1 KB at latency 300 are 26 bytes a cycle, 32 are more than the memory has."""
    program = schedule(example(), ti=64, to=32, axi_data_bits=512, fifo_beats=4096, packed=True)
    few = replace(program, config=replace(program.config, read_bursts=8))
    rates = [len(p.image) / p.estimate(64, 300)[-1].stop for p in (few, program)]
    assert rates[0] < 8 * 1024 / 300 and rates[1] > 1.2 * rates[0]


def test_hidden_values_of_a_part_of_the_tokens_where_memory_is_short():
    """A chip with the block RAMs for a quarter of the tokens is taken, with a note; with one less than any part needs it is not."""
    model = random_qgraph(seed=3, tokens=256, dim=64, heads=4, hidden=768, blocks="dd", classes=(4,))
    board = replace(load_board("pynq-z2"), arrays=((8, 8),))
    need = {block: cost.estimate(schedule(model, ti=8, to=8, axi_data_bits=64, fifo_beats=board.fifo_beats(8), token_block=block).config, board).bram36
            for block in (0, 64, 32, 16)}
    assert need[0] > need[64]
    whole, part = (sizing.choose(model, replace(board, bram36=need[block])) for block in (0, 64))
    assert (whole.token_block, part.token_block) == (0, 64) and len(part.image) > len(whole.image)
    assert RtlEngine().facts(whole).notes == () and "for 64 tokens at a time" in RtlEngine().facts(part).notes[0]
    with pytest.raises(CapacityError, match=f"needs {need[0]} block RAMs") as refusal:
        sizing.choose(model, replace(board, bram36=min(need.values()) - 1))
    assert "largest tensor: " in str(refusal.value) and " bytes of the board's " in str(refusal.value)
