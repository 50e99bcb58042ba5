"""Pruning of tokens by score: read as exporters spell it, and what it computes in numpy, RTL and C++."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from hwgen import api, numerics, ops
from hwgen.engines.rtl.plan import schedule
from hwgen.engines.rtl.verify import verify as verify_program
from hwgen.errors import CapacityError, MismatchError, ModelError
from hwgen.graph import evaluate
from hwgen.importer import check_model, import_model
from hwgen.isa import Op, Stat
from hwgen.judge import judge
from hwgen.quantizer import quantize
from hwgen.routers import choice_warnings, router_flips
from hwgen.steps import golden
from hwgen.steps.stages import Pick
from hwgen.steps.taken import Kept
from hwgen.steps.verify import verify
from onnx_nets import CLASSES, DIM, Net, result
import prune_nets
from prune_nets import KEEP, PRUNED, gathered, network, patches, top
from qgraphs import random_qgraph

IMAGES = np.random.default_rng(7).normal(size=(12, 1, prune_nets.SIDE, prune_nets.SIDE)).astype(np.float32)


def saved(net: Net, path):
    return net.save(path, {"y": result(net)}, [1, CLASSES])


@pytest.mark.parametrize("spelling", PRUNED.values(), ids=PRUNED)
def test_pruning_is_read(spelling, tmp_path):
    """As onnxruntime computes it; in integers another token is kept where scores are close, which the accuracy shows."""
    path = saved(network(spelling, "mean"), tmp_path / "net.onnx")
    graph = import_model(path).model.tasks[0]
    (node,) = (node for node in graph.nodes if isinstance(node, ops.Prune))
    assert (node.front, node.keep, node.ranked) == (1, KEEP, spelling.__name__ != "sorted_as_they_stand")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": image[None]})[0] for image in IMAGES])
    np.testing.assert_allclose(evaluate.run(graph, {"x": IMAGES})["y"], wanted, atol=2e-5)
    quantized = quantize(import_model(path).model, {"x": IMAGES}).tasks[0]
    verify(quantized)
    error = golden.run(quantized, IMAGES)["y"] * quantized.outputs[0].scale.array / quantized.outputs[0].tokens - wanted
    assert 10 * np.log10((wanted ** 2).sum() / (error ** 2).sum()) > 15


def test_tokens_that_the_float_network_does_not_keep_are_counted(tmp_path):
    path = saved(network(PRUNED["gather elements"]), tmp_path / "net.onnx")
    model = import_model(path).model
    quantized = quantize(model, {"x": IMAGES})
    (found,) = router_flips(model.tasks, quantized.tasks, {"x": IMAGES})
    (node,) = (node for node in model.tasks[0].nodes if isinstance(node, ops.Prune))
    values = evaluate.trace(model.tasks[0], {"x": IMAGES})
    right = node.chosen(values[node.x], values[node.score])
    step = next(step for step in quantized.tasks[0].steps if step.picks)
    kept = golden.trace(quantized.tasks[0], IMAGES)[step.value][:, 0]
    mine = np.zeros(right.shape[:2], int)
    np.put_along_axis(mine, kept - 1, 1, axis=1)
    assert found.decisions == right.size == len(IMAGES) * prune_nets.COUNT and found.flips == (mine != right[..., 0]).sum() < found.decisions / 4


def test_ties_go_to_the_token_in_front():
    scores = np.array([[3, 5, 3, 5, -32767, 3]])
    assert numerics.best(scores, 4, True).tolist() == [[1, 3, 0, 2]] and numerics.best(scores, 4, False).tolist() == [[0, 1, 2, 3]]
    quantized = random_qgraph(3, blocks="dd", tokens=11, prune="index").tasks[0]
    pick = next(stage for step in quantized.steps for stage in step.drain if isinstance(stage, Pick))
    assert (pick.first, pick.keep, pick.ranked) == (1, 5, False)


def test_the_attention_of_the_class_token_is_read(tmp_path):
    """EViT: the mean of the heads; q and k are those of the attention, and only one token looks."""
    path = saved(prune_nets.by_class_attention(Net()), tmp_path / "net.onnx")
    graph = import_model(path).model.tasks[0]
    (node,) = (node for node in graph.nodes if isinstance(node, ops.Attended))
    (attention, _) = (node for node in graph.nodes if isinstance(node, ops.Attention))
    assert (node.q, node.k, node.query, node.first) == (attention.q, attention.k, 0, 1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": image[None]})[0] for image in IMAGES])
    np.testing.assert_allclose(evaluate.run(graph, {"x": IMAGES})["y"], wanted, atol=2e-5)
    quantized = quantize(import_model(path).model, {"x": IMAGES})
    (flips,) = router_flips((graph,), quantized.tasks, {"x": IMAGES})
    assert flips.flips <= flips.decisions / 20
    assert 10 * np.log10((wanted ** 2).sum() / ((golden.run(quantized.tasks[0], IMAGES)["y"] * quantized.tasks[0].outputs[0].scale.array - wanted) ** 2).sum()) > 20


@pytest.mark.parametrize("array", [(8, 8), (32, 16)])
@pytest.mark.parametrize("make", [lambda: network(PRUNED["log softmax of two"]), lambda: prune_nets.by_class_attention(Net())], ids=["predictor", "EViT"])
def test_the_rtl_computes_it_word_by_word(make, array, tmp_path):
    path = saved(make(), tmp_path / "net.onnx")
    run = api.compile(path, array=array, calib={"x": IMAGES}, out=tmp_path / "b").simulate({"x": IMAGES[:3]})
    assert run.bit_exact and run.words == 3 * CLASSES


def refused(build, folder) -> str:
    net = Net()
    t = prune_nets.embed(net)
    t = net.add(t, net.attention(net.norm(t)))
    t = build(net, t, net.norm(t))
    net.head(net.norm(net.add(t, net.mlp(net.norm(t)))))
    checked = check_model(saved(net, folder / "net.onnx"))
    assert not checked.ok
    return str(checked.error)


def by_a_softmax_of_three(net: Net, t: str, x: str) -> str:
    probabilities = net.op("Softmax", net.linear(patches(net, x), DIM, 3), axis=-1)
    return gathered(net, t, top(net, net.op("Gather", probabilities, net.const(0, np.int64), axis=2)))


def back_to_front(net: Net, t: str, x: str) -> str:
    index = top(net, prune_nets.flat(net, net.linear(patches(net, x), DIM, 1)))
    turned = net.op("Slice", index, net.ints(-1), net.ints(-KEEP - 1), net.ints(1), net.ints(-1))
    return gathered(net, t, turned)


def without_the_first(net: Net, t: str, x: str) -> str:
    index = top(net, prune_nets.flat(net, net.linear(patches(net, x), DIM, 1)))
    wide = net.op("Expand", net.op("Unsqueeze", index, net.ints(-1)), net.ints(1, KEEP, DIM))
    second = net.op("Slice", t, net.ints(1), net.ints(2), net.ints(1))
    return net.op("Concat", second, net.op("GatherElements", patches(net, t), wide, axis=1), axis=1)


def by_the_largest_head(net: Net, t: str, x: str) -> str:
    q, k, _ = net.heads(x, "slice")
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    seen = net.op("Slice", weights, net.ints(0, 1), net.ints(1, 99), net.ints(2, 3))
    return gathered(net, t, top(net, prune_nets.flat(net, net.op("ReduceMax", seen, net.ints(1), keepdims=0))))


def behind(*operators, **attrs):
    """Scores of a Linear, laid out as a row, behind these operators."""
    def build(net: Net, t: str, x: str) -> str:
        score = prune_nets.flat(net, net.linear(patches(net, x), DIM, 1))
        for operator, *constants in operators:
            score = net.op(operator, score, *map(net.const, constants), **attrs)
        return gathered(net, t, top(net, score))
    return build


def by_an_input(net: Net, t: str, x: str) -> str:
    return gathered(net, t, top(net, net.input("s", [1, prune_nets.COUNT])))


def by_attention(change, scale=1.0):
    """The mean over the heads of what the first token looks at, changed."""
    def build(net: Net, t: str, x: str) -> str:
        q, k, _ = net.heads(x, "slice")
        product = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(scale))
        seen = net.op("Slice", net.op("Softmax", product, axis=-1), net.ints(0, 1), net.ints(1, 99), net.ints(2, 3))
        return gathered(net, t, top(net, change(net, prune_nets.flat(net, net.mean(seen, axis=1, keepdims=0)))))
    return build


@pytest.mark.parametrize("build, reason", [
    (behind(("HardSigmoid",), alpha=1 / 6, beta=0.5), "may be flat or fall somewhere, by HardSigmoid"),
    (behind(("Clip", -50.0, 50.0)), "may be flat or fall somewhere, by Clip"), (behind(("Relu",)), "nothing that rises with one"),
    (behind(("Exp",), ("Sub", 1e4), ("Reciprocal",), ("Neg",)), "that falls somewhere"),
    (by_attention(lambda net, s: net.op("Max", s, net.const(0.05))), "may be flat or fall somewhere, by Max"),
    (by_attention(lambda net, s: s, -1.0), "scores that are multiplied by -1; a positive scale is supported"),
    (by_attention(lambda net, s: net.op("Add", s, net.const(np.arange(prune_nets.COUNT)[None] * 1e-6))),
     "constants that are not the same for all tokens, of Add node"), (by_an_input, "keeps tokens by 's', an input of the network"),
    (by_the_largest_head, "and not by the mean over the heads of those of one token"),
    (by_a_softmax_of_three, "which is no result of a Linear, no difference of two and nothing that rises with one"),
    (back_to_front, "in an order that is neither that of their scores nor their own"),
    (without_the_first, "supported are the tokens in front that have no score, then those with the largest scores")])
def test_other_choices_are_refused(build, reason, tmp_path):
    error = refused(build, tmp_path)
    assert reason in error and "node" in error and "mixture of experts" not in error and "choice of tokens in a form that is not read" in error, error


def test_one_number_gathered_by_a_choice_is_refused(tmp_path):
    def scalar(net: Net, t: str, x: str) -> str:
        index = top(net, prune_nets.flat(net, net.linear(patches(net, x), DIM, 1)))
        first = net.op("Gather", net.op("Reshape", index, net.ints(-1)), net.const(0, np.int64), axis=0)
        return net.op("Add", t, net.op("Gather", net.op("Reshape", t, net.ints(-1)), first, axis=0))
    assert "topk_0" in refused(scalar, tmp_path)


def chosen_by(score, folder):
    net = Net()
    t = prune_nets.embed(net)
    t = net.add(t, net.attention(net.norm(t)))
    t = gathered(net, t, top(net, prune_nets.flat(net, score(net, patches(net, net.norm(t))))))
    net.head(net.norm(net.add(t, net.mlp(net.norm(t)))), pool="mean")
    return import_model(saved(net, folder / "net.onnx"))


def steep(net: Net, x: str, factor: float) -> str:
    return net.op("MatMul", x, net.const(net.rng.normal(size=(DIM, 1)) * factor))


def test_scores_that_a_sigmoid_makes_equal_are_a_tie(tmp_path):
    """The file keeps the first of those that are 1, the network those with the largest scores; a wrong reading is none."""
    imported = chosen_by(lambda net, x: net.op("Sigmoid", steep(net, x, 30.0)), tmp_path)
    found = judge(imported, {"x": IMAGES})
    assert found.images_set_apart > 0 and found.images > 0
    graph = imported.model.tasks[0]
    linear = next(node for node in graph.nodes if node.output == next(n.score for n in graph.nodes if isinstance(n, ops.Prune)))
    nodes = tuple(replace(node, weight=-node.weight) if node is linear else node for node in graph.nodes)
    wrong = replace(imported, model=replace(imported.model, tasks=(replace(graph, nodes=nodes),)))
    with pytest.raises(MismatchError):
        judge(wrong, {"x": IMAGES})
    with pytest.raises(ModelError, match="the choice of tokens .* meets scores that are the same"):
        judge(chosen_by(lambda net, x: net.op("Sigmoid", net.op("Add", steep(net, x, 1.0), net.const([200.0]))), tmp_path), {"x": IMAGES})


def test_what_all_scores_have_in_common_takes_no_bits(tmp_path):
    imported = chosen_by(lambda net, x: net.op("Add", steep(net, x, 1e-3), net.const([50.0])), tmp_path)
    quantized = quantize(imported.model, {"x": IMAGES})
    (found,) = router_flips(imported.model.tasks, quantized.tasks, {"x": IMAGES})
    assert found.flips < found.decisions / 10
    assert choice_warnings([replace(found, flips=3)], quantized.tasks)[0].startswith(f"the choice of tokens by node {found.node!r} is another one")
    assert not choice_warnings([replace(found, flips=0), replace(found, flips=3, node="a router")], quantized.tasks)


def test_several_images_at_once_are_refused():
    with pytest.raises(CapacityError, match="keeps the tokens with the largest scores, which are others in each image"):
        schedule(random_qgraph(3, blocks="dd", prune="ranked"), ti=8, to=8, axi_data_bits=64, batch=2)


PROGRAM = schedule(random_qgraph(1, blocks="dd", tokens=11, prune="ranked"), ti=8, to=8, axi_data_bits=64)
PLACE = next(pc for pc, instr in enumerate(PROGRAM.instrs) if instr.pick)


@pytest.mark.parametrize("fields, config, text", [
    ({}, {"picks": False}, "the engine does not"), ({"to16": 0}, {}, "no score of 16 bits"), ({"n_last": 2}, {}, "no score of 16 bits"),
    ({"stat_count": 0}, {}, "keeps 0 of 10 tokens"), ({"stat_count": 11}, {}, "keeps 11 of 10 tokens"), ({"pick": 0}, {}, "no score of 16 bits"),
    ({"stat_base": 1 << 14}, {}, "from number 16384 on"), ({"stat_base": 5}, {}, "takes token 14 of a source of 11 tokens"),
    ({"op_base": 4000}, {}, "touches word 4000 of list"), ({"stat": int(Stat.BYPASS), "k_hi": 8, "k_tiles": 1}, {}, "no score of 16 bits")])
def test_programs_that_choose_tokens(fields, config, text):
    verify_program(PROGRAM)
    instrs = [replace(instr, **fields) if pc == PLACE else instr for pc, instr in enumerate(PROGRAM.instrs)]
    with pytest.raises(ModelError, match=text):
        verify_program(replace(PROGRAM, instrs=tuple(instrs), config=replace(PROGRAM.config, **config)))


def test_the_instruction_behind_a_choice_waits_for_it():
    """It is under way for longer than any other: what came behind it would retire before it."""
    assert PROGRAM.instrs[PLACE + 1].op == Op.MATMUL and PROGRAM.instrs[PLACE + 1].slack == 0
    instrs = [replace(instr, slack=1) if pc == PLACE + 1 else instr for pc, instr in enumerate(PROGRAM.instrs)]
    with pytest.raises(ModelError, match="behind an instruction that chooses tokens"):
        verify_program(replace(PROGRAM, instrs=tuple(instrs)))


@pytest.mark.parametrize("change, text", [
    (lambda step: replace(step, drain=(step.drain[0], replace(step.drain[1], keep=11))), "keeps 11 of 10 tokens"),
    (lambda step: replace(step, drain=(step.drain[0], replace(step.drain[1], first=2))), "does not choose among them")])
def test_steps_that_choose_tokens(change, text):
    network_of = random_qgraph(1, blocks="dd", tokens=11, prune="ranked").tasks[0]
    with pytest.raises(ModelError, match=text):
        verify(replace(network_of, steps=tuple(change(step) if step.picks else step for step in network_of.steps)))
    assert sum(isinstance(step.taken, Kept) for step in network_of.steps) == 1


