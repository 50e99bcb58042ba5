"""Model file: round trip with sharing and dtypes, equal bytes for equal models, and a clear refusal of anything else."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from enum import Enum
import io
import json
import time
import zipfile

import numpy as np
import pytest

from hwgen.build import store
from hwgen.steps import golden
from hwgen.steps.format import Format
from hwgen.steps.param import Param
from hwgen.steps.step import Quantized
from hwgen.steps.tensor import Tensor
from hwgen.steps.walk import params, tensors
from qgraphs import random_images, random_model, random_qgraph

GRAPHS = {
    "dense": {"blocks": "d"},
    "two tasks": {"blocks": "dm", "classes": (10, 2)},
    "no class token": {"blocks": "m", "class_token": False, "pool": "mean", "tokens": 8, "renormalize": False},
}


@pytest.fixture(scope="module")
def two_tasks() -> Quantized:
    return random_qgraph(5, **GRAPHS["two tasks"])


def assert_equal(a, b, seen: dict, where="model"):
    """Same values, types and dtypes; and two places share a param or a tensor in ``b`` exactly if they do in ``a``."""
    assert type(a) is type(b), where
    if isinstance(a, (np.ndarray, Param, Tensor)):
        assert seen.setdefault(("a", id(a)), id(b)) == id(b), f"{where}: shared before, not after"
        assert seen.setdefault(("b", id(b)), id(a)) == id(a), f"{where}: shared after, not before"
    match a:
        case np.ndarray():
            assert (a.dtype, a.shape) == (b.dtype, b.shape), where
            np.testing.assert_array_equal(a, b)
        case tuple():
            assert len(a) == len(b), where
            for i, (x, y) in enumerate(zip(a, b, strict=False)):
                assert_equal(x, y, seen, f"{where}[{i}]")
        case dict():
            assert list(a) == list(b), where
            for key in a:
                assert_equal(a[key], b[key], seen, f"{where}[{key!r}]")
        case Enum():
            assert a is b, where
        case _ if is_dataclass(a):
            for field in fields(a):
                assert_equal(getattr(a, field.name), getattr(b, field.name), seen, f"{where}.{field.name}")
        case _:
            assert a == b, where


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_round_trip(name, seed):
    model = random_qgraph(seed, **GRAPHS[name])
    assert_equal(model, store.decode(store.encode(model)), {})


def test_loaded_model_computes_the_same(two_tasks):
    images = random_images(random_model(5, **GRAPHS["two tasks"]), 3)
    loaded = store.decode(store.encode(two_tasks))
    for before, after in zip(two_tasks.tasks, loaded.tasks, strict=True):
        expected, got = golden.run(before, images), golden.run(after, images)
        assert expected.keys() == got.keys()
        for key in expected:
            np.testing.assert_array_equal(got[key], expected[key])


def test_weights_of_two_tasks_are_stored_once(two_tasks):
    content = store.encode(two_tasks)
    first, second = ({step.name: step.tile.weight for step in network.steps if step.weights} for network in store.decode(content).tasks)
    own = {name for name in first if second.get(name) is not first[name]}
    assert own == {"block1.out.gate", "task0"} and sum("expert" in name for name in first) == 8
    one = store.encode(Quantized(two_tasks.tasks[:1], two_tasks.calibration))
    assert array_bytes(one) < array_bytes(content) < 1.15 * array_bytes(one)


def array_bytes(content: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return sum(info.file_size for info in archive.infolist() if info.filename != "model.npy")


def test_equal_models_give_equal_bytes(two_tasks):
    first = store.encode(two_tasks)
    time.sleep(2.1)                     # zip time stamps have a resolution of two seconds
    assert store.encode(random_qgraph(5, **GRAPHS["two tasks"])) == first
    assert store.encode(store.decode(first)) == first
    assert store.encode(random_qgraph(6, **GRAPHS["two tasks"])) != first


def test_numpy_opens_it_without_pickle(two_tasks):
    with np.load(io.BytesIO(store.encode(two_tasks)), allow_pickle=False) as file:
        header = json.loads(file["model"].tobytes())
        names = header["params"]
        assert len(file.files) == len(names) + 1 and len(set(names)) == len(names)
        assert {file[f"a{i}"].dtype.kind for i in range(len(names))} <= set("iuf")


# ---------------------------------------------------------------- refusals

def refused(content: bytes) -> str:
    with pytest.raises(store.Unreadable) as info:
        store.decode(content)
    return str(info.value)


def edited(model: Quantized, change) -> bytes:
    """The file of ``model`` with ``change`` applied to its members {name: bytes}; the CRCs are right again."""
    with zipfile.ZipFile(io.BytesIO(store.encode(model))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def edited_header(model: Quantized, change) -> bytes:
    def apply(members):
        header = json.loads(np.load(io.BytesIO(members["model.npy"])).tobytes())
        change(header)
        buffer = io.BytesIO()
        np.save(buffer, np.frombuffer(json.dumps(header).encode(), np.uint8))
        members["model.npy"] = buffer.getvalue()
    return edited(model, apply)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100)])
def test_foreign_bytes(content):
    assert "is damaged or not an hwgen model" in refused(content)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_foreign_npz():
    assert refused(npz(x=np.zeros(3))) == "is not an hwgen model"


def test_pickled_array_is_never_loaded():
    assert "model.npy is no array of numbers" in refused(npz(model=np.array([{"a": 1}], object)))


def test_truncated_file_and_flipped_bits(two_tasks):
    """Damage is refused wherever it is, unless it changes nothing that is read (a time stamp)."""
    good = store.encode(two_tasks)
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(good) - 1, 20):
        refused(good[:length])
    harmless = 0
    positions = [*range(60), *rng.integers(0, len(good), 300), *range(len(good) - 200, len(good))]
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        try:
            model = store.decode(bytes(bad))
        except store.Unreadable as error:
            assert str(error).startswith(("is ", "has "))
        else:
            assert store.encode(model) == good
            harmless += 1
    assert harmless < len(positions) // 3


def steps(header) -> list:
    return header["model"]["tasks"][0]["steps"]


@pytest.mark.parametrize("change, text", [
    (lambda h: h.update(version=1), "has format version 1, this hwgen reads 5"),
    (lambda h: h.update(format="other"), "is not an hwgen model"),
    (lambda h: h.pop("params"), "is damaged"),
    (lambda h: h.update(params=3), "no list of different names"),
    (lambda h: h["params"].__setitem__(1, h["params"][0]), "no list of different names"),
    (lambda h: h["params"].__setitem__(1, [1]), "no list of different names"),
    (lambda h: h["params"].__setitem__(1, "other"), "is not Param"),
    (lambda h: h["model"].update(calibration=3), "'3' is not str"),
    (lambda h: h["model"].update(extra=3), "is not Quantized"),
    (lambda h: h["model"].pop("calibration"), "is not Quantized"),
    (lambda h: h["model"].update(type="Span"), "is not Quantized"),
    (lambda h: h["model"].update(type="type"), "is not Quantized"),
    (lambda h: h["model"].update(tasks={}), "is not tuple"),
    (lambda h: h["model"]["tasks"][0].pop("tensors"), "is damaged"),
    (lambda h: h["model"]["tasks"][0]["tensors"].append(3), "'3' is not Tensor"),
    (lambda h: h["model"]["tasks"][0]["tensors"].append(h["model"]["tasks"][0]["tensors"][0]), "two tensors are called"),
    (lambda h: h["model"]["tasks"][0]["tensors"][0].update(format="s9"), "'s9' is not Format"),
    (lambda h: h["model"]["tasks"][0]["tensors"][0].update(format={"bits": 8}), "is not Format"),
    (lambda h: h["model"]["tasks"][0]["tensors"][0].update(memory="disk"), "'disk' is not a valid Memory"),
    (lambda h: h["model"]["tasks"][0]["tensors"][0].update(scale=True), "'True' is not float"),
    (lambda h: h["model"]["tasks"][0]["tensors"][0].update(tokens=1 << 70), "is not int"),
    (lambda h: h["model"]["tasks"][0]["tensors"][0].update(tokens=True), "'True' is not int"),
    (lambda h: steps(h).append(None), "'None' is not Step"),
    (lambda h: steps(h)[0].update(sinks=None), "'None' is not tuple"),
    (lambda h: steps(h)[0].update(source_view=3), "'3' is not View"),
    (lambda h: steps(h)[0]["sinks"][0].update(tensor="other"), "'other' is not Tensor"),
    (lambda h: steps(h)[0]["sinks"][0].update(tensor={"type": "Tensor"}), "is not Tensor"),
    (lambda h: steps(h)[0]["feed"].update(type="Route"), "is not Feed"),
    (lambda h: steps(h)[0]["feed"].update(type="Feed"), "is not Feed"),
    (lambda h: steps(h)[0]["feed"].update(type=[1]), "is damaged"),
    (lambda h: steps(h)[0]["feed"]["window"].update(kernel=[1, 2, 3]), "[1, 2, 3]"),
    (lambda h: steps(h)[2]["drain"][0].update(factor=None), "'None' is not Factor or Columns"),
    (lambda h: steps(h)[2]["drain"][0].update(factor={"type": "Span", "start": 0, "count": 1, "step": 1}), "is not Factor or Columns"),
    (lambda h: steps(h)[2]["tile"].update(weight=3), "'3' is not Param"),
])
def test_wrong_header(change, text, two_tasks):
    assert text in refused(edited_header(two_tasks, change))


def test_missing_and_additional_array(two_tasks):
    for change in (lambda m: m.pop("a3.npy"), lambda m: m.update({"extra.npy": m["a3.npy"]})):
        assert "is damaged: it should hold" in refused(edited(two_tasks, change))


def test_only_models_are_saved(two_tasks):
    with pytest.raises(TypeError, match="cannot hold set"):
        store.encode(replace(two_tasks, calibration={"data"}))


def changed(model: Quantized, change) -> Quantized:
    """The model with another second step in its first network."""
    first, *others = model.tasks
    return Quantized((replace(first, steps=(first.steps[0], change(first.steps[1]), *first.steps[2:])), *others), model.calibration)


def test_one_name_is_one_param_and_one_tensor(two_tasks):
    """What is found by name after reading would be something else than before."""
    first = two_tasks.tasks[0].steps
    used = next(params(first[2].tile))
    other = Param(used.name, np.zeros((9, 32), np.int16))
    with pytest.raises(ValueError, match=f"two params are called '{used.name}'"):
        store.encode(changed(two_tasks, lambda step: replace(step, feed=replace(step.feed, table=other))))
    residual = next(tensors(first[1].sinks))
    with pytest.raises(ValueError, match="two tensors are called 'residual'"):
        store.encode(changed(two_tasks, lambda step: replace(step, sinks=(replace(residual, scale=9.0).view(),))))
    with pytest.raises(ValueError, match="s9 is no format"):
        store.encode(changed(two_tasks, lambda step: replace(step, sinks=(replace(residual, format=Format(9)).view(),))))
