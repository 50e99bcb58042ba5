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

from hwgen import store
from hwgen.golden import integer_model
from hwgen.qir import QMoE, QModel
from qgraphs import random_images, random_model, random_qgraph

GRAPHS = {
    "dense": dict(blocks="d"),
    "two tasks": dict(blocks="dm", classes=(10, 2)),
    "no class token": dict(blocks="m", class_token=False, pool="mean", tokens=8, renormalize=False),
}


@pytest.fixture(scope="module")
def two_tasks() -> QModel:
    return random_qgraph(5, **GRAPHS["two tasks"])


def assert_equal(a, b, seen: dict, where="model"):
    """Same values, types and dtypes; and two places share an object in ``b`` exactly if they do in ``a``."""
    assert type(a) is type(b), where
    if isinstance(a, np.ndarray) or (is_dataclass(a) and type(a).__name__ == "Weights"):
        assert seen.setdefault(("a", id(a)), id(b)) == id(b), f"{where}: shared before, not after"
        assert seen.setdefault(("b", id(b)), id(a)) == id(a), f"{where}: shared after, not before"
    match a:
        case np.ndarray():
            assert (a.dtype, a.shape) == (b.dtype, b.shape), where
            np.testing.assert_array_equal(a, b)
        case tuple():
            assert len(a) == len(b), where
            for i, (x, y) in enumerate(zip(a, b)):
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
        expected, got = integer_model.run(before, images), integer_model.run(after, images)
        assert expected.keys() == got.keys()
        for key in expected:
            np.testing.assert_array_equal(got[key], expected[key])


def test_weights_of_two_tasks_are_stored_once(two_tasks):
    content = store.encode(two_tasks)
    moes = [next(n for n in graph.nodes if isinstance(n, QMoE)) for graph in store.decode(content).tasks]
    assert all(a is b for a, b in zip(moes[0].first + moes[0].second, moes[1].first + moes[1].second))
    assert moes[0].gate is not moes[1].gate
    one = store.encode(QModel(two_tasks.tasks[:1], two_tasks.calibration))
    assert len(content) < 1.3 * len(one)


def test_equal_models_give_equal_bytes(two_tasks):
    first = store.encode(two_tasks)
    time.sleep(2.1)                     # zip time stamps have a resolution of two seconds
    assert store.encode(random_qgraph(5, **GRAPHS["two tasks"])) == first
    assert store.encode(store.decode(first)) == first
    assert store.encode(random_qgraph(6, **GRAPHS["two tasks"])) != first


def test_numpy_opens_it_without_pickle(two_tasks):
    with np.load(io.BytesIO(store.encode(two_tasks)), allow_pickle=False) as file:
        header = json.loads(file["model"].tobytes())
        assert len(file.files) == header["arrays"] + 1
        assert {file[f"a{i}"].dtype.kind for i in range(header["arrays"])} <= set("iuf")


# ---------------------------------------------------------------- refusals

def refused(content: bytes) -> str:
    with pytest.raises(store.Unreadable) as info:
        store.decode(content)
    return str(info.value)


def edited(model: QModel, change) -> bytes:
    """The file of ``model`` with ``change`` applied to its members {name: bytes}; the CRCs are right again."""
    with zipfile.ZipFile(io.BytesIO(store.encode(model))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def edited_header(model: QModel, change) -> bytes:
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
    positions = [*range(0, 60), *rng.integers(0, len(good), 300), *range(len(good) - 200, len(good))]
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


@pytest.mark.parametrize("change, text", [
    (lambda h: h.update(version=2), "has format version 2, this hwgen reads 1"),
    (lambda h: h.update(format="other"), "is not an hwgen model"),
    (lambda h: h.pop("arrays"), "is damaged"),
    (lambda h: h["model"].update(calibration=3), "'3' is not str"),
    (lambda h: h["model"].update(extra=3), "is not QModel"),
    (lambda h: h["model"].update(type="QNorm"), "is not QModel"),
    (lambda h: h["weights"][0]["weight"].update(array=9999), "entry 9999 of a table of"),
    (lambda h: h["weights"][0]["weight"].update(array=-1), "entry -1 of a table of"),
    (lambda h: h["weights"].clear(), "of a table of 0"),
    (lambda h: h["model"]["tasks"][0]["nodes"].append(None), "'None' is not QNode"),
    (lambda h: h["model"]["tasks"][0]["nodes"][0].update(patch=[1, 2, 3]), "[1, 2, 3]"),
    (lambda h: h["model"]["tasks"][0].update(residual_scale=True), "'True' is not float"),
])
def test_wrong_header(change, text, two_tasks):
    assert text in refused(edited_header(two_tasks, change))


def test_missing_and_additional_array(two_tasks):
    for change in (lambda m: m.pop("a3.npy"), lambda m: m.update({"extra.npy": m["a3.npy"]})):
        assert "is damaged: it should hold" in refused(edited(two_tasks, change))


def test_only_models_are_saved(two_tasks):
    with pytest.raises(TypeError, match="cannot hold set"):
        store.encode(replace(two_tasks, calibration={"data"}))
