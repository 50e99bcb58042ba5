"""The comparison with the ONNX file itself: what it says of a right network, of a wrong one, and of files that cannot be run."""

from __future__ import annotations

from dataclasses import replace
import json
import os

import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

import hwgen
from hwgen import api, judge as judging, ops
from hwgen.errors import CalibrationError, MismatchError, ModelError, OutputError
from hwgen.graph import Model
from hwgen.importer import import_model
from hwgen.judge import judge
from hwgen.tools import reference
from hwgen.tools.reference import run_onnx
from onnx_nets import CLASSES, DIM, IMAGE, Net, result, vit
from test_host_parts import plain


def saved(tmp_path, net: Net, **changes):
    return import_model(net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, 5]))


def images(count: int = 6) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).normal(size=(count, 1, IMAGE, IMAGE)).astype(np.float32)}


def misread(imported, change):
    """The import with one node of its graph changed: what a wrong rule would make of the file."""
    graph = imported.model.tasks[0]
    nodes = tuple(change(node) if change(node) is not None else node for node in graph.nodes)
    return replace(imported, model=Model((replace(graph, nodes=nodes),)))


@pytest.mark.parametrize("options", [{}, {"router": "plain"}, {"opset": 14, "norm": True, "act": "erf"}, {"batch": "n"}])
def test_a_right_network(tmp_path, options):
    net = vit(**options)
    path = net.save(tmp_path / "net.onnx", {"y": result(net)})
    found = judge(import_model(path, {"x": (1, 1, IMAGE, IMAGE)} if "batch" in options else None), images())
    assert found.onnx_cosine > 0.9999999 and found.onnx_max_abs_error < 1e-5
    assert (found.images, found.images_set_apart, found.note) == (11, 0, None) and found.runtime.startswith("onnxruntime ")


def test_without_calibration_it_judges_on_noise(tmp_path):
    assert judge(saved(tmp_path, vit()), None).images == judging.NOISE_IMAGES + 3


def test_a_constant_calibration_set_hides_nothing(tmp_path):
    """All patches of a constant image are alike; the noise beside them tells the tokens apart."""
    imported = saved(tmp_path, vit(pool="mean of patches"))
    wrong = misread(imported, lambda node: replace(node, value=np.roll(node.value, 1, 0)) if isinstance(node, ops.AddConst) else None)
    with pytest.raises(MismatchError):
        judge(wrong, {"x": np.full((4, 1, IMAGE, IMAGE), 0.5, np.float32)})


def test_the_first_value_that_differs_is_named(tmp_path):
    imported = saved(tmp_path, vit())
    norms = [node for node in imported.model.tasks[0].nodes if isinstance(node, ops.LayerNorm)]
    wrong = misread(imported, lambda node: replace(node, gamma=node.gamma[::-1].copy()) if node is norms[1] else None)
    with pytest.raises(MismatchError) as error:
        judge(wrong, images())
    assert error.value.exit_code == 1 and repr(norms[1].output) in str(error.value) and repr(norms[1].name) in error.value.message
    assert "output 'y' has a cosine of" in error.value.message and str(imported.path) in error.value.where


def test_a_fault_under_a_large_constant_is_seen(tmp_path):
    """A head whose bias is 10,000 times what moves: cosine and relative error alone would pass it."""
    net = vit()
    y = net.op("Add", result(net), net.const(np.full((1, 5), 1e4)))
    imported = import_model(net.save(tmp_path / "net.onnx", {"y": y}, [1, 5]))
    assert judge(imported, images()).onnx_max_abs_error < 0.01
    head = imported.model.tasks[0].nodes[-1]
    wrong = misread(imported, lambda node: replace(node, weight=np.roll(node.weight, 1, 0)) if node is head else None)
    with pytest.raises(MismatchError):
        judge(wrong, images())


def test_one_channel_hides_nothing_of_the_others(tmp_path):
    """A "masked" class with a bias of -1e9, and the other classes of a wrong network."""
    net = vit()
    y = net.op("Add", result(net), net.const([[-1e9, 0, 0, 0, 0]]))
    imported = import_model(net.save(tmp_path / "net.onnx", {"y": y}, [1, 5]))
    judge(imported, images())
    norm = next(node for node in imported.model.tasks[0].nodes if isinstance(node, ops.LayerNorm))
    with pytest.raises(MismatchError):
        judge(misread(imported, lambda node: replace(node, gamma=node.gamma[::-1].copy()) if node is norm else None), images())


def test_what_a_tie_explains_is_set_apart(tmp_path, monkeypatch):
    imported = saved(tmp_path, vit(router="plain"))
    right = judging.evaluate.run

    def flipped(graph, inputs):
        outputs = {name: array.copy() for name, array in right(graph, inputs).items()}
        outputs["y"][2] += 1.0
        return outputs
    monkeypatch.setattr(judging.evaluate, "run", flipped)
    with pytest.raises(MismatchError):                               # no value in front of it differs
        judge(imported, images())
    monkeypatch.setattr(judging, "_tied", lambda *args: judging.TIED if args[-1] == 2 else "")
    found = judge(imported, images())
    assert (found.images, found.images_set_apart) == (10, 1) and found.onnx_cosine > 0.9999999
    monkeypatch.setattr(judging, "_tied", lambda *args: judging.TIED)
    monkeypatch.setattr(judging.evaluate, "run", lambda graph, inputs: {"y": -right(graph, inputs)["y"]})
    with pytest.raises(ModelError, match="on each of 11 images a router chooses between experts"):
        judge(imported, images())


def moe_of(imported) -> ops.MoE:
    (node,) = [node for node in imported.model.tasks[0].nodes if isinstance(node, ops.MoE)]
    return node


def test_a_tie_of_the_router_itself(tmp_path):
    """Two experts with one gate: the file takes the lower index, a network that is off by 1e-7 takes the other."""
    net = vit(router="plain")
    imported = saved(tmp_path, net)
    gate = np.repeat(moe_of(imported).gate[:, :1], 4, 1)
    name = next(w.name for w in net.weights if w.dims == [DIM, 4])
    next(w for w in net.weights if w.name == name).CopyFrom(onnx.numpy_helper.from_array(gate, name))
    imported = saved(tmp_path, net)
    assert judge(imported, images()).images_set_apart == 0           # all alike: both take the lowest indices
    node = moe_of(imported)
    other = misread(imported, lambda n: replace(n, gate_bias=np.float32([0, 1e-6, 2e-6, 0])) if n is node else None)
    with pytest.raises(ModelError, match="on each of 11 images a router chooses between experts"):
        judge(other, images())
    wrong = misread(imported, lambda n: replace(n, w1=-n.w1) if n is node else None)
    assert (node.margins(np.ones((3, DIM), np.float32)) == 0).all()
    with pytest.raises(ModelError):                                  # every token of it is tied: nothing can be said
        judge(wrong, images())


def test_a_tie_excuses_no_fault_in_front_of_it(tmp_path):
    net = vit(router="plain")
    name = next(w.name for w in net.weights if w.dims == [DIM, 4])
    next(w for w in net.weights if w.name == name).CopyFrom(onnx.numpy_helper.from_array(np.zeros((DIM, 4), np.float32), name))
    imported = saved(tmp_path, net)
    assert judge(imported, images()).images_set_apart == 0
    norm = next(node for node in imported.model.tasks[0].nodes if isinstance(node, ops.LayerNorm))
    with pytest.raises(MismatchError):
        judge(misread(imported, lambda node: replace(node, gamma=node.gamma[::-1].copy()) if node is norm else None), images())


def test_a_network_that_overflows_names_the_weight(tmp_path):
    net = vit()
    next(w for w in net.weights if w.name == "w0").CopyFrom(onnx.numpy_helper.from_array(np.full((DIM, 1, 4, 4), 2e38, np.float32), "w0"))
    with pytest.raises(ModelError) as error:
        judge(saved(tmp_path, net), None)
    assert "in 'conv_0.out', result of Conv node 'conv_0', whose weight 'w0' reaches 2e+38" in error.value.message
    assert error.value.exit_code == 2 and "for ordinary noise" in error.value.message


def test_a_calibration_image_on_which_the_file_gives_nan(tmp_path):
    some = images()
    some["x"][-1] = 3e38
    with pytest.raises(CalibrationError, match="the network itself gives .*, for a calibration image"):
        judge(saved(tmp_path, vit()), some)


# ---------------------------------------------------------------- the process that runs the file

def model_of(tmp_path, nodes, weights=(), shape=(1, 2), ir_version=10, opset=20):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None if name == "y" else shape) for name in "xy"]
    graph = helper.make_graph(nodes, "net", info[:1], info[1:], weights)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), path)
    return path


X = {"x": np.ones((1, 2), np.float32)}


def ints(name, *values):
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


def test_a_file_that_never_ends(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Add", ["v", "v"], ["w"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2])])
    count = onnx.numpy_helper.from_array(np.array(10**12), "count")
    path = model_of(tmp_path, [helper.make_node("Loop", ["count", "", "x"], ["y"], body=body)], [count])
    with pytest.raises(ModelError, match="it takes more than 1 CPU seconds"):
        run_onnx(path, X, None, cpu_seconds=1, more_bytes=0)


def test_a_file_that_eats_memory(tmp_path):
    path = model_of(tmp_path, [helper.make_node("Expand", ["x", "shape"], ["y"])], [ints("shape", 1 << 20, 1 << 12, 2)])
    with pytest.raises(ModelError, match="fails when it is run|memory"):
        run_onnx(path, X, None, cpu_seconds=20, more_bytes=0)


def test_a_file_that_fails_at_run_time(tmp_path):
    path = model_of(tmp_path, [helper.make_node("Gather", ["x", "place"], ["y"], axis=1)], [ints("place", 7)])
    with pytest.raises(ModelError, match="fails when it is run"):
        run_onnx(path, X, None, cpu_seconds=20, more_bytes=0)


def test_a_runtime_that_crashes_is_a_message(tmp_path, monkeypatch):
    script = tmp_path / "crash.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(reference, "SCRIPT", script)
    path = model_of(tmp_path, [helper.make_node("Identity", ["x"], ["y"])])
    with pytest.raises(ModelError, match="cannot be run to compare with it"):
        run_onnx(path, X, None, cpu_seconds=20, more_bytes=0)


def test_what_onnxruntime_cannot_open_the_reference_implementation_runs(tmp_path):
    path = model_of(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], ir_version=15)       # one more than it knows
    found = run_onnx(path, X, None, cpu_seconds=20, more_bytes=0)
    assert "reference implementation" in found.runtime and "onnxruntime cannot open the file" in found.note
    np.testing.assert_array_equal(found.outputs["y"][0], X["x"])


def test_neither_opens_it(tmp_path):
    path = model_of(tmp_path, [helper.make_node("Nonsense", ["x"], ["y"])])
    with pytest.raises(ModelError, match="can be opened neither by onnxruntime .* nor by onnx's reference implementation"):
        run_onnx(path, X, None, cpu_seconds=20, more_bytes=0)


@pytest.mark.parametrize("folder, name", [(b"a", b"net\xff.onnx"), (b"a\xfe", b"net.onnx"), (b"a\xfe", b"net\xff.onnx"), (b"a b", b"n\xc3\xa9t.onnx")],
                         ids=["name", "folder", "both", "neither"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "reference implementation"])
def test_a_path_that_is_not_utf8(tmp_path, folder, name, runtime):
    """The file is run with its external data, its values shown, and compiled; onnx reads no external data from such a folder, which is said."""
    place = tmp_path / os.fsdecode(folder)
    place.mkdir()
    net = vit()
    model = net.model({"y": result(net)}, [1, 5])
    if runtime != "onnxruntime":
        model.ir_version = 15                               # one more than onnxruntime knows
    onnx.save(model, tmp_path / "net.tmp", save_as_external_data=True, location="net.data", size_threshold=300)
    (tmp_path / "net.data").rename(place / "net.data")
    path = (tmp_path / "net.tmp").rename(place / os.fsdecode(name))
    x = {"x": images(1)["x"]}
    found = run_onnx(path, x, None, cpu_seconds=20, more_bytes=0)
    assert runtime in found.runtime and len(run_onnx(path, x, None, cpu_seconds=20, more_bytes=0, values=True).outputs) > 10
    if runtime == "onnxruntime":
        if b"\xfe" in folder:
            with pytest.raises(ModelError, match="in a folder whose name is no UTF-8") as caught:
                import_model(path)
            assert "rename the folder" in caught.value.hint
            net.save(path, {"y": result(net)}, [1, 5])
        hwgen.compile(path, out=tmp_path / "build", backend="hls")


@pytest.mark.parametrize("limit, text", [(100, "File too large"), (5_000, "No space left on device")])
def test_no_room_for_what_the_file_computes(tmp_path, monkeypatch, limit, text):
    """Here or in the process that runs it: the disk is full, not the model wrong."""
    script = tmp_path / "small_disk.py"
    script.write_text(f"import resource, runpy\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
                      f"runpy.run_path({str(reference.SCRIPT)!r}, run_name='__main__')\n")
    monkeypatch.setattr(reference, "SCRIPT", script)
    path = model_of(tmp_path, [helper.make_node("Identity", ["x"], ["y"])])
    if limit < 1000:
        def full(*_, **__):
            raise OSError(27, "File too large")
        monkeypatch.setattr(reference.np, "savez", full)
    with pytest.raises(OutputError, match=f"cannot write temporary files: {text}") as caught:
        run_onnx(path, {"x": np.zeros((2000, 2), np.float32)}, None, cpu_seconds=20, more_bytes=0)
    assert "TMPDIR" in caught.value.hint


# ---------------------------------------------------------------- the commands

def test_compile_stops_at_a_difference_and_writes_nothing(tmp_path, monkeypatch):
    imported = saved(tmp_path, vit())
    norm = next(node for node in imported.model.tasks[0].nodes if isinstance(node, ops.LayerNorm))
    wrong = misread(imported, lambda node: replace(node, gamma=-node.gamma) if node is norm else None)
    monkeypatch.setattr(api, "import_parts", lambda *_: wrong)
    with pytest.raises(MismatchError):
        hwgen.compile(tmp_path / "net.onnx", out=tmp_path / "build")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"]


def test_check_says_how_well_the_file_is_read(tmp_path):
    net = vit()
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, [1, 5])
    checked = hwgen.check(path)
    assert checked.ok and checked.onnx["onnx_cosine"] > 0.9999999 and json.dumps(checked.onnx)


def test_a_fused_sum_of_operands_of_other_shapes_is_named(tmp_path):
    """onnxruntime adds as many elements as the first has; by the shapes there are more."""
    net = Net()
    t = net.embed(net.image())
    y = net.linear(net.norm(t), DIM, DIM)
    y = net.op("Concat", y, net.op("Neg", y), axis=0)
    t = net.op("SkipLayerNormalization", t, y, net.random(DIM, offset=1.0), net.random(DIM), domain="com.microsoft", epsilon=1e-5)
    path = net.save(tmp_path / "net.onnx", {"y": net.head(t)}, [1, CLASSES])
    error = hwgen.check(path, allow_host=True).error
    assert isinstance(error, ModelError) and "elements when the file is run, and" in error.message and error.hint


def test_an_output_without_elements_is_named(tmp_path):
    net = Net()
    y = plain(net)["y"]
    nothing = net.op("Slice", net.op("Tanh", y), net.ints(0), net.ints(0), net.ints(1))
    model = net.model({"y": y, "nothing": nothing})
    for output, size in zip(model.graph.output, (CLASSES, 0), strict=True):
        output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [1, size]))
    onnx.save(model, tmp_path / "net.onnx")
    error = hwgen.check(tmp_path / "net.onnx", allow_host=True).error
    assert isinstance(error, ModelError) and error.hint and "'nothing' has no elements" in str(error)
