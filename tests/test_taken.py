"""Steps that take their tokens by an order: by hand, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen import quantizer
from hwgen.build import store
from hwgen.engines.hls.calls import calls
from hwgen.engines.hls.plan import plan
from hwgen.engines.hls.products import Product
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import CapacityError, ModelError
from hwgen.isa import ABSENT
from hwgen.layout.image import Shape
from hwgen.steps import golden, text
from hwgen.steps.format import INT8, WIDE
from hwgen.steps.param import Param
from hwgen.steps.passes.lengths import sequenced
from hwgen.steps.passes.lists import bring_lists, row_words
from hwgen.steps.passes.unity import each, one
from hwgen.steps.stages import Requant, Rescale, Stationary
from hwgen.steps.stages.rescale import EXACT
from hwgen.steps.step import Network, Step
from hwgen.steps.taken import NOTHING, Taken
from hwgen.steps.tensor import Memory, Span, Tensor
from hwgen.steps.verify import verify
from qgraphs import random_images, random_model, random_qgraph
from sequence_nets import sequence_model
from taken_nets import orders, taking

ORDER = [[2, 0, 1, NOTHING, 2], [0, NOTHING, 2, 1, 3]]


def order(rows=ORDER, name="order") -> Taken:
    return Taken(Param(name, np.array(rows, np.int32)))


@pytest.fixture(scope="module")
def network() -> Network:
    return random_qgraph(5, blocks="dm", tokens=5, dim=16, hidden=24, experts=3, top_k=2).tasks[0]


def with_step(network: Network, name: str, **values) -> Network:
    return replace(network, steps=tuple(replace(step, **values) if step.name == name else step for step in network.steps))


def step_of(network: Network, name: str) -> Step:
    return next(step for step in network.steps if step.name == name)


def test_tokens_stand_side_by_side():
    x = np.arange(8).reshape(1, 4, 2) + 1
    found = order().evaluate(x, {})
    assert found.tolist() == [[[5, 6, 1, 2], [1, 2, 0, 0], [3, 4, 5, 6], [0, 0, 3, 4], [5, 6, 7, 8]]]
    assert order().some(Span(1, 2)).evaluate(x, {}).tolist() == [[[1, 2, 0, 0], [3, 4, 5, 6]]]
    two = np.concatenate([x, x + 10], axis=1)
    np.testing.assert_array_equal(order().images(2, 4).evaluate(two, {})[0], np.concatenate([found[0], order().evaluate(x + 10, {})[0]]))


def test_a_product_by_an_order_is_the_product_of_what_it_takes(network):
    hidden = step_of(network, "block0.hidden")
    weight = np.random.default_rng(0).integers(-127, 128, (32, 24)).astype(np.int8)
    taken = order()
    changed = with_step(network, hidden.name, taken=taken, tile=replace(hidden.tile, weight=Param("w2", weight)))
    usage = verify(changed)
    bound = np.abs(weight.astype(np.int64)).sum(0) * 128 + np.abs(hidden.tile.bias.array.astype(np.int64))
    assert usage[hidden.name] == bound.max() / (2 ** 31 - 1)
    images = random_images(random_model(5, blocks="dm", tokens=5, dim=16, hidden=24, experts=3, top_k=2), 3)
    before, after = golden.trace(network, images, detail=True), golden.trace(changed, images, detail=True)
    seen = taken.evaluate(before["block0.norm2"], {}) @ weight.astype(np.int64) + hidden.tile.bias.array
    np.testing.assert_array_equal(after["block0.hidden.pre"], hidden.drain[0].factor.apply(seen, hidden.drain[0].to))
    assert (after["block0.hidden"] != before["block0.hidden"]).any()


@pytest.mark.parametrize("name, values, message", [
    ("block0.q", {"taken": order([[0, 1, 2, 3, 5]])}, "order order has tokens 0 to 5, block0.norm1 has 5"),
    ("block0.q", {"taken": order([[0, 1, 2, 3, -2]])}, "order order has tokens -2 to 3"),
    ("block0.q", {"taken": order([0, 1, 2, 3, 4])}, "order order is int32 [5], expected int32 [taps, tokens]"),
    ("block0.q", {"taken": Taken(Param("order", np.zeros((1, 5))))}, "order order is float64 [1, 5]"),
    ("block0.q", {"taken": order()}, "streams 32 channels into a tile of 16 rows, 1 heads"),
    ("block0.q", {"taken": order([[0, 1, 2]])}, "the result is [3, 16], its place [5, 16]"),
    ("block0.attention.scores", {"taken": order([[0, 1, 2, 3, 4]])}, "takes tokens by the order order [1, 5], which a product with weights does"),
    ("block0.norm1", {"taken": order([[0, 1, 2, 3, 4]])}, "which a product with weights does, not normalize"),
    ("block1.out.expert0.layer1", {"taken": order([[0, 1, 2, 3, 4]])}, "and by heads, experts or scores"),
    ("block1.out.expert0.layer2", {"taken": order([[0, 1, 2, 3, 4]])}, "and by heads, experts or scores"),
])
def test_what_no_step_can_take(network, name, values, message):
    with pytest.raises(ModelError) as caught:
        verify(with_step(network, name, **values))
    assert message in caught.value.message


def test_a_listing_says_how_many_tokens_are_taken(network):
    hidden = step_of(network, "block0.hidden")
    weight = Param("w2", np.zeros((32, 24), np.int8))
    changed = with_step(network, hidden.name, taken=order(), tile=replace(hidden.tile, weight=weight))
    assert "by order [2, 5] plain x w2" in text.line(step_of(changed, hidden.name))
    assert "by 2x5 tokens" in text.text(changed) and "by 2x5 tokens" not in text.text(network)
    detail = next(row.detail() for row in text.part(changed).lines(40) if "by 2x5" in "".join(row.cells))
    assert detail["taken"] == "order [2, 5]" and detail["taken.order"] == "order: int32 [2, 5], -1 to 3"


def test_random_orders(network):
    quantized = taking(random_qgraph(3, blocks="d", tokens=7, classes=(3, 4)))
    for task in quantized.tasks:
        verify(task)
        assert len(orders(task)) > 3 and {taken.taps for taken in orders(task)} >= {1, 2}
    assert orders(quantized.tasks[0])[0] == orders(quantized.tasks[1])[0]


def test_a_run_time_length_has_no_order():
    network = quantizer.quantize(sequence_model(), None, random=True).tasks[0]
    at = next(step for step in network.steps if isinstance(step.tile, Stationary) and step.source.whole and step.expert is None)
    changed = with_step(network, at.name, taken=order([list(range(at.tokens))]))
    verify(changed)
    with pytest.raises(ModelError, match="by the order order .*: of a shorter sequence they may not be there"):
        sequenced(changed)


def test_a_build_keeps_orders():
    model = taking(random_qgraph(1, blocks="d", classes=(3, 4)))
    read = store.decode(store.encode(model))
    for before, after in zip(model.tasks, read.tasks, strict=True):
        assert list(text.lines(before)) == list(text.lines(after))
        for kept, other in zip(orders(before), orders(after), strict=True):
            np.testing.assert_array_equal(kept.order.array, other.order.array)


def test_numbers_of_tokens_lie_in_front_of_the_weights():
    """HLS: int16, a tap after the other, of the whole source; whole words of the stream."""
    made = plan(taking(random_qgraph(1, blocks="d")), 8, 4)
    takes = [call for call in made.steps if isinstance(call, Product) and call.taps]
    assert len(takes) > 3 and made.list_size == max(call.taps * call.streamed for call in takes)
    for call in takes:
        order, span = call.steps[0].taken.order.array, call.source.tokens
        words = np.frombuffer(made.image, "<i2", order.size, call.weights * 8)
        np.testing.assert_array_equal(words, np.where(order == NOTHING, NOTHING, span.start + order).ravel())
        assert call.weight_words(8) * 8 == len(call.data(Shape(8, 8, 8))) and f", {call.taps}, {call.streamed})" in call.code
    assert plan(random_qgraph(1, blocks="d"), 8, 4).list_size == 1


def test_what_the_hls_engine_cannot_take(network):
    rows = Tensor("rows", WIDE, 4, 16, 1.0, Memory.RES)
    step = Step("y", "n", Rescale(EXACT), each(16), (Tensor("y", INT8, 4, 16, 1.0).view(),), rows.view(), (Requant(one(16)),), taken=order([[3, 2, 1, 0]]))
    with pytest.raises(ModelError, match="takes tokens by an order for products with weights only"):
        calls(replace(network, steps=(step,)))
    far = replace(step_of(network, "block0.q"), source_view=Tensor("far", INT8, 1 << 16, 16, 1.0).view(), taken=order([[0, 1, 2, 3, 4]]))
    with pytest.raises(ModelError, match="by an order of at most 32768"):
        calls(replace(network, steps=(far,)))


def test_lists_are_brought_once():
    """Equal orders lie in memory once; numbers are those of the whole tensor, zeros have the number of a token that is there."""
    network = taking(random_qgraph(2, blocks="dd", tokens=11), 4).tasks[0]
    listed = bring_lists(network, 8)
    verify(listed)
    (brings,) = (step for step in listed.steps if step.sink.tensor.memory is Memory.LIST)
    words = brings.feed.table.array.reshape(16, -1, 8).transpose(1, 0, 2).reshape(-1, 8)
    takes = [step for step in listed.steps if step.taken is not None]
    assert len({(step.taken.order, step.source.tokens) for step in takes}) == len({step.taken.first for step in takes}) > 2
    for step in takes:
        rows = words[step.taken.first:step.taken.first + step.taken.taps * row_words(step.taken, 8)].reshape(step.taken.taps, -1)[:, :step.tokens]
        span, order = step.source.tokens, step.taken.order.array
        np.testing.assert_array_equal(rows >= ABSENT, order == NOTHING)
        np.testing.assert_array_equal(rows % ABSENT, span.start + span.step * np.maximum(order, 0))
    assert bring_lists(random_qgraph(2, blocks="d").tasks[0], 8).steps == random_qgraph(2, blocks="d").tasks[0].steps


def test_a_source_of_too_many_tokens(network):
    far = Tensor("far", INT8, ABSENT + 1, 16, 1.0)
    step = replace(step_of(network, "block0.q"), source_view=far.view(), taken=order([[0, 1, 2, 3, ABSENT]]))
    with pytest.raises(CapacityError, match="takes tokens of far .* by an order, numbers of tokens have 16383 at most"):
        bring_lists(replace(network, steps=(*network.steps, step)), 8)


def test_engines_of_other_networks_have_no_lists():
    program = schedule(random_qgraph(1, blocks="d"), ti=8, to=8, axi_data_bits=64)
    assert program.config.list_words == 0 and "list_words" not in program.config.to_dict()
    engine = schedule(taking(random_qgraph(1, blocks="d")), ti=8, to=8, axi_data_bits=64).config
    assert engine.list_words > 0 and schedule(random_qgraph(1, blocks="d"), ti=8, to=8, axi_data_bits=64, engine=engine).config.list_words == engine.list_words
