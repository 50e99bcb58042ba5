"""Causal attention: a row of scores sees the first ``limit + row`` keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import ModelError
from hwgen.steps import golden
from hwgen.steps.format import INT8, SCORE
from hwgen.steps.param import Factor
from hwgen.steps.passes.attention import split_heads
from hwgen.steps.stages import Exp2, Host, Identity, Keys, Plain, Requant, Restore, RowFactor, Values
from hwgen.steps.step import Keep, Network, Step
from hwgen.steps.tensor import Memory, Span, Tensor
from hwgen.steps.verify import verify
from qgraphs import random_images, random_model, random_qgraph


def attend(words: np.ndarray, keys: int, limit: int) -> np.ndarray:
    """Attention of int8 words [tokens, channels] over the first so many of themselves, two heads."""
    sent, out = Tensor("x", INT8, *words.shape), Tensor("y", INT8, *words.shape)
    scores, seen = Tensor("s", SCORE, len(words), 2 * keys, memory=Memory.SCORE), sent.view(Span(0, keys))
    steps = (Step("x", "", Host("x", None), Identity(), (sent.view(),)),
             Step("y", "", Plain(), Keys(seen, limit), (scores.view(),), sent.view(), (Requant(Factor(40_000, 21), SCORE),), (Keep.ROW_MAX,),
                  part="scores", heads=2),
             Step("y", "", Exp2(limit), Values(seen), (out.view(),), scores.view(), (Restore(), RowFactor(Factor(1 << 15, 15))), heads=2))
    found: dict[str, np.ndarray] = {}
    golden.evaluate(Network("n", steps, ()), words[None], found)
    return found["y"][0]


@pytest.mark.parametrize("limit", [1, 3])
def test_each_row_is_an_attention_over_the_keys_that_it_sees(limit):
    words = np.random.default_rng(8).integers(-127, 128, (9, 8))
    whole = attend(words, len(words), limit)
    assert (whole != attend(words, len(words), 0)).any()
    for row in range(len(words)):
        np.testing.assert_array_equal(whole[row], attend(words, min(len(words), limit + row), 0)[row])


def test_stairs_of_a_causal_attention():
    """A block of queries takes the keys that its last one sees: of 256 tokens in four blocks five eighths of all pairs."""
    options = {"seed": 5, "tokens": 256, "dim": 8, "heads": 1, "hidden": 8, "blocks": "d", "causal": True}
    network, images = random_qgraph(**options).tasks[0], random_images(random_model(**options), 1)
    split = split_heads(network, 4096, 16)
    verify(split)
    blocks = [(step.tile.limit, *step.tile.shape(step)) for step in split.steps if isinstance(step.tile, Keys)]
    assert blocks == [(1, 8, 64), (65, 8, 128), (129, 8, 192), (193, 8, 256)]
    np.testing.assert_array_equal(golden.run(split, images)["logits"], golden.run(network, images)["logits"])
    assert split.useful_macs == network.useful_macs


@pytest.mark.parametrize("name, fields, text", [
    ("block0.attention.scores", {"tile": lambda tile: replace(tile, limit=0)}, "weighs by exp2(1+row), the row maxima of"),
    ("block0.attention", {"feed": lambda feed: Exp2(2)}, "weighs by exp2(2+row), the row maxima of"),
    ("block0.attention.scores", {"tile": lambda tile: replace(tile, limit=-1)}, "the first row sees -1 keys")])
def test_scores_and_weights_are_of_the_same_keys(name, fields, text):
    network = random_qgraph(blocks="d", causal=True).tasks[0]
    verify(network)
    steps = [replace(step, **{key: change(getattr(step, key)) for key, change in fields.items()}) if step.name == name else step
             for step in network.steps]
    with pytest.raises(ModelError) as caught:
        verify(replace(network, steps=tuple(steps)))
    assert text in caught.value.message
