"""What a person sees who types a name at the prompt: a line or two, whatever the object holds."""

from __future__ import annotations

import numpy as np
import pytest

import hwgen
from hwgen import api, errors
from hwgen.engines.hls.csim import CsimRun
from hwgen.engines.rtl.bench import EVENT, Run
from hwgen.flows import Synthesis
from hwgen.importer import check_model, import_model
from hwgen.steps.walk import params
import onnx_nets

LONG = "very/long." * 100 + "\n\x1b[2J"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, object]:
    """Every kind of object a caller of the API gets, of a real build; all names are very long."""
    folder = tmp_path_factory.mktemp("repr")
    net = onnx_nets.vit(router="plain")
    model = net.model({f"y{LONG}": onnx_nets.result(net)})
    for i, node in enumerate(model.graph.node):
        node.name = f"{i}{LONG}"
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    acc = hwgen.compile(folder / "m.onnx", calib={"x": images}, out=folder / "build", backend="both")
    imported, build = import_model(folder / "m.onnx"), acc.build
    made = {
        "accelerator": acc, "loaded": hwgen.load(folder / "build"), "build": build, "program": build.program, "config": build.program.config,
        "model": build.model, "graph": build.model.tasks[0], "imported": imported, "float_model": imported.model,
        "float_graph": imported.model.tasks[0],
        "checked": hwgen.check(folder / "m.onnx"), "refused": check_model(refused(folder)), "result": acc.simulate({"x": images}, engine="golden"),
        "shown": acc.show("steps"), "layer error": acc.layer_errors({"x": images})[0],
        "comparison": api.compare([folder / "build", folder / "build"]), "estimate": api.estimate(folder / "m.onnx")[0],
        "router": acc.router_flips({"x": images})[0],
        "simulated": acc.simulate({"x": images}, engine="csim"), "memory": hwgen.MemoryModel(),
        "run": Run([{}], 1000, 1.0, 5, np.zeros(1000, EVENT)), "csim": CsimRun([{"y": images}], [], 1.0),
        "synthesis": Synthesis("yosys", "synthesis", "sim", {}, {"lut": 1000, "ff": 2}, {}, {}, (), {}, (), {})}
    made |= {f"node {i}": node for i, node in enumerate((*imported.model.tasks[0].nodes, *build.model.tasks[0].steps))}
    return made | {param.name: param for param in params(build.model.tasks[0])}


def refused(folder):
    net = onnx_nets.vit(act="Softsign")
    return net.save(folder / "refused.onnx", {"y": onnx_nets.result(net)})


def test_every_object_is_a_line_or_two(made):
    assert len(made) > 30
    assert {name: len(repr(value)) for name, value in made.items() if len(repr(value)) >= 300} == {}
    assert [name for name, value in made.items() if "array(" in repr(value) or not repr(value).isprintable()] == []


def test_everything_public_is_among_them(made):
    """A class that joins the public list needs an object here."""
    classes = {value for name in (*hwgen.__all__, *api.__all__) if isinstance(value := getattr(hwgen, name, getattr(api, name, None)), type)}
    assert classes and classes <= {type(value) for value in made.values()}


def test_what_they_say(made):
    assert repr(made["accelerator"]).startswith("<Accelerator m.onnx in ") and "x [1, 8, 8] -> y" in repr(made["accelerator"])
    assert "instructions, 1 tasks, batch 1," in repr(made["program"])
    assert repr(made["checked"]).startswith("<Checked: supported, ") and repr(made["refused"]).startswith("<Checked: not supported, ")
    assert repr(made["result"]) == "<SimulationResult: 4 images>" and repr(made["simulated"]) == "<SimulationResult: 4 images, bit-exact>"
    assert repr(made["memory"]) == "MemoryModel(latency=200, bytes_per_cycle=None, stall=0.0, seed=0)"
    assert repr(made["run"]) == "<Run: 1 frames, 1,000 cycles>" and repr(made["csim"]) == "<CsimRun: 1 frames>"
    assert any(repr(value).startswith("<Param ") and repr(value).endswith(" int8 [16, 16]>") for value in made.values())
    assert any(repr(value).startswith("<Step ") for value in made.values())
    assert isinstance(made["refused"].error, errors.ModelError)
