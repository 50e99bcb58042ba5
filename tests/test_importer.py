"""The importer on whole networks: every spelling gives the same graph, and that computes what onnxruntime does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
import onnxruntime
import pytest

from hwgen import ops
from hwgen.errors import ShapeError
from hwgen.functions import Act
from hwgen.graph import Graph, evaluate
from hwgen.importer import Status, check_model, import_model
from hwgen.quantizer import quantize
from onnx_nets import CLASSES, DIM, EXPERTS, HEADS, IMAGE, TOKENS, Net, result, vit

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"
MAX_ERROR = 1e-4                       # float golden model against onnxruntime, the only tolerance

SPELLINGS = {
    "slice": {},
    "split": {"split": "split"},
    "gather": {"split": "gather"},
    "chunk": {"split": "chunk"},
    "separate": {"split": "separate"},
    "scale on q and k": {"scale": "halves"},
    "nan guard": {"guard": True},
    "attention operator": {"opset": 23, "scale": "operator"},
    "attention operator, separate": {"opset": 23, "scale": "operator", "split": "separate"},
    "opset 17, erf": {"opset": 17, "act": "erf"},
    "opset 14": {"opset": 14, "norm": True, "act": "erf"},
    "half first": {"act": "half first"},
    "tanh gelu, pow": {"act": "tanh pow"},
    "tanh gelu, mul": {"act": "tanh mul"},
    "tanh gelu operator": {"act": "Gelu tanh"},
    "silu": {"act": "silu"},
    "quick gelu": {"act": "quick gelu"},
    "relu": {"act": "Relu"},
    "layer scale": {"layer_scale": True},
    "mean": {"pool": "mean"},
    "mean of patches": {"pool": "mean of patches"},
    "moe": {"router": "plain"},
    "moe, renormalized": {"router": "renormalized"},
    "moe, softmax last": {"router": "softmax last"},
    "moe, tokens first": {"router": "plain", "combine": "tokens first"},
    "moe, erf": {"router": "plain", "act": "erf"},
    "moe, quick gelu": {"router": "renormalized", "act": "quick gelu"},
}


def images(count: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 1, IMAGE, IMAGE)).astype(np.float32)


def reference(path, feed: dict[str, np.ndarray], output: str) -> np.ndarray:
    """onnxruntime on one image at a time; inputs of the feed without a batch go in as they are."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    count = len(feed["x"])
    return np.concatenate([session.run([output], {**feed, "x": feed["x"][i:i + 1]})[0] for i in range(count)])


def arrays(graph: Graph) -> set[int]:
    return {id(value) for node in graph.nodes for key in node.__dataclass_fields__
            if isinstance(value := getattr(node, key), np.ndarray)}


def kinds(graph: Graph) -> Counter:
    return Counter(type(node).__name__ for node in graph.nodes)


@pytest.mark.parametrize("options", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_imports_exactly(options, tmp_path):
    net = vit(**options)
    path = net.save(tmp_path / "net.onnx", {"y": result(net)})
    imported = import_model(path)
    (graph,) = imported.model.tasks
    x = images()
    assert np.abs(evaluate.run(graph, {"x": x})["y"] - reference(path, {"x": x}, "y")).max() <= MAX_ERROR
    assert graph.output_shapes == {"y": (1, CLASSES)}
    found = kinds(graph)
    moe = "router" in options
    expected = {"PatchEmbed": 1, "ConcatTokens": 1, "AddConst": 1, "LayerNorm": 3, "Attention": 1, "Add": 2,
                "Linear": 5 if moe else 7, "MoE": int(moe), "Activation": int(not moe),
                "Mean" if "pool" in options else "Select": 1}
    assert found == {kind: count for kind, count in expected.items() if count}
    attention = next(node for node in graph.nodes if isinstance(node, ops.Attention))
    assert attention.num_heads == HEADS and attention.scale == pytest.approx((DIM // HEADS) ** -0.5, rel=1e-6)
    assert {verdict.status for verdict in imported.verdicts} <= {Status.SUPPORTED, Status.FUSED, Status.FOLDED}


@pytest.mark.parametrize("options", [{}, {"opset": 14, "norm": True, "act": "erf"}, {"layer_scale": True},
                                     {"router": "renormalized"}, {"pool": "mean of patches"}], ids=str)
def test_the_quantizer_takes_what_the_importer_gives(options, tmp_path):
    net = vit(**options)
    imported = import_model(net.save(tmp_path / "net.onnx", {"y": result(net)}))
    (graph,) = quantize(imported.model, {"x": images(32)}).tasks
    assert [output.name for output in graph.outputs] == ["y"]


def test_the_router_keeps_what_the_network_says(tmp_path):
    for router, renormalize in (("plain", False), ("renormalized", True), ("softmax last", True)):
        net = vit(router=router)
        (graph,) = import_model(net.save(tmp_path / "net.onnx", {"y": result(net)})).model.tasks
        moe = next(node for node in graph.nodes if isinstance(node, ops.MoE))
        assert (moe.top_k, moe.num_experts, moe.renormalize, moe.act) == (2, EXPERTS, renormalize, Act.GELU)


def test_import_is_deterministic_and_names_the_file(tmp_path):
    net = vit()
    path = net.save(tmp_path / "net.onnx", {"y": result(net)})
    first, second = import_model(path), import_model(str(path))
    assert first.path == second.path == path
    assert first.digest == second.digest and len(first.digest) == 64
    assert first.verdicts == second.verdicts
    for a, b in zip(first.model.tasks[0].nodes, second.model.tasks[0].nodes, strict=True):
        assert (type(a), a.name, a.output, a.inputs) == (type(b), b.name, b.output, b.inputs)


def test_external_weights_count_in_the_digest(tmp_path):
    net = vit()
    model = net.model({"y": result(net)})
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="a.bin", size_threshold=0)
    first = import_model(tmp_path / "a.onnx")
    x = images()
    inside = import_model(net.save(tmp_path / "b.onnx", {"y": result(net)}))
    for imported in (first, inside):
        np.testing.assert_array_equal(evaluate.run(imported.model.tasks[0], {"x": x})["y"],
                                      evaluate.run(first.model.tasks[0], {"x": x})["y"])
    data = bytearray((tmp_path / "a.bin").read_bytes())
    data[3] ^= 1                                    # one bit of the first weight's exponent
    (tmp_path / "a.bin").write_bytes(data)
    assert import_model(tmp_path / "a.onnx").digest != first.digest


def test_verdicts_name_every_node_once_and_say_what_became_of_it(tmp_path):
    net = vit(split="split", act="erf")
    path = net.save(tmp_path / "net.onnx", {"y": result(net)})
    checked = check_model(path)
    assert checked.ok and checked.error is None and checked.model is not None
    names = [node.name for node in onnx.load(path).graph.node]
    assert [verdict.node for verdict in checked.verdicts] == names
    found = {verdict.node: (verdict.op, verdict.status, verdict.into) for verdict in checked.verdicts}
    assert found["conv_0"] == ("Conv", Status.SUPPORTED, "PatchEmbed")
    assert found["concat_0"] == ("Concat", Status.SUPPORTED, "ConcatTokens")
    assert found["layernormalization_0"] == ("LayerNormalization", Status.SUPPORTED, "LayerNorm")
    assert found["matmul_0"] == ("MatMul", Status.FUSED, "add_1")          # qkv and its bias
    assert found["add_1"] == ("Add", Status.SUPPORTED, "Linear")
    assert found["split_0"] == ("Split", Status.FUSED, "matmul_2")
    assert found["softmax_0"] == ("Softmax", Status.FUSED, "matmul_2")
    assert found["matmul_2"] == ("MatMul", Status.SUPPORTED, "Attention")
    assert found["erf_0"] == ("Erf", Status.FUSED, "mul_0")
    assert found["mul_0"] == ("Mul", Status.SUPPORTED, "Activation")
    assert found["gather_0"] == ("Gather", Status.SUPPORTED, "Select")
    assert found["gemm_0"] == ("Gemm", Status.SUPPORTED, "Linear")


def test_constants_and_unused_nodes_are_folded(tmp_path):
    net = Net()
    t = net.embed(net.image())
    weight = net.op("Transpose", net.random(DIM, DIM), perm=[1, 0], name="transpose_weight")
    y = net.op("MatMul", net.norm(t), net.op("Identity", weight, name="again"))
    twin = net.op("MatMul", net.nodes[-3].output[0], weight, name="twin")
    net.op("Relu", twin, name="unused")
    y = net.add(t, net.add(net.add(net.op("Dropout", y, name="dropout"), twin), net.const(np.zeros(DIM))))
    net.head(net.norm(y))
    checked = check_model(net.save(tmp_path / "net.onnx", {"y": result(net)}))
    assert checked.ok
    found = {verdict.node: (verdict.status, verdict.reason) for verdict in checked.verdicts}
    assert found["transpose_weight"] == found["again"] == (Status.FOLDED, "constant")
    assert found["twin"] == (Status.FOLDED, "computes the same as node 'matmul_0'")
    assert found["unused"] == (Status.FOLDED, "its result is not used")
    assert found["dropout"] == (Status.FUSED, "")


# ---------------------------------------------------------------- shapes

def test_a_symbolic_batch_is_taken_when_given(tmp_path):
    net = vit(batch="N")
    path = net.save(tmp_path / "net.onnx", {"y": result(net)}, ("N", CLASSES))
    (graph,) = import_model(path, {"x": (1, 1, IMAGE, IMAGE)}).model.tasks
    assert graph.inputs == {"x": (1, IMAGE, IMAGE)} and graph.output_shapes == {"y": (1, CLASSES)}
    x = images()
    assert np.abs(evaluate.run(graph, {"x": x})["y"] - reference(path, {"x": x}, "y")).max() <= MAX_ERROR
    with pytest.raises(ShapeError):
        import_model(path)


def test_a_sequence_input_of_symbolic_length(tmp_path):
    net = Net()
    t = net.linear(net.input("tokens", [1, "T", 12]), 12, DIM)
    t = net.add(t, net.attention(net.norm(t)))
    net.head(net.norm(t))
    path = net.save(tmp_path / "net.onnx", {"y": result(net)})
    (graph,) = import_model(path, {"tokens": (1, 7, 12)}).model.tasks
    assert graph.inputs == {"tokens": (7, 12)} and kinds(graph)["Attention"] == 1


# ---------------------------------------------------------------- tasks

def two_tasks(spelling: str) -> Net:
    """Two routers, shared experts and trunk. spelling: outputs (a pass for each) | heads (one trunk) | input (Gather)."""
    net = Net()
    x = net.image()
    task = net.input("task", [], TensorProto.INT64) if spelling == "input" else None
    t = net.embed(x)
    experts = net.experts()
    n = net.norm(t)
    if spelling == "input":
        gates = net.random(2, DIM, EXPERTS, scale=1.0)
        gate = net.op("Squeeze", net.op("Gather", gates, net.op("Reshape", task, net.ints(1)), axis=0), net.ints(0))
        results = [net.norm(net.add(t, net.moe(n, experts=experts, gate=gate)))] * 2
    elif spelling == "heads":
        results = [net.norm(net.add(t, net.moe(n, experts=experts)))] * 2
    else:
        gamma = net.random(DIM), net.random(DIM)
        results = [net.op("LayerNormalization", net.add(t, net.moe(n, experts=experts)), *gamma) for _ in range(2)]
    net.outputs = {name: net.head(r, classes) for name, r, classes in zip(("digit", "parity"), results, (10, 2), strict=True)}
    return net


def test_outputs_with_routers_of_their_own_are_tasks_that_share_weights(tmp_path):
    net = two_tasks("outputs")
    path = net.save(tmp_path / "net.onnx", net.outputs)
    first, second = import_model(path).model.tasks
    assert [(g.name, list(g.outputs), g.output_shapes) for g in (first, second)] == [
        ("digit", ["digit"], {"digit": (1, 10)}), ("parity", ["parity"], {"parity": (1, 2)})]
    only = arrays(first) - arrays(second)
    assert len(only) == 3                           # the gate, the head's weight and bias; the gate's bias of zeros is shared
    for key in ("w1", "b1", "w2", "b2"):
        a, b = (getattr(next(n for n in g.nodes if isinstance(n, ops.MoE)), key) for g in (first, second))
        assert a is b
    x = images()
    for graph in (first, second):
        (name,) = graph.outputs
        assert np.abs(evaluate.run(graph, {"x": x})[name] - reference(path, {"x": x}, name)).max() <= MAX_ERROR


def test_equal_weights_stored_twice_are_one_array(tmp_path):
    net = two_tasks("outputs")
    copies = [t for t in net.weights if list(t.dims) == [EXPERTS, DIM, net.weights[5].dims[2]]]
    assert copies
    moes = [node for node in net.nodes if node.op_type == "MatMul" and node.input[1] == copies[0].name]
    assert len(moes) == 2
    moes[1].input[1] = net.const(onnx.numpy_helper.to_array(copies[0]))
    first, second = import_model(net.save(tmp_path / "net.onnx", net.outputs)).model.tasks
    a, b = (next(n for n in g.nodes if isinstance(n, ops.MoE)) for g in (first, second))
    assert a.w1 is b.w1


def test_heads_of_one_trunk_are_one_task(tmp_path):
    net = two_tasks("heads")
    path = net.save(tmp_path / "net.onnx", net.outputs)
    (graph,) = import_model(path).model.tasks
    assert graph.name == "digit+parity" and list(graph.outputs) == ["digit", "parity"]
    x = images()
    y = evaluate.run(graph, {"x": x})
    for name in graph.outputs:
        assert np.abs(y[name] - reference(path, {"x": x}, name)).max() <= MAX_ERROR


def test_an_integer_input_selects_the_task(tmp_path):
    net = two_tasks("input")
    path = net.save(tmp_path / "net.onnx", net.outputs)
    imported = import_model(path)
    assert [graph.name for graph in imported.model.tasks] == ["task0", "task1"]
    x = images()
    results = []
    for task, graph in enumerate(imported.model.tasks):
        assert list(graph.inputs) == ["x"] and list(graph.outputs) == ["digit", "parity"]
        y = evaluate.run(graph, {"x": x})
        results.append(y["digit"])
        for name in graph.outputs:
            want = reference(path, {"x": x, "task": np.array(task, np.int64)}, name)
            assert np.abs(y[name] - want).max() <= MAX_ERROR
    assert np.abs(results[0] - results[1]).max() > 10 * MAX_ERROR
    first, second = imported.model.tasks
    assert len(arrays(first) - arrays(second)) == 1                          # only the gate differs
    statuses = {verdict.node: verdict.status for verdict in imported.verdicts}
    assert set(statuses.values()) <= {Status.SUPPORTED, Status.FUSED, Status.FOLDED}


# ---------------------------------------------------------------- the bundled example

needs_example = pytest.mark.skipif(not (EXAMPLE / "model.onnx").exists(), reason="run examples/m3vit_digits/train.py first")


@needs_example
@pytest.mark.parametrize("file", ["model.onnx", "model_task_input.onnx"])
def test_the_example_imports_exactly(file):
    path = EXAMPLE / file
    imported = import_model(path)
    with np.load(EXAMPLE / "test.npz") as data:
        x, labels = data["x"][:100], {name: data[name][:100] for name in ("digit", "parity")}
    assert len(imported.model.tasks) == 2
    for task, graph in enumerate(imported.model.tasks):
        assert kinds(graph)["MoE"] == 2 and not any(n.renormalize for n in graph.nodes if isinstance(n, ops.MoE))
        y = evaluate.run(graph, {"x": x})
        extra = {"task": np.array(task, np.int64)} if file == "model_task_input.onnx" else {}
        for name in graph.outputs:
            assert np.abs(y[name] - reference(path, {"x": x, **extra}, name)).max() <= MAX_ERROR
        own = ("digit", "parity")[task]
        assert (y[own].argmax(1) == labels[own]).mean() > 0.95


@needs_example
def test_the_tasks_of_the_example_share_all_but_gates_and_heads():
    first, second = import_model(EXAMPLE / "model.onnx").model.tasks
    assert (first.name, second.name) == ("digit", "parity")
    assert len(arrays(first) - arrays(second)) == 2 + 2
    assert first.shapes()["x"] == (1, 8, 8) and (TOKENS, DIM) != (17, 64)


@needs_example
def test_both_spellings_of_the_example_hold_the_same_weights():
    def digests(file):
        return sorted({array.tobytes() for graph in import_model(EXAMPLE / file).model.tasks for node in graph.nodes
                       for key in node.__dataclass_fields__ if isinstance(array := getattr(node, key), np.ndarray)})
    assert digests("model.onnx") == digests("model_task_input.onnx")
