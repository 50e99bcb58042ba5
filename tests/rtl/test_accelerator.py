"""Whole accelerators on small networks over AXI4 and AXI4-Lite, with random stalls, on Verilator and Icarus: every output word."""

from pathlib import Path

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.engines.rtl import verilog as rtl
from hwgen.engines.rtl.plan import schedule
from hwgen.isa import Half
from hwgen.quantizer import Recipe, Rule, calibration
from hwgen.steps.golden import run as run_integers
from hwgen_rtl.top import INPUTS
from qgraphs import random_images, random_model, uneven
from wide_nets import read_out, recipe

pytest.importorskip("cocotb_tools")

from hwgen_sim.runner import Design, Simulator, run

FRAMES, TASKS = 3, [0, 1, 0]
NETWORK = {"seed": 5, "tokens": 6, "dim": 24, "heads": 3, "hidden": 16, "experts": 3, "top_k": 2, "expert_hidden": 8, "classes": (5, 9), "patch": 2}
ENGINE = {"ti": 8, "to": 8, "axi_data_bits": 64, "fifo_beats": 64}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(design, bench parameters, program, golden outputs per frame): of a network with operands of 8 bits and of 16."""
    folder = tmp_path_factory.mktemp("accelerator")
    graph = random_model(**NETWORK)
    images = random_images(graph, FRAMES)
    rules = {name: rule for name, rule in uneven(graph, images).values.items() if name != "block0.hidden"}     # that one has one scale
    for name in recipe(graph, 1).values:
        scale = rules.get(name, Rule()).scale
        rules[name] = Rule(bits=16, scale=None if scale is None else np.asarray(scale) / 200)
    ranges = calibration.collect(graph, {"x": images})                 # and not `quantize`, which gives that one scales of channels too
    model = read_out(quantizer.from_ranges(graph, ranges, recipe=Recipe(values=rules)))
    program = schedule(model, **ENGINE)
    assert {instr.act_columns for instr in program.instrs if instr.act} == {0, 1}
    assert {instr.plane for instr in program.instrs} == set(Half) and {instr.wide for instr in program.instrs} == {0, 1}
    for name, content in (("program", program.binary()), ("weights", program.image), ("input", program.frames(model.tasks[0], images))):
        (folder / name).write_bytes(content)
    golden = [run_integers(model.tasks[task], images[i:i + 1]) for i, task in enumerate(TASKS)]
    parameters = {"program": str(folder / "program"), "weights": str(folder / "weights"), "input": str(folder / "input"), "frames": FRAMES,
                  "tasks": sum(task << 4 * i for i, task in enumerate(TASKS)), "input_bytes": program.input_bytes,
                  "input_stride": program.input_stride, "output_bytes": program.output_bytes}
    files = {Path(name).name: text for name, text in rtl.files(program.config).items() if name.endswith(".sv")}
    return Design(rtl.TOP, files, INPUTS), parameters, program, golden


@pytest.mark.parametrize("simulator, pattern, faults", [
    (Simulator.VERILATOR, "never", True), (Simulator.VERILATOR, "often", False), (Simulator.ICARUS, "seldom", False)],
    ids=lambda value: getattr(value, "value", str(value)))
def test_accelerator(built, simulator, pattern, faults, tmp_path):
    design, parameters, program, golden = built
    simulator.version()
    run(design, "tb.accelerator", simulator, tmp_path, **parameters, pattern=pattern, stall_seed=3, runs=2, faults=faults,
        output=str(tmp_path / "output"), result=str(tmp_path / "result"))
    found = program.read_outputs((tmp_path / "output").read_bytes(), TASKS)
    for frame, outputs in enumerate(found):
        assert outputs.keys() == golden[frame].keys()
        for name, words in outputs.items():
            np.testing.assert_array_equal(words, golden[frame][name][0], err_msg=f"frame {frame}, {name}, {simulator}")
