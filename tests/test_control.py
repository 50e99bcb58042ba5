"""Rules for single layers: a mapping or a YAML file, by the names and patterns of ONNX nodes."""

from __future__ import annotations

import numpy as np
import pytest

import hwgen
from hwgen import cli, quantizer
from hwgen.errors import HwgenError
from hwgen.frontend import Options, recipe
from hwgen.importer import import_model
from hwgen.steps import text
from onnx_nets import CLASSES, result, vit


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    net = vit()
    path = net.save(tmp_path_factory.mktemp("control") / "net.onnx", {"y": result(net)}, [1, CLASSES])
    return path, import_model(path)


def quantized(imported, quant):
    images = {"x": np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)}
    return quantizer.quantize(imported.model, images, recipe=recipe(imported, Options(quant=quant))).tasks[0]


def scales(found) -> dict[str, float]:
    return {tensor.name: tensor.scale for tensor in found.tensors()}


def test_names_patterns_and_order(network):
    _, imported = network
    norms = [node for node in imported.model.tasks[0].nodes if type(node).__name__ == "LayerNorm"]
    found = scales(quantized(imported, {"layernormalization*": {"scale": 0.05}, norms[1].name: {"scale": 0.03}, "x": {"scale": 0.02}}))
    assert found[norms[0].output] == 0.05 and found[norms[1].output] == 0.03 and found["x.int8"] == 0.02


def test_a_node_that_is_part_of_another(network):
    """The rule of an operator of a decomposed function is the function's."""
    _, imported = network
    part, owner = next((part, owner) for part, owner in imported.became.items()
                       if owner in {node.name for node in imported.model.tasks[0].nodes if type(node).__name__ == "Attention"})
    output = next(node.output for node in imported.model.tasks[0].nodes if node.name == owner)
    assert scales(quantized(imported, {part: {"scale": 0.25}}))[output] == 0.25


def test_weights_of_a_node(network):
    _, imported = network
    linear = next(node for node in imported.model.tasks[0].nodes if type(node).__name__ == "Linear")
    network = quantized(imported, {linear.name: {"weights": {"bits": 4}}})
    assert {step.node for step in network.steps if step.weights is not None and step.weights.format.bits == 4} == {linear.name}


def test_a_file_and_the_command_line(network, tmp_path, capsys):
    path, imported = network
    linear = next(node for node in imported.model.tasks[0].nodes if type(node).__name__ == "Linear")
    (tmp_path / "quant.yaml").write_text(f"{linear.name}: {{weights: {{bits: 4}}}}\n")
    steps = [step for step in quantized(imported, None).steps if step.node == linear.name]
    with pytest.raises(SystemExit) as stop:
        cli.main(["show", str(path), "--stage", "steps", "--quant", str(tmp_path / "quant.yaml")])
    assert not stop.value.code and capsys.readouterr().out.count("weights s4") == len(steps)
    assert hwgen.check(path, quant={linear.name: {"weights": {"bits": 4}}}).ok
    assert "the quantization file cannot be read: No such file" in str(hwgen.check(path, quant=tmp_path / "none.yaml").error)


@pytest.mark.parametrize("rules, message", [
    ({"gem_0": {"bits": 8}}, "no node and no input is called 'gem_0'\n  at:   quant\n  next: near names: gemm_0"),
    ({"nothing*like": {"bits": 8}}, "no node and no input is called 'nothing*like'\n  at:   quant\n  next: near names: "),
    ({"x": {"bit": 8}}, "there is no entry 'bit'"),
    ({"x": {"bits": 5}}, "bits is 5"),
    ({"x": {"bits": True}}, "bits is True"),
    ({"x": {"scale": 0}}, "scale is 0, not a number above 0"),
    ({"x": {"scale": "1"}}, "scale is '1', not a number above 0"),
    ({"x": {"scale": [1.0]}}, "a value has one scale, not a list"),
    ({"x": {"method": "best"}}, "there is no method 'best'"),
    ({"x": 8}, "8 is no mapping"),
    ({"x": {"weights": {"bits": 4}}}, "an input has no weights"),
    ({"layernormalization_0": {"weights": {"bits": 4}}}, "a rule is given for its weights, and it has none"),
    ({"*": {"weights": {"scale": []}}}, "scale is an empty list"),
    ({"*": {"weights": {"method": "mse"}}}, "there is no entry 'method'"),
    (["x"], "the layers' rules are list, not a mapping"),
])
def test_what_is_refused(network, rules, message):
    _, imported = network
    with pytest.raises(HwgenError) as error:
        quantized(imported, rules)
    assert message in str(error.value)


def test_a_rule_for_what_is_not_stored(network):
    """The result of a Linear that goes on to an activation function is not stored: nothing that is said of it would be heard."""
    _, imported = network
    graph = imported.model.tasks[0]
    activation = next(node for node in graph.nodes if type(node).__name__ == "Activation")
    linear = next(node for node in graph.nodes if node.output == activation.x)
    with pytest.raises(HwgenError, match="a rule is given for its result, which is not stored") as error:
        quantized(imported, {linear.name: {"scale": 0.1}})
    assert linear.name in str(error.value)
    assert quantized(imported, {f"{linear.name}*": {"scale": 0.1}})


def test_what_is_in_effect_can_be_given_back(network, tmp_path, capsys):
    """hwgen show --stage quant: the file that gives the same network, and a change in it is heard."""
    path, imported = network
    images = {"x": np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)}
    rules = {"x": {"scale": 0.02}, "softmax*": {"method": "mse"}}
    shown = hwgen.api.show(path, "quant", calib=images, quant=rules)
    (tmp_path / "quant.yaml").write_text(shown.text)
    assert "\n\"x\":" in shown.text and "scale: 0.02" in shown.text and shown.text.count("method:") > 5
    before, after = (quantizer.quantize(imported.model, images, recipe=recipe(imported, Options(quant=quant)))
                     for quant in (rules, tmp_path / "quant.yaml"))
    assert steps_text(after) == steps_text(before)
    (tmp_path / "quant.yaml").write_text(shown.text.replace("weights: {bits: 8}", "weights: {bits: 4}"))
    changed = quantizer.quantize(imported.model, images, recipe=recipe(imported, Options(quant=tmp_path / "quant.yaml"))).tasks[0]
    assert {step.weights.format.bits for step in changed.steps if step.weights is not None} == {4}
    one = hwgen.api.show(path, "quant", node="gelu", calib=images)
    assert len(one.lines) == 1 and one.lines[0]["bits"] == 8
    with pytest.raises(HwgenError, match="no rule is for a node with 'none' in its name"):
        hwgen.api.show(path, "quant", node="none", calib=images)


def steps_text(found) -> list[str]:
    return [line for network in found.tasks for line in text.lines(network)]


def test_bias_correction_is_heard_and_shown(network, tmp_path):
    """For all nodes, for one, and by itself where there are weights of 4 bits; what is shown gives the same network."""
    path, imported = network
    images = {"x": np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)}
    linear = next(node.name for node in imported.model.tasks[0].nodes if type(node).__name__ == "Linear")

    def lines(quant, precision="w8a8"):
        return steps_text(quantizer.quantize(imported.model, images, recipe=recipe(imported, Options(quant=quant)), precision=precision))

    def biases(quant, precision="w8a8"):
        found = quantizer.quantize(imported.model, images, recipe=recipe(imported, Options(quant=quant)), precision=precision)
        return {step.name: (step.node, step.weights.bias.array) for step in found.tasks[0].steps if step.weights is not None}

    def changed(quant, precision="w8a8"):
        off, on = biases({"bias_correction": False}, precision), biases(quant, precision)
        return {on[name][0] for name in on if (on[name][1] != off[name][1]).any()}

    everywhere = changed({"bias_correction": True})
    assert linear in everywhere and len(everywhere) > 3 and changed({}) == set()
    assert changed({linear: {"bias_correction": True}}) == {linear}
    assert changed({"bias_correction": True, "*": {"bias_correction": False}, linear: {"bias_correction": True}}) == {linear}
    assert len(changed({linear: {"weights": {"bits": 4}}})) > 3
    assert linear not in changed({"bias_correction": True, linear: {"bias_correction": False}})
    assert changed({}, "w4a8") and changed({"bias_correction": False}, "w4a8") == set()
    for quant, precision in (({"bias_correction": True, linear: {"bias_correction": False}}, "w8a8"), ({}, "w4a8"), ({"bias_correction": False}, "w4a8")):
        shown = hwgen.api.show(path, "quant", calib=images, quant=quant, precision=precision)
        (tmp_path / "quant.yaml").write_text(shown.text)
        assert lines(tmp_path / "quant.yaml", precision) == lines(quant, precision) and "bias_correction: " in shown.text
    assert "bias_correction" not in hwgen.api.show(path, "quant", precision="w4a8").text                # noise tells nothing


@pytest.mark.parametrize("rules", [{"bias_correction": 1}, {"*": {"bias_correction": "yes"}}])
def test_bias_correction_is_true_or_false(network, rules):
    with pytest.raises(HwgenError, match="bias_correction is (1|'yes')(.|\n)*bias_correction: true or false"):
        quantized(network[1], rules)


def test_a_name_that_stands_twice_is_refused(network, tmp_path):
    """The second would replace the first without a word."""
    path, _ = network
    (tmp_path / "quant.yaml").write_text("gemm_0: {bits: 16}\ngemm_0: {bits: 8}\n")
    error = hwgen.check(path, quant=tmp_path / "quant.yaml").error
    assert "the key 'gemm_0' stands twice" in error.message and error.where.endswith("quant.yaml") and error.hint
