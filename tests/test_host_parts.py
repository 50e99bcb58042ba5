"""What of a file the host runs: cut off in front of the engine or behind it, by onnxruntime, in every way a network is run."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper
import onnxruntime
import pytest

import hwgen
from hwgen import cli, hostrun
from hwgen.arrays import accuracy
from hwgen.build import hostfacts
from hwgen.errors import CalibrationError, InputError, ModelError
from hwgen.frontend import Options, plan
from hwgen.hostparts import Part, Value
from hwgen.importer import Status
from hwgen.partition import import_parts
from hwgen.steps import golden, host
from onnx_nets import CLASSES, DIM, EXPERTS, HIDDEN, IMAGE, TOKENS, Net

IMAGES = 6


def blocks(net: Net, t: str, count: int = 2) -> str:
    """Pre-norm blocks and the last norm."""
    for _ in range(count):
        t = net.add(t, net.attention(net.norm(t)))
        t = net.add(t, net.mlp(net.norm(t)))
    return net.norm(t)


def plain(net: Net) -> dict[str, str]:
    return {"y": net.head(blocks(net, net.embed(net.image())))}


def saved(tmp_path, build, name: str = "net", shape=("batch", "classes"), kind: int = TensorProto.FLOAT):
    """shape, kind: of the outputs."""
    net = Net()
    model = net.model(build(net), shape)
    for value in model.graph.output:
        value.type.tensor_type.elem_type = kind
    path = tmp_path / f"{name}.onnx"
    onnx.save(model, path)
    return path


class Planned:
    """A network as `compile` plans it, and what it gives by the integer model between its host parts."""

    def __init__(self, path, calib: dict[str, np.ndarray], **options):
        self.imported = import_parts(path, None, options.pop("allow_host", False), lambda stage: None)
        self.plan = plan(self.imported, Options(calib=calib, array=(8, 8), **options), lambda stage: None)

    def words(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (images,) = (given if self.imported.host is None else hostrun.before(self.imported.host, given)).values()
        return {name: array for network in self.plan.quantized.tasks for name, array in golden.run(network, images).items()}

    def outputs(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        words = self.words(given)
        real = {name: array for network in self.plan.quantized.tasks for name, array in host.dequantize(network, words).items()}
        return hostrun.after(self.imported.host, real)

    @property
    def program(self) -> tuple[bytes, bytes]:
        return self.plan.plans["rtl"].binary(), self.plan.plans["rtl"].image


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel().astype(np.float64), b.ravel().astype(np.float64))[0, 1])


def noise(*shape: int, count: int = IMAGES) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)


def built(path, out, calib=None, **options):
    return hwgen.compile(path, out=out, array=(8, 8), calib=calib, **options)


def by_onnxruntime(path, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(images.values())))
    runs = [session.run(None, {name: array[i:i + 1] for name, array in images.items()}) for i in range(count)]
    return {name: np.concatenate([run[place] for run in runs]) for place, name in enumerate(names)}


def hosted(checked) -> dict[str, list[str]]:
    return {part["file"]: part["nodes"] for part in checked.host["parts"]}


# ---------------------------------------------------------------- in front: the integers are those of the plain form behind it

def as_bytes(net: Net) -> dict[str, str]:
    x = net.op("Div", net.op("Cast", net.input("x", [1, 1, IMAGE, IMAGE], TensorProto.UINT8), to=TensorProto.FLOAT), net.const(255.0))
    x = net.op("Div", net.op("Sub", x, net.const(np.full((1, 1, 1, 1), 0.4))), net.const(np.full((1, 1, 1, 1), 0.3)))
    return {"y": net.head(blocks(net, net.embed(x)))}


def channels_last(net: Net) -> dict[str, str]:
    x = net.op("Transpose", net.input("x", [1, IMAGE, IMAGE, 1]), perm=[0, 3, 1, 2])
    return {"y": net.head(blocks(net, net.embed(x)))}


def normalised(net: Net) -> dict[str, str]:
    x = net.op("Sub", net.image(), net.const(np.linspace(0, 1, IMAGE * IMAGE).reshape(1, 1, IMAGE, IMAGE)))
    return {"y": net.head(blocks(net, net.embed(x)))}


@pytest.mark.parametrize(("build", "give", "feed"), [
    (as_bytes, lambda x: np.clip(127 + 50 * x, 0, 255).astype(np.uint8), lambda x: (x.astype(np.float32) / np.float32(255) - np.float32(0.4)) / np.float32(0.3)),
    (channels_last, lambda x: x.transpose(0, 2, 3, 1), lambda x: x.transpose(0, 3, 1, 2)),
    (normalised, lambda x: x, lambda x: x - np.linspace(0, 1, IMAGE * IMAGE).reshape(1, IMAGE, IMAGE).astype(np.float32)),
], ids=lambda value: getattr(value, "__name__", "") if callable(value) else "")
def test_integers_behind_a_part_in_front_are_those_of_the_plain_network(tmp_path, build, give, feed):
    """Weights are seeded alike in both, so program and words are, too: nothing is lost on the way through the part."""
    given = give(noise(1, IMAGE, IMAGE))
    found, ref = Planned(saved(tmp_path, build), {"x": given}), Planned(saved(tmp_path, plain, "plain"), {"x": feed(given)})
    assert found.imported.host.prefix and ref.imported.host is None and found.program == ref.program
    np.testing.assert_array_equal(found.words({"x": given})["y"], ref.words({"x": feed(given)})["y"])


def test_bytes_are_checked(tmp_path):
    acc = built(saved(tmp_path, as_bytes), tmp_path / "build")
    good = np.zeros((2, 1, IMAGE, IMAGE), np.uint8)
    with pytest.raises(InputError, match="input 'x' has dtype float32"):
        acc.simulate({"x": good.astype(np.float32)}, engine="golden")
    with pytest.raises(InputError, match="holds values from 0 to 300"):
        acc.simulate({"x": np.where(np.arange(IMAGE) == 3, 300, good.astype(int))}, engine="golden")
    np.testing.assert_array_equal(acc.simulate({"x": good.astype(np.int64)}, engine="golden").outputs["y"],
                                  acc.simulate({"x": good}, engine="golden").outputs["y"])
    with pytest.raises(CalibrationError, match="calibration input 'x' has dtype float64"):
        hwgen.compile(saved(tmp_path, as_bytes), calib={"x": np.ones((2, 1, IMAGE, IMAGE))}, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


VOCABULARY = 11


def token_ids(net: Net) -> dict[str, str]:
    """Ids of two kinds, looked up, added: one float value goes on."""
    ids, kinds = net.input("ids", [1, TOKENS], TensorProto.INT64), net.input("kinds", [1, TOKENS], TensorProto.INT64)
    x = net.op("Add", net.op("Gather", net.random(VOCABULARY, 3 * DIM), ids), net.op("Gather", net.random(2, 3 * DIM), kinds))
    return {"y": net.head(blocks(net, net.linear(x, 3 * DIM, DIM)))}


def test_ids_are_looked_up_on_the_host(tmp_path):
    path = saved(tmp_path, token_ids)
    rng = np.random.default_rng(0)
    given = {"ids": rng.integers(0, VOCABULARY, (IMAGES, TOKENS)), "kinds": rng.integers(0, 2, (IMAGES, TOKENS))}
    found = Planned(path, given)
    assert alike(found.outputs(given)["y"], by_onnxruntime(path, given)["y"]) > 0.98
    with pytest.raises(InputError, match=r"input 'ids' holds values from \d+ to 11\n  next: the file takes 0 to 10"):
        found.words(given | {"ids": given["ids"] * 0 + VOCABULARY})
    with pytest.raises(InputError, match="different numbers of images"):
        found.words(given | {"kinds": given["kinds"][:1]})
    with pytest.raises(InputError, match="input 'kinds' is missing"):
        found.words({"ids": given["ids"]})


def signal(net: Net) -> dict[str, str]:
    """Patches of a series, cut by Reshape."""
    x = net.op("Reshape", net.input("x", [1, 40]), net.ints(1, 5, 8))
    return {"y": net.head(blocks(net, net.linear(x, 8, DIM)), pool="mean")}


def test_a_series_is_cut_into_patches_on_the_host(tmp_path):
    path, given = saved(tmp_path, signal), {"x": noise(40)}
    found = Planned(path, given)
    assert found.imported.model.tasks[0].inputs == {"reshape_0.out": (5, 8)}
    assert alike(found.outputs(given)["y"], by_onnxruntime(path, given)["y"]) > 0.98


# ---------------------------------------------------------------- behind

def behind(kind: str, **attributes):
    def build(net: Net) -> dict[str, str]:
        return {"y": net.op(kind, plain(net)["y"], **attributes)}
    build.__name__ = kind
    return build


def l2(net: Net) -> dict[str, str]:
    y = plain(net)["y"]
    return {"y": net.op("Div", y, net.op("ReduceL2", y, net.ints(-1), keepdims=1))}


def small_head(net: Net) -> dict[str, str]:
    """Linear, activation, Linear on the mean: the first Linear is the engine's output."""
    token = net.mean(blocks(net, net.embed(net.image())), axis=1, keepdims=0)
    return {"y": net.linear(net.act(net.linear(token, DIM, HIDDEN)), HIDDEN, CLASSES)}


@pytest.mark.parametrize("build", [behind("Softmax", axis=-1), behind("LogSoftmax", axis=-1), behind("Sigmoid"), behind("Tanh"), l2, small_head],
                         ids=lambda build: build.__name__)
def test_what_stands_behind_the_engine(tmp_path, build):
    """Its outputs are those of the file; the words of the engine are those of the network that ends in front of the cut."""
    path, given = saved(tmp_path, build), {"x": noise(1, IMAGE, IMAGE)}
    planned = Planned(path, given)
    found, wanted = planned.outputs(given), by_onnxruntime(path, given)
    assert list(found) == ["y"] and found["y"].dtype == np.float32 and found["y"].shape == wanted["y"].shape
    assert alike(found["y"], wanted["y"]) > 0.98
    if build is not small_head:
        assert planned.program == Planned(saved(tmp_path, plain, "plain"), given).program


def test_a_class_is_a_whole_number_and_counts_as_one(tmp_path):
    def build(net):
        return {"c": net.op("ArgMax", plain(net)["y"], axis=-1, keepdims=0)}
    path, given = saved(tmp_path, build, shape=("batch",), kind=TensorProto.INT64), {"x": noise(1, IMAGE, IMAGE, count=40)}
    found, wanted = Planned(path, given).outputs(given)["c"], by_onnxruntime(path, given)["c"]
    assert found.dtype == np.int64 and found.shape == wanted.shape and (found == wanted).mean() > 0.9
    assert accuracy({"c": found}, {"c": wanted}) == {"c": (found == wanted).mean()}


def test_two_outputs_one_of_them_behind(tmp_path):
    """Logits leave as they are, and are read by the host, too."""
    def build(net):
        y = plain(net)["y"]
        return {"logits": y, "p": net.op("Softmax", y, axis=-1)}
    given = {"x": noise(1, IMAGE, IMAGE)}
    found = Planned(saved(tmp_path, build), given).outputs(given)
    assert list(found) == ["logits", "p"]
    e = np.exp(found["logits"] - found["logits"].max(-1, keepdims=True))
    np.testing.assert_allclose(found["p"], e / e.sum(-1, keepdims=True), rtol=1e-5)


def both(net: Net) -> dict[str, str]:
    return {"y": net.op("Softmax", channels_last(net)["y"], axis=-1)}


def test_every_engine_and_the_commands(tmp_path):
    """RTL and C++ in simulation give what the integer model gives, between the same two parts; check, simulate and report name them."""
    path = saved(tmp_path, both)
    checked = hwgen.check(path)
    assert hosted(checked) == {"host/prefix.onnx": ["transpose_0"], "host/suffix.onnx": ["softmax_2", "out_y"]}
    status = {verdict.node: verdict for verdict in checked.verdicts}
    assert status["transpose_0"].status is Status.HOST and status["transpose_0"].into == "host/prefix.onnx"
    assert status["conv_0"].status is Status.SUPPORTED and Status.UNSUPPORTED not in {verdict.status for verdict in checked.verdicts}
    assert len(checked.verdicts) == len(onnx.load(path).graph.node)
    given = {"x": noise(IMAGE, IMAGE, 1, count=2)}
    acc = built(path, tmp_path / "build", given, backend="both")
    runs = {engine: acc.simulate(given, engine=engine) for engine in ("golden", "verilator", "csim")}
    assert runs["verilator"].bit_exact and runs["csim"].bit_exact
    for engine in ("verilator", "csim"):
        np.testing.assert_array_equal(runs[engine].outputs["y"], runs["golden"].outputs["y"])
    np.testing.assert_allclose(runs["golden"].outputs["y"].sum(-1), 1, rtol=1e-5)
    assert acc.first_differences(given) == []
    np.savez(tmp_path / "x.npz", **given, y=np.array([0, 1]))
    with pytest.raises(SystemExit) as end:
        cli.main(["simulate", str(tmp_path / "build"), "--input", str(tmp_path / "x.npz"), "--engine", "golden", "--json", str(tmp_path / "s.json"),
                  "--output", str(tmp_path / "y.npz")])
    assert not end.value.code and "accuracy" in json.loads((tmp_path / "s.json").read_text())
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], runs["golden"].outputs["y"])
    with pytest.raises(SystemExit) as end:
        cli.main(["check", str(path), "--json", str(tmp_path / "c.json")])
    data = json.loads((tmp_path / "c.json").read_text())
    assert not end.value.code and data["counts"]["host"] == 3
    assert data["host"] == acc.report()["host"] == json.loads((tmp_path / "build" / "report.json").read_text())["host"]
    assert "prefix.onnx" in (tmp_path / "build" / "host" / "README.md").read_text()


# ---------------------------------------------------------------- what is not left to the host

def large_head(net: Net) -> dict[str, str]:
    token = net.mean(blocks(net, net.embed(net.image())), axis=1, keepdims=0)
    hidden = net.act(net.linear(token, DIM, HIDDEN))
    return {"y": net.linear(net.act(net.linear(hidden, HIDDEN, 400)), 400, CLASSES)}


def test_more_than_a_share_needs_the_option(tmp_path):
    """The message says how much it is, where, and how to allow it; two attentions allow 5 %, one 25 %."""
    path = saved(tmp_path, large_head)
    checked = hwgen.check(path)
    assert not checked.ok and checked.host is None
    hint = checked.error.hint
    assert "the host can run 7 nodes behind ('gelu_2', " in hint and "more than 5 % is left to it only with --allow-host (allow_host=True)" in hint
    with pytest.raises(ModelError) as error:
        hwgen.compile(path, out=tmp_path / "build")
    assert str(error.value) == str(checked.error) and not (tmp_path / "build").exists()
    allowed = hwgen.check(path, allow_host=True)
    assert allowed.ok and 0.35 < allowed.host["share"] < 0.36
    with pytest.raises(SystemExit) as end:
        cli.main(["check", str(path), "--allow-host"])
    assert not end.value.code

    def one_block(net):
        token = net.mean(blocks(net, net.embed(net.image()), 1), axis=1, keepdims=0)
        return {"y": net.linear(net.act(net.linear(token, DIM, 80)), 80, 12)}
    checked = hwgen.check(saved(tmp_path, one_block, "one"))
    assert checked.ok and 0.05 < checked.host["share"] < 0.25, checked.error


def test_what_is_in_the_middle_is_refused_as_before(tmp_path):
    def build(net):
        t = net.embed(net.image())
        for _ in range(2):
            t = net.add(t, net.attention(net.norm(t)))
            t = net.add(t, net.linear(net.op("Sin", net.norm(t)), DIM, DIM))
        return {"y": net.head(net.norm(t))}
    checked = hwgen.check(saved(tmp_path, build))
    assert not checked.ok and checked.error.message.startswith("Sin node 'sin_0' is not supported")
    assert "is left to it only with --allow-host" in checked.error.hint


def test_control_flow_is_not_cut(tmp_path):
    """An If behind the heads, its branches reading a value from outside."""
    def build(net):
        y = plain(net)["y"]
        branches = [helper.make_graph([helper.make_node(kind, [y], [f"{kind}.y"])], kind, [], [helper.make_tensor_value_info(
            f"{kind}.y", TensorProto.FLOAT, [1, CLASSES])]) for kind in ("Abs", "Neg")]
        large = net.op("Greater", net.op("ReduceSum", y, keepdims=0), net.const(0.0))
        return {"y": net.op("If", large, name="branch", then_branch=branches[0], else_branch=branches[1])}
    checked = hwgen.check(saved(tmp_path, build))
    assert not checked.ok and "If node 'branch' would be cut off with it, and control flow is not cut" in checked.error.hint


def test_chance_is_not_left_to_the_host(tmp_path):
    def build(net):
        return {"y": net.op("Dropout", plain(net)["y"], net.const(0.5), net.const(True, bool))}
    checked = hwgen.check(saved(tmp_path, build))
    assert not checked.ok and "depends on chance" in checked.error.message


def test_a_part_in_front_that_gives_no_number_is_named(tmp_path):
    def build(net):
        return {"y": net.head(blocks(net, net.embed(net.op("Log", net.image()))))}
    path = saved(tmp_path, build)
    with pytest.raises(CalibrationError, match="the part in front of the engine gives nan in 'log_0.out' for image 0 of the calibration input"):
        hwgen.compile(path, calib={"x": noise(1, IMAGE, IMAGE)}, out=tmp_path / "build")
    assert not (tmp_path / "build").exists()


def test_tasks_share_a_part_behind(tmp_path):
    """Two trunks, each with a Softmax on the host: one task alone gives its own output."""
    def build(net):
        t = net.embed(net.image())
        a = net.add(t, net.moe(net.norm(t), gate=net.random(DIM, EXPERTS)))
        b = net.add(t, net.mlp(net.norm(t)))
        return {"a": net.op("Softmax", net.head(net.norm(a)), axis=-1), "b": net.op("Softmax", net.head(net.norm(b)), axis=-1)}
    path, given = saved(tmp_path, build), {"x": noise(1, IMAGE, IMAGE)}
    planned = Planned(path, given)
    first, second = ({output.name for output in network.outputs} for network in planned.plan.quantized.tasks)
    real = {name: noise(CLASSES) for name in first}
    assert list(hostrun.after(planned.imported.host, real)) == ["a"] and first != second
    assert {name: array.shape for name, array in planned.outputs(given).items()} == {"a": (IMAGES, CLASSES), "b": (IMAGES, CLASSES)}


@pytest.fixture(scope="module")
def planned_both(tmp_path_factory):
    return Planned(saved(tmp_path_factory.mktemp("facts"), both), {"x": noise(IMAGE, IMAGE, 1)})


def _without(key):
    return lambda facts: facts.pop(key)


def _with(**changes):
    return lambda facts: facts.update(changes)


@pytest.mark.parametrize(("change", "said"), [
    (_without("suffix"), "host.suffix is missing"), (_without("prefix"), "host.prefix is missing"), (_with(macs=-1), "host.macs is not"),
    (_with(inputs=[]), "host.inputs is not a list"), (lambda facts: facts["inputs"][0].update(dtype="object"), "host.inputs.dtype is none of"),
    (lambda facts: facts["inputs"][0].update(shape=[0]), "host.inputs.shape is not"), (lambda facts: facts["inputs"].append(facts["inputs"][0]), "twice"),
    (lambda facts: facts["outputs"][0].update(needs=["nothing"]), "host.outputs are not made"),
    (lambda facts: facts["prefix"]["outputs"][0].update(shape=[3, 3, 3]), "host.prefix does not give the input"),
    (lambda facts: facts["suffix"]["inputs"][0].update(name="other"), "host.suffix reads what is no output"),
    (lambda facts: facts["suffix"].update(nodes="all"), "host.suffix.nodes is not a list")])
def test_a_manifest_may_hold_anything(planned_both, change, said):
    """Facts of host parts come back as they were; anything else is refused before it is used."""
    found, model, inputs = planned_both.imported.host, planned_both.plan.quantized, planned_both.imported.model.tasks[0].inputs
    parts = {name: part.content for name, part in found.parts.items()}
    facts = json.loads(json.dumps(hostfacts.record(found)))
    assert hostfacts.read(facts, parts, inputs, model) == found
    change(facts)
    with pytest.raises(ValueError, match=said):
        hostfacts.read(facts, parts, inputs, model)


def test_a_part_that_is_no_model_is_one_message(tmp_path):
    part = Part(b"no model", (Value("x", "float32", (2,)),), (Value("y", "float32", (2,)),), ("n",), 0, 2)
    with pytest.raises(ModelError, match="the host's part of the network does not run: ") as error:
        hostrun.run_part(part, "host/prefix.onnx", {"x": noise(2)})
    assert error.value.where == "host/prefix.onnx"


def test_a_value_without_a_batch_goes_over_to_the_host(tmp_path):
    """[classes, 1], as a network has it whose tokens stand in front of the batch: it leaves as [1, classes, 1], and the part puts it back."""
    def build(net):
        y = net.op("Transpose", plain(net)["y"], perm=[1, 0])
        return {"y": net.op("Transpose", net.op("Softmax", y, axis=0), perm=[1, 0])}
    path, given = saved(tmp_path, build), {"x": noise(1, IMAGE, IMAGE)}
    planned = Planned(path, given)
    assert alike(planned.outputs(given)["y"], by_onnxruntime(path, given)["y"]) > 0.98
