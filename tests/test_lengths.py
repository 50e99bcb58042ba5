"""Run-time lengths of a sequence: the network of a length, what has none, and the same words from the RTL engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen import ops, quantizer
from hwgen.engine import covering
from hwgen.engines.rtl.verify import verify as verify_program
from hwgen.errors import CapacityError, InputError, ModelError
from hwgen.graph import Graph, Model
from hwgen.isa import Dst, Follow, Instr, Op, Src, Stat, followed
from hwgen.quantizer import calibration
from hwgen.steps import golden, host
from hwgen.steps.passes.lengths import sequenced, shortened
from hwgen.steps.step import Quantized
from hwgen.steps.verify import verify
import native_builds
from qgraphs import random_qgraph
from sequence_nets import ENDS, sequence_model, sequence_network, sequences

LONGEST = 12


def cut(model: Model, tokens: int) -> Model:
    """The float network made for the first so many tokens."""
    def node(each):
        match each:
            case ops.AddConst():
                return replace(each, value=each.value[:tokens])
            case ops.Rotate():
                return replace(each, cos=each.cos[:tokens], sin=each.sin[:tokens])
            case ops.Select():
                return replace(each, index=min(each.index, tokens - 1))
        return each
    return Model(tuple(Graph(graph.name, {"x": (tokens, graph.inputs["x"][1])}, tuple(map(node, graph.nodes)), graph.outputs,
                             {name: (1, tokens, *shape[2:]) if len(shape) == 3 else shape for name, shape in graph.output_shapes.items()})
                       for graph in model.tasks)).verify()


@pytest.mark.parametrize("seed, end, blocks, options", [
    *((seed, end, "dm", {}) for seed, end in enumerate(ENDS)), (5, "mean", "s", {}), (6, "all", "d", {"rotary": True}),
    (7, "last", "d", {"rotary": True, "heads_norm": True})])
def test_a_length_is_the_network_made_for_it(seed, end, blocks, options):
    """By the same ranges: every word, every step's work, and what the outputs are the mean of."""
    model = sequence_model(seed, tokens=LONGEST, end=end, causal=end == "last", blocks=blocks, **options)
    ranges = calibration.collect(model, {"x": sequences(sequence_network(seed, tokens=LONGEST), 3)})
    network = sequenced(quantizer.from_ranges(model, ranges).tasks[0])
    images = np.random.default_rng(7).standard_normal((4, LONGEST, 16)).astype(np.float32)
    lengths = [5, LONGEST, 1, 2]
    found = golden.run(network, images, lengths)
    real = host.dequantize(network, found, lengths)
    for image, length in enumerate(lengths):
        made = quantizer.from_ranges(cut(model, length), ranges).tasks[0]
        short = shortened(network, length)
        verify(short)
        wanted = golden.run(made, images[image:image + 1, :length])["logits"][0]
        np.testing.assert_array_equal(found["logits"][image, :wanted.size], wanted)
        assert not found["logits"][image, wanted.size:].any()
        assert [step.macs for step in short.steps] == [step.macs for step in made.steps]
        wanted = host.dequantize(made, {"logits": wanted[None]})["logits"][0]
        np.testing.assert_array_equal(real["logits"][image][:length] if end == "all" else real["logits"][image], wanted)


def other(**changes) -> Quantized:
    """`sequence_network` of a model whose nodes are changed."""
    model = sequence_model(**{name: value for name, value in changes.items() if name != "node"})
    graph = model.tasks[0]
    nodes = tuple(changes["node"](node) for node in graph.nodes)
    return quantizer.quantize(Model((replace(graph, nodes=nodes),)).verify(), None, random=True)


@pytest.mark.parametrize("network, text", [
    (lambda: random_qgraph(blocks="d"), "input 'x' is an image: a run-time length is that of a sequence of tokens, two at least"),
    (lambda: other(end="mean", node=lambda node: replace(node, start=2) if isinstance(node, ops.Mean) else node),
     "takes tokens 2:12 of norm"),
    (lambda: other(end="first", node=lambda node: replace(node, index=3) if isinstance(node, ops.Select) else node), "takes tokens 3:4 of norm")])
def test_what_has_no_meaning_for_fewer_tokens_is_named(network, text):
    with pytest.raises(ModelError) as caught:
        sequenced(network().tasks[0])
    assert text in caught.value.message and "without --lengths" in caught.value.hint


@pytest.mark.parametrize("tokens", [0, LONGEST + 1])
def test_lengths_that_there_are_not(tokens):
    with pytest.raises(ValueError, match=f"runs no sequence of {tokens} tokens"):
        shortened(sequence_network(tokens=LONGEST).tasks[0], tokens)


def test_cosines_and_sines_of_several_words_a_token_are_named():
    model = sequence_network(tokens=LONGEST, dim=48, rotary=True)
    with pytest.raises(CapacityError) as caught:
        native_builds.schedule(model, ti=16, to=16, axi_data_bits=128)
    assert "of 48 channels, more than the 16 lanes of a word" in caught.value.message
    native_builds.schedule(model, ti=64, to=48, axi_data_bits=512)


def test_a_network_that_was_not_asked_has_no_lengths():
    model = quantizer.quantize(sequence_model(), None, random=True)
    with pytest.raises(ValueError, match="runs no sequence of 3 tokens"):
        shortened(model.tasks[0], 3)
    assert not native_builds.schedule(model, ti=8, to=8, axi_data_bits=64).config.lengths


def test_batches_have_no_lengths():
    with pytest.raises(CapacityError) as caught:
        native_builds.schedule(sequence_network(), ti=8, to=8, axi_data_bits=64, batch=2)
    assert "a run-time length is that of a frame" in caught.value.message


def test_values_that_leave_for_comparison_keep_their_places():
    """Of every token, whatever the length: those behind the sequence are anything."""
    program = native_builds.schedule(sequence_network(tokens=40, blocks="g"), ti=8, to=8, axi_data_bits=64, taps=True)
    verify_program(program)
    assert not any(instr.follow == Follow.ROWS for instr in program.instrs if instr.dst == Dst.OUT and not instr.mean)


@pytest.mark.parametrize("instr, length, wanted", [
    (Instr(op=Op.MATMUL, follow=Follow.ROWS, tokens=9), 0, {}),
    (Instr(op=Op.MATMUL, follow=Follow.ROWS, tokens=9), 4, {"tokens": 4}),
    (Instr(op=Op.MATMUL, follow=Follow.ROWS, tokens=9, first=9), 9, None),
    (Instr(op=Op.MATMUL, follow=Follow.ROWS, tokens=9, first=9), 10, {"tokens": 1}),
    (Instr(op=Op.MATMUL, follow=Follow.LAST, tokens=1, first=18, src=Src.NORM, src_base=40, src_row=17), 5, {"src_base": 27, "src_row": 4}),
    (Instr(op=Op.MATMUL, dst=Dst.SCORE, stat=Stat.K_COLUMNS, keys_follow=1, tokens=9, stat_count=40, n_tiles=5, n_last=8), 17,
     {"stat_count": 17, "n_tiles": 3, "n_last": 1}),
    (Instr(op=Op.MATMUL, src=Src.EXP, stat=Stat.V_ROWS, keys_follow=1, tokens=9, stat_count=40, k_tiles=3, k_hi=8), 16,
     {"stat_count": 16, "k_tiles": 1, "k_hi": 16})])
def test_what_an_instruction_does_for_a_length(instr, length, wanted):
    assert followed(instr, length, 16, 8) == (None if wanted is None else replace(instr, **wanted))


NETWORKS = (    # end, causal, blocks, tokens, dim, score_words, q and k turned: the fourth one has several blocks of queries
    ("mean", False, "dm", 40, 32, 4096, False), ("last", True, "d", 40, 24, 4096, False), ("all", False, "g", 40, 24, 4096, False),
    ("first", True, "d", 150, 24, 128, False), ("all", True, "d", 40, 32, 4096, True))


@pytest.fixture(scope="module")
def programs():
    """Of `NETWORKS`, for one engine."""
    made = [(sequence_network(seed, end=end, causal=causal, blocks=blocks, tokens=tokens, dim=dim, classes=(5, 3)[:1 + (end == "last")], rotary=rotary),
             {"score_words": words}) for seed, (end, causal, blocks, tokens, dim, words, rotary) in enumerate(NETWORKS)]
    array = {"ti": 16, "to": 16, "axi_data_bits": 128, "fifo_beats": 64}
    engine = covering(native_builds.schedule(model, **array, **options).config for model, options in made)
    return [(model, native_builds.schedule(model, **array, **options, engine=engine)) for model, options in made]


@pytest.mark.parametrize("place", range(len(NETWORKS)))
@pytest.mark.parametrize("memory", [native_builds.SLOW, native_builds.STALLED])
def test_every_output_word_of_the_rtl(programs, place, memory, tmp_path):
    """Two runs of eight lengths one after the other: what a longer sequence left in the memories is never seen."""
    model, program = programs[place]
    longest, outputs = model.tasks[0].input[1].tokens, [output.name for output in model.tasks[0].outputs]
    engine = native_builds.Engine(tmp_path, 16, 16, 128)
    for lengths in ((longest, 1, 5, 16, 17, 33, longest - 1, 2), (15, longest // 2, 32, longest, 3, 34, 1, 48 % longest)):
        images, tasks = sequences(model, len(lengths)), [i % len(model.tasks) for i in range(len(lengths))]
        run = engine.run(program, model, images, tasks, memory, lengths=lengths)
        for image, (length, task) in enumerate(zip(lengths, tasks, strict=True)):
            network = model.tasks[task]
            wanted = golden.run(shortened(network, length), images[image:image + 1, :length])
            assert wanted.keys() == run.outputs[image].keys() and outputs
            for name, words in wanted.items():
                np.testing.assert_array_equal(run.outputs[image][name][:words.size], words[0])


def test_cycles_fall_with_the_length(programs, tmp_path):
    """Of 16 tokens on a build of 40: hardly more than on a build of 16."""
    model, program = programs[0]
    engine = native_builds.Engine(tmp_path, 16, 16, 128)
    images = sequences(model, 1)
    run = engine.run(program, model, images, [0], native_builds.IDEAL, lengths=[16])
    short = sequence_network(0, end="mean", blocks="dm", tokens=16, dim=32)
    own = native_builds.schedule(short, ti=16, to=16, axi_data_bits=128, fifo_beats=64, engine=program.config)
    alone = engine.run(own, short, sequences(short, 1), [0], native_builds.IDEAL)
    whole = engine.run(program, model, images, [0], native_builds.IDEAL)
    assert run.cycles < 0.8 * whole.cycles
    constants = 2 * (40 - 16) * 2 * 2                      # words of the input and of the positions that nobody needs
    assert run.cycles <= 1.02 * alone.cycles + constants
    estimated = program.estimate(1024, 0, length=16)[-1].stop
    assert 0.9 < estimated / run.cycles < 1.1


@pytest.mark.parametrize("lengths", [[*range(1, 10)]])
def test_lengths_that_the_registers_cannot_hold(programs, lengths, tmp_path):
    model, program = programs[0]
    engine = native_builds.Engine(tmp_path, 16, 16, 128)
    with pytest.raises(InputError, match="do not repeat every eight frames"):
        engine.run(program, model, sequences(model, len(lengths)), [0] * len(lengths), native_builds.IDEAL, lengths=lengths)
