"""The bundled example model is what its README says: real data, two tasks, trained, each weight stored once."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.datasets import load_digits

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "m3vit_digits"
BOTH_TASKS = EXAMPLE / "model.onnx"
TASK_INPUT = EXAMPLE / "model_task_input.onnx"
FILES = [BOTH_TASKS, TASK_INPUT]
TASKS = ("digit", "parity")
NUM_EXPERTS, DIM, MOE_BLOCKS = 8, 64, (1, 3)

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
OUTPUTS = {"digit": (FLOAT, (1, 10)), "parity": (FLOAT, (1, 2))}
INPUTS = {
    BOTH_TASKS: {"x": (FLOAT, (1, 1, 8, 8))},
    TASK_INPUT: {"x": (FLOAT, (1, 1, 8, 8)), "task": (INT64, ())},
}

by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def interface(values) -> dict[str, tuple[int, tuple[int, ...]]]:
    """ONNX name -> (element type, shape); a symbolic dimension reads 0."""
    return {
        v.name: (v.type.tensor_type.elem_type, tuple(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values
    }


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    with np.load(EXAMPLE / "test.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def logits(data) -> dict[Path, dict[str, np.ndarray]]:
    """Per file and output, the float logits [500, classes]; the task-input file runs once per task."""
    result = {}
    for path in FILES:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        rows = defaultdict(list)
        for x in data["x"]:
            if path == BOTH_TASKS:
                for name, row in zip(TASKS, session.run(list(TASKS), {"x": x[None]}), strict=True):
                    rows[name].append(row[0])
            else:
                for task, name in enumerate(TASKS):
                    feed = {"x": x[None], "task": np.array(task, np.int64)}
                    rows[name].append(session.run([name], feed)[0][0])
        result[path] = {name: np.stack(row) for name, row in rows.items()}
    return result


@by_file
def test_interface_is_static_and_self_contained(path):
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert interface(model.graph.input) == INPUTS[path]
    assert interface(model.graph.output) == OUTPUTS
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer)
    assert path.stat().st_size < 2_000_000


@by_file
def test_each_weight_is_stored_once(path):
    """Compared as multisets, so that a transposed second copy of a weight counts as a copy."""
    names = defaultdict(list)
    for name, array in initializers(path).items():
        if array.size >= 32:
            names[np.sort(array, axis=None).tobytes()].append(name)
    assert [group for group in names.values() if len(group) > 1] == []
    assert len(names) > 40


def test_both_files_hold_the_same_number_of_weights():
    sizes = [sum(a.size for a in initializers(path).values() if a.dtype == np.float32) for path in FILES]
    assert sizes[0] == sizes[1]


def test_routers_differ_per_task_and_match_the_stacked_ones():
    both, stacked = initializers(BOTH_TASKS), initializers(TASK_INPUT)
    for block in MOE_BLOCKS:
        gates = [both[f"m3vit.blocks.{block}.mlp.gate.{task}.weight"] for task in range(len(TASKS))]
        assert all(gate.shape == (NUM_EXPERTS, DIM) for gate in gates)
        assert np.abs(gates[0] - gates[1]).mean() > 0.01
        np.testing.assert_array_equal(stacked[f"m3vit.blocks.{block}.mlp.gates"], [gate.T for gate in gates])


def test_moe_blocks_are_top_2_not_renormalised():
    graph = onnx.load(BOTH_TASKS).graph
    producer = {output: node for node in graph.node for output in node.output}
    scatters = [node for node in graph.node if node.op_type == "ScatterElements"]
    assert len(scatters) == len(MOE_BLOCKS) * len(TASKS)
    values = initializers(BOTH_TASKS)
    for scatter in scatters:
        top_k = producer[scatter.input[2]]
        assert top_k.op_type == "TopK", "the scores go into the combine as the softmax left them"
        assert values[top_k.input[1]].tolist() == [2]
        assert producer[top_k.input[0]].op_type == "Softmax"


def test_what_precedes_the_first_router_is_in_the_graph_once():
    """The first block's dense experts too: the tasks differ from the combination of their outputs on."""
    used = [name for node in onnx.load(BOTH_TASKS).graph.node for name in node.input]
    uses = {name: used.count(name) for name in initializers(BOTH_TASKS) if name.startswith("m3vit.blocks.")}
    assert {count for name, count in uses.items() if name.startswith("m3vit.blocks.0.")} == {1}
    assert uses["m3vit.blocks.1.mlp.w1"] == 1
    assert uses["m3vit.blocks.3.mlp.w1"] == len(TASKS)


@by_file
@pytest.mark.parametrize("task", TASKS)
def test_accuracy_on_held_back_images(path, task, logits, data):
    assert (logits[path][task].argmax(1) == data[task]).mean() > 0.97


@pytest.mark.parametrize("task", TASKS)
def test_the_two_spellings_agree(task, logits):
    assert np.abs(logits[BOTH_TASKS][task] - logits[TASK_INPUT][task]).max() <= 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_the_task_input_matters(task, data, logits):
    """The router of the other task changes this head's logits: the task is not a decoration."""
    session = onnxruntime.InferenceSession(TASK_INPUT, providers=["CPUExecutionProvider"])
    other = np.array(1 - TASKS.index(task), np.int64)
    rows = [session.run([task], {"x": x[None], "task": other})[0][0] for x in data["x"][:20]]
    assert np.abs(np.stack(rows) - logits[TASK_INPUT][task][:20]).max() > 0.1


def test_data_are_real_digits_and_disjoint(data):
    """Each image is one of scikit-learn's, with its label; calibration and test share none."""
    digits = load_digits()
    label = {(image / 16).astype(np.float32).tobytes(): int(t) for image, t in zip(digits.images, digits.target, strict=True)}
    assert len(label) == 1797
    with np.load(EXAMPLE / "calib.npz") as file:
        assert file.files == ["x"]
        calib = file["x"]
    assert (calib.shape, calib.dtype) == ((128, 1, 8, 8), np.float32)
    assert (data["x"].shape, data["x"].dtype) == ((500, 1, 8, 8), np.float32)
    assert [label[x.tobytes()] for x in data["x"]] == data["digit"].tolist()
    assert data["parity"].tolist() == (data["digit"] % 2).tolist()
    assert data["digit"].dtype == data["parity"].dtype == np.int64
    images = [x.tobytes() for x in (*data["x"], *calib)]
    assert set(images) <= set(label)
    assert len(set(images)) == 628
