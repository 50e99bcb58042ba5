"""Steps -> calls: which steps are one call, what is refused, what tasks share. No compiler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.engines.hls.calls import CALLS, calls
from hwgen.engines.hls.plan import MAX_SIZE, plan
from hwgen.errors import CapacityError, ModelError
from hwgen.graph import Graph, Model, Node
from hwgen.layout.merge import Slot, align, slots
from hwgen.steps import stages
from hwgen.steps.param import UNIT, Columns, Param
from hwgen.steps.stages import Add, Exp2, Requant, Stationary, Table
from hwgen.steps.step import Network, Quantized
from hwgen.steps.tensor import Span
import qgraphs


@pytest.fixture(scope="module")
def network() -> Network:
    return qgraphs.random_qgraph(3, blocks="dm").tasks[0]


def changed(network: Network, name: str, change) -> Network:
    """The network with one step replaced."""
    assert any(step.name == name for step in network.steps)
    return replace(network, steps=tuple(change(step) if step.name == name else step for step in network.steps))


def refused(network: Network, name: str, change, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        calls(changed(network, name, change))
    assert name.partition(".")[0] in error.value.where and " x " in error.value.where          # the step is printed


def test_the_steps_of_a_node_are_one_call(network):
    found = calls(network)
    block = ["layer_norm", "linear", "linear", "linear", "attention", "linear_residual", "layer_norm"]
    assert [call.function for call in found] == [
        "patches", "residual_init", "linear_residual", *block, "linear_activated", "linear_residual", *block, "route", "experts",
        "layer_norm", "head"]
    assert [step for call in found for step in call.steps] == list(network.steps)
    assert [len(call.steps) for call in found if call.kind in ("ATTENTION", "EXPERTS")] == [2, 2, 8]
    assert sum(call.macs for call in found) == sum(step.macs for step in network.steps)


def test_every_name_a_step_can_ask_for_is_a_function_of_the_engine():
    asked = {record.hls for record in (*stages.FEEDS, *stages.STAGES, Stationary)} - {""}
    assert asked == {call.asked or call.function for call in CALLS}


def test_what_an_expert_does_not_divide_is_counted():
    """5 tokens, top 2 of 3 experts: no expert has a whole share of the products."""
    network = qgraphs.random_qgraph(1, tokens=5, dim=8, heads=1, expert_hidden=5, experts=3, top_k=2, blocks="m").tasks[0]
    experts = next(call for call in calls(network) if call.kind == "EXPERTS")
    assert experts.macs == 5 * 2 * 2 * 8 * 5 != sum(step.macs for step in experts.steps)


@pytest.mark.parametrize("name, change, message", [
    ("block0.q", lambda s: replace(s, drain=(*s.drain, Add(s.sink))), "no step for it"),
    ("block0.q", lambda s: replace(s, drain=()), "no step for it"),
    ("block0.q", lambda s: replace(s, feed=Exp2()), "no step for it"),
    ("block0.q", lambda s: replace(s, drain=(Requant(UNIT),)), "weights have a factor for each column"),
    ("block0.attention.scores", lambda s: replace(s, drain=(Requant(Columns(Param("m", np.ones(9)), Param("s", np.ones(9)))),)), "what else is stationary has one"),
    ("block0.q", lambda s: replace(s, source_view=s.source.tensor.view(Span(1, 4, 2))), "is a part of a value"),
    ("block0.q", lambda s: replace(s, sinks=(s.sink.tensor.view(channels=Span(0, 16)),)), "is a part of a value"),
    ("logits", lambda s: replace(s, source_view=s.source.tensor.view(Span(0, 4, 2))), "is a part of a value"),
    ("block1.out.expert0.layer1", lambda s: replace(s, drain=(s.drain[0], Table("gelu", UNIT))), "differ in their activation"),
    ("block1.out.expert2.layer1", lambda s: replace(s, expert=replace(s.expert, index=3)), "experts come in order"),
    ("block1.out.expert2.layer2", lambda s: replace(s, drain=s.drain[1:]), "no step for it"),
])
def test_what_the_engine_does_not_do_is_refused(network, name, change, message):
    refused(network, name, change, message)


def test_two_residual_streams():
    """Each has its place: those that are alive together share no word."""
    made = plan(qgraphs.random_qgraph(blocks="dd", norms="respost"), 16)
    streams = {name: word for step in made.steps for name, word in step.streams.items()}
    assert len(streams) == 5 and len(set(streams.values())) == 2 and made.residual_words == 2 * 9 * 2
    code = "\n".join(step.code for step in made.steps)
    assert code.count("fresh(hwgen::linear_residual(") == 4 and code.count("from(hwgen::scale(") + code.count("hwgen::scale(") >= 4


def test_some_rows_where_the_function_takes_them(network):
    head = next(call for call in calls(network) if call.kind == "LINEAR" and call.target == "OUTPUT")
    other = changed(network, head.steps[0].name, lambda s: replace(s, source_view=s.source.tensor.view(Span(2, 3))))
    assert "{2, 3}" in calls(other)[-1].code


def test_experts_of_two_sizes():
    big, small = (qgraphs.random_qgraph(1, blocks="m", expert_hidden=hidden).tasks[0] for hidden in (8, 16))
    names = [step.name for step in big.steps if step.part.startswith("expert0")]
    other = {step.name: step for step in small.steps}
    mixed = replace(big, steps=tuple(other[step.name] if step.name in names else step for step in big.steps))
    with pytest.raises(ModelError, match="the experts differ in size") as error:
        calls(mixed)
    assert error.value.hint == "the HLS engine needs experts of one size"


# ---------------------------------------------------------------- tasks

def test_tasks_side_by_side_share_everything_but_gates_and_heads():
    made = plan(qgraphs.random_qgraph(2, blocks="dm", classes=(4, 4)), 16, 4)
    assert {step.function for step in made.steps if step.task != -1} == {"route", "head"}
    assert [step.names for step in made.steps if step.kind == "ROUTE"] == [("block1.out", ""), ("", "block1.out")]
    assert [(step.task, step.place) for step in made.steps if step.target == "OUTPUT"] == [(0, 0), (1, 0)]
    assert [len(set(step.names)) for step in made.steps if step.task == -1] == [1] * (len(made.steps) - 4)


def test_tasks_whose_values_have_other_names_are_the_same_steps():
    """By what they compute, not by the names ONNX gave: the second task's values all have other ones."""
    model = qgraphs.random_model(2, blocks="d", classes=(4,))
    (graph,) = model.tasks
    other = Graph("other", graph.inputs, tuple(_renamed(node) for node in graph.nodes), {"second": "other.head"}, {"second": (1, 4)})
    quantized = quantizer.quantize(Model((graph, other)), None, random=True)
    made = plan(quantized, 16, 4)
    assert {step.task for step in made.steps} == {-1}
    assert made.steps[-1].names == ("logits", "second") and made.outputs == ((("logits", 0, 4),), (("second", 0, 4),))
    assert made.image == plan(replace(quantized, tasks=quantized.tasks[:1]), 16, 4).image


def _renamed(node: Node) -> Node:
    names = {name: f"other.{value}" for name, value in vars(node).items()
             if name in ("output", "x", "y", "q", "k", "v") and value != "x"}
    return replace(node, **names)


def test_tasks_of_different_depth_run_one_after_the_other():
    graphs = [qgraphs.random_model(2, blocks=blocks, classes=(3,)).tasks[0] for blocks in ("d", "dd")]
    made = plan(quantizer.quantize(Model(tuple(graphs)), None, random=True), 16, 4)
    tasks = [step.task for step in made.steps]
    assert tasks == sorted(tasks) and set(tasks) == {0, 1}
    assert len({value.name for value in made.values}) == len(made.values) and "norm'" in {value.name for value in made.values}
    first, second = ([step.weights for step in made.steps if step.task == task and step.kind == "LINEAR"] for task in (0, 1))
    assert first[:7] == second[:7] and second[7] > max(first)          # what they share is in the image once


def test_align_and_slots():
    same = align([["a", "b"], ["a", "c"]], len)
    assert same == [("a", "a"), ("b", "c")]
    assert [slots(row, str) for row in same] == [[Slot("a", None)], [Slot("b", 0), Slot("c", 1)]]
    apart = align([["a"], ["a", "bb"]], len)
    assert apart == [("a", None), (None, "a"), (None, "bb")]
    assert [slots(row, str) for row in apart] == [[Slot("a", 0)], [Slot("a", 1)], [Slot("bb", 1)]]


# ---------------------------------------------------------------- capacity

def test_sizes_beyond_the_step_table(network):
    long = network.steps[0].sink.tensor
    far = changed(network, network.steps[0].name, lambda s: replace(s, sinks=(replace(long, tokens=MAX_SIZE + 1).view(),)))
    with pytest.raises(CapacityError, match="a dimension of 65536, the step table holds at most 65535"):
        plan(Quantized((far,)))
    for lanes, queries in ((12, 4), (0, 4), (16, 0)):
        with pytest.raises(CapacityError, match=f"{lanes} lanes and {queries} resident queries are no HLS engine"):
            plan(Quantized((network,)), lanes, queries)


def test_two_activations(network):
    step = next(step for step in network.steps if step.part == "" and any(isinstance(stage, Table) for stage in step.drain))
    other = changed(network, step.name, lambda s: replace(s, drain=(s.drain[0], replace(s.drain[1], function="relu"))))
    made = plan(Quantized((other,)))
    assert sorted(made.functions) == ["gelu", "relu"] and plan(Quantized((network,))).functions == ("gelu",)
    codes = [call.code for call in made.steps if call.activation]
    assert [call.activation for call in made.steps if call.activation] == [*made.functions]
    assert codes[1].endswith("}, 1)") and codes[0].endswith(("})", "}, 0, 12)"))        # the first function is the default


def test_a_head_of_all_tasks_has_one_place(network):
    """Whatever stands before it in the output of a task."""
    (head,) = (step for step in network.steps if step.value == network.outputs[0].name)
    tasks = []
    for task, channels in enumerate((3, 5)):
        def cut(param, channels=channels, task=task):
            return Param(f"{param.name}{task}", np.ascontiguousarray(param.array[..., :channels]))
        tile = replace(head.tile, weight=cut(head.tile.weight), bias=cut(head.tile.bias), scale=cut(head.tile.scale))
        own = replace(head.sink.tensor, name=f"own{task}", channels=channels)
        before = replace(head, value=own.name, tile=tile, sinks=(own.view(),))
        output = replace(network.outputs[0], name=own.name, tensor=own, scale=tile.scale, shape=(1, channels))
        tasks.append(Network(f"task{task}", (*network.steps[:-1], before, head), (output, network.outputs[0])))
    made = plan(Quantized(tuple(tasks)), 16, 4)
    shared = made.steps[-1]
    assert shared.task == -1 and [outputs[-1][1] for outputs in made.outputs] == [shared.place] * 2 == [5] * 2
    assert made.output_words == 5 + network.outputs[0].tensor.channels
