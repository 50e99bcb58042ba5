"""The verifier of programs sees what is wrong: every kind of change to a good program is refused with the instruction printed."""

from __future__ import annotations

from dataclasses import replace
import re

from hypothesis import given, settings, strategies as st
import pytest

from hwgen.engines.rtl.lists import Lists
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.program import Program
from hwgen.engines.rtl.touched import MOMENTS, Area, Touched
from hwgen.engines.rtl.verify import limits, verify
from hwgen.errors import ModelError
from hwgen.isa import Dst, Instr, Op, Operand, Src, Stat
from hwgen.steps.step import Quantized
from hwgen.steps.walk import with_tensors
from qgraphs import random_qgraph
from sequence_nets import sequence_network
from taken_nets import taking
from wide_nets import random_wide, read_out


def make(**options) -> Program:
    return schedule(random_qgraph(**options), ti=8, to=8, axi_data_bits=64)


PROGRAM = make(blocks="dm", classes=(3, 5))


def place(program: Program, **wanted: int) -> int:
    """The first instruction with these fields."""
    return next(pc for pc, instr in enumerate(program.instrs) if all(getattr(instr, key) == value for key, value in wanted.items()))


def changed(program: Program, pc: int, **fields: int) -> Program:
    instrs = list(program.instrs)
    instrs[pc] = replace(instrs[pc], **fields)
    return replace(program, instrs=tuple(instrs))


def refusal(program: Program) -> ModelError:
    with pytest.raises(ModelError) as caught:
        verify(program)
    return caught.value


# ---------------------------------------------------------------- fields

SCORES, VALUES, ROUTER = {"stat": int(Stat.K_COLUMNS)}, {"stat": int(Stat.V_ROWS)}, {"dst": int(Dst.ROUTER)}
MATMUL, NORM, GATHER, SCATTER, OUT = {"op": 2}, {"op": 2, "src": int(Src.NORM)}, {"gather": 1}, {"scatter": 1}, {"dst": int(Dst.OUT)}


WIDE = schedule(read_out(random_wide(blocks="dm", classes=(3, 5))), ti=8, to=8, axi_data_bits=64)


GATED = make(blocks="gm", hidden=40)
PRODUCT, OPERANDS = {"operand": int(Operand.MULTIPLY)}, {"dst": int(Dst.OPERAND)}


@pytest.mark.parametrize("where, fields, text", [
    (OPERANDS, {"to16": 0}, "stores operands, which have 16 bits"), (OPERANDS, {"op_base": 9}, "was never written|touches word"),
    (OPERANDS, {"op_base": 4000}, "touches word"), (PRODUCT, {"op_base": 4000}, "touches word"), (PRODUCT, {"op_base": 9}, "where no buffer|touches"),
    (PRODUCT, {"to16": 0}, "for a result that is none of 16 bits"), (PRODUCT, {"act_columns": 1, "shift2": 21}, "without another multiplier"),
    (PRODUCT, {"dst": int(Dst.SCORE)}, "has operands to MULTIPLY, and a result for SCORE"), (PRODUCT, {"operand": 3}, "has operands to ROTATE, the engine has none"),
    (SCORES, {"op_period": 1}, "repeats operands and has none"), (SCATTER, {"operand": 1}, "without another multiplier"),
    (SCORES, {"operand": 1, "to16": 1}, "and a result for SCORE")])
def test_fields_of_operands(where, fields, text):
    pc = place(GATED, op=2, **where)
    assert re.search(text, refusal(changed(GATED, pc, **fields)).message)


@pytest.mark.parametrize("where, fields, text", [
    (SCORES, {"wide": 1}, "multiplies 16 bits with what are no weights"), ({"plane": 1}, {"to16": 0}, "stores a half of what has no 16 bits"),
    ({"dst": int(Dst.KV)}, {"plane": 1, "to16": 1}, "or elsewhere than with the activations"), ({"plane": 1}, {"dst_stride": 3}, "rows of"),
    ({"plane": 2}, {"plane": 0, "dst_base": 4000}, "touches word"), ({"src": int(Src.ACT), "wide": 1}, {"src_base": 4000}, "touches word")])
def test_fields_of_words_of_16_bits(where, fields, text):
    pc = place(WIDE, op=2, **where)
    assert re.search(text, refusal(changed(WIDE, pc, **fields)).message)


def test_a_wide_operand_needs_both_halves():
    verify(WIDE)
    pc = place(WIDE, plane=2)
    instrs = (*WIDE.instrs[:pc], replace(WIDE.instrs[pc], dst_base=WIDE.instrs[pc - 1].dst_base), *WIDE.instrs[pc + 1:])
    assert "which was never written" in refusal(replace(WIDE, instrs=instrs)).message


@pytest.mark.parametrize("where, fields, text", [
    (MATMUL, {"op": 3}, "op = 3 is none of 3 kinds"), (MATMUL, {"src": 3}, "the engine has none"),
    (MATMUL, {"wide": 1}, "has operands or results of 16 bits, the engine has none"), (MATMUL, {"plane": 3}, "plane = 3 is none of 3 kinds"),
    (MATMUL, {"op": 0}, "ends with END, and nowhere else"), (MATMUL, {"tokens": 1 << 16}, "tokens = 65536 does not fit 16 bits"),
    (MATMUL, {"mult": -1}, "mult = -1 does not fit"), (MATMUL, {"tokens": 0}, "tokens = 0 is not in 1..16"),
    (MATMUL, {"tokens": 17}, "tokens = 17 is not in 1..16"), (MATMUL, {"n_tiles": 0}, "n_tiles = 0 is not in 1.."),
    (MATMUL, {"k_tiles": 0}, "k_tiles = 0 is not in"), (MATMUL, {"n_last": 9}, "n_last = 9 is not in 1..8"), (MATMUL, {"n_last": 0}, "n_last = 0"),
    (MATMUL, {"k_hi": 9}, "k_hi = 9 is not in 1..8"), (MATMUL, {"k_lo": 8}, "k_lo = 8 is not in 0..7"), (MATMUL, {"step": 0}, "step = 0"),
    (MATMUL, {"slack": 4}, "slack = 4 is not in 0..3"), (MATMUL, {"dst_group": 1}, "dst_group = 1 is not in 0..0"),
    (MATMUL, {"shift": 63}, "shift = 63 is not in 0.."), (MATMUL, {"pred": 1, "task": 2}, "runs for task 2 of 2"),
    (VALUES, {"k_lo": 7, "k_hi": 7, "k_tiles": 1}, "lanes 7 to 7 of the one reduction tile are none"),
    (MATMUL, {"column_params": 0}, "come with the weight stream"), (SCORES, {"column_params": 1}, "come with the weight stream"),
    (MATMUL, {"w4": 1}, "come with the weight stream, of an engine that has them"), (SCORES, {"stat_count": 0}, "0 keys do not fit"),
    (SCORES, {"stat_count": 17}, "17 keys do not fit its tiles"), (VALUES, {"row_scale": 0}, "division by the sum of a row go together"),
    (VALUES, {"src": 0}, "go together"), (GATHER, {"expert": 4}, "takes tokens of expert 4 of 4"), (SCATTER, {"dst": int(Dst.ACT)}, "takes tokens of expert"),
    (NORM, {"gather": 1}, "takes tokens of expert"), (ROUTER, {"num_experts": 3}, "routes to 2 of 3 experts by 4 logits"),
    (ROUTER, {"top_k": 0}, "routes to 0 of 4"), (ROUTER, {"top_k": 3}, "the engine does 2 of 4"), (ROUTER, {"dst": int(Dst.ACT)}, "has fields of a router"),
    (ROUTER, {"src": int(Src.ACT)}, "keeps normalised words"), (SCORES, {"mean": 1}, "only what leaves is added up"),
    ({"act": 1}, {"function": 1}, "function = 1 is not in 0..0"), ({"act": 1}, {"function": 4}, "function = 4 does not fit 2 bits"),
    ({"op": 1}, {"dst": int(Dst.KV)}, "streams ACT words to KV"), (MATMUL, {"dst": int(Dst.OPERAND)}, "stores operands, which have 16 bits"),
    ({"op": 1, "src": int(Src.NORM)}, {"tokens": 1}, "one token to the residual stream one after the other")])
def test_fields(where, fields, text):
    pc = place(PROGRAM, **where)
    program = changed(PROGRAM, pc, **fields)
    error = refusal(program)
    assert text in error.message and error.where.startswith(f"instruction {pc} "), error
    assert "op" in fields or error.where == f"instruction {pc} {program.instrs[pc]}"


CAUSAL = make(blocks="d", causal=True)


@pytest.mark.parametrize("where, fields, config, text", [
    (NORM, {"limit": 1}, {}, "makes no scores or exponentials"), (SCORES, {"limit": 1}, {"causal": False}, "the engine has no such limit"),
    (VALUES, {"limit": 2}, {}, "has row maxima of other keys than its exponentials")])
def test_limits_of_keys(where, fields, config, text):
    verify(CAUSAL)
    program = replace(CAUSAL, config=replace(CAUSAL.config, **config))
    assert text in refusal(changed(program, place(program, **where), **fields)).message


SEQUENCE = schedule(sequence_network(tokens=40, dim=16, blocks="m", end="last"), ti=8, to=8, axi_data_bits=64, score_words=40)


@pytest.mark.parametrize("where, fields, config, text", [
    (SCORES, {"follow": 3}, {}, "follow = 3 is none of 3 kinds"), (SCORES, {}, {"lengths": False}, "follows the length of a sequence, the engine knows none"),
    (NORM, {"follow": 0, "first": 2}, {}, "first = 2, and follows no sequence"), (NORM, {"keys_follow": 1}, {}, "multiplies with weights"),
    (OUT, {"tokens": 2}, {}, "takes the last of 40 tokens from word"), (OUT, {"first": 1 << 11}, {}, "takes the last of 2048 tokens from word"),
    (OUT, {"follow": 1, "first": 0, "mean": 0}, {}, "those behind them would change their places"),
    (VALUES, {"keys_follow": 0}, {}, "which was never written, in a sequence of 1 tokens"),
    (VALUES, {"first": 3}, {}, "at most 0 may be under way, in a sequence of 1 tokens"),
    (GATHER, {"follow": 0}, {}, "which was never written, in a sequence of 1 tokens")])
def test_lengths_of_a_sequence(where, fields, config, text):
    verify(SEQUENCE)
    program = replace(SEQUENCE, config=replace(SEQUENCE.config, **config))
    assert text in refusal(changed(program, place(program, **where), **fields)).message


def test_a_block_that_is_passed_over_brings_what_is_read_nearer():
    """Scores and P V of the second block of queries are not there in a short sequence: the slack of what follows knows it."""
    model = sequence_network(tokens=150, dim=16, heads=2, blocks="d", end="first")
    program = schedule(model, ti=8, to=8, axi_data_bits=64, score_words=19 * 75)
    verify(program)
    blind = slacks_without_lengths(model, program)
    assert any(a < b for a, b in zip([instr.slack for instr in program.instrs], blind, strict=True))
    assert "in a sequence of" in refusal(replace(program, instrs=tuple(
        replace(instr, slack=slack) for instr, slack in zip(program.instrs, blind, strict=True)))).message


def slacks_without_lengths(model, program) -> list[int]:
    """Of the program as it were for the longest sequence only."""
    plain = Quantized(tuple(with_plain(network) for network in model.tasks))
    return [instr.slack for instr in schedule(plain, ti=8, to=8, axi_data_bits=64, score_words=19 * 75).instrs]


def with_plain(network):
    def plain(tensor):
        return replace(tensor, sequence=False)
    return replace(network, steps=with_tensors(network.steps, plain), outputs=with_tensors(network.outputs, plain))


POST = make(blocks="d", norms="post", rms=True)
PAST = {"stat": int(Stat.BYPASS)}


@pytest.mark.parametrize("where, fields, config, text", [
    (PAST, {}, {"bypass": False}, "the engine has no such way"), (PAST, {"k_tiles": 2}, {}, "which words of the residual stream do"),
    (PAST, {"src": int(Src.ACT), "rms": 0}, {}, "which words of the residual stream do"), (PAST, {"act": 1, "to16": 1}, {}, "without an activation"),
    (PAST, {"dst": int(Dst.OUT), "mean": 1}, {}, "goes past the array to OUT"), (PAST, {"column_params": 0}, {}, "come with the weight stream"),
    (NORM, {"rms": 1}, {"rms": False}, "the engine always takes it off"), (MATMUL, {"rms": 1}, {}, "leaves the mean out, and does not normalise"),
    (PAST, {"src_row": 9}, {}, "never written")])
def test_words_past_the_array(where, fields, config, text):
    verify(POST)
    program = replace(POST, config=replace(POST.config, **config))
    assert text in refusal(changed(program, place(program, **where), **fields)).message


TAKEN = schedule(taking(random_qgraph(1, blocks="d", tokens=9, class_token=False, norms="post"), 1), ti=8, to=8, axi_data_bits=64)
LISTED, BRINGS = {"op": 2, "list": 1}, {"op": 1, "list": 1}


@pytest.mark.parametrize("where, fields, config, text", [
    (LISTED, {}, {"list_words": 0}, "the engine has no memory for them"), (BRINGS, {"src": int(Src.ACT)}, {}, "that is not words of 16 bits"),
    (SCORES, {"list": 1}, {}, "which products with weights do"), (LISTED, {"gather": 1, "src": int(Src.ACT)}, {}, "which products with weights do"),
    (LISTED, {"step": 2}, {}, "tokens by a list of 2 words a row, 2 apart"), (LISTED, {"stat_count": 0}, {}, "0 a row"),
    (LISTED, {"stat_stride": 1}, {}, "by a list of 1 words a row"), (LISTED, {"stat_base": 4000}, {}, "touches word"),
    (BRINGS, {"op_base": 4000}, {}, "touches word"), (BRINGS, {"list": 0}, {}, "touches word|no memory|never written|no buffer"),
    (LISTED, {"src_base": 1 << 15}, {}, "touches word"), (LISTED, {"slack": 3}, {}, "at most")])
def test_lists_of_tokens(where, fields, config, text):
    verify(TAKEN)
    program = replace(TAKEN, config=replace(TAKEN.config, **config))
    assert re.search(text, refusal(changed(program, place(program, **where), **fields)).message)


def test_a_token_in_a_list_was_written_before():
    """The verifier reads the lists in the image: another number is another word that streams."""
    host = next(pc for pc, instr in enumerate(TAKEN.instrs) if instr.list and instr.op == Op.STREAM)
    first = Lists(TAKEN).places[host]
    image = bytearray(TAKEN.image)
    image[first:first + 2] = (200).to_bytes(2, "little")
    assert "takes token 200 of a source of 9 tokens" in refusal(replace(TAKEN, image=bytes(image))).message
    pc = next(pc for pc, instr in enumerate(TAKEN.instrs) if instr.list and instr.op == Op.MATMUL and instr.src == Src.NORM)
    tokens = Lists(TAKEN)
    tokens.bring(host, TAKEN.instrs[host])
    some = tokens.tokens(TAKEN.instrs[pc])
    areas = [area for area in Touched.by(TAKEN.config, TAKEN.instrs[pc], some).fed if area.memory in ("res", MOMENTS)]
    assert len(some) > 3 and len(areas) == 2 and all(set(area.words % 9) == {(area.base + token) % 9 for token in some} for area in areas)


BIASED = make(blocks="dm", gates="biased")


@pytest.mark.parametrize("where, fields, config, text", [
    (ROUTER, {}, {"scores": False}, "or the engine takes none"), ({"op": 2, "dst": int(Dst.ROUTER)}, {"act": 0}, {}, "or by a bias of logits"),
    (MATMUL, {"biased": 1}, {}, "has fields of a router"), ({"op": 1, "dst": int(Dst.ROUTER)}, {"tokens": 2}, {}, "streams a bias"),
    ({"op": 1, "dst": int(Dst.ROUTER)}, {"src": int(Src.ACT)}, {}, "streams a bias")])
def test_choices_by_scores(where, fields, config, text):
    verify(BIASED)
    program = replace(BIASED, config=replace(BIASED.config, **config))
    assert text in refusal(changed(program, place(program, **where), **fields)).message


def test_a_bias_is_there_before_the_choice():
    program = make(blocks="dm", gates="sigmoid")
    asked = changed(program, place(program, op=2, dst=int(Dst.ROUTER)), biased=1)
    assert "reads word 0 of bias of the router's choice, which was never written" in refusal(asked).message


def test_functions():
    program = replace(PROGRAM, config=replace(PROGRAM.config, activation="gelu silu"))
    verify(changed(program, place(program, act=1), function=1))
    assert "names function 1 and applies none" in refusal(changed(program, place(program, **OUT), function=1)).message


def test_program_as_a_whole():
    assert "has 0 instructions" in refusal(replace(PROGRAM, instrs=())).message
    assert "its memory holds" in refusal(replace(PROGRAM, instrs=(*PROGRAM.instrs[:1], *PROGRAM.instrs), infos=(*PROGRAM.infos[:1], *PROGRAM.infos))).message
    assert "ends with END" in refusal(replace(PROGRAM, instrs=PROGRAM.instrs[:-1], infos=PROGRAM.infos[:-1])).message


@pytest.mark.parametrize("change, text", [
    ({"image": PROGRAM.image + bytes(64)}, "the weight image has"), ({"image": PROGRAM.image[:-64]}, "the weight image has"),
    ({"input_bytes": PROGRAM.input_bytes + 8}, "the input has"), ({"output_bytes": PROGRAM.output_bytes - 32}, "the output has"),
    ({"outputs": (PROGRAM.outputs[0], (replace(PROGRAM.outputs[1][0], word=1),))}, "output 'task1' lies behind the 32 bytes")])
def test_streams(change, text):
    error = refusal(replace(PROGRAM, **change))
    assert text in error.message and error.where == "program"


# ---------------------------------------------------------------- words

@pytest.mark.parametrize("where, fields, text", [
    (MATMUL, {"src_base": 1 << 19}, "touches word 5242"), (NORM, {"src_stride": 3}, "touches rows of"), (NORM, {"src_row": 10}, "of token statistics, which has 16"),
    (SCORES, {"dst_row": 25}, "of row maxima, which has 32"), (VALUES, {"src_row": 8}, "of row maxima, which was never written"),
    (GATHER, {"src_base": 40}, "of act"), (SCORES, {"stat_base": 3}, "of 9 words of kv from word 3 on"), (SCORES, {"dst_base": 1}, "of score"), (OUT, {"src_base": 40}, "of res"),
    ({"dst": int(Dst.RES_ADD)}, {"dst_base": 2}, "of res")])
def test_places(where, fields, text):
    pc = place(PROGRAM, **where)
    error = refusal(changed(PROGRAM, pc, **fields))
    assert text in error.message, error


@pytest.mark.parametrize("name", ["slack", "load_slack"])
def test_every_slack_that_is_one_too_large(name):
    """Each of them, in turn; one that is smaller only waits."""
    seen = 0
    for pc, (instr, allowed) in enumerate(zip(PROGRAM.instrs, limits(PROGRAM), strict=True)):
        value = getattr(instr, name)
        if instr.op != Op.MATMUL or value == 3:
            continue
        seen += 1
        assert value == allowed[name == "load_slack"]
        error = refusal(changed(PROGRAM, pc, **{name: value + 1}))
        assert f"{name} = {value + 1}, what it reads was written {value + 1} instruction" in error.message and error.where.startswith(f"instruction {pc} ")
        verify(changed(PROGRAM, pc, **{name: 0}))
    assert seen >= (20 if name == "slack" else 4)


def test_another_order():
    """Two neighbours change places: what reads the other's result is seen, whatever its slack."""
    for pc, (one, two) in enumerate(zip(PROGRAM.instrs[2:-2], PROGRAM.instrs[3:], strict=False), 2):
        if {area.memory for area in Touched.by(PROGRAM.config, two).fed} & {area.memory for area in Touched.by(PROGRAM.config, one).written} and two.slack == 0:
            instrs = (*PROGRAM.instrs[:pc], two, one, *PROGRAM.instrs[pc + 2:])
            refusal(replace(PROGRAM, instrs=instrs))


def test_queues():
    """A router writes them; who gathers or scatters reads one, and waits for the router like for any other word."""
    router, gather, scatter = (Touched.by(PROGRAM.config, PROGRAM.instrs[place(PROGRAM, **where)]) for where in (ROUTER, GATHER, SCATTER))
    queues = Area("router queues", 0, 1, 0, 4)
    assert queues in router.written and all(replace(queues, tokens=1) in touched.fed for touched in (gather, scatter))


def test_a_task_sees_what_it_alone_lacks():
    """The router of one task only: the experts of the other read no queue."""
    pc = place(PROGRAM, pred=1, task=1, **ROUTER)
    program = changed(PROGRAM, pc, task=0)
    assert "never written" in refusal(program).message or "slack" in refusal(program).message


@pytest.mark.parametrize("change, text", [
    ({"base": 1}, "where no buffer is alive|shares words"), ({"words": 1}, "has the words"), ({"memory": "dram"}, "does not lie in the memory dram"),
    ({"base": 1 << 19}, "does not lie in the memory"), ({"first": 99}, "does not lie|where no buffer is alive"), ({"words": 0}, "does not lie")])
def test_buffers(change, text):
    for i, buffer in enumerate(PROGRAM.buffers):
        program = replace(PROGRAM, buffers=(*PROGRAM.buffers[:i], replace(buffer, **change), *PROGRAM.buffers[i + 1:]))
        if program.buffers != PROGRAM.buffers and (change != {"words": 1} or buffer.words > 1):
            assert re.search(text, refusal(program).message), buffer


def test_a_life_that_ends_early_or_overlaps():
    ended = [replace(buffer, last=buffer.last - 1) for buffer in PROGRAM.buffers]
    for i, buffer in enumerate(ended):
        if buffer.last >= buffer.first:
            refusal(replace(PROGRAM, buffers=(*PROGRAM.buffers[:i], buffer, *PROGRAM.buffers[i + 1:])))
    longer = tuple(replace(buffer, last=len(PROGRAM.instrs) - 1) for buffer in PROGRAM.buffers)
    assert "shares words with one that is alive" in refusal(replace(PROGRAM, buffers=longer)).message


def test_what_a_buffer_held_before_it_was_born_is_not_read():
    """Two buffers after each other in the same words: the second's reader does not find the first one's words."""
    waiting = replace(PROGRAM, instrs=tuple(replace(instr, slack=0, load_slack=0) for instr in PROGRAM.instrs))
    verify(waiting)
    by_base = [(a, b) for a in PROGRAM.buffers for b in PROGRAM.buffers
               if a.memory == b.memory and a.last < b.first and a.base < b.base + b.words and b.base < a.base + a.words]
    assert by_base
    for _, later in by_base:
        pc = next(pc for pc in range(later.first, later.last + 1)
                  if any(area.memory == later.memory and area.base == later.base for area in Touched.by(PROGRAM.config, PROGRAM.instrs[pc]).written))
        if not PROGRAM.instrs[pc].pred:
            assert "never written" in refusal(changed(waiting, pc, pred=1, task=1)).message             # in task 0 nobody writes it


# ---------------------------------------------------------------- against a second opinion

def accesses(area: Area) -> set[int]:
    return {area.base + c * area.stride + t * area.step for c in range(area.chunks) for t in range(area.tokens)}


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(0, 30), st.integers(1, 7), st.integers(1, 3))
def test_the_words_of_an_area(base, chunks, stride, tokens, step):
    area = Area("act", base, chunks, stride, tokens, step)
    assert set(area.words.tolist()) == accesses(area) and area.last == max(accesses(area))
    assert (chunks == 1 or stride >= area.row) <= (len(accesses(area)) == chunks * tokens)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_changed_field_is_refused_or_changes_nothing_that_is_read(data):
    """Any place of any instruction: when the verifier lets the change pass, all words it reads are written before and its buffers are alive."""
    pc = data.draw(st.integers(2, len(PROGRAM.instrs) - 2))
    name = data.draw(st.sampled_from(["src_base", "src_stride", "dst_base", "dst_stride", "stat_base", "stat_stride", "tokens", "k_tiles", "n_tiles"]))
    program = changed(PROGRAM, pc, **{name: max(0, getattr(PROGRAM.instrs[pc], name) + data.draw(st.sampled_from([-9, -1, 1, 9])))})
    try:
        verify(program)
    except ModelError:
        return
    for task in range(program.num_tasks):
        written: set[tuple[str, int]] = set()
        for at, instr in enumerate(program.instrs):
            if instr.pred and instr.task != task:
                continue
            touched = Touched.by(program.config, instr)
            live = {(b.memory, word) for b in program.buffers if b.first <= at <= b.last for word in range(b.base, b.base + b.words)}
            for area in touched.all:
                words = {(area.memory, word) for word in accesses(area)}
                assert area.memory not in ("act", "kv", "score", "res") or words <= live
                assert area in touched.written or words <= written
            written |= {(area.memory, word) for area in touched.written for word in accesses(area)}


def test_an_end_touches_nothing():
    assert Touched.by(PROGRAM.config, Instr(op=Op.END)).all == []
