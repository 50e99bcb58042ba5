"""Random small networks through both backends; bench/random_graphs.py does the same for hundreds."""

from __future__ import annotations

from pathlib import Path
import re
import sys

import numpy as np
import pytest

import covered
import decoder_nets
import hls_networks
import native_builds

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from hwgen import quantizer
from hwgen.functions import Act
from qgraphs import random_images, random_model, random_qgraph, uneven
import random_graphs
import sequence_nets
from taken_nets import taking
import wide_nets

SEEDS = range(1000, 1015)
SEQUENCES = range(1000, 1005)
ACTS = (Act.SILU, Act.RELU, Act.GELU)         # of the C simulation, before the sigmoid; a network uses the first ones
FUNCTIONS = (*(act.value for act in ACTS), "sigmoid")


@pytest.fixture(scope="module")
def executable(tmp_path_factory):
    return hls_networks.build(tmp_path_factory.mktemp("any"), tuple(map(Act, FUNCTIONS)))


@pytest.mark.parametrize("seed", SEEDS)
def test_csim_equals_the_integer_model_in_every_value(executable, seed, tmp_path):
    model, images, _ = random_graphs.network(seed, Act.SILU)
    done, tasks = hls_networks.run(executable, tmp_path, model, images, functions=FUNCTIONS)
    count, wrong = hls_networks.differing(model, images, done, tasks)
    assert wrong == [] and count >= len(tasks) * 10


@pytest.mark.parametrize("seed", SEQUENCES)
def test_shorter_sequences_in_the_csim(executable, seed, tmp_path):
    model, tokens, lengths = random_graphs.short(seed, Act.SILU)
    done, tasks = hls_networks.run(executable, tmp_path, model, tokens, lengths, functions=FUNCTIONS)
    count, wrong = hls_networks.differing(model, tokens, done, tasks, lengths)
    assert wrong == [] and count >= len(tasks) * 10


def test_no_operator_is_missing():
    """Every operator of the registry, and every variant that is listed, is in one of these networks."""
    found = set().union(*(covered.contents(random_graphs.network_model(seed, Act.SILU)) for seed in SEEDS))
    assert covered.missing(found) == []
    assert "shorter sequences" in random_graphs.contents(0, Act.SILU) and "Rotate" in covered.missing({"Linear"})


def test_the_image_holds_the_words_of_a_unit_matrix_for_both_widths():
    """The same weights behind words of 8 bits and of 16 have other biases: what leaves of 16 bits is not read with those of what leaves of 8."""
    network = wide_nets.read_out(random_qgraph(4, tokens=9, dim=16, hidden=24, blocks="d", rotary=4, present=True))
    plan = hls_networks.make_plan(network)
    narrow, wide = (next(step for step in plan.steps if step.value == name) for name in ("logits.key", "last"))
    assert narrow.params == wide.params and narrow.weights != wide.weights


@pytest.mark.parametrize("count, blocks", [(2, "dm"), (3, "mdd")])
def test_several_functions_in_the_csim(executable, count, blocks, tmp_path):
    model = random_model(count, tokens=9, dim=16, hidden=24, experts=3, blocks=blocks, act=ACTS[:count])
    network, images = quantizer.quantize(model, None, random=True), random_images(model, 2)
    assert hls_networks.make_plan(network).functions == tuple(act.value for act in ACTS[:count])
    done, tasks = hls_networks.run(executable, tmp_path, network, images)
    values, wrong = hls_networks.differing(network, images, done, tasks)
    assert wrong == [] and values >= 20


@pytest.mark.parametrize("value_dim", [20, 4])
def test_heads_of_values_with_a_width_of_their_own(executable, value_dim, tmp_path):
    """In more words than those of keys, and in fewer."""
    sizes = {"seed": value_dim, "tokens": 9, "dim": 24, "heads": 2, "hidden": 16, "blocks": "d", "value_dim": value_dim, "act": Act.SILU}
    network, images = random_qgraph(**sizes), random_images(random_model(**sizes), 2)
    done, tasks = hls_networks.run(executable, tmp_path, network, images, functions=FUNCTIONS)
    values, wrong = hls_networks.differing(network, images, done, tasks)
    assert wrong == [] and values >= 16


@pytest.mark.parametrize("heads, dim, norm", [(2, 24, "layer"), (3, 60, "rms")])
def test_norms_of_heads_that_are_turned(executable, heads, dim, norm, tmp_path):
    """Heads within a word, and over the end of one."""
    sizes = {"seed": heads, "tokens": 9, "dim": dim, "heads": heads, "hidden": 16, "blocks": "d", "heads_norm": norm, "rotary": 8, "act": Act.SILU}
    network, images = random_qgraph(**sizes), random_images(random_model(**sizes), 2)
    done, tasks = hls_networks.run(executable, tmp_path, network, images, functions=FUNCTIONS)
    values, wrong = hls_networks.differing(network, images, done, tasks)
    assert wrong == [] and values >= 16


def test_scales_of_channels_in_the_csim(executable, tmp_path):
    """One experts' layer and two dense ones, each with multipliers of its columns."""
    model = random_model(4, tokens=9, dim=16, hidden=24, experts=3, blocks="dmd", act=Act.SILU)
    images = random_images(model, 2)
    network = quantizer.quantize(model, {"x": images}, recipe=uneven(model, images))
    assert len(re.findall(r"\{0, \d+\}(?:, 0, \d+)?\)$", "\n".join(step.code for step in hls_networks.make_plan(network).steps), re.MULTILINE)) == 3
    done, tasks = hls_networks.run(executable, tmp_path, network, images)
    values, wrong = hls_networks.differing(network, images, done, tasks)
    assert wrong == [] and values >= 20


@pytest.mark.parametrize("seed, options", [(0, {"blocks": "dm", "classes": (3, 4)}), (1, {"blocks": "gd", "norms": "post"}), (2, {"blocks": "d", "pool": "mean"})])
def test_tokens_by_an_order_in_the_csim(executable, seed, options, tmp_path):
    """Products that take their tokens by a list, several side by side, of 8 and of 16 bits."""
    options = {"tokens": 11, "dim": 24, "hidden": 40, "experts": 3, "act": ACTS[0], **options}
    images = random_images(random_model(seed, **options), 2)
    for made in (random_qgraph(seed, **options), wide_nets.random_wide(seed, **options)):
        network = taking(made, seed)
        assert any("taken(" in step.code for step in hls_networks.make_plan(network, FUNCTIONS).steps)
        done, tasks = hls_networks.run(executable, tmp_path, network, images, functions=FUNCTIONS)
        values, wrong = hls_networks.differing(network, images, done, tasks)
        assert wrong == [] and values >= 20


def test_both_backends(executable, tmp_path):
    """In the RTL as well: every output word and every int8 value."""
    engine = native_builds.Engine(tmp_path / "rtl", 8, 8, 64, random_graphs.ENGINE | {"activation": "silu sigmoid"})
    for seed in SEEDS:
        model, images, _ = random_graphs.network(seed, Act.SILU)
        count, words, wrong = random_graphs.in_rtl(engine, model, images[:1], list(range(len(model.tasks))), native_builds.STALLED)
        assert wrong == [] and count > 0 and words > 0, seed
    for seed in SEQUENCES:
        model, tokens, lengths = random_graphs.short(seed, Act.SILU)
        count, wrong = random_graphs.short_in_rtl(engine, model, tokens[:1], lengths[:1], native_builds.STALLED)
        assert wrong == [] and count > 0, seed
    (tmp_path / "decoder").mkdir()
    for form in ("post", "pre"):                    # a decoder that attends to a second input, in both
        model, images, _ = decoder_nets.network(tmp_path / "decoder", form, act="silu")
        done, tasks = hls_networks.run(executable, tmp_path / "csim", model, images[:2], functions=FUNCTIONS)
        count, wrong = hls_networks.differing(model, images[:2], done, tasks)
        assert wrong == [] and count >= 20
        assert native_builds.differences(engine.run(engine.program(model), model, images[:2], tasks, native_builds.STALLED), model, images[:2], tasks) == 0


def test_an_input_that_starts_the_residual_stream(executable, tmp_path):
    network = wide_nets.host_start(wide_nets.random_wide(3, blocks="dm", act=ACTS[0]))
    tokens = np.random.default_rng(0).normal(0, 1, (2, 8, 32)).astype(np.float32)
    done, tasks = hls_networks.run(executable, tmp_path, network, tokens)
    values, wrong = hls_networks.differing(network, tokens, done, tasks)
    assert wrong == [] and values >= 20


@pytest.mark.parametrize("blocks, experts", [("s", 3), ("ds", 2), ("y", 3), ("ys", 2)])
def test_soft_experts_in_the_csim(executable, blocks, experts, tmp_path):
    """Experts that read and write rows of one value."""
    model = random_model(5, tokens=9, dim=16, hidden=24, experts=experts, blocks=blocks, act=ACTS[0], classes=(3, 4))
    network, images = quantizer.quantize(model, None, random=True), random_images(model, 2)
    done, tasks = hls_networks.run(executable, tmp_path, network, images)
    values, wrong = hls_networks.differing(network, images, done, tasks)
    assert wrong == [] and values >= 20


@pytest.mark.parametrize("make", [random_qgraph, wide_nets.random_wide])
@pytest.mark.parametrize("options", [
    {"blocks": "xd", "dim": 36, "heads": 3, "heads_norm": "rms", "classes": (3, 4), "top_k": 1}, {"blocks": "x", "dim": 40, "heads_norm": "layer", "gates": "biased"},
    {"blocks": "xd", "dim": 16, "norms": "respost", "rotary": 4}])          # and a state that is read as it is
def test_gated_experts_and_norms_of_heads_in_the_csim(executable, options, make, tmp_path):
    """Heads whose channels begin inside a word, and go on in the next."""
    options = {"tokens": 9, "hidden": 24, "experts": 5, "act": ACTS[0]} | options
    network, images = make(6, **options), random_images(random_model(6, **options), 2)
    done, tasks = hls_networks.run(executable, tmp_path, network, images, functions=FUNCTIONS)
    values, wrong = hls_networks.differing(network, images, done, tasks)
    assert wrong == [] and values >= 20


def test_shorter_sequences_with_gated_experts_and_norms_of_heads(executable, tmp_path):
    network = sequence_nets.sequence_network(3, blocks="xy", dim=24, end="all", heads_norm=True, act=ACTS[0])
    tokens = sequence_nets.sequences(network, 3)
    done, tasks = hls_networks.run(executable, tmp_path, network, tokens, (1, 7, 12))
    values, wrong = hls_networks.differing(network, tokens, done, tasks, (1, 7, 12))
    assert wrong == [] and values >= 20
