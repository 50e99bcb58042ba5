"""Fraction bits of pre-activations and scores: a choice of each layer; with the usual ones every word is what it was."""

from __future__ import annotations

from dataclasses import replace
import re

import numpy as np
import pytest

from hwgen import numerics as nx, quantizer
from hwgen.errors import ModelError
from hwgen.functions import Act
from hwgen.graph import Model, Unit, evaluate
from hwgen.knots import knots
from hwgen.quantizer import Recipe, Rule, calibration
from hwgen.quantizer.calibration import FORMS, Range
from hwgen.steps import golden
from hwgen.steps.format import INT8, LOGIT, OCTAVE, PRE_ACTIVATIONS, SCORES
from hwgen.steps.stages import Table
from hwgen.steps.verify import verify
from hwgen.steps.walk import with_tensors
from qgraphs import random_images, random_model

ALL_INT16 = np.arange(-32767, 32768)
FUNCTIONS = ("gelu", "silu", "relu", "tanh", "leaky_relu(0.25)")


MODEL = random_model(4, act=(Act.GELU, Act.SILU))
IMAGES = random_images(MODEL, 30)


def test_the_usual_ones_come_first():
    """Code 0 of an instruction."""
    assert nx.PRE_ACT_FRACS[0] == nx.PRE_ACT_FRAC == 8 and nx.SCORE_FRACS[0] == nx.SCORE_FRAC == 6
    assert len(nx.PRE_ACT_FRACS) == len(nx.SCORE_FRACS) == 4


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("frac", nx.PRE_ACT_FRACS)
def test_an_activation_by_its_definition(name, frac):
    """Exact lines between knots and beyond them, rounded half down; beyond them x has 8 fraction bits."""
    table, x = knots(name), ALL_INT16
    real = x * 2.0 ** -frac
    i = np.floor(real * 32).astype(np.int64)
    inside = (i >= -512) & (i < 512)
    place = np.clip(i + 512, 0, 1023)
    between = table.value[place] + table.slope[place] * (real * 32 - i)
    (left, below), (right, above) = table.ends
    eighth = np.floor(real * 256) / 256
    ends = np.where(real < 0, below + left * eighth, above + right * eighth)
    assert np.array_equal(nx.activation(x, table, frac), np.ceil(np.where(inside, between, ends) - 0.5))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_of_the_same_number_is_the_same(name):
    """Whatever its fraction bits."""
    x = np.arange(-32767, 32768) >> 5
    for frac in nx.PRE_ACT_FRACS:
        wide = x << frac - 7
        held = np.abs(wide) <= 32767
        assert np.array_equal(nx.activation(wide[held], knots(name), frac), nx.activation(x[held], knots(name), 7)) and held.sum() > 2000


@pytest.mark.parametrize("frac", nx.SCORE_FRACS)
def test_exponentials_by_mathematics(frac):
    distance = np.arange(1 << 16)
    p = nx.exp2_p8(distance, frac)
    unit = 2.0 ** -nx.EXP_FRAC
    nearest = np.floor(distance * 2.0 ** -frac / unit + 0.5) * unit
    assert np.abs(p - 255 * 2.0 ** -nearest).max() <= 0.51 and p[0] == 255
    assert (np.diff(p) <= 0).all() and p[min(65535, 9 << frac)] <= 1


def filled(maximum: float) -> Range:
    found = Range()
    found.add(np.array([maximum, -maximum / 2]))
    return found


@pytest.mark.parametrize("maximum, usual, fine", [(0.0, 8, 12), (6.39, 8, 12), (6.41, 8, 10), (25.5, 8, 10), (25.7, 8, 8), (127.9, 8, 8),
                                                  (128.1, 7, 7), (1e6, 7, 7)])
def test_the_pre_activation_that_holds_what_was_seen(maximum, usual, fine):
    assert filled(maximum).form(PRE_ACTIVATIONS).frac == usual and filled(maximum).form(PRE_ACTIVATIONS, fine=True).frac == fine


@pytest.mark.parametrize("nats, usual, fine", [(17.7, 6, 10), (17.8, 6, 8), (70.9, 6, 8), (71.1, 6, 6), (354.8, 6, 6), (355, 4, 4), (1e4, 4, 4)])
def test_the_score_that_holds_what_was_seen(nats, usual, fine):
    assert filled(nats).form(SCORES, OCTAVE).frac == usual and filled(nats).form(SCORES, OCTAVE, fine=True).frac == fine
    assert filled(nats).form((LOGIT,), OCTAVE, fine=True) == LOGIT


def test_values_that_are_kept_finely_have_finer_ones_on_the_way():
    """Of 16 bits, or with a scale a channel; of others the words are what they were."""
    rules = {"block0.hidden": Rule(bits=16), "block0.attention": Rule(bits=16), "block1.mlp": Rule(scale=np.linspace(0.03, 0.05, 64))}
    network, findings = quantizer.with_findings(MODEL, {"x": IMAGES}, recipe=Recipe(values=rules))
    steps = {step.name: step for step in network.tasks[0].steps}
    fine = {name: steps[name].drain[1].x for name in ("block0.hidden", "block1.out.expert0.layer1")}
    plain = quantizer.from_ranges(MODEL, calibration.collect(MODEL, {"x": IMAGES})).tasks[0]        # one scale a value
    usual = {step.name: stage.x for step in plain.steps for stage in step.drain if isinstance(stage, Table)}
    assert all(form.frac > 8 for form in fine.values()) and set(usual.values()) == {PRE_ACTIVATIONS[0]} and fine.keys() < usual.keys()
    scores = {name: steps[f"{name}.scores"].sink.tensor.format.frac for name in ("block0.attention", "block1.attention")}
    assert scores["block0.attention"] > 6 == scores["block1.attention"]
    limits = {(clip.node, clip.what): clip for clip in findings.clipping}
    assert limits["block0.fc1", "pre-activation"].limit == fine["block0.hidden"].hi * fine["block0.hidden"].unit
    assert not any(clip.clipped for clip in findings.clipping if not clip.what.startswith("residual"))


def test_values_beyond_the_usual_format_get_a_coarser_one():
    """Pre-activations beyond 128 and scores beyond 355 nats."""
    def louder(node):
        factor = {"block0.fc1": 40, "block0.q": 60}.get(node.name)
        return replace(node, weight=node.weight * np.float32(factor), bias=node.bias * np.float32(factor)) if factor else node
    model = Model(tuple(replace(graph, nodes=tuple(map(louder, graph.nodes))) for graph in MODEL.tasks))
    network, findings = quantizer.with_findings(model, {"x": IMAGES})
    steps = {step.name: step for step in network.tasks[0].steps}
    assert (steps["block0.hidden"].drain[1].x.frac, steps["block0.attention.scores"].sink.tensor.format.frac) == (7, 4)
    rows = {clip.what: clip for clip in findings.clipping if clip.node in ("block0.fc1", "block0.attention")}
    assert 128 < rows["pre-activation"].range < rows["pre-activation"].limit < 256
    assert 355 < rows["attention score"].range < rows["attention score"].limit and not any(clip.clipped for clip in rows.values())


@pytest.mark.parametrize("pre, score", [(pre, score) for pre in PRE_ACTIVATIONS for score in SCORES])
def test_networks_of_all_fraction_bits(pre, score, monkeypatch):
    """The same values, as far as the unit allows; instructions say which."""
    monkeypatch.setitem(FORMS, Unit.PRE_ACT, ((pre,), 1.0))
    monkeypatch.setitem(FORMS, Unit.SCORE, ((score,), OCTAVE))
    network = quantizer.quantize(MODEL, {"x": IMAGES}).tasks[0]
    tables = [stage for step in network.steps for stage in step.drain if isinstance(stage, Table)]
    scored = [step for step in network.steps if step.sink.tensor.format in SCORES and step.part == "scores"]
    assert {table.x for table in tables} == {pre} and {step.sink.tensor.format for step in scored} == {score}
    fields = [stage.fields(step) for step in network.steps for stage in step.drain if isinstance(stage, Table)]
    assert {field["pre_frac"] for field in fields} == {PRE_ACTIVATIONS.index(pre)}
    fields = [step.feed.fields(step) for step in network.steps if step.feed.name == "exp2"]
    assert {field["score_frac"] for field in fields} == {SCORES.index(score)}
    output = network.outputs[0]
    wanted = evaluate.run(MODEL.tasks[0], {"x": IMAGES})[output.name]
    found = golden.run(network, IMAGES)[output.name] * output.scale.array
    assert np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted ** 2)) < 0.12


def test_formats_that_are_none():
    network = quantizer.from_ranges(MODEL, calibration.collect(MODEL, {"x": IMAGES})).tasks[0]
    wrong = with_tensors(network, lambda t: replace(t, format=INT8) if t.format in SCORES else t)
    with pytest.raises(ModelError, match=re.escape("lies in the memory score of s16.6 or s16.8 or s16.10 or s16.4")):
        verify(wrong)

    def changed(step, stage):
        return replace(step, drain=tuple(stage if isinstance(old, type(stage)) else old for old in step.drain))
    index, step = next((i, step) for i, step in enumerate(network.steps) if any(isinstance(stage, Table) for stage in step.drain))
    requant, table = step.drain
    for stage, text in ((replace(table, x=INT8), "a table takes s16.8, s16.10, s16.12, s16.7, not s8"),
                        (replace(table, x=PRE_ACTIVATIONS[1]), "a table takes s16.10, not s16.8"),
                        (replace(requant, to=PRE_ACTIVATIONS[2]), "a table takes s16.8, not s16.12")):
        steps = (*network.steps[:index], changed(step, stage), *network.steps[index + 1:])
        with pytest.raises(ModelError, match=re.escape(text)):
            verify(replace(network, steps=steps))
