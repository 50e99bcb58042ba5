"""Programs of random networks: all pass the verifier and wait for nothing in vain, tasks, images, layouts, refusals."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from hwgen import quantizer
from hwgen.engine import OUT_WORDS, covering
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.program import PAGE, Program
from hwgen.engines.rtl.verify import limits, verify
from hwgen.errors import CapacityError
from hwgen.functions import Act
from hwgen.isa import Op, Src, Stat
from hwgen.layout.merge import merge
from hwgen.quantizer import Precision
from hwgen.steps.host import quantize_input
from hwgen.steps.stages import Constant, Values
from hwgen.steps.step import Quantized
from qgraphs import random_images, random_model, random_qgraph

ENGINES = ({"ti": 8, "to": 8, "axi_data_bits": 64}, {"ti": 16, "to": 8, "axi_data_bits": 128}, {"ti": 16, "to": 16, "axi_data_bits": 512},
           {"ti": 32, "to": 16, "axi_data_bits": 256}, {"ti": 64, "to": 48, "axi_data_bits": 512},
           {"ti": 16, "to": 16, "axi_data_bits": 256, "load_columns": 2}, {"ti": 64, "to": 32, "axi_data_bits": 512, "load_columns": 2})


@st.composite
def networks(draw) -> dict:
    """Options of `random_qgraph`: one to three tasks, dense and expert blocks, any small sizes."""
    heads = draw(st.sampled_from([1, 2, 3]))
    experts = draw(st.integers(2, 8))
    return {
        "seed": draw(st.integers(0, 99)), "tokens": draw(st.integers(2, 11)), "heads": heads, "dim": heads * draw(st.integers(3, 12)),
        "hidden": draw(st.integers(3, 40)), "experts": experts, "top_k": draw(st.integers(1, min(experts, 4))),
        "expert_hidden": draw(st.integers(3, 20)), "blocks": draw(st.text("dm", min_size=1, max_size=2)),
        "classes": tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))), "class_token": draw(st.booleans()),
        "pool": draw(st.sampled_from(["select", "mean"]))}


PROGRAMS = st.tuples(networks(), st.sampled_from(ENGINES), st.sampled_from([1, 1, 3]), st.sampled_from([4096, 16]))


def build(drawn) -> tuple[Quantized, Program]:
    options, engine, batch, score_words = drawn
    model = random_qgraph(**options)
    return model, schedule(model, **engine, batch=batch, score_words=score_words)


def of_task(program: Program, task: int) -> list[int]:
    return [pc for pc, instr in enumerate(program.instrs) if not instr.pred or instr.task == task]


# ---------------------------------------------------------------- hazards and memory (tests/test_program_verify.py: that the verifier sees)

@settings(deadline=None, max_examples=60)
@given(PROGRAMS)
def test_programs_verify(drawn):
    """Slack, lifetimes, ranges of fields, bytes of the streams."""
    verify(build(drawn)[1])


@settings(deadline=None, max_examples=40)
@given(PROGRAMS)
def test_no_instruction_waits_longer_than_it_has_to(drawn):
    _, program = build(drawn)
    for pc, (instr, allowed) in enumerate(zip(program.instrs, limits(program), strict=True)):
        if instr.op == Op.MATMUL:
            assert (instr.slack, instr.load_slack) == allowed, f"{pc} {instr}"
    assert program.instrs[-1].op == Op.END


def test_programs_with_taps_verify():
    for engine in ENGINES:
        verify(schedule(random_qgraph(blocks="dm", classes=(3, 5)), **engine, taps=True))


# ---------------------------------------------------------------- tasks

def test_shared_steps_appear_once_and_the_rest_is_predicated():
    model = random_qgraph(blocks="dm", classes=(3, 5, 7))
    program = schedule(model, **ENGINES[0])
    own = [(instr.task, instr.note) for instr in program.instrs if instr.pred]
    assert own == [*((t, "block1.moe: gate") for t in range(3)), *((t, f"head: output task{t}") for t in range(3))]
    for task in range(3):
        alone = schedule(Quantized((model.tasks[task],), "random"), **ENGINES[0])
        assert [program.instrs[pc].note for pc in of_task(program, task)] == [instr.note for instr in alone.instrs]
        assert program.useful_macs(task) == alone.useful_macs()
        assert [o.name for o in program.outputs[task]] == [f"task{task}"]
    alone = [schedule(Quantized((graph,), "random"), **ENGINES[0]) for graph in model.tasks]
    gate, head = ((8 * 8 + k_tiles * 64) for k_tiles in (4, 4))          # bytes: one output tile of a 32-row matrix
    assert len(program.image) == len(alone[0].image) + 2 * (gate + head)


def test_a_network_of_one_task_has_no_predicates():
    assert not any(instr.pred or instr.task for instr in schedule(random_qgraph(blocks="dm"), **ENGINES[1]).instrs)


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=4))
def test_merge_keeps_every_tasks_order(numbers):
    merged = merge(numbers, lambda n: n)
    for task, steps in enumerate(numbers):
        assert [slot.step for slot in merged if slot.task in (None, task)] == steps


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 4))
def test_equal_tasks_merge_into_one(numbers, copies):
    merged = merge([numbers] * copies, lambda n: n)
    assert [slot.task for slot in merged] == [None] * len(numbers)


# ---------------------------------------------------------------- weight image, input, output

def decode(program: Program) -> dict[int, dict[str, np.ndarray]]:
    """Reads the weight image as the loader does: per instruction weight [k_tiles * ti, n_tiles * to] and column parameters, or a table."""
    config, data, at, found = program.config, program.image, 0, {}
    vector = config.ti * config.load_columns

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return data[at - count:at]

    def padded(count: int) -> int:
        return -(-count // vector) * vector

    for pc, instr in enumerate(program.instrs):
        if instr.op == Op.MATMUL and instr.stat == Stat.WEIGHTS:
            weight = np.zeros((instr.k_tiles * config.ti, instr.n_tiles * config.to), np.int8)
            params = []
            for n in range(instr.n_tiles):
                params.append(np.frombuffer(take(padded(8 * config.to))[:8 * config.to], "<i4, <u2, <u2"))
                for k in range(instr.k_tiles):
                    tile = np.frombuffer(take(config.to * config.ti >> instr.w4), np.int8)
                    if instr.w4:                                                      # two weights a byte, low nibble first
                        tile = np.stack([tile << 4 >> 4, tile >> 4], axis=1)
                    weight[k * config.ti:(k + 1) * config.ti, n * config.to:(n + 1) * config.to] = tile.reshape(config.to, config.ti).T
            bias, mult, shift = (np.concatenate([p[f] for p in params]) for f in ("f0", "f1", "f2"))
            found[pc] = {"weight": weight, "bias": bias, "mult": mult, "shift": shift}
        elif instr.op == Op.STREAM and instr.src == Src.NORM:
            table = np.zeros((instr.tokens, instr.n_tiles * config.to), np.int16)
            for n in range(instr.n_tiles):
                for t in range(instr.tokens):
                    table[t, n * config.to:(n + 1) * config.to] = np.frombuffer(take(padded(2 * config.to))[:2 * config.to], "<i2")
            found[pc] = {"table": table}
    assert at == len(data)
    return found


def spread(matrix: np.ndarray, shape, rows=None, columns=None) -> np.ndarray:
    """``matrix`` at the given positions of a larger one of zeros."""
    wide = np.zeros(shape, matrix.dtype)
    rows = np.arange(matrix.shape[0]) if rows is None else rows
    columns = np.arange(matrix.shape[1]) if columns is None else columns
    wide[np.ix_(rows, columns)] = matrix
    return wide


@settings(deadline=None, max_examples=40)
@given(networks(), st.sampled_from(ENGINES), st.sampled_from([Precision.W8A8, Precision.W4A8, Precision.W4A8_EXPERTS]))
def test_the_weight_image_holds_the_networks_weights(options, engine, precision):
    model = quantizer.quantize(random_model(**options), None, random=True, precision=precision)
    program = schedule(model, **engine)
    assert any(instr.w4 for instr in program.instrs) == program.config.w4
    found = decode(program)
    dim, heads, group = options["dim"], options["heads"], program.config.group
    pitch = -(-dim // heads // group) * group
    padded = np.array([h * pitch + c for h in range(heads) for c in range(dim // heads)])       # V and what attention gives
    for task, graph in enumerate(model.tasks):
        maps = {step.note: step for step in graph.steps if step.weights is not None}
        (start,) = (step.feed.table.array for step in graph.steps if isinstance(step.feed, Constant))
        values = {step.tile.view.name for step in graph.steps if isinstance(step.tile, Values)}
        attention = {step.sink.name for step in graph.steps if isinstance(step.tile, Values)}
        for pc in of_task(program, task):
            if pc not in found:
                continue
            got, instr = found[pc], program.instrs[pc]
            if "table" in got:
                np.testing.assert_array_equal(got["table"], spread(start, got["table"].shape))
                continue
            step = maps[instr.note]
            rows = padded if step.source.name in attention else None
            columns = padded if step.sink.name in values else None
            np.testing.assert_array_equal(got["weight"], spread(step.weights.weight.array, got["weight"].shape, rows, columns), err_msg=instr.note)
            factor = getattr(step.drain[0], "factor", None)
            got["shift"] = got["shift"] & 63                     # above them the multipliers behind an activation, if it has its own
            mult, shift = (factor.mult.array, factor.shift.array) if factor else (np.full(step.columns, 1 << 15), np.full(step.columns, 15))
            for name, array in (("bias", step.weights.bias.array), ("mult", mult), ("shift", shift)):
                wanted = spread(array[None].astype(np.int64), (1, len(got[name])), None, columns)[0]
                np.testing.assert_array_equal(got[name], wanted, err_msg=f"{instr.note}: {name}")


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_frames_hold_the_quantized_patches(engine):
    options = {"tokens": 5, "channels": 3, "patch": 2}
    model, images = random_qgraph(**options), random_images(random_model(**options), 3)
    program = schedule(model, **engine)
    data = np.frombuffer(program.frames(model.tasks[0], images), np.int8).reshape(3, -1)
    assert data.shape[1] == program.input_stride and program.input_stride % PAGE == 0 and program.input_stride - program.input_bytes < PAGE
    ti, to = engine["ti"], engine["to"]
    vectors = data[:, :program.input_bytes].reshape(3, -1, 4, ti * engine.get("load_columns", 1))      # [frame, tile, token, lane]
    patches = quantize_input(model.tasks[0], images)
    wide = vectors[..., :to].transpose(0, 2, 1, 3).reshape(3, 4, -1)
    np.testing.assert_array_equal(wide[..., :12], patches)
    assert not wide[..., 12:].any() and not vectors[..., to:].any() and not data[:, program.input_bytes:].any()


def test_outputs_are_cut_out_of_a_frames_words():
    model = random_qgraph(classes=(10, 3, 17))
    program = schedule(model, **ENGINES[0])
    assert program.output_bytes == 3 * 8 * 4                                          # the task with most channels: 17 = 3 words of 8
    data = np.arange(4 * 24, dtype="<i4")
    found = program.read_outputs(data.tobytes(), [2, 0, 1, 0])
    assert [list(f) for f in found] == [["task2"], ["task0"], ["task1"], ["task0"]]
    np.testing.assert_array_equal(found[0]["task2"], np.arange(17))
    np.testing.assert_array_equal(found[1]["task0"], 24 + np.arange(10))
    np.testing.assert_array_equal(found[3]["task0"], 72 + np.arange(10))


# ---------------------------------------------------------------- refusals

def test_more_experts_than_lanes():
    model = random_qgraph(blocks="m", experts=9)
    with pytest.raises(CapacityError, match="9 experts, but a router row is one output tile of 8 lanes") as caught:
        schedule(model, **ENGINES[0])
    assert "block0.moe" in caught.value.where and "--array" in caught.value.hint
    assert schedule(model, **ENGINES[2]).config.max_experts == 9


def test_more_tokens_than_accumulators():
    model = random_qgraph(tokens=257, dim=8, heads=1, hidden=8)
    with pytest.raises(CapacityError, match="4112 tokens, the engine's accumulators address 4096"):
        schedule(model, **ENGINES[0], batch=16)


def test_every_limit_is_named_at_once():
    model = random_qgraph(tokens=257, dim=8, heads=1, hidden=8, blocks="mm", experts=9, top_k=1)
    with pytest.raises(CapacityError, match="^9 experts") as caught:
        schedule(model, **ENGINES[0], batch=16)
    assert [error.message.split(",")[0] for error in caught.value.others] == ["9 experts", "4112 tokens"]
    assert "block1.moe" in caught.value.others[0].where and str(caught.value).count("\nalso: ") == 2 and str(caught.value).count("--array") == 1


def test_programs_for_one_engine_that_covers_several_networks():
    """The smallest common engine takes both, with the functions of both; its programs verify; one too small is refused."""
    one = random_qgraph(seed=1, tokens=3, hidden=40, blocks="d", act=Act.GELU)
    other = random_qgraph(seed=2, tokens=40, experts=6, blocks="m", act=Act.SILU)
    own = [schedule(model, **ENGINES[0]).config for model in (one, other)]
    common = covering(own)
    assert common.functions == ("gelu", "silu") and covering([common, *own]) == common
    for size in ("max_tokens", "act_words", "program_words", "max_experts"):
        assert getattr(common, size) == max(getattr(config, size) for config in own)
    for model, config in zip((one, other), own, strict=True):
        program = schedule(model, **ENGINES[0], engine=common)
        assert program.config == common
        verify(program)
        assert schedule(model, **ENGINES[0], engine=config).binary() == schedule(model, **ENGINES[0]).binary()
    with pytest.raises(CapacityError, match="more than the engine given has"):
        schedule(other, **ENGINES[0], engine=own[0])
    with pytest.raises(CapacityError, match="differ in ti, axi_data_bits"):
        covering([own[0], schedule(other, **ENGINES[1]).config])


@pytest.mark.parametrize("batch", [0, OUT_WORDS + 1])
def test_a_batch_that_is_not_possible(batch):
    with pytest.raises(CapacityError, match=f"a batch of {batch} images; 1 to {OUT_WORDS} are possible"):
        schedule(random_qgraph(), **ENGINES[0], batch=batch)


def test_several_activations():
    """An instruction says which of the engine's functions, in the order of use; in programs with one its bits are 0."""
    program = schedule(random_qgraph(blocks="dmdm", act=(Act.SILU, Act.RELU, Act.SILU, Act.GELU)), **ENGINES[0])
    assert program.config.activation == "silu relu gelu" and program.config.functions == ("silu", "relu", "gelu")
    found = {info.node: instr.function for info, instr in zip(program.infos, program.instrs, strict=True) if instr.act}
    assert found == {"block0.fc1": 0, "block1.moe": 1, "block2.fc1": 0, "block3.moe": 2}
    assert not any(instr.function for instr in program.instrs if not instr.act)
    one = schedule(random_qgraph(act=Act.SILU), **ENGINES[0])
    assert one.config.activation == "silu" and not any(instr.function for instr in one.instrs)


def test_more_activations_than_tables(monkeypatch):
    monkeypatch.setattr("hwgen.engines.rtl.plan.MAX_FUNCTIONS", 2)
    with pytest.raises(CapacityError, match="the network uses 3 activation functions, silu, relu, gelu; the engine has tables for 2") as error:
        schedule(random_qgraph(blocks="ddd", act=(Act.SILU, Act.RELU, Act.GELU)), **ENGINES[0])
    assert error.value.hint == "use at most 2 activation functions in the whole network"


def test_a_program_that_is_too_long(monkeypatch):
    model = random_qgraph(blocks="d")
    program = schedule(model, **ENGINES[0])
    monkeypatch.setattr("hwgen.engines.rtl.plan.MAX_PROGRAM_WORDS", len(program.instrs))
    assert schedule(model, **ENGINES[0]).instrs == program.instrs
    monkeypatch.setattr("hwgen.engines.rtl.plan.MAX_PROGRAM_WORDS", len(program.instrs) - 1)
    with pytest.raises(CapacityError, match=f"the program has {len(program.instrs)} instructions, the program memory holds at most"):
        schedule(model, **ENGINES[0])


@pytest.mark.parametrize("change, text", [
    ({"ti": 24}, "ti = 24 is not 8, 16, 32 or 64"), ({"to": 16}, "to = 16 does not fit ti = 8"), ({"to": 4}, "to = 4 does not fit"),
    ({"axi_data_bits": 512}, "an output word of 256 bits is not a whole number of 512-bit beats")])
def test_engines_that_cannot_be(change, text):
    with pytest.raises(CapacityError, match=text):
        schedule(random_qgraph(), **ENGINES[0] | change)
