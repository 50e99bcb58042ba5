"""Cross attention from a second input: sequences enter the engine one behind the other."""

from __future__ import annotations

import re

import numpy as np
import pytest

from decoder_nets import DIM, MEMORY, TOKENS, attention, network, saved, sequences
import hwgen
from hwgen import hostrun, quantizer
from hwgen.errors import InputError, ModelError
from hwgen.importer import import_model
from hwgen.importer.cut import SPLIT_OPERAND
from hwgen.ops import Attention
from hwgen.partition import import_parts
from hwgen.steps import golden, host
from hwgen.steps.verify import verify
import onnx_nets
from onnx_nets import Net, result


@pytest.mark.parametrize("form, options", [
    ("cross", {}), ("cross", {"width": 10}), ("cross", {"width": 40, "opset": SPLIT_OPERAND - 1}), ("post", {"blocks": 2}), ("post", {"width": 40}),
    ("pre", {"blocks": 2, "first": "memory"}), ("pre", {"width": 10, "causal": False}), ("ids", {"blocks": 2}), ("ids", {"first": "memory", "width": 40})])
def test_a_decoder(form, options, tmp_path):
    """The integer network is near to the file; wider and narrower memories, either input first, in front of operator set 13 and behind."""
    model, images, right = network(tmp_path, form, **options)
    (steps,) = model.tasks
    verify(steps)
    assert images.shape[1:] == (TOKENS + MEMORY, max(DIM, options.get("width", DIM)))
    found = host.dequantize(steps, golden.run(steps, images))["y"].reshape(right.shape)
    assert np.corrcoef(found.ravel(), right.ravel())[0, 1] > 0.998


@pytest.mark.parametrize("form, factor, bits", [("cross", 30, "3.4 of 8"), ("cross", 1, ""), ("pre", 30, ""), ("pre", 10_000, "3.0 of 16")])
def test_inputs_of_other_sizes_share_one_scale_which_is_said(form, factor, bits, tmp_path):
    imported = import_parts(saved(tmp_path, form), None, False, lambda stage: None)
    given = sequences(form, 8, 0)
    joined = hostrun.before(imported.host, given | {"memory": np.float32(factor) * given["memory"]})
    _, findings = quantizer.with_findings(imported.model, joined)
    said = [line for line in findings.warnings if "enter with one scale" in line]
    assert bool(said) == bool(bits)
    assert not bits or re.match(rf"calibration input 'x\+memory': tokens (0:{TOKENS}|{TOKENS}:{TOKENS + MEMORY}) reach .* leaves the smaller ones {bits} bits: bring", said[0])


def test_nothing_but_joining_runs_on_the_host(tmp_path):
    imported = import_parts(saved(tmp_path, "post"), None, False, lambda stage: None)
    assert imported.host is not None and imported.host.suffix is None and imported.host.share == 0
    assert [value.name for value in imported.host.inputs] == ["x", "memory"] and imported.host.prefix.nodes == ("x+memory, joined",)
    (graph,) = imported.model.tasks
    assert graph.inputs == {"x+memory": (TOKENS + MEMORY, DIM)}
    assert [graph.shapes()[node.k][0] for node in graph.nodes if isinstance(node, Attention)] == [TOKENS, MEMORY]


def test_an_accelerator_has_both_inputs_by_name(tmp_path):
    acc = hwgen.compile(saved(tmp_path, "cross"), calib=sequences("cross", 16, 0), target="zcu104", array=(8, 8), backend="rtl", out=tmp_path / "build")
    assert acc.inputs == {"x": (TOKENS, DIM), "memory": (MEMORY, DIM)}
    given = sequences("cross", 2, 1)
    assert acc.simulate(given, engine="golden").outputs["y"].shape == (2, TOKENS, DIM)
    assert "(x+memory)" in (tmp_path / "build" / "driver" / "hwgen.h").read_text()
    for wrong, text in (({"x": given["x"]}, "input 'memory' is missing; given are ['x']"),
                        ({"x": given["x"], "memory": given["memory"][:, :-1]}, f"input 'memory' has shape (2, {MEMORY - 1}, {DIM})"),
                        ({"x": given["x"], "memory": given["memory"][:1]}, "the inputs hold different numbers of images: {'x': 2, 'memory': 1}")):
        with pytest.raises(InputError) as caught:
            acc.simulate(wrong, engine="golden")
        assert text in caught.value.message


def test_an_image_beside_tokens_becomes_tokens_on_the_host(tmp_path):
    """Where its embedding is a small part of the file."""
    net = Net()
    attention(net, net.linear(net.input("states", [1, TOKENS, 5]), 5, DIM), net.linear(net.embed(net.image()), onnx_nets.DIM, DIM))
    imported = import_parts(net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, TOKENS, DIM]), None, False, lambda stage: None)
    assert imported.host is not None and {value.name for value in imported.host.inputs} == {"states", "x"} and 0 < imported.host.share < 0.25


def test_inputs_that_nobody_joins_are_named(tmp_path):
    with pytest.raises(ModelError) as caught:
        quantizer.accept(import_model(saved(tmp_path, "cross")).model)
    assert caught.value.message == (f"the network has 2 inputs, 'memory' [1, {MEMORY}, {DIM}], 'x' [1, {TOKENS}, {DIM}]: several are supported where each is "
                                    "tokens [1, tokens, channels]")
