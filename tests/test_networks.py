"""Networks of the full-size figures (bench/networks): tiny versions of each, made, imported, and compared with ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from hwgen.graph import evaluate
from hwgen.importer import import_model
from networks import generate

SMALL = {"image": (32, 64), "dim": 32, "layers": 4, "num_heads": 2, "hidden": 64}
EXPERTS = {"experts": 4, "expert_hidden": 24, "top_k": 2}


def tiny(name: str) -> generate.Spec:
    """The network with the same structure and small sizes."""
    spec = generate.SPECS[name]
    return replace(spec, **SMALL, **(EXPERTS if spec.experts else {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize("name", generate.SPECS)
def test_imports_and_computes_what_onnxruntime_does(name, folder):
    spec = tiny(name)
    path = generate.generate(name, folder, spec=spec)
    with np.load(folder / f"{name}.npz") as file:
        x = file["x"][:1]
    model = import_model(path).model
    assert len(model.tasks) == len(spec.outputs)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"x": x}), strict=True))
    for graph, (output, classes) in zip(model.tasks, spec.outputs, strict=True):
        found = evaluate.run(graph, {"x": x})[output]
        assert found.shape == (1, classes)
        np.testing.assert_allclose(found, wanted[output], rtol=1e-3, atol=1e-3)       # GELU: erf here, float32 sums in another order


@pytest.mark.parametrize("name, parameters", [("deit_tiny", 5_717_416), ("deit_small", 22_050_664)])
def test_deit_has_the_parameters_timm_counts(name, parameters):
    spec = generate.SPECS[name]
    d, n = spec.dim, spec.tokens
    block = 4 * d + 4 * d * (d + 1) + d * spec.hidden * 2 + spec.hidden + d
    assert (n, spec.num_heads * 64) == (197, d)
    assert d * 3 * 256 + d + d + n * d + spec.layers * block + 2 * d + 1000 * (d + 1) == parameters


def test_sizes_of_m3vit_tiny():
    spec = generate.SPECS["m3vit_tiny"]
    d, e, h = spec.dim, spec.experts, spec.expert_hidden
    weights = 768 * d + 12 * 4 * d * d + 6 * 2 * d * spec.hidden + 6 * e * 2 * d * h + 2 * 6 * d * e
    assert spec.tokens == 129 and round(weights / 1e6, 2) == 17.88                    # 17.86 without the routers


@pytest.fixture(scope="module")
def mixture():
    return generate.draw(tiny("m3vit_tiny"))


def test_weights_are_stored_once(mixture):
    model = generate.to_onnx(mixture)
    names = [tensor.name for tensor in model.graph.initializer]
    stored = sum(np.prod(t.dims) for t in model.graph.initializer)
    spec = mixture.spec
    experts = 2 * spec.experts * (spec.dim * spec.expert_hidden * 2 + spec.expert_hidden + spec.dim)
    assert len(set(names)) == len(names)
    assert sum(np.prod(t.dims) for t in model.graph.initializer if ".experts." in t.name) == experts < stored < 2 * experts + 40_000
    assert sorted(name for name in names if ".gate." in name) == [f"blocks.{i}.mlp.gate.{t}.weight" for i in (1, 3) for t in (0, 1)]


def test_tasks_differ(mixture):
    gates = mixture.blocks[1].gates
    assert len(gates) == 2 and not np.array_equal(gates[0], gates[1])
    assert mixture.blocks[0].gates == ()


def test_routers_are_near_balance_but_not_even(mixture):
    assert len(mixture.loads) == 4
    for loads in mixture.loads:
        assert loads.sum() == pytest.approx(len(loads))
        assert 0.4 < loads.min() < loads.max() < 1.9 and loads.max() > 1.02


def test_activations_keep_their_scale_and_have_outliers():
    spec = replace(tiny("deit_tiny"), dim=192, num_heads=3, hidden=768)
    network = generate.draw(spec)
    graph_values = {}
    model = generate.to_onnx(network)
    session = onnxruntime.InferenceSession(_with_outputs(model, "LayerNormalization").SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": generate.images(spec, 1, 5)})
    for info, value in zip(session.get_outputs()[1:], found[1:], strict=True):
        graph_values[info.name] = value
    assert len(graph_values) == 2 * spec.layers + 1
    for name, value in graph_values.items():
        assert 0.5 < value.std() < 2.5, name
    assert any(value.std((0, 1)).max() > 2.5 * np.median(value.std((0, 1))) for value in graph_values.values())


def _with_outputs(model, kind: str):
    """The model with every output of nodes of one kind as an output."""
    model.graph.output.extend(type(model.graph.output[0])(name=node.output[0]) for node in model.graph.node if node.op_type == kind)
    return model


def test_a_seed_gives_one_file(folder):
    spec = tiny("deit_tiny")
    paths = [generate.generate("deit_tiny", folder / str(i), seed, spec) for i, seed in enumerate((3, 3, 4))]
    first, second, other = (path.read_bytes() for path in paths)
    assert first == second != other


def test_images():
    x = generate.images(generate.SPECS["m3vit_tiny"], 3, 0)
    assert x.shape == (3, 3, 128, 256) and x.dtype == np.float32
    np.testing.assert_allclose(x.std((1, 2, 3)), 1, rtol=1e-4)
    steps = np.abs(np.diff(x, axis=-1)).mean()
    assert steps < 0.7 and not np.array_equal(x[0], x[1])             # smooth, as photographs are; noise has 1.1


def test_command(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "bench/networks/generate.py", "vgg", "-o", tmp_path], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2 and "there is no network 'vgg'; known are deit_tiny" in done.stderr
