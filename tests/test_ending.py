"""How commands end: signals, closed pipes, full disks, poor terminals, and faults of hwgen itself. One message, nothing left behind."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
import uuid

import numpy as np
import pytest

from hwgen import api, build as builds, cli, ending
from hwgen.commands import terminal
from hwgen.errors import HwgenError, OutputError, ToolError
from hwgen.output import OutputDir, work_folder, write_file
from hwgen.tools import process
import onnx_nets

ROOT = Path(__file__).resolve().parent.parent
SMALL = 2000             # bytes a process may write into one file: less than any build needs


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a blank in its name: model.onnx, calib.npz, and build (HLS only), made by the command line."""
    folder = tmp_path_factory.mktemp("a place")
    net = onnx_nets.vit()
    net.save(folder / "model.onnx", {"y": onnx_nets.result(net)})
    shape = [d.dim_value for d in net.inputs[0].type.tensor_type.shape.dim][1:]
    np.savez(folder / "calib.npz", **{net.inputs[0].name: np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)})
    done = hwgen("compile", folder / "model.onnx", "--calib", folder / "calib.npz", "--backend", "hls", "-o", folder / "build")
    assert done.returncode == 0, done.stderr
    return folder


def start(*args, env: dict | None = None, **options) -> subprocess.Popen:
    path = os.pathsep.join([str(ROOT), str(ROOT / "rtl"), str(ROOT / "sim")])
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    env = {**os.environ, "PYTHONPATH": path, **(env or {})}
    return subprocess.Popen([sys.executable, "-m", "hwgen", *map(os.fspath, args)], env=env, **options)


def hwgen(*args, **options) -> subprocess.CompletedProcess:
    with start(*args, **options) as child:
        out, err = (None if data is None else data.decode() for data in child.communicate(timeout=300))
    assert "Traceback" not in (err or "") and "Exception ignored" not in (err or ""), err
    return subprocess.CompletedProcess(args, child.returncode, out, err)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below, and every folder (with a slash)."""
    return {f"{path.relative_to(folder)}{'/' * path.is_dir()}": path.read_bytes() if path.is_file() else b""
            for path in sorted(folder.rglob("*"))}


# ---------------------------------------------------------------- standard output

def test_a_dash_is_standard_output_and_people_read_standard_error(place, tmp_path):
    done = hwgen("report", place / "build", "--json", "-")
    assert done.returncode == 0 and json.loads(done.stdout) == json.loads((place / "build" / "report.json").read_text())
    assert "estimate" in done.stderr
    with (tmp_path / "y").open("wb") as out:
        done = hwgen("simulate", place / "build", "--input", place / "calib.npz", "--engine", "golden", "--output", "/dev/stdout",
                     stdout=out)
    with np.load(tmp_path / "y") as arrays:
        assert done.returncode == 0 and arrays["y"].shape == (4, onnx_nets.CLASSES)
    done = hwgen("report", place / "build", "--json", "-", "--html", "-")
    assert done.returncode == 2 and "only one result can go to standard output" in done.stderr and done.stdout == ""
    assert hwgen("report", place / "build", "--html", "-").stdout.startswith("<!doctype html>")


@pytest.mark.parametrize("args", [("report", "--html", "page.html", "--json", "page.json"), ("targets", "--json", "page.json"), ("--help",),
                                  ("targets", "--json", "-")], ids=" ".join)
def test_a_closed_pipe_is_quiet_and_files_are_whole(place, tmp_path, args):
    reader, writer = os.pipe()
    os.close(reader)
    args = [args[0], *([place / "build"] if args[0] == "report" else []), *(tmp_path / a if a.startswith("page") else a for a in args[1:])]
    done = hwgen(*args, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "") or "-" in args and done.returncode == 141
    for path in tmp_path.iterdir():
        assert path.read_text().endswith("</html>\n" if path.suffix == ".html" else "}\n")
    assert len(list(tmp_path.iterdir())) == sum(str(a).startswith(str(tmp_path)) for a in args)


@pytest.mark.parametrize("args", [("targets",), ("targets", "--json", "-")], ids=" ".join)
def test_a_full_standard_output_is_one_message(tmp_path, args):
    with (tmp_path / "out").open("wb") as out:
        done = hwgen(*args, stdout=out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert done.returncode == 2 and "error: cannot write: File too large\n  at:   standard output\n" in done.stderr


def test_a_closed_standard_output(tmp_path):
    done = hwgen("targets", "--json", tmp_path / "t.json", stdout=None, preexec_fn=lambda: os.close(1))
    assert done.returncode == 0 and json.loads((tmp_path / "t.json").read_text())["targets"]
    done = hwgen("targets", "--json", "-", stdout=None, preexec_fn=lambda: os.close(1))
    assert done.returncode == 2 and done.stderr.startswith("error: cannot write: it is closed\n  at:   standard output\n")


@pytest.mark.parametrize("env", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"},
                                 {"PYTHONIOENCODING": "latin-1"}], ids=str)
def test_a_terminal_without_unicode(place, tmp_path, env):
    for args in (("report", place / "build"), ("check", place / "model.onnx"), ("targets",), ("compile", place / "none \udcff é.onnx"),
                 ("compile", place / "model.onnx", "--calib", place / "calib.npz", "--backend", "hls", "-o", tmp_path / "b")):
        with start(*args, env=env) as child:
            out, err = child.communicate(timeout=300)
        assert child.returncode == (2 if "none" in str(args[-1]) else 0), err
        assert b"Traceback" not in err and (out + err).decode("ascii" if env.get("PYTHONIOENCODING") != "latin-1" else "latin-1")
    ours, theirs = files(tmp_path / "b"), files(place / "build")
    assert ours == theirs


def test_names_that_are_no_text(tmp_path):
    done = hwgen("check", tmp_path / "\udcff\x1b[2J.onnx")
    assert done.returncode == 2 and "(U+DCFF)(U+001B)[2J.onnx" in done.stderr and "\x1b" not in done.stderr


def test_help_is_no_error():
    for args in ((), ("-h",), ("--help",)):
        done = hwgen(*args)
        assert done.returncode == 0 and "Exit codes" in done.stdout and done.stderr == ""
    assert hwgen("compile", "-h").returncode == 0


# ---------------------------------------------------------------- faults of hwgen

FAULT_FOLDER = ending.fault_folder          # conftest.py puts another in its place


@pytest.fixture
def broken(monkeypatch, capsys, tmp_path):
    """broken(error) -> (exit code, message) of a command in which it happens; the cache is tmp_path/cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ending, "fault_folder", FAULT_FOLDER)
    monkeypatch.setattr(ending.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def run(error: BaseException):
        def fail():
            raise error
        monkeypatch.setattr(terminal, "api", fail)
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", "b"])
        captured = capsys.readouterr()
        assert captured.out == ""
        return stop.value.code, captured.err
    return run


def test_a_fault_is_one_message_and_a_log(broken, tmp_path):
    code, message = broken(ValueError("math \x1b domain\nerror"))
    [log] = (tmp_path / "cache" / "hwgen" / "faults").iterdir()
    assert code == 4 and message == (f"error: hwgen has a fault: ValueError: math (U+001B) domain error\n  at:   {log}\n"
                                     "  next: please report it, with this file\n")
    text = log.read_text()
    assert "Traceback" in text and "raise error" in text and "numpy 2" in text and f"Python {sys.version}" in text and "command: " in text


def test_a_fault_where_the_cache_cannot_be_written(broken, tmp_path):
    (tmp_path / "cache").write_text("a file")
    code, message = broken(KeyError("x"))
    [log] = (tmp_path / "temporary").iterdir()
    assert code == 4 and f"at:   {log}\n" in message and "Traceback" in log.read_text()
    child = "from hwgen import ending; print(ending.fault(KeyError('x')), flush=True)"
    done = subprocess.run([sys.executable, "-c", child], env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")},
                          capture_output=True, text=True, check=True)
    [second] = {*(tmp_path / "temporary").iterdir()} - {log}
    assert f"at:   {second}\n" in done.stdout and "KeyError" in second.read_text(), "it is there after the end of the process"
    log.unlink()
    second.unlink()
    (tmp_path / "temporary").rmdir()
    (tmp_path / "temporary").write_text("a file")
    code, message = broken(KeyError("x"))
    assert code == 4 and "hwgen has a fault: KeyError: 'x'" in message and "no log could be written" in message


@pytest.mark.parametrize("error, text", [
    (MemoryError(), "not enough memory"), (OSError(28, "No space left on device"), "the system refuses: No space left on device"),
    (PermissionError(13, "Permission denied", "/a/b"), "the system refuses: Permission denied\n  at:   /a/b")])
def test_what_the_system_refuses_is_no_fault(broken, tmp_path, error, text):
    code, message = broken(error)
    assert code == 2 and message.startswith(f"error: {text}\n") and "  next: " in message and not (tmp_path / "cache").exists()


def test_a_missing_file_that_hwgen_should_have_is_a_fault(broken):
    assert broken(FileNotFoundError(2, "No such file or directory", "x"))[0] == 4


# ---------------------------------------------------------------- signals

def of(mark: str) -> list[str]:
    """Command lines of the processes that have ``mark`` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            pass
    return found


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("stubborn", [False, True], ids=["", "ignores SIGTERM"])
def test_a_signal_ends_the_compiler_too(place, tmp_path, number, code, stubborn):
    """The compiler here is one that leaves a file in its temporary folder and has a child, as g++ has."""
    (tmp_path / "tmp").mkdir()
    compiler = tmp_path / "slow-c++"
    compiler.write_text(f"#!/bin/sh\n{'trap : TERM' if stubborn else ''}\nsleep 1000 &\n"
                        f"touch $TMPDIR/cc1.s {tmp_path}/started\nwait\nwait\nsleep 1000\n")
    compiler.chmod(0o755)
    mark = f"HWGEN_TEST={uuid.uuid4()}"
    name, value = mark.split("=")
    build = tmp_path / "build"
    subprocess.run(["cp", "-r", place / "build", build], check=True)
    with start("simulate", build, "--input", place / "calib.npz", "--engine", "csim",
               env={"CXX": str(compiler), "TMPDIR": str(tmp_path / "tmp"), "XDG_CACHE_HOME": str(tmp_path / "cache"), name: value}) as child:
        limit = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        assert any("sleep 1000" in line for line in of(mark)) and any((tmp_path / "tmp").rglob("cc1.s"))
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert child.returncode == code and b"Traceback" not in err and b"error" not in err
    assert of(mark) == [] and list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_a_signal_leaves_no_half_build(tmp_path, earlier):
    before = {}
    if earlier:
        with OutputDir(tmp_path / "b") as out:
            out.write("a", "1")
        before = files(tmp_path)
    with pytest.raises(SystemExit) as stop, ending.stopping(), OutputDir(tmp_path / "b") as out:
        out.write("a", "2")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert stop.value.code == 143 and files(tmp_path) == before and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_a_parent_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)            # as nohup does
    try:
        with ending.stopping():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_children_of_other_threads_are_stopped_even_when_late():
    children, errors = process.Children(), []

    def work():
        try:
            process.run(["sh", "-c", "sleep 1000 & wait"], children=children)
        except ToolError as error:
            errors.append(error)
    first, late = threading.Thread(target=work), threading.Thread(target=work)
    first.start()
    while not children._running:
        time.sleep(0.01)
    children.stop()
    late.start()
    for thread in (first, late):
        thread.join(20)
    assert len(errors) == 2 and children._running == set()


def test_a_command_that_takes_too_long_leaves_nothing():
    mark = f"HWGEN_TEST={uuid.uuid4()}"
    with pytest.raises(ToolError, match="took more than 0.5 seconds"):
        process.run(["sh", "-c", "sleep 1000 & wait"], timeout=0.5, env=dict([mark.split("=")]))
    assert of(mark) == []


# ---------------------------------------------------------------- full disks

def test_a_path_with_a_blank(place, tmp_path):
    (tmp_path / "a b").mkdir()
    done = hwgen("simulate", place / "build", "--input", place / "calib.npz", "--images", "1", "--engine", "csim",
                 "--json", tmp_path / "a b" / "r.json", env={"TMPDIR": str(tmp_path / "a b")})
    assert done.returncode == 0 and json.loads((tmp_path / "a b" / "r.json").read_text())["bit_exact"] is True, done.stderr


@pytest.mark.parametrize("backend", ["hls", "rtl"])
def test_no_room_for_a_build(place, tmp_path, backend):
    (tmp_path / "tmp").mkdir()
    done = hwgen("compile", place / "model.onnx", "--calib", place / "calib.npz", "--backend", backend, "--array", "8x8",
                 "-o", tmp_path / "b", env={"TMPDIR": str(tmp_path / "tmp")},
                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL)))
    assert done.returncode in (2, 3) and done.stdout == "" and "error: " in done.stderr and files(tmp_path) == {"tmp/": b""}


class Disk:
    """Fails at the n-th time something is opened for writing, written, made or renamed, with "no space left"."""

    def __init__(self, monkeypatch, fail_at: int):
        self.calls, self.fail_at = 0, fail_at
        opened = io.open

        def open_(file, mode="r", *args, **options):
            if not set("wax+") & set(mode):
                return opened(file, mode, *args, **options)
            self.step()
            result = opened(file, mode, *args, **options)
            try:
                self.step()                 # the content
            except OSError:
                result.close()
                raise
            return result
        monkeypatch.setattr(io, "open", open_)
        monkeypatch.setattr("builtins.open", open_)
        calls = {name: getattr(os, name) for name in ("mkdir", "rename", "replace", "chmod", "utime")}
        for name, call in calls.items():
            def wrapped(path, *args, _call=call, **options):
                if _call.__name__ != "mkdir" or not os.path.exists(path):       # one that exists takes no room
                    self.step()
                return _call(path, *args, **options)
            monkeypatch.setattr(os, name, wrapped)

    def step(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(28, "No space left on device")


def until_it_works(monkeypatch, work, state) -> int:
    """Runs ``work`` with the first call failing, then the second, ...; ``state`` must not change until it succeeds. Number of failures."""
    before = state()
    for n in range(1, 1000):
        with monkeypatch.context() as patch:
            disk = Disk(patch, n)
            try:
                work()
            except HwgenError as error:
                assert isinstance(error, OutputError) and "No space left on device" in str(error) and error.exit_code == 2
            else:
                if disk.calls < n:
                    return n - 1
        if disk.calls >= n:
            assert state() == before, f"after a failure at call {n}"
    raise AssertionError("never succeeds")


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over an earlier build"])
def test_a_build_is_written_whole_or_not_at_all(place, tmp_path, monkeypatch, earlier):
    kept = []
    monkeypatch.setattr(builds, "write", lambda *args, **options: kept.append((args, options)))
    monkeypatch.setattr(builds, "load", lambda path: builds.Build(path, None, None, {}, "", 0, 0, {}, {}, "", ()))
    with pytest.raises(AttributeError):
        api.compile(place / "model.onnx", calib=place / "calib.npz", backend="hls", out=tmp_path / "b")
    monkeypatch.undo()
    [((path, contents, *rest), options)] = kept
    few = dict(list(contents.items())[:6])
    if earlier:
        builds.write(path, {**few, "driver/gone.h": "1"}, *rest, **options)
        (path / "mine").write_text("foreign")
        (path / "sub").mkdir()
        (path / "sub" / "mine").write_text("foreign")
    assert until_it_works(monkeypatch, lambda: builds.write(path, few, *rest, **options), lambda: files(tmp_path)) > 20
    assert set(few) <= set(files(path)) and ("mine" in files(path)) == earlier and [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("before")
    (tmp_path / "link").symlink_to("x")
    assert until_it_works(monkeypatch, lambda: write_file(tmp_path / "link", "after"), lambda: files(tmp_path)) >= 3
    assert (tmp_path / "x").read_text() == "after" and (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_a_result_is_kept_whole_or_not_at_all(place, tmp_path, monkeypatch):
    subprocess.run(["cp", "-r", place / "build", tmp_path / "b"], check=True)
    acc = api.load(tmp_path / "b")
    result = acc.simulate({name: np.zeros((1, *shape), np.float32) for name, shape in acc.inputs.items()}, engine="golden")
    row = {"node": "a", "share": 1, "issue": 1, "wait_tile": 0, "wait_hazard": 0, "wait_output": 0, "useful_macs": 1, "cycles": 1}
    object.__setattr__(result, "per_instruction", [row])
    monkeypatch.setattr(builds.Build, "need_rtl", lambda self: SimpleNamespace(config=SimpleNamespace(macs_per_cycle=1)))
    assert until_it_works(monkeypatch, lambda: acc.keep(result), lambda: files(tmp_path)) >= 3


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="cannot write temporary files: No space left") as caught, work_folder("x") as folder:
        raise OSError(28, "No space left on device", str(folder))
    assert "TMPDIR" in caught.value.hint
    with pytest.raises(BrokenPipeError), work_folder("x"):
        raise BrokenPipeError
