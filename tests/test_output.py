"""The output directory: whole or not at all, never over somebody else's files, unchanged files keep their time."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import socket
import stat
import threading
import time
import tty

import numpy as np
import pytest

from hwgen import __version__, output
from hwgen.errors import OutputError
from hwgen.output import MANIFEST, OutputDir, write_file, write_json

FILES = {"rtl/top.v": "module top;", "weights.bin": b"\x00\x01"}


def build(path, files=None, **extra):
    with OutputDir(path) as out:
        for name, content in (FILES if files is None else files).items():
            out.write(name, content)
        out.manifest(**extra)


def read_manifest(path: Path) -> dict:
    return json.loads((path / MANIFEST).read_text())


def tree(path: Path) -> dict[str, bytes]:
    """Every file below ``path``; directories that are empty appear as None."""
    return {p.relative_to(path).as_posix(): p.read_bytes() if p.is_file() else None
            for p in sorted(path.rglob("*")) if p.is_file() or not any(p.iterdir())}


def test_writes_files_and_manifest(tmp_path):
    build(tmp_path / "a" / "b", tasks=2)
    manifest = read_manifest(tmp_path / "a" / "b")
    assert (manifest["generator"], manifest["version"], manifest["tasks"]) == ("hwgen", __version__, 2)
    assert set(manifest["files"]) == {"rtl/top.v", "weights.bin"}
    assert (tmp_path / "a/b/rtl/top.v").read_text() == "module top;"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_files_written_by_path_are_in_the_manifest(tmp_path):
    with OutputDir(tmp_path / "b") as out:
        out.path("x/model.npz").write_bytes(b"123")
    assert "x/model.npz" in read_manifest(tmp_path / "b")["files"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_is_left_after_an_exception(tmp_path, error):
    with pytest.raises(error), OutputDir(tmp_path / "b") as out:
        out.write("x", "half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_earlier_build_alone(tmp_path):
    build(tmp_path / "b")
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt), OutputDir(tmp_path / "b") as out:
        out.write("rtl/top.v", "half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == before


def test_a_failing_swap_restores_the_earlier_build(tmp_path, monkeypatch):
    build(tmp_path / "b")
    before = tree(tmp_path)
    rename = Path.rename

    def broken(self, target):
        if self.suffix == ".part":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OutputError, match="No space left on device"):
        build(tmp_path / "b", {"new": "1"})
    assert tree(tmp_path) == before


def test_unchanged_files_keep_their_time_and_foreign_files_stay(tmp_path):
    target = tmp_path / "b"
    build(target, {"same": "1", "changed": "1", "gone": "1"})
    for name in ("same", "changed"):
        os.utime(target / name, (1000, 1000))
    (target / "obj").mkdir()
    (target / "obj/top.o").write_bytes(b"object")
    build(target, {"same": "1", "changed": "2"})
    assert (target / "same").stat().st_mtime == 1000
    assert (target / "changed").stat().st_mtime > 1000
    assert tree(target).keys() == {"same", "changed", "obj/top.o", "manifest.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_foreign_file_gives_way_to_a_new_one(tmp_path):
    build(tmp_path / "b", {"one": "1"})
    (tmp_path / "b/two").write_text("foreign")
    (tmp_path / "b/dir").write_text("foreign")
    build(tmp_path / "b", {"two": "2", "dir/x": "3"})
    assert tree(tmp_path / "b").keys() == {"two", "dir/x", "manifest.json"}
    assert (tmp_path / "b/two").read_text() == "2"


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "b").mkdir()
    build(tmp_path / "b")
    assert read_manifest(tmp_path / "b")


@pytest.mark.parametrize("name, content", [("notes.txt", "mine"), ("manifest.json", "{}"), ("manifest.json", "["),
                                           ("manifest.json", '{"generator": "other", "files": {}}')])
def test_refuses_a_directory_with_something_else(tmp_path, name, content):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_text(content)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="already holds something that is not a hwgen build") as error:
        build(tmp_path / "b")
    assert str(tmp_path / "b") in str(error.value) and "next:" in str(error.value)
    assert tree(tmp_path) == before


def test_refuses_a_file(tmp_path):
    (tmp_path / "b").write_text("mine")
    with pytest.raises(OutputError, match="the output directory is a file"):
        build(tmp_path / "b")
    with pytest.raises(OutputError, match="is a file, so no directory can be made in it"):
        build(tmp_path / "b" / "c" / "d")
    assert tree(tmp_path) == {"b": b"mine"}


def test_refuses_what_is_not_writable(tmp_path, monkeypatch):
    """Root may write everywhere, so the answer of the system is replaced."""
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(output.os, "access", lambda path, mode: Path(path) != tmp_path / "locked")
    with pytest.raises(OutputError, match="locked is not writable"):
        build(tmp_path / "locked" / "x" / "y")
    assert tree(tmp_path) == {"locked": None}


def test_an_error_of_the_system_is_reported():
    with pytest.raises(OutputError, match="cannot write"):
        build("/proc/hwgen-test/build")


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "manifest.json"])
def test_only_names_inside(tmp_path, name):
    with pytest.raises(ValueError, match="not the name of a file inside"), OutputDir(tmp_path / "b") as out:
        out.write(name, "x")
    assert list(tmp_path.iterdir()) == []


def test_manifest_keys_are_protected(tmp_path):
    with pytest.raises(ValueError, match="'files' is written by OutputDir"), OutputDir(tmp_path / "b") as out:
        out.manifest(files={})


def test_json_knows_paths_and_numpy(tmp_path):
    write_json(tmp_path / "x.json", {"p": Path("a/b"), "i": np.int64(3), "f": np.float32(0.5), "a": np.arange(2), "b": np.bool_(True)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"p": "a/b", "i": 3, "f": 0.5, "a": [0, 1], "b": True}
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        write_json(tmp_path / "x.json", {"p": object()})


def test_single_files_are_replaced_in_one_step(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    write_json(tmp_path / "x.json", {"a": [2]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [2]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [2]}
    with pytest.raises(OutputError, match="cannot write: No such file or directory"):
        write_file(tmp_path / "no" / "x", b"1")
    with pytest.raises(OutputError, match="cannot write"):
        write_file(tmp_path, b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


# ---------------------------------------------------------------- links, devices, pipes

def test_a_link_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("before")
    (tmp_path / "folder" / "x").chmod(0o600)
    (tmp_path / "link").symlink_to("folder/x")
    (tmp_path / "second").symlink_to(tmp_path / "link")
    (tmp_path / "new").symlink_to("folder/new")
    write_json(tmp_path / "second", 1)
    write_file(tmp_path / "new", "2")
    assert tree(tmp_path / "folder") == {"x": b"1\n", "new": b"2"} and (tmp_path / "folder" / "x").stat().st_mode & 0o777 == 0o600
    assert all((tmp_path / name).is_symlink() for name in ("link", "second", "new"))
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OutputError, match="cannot write"):
        write_file(tmp_path / "round", "3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "new", "round", "second"]


def test_a_named_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        found: list[bytes] = []
        reader = threading.Thread(target=lambda found=found: found.append((tmp_path / "pipe").read_bytes()))
        reader.start()
        write_file(tmp_path / name, b"x" * 100_000)
        reader.join()
        assert found == [b"x" * 100_000] and (tmp_path / "pipe").is_fifo()


@pytest.fixture
def terminal():
    """(path of a device that takes everything, what it took so far): a terminal of the test's own, which root cannot harm either."""
    master, slave = os.openpty()
    tty.setraw(slave)
    taken = bytearray()

    def read():
        while chunk := os.read(master, 1 << 16):
            taken.extend(chunk.removesuffix(b"\x04"))
            if chunk.endswith(b"\x04"):
                return
    reader = threading.Thread(target=read)
    reader.start()
    yield Path(os.ttyname(slave)), taken
    os.write(slave, b"\x04")                 # raw: a byte like any other
    reader.join()
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize("linked", [False, True])
def test_a_device_stays_a_device(terminal, tmp_path, linked):
    path, taken = terminal
    (tmp_path / "link").symlink_to(path)
    write_file(tmp_path / "link" if linked else path, "x" * 100_000)
    limit = time.monotonic() + 10
    while len(taken) < 100_000 and time.monotonic() < limit:
        time.sleep(0.01)
    assert bytes(taken) == b"x" * 100_000 and path.is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == ["link"] and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_and_takes_nothing_stays_what_it_is(tmp_path, linked):
    """A full device; for root, who could harm that of the system, a socket."""
    path, text = Path("/dev/full"), "No space left on device"
    if os.geteuid() == 0:
        path, text = tmp_path / "s", "No such device or address"
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(tmp_path):     # a socket's path must be short
            made.bind("s")
    kind = stat.S_IFMT(path.stat().st_mode)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OutputError, match=f"cannot write: {text}"):
        write_json(tmp_path / "link" if linked else path, {"a": 1})
    assert stat.S_IFMT(path.stat().st_mode) == kind and {path.name for path in tmp_path.iterdir()} <= {"s", "link"}


def test_a_dash_is_standard_output(capfdbinary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-", Path("-"), "/dev/stdout"):
        write_file(name, b"\x00\xff")
    assert capfdbinary.readouterr().out == b"\x00\xff" * 3 and list(tmp_path.iterdir()) == []
