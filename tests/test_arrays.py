"""Shapes, labels and files of arrays of the command line."""

from __future__ import annotations

import io
from pathlib import Path
import struct
import zipfile

import numpy as np
import pytest

from hwgen.arrays import accuracy, parse_shapes, read_npz
from hwgen.errors import CalibrationError, InputError
from hwgen.frontend import load_calibration


def test_shape_names_may_hold_equal_signs():
    assert parse_shapes(["a=b=2x3", "c=4"]) == {"a=b": (2, 3), "c": (4,)}
    assert parse_shapes([]) is None


def test_accuracy_takes_only_labels():
    outputs = {"a": np.eye(3, dtype=np.float32)[:, None], "b": np.ones((3, 2), np.float32)}
    labels = {"a": np.array([0, 1, 0]), "b": np.ones((3, 2)), "c": np.array([1, 2, 3])}
    assert accuracy(outputs, labels) == {"a": pytest.approx(2 / 3)}
    assert accuracy(outputs, {"a": np.array([0, 1])}) == {}


# ---------------------------------------------------------------- files that may hold anything

GOOD = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy(array=GOOD) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str) -> bytes:
    data = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(data)) + data


def shape(text: str) -> bytes:
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {text}, }}")


def archive(path: Path, content: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", content)
    return path.read_bytes()


def both(data: bytes, place: int, value: int) -> bytes:
    """A 16-bit field of the local header, and the same of the central one, changed."""
    changed = bytearray(data)
    for at in (place, changed.index(b"PK\x01\x02") + place + 2):
        changed[at:at + 2] = struct.pack("<H", value)
    return bytes(changed)


BAD = {
    "encrypted": lambda path: both(archive(path, npy()), 6, 1),
    "unknown compression": lambda path: both(archive(path, npy()), 8, 97),
    "broken header": lambda path: archive(path, header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, ")),
    "header that is no Python": lambda path: archive(path, header("{'descr': ")),
    "header nested deeply": lambda path: archive(path, header("(" * 9000)),
    "shape of 10^12": lambda path: archive(path, shape("(1000000000000,)")),
    "shape of 10^40": lambda path: archive(path, shape(f"({10**40},)")),
    "negative shape": lambda path: archive(path, shape("(-1, -6)") + npy()[-24:]),
    "unknown type": lambda path: archive(path, header("{'descr': '<q9', 'fortran_order': False, 'shape': (1,), }")),
    "type that is a number": lambda path: archive(path, header("{'descr': 7, 'fortran_order': False, 'shape': (1,), }")),
    "version 9": lambda path: archive(path, b"\x93NUMPY\x09\x00" + npy()[8:]),
    "cut off array": lambda path: archive(path, npy()[:-4]),
    "no array": lambda path: archive(path, b"text"),
    "nothing in a member": lambda path: archive(path, b""),
    "pickle": lambda path: archive(path, npy(np.array([{}], object))),
    "wrong checksum": lambda path: archive(path, npy()).replace(npy()[-4:], b"abcd", 1),
    "deflated nonsense": lambda path: both(archive(path, npy()), 8, zipfile.ZIP_DEFLATED),
    "bzip2 nonsense": lambda path: both(archive(path, npy()), 8, zipfile.ZIP_BZIP2),
    "lzma nonsense": lambda path: both(archive(path, npy()), 8, zipfile.ZIP_LZMA),
    "one array": lambda path: npy(),
    "nothing": lambda path: b"",
    "text": lambda path: b"text",
    "cut off file": lambda path: archive(path, npy())[:-30],
}


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("kind", BAD)
def test_a_file_of_arrays_that_is_none(tmp_path, kind):
    """The same for both readers: one message with the file and a next step."""
    path = tmp_path / "x.npz"
    path.write_bytes(BAD[kind](path))
    for read, error in ((lambda: read_npz(path, "the input", InputError), InputError), (lambda: load_calibration(path), CalibrationError)):
        with pytest.raises(error, match="cannot be read as .npz") as caught:
            read()
        assert caught.value.where == str(path) and "numpy.savez" in caught.value.hint and "\n" not in caught.value.message


@pytest.mark.parametrize("array", [GOOD, GOOD.T, np.asfortranarray(GOOD), np.float64(3), np.zeros((0, 3)), np.array(["a", "bc"]), GOOD > 2])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, array, save):
    save(tmp_path / "x.npz", x=array, **{"a/b": GOOD})
    found = read_npz(tmp_path / "x.npz", "the input", InputError)
    assert list(found) == ["x", "a/b"] and found["x"].dtype == array.dtype and np.array_equal(found["x"], array)


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="the input cannot be read as .npz: (Is a directory|No such file)"):
            read_npz(path, "the input", InputError)


@pytest.mark.parametrize("calib", [7, [GOOD], GOOD])
def test_calibration_images_that_are_neither_file_nor_dict(calib):
    with pytest.raises(CalibrationError, match=f"given as {type(calib).__name__}") as caught:
        load_calibration(calib)
    assert "path of an .npz" in caught.value.hint
